"""Which CPU kernels serve a layer: the one place that maps patterns to kernels.

Several may; which is fastest depends on the shape and the machine, and is for measurement to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from tvm import tirx

from hwsparse.codegen.cpu import winograd
from hwsparse.codegen.cpu.arithmetic import Arithmetic, arithmetic_on
from hwsparse.codegen.cpu.depthwise import depthwise
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.few_positions import few_positions
from hwsparse.codegen.cpu.geometry import Geometry, Variant, offset_type, tiling_of, variants
from hwsparse.codegen.cpu.packing import pack_rows
from hwsparse.codegen.cpu.shared_index import shared_index
from hwsparse.codegen.cpu.tokens import shared_index_tokens
from hwsparse.codegen.cpu.winograd_kernel import winograd_convolution
from hwsparse.codegen.cpu.words import (
    INPUTS_OF_WORD,
    MOST_INPUTS,
    MOST_TAPS,
    WORD,
    geometry_of_words,
    halves_of,
    offsets_of,
    target_of_words,
    words_of,
)
from hwsparse.errors import CompileError
from hwsparse.pattern import NM, Block, Channel, Dense, Pattern, Unstructured
from hwsparse.plan import Choice, Layer
from hwsparse.quantise import Scale, bfloat16_bits, float16_of, weight_bytes
from hwsparse.target import Target

# Rows that share an index list in a dense layer: 4 fill the registers best (measured on AVX-512).
DENSE_ROWS = 4
# What kernels are called first, by the type of weights.
PREFIXES = {"float32": "", "float16": "halves_", "bfloat16": "pairs_", "int8": "bytes_"}
# Below this many positions vectors run along output rows.
FEW_POSITIONS = 4


@dataclass(frozen=True, slots=True)
class Kernel:
    """A generated kernel and how it wants a layer's canonical weight.

    The function takes the input, the arrays that `pack` gives, bias, the residual unless there is none or it is in
    place, and the output. Where it `reads` bytes, `pack` wants to know what they stand for.
    """

    name: str
    function: Any  # PrimFunc, or what is called in its place
    pack: _Pack


_Pack = Callable[..., tuple[np.ndarray, ...]]
_Made = tuple[tirx.PrimFunc, _Pack]


def refusal(layer: Layer, choice: Choice) -> str | None:
    """Why no CPU kernel serves this choice for this layer; None when one does."""
    if layer.dtype != "float32" or choice.dtype not in PREFIXES:
        return f"no CPU kernel for {choice.dtype} weights; {', '.join(PREFIXES)} only"
    if layer.window is not None and len(layer.window.strides) > 2:
        return "no CPU kernel for convolutions of more than two dimensions"
    if not choice.is_dense and layer.groups > 1 and layer.groups == layer.input_shape[1]:
        return "depthwise: too few weights per output for sparsity to save work"
    if choice.dtype != "float32" and (reason := _refusal_of_words(layer, choice.dtype)):
        return reason
    shared = shared_rows(choice.pattern)
    if shared > 16:
        return f"{choice.pattern}: at most 16 rows can share an index list"
    return None


def _refusal_of_words(layer: Layer, dtype: str) -> str | None:
    geometry, each = Geometry.of(layer), INPUTS_OF_WORD[dtype]
    if geometry.depthwise:
        if dtype != "int8":
            return f"{dtype}: too little is computed with what is read for it to be faster"
        taps = geometry.kernel_h * geometry.kernel_w
        return None if taps <= MOST_TAPS else f"int8: of {taps} taps sums may not be exact; of {MOST_TAPS} they are"
    if (geometry.tokens or geometry.groups > 1) and (geometry.channels // geometry.groups) % each:
        return f"{dtype}: {geometry.channels // geometry.groups} inputs, no multiple of {each}"
    if dtype == "int8" and layer.inputs > MOST_INPUTS:
        return f"int8: sums of {layer.inputs} products of bytes may not fit int32; of {MOST_INPUTS} they do"
    return None


def kernels_for(layer: Layer, choice: Choice, target: Target) -> tuple[str, ...]:
    """Names of the kernels for `layer` with weights pruned as `choice` says, the one to take unmeasured first.

    Choices that differ in their ratio alone have the same kernels.
    """
    return tuple(_candidates(layer, choice, target))


def kernel_for(layer: Layer, choice: Choice, target: Target, epilogue: Epilogue, name: str | None = None) -> Kernel:
    """The kernel called `name`, one of `kernels_for`; the first of them if None.

    Raises:
        CompileError: it is none of them.
    """
    candidates = _candidates(layer, choice, target)
    if name is None:
        name = next(iter(candidates))
    if name not in candidates:
        raise CompileError(f"{layer.name} as {choice} on {target.name}: no kernel {name!r}; {', '.join(candidates)}")
    return Kernel(name, *candidates[name](epilogue))


def plain_kernel(layer: Layer, choice: Choice, target: Target, name: str) -> str:
    """The kernel called `name`, or one in its place that rounds no more than sums of plain products do."""
    if not name.startswith(winograd.PREFIX):
        return name
    return next(other for other in _candidates(layer, choice, target) if not other.startswith(winograd.PREFIX))


def _candidates(layer: Layer, choice: Choice, target: Target) -> dict[str, Callable[[Epilogue], _Made]]:
    geometry = Geometry.of(layer)
    arithmetic = arithmetic_on(choice.dtype, target.isa, target.vector_bits)
    target = target_of_words(target, choice.dtype)
    lanes = target.vector_bits // 32
    if geometry.depthwise:
        of_bytes = choice.dtype == "int8"
        name = f"{PREFIXES['int8']}depthwise" if of_bytes else "depthwise"
        return {name: partial(_depthwise, geometry, target, of_bytes)}
    words, prefix = geometry_of_words(geometry, choice.dtype), PREFIXES[choice.dtype]
    if geometry.tokens and geometry.positions < FEW_POSITIONS:
        return {f"{prefix}few_positions_r{lanes}": partial(_few_positions, words, lanes, arithmetic)}
    shared = min(shared_rows(choice.pattern), geometry.rows // geometry.groups)
    found: dict[str, Callable[[Epilogue], _Made]] = {
        f"{prefix or 'shared_index_'}r{shared}{variant}": partial(
            _shared_index, words, shared, variant, target, arithmetic
        )
        for variant in variants(words, shared, target)
    }
    if choice.dtype != "float32":
        return found
    schemes = winograd.schemes(geometry, target) if choice.is_dense else ()
    made = {scheme: partial(_winograd, geometry, scheme, target, arithmetic) for scheme in schemes}
    paying = {str(scheme): make for scheme, make in made.items() if winograd.pays(geometry, scheme, target)}
    return paying | found | {str(scheme): make for scheme, make in made.items()}


def _depthwise(geometry: Geometry, target: Target, of_bytes: bool, epilogue: Epilogue) -> _Made:
    if of_bytes:
        return depthwise(geometry, epilogue, target, "uint8"), partial(_pack_depthwise, geometry)
    return depthwise(geometry, epilogue, target), lambda weight: (weight.reshape(geometry.rows, -1),)


def _pack_depthwise(geometry: Geometry, weight: np.ndarray, scale: Scale) -> tuple[np.ndarray, ...]:
    """As `_pack`, of bytes that are summed as floats."""
    signed, scales = weight_bytes(weight)
    floats = signed.reshape(geometry.rows, -1).astype(np.float32)
    moved_by = offsets_of(signed, scale.zero).astype(np.float32)
    return floats, np.array([scale.zero], np.float32), moved_by, scales * np.float32(scale.scale)


def _few_positions(geometry: Geometry, lanes: int, arithmetic: Arithmetic, epilogue: Epilogue) -> _Made:
    columns = np.arange(geometry.columns).astype(offset_type(geometry.columns))
    pack = partial(_pack, geometry, arithmetic, lanes, 1, geometry.columns, columns)
    return few_positions(geometry, lanes, epilogue, arithmetic), pack


def _winograd(
    geometry: Geometry, scheme: winograd.Scheme, target: Target, arithmetic: Arithmetic, epilogue: Epilogue
) -> _Made:
    tiling = winograd.tiling_for(geometry, scheme, target)
    return (
        winograd_convolution(geometry, scheme, tiling, epilogue, arithmetic),
        lambda weight: winograd.pack_transformed(weight, geometry, scheme, tiling),
    )


def _shared_index(
    geometry: Geometry, shared: int, variant: Variant, target: Target, arithmetic: Arithmetic, epilogue: Epilogue
) -> _Made:
    tiling = tiling_of(geometry, shared, variant, target)
    block, offsets = tiling.panel.channels * geometry.kernel_h * geometry.kernel_w, tiling.panel.offsets(geometry)
    kernel = shared_index_tokens if geometry.tokens else shared_index
    pack = partial(_pack, geometry, arithmetic, shared, tiling.chunks, block, offsets)
    return kernel(geometry, shared, tiling, epilogue, arithmetic), pack


def _pack(
    geometry: Geometry,
    arithmetic: Arithmetic,
    shared: int,
    chunks: int,
    block: int,
    offsets: np.ndarray,
    weight: np.ndarray,
    scale: Scale | None = None,
) -> tuple[np.ndarray, ...]:
    """The lists of a weight; of bytes also the word that stands for zeros, and what sums are moved and multiplied by.

    Args:
        geometry: of words, where weights are.
        scale: of what is read, if that is bytes.
    """
    if scale is None:
        packed = weight.astype(np.float32, copy=False)
        if arithmetic.of == "float16":
            packed = float16_of(packed)
        elif arithmetic.rounds:
            packed = words_of(bfloat16_bits(packed))
        return pack_rows(packed, geometry, shared, chunks, block, offsets).arrays()
    signed, scales = weight_bytes(weight)
    lists = pack_rows(words_of(signed), geometry, shared, chunks, block, offsets)
    if arithmetic.parts > 1:
        lists = replace(lists, values=halves_of(lists.values))
    blank = np.full(WORD, (scale.zero - arithmetic.less) % 256, np.uint8).view(np.int32)
    moved_by = offsets_of(signed, scale.zero - arithmetic.less)
    return *lists.arrays(), blank, moved_by, scales * np.float32(scale.scale)


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
