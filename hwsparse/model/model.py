"""A network in its canonical form: a static-shape ONNX graph with its prunable layers named.

Knows nothing of where the network came from, of patterns, data or devices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import onnx
from onnx import numpy_helper

from hwsparse.errors import ModelError
from hwsparse.model.apart import Apart, take_apart
from hwsparse.model.quantised import stated_ranges
from hwsparse.plan import Layer


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model; `dtype` is a numpy dtype name."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.shape):
            raise ModelError(f"tensor {self.name!r}: every size must be at least 1, not {self.shape}")


@dataclass(frozen=True, slots=True)
class Model:
    """A network as everything past import sees it.

    `proto` is a serialized ONNX ModelProto: static shapes, constants and batch norm folded, weights inline; with it the
    ranges that the model was quantised by, if it was. `layers` are the prunable ones, in graph order.
    """

    name: str
    proto: bytes
    digest: str  # sha256 of proto, hexadecimal
    layers: tuple[Layer, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        if self.digest != hashlib.sha256(self.proto).hexdigest():
            raise ModelError(f"model {self.name!r}: the digest is not that of its graph")
        names = [layer.name for layer in self.layers]
        if len(set(names)) != len(names):
            raise ModelError(f"model {self.name!r}: two layers have one name")

    def __repr__(self) -> str:
        return f"Model({self.name!r}, digest={self.digest[:12]!r}, layers={len(self.layers)})"

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Between what tensors lie, by name, as a file stated that was quantised already; others state none."""
        return _ranges(self.proto)

    @property
    def apart(self) -> Apart:
        """The graph, and the arrays that make up its size."""
        return _apart(self.proto)

    def layer(self, name: str) -> Layer:
        """The prunable layer of that name.

        Raises:
            ModelError: there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise ModelError(f"model {self.name!r} has no prunable layer {name!r}")

    def weight(self, layer_name: str) -> np.ndarray:
        """A layer's weight in canonical layout (`layer.weight_shape`), float32, read-only."""
        layer = self.layer(layer_name)
        stored = _initializers(self.proto)[layer.weight]
        canonical = np.ascontiguousarray(stored.T) if layer.transposed else stored
        canonical.setflags(write=False)
        return canonical

    def constant(self, name: str) -> np.ndarray:
        """An initializer by its name, read-only.

        Raises:
            ModelError: there is none.
        """
        stored = _initializers(self.proto)
        if name not in stored:
            raise ModelError(f"model {self.name!r} has neither a prunable layer nor a constant {name!r}")
        return stored[name]

    def replaced(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What is to be stored in the place of the model's own initializers, by their names.

        Args:
            weights: canonical weights by layer name, and other constants, biases for instance, by their own.

        Raises:
            ModelError: a weight or constant is not of the model, or has not its shape.
        """
        layers = {layer.name: layer for layer in self.layers}
        return dict(
            (layers[name].weight, self.initializer(layers[name], values))
            if name in layers
            else (name, self._like_constant(name, values))
            for name, values in weights.items()
        )

    def changes_to(self, other: Model) -> dict[str, np.ndarray]:
        """What makes this model compute what another does, as `replaced` takes it: weights and constants that differ.

        Raises:
            ModelError: the other's graph is not this one with other constants.
        """
        own, others = _initializers(self.proto), _initializers(other.proto)
        if _structure(self.proto) != _structure(other.proto) or _shapes(own) != _shapes(others):
            raise ModelError(f"model {other.name!r} is not {self.name!r} with other weights: their graphs differ")
        layers = {layer.weight: layer.name for layer in self.layers}
        differing = [name for name, values in own.items() if not np.array_equal(values, others[name])]
        return {
            layers.get(name, name): other.weight(layers[name]) if name in layers else others[name] for name in differing
        }

    def _like_constant(self, name: str, values: np.ndarray) -> np.ndarray:
        own = self.constant(name)
        if values.shape != own.shape:
            raise ModelError(f"constant {name!r}: values of shape {values.shape}, not {own.shape}")
        return np.ascontiguousarray(values, dtype=own.dtype)

    def initializer(self, layer: Layer, weight: np.ndarray) -> np.ndarray:
        """A canonical weight, back in the layout of the initializer `layer.weight`, contiguous float32.

        Raises:
            ModelError: `weight` has not the layer's shape.
        """
        if weight.shape != layer.weight_shape:
            raise ModelError(f"layer {layer.name!r}: weight of shape {weight.shape}, not {layer.weight_shape}")
        return np.ascontiguousarray(weight.T if layer.transposed else weight, dtype=np.float32)


@lru_cache(maxsize=2)
def _initializers(proto: bytes) -> Mapping[str, np.ndarray]:
    """Arrays by name, read-only; kept for the last models, because weights are asked for layer by layer."""
    arrays = {item.name: numpy_helper.to_array(item) for item in onnx.load_from_string(proto).graph.initializer}
    for array in arrays.values():
        array.setflags(write=False)
    return MappingProxyType(arrays)


@lru_cache(maxsize=2)
def _apart(proto: bytes) -> Apart:
    return take_apart(proto, _initializers(proto))


@lru_cache(maxsize=2)
def _ranges(proto: bytes) -> Mapping[str, tuple[float, float]]:
    return MappingProxyType(stated_ranges(onnx.load_from_string(proto)))


def _structure(proto: bytes) -> list[tuple[object, ...]]:
    """What each node does and reads, without names and remarks of its own."""
    return [
        (node.op_type, *node.input, *node.output, *sorted(item.SerializeToString() for item in node.attribute))
        for node in onnx.load_from_string(proto).graph.node
    ]


def _shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[object, ...]]:
    return {name: (array.dtype, *array.shape) for name, array in arrays.items()}
