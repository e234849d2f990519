"""The inner kernel of the shared-index and Winograd's kernels: one index list over one tile, in registers.

Every loaded vector of the panel feeds as many multiply-adds as rows share the list. Where an arithmetic sums in runs,
those of a run stay in registers, and its sums are added to the others', which LLVM keeps on the stack meanwhile.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.arithmetic import FLOATS, Arithmetic
from hwsparse.codegen.cpu.entry import REGISTERS
from hwsparse.codegen.cpu.geometry import Geometry, Tile


def micro_kernel_of(
    shared: int, tile: Tile, lanes: int, resumed: bool, leave: Any, arithmetic: Arithmetic = FLOATS
) -> Any:
    """An inline function that sums one index list over one tile in registers, then hands the sums to `leave`.

    Its arguments are (lists, index, group, panel, sums, start, to, place): list `index` is of row group `group`;
    where `resumed` the sums start from what `sums` keeps from `start` on. `leave` is an inline function of
    (acc, rest, lists, group, sums, start, to, place), `rest` being the sums of the narrower vectors.
    """
    add, vectors, narrow, size = int(resumed), tile.vectors, tile.rest, tile.size(lanes)
    dtype, zero, run = arithmetic.summed, arithmetic.zero, arithmetic.run

    def accumulate(sums: Any, place: int, lists: Any, item: Any, row: Any, panel: Any, start: Any, lanes: int) -> None:
        every = T.Ramp(0, 1, lanes)
        weights = [T.Broadcast(lists.values[item, part * shared + row], lanes) for part in range(arithmetic.parts)]
        total = arithmetic.multiply_add(sums[place, every], weights, panel[T.Ramp(start, 1, lanes)], lanes)
        T.buffer_store(sums, total, [place, every])

    @T.inline
    def add_entry(acc, rest, lists, item, panel):
        offset: T.let = T.cast(lists.offsets[item], "int32")
        for row in T.unroll(shared):
            for vector in T.unroll(vectors):
                accumulate(acc, row * vectors + vector, lists, item, row, panel, offset + vector * lanes, lanes)
            if narrow > 0:
                accumulate(rest, row, lists, item, row, panel, offset + vectors * lanes, narrow)

    @T.inline
    def begin(acc, rest, sums, start):
        for row in T.unroll(shared):
            for vector in T.unroll(vectors):
                for lane in T.vectorized(lanes):
                    if add > 0:
                        acc[row * vectors + vector, lane] = sums[start + row * size + vector * lanes + lane]
                    else:
                        acc[row * vectors + vector, lane] = zero
            if narrow > 0:
                for lane in T.vectorized(narrow):
                    if add > 0:
                        rest[row, lane] = sums[start + row * size + vectors * lanes + lane]
                    else:
                        rest[row, lane] = zero

    @T.inline
    def micro_kernel(lists, index, group, panel, sums, start, to, place):
        acc = T.alloc_buffer((shared * vectors, lanes), dtype, scope="local", annotations=REGISTERS)
        rest = T.alloc_buffer((shared, max(narrow, 1)), dtype, scope="local", annotations=REGISTERS)
        begin(acc, rest, sums, start)
        for step in range(lists.starts[index + 1] - lists.starts[index]):
            item: T.let = lists.starts[index] + step
            add_entry(acc, rest, lists, item, panel)
        leave(acc, rest, lists, group, sums, start, to, place)

    @T.inline
    def by_runs(lists, index, group, panel, sums, start, to, place):
        acc = T.alloc_buffer((shared * vectors, lanes), dtype, scope="local", annotations=REGISTERS)
        rest = T.alloc_buffer((shared, max(narrow, 1)), dtype, scope="local", annotations=REGISTERS)
        if add > 0:
            begin(acc, rest, sums, start)
        count: T.let = lists.starts[index + 1] - lists.starts[index]
        # A list of nothing has a run of nothing: it gives zeros.
        for turn in range(T.max((count + (run - 1)) // run, 1)):
            part = T.alloc_buffer((shared * vectors, lanes), arithmetic.dtype, scope="local", annotations=REGISTERS)
            part_rest = T.alloc_buffer((shared, max(narrow, 1)), arithmetic.dtype, scope="local", annotations=REGISTERS)
            clear(part, shared * vectors, lanes)
            if narrow > 0:
                clear(part_rest, shared, narrow)
            for step in range(T.min(count - turn * run, run)):
                item: T.let = lists.starts[index] + turn * run + step
                add_entry(part, part_rest, lists, item, panel)
            if turn == 0 and add == 0:
                add_run(acc, part, shared * vectors, lanes, True)
                if narrow > 0:
                    add_run(rest, part_rest, shared, narrow, True)
            else:
                add_run(acc, part, shared * vectors, lanes, False)
                if narrow > 0:
                    add_run(rest, part_rest, shared, narrow, False)
        leave(acc, rest, lists, group, sums, start, to, place)

    return by_runs if run else micro_kernel


def clear(part: Any, places: int, lanes: int) -> None:
    """Makes the sums of a run, (places, lanes), zeros."""
    for place in range(places):
        T.buffer_store(part, T.Broadcast(tirx.const(0, part.dtype), lanes), [place, T.Ramp(0, 1, lanes)])


def add_run(sums: Any, part: Any, places: int, lanes: int, first: bool = False) -> None:
    """Adds the sums of a run to the sums of runs before it, or puts them in their place."""
    for place in range(places):
        every = T.Ramp(0, 1, lanes)
        added = tirx.Cast(f"{sums.dtype}x{lanes}", part[place, every])
        T.buffer_store(sums, added if first else sums[place, every] + added, [place, every])


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


def most_groups(geometry: Geometry, shared: int) -> int:
    """Row groups that packing makes at most: rows with weights and rows without may each end in a part group."""
    return geometry.groups * (-(-geometry.rows // geometry.groups // shared) + 1)
