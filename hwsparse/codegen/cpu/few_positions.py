"""Products with one or a few positions: the vectors run along output rows instead of positions.

    out[p, row] = clip( bias[row] + sum over kept columns of weight[row, column] * x[p, column] )

A row group is one vector wide (or several), its kept columns are the union of its rows'. With a
single position every weight is read once, so the kernel is bound by reading weights, and blocks as
tall as the vector save the most.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

import functools
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.arithmetic import FLOATS, Arithmetic
from hwsparse.codegen.cpu.copying import join_neighbours
from hwsparse.codegen.cpu.entry import REGISTERS, entry, finish_of
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.geometry import Geometry, offset_type
from hwsparse.codegen.cpu.micro_kernel import add_run, clear


@functools.cache
def few_positions(geometry: Geometry, lanes: int, epilogue: Epilogue, arithmetic: Arithmetic = FLOATS) -> tirx.PrimFunc:
    """The kernel as a PrimFunc, with the arguments of `shared_index`; row groups have `lanes` rows."""
    positions, columns_in, row_count = geometry.positions, geometry.channels, geometry.rows
    finish, dtype, out_type = finish_of(epilogue), arithmetic.dtype, epilogue.stored
    summed, zero, most = arithmetic.summed, arithmetic.zero, arithmetic.run
    rounded, inputs = int(arithmetic.rounds), arithmetic.inputs_of_word
    join = join_neighbours(positions * columns_in, lanes, arithmetic)
    added_type = epilogue.added if epilogue.residual else out_type

    def accumulate(acc: Any, place: int, values: Any, item: Any, value: Any) -> None:
        every = T.Ramp(0, 1, lanes)
        weights = [values[item, T.Ramp(part * lanes, 1, lanes)] for part in range(arithmetic.parts)]
        spread = T.Broadcast(arithmetic.multiplied(value, 1), lanes)
        total = arithmetic.multiply_add(acc[place, every], weights, spread, lanes)
        T.buffer_store(acc, total, [place, every])

    @T.inline
    def add_entry(acc, x_flat, lists, item):
        for p in T.unroll(positions):
            accumulate(acc, p, lists.values, item, x_flat[p * columns_in + T.cast(lists.offsets[item], "int32")])

    @T.inline
    def sum_run(acc, x_flat, lists, first, count):
        part = T.alloc_buffer((positions, lanes), dtype, scope="local", annotations=REGISTERS)
        clear(part, positions, lanes)
        for step in range(count):
            item: T.let = first + step
            add_entry(part, x_flat, lists, item)
        add_run(acc, part, positions, lanes)

    @T.inline
    def groups(x_flat, lists, ends):
        out_flat = T.decl_buffer((positions * row_count,), out_type, data=ends.out.data)
        added_flat = T.decl_buffer((positions * row_count,), added_type, data=ends.added.data)
        for group in T.parallel(lists.bounds[1]):
            acc = T.alloc_buffer((positions, lanes), summed, scope="local", annotations=REGISTERS)
            sums = T.alloc_buffer((positions * lanes,), summed)
            for p in T.unroll(positions):
                for lane in T.vectorized(lanes):
                    acc[p, lane] = zero
            if most > 0:
                count: T.let = lists.starts[group + 1] - lists.starts[group]
                for turn in range((count + (most - 1)) // most):
                    sum_run(acc, x_flat, lists, lists.starts[group] + turn * most, T.min(count - turn * most, most))
            else:
                for step in range(lists.starts[group + 1] - lists.starts[group]):
                    item: T.let = lists.starts[group] + step
                    add_entry(acc, x_flat, lists, item)
            for p in T.unroll(positions):
                for lane in T.vectorized(lanes):
                    sums[p * lanes + lane] = acc[p, lane]
            for p in range(positions):
                for lane in range(lanes):
                    if lists.rows[group * lanes + lane] >= 0:
                        row: T.let = lists.rows[group * lanes + lane]
                        index: T.let = p * row_count + row
                        value: T.let = ends.biased(sums[p * lanes + lane], row, 1)
                        out_flat[index] = finish(value, ends._replace(added=added_flat), index, 1)

    @T.inline
    def run(x, lists, ends):
        if rounded > 0:
            x_flat = T.decl_buffer((positions * columns_in * inputs,), "float32", data=x.data)
            words = T.alloc_buffer((positions * columns_in,), dtype)
            join(words, 0, x_flat)
            groups(words, lists, ends)
        else:
            x_flat = T.decl_buffer((positions * columns_in,), dtype, data=x.data)
            groups(x_flat, lists, ends)

    return entry(geometry, lanes, 1, offset_type(columns_in), epilogue, run, arithmetic)
