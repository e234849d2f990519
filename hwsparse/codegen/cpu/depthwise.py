"""Depthwise convolution: each output channel is a small stencil over one input plane.

A plane is worked on in strips. The input lines of a strip are copied, padded, to a buffer that stays in
L1, each cut into stride phases: in phase b lie the pixels whose column is b modulo the stride, so that
every tap reads a contiguous run at any stride and dilation. A block of outputs, some rows high and some
vectors wide, is summed in registers, tap column by tap column: what one row has loaded serves the
rows above and below.

Bytes are summed as floats, which hold such sums exactly, and what is stored may be bytes in any case.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.arithmetic import BY_LANE, WEIGHT_LANES
from hwsparse.codegen.cpu.copying import copy_line, copy_line_of_words, copy_run
from hwsparse.codegen.cpu.entry import REGISTERS, Ends, finish_of, without_parameters
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.geometry import FLOAT_BYTES, Geometry
from hwsparse.target import Target

# Places among the parameters of the byte for zeros, what sums are moved by, and multiplied by; and of terms.
BYTES_ONLY, TERMS = (2, 3, 4), 5


@dataclass(frozen=True, slots=True)
class _Block:
    """Outputs summed at once: `high` rows of `vectors` vectors of `lanes`.

    With weights taken `by_lane` the last block of a row may be narrower.
    """

    high: int
    vectors: int
    lanes: int
    by_lane: bool

    @property
    def wide(self) -> int:
        return self.vectors * self.lanes

    def across(self, out_w: int) -> tuple[int, int]:
        """Blocks of so many outputs beside one another, and vectors of a narrower last one, if there is one."""
        if not self.by_lane:
            return -(-out_w // self.wide), 0
        return divmod(-(-out_w // self.lanes), self.vectors)


@functools.cache
def depthwise(geometry: Geometry, epilogue: Epilogue, target: Target, source: str = "float32") -> tirx.PrimFunc:
    """The kernel as a PrimFunc of input, weight (rows, taps), bias and output; residuals are not fused.

    Of bytes it has, before the bias, the byte that stands for zeros, as a float, and what else `Ends` has of them;
    where floats are stored as bytes, the last of that alone.

    Args:
        source: the type of what is read: float32, or uint8.
    """
    g, clip = geometry, epilogue.activation()
    stored, finish, of_bytes = epilogue.stored, finish_of(epilogue), int(source == "uint8")
    plainly, counted = int(not of_bytes and stored == "float32"), of_bytes and not epilogue.at_once
    # Bias and bounds; or scale, offset, bias, bounds and what a residual would take.
    bounds = math.isfinite(epilogue.low) + math.isfinite(epilogue.high)
    block = _choose_block(geometry, target, 1 + bounds if plainly else 6)
    high, vectors, lanes, by_lane = block.high, block.vectors, block.lanes, int(block.by_lane)
    in_shape, out_shape, batch, channels, rows = g.input_shape, g.output_shape, g.batch, g.channels, g.rows
    in_h, in_w, out_h, out_w, positions = g.in_h, g.in_w, g.out_h, g.out_w, g.positions
    pad_top, stride_h, stride_w = g.pad_top, g.stride_h, g.stride_w
    kernel_h, kernel_w, dilation_h, dilation_w = g.kernel_h, g.kernel_w, g.dilation_h, g.dilation_w
    taps, multiple = kernel_h * kernel_w, rows // channels

    across, narrow = block.across(out_w)
    down, width = -(-out_h // high), across * block.wide + narrow * lanes
    # A phase of a line holds what blocks read, past the last output too, and the whole of the padded input.
    padded = -(-(in_w + g.pad_left + g.pad_right) // stride_w)
    pitch = -(-max(width + (kernel_w - 1) * dilation_w // stride_w, padded) // lanes) * lanes
    line = stride_w * pitch
    reach = (kernel_h - 1) * dilation_h + 1

    def lines(blocks: int) -> int:
        """Input lines that so many blocks, one below the other, read."""
        return (blocks * high - 1) * stride_h + reach

    # Strips of equal height, as high as half of L1 allows.
    most = max([1, *(n for n in range(1, down + 1) if lines(n) * line * FLOAT_BYTES <= target.l1d_bytes // 2)])
    strips = -(-down // most)
    per_strip = -(-down // strips)
    strip_lines = lines(per_strip)
    planes = batch * channels
    tasks = min(planes, target.threads)
    per_task = -(-planes // tasks)
    # Where blocks fill a plane exactly, they are stored where they belong.
    exact = int(width == out_w and down * high == out_h)
    copy_floats, copy_out = copy_line(g, pitch, lanes), copy_run(out_w, lanes)
    copy_bytes = copy_line_of_words(g, pitch, lanes, lambda plane: [plane * (in_h * in_w)], _float_of)

    def ends_of(bias: Any, out: Any, offset: Any, scale: Any, terms: Any) -> Ends:
        return Ends(bias, out, out, offset if counted else None, scale if of_bytes else None, terms)

    def end(acc: Any, at: Any, ends: Ends, row: Any, out: Any, place: Any) -> None:
        value = acc[at, T.Ramp(0, 1, lanes)]
        value = finish(ends.biased(value, row, lanes) if of_bytes else value, ends, place, lanes)
        T.buffer_store(out, value, [T.Ramp(place, 1, lanes)])

    def add_taps_by_lane(acc: Any, strip: Any, weight: Any, row: Any, start: Any, vectors: int) -> None:
        weights, every = _lanes_of(weight, row, taps), T.Ramp(0, 1, lanes)
        # Line by line: what was loaded is multiplied by all that it serves, and need not be kept.
        served = [(i * stride_h + y_tap * dilation_h, y_tap, i) for i in range(high) for y_tap in range(kernel_h)]
        for x_tap, (down, y_tap, i), vector in itertools.product(range(kernel_w), sorted(served), range(vectors)):
            along = x_tap * dilation_w
            place = start + (down * line + along % stride_w * pitch + along // stride_w + vector * lanes)
            product = T.Broadcast(weights[y_tap * kernel_w + x_tap], lanes) * strip[T.Ramp(place, 1, lanes)]
            T.buffer_store(acc, acc[i * vectors + vector, every] + product, [i * vectors + vector, every])

    def stencil_of(vectors: int) -> Any:
        """An inline function that computes a block so many vectors wide."""

        @T.inline
        def stencil(strip, weight, ends, out, start, row, top, left):
            acc = T.alloc_buffer((high * vectors, lanes), "float32", scope="local", annotations=REGISTERS)
            for i in T.unroll(high * vectors):
                for lane in T.vectorized(lanes):
                    if of_bytes > 0:
                        acc[i, lane] = T.float32(0)
                    else:
                        acc[i, lane] = ends.bias[row]
            if by_lane > 0:
                add_taps_by_lane(acc, strip, weight, row, top * stride_h * line + left, vectors)
            else:
                for x_tap in T.unroll(kernel_w):
                    for y_tap in T.unroll(kernel_h):
                        for i in T.unroll(high):
                            for vector in T.unroll(vectors):
                                for lane in T.vectorized(lanes):
                                    acc[i * vectors + vector, lane] = (
                                        acc[i * vectors + vector, lane]
                                        + weight[row, y_tap * kernel_w + x_tap]
                                        * strip[
                                            ((top + i) * stride_h + y_tap * dilation_h) * line
                                            + x_tap * dilation_w % stride_w * pitch
                                            + x_tap * dilation_w // stride_w
                                            + left
                                            + vector * lanes
                                            + lane
                                        ]
                                    )
            for i in T.unroll(high):
                for vector in T.unroll(vectors):
                    if plainly > 0:
                        for lane in T.vectorized(lanes):
                            out[start + i * width + left + vector * lanes + lane] = clip(
                                acc[i * vectors + vector, lane]
                            )
                    else:
                        end(acc, i * vectors + vector, ends, row, out, start + i * width + left + vector * lanes)

        return stencil

    stencil, narrow_stencil = stencil_of(vectors), stencil_of(max(narrow, 1))

    def copy_in(to: Any, start: Any, x: Any, plane: Any, row: Any, blank: Any) -> None:
        if of_bytes:
            copy_bytes(to, start, x, plane, row, blank[0])
        else:
            copy_floats(to, start, x, plane, row)

    @T.prim_func(s_tir=True)
    def kernel(
        x: T.Buffer(in_shape, source),
        weight: T.Buffer((rows, taps), "float32"),
        blank: T.Buffer((1,), "float32"),
        offset: T.Buffer((rows,), "float32"),
        scale: T.Buffer((rows,), "float32"),
        terms: T.Buffer((3,), "float32"),
        bias: T.Buffer((rows,), "float32"),
        out: T.Buffer(out_shape, stored),
    ):
        T.func_attr({"tirx.noalias": True})
        x_flat = T.decl_buffer((batch * channels * in_h * in_w,), source, data=x.data)
        out_flat = T.decl_buffer((batch * rows * positions,), stored, data=out.data)
        for task in T.parallel(tasks):
            strip = T.alloc_buffer((strip_lines * line,), "float32")
            sums = T.alloc_buffer((high * width,), stored)
            for step in range(T.min(per_task, planes - task * per_task)):
                plane: T.let = task * per_task + step
                for part in range(strips):
                    for i in range(strip_lines):
                        copy_in(strip, i * line, x_flat, plane, part * per_strip * high * stride_h + i - pad_top, blank)
                    for which in range(multiple):
                        row: T.let = plane % channels * multiple + which
                        for i in range(T.min(per_strip, down - part * per_strip)):
                            top: T.let = (part * per_strip + i) * high
                            start: T.let = (plane // channels * rows + row) * positions + top * out_w
                            if exact > 0:
                                for j in range(across):
                                    stencil(
                                        strip, weight, ends_of(bias, out, offset, scale, terms), out_flat, start, row,
                                        i * high, j * vectors * lanes,
                                    )  # fmt: skip
                                if narrow > 0:
                                    narrow_stencil(
                                        strip, weight, ends_of(bias, out, offset, scale, terms), out_flat, start, row,
                                        i * high, across * vectors * lanes,
                                    )  # fmt: skip
                            else:
                                for j in range(across):
                                    stencil(
                                        strip, weight, ends_of(bias, out, offset, scale, terms), sums, 0, row,
                                        i * high, j * vectors * lanes,
                                    )  # fmt: skip
                                if narrow > 0:
                                    narrow_stencil(
                                        strip, weight, ends_of(bias, out, offset, scale, terms), sums, 0, row,
                                        i * high, across * vectors * lanes,
                                    )  # fmt: skip
                                for k in range(T.min(high, out_h - top)):
                                    copy_out(out_flat, start + k * out_w, sums, k * width)

    unread = () if of_bytes else (*BYTES_ONLY, *((TERMS,) if plainly else ()))
    return without_parameters(kernel, unread)


def _float_of(parts: Sequence[Any], lanes: int) -> Any:
    """Bytes, in vectors of `lanes`, as floats."""
    return tirx.Cast(f"float32x{lanes}" if lanes > 1 else "float32", parts[0])


def _lanes_of(weight: Any, row: Any, taps: int) -> list[Any]:
    """A row's weights, lanes of vectors as far as they fill them, each loaded once."""
    whole = taps - taps % WEIGHT_LANES
    vectors = [T.bind(weight[row, T.Ramp(start, 1, WEIGHT_LANES)]) for start in range(0, whole, WEIGHT_LANES)]
    found = [tirx.Shuffle([vector], [lane]) for vector in vectors for lane in range(WEIGHT_LANES)]
    return found + [T.bind(weight[row, tap]) for tap in range(whole, taps)]


def _choose_block(geometry: Geometry, target: Target, constants: int) -> _Block:
    """The block that takes the fewest steps over a plane: multiply-adds, half a step for each load, stores.

    Measured on Zen 4: planes that L1 does not hold are best written a row or two at a time. Where weights are taken by
    lane, LLVM loads a tap column of all lines ahead of its multiply-adds: of blocks with pairs of vectors those spill
    that registers do not hold together with all that, the weights, and so many constants of the last step.
    """
    g, lanes, by_lane = geometry, target.vector_bits // 32, BY_LANE in target.isa
    while lanes > 4 and g.out_w <= lanes // 2:
        lanes //= 2
    plane_bytes = (g.in_h * g.in_w + g.positions) * FLOAT_BYTES
    highest = 2 if plane_bytes > target.l1d_bytes // 2 else g.out_h

    def lines(high: int) -> int:
        """Of the input, that a tap column reads."""
        return min((high - 1) * g.stride_h + g.kernel_h, high * g.kernel_h)

    def fits(high: int, vectors: int) -> bool:
        if not by_lane or vectors == 1:
            return high * vectors <= target.vector_registers // 2 - 3
        if vectors % 2:
            return False
        weights = -(-g.kernel_h * g.kernel_w // WEIGHT_LANES)
        return (high + lines(high)) * vectors + weights + constants <= target.vector_registers

    choices = [
        _Block(high, vectors, lanes, by_lane)
        for vectors in range(1, min(4, -(-g.out_w // lanes)) + 1)
        for high in range(1, highest + 1)
        if fits(high, vectors)
    ]

    def steps(high: int, vectors: int) -> float:
        # Of a pair of Arm's vectors, stored at once, each takes one step; one that is alone takes two.
        alone = high * (vectors % 2) if by_lane else 0
        return vectors * (high * (g.kernel_h * g.kernel_w + 2) + lines(high) * g.kernel_w / 2) + alone

    def cost(block: _Block) -> float:
        across, narrow = block.across(g.out_w)
        last = steps(block.high, narrow) + 12 if narrow else 0.0
        return -(-g.out_h // block.high) * (across * (steps(block.high, block.vectors) + 12) + last)

    return min(choices, key=cost)
