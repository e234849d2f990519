"""The kernel behind every sparse pattern of convolutions, and dense ones: shared index lists.

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
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.arithmetic import FLOATS, Arithmetic
from hwsparse.codegen.cpu.copying import prefetch, runs
from hwsparse.codegen.cpu.entry import Ends, convolution, finish_of
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.geometry import LINE_FLOATS, Geometry, Tile, Tiling
from hwsparse.codegen.cpu.micro_kernel import keep_sums, micro_kernel_of, most_groups
from hwsparse.codegen.cpu.patches import patches_of


@functools.cache
def shared_index(
    geometry: Geometry, shared: int, tiling: Tiling, epilogue: Epilogue, arithmetic: Arithmetic = FLOATS
) -> tirx.PrimFunc:
    """The kernel as a PrimFunc of (batch, channel, position) outputs.

    Arguments: input, bounds, starts, offsets, values, rows (as `Packed` has them), bias, then the residual unless
    there is none or it is in place, then the output. Of bytes, before the bias: the word that stands for zeros, what is
    added to the sums of each row, and what they are multiplied by. Of words, they are what the geometry's channels are.
    """
    g, lanes, panels, finish = geometry, tiling.lanes, tiling.panel, finish_of(epilogue)
    channels, row_count, positions = g.channels, g.rows, g.positions
    chunks = tiling.chunks
    blocks = -(-channels // panels.channels)
    source, dtype, summed, zero = patches_of(g, lanes, arithmetic), arithmetic.dtype, arithmetic.summed, arithmetic.zero

    def tile_of(tile: Tile) -> Any:
        """A tile of this width, from its panel to its outputs."""
        vectors, group_sums = tile.vectors, shared * tile.size(lanes)
        added_apart = int(epilogue.residual and not epilogue.in_place)
        sums_size = group_sums * (most_groups(g, shared) if blocks > 1 else 1)
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
                T.buffer_store(ends.out, finish(ends.biased(value, row, width), ends, place, width), [place])

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

        micro_kernel = micro_kernel_of(shared, tile, lanes, blocks > 1, store, arithmetic)
        part_kernel = micro_kernel_of(shared, tile, lanes, True, keep_sums(shared, tile, lanes), arithmetic)

        @T.inline
        def run(planes, lists, ends, image, left, chunk):
            panel = T.alloc_buffer((panels.channels * panels.lines * panels.pitch + lanes,), dtype)
            sums = T.alloc_buffer((sums_size,), summed)
            first: T.let = image * row_count * positions + left
            # A loop that starts elsewhere than at 0 loses its start in nested loops (TVM 0.27).
            head: T.let = lists.bounds[chunk]
            here: T.let = lists.bounds[chunk + 1] - lists.bounds[chunk]
            last_lists: T.let = (blocks - 1) * lists.bounds[chunks]
            if blocks > 1:
                for i in range(here * group_sums):
                    sums[i] = zero
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

    return convolution(g, shared, tiling, panels.offset_type, epilogue, source.size, source.copy, tile_of, arithmetic)
