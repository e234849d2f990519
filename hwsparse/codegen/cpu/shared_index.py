"""The kernel behind every sparse pattern and every dense convolution: shared index lists.

    out[row, p] = clip( bias[row] + sum over kept columns of weight[row, column] * panel[column, p] )

A group of `shared` output rows has one list of kept columns; p runs over a tile of positions, whose
input patches are first copied to a panel of lines (see `Panel`), so that every load of the inner loop
is contiguous and every loaded vector feeds `shared` multiply-adds. shared = 1 serves unstructured and
N:M sparsity, more serve blocks and shared N:M, a list of every column a dense layer.
The lists are data: one compiled kernel serves every ratio.

Where loads are what limits it, the panel is filled and used a block of columns at a time, so that it
stays in L1; the sums of all rows then wait in a buffer between blocks.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.copying import (
    copy_every,
    copy_line,
    copy_past,
    copy_run,
    load_transposed,
    prefetch,
    runs,
)
from hwsparse.codegen.cpu.entry import REGISTERS, Ends, Lists, convolution, entry, finish_of
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.geometry import LINE_FLOATS, Geometry, Panel, Tile, Tiling


@functools.cache
def shared_index(geometry: Geometry, shared: int, tiling: Tiling, epilogue: Epilogue) -> tirx.PrimFunc:
    """The kernel as a PrimFunc; convolutions are (batch, channel, position), products (position, row).

    Arguments: input, bounds, starts, columns, values, rows (as `Packed` has them), bias, then the
    residual if there is one, then the output.
    """
    kind = _tokens if geometry.tokens else _convolution
    return kind(geometry, shared, tiling, epilogue)


def micro_kernel_of(shared: int, tile: Tile, lanes: int, resumed: bool, leave: Any) -> Any:
    """An inline function that sums one index list over one tile in registers, then hands the sums to `leave`.

    Its arguments are (lists, index, group, panel, sums, start, to, place): list `index` is of row group `group`;
    where `resumed` the sums start from what `sums` keeps from `start` on. `leave` is an inline function of
    (acc, rest, lists, group, sums, start, to, place), `rest` being the sums of the narrower vectors.
    """
    add, vectors, narrow, size = int(resumed), tile.vectors, tile.rest, tile.size(lanes)

    @T.inline
    def micro_kernel(lists, index, group, panel, sums, start, to, place):
        acc = T.alloc_buffer((shared * vectors, lanes), "float32", scope="local", annotations=REGISTERS)
        rest = T.alloc_buffer((shared, max(narrow, 1)), "float32", scope="local", annotations=REGISTERS)
        for row in T.unroll(shared):
            for vector in T.unroll(vectors):
                for lane in T.vectorized(lanes):
                    if add > 0:
                        acc[row * vectors + vector, lane] = sums[start + row * size + vector * lanes + lane]
                    else:
                        acc[row * vectors + vector, lane] = T.float32(0)
            if narrow > 0:
                for lane in T.vectorized(narrow):
                    if add > 0:
                        rest[row, lane] = sums[start + row * size + vectors * lanes + lane]
                    else:
                        rest[row, lane] = T.float32(0)
        for step in range(lists.starts[index + 1] - lists.starts[index]):
            item: T.let = lists.starts[index] + step
            offset: T.let = T.cast(lists.offsets[item], "int32")
            for row in T.unroll(shared):
                for vector in T.unroll(vectors):
                    for lane in T.vectorized(lanes):
                        acc[row * vectors + vector, lane] = (
                            acc[row * vectors + vector, lane]
                            + lists.values[item, row] * panel[offset + vector * lanes + lane]
                        )
                if narrow > 0:
                    for lane in T.vectorized(narrow):
                        rest[row, lane] = (
                            rest[row, lane] + lists.values[item, row] * panel[offset + vectors * lanes + lane]
                        )
        leave(acc, rest, lists, group, sums, start, to, place)

    return micro_kernel


def keep_sums(shared: int, tile: Tile, lanes: int) -> Any:
    """Leaves sums in a buffer, for the next block of columns to go on from."""
    vectors, narrow, size = tile.vectors, tile.rest, tile.size(lanes)

    @T.inline
    def keep(acc, rest, lists, group, sums, start, to, place):
        for row in T.unroll(shared):
            for vector in T.unroll(vectors):
                for lane in T.vectorized(lanes):
                    sums[start + row * size + vector * lanes + lane] = acc[row * vectors + vector, lane]
            if narrow > 0:
                for lane in T.vectorized(narrow):
                    sums[start + row * size + vectors * lanes + lane] = rest[row, lane]

    return keep


def _convolution(geometry: Geometry, shared: int, tiling: Tiling, epilogue: Epilogue) -> tirx.PrimFunc:
    g, lanes, panels, finish = geometry, tiling.lanes, tiling.panel, finish_of(epilogue)
    channels, row_count, positions = g.channels, g.rows, g.positions
    chunks = tiling.chunks
    blocks = -(-channels // panels.channels)
    source = _input_of(g, lanes)

    def tile_of(tile: Tile) -> Any:
        """A tile of this width, from its panel to its outputs."""
        vectors, group_sums = tile.vectors, shared * tile.size(lanes)
        added_apart = int(epilogue.residual and not epilogue.in_place)
        sums_size = group_sums * (_most_groups(g, shared) if blocks > 1 else 1)
        fill = source.filler(panels, tile.width)

        def store_row(acc: Any, rest: Any, slot: int, row: Any, ends: Ends, first: Any) -> None:
            for start, width in runs(tile.width, lanes):
                narrow = start // lanes == vectors
                value = (
                    rest[slot, T.Ramp(0, 1, tile.rest)]
                    if narrow
                    else acc[slot * vectors + start // lanes, T.Ramp(0, 1, lanes)]
                )
                if width < (tile.rest if narrow else lanes):
                    value = tirx.Shuffle([value], list(range(start % lanes, start % lanes + width)))
                place = T.Ramp(first + start, 1, width) if width > 1 else first + start
                T.buffer_store(ends.out, finish(value + ends.bias[row], ends.added, place), [place])

        @T.inline
        def store(acc, rest, lists, group, sums, start, ends, first):
            for slot in T.unroll(shared):
                if lists.rows[group * shared + slot] >= 0:
                    row: T.let = lists.rows[group * shared + slot]
                    store_row(acc, rest, slot, row, ends, first + row * positions)

        @T.inline
        def fetch(lists, group, ends, first):
            for slot in range(shared):
                row: T.let = T.max(lists.rows[group * shared + slot], 0)
                for line in T.unroll(-(-tile.width // LINE_FLOATS)):
                    prefetch(ends.out, first + row * positions + line * LINE_FLOATS, True)
                    if added_apart > 0:
                        prefetch(ends.added, first + row * positions + line * LINE_FLOATS)

        micro_kernel = micro_kernel_of(shared, tile, lanes, blocks > 1, store)
        part_kernel = micro_kernel_of(shared, tile, lanes, True, keep_sums(shared, tile, lanes))

        @T.inline
        def run(planes, lists, ends, image, left, chunk):
            panel = T.alloc_buffer((panels.channels * panels.lines * panels.pitch + lanes,), "float32")
            sums = T.alloc_buffer((sums_size,), "float32")
            first: T.let = image * row_count * positions + left
            # A loop that starts elsewhere than at 0 loses its start in nested loops (TVM 0.27).
            head: T.let = lists.bounds[chunk]
            here: T.let = lists.bounds[chunk + 1] - lists.bounds[chunk]
            last_lists: T.let = (blocks - 1) * lists.bounds[chunks]
            if blocks > 1:
                for i in range(here * group_sums):
                    sums[i] = T.float32(0)
                for block in range(blocks - 1):
                    fill(planes, panel, image, left, block * panels.channels, panels.channels)
                    for step in range(here):
                        group: T.let = head + step
                        part_kernel(
                            lists,
                            block * lists.bounds[chunks] + group,
                            group,
                            panel,
                            sums,
                            step * group_sums,
                            ends,
                            first,
                        )
            fill(planes, panel, image, left, (blocks - 1) * panels.channels, channels - (blocks - 1) * panels.channels)
            for step in range(here):
                group: T.let = head + step
                fetch(lists, T.min(group + 1, head + here - 1), ends, first)
                micro_kernel(lists, last_lists + group, group, panel, sums, step * group_sums, ends, first)

        return run

    return convolution(g, shared, tiling, panels.offset_type, epilogue, source.size, source.copy, tile_of)


@dataclass(frozen=True, slots=True)
class _Input:
    """Where tiles read their patches from: planes copied from the input, or the input itself if `size` is 0.

    `copy` is an inline function of (x, planes). `filler` gives for a panel and a tile's width an inline function
    of (planes, panel, image, left, channel, channels) that fills the panel, from channel `channel` on.
    """

    size: int
    copy: Any
    filler: Callable[[Panel, int], Any]


def _input_of(geometry: Geometry, lanes: int) -> _Input:
    if not geometry.single_tap:
        return _padded_input(geometry, lanes)
    return _thinned_input(geometry, lanes)


def _thinned_input(geometry: Geometry, lanes: int) -> _Input:
    """A pixel for each position: patches are runs of what remains of the planes after striding."""
    g = geometry
    planes_count, channels, positions, out_w = g.batch * g.channels, g.channels, g.positions, g.out_w
    pick = copy_every(out_w, g.stride_w, lanes)

    @T.inline
    def copy(x, planes):
        for plane in T.parallel(planes_count):
            for row in range(g.out_h):
                pick(planes, plane * positions + row * out_w, x, (plane * g.in_h + row * g.stride_h) * g.in_w)

    def filler(panels: Panel, width: int) -> Any:
        copy_tile = copy_run(width, lanes)

        @T.inline
        def fill(planes, panel, image, left, channel, count):
            for c in range(count):
                copy_tile(panel, c * panels.pitch, planes, (image * channels + channel + c) * positions + left)

        return fill

    return _Input(planes_count * positions if g.strided else 0, copy, filler)


def _padded_input(geometry: Geometry, lanes: int) -> _Input:
    """Padded planes, their lines cut into stride phases, so that every tap reads a run of each output row."""
    g = geometry
    planes_count, channels, stride_w, out_w, pad_top = g.batch * g.channels, g.channels, g.stride_w, g.out_w, g.pad_top
    plane_h = g.in_h + g.pad_top + g.pad_bottom
    pitch = -(-(g.in_w + g.pad_left + g.pad_right) // stride_w)
    line = stride_w * pitch
    copy_padded, copy_vectors = copy_line(g, pitch, lanes), copy_past(lanes)

    @T.inline
    def copy(x, planes):
        for plane in T.parallel(planes_count):
            for i in range(plane_h):
                copy_padded(planes, (plane * plane_h + i) * line, x, plane, i - pad_top)

    def filler(panels: Panel, width: int) -> Any:
        total = width + panels.reach * out_w

        @T.inline
        def copy_row(planes, panel, left, plane, c, tap, row):
            across: T.let = tap % g.kernel_w * g.dilation_w
            # What is copied past the end of a row is written over by the next one.
            begin: T.let = T.max(row * out_w - left, 0)
            end: T.let = T.min((row + 1) * out_w - left, total)
            copy_vectors(
                panel,
                (c * panels.lines + tap) * panels.pitch + begin,
                planes,
                (plane * plane_h + row * g.stride_h + tap // g.kernel_w * g.dilation_h) * line
                + across % stride_w * pitch
                + across // stride_w
                + (left + begin - row * out_w),
                end - begin,
            )

        @T.inline
        def fill(planes, panel, image, left, channel, count):
            first_row: T.let = left // out_w
            rows: T.let = (left + total - 1) // out_w - first_row + 1
            first_plane: T.let = image * channels + channel
            # Row by row is faster, and needs lines with room past their ends.
            if panels.reach > 0:
                for i in range(rows):
                    for c in range(count):
                        for tap in range(panels.lines):
                            copy_row(planes, panel, left, first_plane + c, c, tap, first_row + i)
            else:
                for c in range(count):
                    for tap in range(panels.lines):
                        for i in range(rows):
                            copy_row(planes, panel, left, first_plane + c, c, tap, first_row + i)

        return fill

    # Lines that serve several rows of a kernel are read past the last row, and rows in whole vectors.
    return _Input(planes_count * plane_h * line + g.stride_h * line + lanes, copy, filler)


def _most_groups(geometry: Geometry, shared: int) -> int:
    """Row groups that packing makes at most: rows with weights and rows without may each end in a part group."""
    return geometry.groups * (-(-geometry.rows // geometry.groups // shared) + 1)


def _tokens(geometry: Geometry, shared: int, tiling: Tiling, epilogue: Epilogue) -> tirx.PrimFunc:
    lanes, tile_w, across, finish = tiling.lanes, tiling.tile.width, tiling.count, finish_of(epilogue)
    positions, column_count, row_count = geometry.positions, geometry.channels, geometry.rows
    column_block, pitch, uneven = tiling.panel.channels, tiling.panel.pitch, int(tiling.tile != tiling.last)
    blocks = -(-column_count // column_block)

    def tile_of(tile: Tile) -> Any:
        """A tile of so many tokens: its rows are summed one after the other, and written token by token."""
        wide, size = tile.width, tile.vectors * lanes
        group_sums = shared * size
        sums_size = group_sums * (_most_groups(geometry, shared) if blocks > 1 else 1)

        def turn_in(panel: Any, to: Any, x: Any, start: Any) -> None:
            for i, column in enumerate(load_transposed(x, start, column_count, lanes)):
                T.buffer_store(panel, column, [T.Ramp(to + i * pitch, 1, lanes)])

        def turn_out(ends: Ends, token: Any, row: Any, lines: Any, start: Any) -> None:
            for i, sums in enumerate(load_transposed(lines, start, size, lanes)):
                place = T.Ramp((token + i) * row_count + row, 1, lanes)
                value = finish(sums + ends.bias[T.Ramp(row, 1, lanes)], ends.added, place)
                T.buffer_store(ends.out, value, [place])

        @T.inline
        def fill(x, panel, left, block):
            here: T.let = T.min(column_block, column_count - block * column_block)
            start: T.let = left * column_count + block * column_block
            for c in range(here // lanes):
                for p in range(wide // lanes):
                    turn_in(panel, c * lanes * pitch + p * lanes, x, start + p * lanes * column_count + c * lanes)
            for p in range(wide - wide % lanes):
                for c in range(here % lanes):
                    panel[(here - here % lanes + c) * pitch + p] = x[start + p * column_count + here - here % lanes + c]
            for p in range(wide % lanes):
                for c in range(here):
                    panel[c * pitch + wide - wide % lanes + p] = x[start + (wide - wide % lanes + p) * column_count + c]

        @T.inline
        def finish_token(ends, token, p, lines, first):
            for row in range(row_count - first):
                index: T.let = token * row_count + first + row
                ends.out[index] = finish(lines[(first + row) * size + p] + ends.bias[first + row], ends.added, index)

        @T.inline
        def collect(acc, rest, lists, group, sums, start, lines, end):
            for slot in T.unroll(shared):
                line: T.let = T.if_then_else(
                    lists.rows[group * shared + slot] >= 0, lists.rows[group * shared + slot], end
                )
                for i in T.unroll(tile.vectors):
                    for lane in T.vectorized(lanes):
                        lines[line * size + i * lanes + lane] = acc[slot * tile.vectors + i, lane]

        micro_kernel = micro_kernel_of(shared, tile, lanes, blocks > 1, collect)
        part_kernel = micro_kernel_of(shared, tile, lanes, True, keep_sums(shared, tile, lanes))

        @T.inline
        def run(x, lists, ends, left):
            panel = T.alloc_buffer((column_block * pitch,), "float32")
            sums = T.alloc_buffer((sums_size,), "float32")
            # One line more than there are rows: slots without a row are collected there.
            lines = T.alloc_buffer(((row_count + 1) * size,), "float32")
            groups: T.let = lists.bounds[1]
            if blocks > 1:
                for i in range(groups * group_sums):
                    sums[i] = T.float32(0)
                for block in range(blocks - 1):
                    fill(x, panel, left, block)
                    for group in range(groups):
                        part_kernel(
                            lists, block * groups + group, group, panel, sums, group * group_sums, lines, row_count
                        )
            fill(x, panel, left, blocks - 1)
            for group in range(groups):
                micro_kernel(
                    lists, (blocks - 1) * groups + group, group, panel, sums, group * group_sums, lines, row_count
                )
            for p in range(wide // lanes):
                for row in range(row_count // lanes):
                    turn_out(ends, left + p * lanes, row * lanes, lines, row * lanes * size + p * lanes)
            for p in range(wide - wide % lanes):
                finish_token(ends, left + p, p, lines, row_count - row_count % lanes)
            for p in range(wide % lanes):
                finish_token(ends, left + wide - wide % lanes + p, wide - wide % lanes + p, lines, 0)

        return run

    whole_tile, last_tile = tile_of(tiling.tile), tile_of(tiling.last)

    @T.inline
    def tiles(x, lists, ends):
        for place in T.parallel(across):
            if uneven > 0:
                if place == across - 1:
                    last_tile(x, lists, ends, place * tile_w)
                else:
                    whole_tile(x, lists, ends, place * tile_w)
            else:
                whole_tile(x, lists, ends, place * tile_w)

    @T.inline
    def run(x, bounds, starts, offsets, values, rows, bias, added, out):
        x_flat = T.decl_buffer((positions * column_count,), "float32", data=x.data)
        out_flat = T.decl_buffer((positions * row_count,), "float32", data=out.data)
        added_flat = T.decl_buffer((positions * row_count,), "float32", data=added.data)
        tiles(x_flat, Lists(bounds, starts, offsets, values, rows), Ends(bias, added_flat, out_flat))

    return entry(geometry, shared, tiling.chunks, tiling.panel.offset_type, epilogue, run)
