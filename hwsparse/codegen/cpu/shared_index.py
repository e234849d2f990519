"""The kernel behind every sparse pattern and every dense convolution: shared index lists.

    out[row, p] = clip( bias[row] + sum over kept columns of weight[row, column] * panel[column, p] )

A group of `shared` output rows has one list of kept columns; p runs over a tile of positions, whose
input patches are first copied to a panel, one line per column, so that every load of the inner loop
is aligned and contiguous and every loaded vector feeds `shared` multiply-adds. shared = 1 serves
unstructured and N:M sparsity, more serve blocks and shared N:M, a list of every column a dense layer.
The lists are data: one compiled kernel serves every ratio.

Where loads are what limits it, the panel is filled and used a block of columns at a time, so that it
stays in L1; the sums of all rows then wait in a buffer between blocks.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

import functools
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.copying import copy_line, copy_run, load_transposed
from hwsparse.codegen.cpu.entry import REGISTERS, Ends, Lists, entry, finish_of
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.geometry import Geometry, Tile, Tiling


@functools.cache
def shared_index(geometry: Geometry, shared: int, tiling: Tiling, epilogue: Epilogue) -> tirx.PrimFunc:
    """The kernel as a PrimFunc; convolutions are (batch, channel, position), products (position, row).

    Arguments: input, bounds, starts, columns, values, rows (as `Packed` has them), bias, then the
    residual if there is one, then the output.
    """
    kind = _tokens if geometry.tokens else _convolution
    return kind(geometry, shared, tiling, epilogue)


def _micro_kernel(shared: int, vectors: int, lanes: int, split: bool) -> Any:
    """One index list over one tile: sums in registers, left in `sums` from `start` on; added there if `split`."""
    size, add = vectors * lanes, int(split)

    @T.inline
    def micro_kernel(lists, index, panel, sums, start):
        acc = T.alloc_buffer((shared * vectors, lanes), "float32", scope="local", annotations=REGISTERS)
        for i in T.unroll(shared * vectors):
            for lane in T.vectorized(lanes):
                if add > 0:
                    acc[i, lane] = sums[start + i * lanes + lane]
                else:
                    acc[i, lane] = T.float32(0)
        for step in range(lists.starts[index + 1] - lists.starts[index]):
            item: T.let = lists.starts[index] + step
            for row in T.unroll(shared):
                for vector in T.unroll(vectors):
                    for lane in T.vectorized(lanes):
                        acc[row * vectors + vector, lane] = (
                            acc[row * vectors + vector, lane]
                            + lists.values[item, row] * panel[lists.columns[item] * size + vector * lanes + lane]
                        )
        for i in T.unroll(shared * vectors):
            for lane in T.vectorized(lanes):
                sums[start + i * lanes + lane] = acc[i, lane]

    return micro_kernel


def _convolution(geometry: Geometry, shared: int, tiling: Tiling, epilogue: Epilogue) -> tirx.PrimFunc:
    g, lanes, finish = geometry, tiling.lanes, finish_of(epilogue)
    batch, channels, row_count, positions = g.batch, g.channels, g.rows, g.positions
    # Pointwise positions form one long row: a tile may then cross image rows.
    in_h, in_w, out_w = (1, positions, positions) if g.pointwise else (g.in_h, g.in_w, g.out_w)
    kernel_w, taps, pad_top = g.kernel_w, g.kernel_h * g.kernel_w, g.pad_top
    stride_h, stride_w, dilation_h, dilation_w = g.stride_h, g.stride_w, g.dilation_h, g.dilation_w
    # Where a tap's runs are not contiguous in the input itself, they are in planes copied from it.
    copied = int(g.padded or stride_w > 1)
    plane_h = in_h + g.pad_top + g.pad_bottom
    pitch = -(-(in_w + g.pad_left + g.pad_right) // stride_w)
    line = stride_w * pitch
    down, across, chunks = tiling.down, tiling.across, tiling.chunks
    tile_h, tile_w, uneven = tiling.tile.height, tiling.tile.width, int(tiling.tile != tiling.last)
    turns = across if across > 1 else down  # of this many tiles one is the last
    channel_block = tiling.block // taps
    blocks = -(-channels // channel_block)
    copy = copy_line(g, pitch, lanes)

    @T.inline
    def copy_planes(x, planes):
        for plane in T.parallel(batch * channels):
            for i in range(plane_h * line):
                planes[plane * plane_h * line + i] = T.float32(0)
            for i in range(plane_h):
                copy(planes, (plane * plane_h + i) * line, x, plane, i - pad_top)

    def tile_of(tile: Tile) -> Any:
        """A tile of this shape, from its panel to its outputs."""
        high, wide, size = tile.height, tile.width, tile.vectors * lanes
        micro_kernel = _micro_kernel(shared, tile.vectors, lanes, blocks > 1)
        copy = copy_run(wide, lanes)
        group_sums = shared * size
        sums_size = group_sums * (_most_groups(g, shared) if blocks > 1 else 1)

        @T.inline
        def fill(planes, panel, image, top, left, block):
            for c in range(T.min(channel_block, channels - block * channel_block)):
                channel: T.let = image * channels + block * channel_block + c
                for tap in range(taps):
                    for i in range(high):
                        copy(
                            panel,
                            (c * taps + tap) * size + i * wide,
                            planes,
                            (channel * plane_h + (top + i) * stride_h + tap // kernel_w * dilation_h) * line
                            + tap % kernel_w * dilation_w % stride_w * pitch
                            + tap % kernel_w * dilation_w // stride_w
                            + left,
                        )

        @T.inline
        def store(lists, ends, group, sums, start, first):
            for slot in range(shared):
                if lists.rows[group * shared + slot] >= 0:
                    row: T.let = lists.rows[group * shared + slot]
                    for i in range(high * wide):
                        ends.out[first + row * positions + i] = finish(
                            sums[start + slot * size + i] + ends.bias[row], ends.added, first + row * positions + i
                        )

        @T.inline
        def run(planes, lists, ends, image, top, left, chunk):
            panel = T.alloc_buffer((channel_block * taps * size,), "float32")
            sums = T.alloc_buffer((sums_size,), "float32")
            first: T.let = image * row_count * positions + top * out_w + left
            # A loop that starts elsewhere than at 0 loses its start in nested loops (TVM 0.27).
            head: T.let = lists.bounds[chunk]
            count: T.let = lists.bounds[chunk + 1] - lists.bounds[chunk]
            if blocks == 1:
                fill(planes, panel, image, top, left, 0)
                for step in range(count):
                    micro_kernel(lists, head + step, panel, sums, 0)
                    store(lists, ends, head + step, sums, 0, first)
            else:
                for i in range(count * group_sums):
                    sums[i] = T.float32(0)
                for block in range(blocks):
                    fill(planes, panel, image, top, left, block)
                    for step in range(count):
                        micro_kernel(lists, block * lists.bounds[chunks] + head + step, panel, sums, step * group_sums)
                for step in range(count):
                    store(lists, ends, head + step, sums, step * group_sums, first)

        return run

    whole_tile, last_tile = tile_of(tiling.tile), tile_of(tiling.last)

    @T.inline
    def tiles(planes, lists, ends):
        for task in T.parallel(batch * down * across * chunks):
            place: T.let = task // chunks
            image: T.let = place // (down * across)
            top: T.let = place // across % down * tile_h
            left: T.let = place % across * tile_w
            if uneven > 0:
                if place % turns == turns - 1:
                    last_tile(planes, lists, ends, image, top, left, task % chunks)
                else:
                    whole_tile(planes, lists, ends, image, top, left, task % chunks)
            else:
                whole_tile(planes, lists, ends, image, top, left, task % chunks)

    @T.inline
    def run(x, bounds, starts, columns, values, rows, bias, added, out):
        x_flat = T.decl_buffer((batch * channels * in_h * in_w,), "float32", data=x.data)
        out_flat = T.decl_buffer((batch * row_count * positions,), "float32", data=out.data)
        added_flat = T.decl_buffer((batch * row_count * positions,), "float32", data=added.data)
        if copied > 0:
            planes = T.alloc_buffer((batch * channels * plane_h * line,), "float32")
            copy_planes(x_flat, planes)
            tiles(planes, Lists(bounds, starts, columns, values, rows), Ends(bias, added_flat, out_flat))
        else:
            tiles(x_flat, Lists(bounds, starts, columns, values, rows), Ends(bias, added_flat, out_flat))

    return entry(geometry, shared, chunks, epilogue, run)


def _most_groups(geometry: Geometry, shared: int) -> int:
    """Row groups that packing makes at most: rows with weights and rows without may each end in a part group."""
    return geometry.groups * (-(-geometry.rows // geometry.groups // shared) + 1)


def _tokens(geometry: Geometry, shared: int, tiling: Tiling, epilogue: Epilogue) -> tirx.PrimFunc:
    lanes, tile_w, across, finish = tiling.lanes, tiling.tile.width, tiling.across, finish_of(epilogue)
    positions, column_count, row_count = geometry.positions, geometry.channels, geometry.rows
    column_block, uneven = tiling.block, int(tiling.tile != tiling.last)
    blocks = -(-column_count // column_block)

    def tile_of(tile: Tile) -> Any:
        """A tile of so many tokens: its rows are summed one after the other, and written token by token."""
        wide, size = tile.width, tile.vectors * lanes
        micro_kernel = _micro_kernel(shared, tile.vectors, lanes, blocks > 1)
        copy = copy_run(size, lanes)
        group_sums = shared * size
        sums_size = group_sums * (_most_groups(geometry, shared) if blocks > 1 else 1)

        def turn_in(panel: Any, to: Any, x: Any, start: Any) -> None:
            for i, column in enumerate(load_transposed(x, start, column_count, lanes)):
                T.buffer_store(panel, column, [T.Ramp(to + i * size, 1, lanes)])

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
                    turn_in(panel, c * lanes * size + p * lanes, x, start + p * lanes * column_count + c * lanes)
            for p in range(wide - wide % lanes):
                for c in range(here % lanes):
                    panel[(here - here % lanes + c) * size + p] = x[start + p * column_count + here - here % lanes + c]
            for p in range(wide % lanes):
                for c in range(here):
                    panel[c * size + wide - wide % lanes + p] = x[start + (wide - wide % lanes + p) * column_count + c]

        @T.inline
        def finish_token(ends, token, p, lines, first):
            for row in range(row_count - first):
                index: T.let = token * row_count + first + row
                ends.out[index] = finish(lines[(first + row) * size + p] + ends.bias[first + row], ends.added, index)

        @T.inline
        def collect(lists, group, sums, start, lines):
            for slot in range(shared):
                line: T.let = T.if_then_else(
                    lists.rows[group * shared + slot] >= 0, lists.rows[group * shared + slot], row_count
                )
                copy(lines, line * size, sums, start + slot * size)

        @T.inline
        def run(x, lists, ends, left):
            panel = T.alloc_buffer((column_block * size,), "float32")
            sums = T.alloc_buffer((sums_size,), "float32")
            # One line more than there are rows: slots without a row are collected there.
            lines = T.alloc_buffer(((row_count + 1) * size,), "float32")
            groups: T.let = lists.bounds[1]
            if blocks == 1:
                fill(x, panel, left, 0)
                for group in range(groups):
                    micro_kernel(lists, group, panel, sums, 0)
                    collect(lists, group, sums, 0, lines)
            else:
                for i in range(groups * group_sums):
                    sums[i] = T.float32(0)
                for block in range(blocks):
                    fill(x, panel, left, block)
                    for group in range(groups):
                        micro_kernel(lists, block * groups + group, panel, sums, group * group_sums)
                for group in range(groups):
                    collect(lists, group, sums, group * group_sums, lines)
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
    def run(x, bounds, starts, columns, values, rows, bias, added, out):
        x_flat = T.decl_buffer((positions * column_count,), "float32", data=x.data)
        out_flat = T.decl_buffer((positions * row_count,), "float32", data=out.data)
        added_flat = T.decl_buffer((positions * row_count,), "float32", data=added.data)
        tiles(x_flat, Lists(bounds, starts, columns, values, rows), Ends(bias, added_flat, out_flat))

    return entry(geometry, shared, tiling.chunks, epilogue, run)
