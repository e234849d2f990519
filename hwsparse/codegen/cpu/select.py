"""Which CPU kernel serves a layer: the one place that maps patterns to kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from hwsparse.codegen.cpu import winograd
from hwsparse.codegen.cpu.depthwise import depthwise
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.few_positions import few_positions
from hwsparse.codegen.cpu.geometry import Geometry, choose_variant, offset_type, tiling_of
from hwsparse.codegen.cpu.packing import pack_rows
from hwsparse.codegen.cpu.shared_index import shared_index
from hwsparse.pattern import NM, Block, Channel, Dense, Pattern, Unstructured
from hwsparse.plan import Choice, Layer
from hwsparse.target import Target

# Rows that share an index list in a dense layer: 4 fill the registers best (measured on AVX-512).
DENSE_ROWS = 4
# Below this many positions vectors run along output rows.
FEW_POSITIONS = 4


@dataclass(frozen=True, slots=True)
class Kernel:
    """A generated kernel and how it wants a layer's canonical weight.

    The function takes the input, the arrays that `pack` gives, bias, the residual if the epilogue
    has one, and the output.
    """

    name: str
    function: tirx.PrimFunc
    pack: Callable[[np.ndarray], tuple[np.ndarray, ...]]


def refusal(layer: Layer, choice: Choice) -> str | None:
    """Why no CPU kernel serves this choice for this layer; None when one does."""
    if choice.dtype != "float32" or layer.dtype != "float32":
        return f"no CPU kernel for {choice.dtype} weights; float32 only"
    if layer.window is not None and len(layer.window.strides) > 2:
        return "no CPU kernel for convolutions of more than two dimensions"
    if not choice.is_dense and layer.groups > 1 and layer.groups == layer.input_shape[1]:
        return "depthwise: too few weights per output for sparsity to save work"
    shared = shared_rows(choice.pattern)
    if shared > 16:
        return f"{choice.pattern}: at most 16 rows can share an index list"
    return None


def kernel_for(layer: Layer, choice: Choice, target: Target, epilogue: Epilogue) -> Kernel:
    """The kernel that runs `layer` with weights pruned as `choice` says."""
    geometry = Geometry.of(layer)
    lanes = target.vector_bits // 32
    if geometry.depthwise:
        function = depthwise(geometry, epilogue, target)
        return Kernel("depthwise", function, lambda weight: (weight.reshape(geometry.rows, -1),))
    if geometry.tokens and geometry.positions < FEW_POSITIONS:
        function = few_positions(geometry, lanes, epilogue)
        columns = np.arange(geometry.columns).astype(offset_type(geometry.columns))
        return Kernel(
            f"few_positions_r{lanes}",
            function,
            lambda weight: pack_rows(weight, geometry, lanes, 1, geometry.columns, columns).arrays(),
        )
    if choice.is_dense and winograd.applies(geometry) and winograd.pays(geometry):
        tiling = winograd.tiling_for(geometry, target)
        function = winograd.winograd(geometry, tiling, epilogue)
        return Kernel("winograd", function, lambda weight: winograd.pack_transformed(weight, geometry, tiling))
    shared = min(shared_rows(choice.pattern), geometry.rows // geometry.groups)
    variant = choose_variant(geometry, shared, target)
    tiling = tiling_of(geometry, shared, variant, target)
    block, offsets = tiling.panel.channels * geometry.kernel_h * geometry.kernel_w, tiling.panel.offsets(geometry)
    return Kernel(
        f"shared_index_r{shared}{variant}",
        shared_index(geometry, shared, tiling, epilogue),
        lambda weight: pack_rows(weight, geometry, shared, tiling.chunks, block, offsets).arrays(),
    )


def shared_rows(pattern: Pattern) -> int:
    """Output rows that share one list of kept columns under a pattern."""
    match pattern:
        case Dense() | Channel():
            return DENSE_ROWS
        case Unstructured():
            return 1
        case Block(rows=rows):
            return rows
        case NM(shared=shared):
            return shared
