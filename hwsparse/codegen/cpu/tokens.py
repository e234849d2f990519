"""The shared-index kernel for matrix products, whose positions are rows (tokens): turned over on the way in and out.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

import functools
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.arithmetic import FLOATS, Arithmetic
from hwsparse.codegen.cpu.copying import join_neighbours, load_transposed
from hwsparse.codegen.cpu.entry import Ends, entry, finish_of
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.geometry import Geometry, Tile, Tiling
from hwsparse.codegen.cpu.micro_kernel import keep_sums, micro_kernel_of, most_groups


@functools.cache
def shared_index_tokens(
    geometry: Geometry, shared: int, tiling: Tiling, epilogue: Epilogue, arithmetic: Arithmetic = FLOATS
) -> tirx.PrimFunc:
    """The kernel as a PrimFunc of (position, row) outputs, with the arguments of `shared_index`."""
    lanes, tile_w, across, finish = tiling.lanes, tiling.tile.width, tiling.count, finish_of(epilogue)
    positions, column_count, row_count = geometry.positions, geometry.channels, geometry.rows
    column_block, pitch, uneven = tiling.panel.channels, tiling.panel.pitch, int(tiling.tile != tiling.last)
    blocks = -(-column_count // column_block)
    dtype, summed, zero, out_type = arithmetic.dtype, arithmetic.summed, arithmetic.zero, epilogue.stored
    multiplied = arithmetic.multiplied
    # Sums are floats, or as wide, also where what is multiplied is narrower.
    floats = lanes // arithmetic.narrower
    added_type = epilogue.added if epilogue.residual else out_type

    def tile_of(tile: Tile) -> Any:
        """A tile of so many tokens: its rows are summed one after the other, and written token by token."""
        wide, size = tile.width, tile.vectors * lanes
        group_sums = shared * size
        sums_size = group_sums * (most_groups(geometry, shared) if blocks > 1 else 1)

        def turn_in(panel: Any, to: Any, x: Any, start: Any) -> None:
            for i, column in enumerate(load_transposed(x, start, column_count, lanes)):
                T.buffer_store(panel, multiplied(column, lanes), [T.Ramp(to + i * pitch, 1, lanes)])

        def turn_out(ends: Ends, token: Any, row: Any, lines: Any, start: Any) -> None:
            for i, sums in enumerate(load_transposed(lines, start, size, floats)):
                place = T.Ramp((token + i) * row_count + row, 1, floats)
                value = finish(ends.biased(sums, T.Ramp(row, 1, floats), floats), ends, place, floats)
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
                    panel[(here - here % lanes + c) * pitch + p] = multiplied(
                        x[start + p * column_count + here - here % lanes + c], 1
                    )
            for p in range(wide % lanes):
                for c in range(here):
                    panel[c * pitch + wide - wide % lanes + p] = multiplied(
                        x[start + (wide - wide % lanes + p) * column_count + c], 1
                    )

        @T.inline
        def finish_token(ends, token, p, lines, first):
            for row in range(row_count - first):
                index: T.let = token * row_count + first + row
                ends.out[index] = finish(ends.biased(lines[(first + row) * size + p], first + row, 1), ends, index, 1)

        @T.inline
        def collect(acc, rest, lists, group, sums, start, lines, end):
            for slot in T.unroll(shared):
                line: T.let = T.if_then_else(
                    lists.rows[group * shared + slot] >= 0, lists.rows[group * shared + slot], end
                )
                for i in T.unroll(tile.vectors):
                    for lane in T.vectorized(lanes):
                        lines[line * size + i * lanes + lane] = acc[slot * tile.vectors + i, lane]

        micro_kernel = micro_kernel_of(shared, tile, lanes, blocks > 1, collect, arithmetic)
        part_kernel = micro_kernel_of(shared, tile, lanes, True, keep_sums(shared, tile, lanes), arithmetic)

        @T.inline
        def run(x, lists, ends, left):
            panel = T.alloc_buffer((column_block * pitch,), dtype)
            sums = T.alloc_buffer((sums_size,), summed)
            # One line more than there are rows: slots without a row are collected there.
            lines = T.alloc_buffer(((row_count + 1) * size,), summed)
            groups: T.let = lists.bounds[1]
            if blocks > 1:
                for i in range(groups * group_sums):
                    sums[i] = zero
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
            for p in range(wide // floats):
                for row in range(row_count // floats):
                    turn_out(ends, left + p * floats, row * floats, lines, row * floats * size + p * floats)
            for p in range(wide - wide % floats):
                finish_token(ends, left + p, p, lines, row_count - row_count % floats)
            for p in range(wide % floats):
                finish_token(ends, left + wide - wide % floats + p, wide - wide % floats + p, lines, 0)

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
    def flat(words, lists, ends):
        out_flat = T.decl_buffer((positions * row_count,), out_type, data=ends.out.data)
        added_flat = T.decl_buffer((positions * row_count,), added_type, data=ends.added.data)
        tiles(words, lists, ends._replace(added=added_flat, out=out_flat))

    rounded, inputs = int(arithmetic.rounds), arithmetic.inputs_of_word
    join = join_neighbours(column_count, lanes, arithmetic)

    @T.inline
    def run(x, lists, ends):
        if rounded > 0:
            x_flat = T.decl_buffer((positions * column_count * inputs,), "float32", data=x.data)
            words = T.alloc_buffer((positions * column_count,), dtype)
            for p in T.parallel(positions):
                join(words, p * column_count, x_flat)
            flat(words, lists, ends)
        else:
            x_flat = T.decl_buffer((positions * column_count,), dtype, data=x.data)
            flat(x_flat, lists, ends)

    return entry(geometry, shared, tiling.chunks, tiling.panel.offset_type, epilogue, run, arithmetic)
