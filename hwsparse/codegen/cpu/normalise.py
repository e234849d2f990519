"""Softmax and layer normalisation along the last axis, greatest values and averages over the last ones, row by row.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.entry import REGISTERS
from hwsparse.codegen.cpu.vector_math import exp_nonpositive, reduce_lanes

# Elements that a thread should have at least, for waking it to pay.
MIN_ELEMENTS_PER_THREAD = 4096
# Sums that do not wait for one another.
PARTS = 4


def exponentials(vectors: int, lanes: int, score: Callable[[Any, Any], Any]) -> Any:
    """An inline function that turns a line of scores into exp(score - greatest score).

    Its arguments are (line, start, added, added_start, inverses, place): a score is `score` of a vector of the
    line and one of `added`; the inverse of their sum is left at inverses[place].
    """

    @T.inline
    def run(line, start, added, added_start, inverses, place):
        most = T.alloc_buffer((lanes,), "float32", scope="local", annotations=REGISTERS)
        total = T.alloc_buffer((lanes,), "float32", scope="local", annotations=REGISTERS)
        most[T.Ramp(0, 1, lanes)] = T.Broadcast(T.float32("-inf"), lanes)
        total[T.Ramp(0, 1, lanes)] = T.Broadcast(T.float32(0), lanes)
        for i in range(vectors):
            line[T.Ramp(start + i * lanes, 1, lanes)] = score(
                line[T.Ramp(start + i * lanes, 1, lanes)], added[T.Ramp(added_start + i * lanes, 1, lanes)]
            )
            most[T.Ramp(0, 1, lanes)] = T.max(most[T.Ramp(0, 1, lanes)], line[T.Ramp(start + i * lanes, 1, lanes)])
        peak: T.let = reduce_lanes(most[T.Ramp(0, 1, lanes)], T.max)
        for i in range(vectors):
            line[T.Ramp(start + i * lanes, 1, lanes)] = exp_nonpositive(
                line[T.Ramp(start + i * lanes, 1, lanes)] - peak
            )
            total[T.Ramp(0, 1, lanes)] = total[T.Ramp(0, 1, lanes)] + line[T.Ramp(start + i * lanes, 1, lanes)]
        whole: T.let = reduce_lanes(total[T.Ramp(0, 1, lanes)], lambda a, b: a + b)
        inverses[place] = T.float32(1) / T.Shuffle([whole], [0])

    return run


@functools.cache
def softmax(shape: tuple[int, ...], lanes: int, threads: int) -> tirx.PrimFunc:
    """The kernel as a PrimFunc of input and output, both of this shape."""
    rows, width = math.prod(shape[:-1]), shape[-1]
    vectors = -(-width // lanes)
    per_part = _rows_per_part(rows, width, threads)
    soften = exponentials(vectors, lanes, lambda line, added: line)

    @T.prim_func(s_tir=True)
    def kernel(x: T.Buffer(shape, "float32"), y: T.Buffer(shape, "float32")):
        T.func_attr({"tirx.noalias": True})
        x_flat = T.decl_buffer((rows * width,), "float32", data=x.data)
        y_flat = T.decl_buffer((rows * width,), "float32", data=y.data)
        with T.sblock("rows"):  # Relax looks into functions of one input, lest they be copies, and expects a block
            T.reads()
            T.writes()
            for part in T.parallel(-(-rows // per_part)):
                line = T.alloc_buffer((vectors * lanes,), "float32")
                inverse = T.alloc_buffer((1,), "float32")
                for step in range(T.min(per_part, rows - part * per_part)):
                    start: T.let = (part * per_part + step) * width
                    for i in range(width):
                        line[i] = x_flat[start + i]
                    for i in range(vectors * lanes - width):
                        line[width + i] = T.float32("-inf")
                    soften(line, 0, line, 0, inverse, 0)
                    for i in range(width):
                        y_flat[start + i] = line[i] * inverse[0]

    return kernel


@functools.cache
def greatest(shape: tuple[int, ...], out_shape: tuple[int, ...], lanes: int, threads: int) -> tirx.PrimFunc:
    """The kernel as a PrimFunc of input and output: greatest values over the last axes; LLVM vectorises sums only."""
    return _reduced(shape, out_shape, lanes, threads, -math.inf, T.max, 1.0)


@functools.cache
def average(shape: tuple[int, ...], out_shape: tuple[int, ...], lanes: int, threads: int) -> tirx.PrimFunc:
    """The kernel as a PrimFunc of input and output: averages over the last axes."""
    count = math.prod(shape) // math.prod(out_shape)
    return _reduced(shape, out_shape, lanes, threads, 0.0, lambda a, b: a + b, 1 / count)


def _reduced(
    shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    lanes: int,
    threads: int,
    nothing: float,
    combine: Callable[[Any, Any], Any],
    scale: float,
) -> tirx.PrimFunc:
    """What is left of the last axes when their elements are combined, `nothing` at first, and scaled."""
    rows = math.prod(out_shape)
    width = math.prod(shape) // rows
    per_part = _rows_per_part(rows, width, threads)
    vectors = width // lanes

    @T.inline
    def add(total, part, x, place):
        total[T.Ramp(part * lanes, 1, lanes)] = combine(
            total[T.Ramp(part * lanes, 1, lanes)], x[T.Ramp(place, 1, lanes)]
        )

    @T.prim_func(s_tir=True)
    def kernel(x: T.Buffer(shape, "float32"), y: T.Buffer(out_shape, "float32")):
        T.func_attr({"tirx.noalias": True})
        x_flat = T.decl_buffer((rows * width,), "float32", data=x.data)
        y_flat = T.decl_buffer((rows,), "float32", data=y.data)
        with T.sblock("rows"):  # as in `softmax`
            T.reads()
            T.writes()
            for part in T.parallel(-(-rows // per_part)):
                for step in range(T.min(per_part, rows - part * per_part)):
                    total = T.alloc_buffer((PARTS * lanes,), "float32", scope="local", annotations=REGISTERS)
                    row: T.let = part * per_part + step
                    for i in T.unroll(PARTS):
                        total[T.Ramp(i * lanes, 1, lanes)] = T.Broadcast(T.float32(nothing), lanes)
                    for i in range(vectors // PARTS):
                        for j in T.unroll(PARTS):
                            add(total, j, x_flat, row * width + (i * PARTS + j) * lanes)
                    for j in T.unroll(vectors % PARTS):
                        add(total, j, x_flat, row * width + (vectors // PARTS * PARTS + j) * lanes)
                    for j in T.unroll(PARTS - 1):
                        add(total, 0, total, (j + 1) * lanes)
                    for i in range(width % lanes):
                        total[i] = combine(total[i], x_flat[row * width + vectors * lanes + i])
                    y_flat[row] = T.Shuffle([reduce_lanes(total[T.Ramp(0, 1, lanes)], combine)], [0]) * T.float32(scale)

    return kernel


@functools.cache
def layer_norm(shape: tuple[int, ...], epsilon: float, lanes: int, threads: int) -> tirx.PrimFunc:
    """The kernel as a PrimFunc of input, scale and shift (both of the last axis' size) and output."""
    rows, width = math.prod(shape[:-1]), shape[-1]
    vectors = -(-width // lanes)
    per_part = _rows_per_part(rows, width, threads)

    @T.inline
    def add_up(line, total, mean, square):
        """The sum of a line's values, or of the squares of their distances from the mean, in every lane."""
        for part in T.unroll(PARTS):
            total[T.Ramp(part * lanes, 1, lanes)] = T.Broadcast(T.float32(0), lanes)
        for i in range(vectors // PARTS):
            for part in T.unroll(PARTS):
                total[T.Ramp(part * lanes, 1, lanes)] = total[T.Ramp(part * lanes, 1, lanes)] + square(
                    line[T.Ramp((i * PARTS + part) * lanes, 1, lanes)] - mean
                )
        for part in T.unroll(vectors % PARTS):
            total[T.Ramp(part * lanes, 1, lanes)] = total[T.Ramp(part * lanes, 1, lanes)] + square(
                line[T.Ramp((vectors // PARTS * PARTS + part) * lanes, 1, lanes)] - mean
            )
        for part in T.unroll(PARTS - 1):
            total[T.Ramp(0, 1, lanes)] = total[T.Ramp(0, 1, lanes)] + total[T.Ramp((part + 1) * lanes, 1, lanes)]
        total[T.Ramp(0, 1, lanes)] = reduce_lanes(total[T.Ramp(0, 1, lanes)], lambda a, b: a + b)

    @T.prim_func(s_tir=True)
    def kernel(
        x: T.Buffer(shape, "float32"),
        scale: T.Buffer((width,), "float32"),
        shift: T.Buffer((width,), "float32"),
        y: T.Buffer(shape, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        x_flat = T.decl_buffer((rows * width,), "float32", data=x.data)
        y_flat = T.decl_buffer((rows * width,), "float32", data=y.data)
        for part in T.parallel(-(-rows // per_part)):
            line = T.alloc_buffer((vectors * lanes,), "float32")
            for step in range(T.min(per_part, rows - part * per_part)):
                total = T.alloc_buffer((PARTS * lanes,), "float32", scope="local", annotations=REGISTERS)
                start: T.let = (part * per_part + step) * width
                for i in range(width):
                    line[i] = x_flat[start + i]
                for i in range(vectors * lanes - width):
                    line[width + i] = T.float32(0)
                add_up(line, total, T.Broadcast(T.float32(0), lanes), lambda value: value)
                mean: T.let = total[T.Ramp(0, 1, lanes)] * T.Broadcast(T.float32(1 / width), lanes)
                average: T.let = T.Shuffle([mean], [0])
                # What fills up the last vector is as far from the mean as nothing.
                for i in range(vectors * lanes - width):
                    line[width + i] = average
                add_up(line, total, mean, lambda value: value * value)
                spread: T.let = T.Shuffle([total[T.Ramp(0, 1, lanes)]], [0]) * T.float32(1 / width)
                inverse: T.let = T.float32(1) / T.sqrt(spread + T.float32(epsilon))
                for i in range(width):
                    y_flat[start + i] = (line[i] - average) * inverse * scale[i] + shift[i]

    return kernel


def _rows_per_part(rows: int, width: int, threads: int) -> int:
    """Rows that a thread takes: all of them if there is too little to do."""
    return -(-rows // threads) if rows * width >= MIN_ELEMENTS_PER_THREAD * threads else rows
