"""What a kernel does, counted without compiling it: what a cost model learns the time of a layer from.

Counts are of one call; they follow from the layer's sizes, the kernel's form and how many weights are kept.
"""

from __future__ import annotations

import math
import re

from hwsparse.codegen.cpu import winograd
from hwsparse.codegen.cpu.arithmetic import arithmetic_on
from hwsparse.codegen.cpu.geometry import FLOAT_BYTES, Geometry, Tiling, Variant, tiling_of
from hwsparse.codegen.cpu.select import DENSE_ROWS, shared_rows
from hwsparse.codegen.cpu.words import INPUTS_OF_WORD, geometry_of_words, target_of_words
from hwsparse.errors import CompileError
from hwsparse.pattern import Block, Channel
from hwsparse.plan import Choice, Layer
from hwsparse.target import Target
from hwsparse.work import Work

SHARED_INDEX = re.compile(r"(shared_index|halves|pairs|bytes)_r(\d+)v(\d+)k(\d+)(w?)")
WINOGRAD = re.compile(r"winograd_f(\d+)x(\d+)")
OFFSET_BYTES = 2
FEW_POSITIONS = re.compile(r"(halves_|pairs_|bytes_)?few_positions_r(\d+)")


def work(layer: Layer, choice: Choice, target: Target, kernel: str) -> Work:
    """What a kernel of `kernels_for` does: on its busiest thread, where work is counted tile by tile.

    Raises:
        CompileError: no kernel is called so.
    """
    geometry, size = geometry_of_words(Geometry.of(layer), choice.dtype), 1 if choice.dtype == "int8" else FLOAT_BYTES
    of_words = {"float32": "", "float16": " of halves", "bfloat16": " of pairs", "int8": " of bytes"}[choice.dtype]
    kept_rows, kept_columns = _kept(geometry, choice)
    # Of a layer without weights kept, as of one with a thousandth of them.
    fewer = (-math.log2(max(share, 1e-3)) for share in (kept_columns, kept_rows))
    place = (math.log2(shared_rows(choice.pattern)), *fewer)
    traits = {
        "rows": geometry.rows,
        "columns": geometry.columns / geometry.groups,
        "positions": geometry.positions * geometry.batch,
        "taps": geometry.kernel_h * geometry.kernel_w,
        "strides": geometry.stride_h * geometry.stride_w,
        "groups": geometry.groups,
        "row length": geometry.out_w,
        "kept columns": kept_columns,
        "kept rows": kept_rows,
        "rows of a block": shared_rows(choice.pattern),
        "input": size * math.prod(layer.input_shape) / max(target.l2_bytes, 1),
        "output": size * math.prod(layer.output_shape) / max(target.l2_bytes, 1),
    }
    parts = {
        "calls": 1.0,
        "input bytes": size * math.prod(layer.input_shape),
        "output bytes": size * math.prod(layer.output_shape),
    }
    if found := SHARED_INDEX.fullmatch(kernel):
        rows, variant = int(found[2]), Variant(int(found[3]), int(found[4]), found[5] == "w")
        more, told, stored = _shared_index(geometry, choice, target, rows, variant)
        family = "tokens" if geometry.tokens else f"rows {min(rows, 2)}"
        return Work(family + of_words, parts | more, traits | told, place, stored)
    if found := WINOGRAD.fullmatch(kernel):
        scheme = winograd.Scheme(int(found[1]), int(found[2]), geometry.stride_h)
        more = _winograd(geometry, scheme)
        # Beside each product's rows, in dense blocks of them, stands where its channel lies.
        stored = more["bytes of lists"] * (1 + OFFSET_BYTES / (FLOAT_BYTES * DENSE_ROWS))
        return Work("winograd", parts | more, traits, place, stored)
    if found := FEW_POSITIONS.fullmatch(kernel):
        more = _few_positions(geometry, choice, target, int(found[2]))
        return Work("few positions" + of_words, parts | more, traits, place, more["bytes of lists"])
    if not kernel.endswith("depthwise"):
        raise CompileError(f"{layer.name or layer.signature}: there is no kernel {kernel!r} to count the work of")
    vectors = -(-geometry.out_w // (target.vector_bits // 32)) * geometry.out_h * geometry.batch
    weights = geometry.rows * traits["taps"]
    more = {"multiply-adds": weights * vectors}
    return Work("depthwise" + of_words, parts | more, traits, place, FLOAT_BYTES * weights)


def _shared_index(
    geometry: Geometry, choice: Choice, target: Target, shared: int, variant: Variant
) -> tuple[dict[str, float], dict[str, float], float]:
    """Parts and traits of a shared-index kernel, and bytes of its lists."""
    tiling = tiling_of(geometry, shared, variant, target_of_words(target, choice.dtype))
    tiles = geometry.batch * tiling.count
    share = _busiest(tiles, target.threads) if tiling.chunks == 1 else 1 / tiling.chunks
    groups = -(-geometry.rows // shared)
    kept_rows, kept_columns = _kept(geometry, choice)
    entries = groups * geometry.columns / geometry.groups * kept_rows * kept_columns
    blocks = -(-geometry.channels // tiling.panel.channels)
    vectors = geometry.batch * _vectors(tiling)
    arithmetic = arithmetic_on(choice.dtype, target.isa, target.vector_bits)
    stored = entries * (_packed_bytes(choice, target) * shared + (2 if tiling.panel.offset_type == "uint16" else 4))
    panel = FLOAT_BYTES / arithmetic.narrower * tiling.panel.channels * tiling.panel.lines * tiling.panel.pitch
    parts = {
        "multiply-adds": share * entries * shared * vectors,
        "loads": share * entries * (vectors + shared * tiles),
        "visits": share * groups * blocks * tiles,  # of a row group to a tile: each opens and stores its sums
        "bytes of lists": share * stored * tiles,
        "bytes of panels": panel * blocks * tiles * (share if tiling.chunks == 1 else 1),
    }
    if arithmetic.run:
        each = kept_columns * geometry.columns / geometry.groups / blocks
        parts["sums of runs"] = parts["visits"] * shared * (vectors / tiles) * max(1, math.ceil(each / arithmetic.run))
    traits = {
        "shared rows": shared,
        "vectors": variant.vectors,
        "whole lines": variant.whole_lines,
        "blocks": blocks,
        "entries of a visit": kept_columns * geometry.columns / geometry.groups / blocks,
        "panel in L1": panel / max(target.l1d_bytes, 1),
        "panel in L2": panel / max(target.l2_bytes, 1),
        "lists in L1": stored / max(target.l1d_bytes, 1),
        "lists in L2": stored / max(target.l2_bytes, 1),
        "lanes in use": geometry.positions / _lanes(tiling),
    }
    return parts, {name: float(value) for name, value in traits.items()}, stored


def _kept(geometry: Geometry, choice: Choice) -> tuple[float, float]:
    """Shares of a layer's rows that keep weights, and of the columns, or words of them, that those keep."""
    if isinstance(choice.pattern, Channel):
        return choice.pattern.kept(geometry.rows, choice.ratio) / geometry.rows, 1.0
    together = choice.pattern.cols if isinstance(choice.pattern, Block) else 1
    apart = max(1, INPUTS_OF_WORD[choice.dtype] // together)
    return 1.0, 1 - choice.ratio**apart


def _winograd(geometry: Geometry, scheme: winograd.Scheme) -> dict[str, float]:
    patches = geometry.batch * math.prod(scheme.patches(geometry))
    channels, places = scheme.channels(geometry), scheme.side**2
    return {
        "multiply-adds": places * geometry.rows * channels * patches,
        "bytes of panels": FLOAT_BYTES * places * channels * patches,
        "visits": places * geometry.rows * patches,
        "bytes of lists": FLOAT_BYTES * places * geometry.rows * channels,
    }


def _few_positions(geometry: Geometry, choice: Choice, target: Target, lanes: int) -> dict[str, float]:
    whole, rest = divmod(geometry.rows, lanes)
    sizes = {lanes: whole, rest: 1} if rest else {lanes: whole}
    groups = sum(sizes.values())
    if isinstance(choice.pattern, Channel):  # rows that stay come together
        entries = geometry.columns * -(-choice.pattern.kept(geometry.rows, choice.ratio) // lanes)
    else:
        # A column is kept where one of the blocks that share a vector keeps it; the last vector may have fewer.
        kept = {size: 1 - choice.ratio ** max(1.0, size / shared_rows(choice.pattern)) for size in sizes}
        entries = geometry.columns * sum(count * kept[size] for size, count in sizes.items())
    return {
        "multiply-adds": entries * geometry.positions,
        "visits": groups,
        "bytes of lists": _packed_bytes(choice, target) * entries * lanes,
    }


def _packed_bytes(choice: Choice, target: Target) -> int:
    """Of a weight in a list, or of a word of them."""
    arithmetic = arithmetic_on(choice.dtype, target.isa, target.vector_bits)
    return FLOAT_BYTES * arithmetic.parts // arithmetic.narrower


def _busiest(tiles: int, threads: int) -> float:
    """The share of all tiles that the busiest thread has."""
    return -(-tiles // threads) / tiles


def _vectors(tiling: Tiling) -> float:
    """Vectors of an image; a narrower one counts by half."""
    return (tiling.count - 1) * tiling.tile.vectors + tiling.last.vectors + (tiling.last.rest > 0) / 2


def _lanes(tiling: Tiling) -> float:
    return (tiling.count - 1) * tiling.tile.size(tiling.lanes) + tiling.last.size(tiling.lanes)
