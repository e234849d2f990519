"""A layer as the accelerator takes it: a matrix of weights, which of them are kept, and what its positions read.

Knows no model and no machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hwsparse.accelerator.geometry import Geometry
from hwsparse.accelerator.machine import HOST_BYTES
from hwsparse.errors import PlanError
from hwsparse.pattern import Dense, Pattern, Unstructured
from hwsparse.plan import Layer

_TYPES = ("int8", "float16", "float32")


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """Outputs x inputs weights by inputs x positions, then the vector unit's work on every output.

    Of the weights those outside the mask count as zero, whatever they are. Rows are padded for nobody: the machine's
    own sizes are no concern here.
    """

    name: str
    weight: np.ndarray  # (outputs, inputs), int8, float16 or float32; inputs channels last, as `Geometry` counts them
    mask: np.ndarray  # (outputs, inputs), bool
    geometry: Geometry
    pattern: Pattern = field(default_factory=Dense)
    output_bytes: int = 0  # of an output in memory; 0: as many as the weights' type has
    residual_bytes: int = 0  # of an element of the map that the vector unit adds; 0: it adds none
    pad: int = 0  # what windows read beyond the map's edge: of bytes about a zero, that zero

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.weight.shape != self.mask.shape or self.mask.dtype != np.bool_:
            raise PlanError(f"layer {self.name!r}: weight and mask are matrices of one shape, the mask of truth values")
        if self.weight.dtype.name not in _TYPES:
            raise PlanError(f"layer {self.name!r}: weights are {', '.join(_TYPES)}, not {self.weight.dtype}")
        if self.weight.shape[1] != self.geometry.inputs or not self.weight.shape[0]:
            raise PlanError(
                f"layer {self.name!r}: positions read {self.geometry.inputs} inputs, weights are {self.weight.shape}"
            )
        if self.weight.dtype.kind == "f" and not np.isfinite(self.weight[self.mask]).all():
            raise PlanError(f"layer {self.name!r}: a weight is not finite")
        if not {self.output_bytes, self.residual_bytes} <= {0, self.weight.itemsize, HOST_BYTES}:
            raise PlanError(
                f"layer {self.name!r}: outputs and residuals are {self.weight.dtype} or float32, not of "
                f"{self.output_bytes} and {self.residual_bytes} bytes"
            )
        if self.pad and not (self.weight.dtype == np.int8 and -128 <= self.pad <= 127):
            raise PlanError(f"layer {self.name!r}: beyond the edge are zeros, or of int8 -128 to 127, not {self.pad}")

    @property
    def outputs(self) -> int:
        return int(self.weight.shape[0])

    @property
    def inputs(self) -> int:
        return int(self.weight.shape[1])

    @property
    def positions(self) -> int:
        return self.geometry.positions

    @property
    def kept(self) -> int:
        return int(np.count_nonzero(self.mask))

    @property
    def operations(self) -> int:
        """Passes of the vector unit over every output."""
        return vector_operations(self.residual_bytes)


def vector_operations(residual_bytes: int) -> int:
    """Passes of the vector unit over every output: one for bias, activation and rounding, one for a residual."""
    return 2 if residual_bytes else 1


def lay_out(
    layer: Layer,
    weight: np.ndarray,
    mask: np.ndarray,
    pattern: Pattern | None = None,
    *,
    output_bytes: int = 0,
    residual_bytes: int = 0,
    pad: int = 0,
) -> Product:
    """A layer of a model, its inputs put channels last.

    Args:
        weight: of the layer's canonical shape, outputs first.
        mask: of the same shape.
        pattern: what the mask follows; by default dense where it drops nothing, else unstructured.
        output_bytes, residual_bytes: as in `Product`.
        pad: what windows read beyond the edge.

    Raises:
        UnsupportedError: a convolution in groups, which runs on the host.
        PlanError: arrays that are not the layer's.
    """
    if weight.shape != layer.weight_shape or mask.shape != layer.weight_shape:
        raise PlanError(f"layer {layer.name!r}: a weight of {layer.weight_shape} is wanted, not {weight.shape}")
    geometry = Geometry.of(layer)
    rows = (np.moveaxis(array, 1, -1).reshape(layer.outputs, -1) for array in (weight, mask))
    flat, kept = (np.ascontiguousarray(array) for array in rows)
    pattern = pattern or (Dense() if kept.all() else Unstructured())
    return Product(layer.name, flat, kept, geometry, pattern, output_bytes, residual_bytes, pad)
