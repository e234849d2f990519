"""ResNet-50's and MiniLM's layers as the accelerator takes them, with int8 weights at random, pruned at random.

Time depends on where zeros are and on nothing else of the weights. Of ResNet-50 the poolings are the vector unit's
and each block's sum is part of its last convolution; of MiniLM the products of weights are here, with the sums after
them, and what is left, attention's own products and normalisation, is the host's and not counted. The first and the
last layer of ResNet-50 stay dense.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from benchmarks.networks import LAYERS, NETWORKS
from hwsparse.accelerator import Accelerator, Product, Program, VectorWork, compile_layer, lay_out
from hwsparse.pattern import Dense
from hwsparse.plan import Choice, Layer
from hwsparse.sparsify import applicable, make_mask

# Layers whose outputs a residual is added to, by the end of their names.
_RESIDUAL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"resnet50": ("body.4.0",), "minilm": ("attention_output", ".output")}
)
_WORK: Mapping[str, tuple[VectorWork, ...]] = MappingProxyType(
    {
        "resnet50": (
            VectorWork("max pooling", 64 * 56 * 56, 9, 64 * 112 * 112),
            VectorWork("average pooling", 2048, 49, 2048 * 49),
        ),
        "minilm": (),
    }
)


@dataclass(frozen=True, slots=True)
class Shape:
    """A network's layers, which of them are pruned, and the work that has no weights."""

    name: str
    layers: tuple[Layer, ...]
    pruned: frozenset[str]
    work: tuple[VectorWork, ...]

    @classmethod
    def of(cls, name: str, batch: int = 1) -> Shape:
        """One of NETWORKS."""
        network = NETWORKS[name]
        layers = network.build(batch).layers
        pruned = frozenset(layer.name for layer in LAYERS[network.layers](layers))
        work = (
            replace(work, outputs=batch * work.outputs, input_elements=batch * work.input_elements)
            for work in _WORK[name]
        )
        return cls(name, layers, pruned, tuple(work))

    def adds(self, layer: Layer) -> bool:
        """Whether a residual is added to what a layer gives."""
        return layer.name.endswith(_RESIDUAL[self.name])


def draw_product(layer: Layer, choice: Choice, seed: int, *, residual_bytes: int = 0) -> Product:
    """A layer with weights at random that are never zero, of which the choice keeps some at random."""
    random = np.random.default_rng(seed)
    weight = random.integers(1, 128, layer.weight_shape, np.int8)
    mask = make_mask(random.random(layer.weight_shape, np.float32), choice)
    return lay_out(layer, weight, mask, choice.pattern, residual_bytes=residual_bytes)


def products(shape: Shape, choice: Choice, seed: int) -> Iterator[Product]:
    """Every layer of its own weights; those that are not pruned, or cannot be to the choice, are dense."""
    for number, layer in enumerate(shape.layers):
        fits = layer.name in shape.pruned and applicable(layer, choice.pattern) is None
        own = choice if fits else Choice(Dense(), dtype=choice.dtype)
        yield draw_product(layer, own, seed + number, residual_bytes=int(shape.adds(layer)))


def compiled(accelerator: Accelerator, layers: Iterable[Product]) -> list[Program]:
    """Programs; layers of which nothing differs but the weights' values are compiled each on its own."""
    return [compile_layer(accelerator, product) for product in layers]


def distinct_products(shapes: Sequence[Shape]) -> dict[tuple[int, int, int], Layer]:
    """Layers by (positions, outputs, inputs), each once."""
    found: dict[tuple[int, int, int], Layer] = {}
    for layer in (layer for shape in shapes for layer in shape.layers):
        found.setdefault(product_key(layer), layer)
    return found


def product_key(layer: Layer) -> tuple[int, int, int]:
    """Positions, outputs and inputs of a layer."""
    return layer.macs // (layer.outputs * layer.inputs), layer.outputs, layer.inputs
