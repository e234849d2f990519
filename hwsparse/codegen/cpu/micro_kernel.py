"""The inner kernel of the shared-index and Winograd's kernels: one index list over one tile, in registers.

Every loaded vector of the panel feeds as many multiply-adds as rows share the list. Where arithmetic takes weights from
lanes of a vector, as many entries are worked on together as fill vectors of weights: of rows that share no list four,
whose places are read at once too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.arithmetic import FLOATS, WEIGHT_LANES, Arithmetic
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
    together = arithmetic.entries_together(shared)

    def accumulate(sums: Any, place: int, weights: Sequence[Any], panel: Any, start: Any, lanes: int) -> None:
        every, spread = T.Ramp(0, 1, lanes), [T.Broadcast(weight, lanes) for weight in weights]
        total = arithmetic.multiply_add(sums[place, every], spread, panel[T.Ramp(start, 1, lanes)], lanes)
        T.buffer_store(sums, total, [place, every])

    def add_entries(acc: Any, rest: Any, lists: Any, item: Any, panel: Any) -> None:
        weights, offsets = _weights(lists.values, item, shared, together), _offsets(lists.offsets, item, together)
        for entry, offset in enumerate(offsets):
            for row in range(shared):
                weight = [weights[entry * shared + row]]
                for vector in range(vectors):
                    accumulate(acc, row * vectors + vector, weight, panel, offset + vector * lanes, lanes)
                if narrow:
                    accumulate(rest, row, weight, panel, offset + vectors * lanes, narrow)

    @T.inline
    def add_entry(acc, rest, lists, item, panel):
        offset: T.let = T.cast(lists.offsets[item], "int32")
        for row in T.unroll(shared):
            for vector in T.unroll(vectors):
                accumulate(
                    acc,
                    row * vectors + vector,
                    [lists.values[item, part * shared + row] for part in range(arithmetic.parts)],
                    panel,
                    offset + vector * lanes,
                    lanes,
                )
            if narrow > 0:
                accumulate(
                    rest,
                    row,
                    [lists.values[item, part * shared + row] for part in range(arithmetic.parts)],
                    panel,
                    offset + vectors * lanes,
                    narrow,
                )

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
        if together > 0:
            count: T.let = lists.starts[index + 1] - lists.starts[index]
            for step in range(count // together):
                add_entries(acc, rest, lists, lists.starts[index] + step * together, panel)
            if together > 1:
                for step in range(count % together):
                    left: T.let = lists.starts[index + 1] - count % together + step
                    add_entry(acc, rest, lists, left, panel)
        else:
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


def _weights(values: Any, item: Any, shared: int, entries: int) -> list[Any]:
    """Of so many entries, the weights of each one's rows: lanes of vectors, each loaded once."""
    flat = T.decl_buffer((values.shape[0] * values.shape[1],), values.dtype, data=values.data)
    found = []
    for start in range(0, entries * shared, WEIGHT_LANES):
        vector = T.bind(flat[T.Ramp(item * shared + start, 1, WEIGHT_LANES)])
        found += [tirx.Shuffle([vector], [lane]) for lane in range(WEIGHT_LANES)]
    return found


def _offsets(offsets: Any, item: Any, entries: int) -> list[Any]:
    """Of so many entries, where in the panel the columns of each begin; short ones are taken out of one word."""
    if offsets.dtype != "uint16" or entries == 1:
        return [T.bind(T.cast(offsets[item + entry], "int32")) for entry in range(entries)]
    word_type, read = f"uint{16 * entries}", offsets[T.Ramp(item, 1, entries)]
    word = T.bind(T.reinterpret(word_type, read))
    mask = tirx.const(0xFFFF, word_type)
    return [T.bind(T.cast((word >> tirx.const(16 * at, word_type)) & mask, "int32")) for at in range(entries)]


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
