"""Greatest values and averages of windows: down the columns of an input first, then along the line they leave.

A line as wide as the input is combined from the rows of a window, in registers, and kept between margins that
change nothing; its runs, picked apart where windows stride, make a row of outputs. So the input is read where it
lies, and rows outside of it are not looked at.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.copying import runs
from hwsparse.codegen.cpu.entry import REGISTERS

# Elements that a thread should have at least, for waking it to pay.
MIN_ELEMENTS_PER_THREAD = 4096
# Vectors of a line that are combined at a time.
MOST_VECTORS = 8


@dataclass(frozen=True, slots=True)
class Axis:
    """Windows along one axis: `before` and `after` are places of padding."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    ceil: bool  # whether a last window may reach past the padding

    @property
    def out(self) -> int:
        room = self.size + self.before + self.after - (self.kernel - 1) * self.dilation - 1
        return (room + (self.stride - 1 if self.ceil else 0)) // self.stride + 1

    @property
    def covered(self) -> bool:
        """Every window has a place of the input, so that there is something to combine."""
        begins = [place * self.stride - self.before for place in range(self.out)]
        return all(any(0 <= begin + tap * self.dilation < self.size for tap in range(self.kernel)) for begin in begins)

    def begin(self, place: Any) -> Any:
        """Where the window of an output begins in the input."""
        return place * self.stride - self.before

    def taps(self, place: Any, low: int, high: int) -> tuple[Any, Any]:
        """The window's first tap at or past `low`, and how many there are from it on before `high`."""
        first, end = ((edge - self.begin(place) + self.dilation - 1) // self.dilation for edge in (low, high))
        first = T.max(first, 0)
        return first, T.min(end, self.kernel) - first

    def counted(self, place: Any, padding: bool) -> Any:
        """How many places an average is of."""
        low, high = (-self.before, self.size + self.after) if padding else (0, self.size)
        return self.taps(place, low, high)[1]


@dataclass(frozen=True, slots=True)
class Pooling:
    """Windows of planes: `planes` are the leading axes, `rows` are left out where there is one axis only.

    Averages are of floats; the greatest may be of bytes too.
    """

    planes: tuple[int, ...]
    rows: Axis | None
    columns: Axis
    greatest: bool  # or else the average
    padding_counts: bool  # in averages
    dtype: str = "float32"

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (*self.planes, *([self.rows.size] if self.rows else []), self.columns.size)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (*self.planes, *([self.rows.out] if self.rows else []), self.columns.out)


@functools.cache
def pool(pooling: Pooling, lanes: int, threads: int) -> tirx.PrimFunc:
    """The kernel as a PrimFunc of input and output."""
    down, over = pooling.rows or Axis(1, 1, 1, 1, 0, 0, False), pooling.columns
    in_shape, out_shape, padding = pooling.input_shape, pooling.output_shape, pooling.padding_counts
    planes, in_w, out_h, out_w, before = math.prod(pooling.planes), over.size, down.out, over.out, over.before
    in_plane, step_down, averaging = down.size * in_w, down.dilation * in_w, int(not pooling.greatest)
    dtype = pooling.dtype
    nothing = -math.inf if pooling.greatest and dtype == "float32" else 0
    # Where the input begins in the line: what is stored in vectors is then mostly loaded in the same ones.
    origin = -(-(before + over.stride - 1) // lanes) * lanes
    length = origin + max(in_w, out_w * over.stride + (over.kernel - 1) * over.dilation - before)
    tasks = min(threads, planes) if planes * in_plane >= MIN_ELEMENTS_PER_THREAD * threads else 1
    per_task = -(-planes // tasks)

    def combine(left: Any, right: Any) -> Any:
        return T.max(left, right) if pooling.greatest else left + right

    def part_of(pieces: list[tuple[int, int]]) -> Any:
        """An inline function that combines `count` rows of the input, as far as `pieces` go, into the line."""
        size = sum(width for _, width in pieces)

        def clear(sums: Any) -> None:
            for start, width in pieces:
                T.buffer_store(sums, tirx.const(nothing, _of(dtype, width)), [_places(start, width)])

        def add(sums: Any, x: Any, place: Any) -> None:
            for start, width in pieces:
                value = combine(sums[_places(start, width)], x[_places(place + start, width)])
                T.buffer_store(sums, value, [_places(start, width)])

        def keep(line: Any, to: Any, sums: Any) -> None:
            for start, width in pieces:
                T.buffer_store(line, sums[_places(start, width)], [_places(to + start, width)])

        @T.inline
        def part(line, x, place, left, count):
            sums = T.alloc_buffer((size,), dtype, scope="local", annotations=REGISTERS)
            clear(sums)
            if count == down.kernel:
                for tap in T.unroll(down.kernel):
                    add(sums, x, place + tap * step_down + left)
            else:
                for tap in range(count):
                    add(sums, x, place + tap * step_down + left)
            keep(line, origin + left, sums)

        return part

    at_once = MOST_VECTORS * lanes
    whole, rest = part_of(runs(at_once, lanes)), part_of(runs(in_w % at_once, lanes))

    def write(y: Any, to: Any, line: Any, start: Any, width: int, inverse: Any, inverses: Any) -> None:
        taps = [
            _every(line, origin + start * over.stride, tap * over.dilation - before, over.stride, width)
            for tap in range(over.kernel)
        ]
        value = functools.reduce(combine, taps)
        if averaging:
            value = value * (inverses[_places(start, width)] * inverse)
        T.buffer_store(y, value, [_places(to + start, width)])

    def write_rest(y: Any, to: Any, line: Any, inverse: Any, inverses: Any) -> None:
        for start, width in runs(out_w % lanes, lanes):
            write(y, to, line, out_w - out_w % lanes + start, width, inverse, inverses)

    @T.prim_func(s_tir=True)
    def kernel(x: T.Buffer(in_shape, dtype), y: T.Buffer(out_shape, dtype)):
        T.func_attr({"tirx.noalias": True})
        x_flat = T.decl_buffer((planes * in_plane,), dtype, data=x.data)
        y_flat = T.decl_buffer((planes * out_h * out_w,), dtype, data=y.data)
        with T.sblock("planes"):  # as in `normalise.softmax`
            T.reads()
            T.writes()
            for task in T.parallel(tasks):
                line = T.alloc_buffer((length,), dtype)
                inverses = T.alloc_buffer((out_w,), "float32")
                for i in range(length):
                    line[i] = tirx.const(nothing, dtype)
                for i in range(out_w):
                    inverses[i] = T.float32(1) / T.cast(over.counted(i, padding), "float32")
                for step in range(T.min(per_task, planes - task * per_task)):
                    for row in range(out_h):
                        plane: T.let = task * per_task + step
                        first: T.let = down.taps(row, 0, down.size)[0]
                        count: T.let = down.taps(row, 0, down.size)[1]
                        place: T.let = plane * in_plane + (down.begin(row) + first * down.dilation) * in_w
                        to: T.let = (plane * out_h + row) * out_w
                        inverse: T.let = T.float32(1) / T.cast(down.counted(row, padding), "float32")
                        for i in range(in_w // at_once):
                            whole(line, x_flat, place, i * at_once, count)
                        if in_w % at_once > 0:
                            rest(line, x_flat, place, in_w - in_w % at_once, count)
                        for i in range(out_w // lanes):
                            write(y_flat, to, line, i * lanes, lanes, inverse, inverses)
                        write_rest(y_flat, to, line, inverse, inverses)

    return kernel


def _places(start: Any, width: int) -> Any:
    return T.Ramp(start, 1, width) if width > 1 else start


def _of(dtype: str, width: int) -> str:
    return f"{dtype}x{width}" if width > 1 else dtype


def _every(line: Any, start: Any, offset: int, stride: int, width: int) -> Any:
    """`width` places of the line that lie `stride` apart, from `start + offset` on; offsets share what is loaded."""
    if stride == 1 or width == 1:
        return line[_places(start + offset, width)]
    base, first = start + offset // stride * stride, offset % stride
    vectors = [line[T.Ramp(base + part * width, 1, width)] for part in range(stride)]
    return tirx.Shuffle(vectors, list(range(first, stride * width, stride)))
