"""What kernels have in common: arguments, accumulators, and the last step of those over packed row groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from tvm import tirx
from tvm.ir import StringImm
from tvm.script import tirx as T

from hwsparse.codegen.cpu.arithmetic import FLOATS, Arithmetic
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.geometry import Geometry, Tile, Tiling
from hwsparse.quantise import MOST_VALUE

# TVM puts every allocation of 1 KiB or more on the heap; accumulators must stay in registers.
# Needs the pass configuration tirx.disable_storage_rewrite, which would drop the annotation.
REGISTERS = {"disable_lower_builtin": True}

# Places of parameters that only kernels of bytes have: blank, offset, scale, terms.
BYTES_ONLY = range(6, 10)


class Lists(NamedTuple):
    """The buffers of packed row groups, as `Packed` has them; of words of bytes also the one that stands for zeros."""

    bounds: Any
    starts: Any
    offsets: Any
    values: Any
    rows: Any
    blank: Any = None


class Ends(NamedTuple):
    """The buffers of a kernel's last step: `added` holds the residual, in place `out`; it is not read without one.

    To sums of bytes `offset` is added, and they are multiplied by `scale`, each row's by its own. `terms` are what the
    residual is multiplied by, if it is bytes or sums become bytes at once, and of the output's bytes the lowest and the
    highest if sums become bytes at once, else the inverse of their scale and their zero. What else there is to it is in
    `scale` and `bias`: see `hwsparse.codegen.folding`.
    """

    bias: Any
    added: Any
    out: Any
    offset: Any = None
    scale: Any = None
    terms: Any = None

    def biased(self, total: Any, row: Any, lanes: int) -> Any:
        """Sums, in a vector of `lanes`, with their bias, as floats: all of one row, or each of its own in a vector."""
        if self.scale is None:
            return total + self.bias[row]
        counted = total if self.offset is None else total + self.offset[row]
        return tirx.Cast(_of("float32", lanes), counted) * self.scale[row] + self.bias[row]


def finish_of(epilogue: Epilogue) -> Callable[[Any, Ends, Any, int], Any]:
    """The epilogue after the bias, as a function on TIR expressions: values in a vector of lanes, for some place."""
    activation = epilogue.activation()

    def finish(value: Any, ends: Ends, place: Any, lanes: int) -> Any:
        if epilogue.residual:
            added = ends.added[place]
            if epilogue.added == "uint8" or epilogue.at_once:
                added = tirx.Cast(_of("float32", lanes), added) * ends.terms[0]
            value = value + added
        if epilogue.at_once:
            return byte_of(T.min(T.max(value, ends.terms[1]), ends.terms[2]), lanes)
        value = activation(value)
        if epilogue.stored == "uint8":
            moved = value * ends.terms[1] + ends.terms[2]
            low, high = (tirx.const(bound, "float32") for bound in (0.0, float(MOST_VALUE)))
            return byte_of(T.min(T.max(moved, low), high), lanes)
        return value

    return finish


def byte_of(value: Any, lanes: int) -> Any:
    """The nearest byte to each float, from 0 to 255, in a vector of lanes."""
    whole = T.call_llvm_pure_intrin(_of("int32", lanes), "llvm.lrint", value)
    return tirx.Cast(_of("uint8", lanes), whole)


def _of(dtype: str, lanes: int) -> str:
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def entry(
    geometry: Geometry,
    shared: int,
    chunks: int,
    offset_type: str,
    epilogue: Epilogue,
    run: Any,
    arithmetic: Arithmetic = FLOATS,
) -> tirx.PrimFunc:
    """The function around `run`, an inline one of (x, lists, ends); lists of symbolic lengths serve every ratio.

    Where floats are multiplied, it has none of the parameters from `blank` to `terms`.
    """
    in_shape, out_shape, row_count = geometry.input_shape, geometry.output_shape, geometry.rows
    source, dtype, added_type, out_type = arithmetic.source, arithmetic.dtype, epilogue.added, epilogue.stored
    apart = int(epilogue.residual and not epilogue.in_place)
    weights = shared * arithmetic.parts
    of_bytes, counted = int(arithmetic.is_bytes), int(arithmetic.is_bytes and not epilogue.at_once)

    @T.prim_func(s_tir=True)
    def kernel(
        x: T.Buffer(in_shape, source),
        bounds: T.Buffer((chunks + 1,), "int32"),
        starts_handle: T.handle,
        offsets_handle: T.handle,
        values_handle: T.handle,
        rows_handle: T.handle,
        blank: T.Buffer((1,), "int32"),
        offset: T.Buffer((row_count,), "int32"),
        scale: T.Buffer((row_count,), "float32"),
        terms: T.Buffer((3,), "float32"),
        bias: T.Buffer((row_count,), "float32"),
        added: T.Buffer(out_shape, added_type),
        out: T.Buffer(out_shape, out_type),
    ):
        T.func_attr({"tirx.noalias": True})
        starts_count, entries, slots = T.int64(), T.int64(), T.int64()
        starts = T.match_buffer(starts_handle, (starts_count,), "int32")
        offsets = T.match_buffer(offsets_handle, (entries,), offset_type)
        values = T.match_buffer(values_handle, (entries, weights), dtype)
        rows = T.match_buffer(rows_handle, (slots,), "int32")
        run(
            x,
            Lists(bounds, starts, offsets, values, rows, blank),
            Ends(
                bias,
                added if apart > 0 else out,
                out,
                offset if counted > 0 else None,
                scale if of_bytes > 0 else None,
                terms,
            ),
        )

    unread = [place for place, told in ((-2, apart), *((each, of_bytes) for each in BYTES_ONLY)) if not told]
    kernel = without_parameters(kernel, unread)
    if not arithmetic.code:
        return kernel
    code = tirx.AttrStmt(StringImm(""), "pragma_import_llvm", StringImm(arithmetic.code), kernel.body)
    return tirx.PrimFunc(kernel.params, code, kernel.ret_type, kernel.attrs)


def convolution(
    geometry: Geometry,
    shared: int,
    tiling: Tiling,
    offset_type: str,
    epilogue: Epilogue,
    planes_size: int,
    copy: Any,
    tile_of: Callable[[Tile], Any],
    arithmetic: Arithmetic = FLOATS,
) -> tirx.PrimFunc:
    """A kernel that reads planes, copied from the input, and writes its output tile by tile.

    Args:
        planes_size: of the planes, in floats or words; 0 says that tiles read the input itself.
        copy: an inline function of (x, planes, lists).
        tile_of: gives for a tile's size an inline function of (planes, lists, ends, image, left, chunk) that computes
            the rows of one chunk at the positions from `left` on.
    """
    g, chunks, count = geometry, tiling.chunks, tiling.count
    uneven, width = int(tiling.tile != tiling.last), tiling.tile.width
    input_size, dtype, source = math.prod(g.input_shape), arithmetic.dtype, arithmetic.source
    added_type, out_type = epilogue.added if epilogue.residual else epilogue.stored, epilogue.stored
    output_size = g.batch * g.rows * g.positions
    whole_tile, last_tile = tile_of(tiling.tile), tile_of(tiling.last)

    @T.inline
    def tiles(planes, lists, ends):
        for task in T.parallel(g.batch * count * chunks):
            # A thread works on one part of the rows for as long as it can.
            chunk: T.let = task // (g.batch * count)
            image: T.let = task // count % g.batch
            left: T.let = task % count * width
            if uneven > 0:
                if task % count == count - 1:
                    last_tile(planes, lists, ends, image, left, chunk)
                else:
                    whole_tile(planes, lists, ends, image, left, chunk)
            else:
                whole_tile(planes, lists, ends, image, left, chunk)

    @T.inline
    def run(x, lists, ends):
        x_flat = T.decl_buffer((input_size,), source, data=x.data)
        out_flat = T.decl_buffer((output_size,), out_type, data=ends.out.data)
        added_flat = T.decl_buffer((output_size,), added_type, data=ends.added.data)
        if planes_size > 0:
            planes = T.alloc_buffer((planes_size,), dtype)
            copy(x_flat, planes, lists)
            tiles(planes, lists, ends._replace(added=added_flat, out=out_flat))
        else:
            tiles(x_flat, lists, ends._replace(added=added_flat, out=out_flat))

    return entry(geometry, shared, chunks, offset_type, epilogue, run, arithmetic)


def without_parameters(function: tirx.PrimFunc, places: Collection[int]) -> tirx.PrimFunc:
    """The function without parameters that it does not read: TVMScript has no optional ones."""
    count = len(function.params)
    left_out = {place % count for place in places}
    parameters = [each for place, each in enumerate(function.params) if place not in left_out]
    return tirx.PrimFunc(parameters, function.body, function.ret_type, function.attrs)
