"""The networks whose speed is measured: where they come from, what is fed to them, which layers are pruned.

What pruning does to their quality is no matter here: weights go by magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from hwsparse.codegen import random_inputs, refusal
from hwsparse.errors import InputError, PlanError
from hwsparse.model import Model
from hwsparse.pattern import parse_pattern
from hwsparse.plan import Choice, Layer, Plan
from hwsparse.sparsify import applicable

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Network:
    """`layers` is the key, in LAYERS, of what is pruned when nothing else is asked for."""

    build: Callable[[int], Model]  # takes the batch
    layers: str
    draw: Callable[[Model, int], Inputs]  # takes a seed


def sparse_choice(pattern: str, ratio: float, dtype: str = "float32") -> Choice:
    """A pattern with some zeros and some weights of a type.

    Raises:
        InputError: no such pattern, or not a ratio for it.
    """
    if not 0 < ratio < 1:
        raise InputError(f"sparsity is a share between 0 and 1, not {ratio:g}")
    return Choice(parse_pattern(pattern), ratio, dtype)


def plan_for(model: Model, layers: str, choice: Choice) -> Plan:
    """The plan that gives `choice` to those of the chosen layers that can have it; all others are dense, of its type.

    Raises:
        PlanError: none of them can.
    """
    fitting = [layer for layer in LAYERS[layers](model.layers) if applicable(layer, choice.pattern) is None]
    if not fitting:
        raise PlanError(f"of {model.name}'s layers ({layers}) none can be {choice}")
    sparse = {layer.name: choice for layer in fitting if refusal(layer, choice) is None}
    return Plan.of(model.digest, dict(dense_plan(model, choice.dtype).choices) | sparse)


def dense_plan(model: Model, dtype: str) -> Plan:
    """Every layer dense, of a type as far as there are kernels for it."""
    dense = Choice(dtype=dtype)
    return Plan.of(model.digest, {layer.name: dense for layer in model.layers if refusal(layer, dense) is None})


def distinct_layers(models: Sequence[Model]) -> list[Layer]:
    """One layer of every signature: layers that cost the same by construction are measured once."""
    return list({layer.signature: layer for model in models for layer in model.layers}.values())


def _every(layers: Sequence[Layer]) -> Sequence[Layer]:
    return layers


def _inner(layers: Sequence[Layer]) -> Sequence[Layer]:
    """Without the stem and the classifier, which hold few of a vision network's weights and much of its quality."""
    return layers[1:-1]


def _pointwise(layers: Sequence[Layer]) -> Sequence[Layer]:
    return [layer for layer in layers if layer.window is not None and set(layer.weight_shape[2:]) == {1}]


LAYERS: Mapping[str, Callable[[Sequence[Layer]], Sequence[Layer]]] = MappingProxyType(
    {"every": _every, "inner": _inner, "pointwise": _pointwise}
)


def _resnet50(batch: int) -> Model:
    from benchmarks.models.resnet import resnet50

    return resnet50(batch)


def _efficientnet(batch: int) -> Model:
    from benchmarks.models.efficientnet_lite0 import efficientnet_lite0

    return efficientnet_lite0(batch)


def _minilm(batch: int) -> Model:
    from benchmarks.models.minilm import minilm

    return minilm(batch=batch)


def _image(model: Model, seed: int) -> Inputs:
    return random_inputs(model.inputs, seed)


def _sentence(model: Model, seed: int) -> Inputs:
    """Words at random, no padding."""
    (shape,) = {spec.shape for spec in model.inputs}
    words = np.random.default_rng(seed).integers(1000, 20000, shape, np.int64)
    return {"input_ids": words, "attention_mask": np.ones(shape, np.int64)}


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "resnet50": Network(_resnet50, "inner", _image),
        "efficientnet-lite0": Network(_efficientnet, "pointwise", _image),
        "minilm": Network(_minilm, "every", _sentence),
    }
)
