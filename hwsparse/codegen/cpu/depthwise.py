"""Depthwise convolution: each output channel is a small stencil over one input plane.

The plane is copied, padded, into stride x stride phases: in phase (a, b) lie the pixels whose row is
a and whose column is b modulo the strides. Every tap of the stencil then reads a contiguous run, at
any stride and dilation, and outputs are computed over the whole pitch of a phase row; the few columns
past the output's width are not stored.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.geometry import Geometry

MOST_VECTORS = 4


def depthwise(geometry: Geometry, epilogue: Epilogue, lanes: int) -> tirx.PrimFunc:
    """The kernel as a PrimFunc of input, weight (rows, taps), bias and output; residuals are not fused."""
    g, clip = geometry, epilogue.activation()
    in_shape, out_shape, batch, channels, rows = g.input_shape, g.output_shape, g.batch, g.channels, g.rows
    in_h, in_w, out_h, out_w, positions = g.in_h, g.in_w, g.out_h, g.out_w, g.positions
    pad_top, pad_left, stride_h, stride_w = g.pad_top, g.pad_left, g.stride_h, g.stride_w
    pitch = -(-(in_w + g.pad_left + g.pad_right) // stride_w)
    phase_h = -(-(in_h + g.pad_top + g.pad_bottom) // stride_h)
    taps = g.kernel_h * g.kernel_w
    reach = [
        (y % stride_h * stride_w + x % stride_w, y // stride_h * pitch + x // stride_w)
        for y in range(0, g.kernel_h * g.dilation_h, g.dilation_h)
        for x in range(0, g.kernel_w * g.dilation_w, g.dilation_w)
    ]
    # As many vectors at once as waste least on the last step.
    vectors = min(range(MOST_VECTORS, 0, -1), key=lambda v: -(-out_h * pitch // (v * lanes)) * v)
    step = vectors * lanes
    blocks = -(-out_h * pitch // step)
    # Runs may start anywhere in a phase and are a whole number of steps long: leave room for the last.
    phase = max(phase_h * pitch, blocks * step + max(offset for _, offset in reach))
    starts = [which * phase + offset for which, offset in reach]

    def first(edge: int, phase_index: Any, stride: int) -> Any:
        """The first place in a phase that lies at or past `edge` of the padded plane."""
        return (edge - phase_index + stride - 1) // stride

    def stencil(phases: Any, weight: Any, row: Any, position: Any) -> Any:
        total = weight[row, 0] * phases[starts[0] + position]
        for tap in range(1, taps):
            total = total + weight[row, tap] * phases[starts[tap] + position]
        return total

    @T.prim_func(s_tir=True)
    def kernel(
        x: T.Buffer(in_shape, "float32"),
        weight: T.Buffer((rows, taps), "float32"),
        bias: T.Buffer((rows,), "float32"),
        out: T.Buffer(out_shape, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        x_flat = T.decl_buffer((batch * channels * in_h * in_w,), "float32", data=x.data)
        out_flat = T.decl_buffer((batch * rows * positions,), "float32", data=out.data)
        for plane in T.parallel(batch * channels):
            phases = T.alloc_buffer((stride_h * stride_w * phase,), "float32")
            sums = T.alloc_buffer((blocks * step,), "float32")
            for i in range(stride_h * stride_w * phase):
                phases[i] = T.float32(0)
            for row_phase, column_phase in T.grid(stride_h, stride_w):
                for i in range(first(pad_top, row_phase, stride_h), first(pad_top + in_h, row_phase, stride_h)):
                    for j in range(
                        first(pad_left, column_phase, stride_w), first(pad_left + in_w, column_phase, stride_w)
                    ):
                        phases[(row_phase * stride_w + column_phase) * phase + i * pitch + j] = x_flat[
                            (plane * in_h + i * stride_h + row_phase - pad_top) * in_w
                            + j * stride_w
                            + column_phase
                            - pad_left
                        ]
            for multiple in range(rows // channels):
                row: T.let = plane % channels * (rows // channels) + multiple
                for block in range(blocks):
                    for vector in T.unroll(vectors):
                        for lane in T.vectorized(lanes):
                            sums[block * step + vector * lanes + lane] = stencil(
                                phases, weight, row, block * step + vector * lanes + lane
                            )
                for i in range(out_h):
                    for j in range(out_w):
                        out_flat[(plane // channels * rows + row) * positions + i * out_w + j] = clip(
                            sums[i * pitch + j] + bias[row]
                        )

    return kernel
