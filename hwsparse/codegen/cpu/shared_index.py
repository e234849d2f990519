"""The kernel behind every sparse pattern and every dense convolution: shared index lists.

    out[row, p] = clip( bias[row] + sum over kept columns of weight[row, column] * panel[column, p] )

A group of `shared` output rows has one list of kept columns; p runs over a tile of positions, whose
input patches are first copied to a panel, one line per column, so that every load of the inner loop
is aligned and contiguous and every loaded vector feeds `shared` multiply-adds. shared = 1 serves
unstructured and N:M sparsity, more serve blocks and shared N:M, a list of every column a dense layer.
The lists are data: one compiled kernel serves every ratio.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.entry import REGISTERS, entry, finish_of
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.geometry import Geometry, Tiling


def shared_index(geometry: Geometry, shared: int, tiling: Tiling, epilogue: Epilogue) -> tirx.PrimFunc:
    """The kernel as a PrimFunc; convolutions are (batch, channel, position), products (position, row).

    Arguments: input, bounds, starts, columns, values, rows (as `Packed` has them), bias, then the
    residual if there is one, then the output.
    """
    micro_kernel = _micro_kernel(shared, tiling)
    if geometry.tokens:
        return _tokens(geometry, shared, tiling, epilogue, micro_kernel)
    return _convolution(geometry, shared, tiling, epilogue, micro_kernel)


def _micro_kernel(shared: int, tiling: Tiling) -> Any:
    """One row group over one tile: accumulate in registers, leave the sums in `sums`."""
    lanes, vectors, size = tiling.lanes, tiling.vectors, tiling.size

    @T.inline
    def micro_kernel(group, starts, columns, values, panel, sums):
        acc = T.alloc_buffer((shared * vectors, lanes), "float32", scope="local", annotations=REGISTERS)
        for i in T.unroll(shared * vectors):
            for lane in T.vectorized(lanes):
                acc[i, lane] = T.float32(0)
        for step in range(starts[group + 1] - starts[group]):
            entry: T.let = starts[group] + step
            for row in T.unroll(shared):
                for vector in T.unroll(vectors):
                    for lane in T.vectorized(lanes):
                        acc[row * vectors + vector, lane] = (
                            acc[row * vectors + vector, lane]
                            + values[entry, row] * panel[columns[entry] * size + vector * lanes + lane]
                        )
        for row in T.unroll(shared):
            for vector in T.unroll(vectors):
                for lane in T.vectorized(lanes):
                    sums[row * size + vector * lanes + lane] = acc[row * vectors + vector, lane]

    return micro_kernel


def _convolution(
    geometry: Geometry, shared: int, tiling: Tiling, epilogue: Epilogue, micro_kernel: Any
) -> tirx.PrimFunc:
    g, size, finish = geometry, tiling.size, finish_of(epilogue)
    batch, channels, row_count, positions = g.batch, g.channels, g.rows, g.positions
    # Pointwise positions form one long row: a tile may then cross image rows.
    in_h, in_w, out_h, out_w = (1, positions, 1, positions) if g.pointwise else (g.in_h, g.in_w, g.out_h, g.out_w)
    plane_h, plane_w = in_h + g.pad_top + g.pad_bottom, in_w + g.pad_left + g.pad_right
    pad_top, pad_left, padded = g.pad_top, g.pad_left, int(g.padded)
    kernel_w, taps = g.kernel_w, g.kernel_h * g.kernel_w
    stride_h, stride_w, dilation_h, dilation_w = g.stride_h, g.stride_w, g.dilation_h, g.dilation_w
    height, width, down, across, chunks = tiling.height, tiling.width, tiling.down, tiling.across, tiling.chunks

    @T.inline
    def pad(x, planes):
        for plane in T.parallel(batch * channels):
            for i in range(plane_h * plane_w):
                planes[plane * plane_h * plane_w + i] = T.float32(0)
            for i in range(in_h):
                for j in range(in_w):
                    planes[plane * plane_h * plane_w + (i + pad_top) * plane_w + pad_left + j] = x[
                        plane * in_h * in_w + i * in_w + j
                    ]

    @T.inline
    def fill_panel(planes, panel, image, top, left, high, wide):
        for channel in range(channels):
            for tap in range(taps):
                for i in range(high):
                    for j in range(wide):
                        panel[(channel * taps + tap) * size + i * width + j] = planes[
                            (image * channels + channel) * plane_h * plane_w
                            + ((top + i) * stride_h + tap // kernel_w * dilation_h) * plane_w
                            + (left + j) * stride_w
                            + tap % kernel_w * dilation_w
                        ]

    @T.inline
    def tiles(planes, bounds, starts, columns, values, rows, bias, added, out):
        for task in T.parallel(batch * down * across * chunks):
            panel = T.alloc_buffer((channels * taps * size,), "float32")
            sums = T.alloc_buffer((shared * size,), "float32")
            tile: T.let = task // chunks
            image: T.let = tile // (down * across)
            top: T.let = tile // across % down * height
            left: T.let = tile % across * width
            high: T.let = T.min(height, out_h - top)
            wide: T.let = T.min(width, out_w - left)
            fill_panel(planes, panel, image, top, left, high, wide)
            # A loop that starts elsewhere than at 0 loses its start in nested loops (TVM 0.27).
            for step in range(bounds[task % chunks + 1] - bounds[task % chunks]):
                group: T.let = bounds[task % chunks] + step
                micro_kernel(group, starts, columns, values, panel, sums)
                for slot in range(shared):
                    if rows[group * shared + slot] >= 0:
                        row: T.let = rows[group * shared + slot]
                        first: T.let = (image * row_count + row) * positions + top * out_w + left
                        for i in range(high * wide):
                            out[first + i] = finish(sums[slot * size + i] + bias[row], added, first + i)

    @T.inline
    def run(x, bounds, starts, columns, values, rows, bias, added, out):
        x_flat = T.decl_buffer((batch * channels * in_h * in_w,), "float32", data=x.data)
        out_flat = T.decl_buffer((batch * row_count * positions,), "float32", data=out.data)
        added_flat = T.decl_buffer((batch * row_count * positions,), "float32", data=added.data)
        if padded > 0:
            planes = T.alloc_buffer((batch * channels * plane_h * plane_w,), "float32")
            pad(x_flat, planes)
            tiles(planes, bounds, starts, columns, values, rows, bias, added_flat, out_flat)
        else:
            tiles(x_flat, bounds, starts, columns, values, rows, bias, added_flat, out_flat)

    return entry(geometry, shared, chunks, epilogue, run)


def _tokens(geometry: Geometry, shared: int, tiling: Tiling, epilogue: Epilogue, micro_kernel: Any) -> tirx.PrimFunc:
    size, tiles, finish = tiling.size, tiling.across, finish_of(epilogue)
    positions, column_count, row_count = geometry.positions, geometry.channels, geometry.rows

    @T.inline
    def run(x, bounds, starts, columns, values, rows, bias, added, out):
        x_flat = T.decl_buffer((positions * column_count,), "float32", data=x.data)
        out_flat = T.decl_buffer((positions * row_count,), "float32", data=out.data)
        added_flat = T.decl_buffer((positions * row_count,), "float32", data=added.data)
        for tile in T.parallel(tiles):
            panel = T.alloc_buffer((column_count * size,), "float32")
            group_sums = T.alloc_buffer((shared * size,), "float32")
            # One line more than there are rows: slots without a row are summed there.
            sums = T.alloc_buffer(((row_count + 1) * size,), "float32")
            wide: T.let = T.min(size, positions - tile * size)
            for p in range(wide):
                for column in range(column_count):
                    panel[column * size + p] = x_flat[(tile * size + p) * column_count + column]
            for group in range(bounds[1]):
                micro_kernel(group, starts, columns, values, panel, group_sums)
                for slot in range(shared):
                    line: T.let = T.if_then_else(
                        rows[group * shared + slot] >= 0, rows[group * shared + slot], row_count
                    )
                    for p in range(size):
                        sums[line * size + p] = group_sums[slot * size + p]
            for p in range(wide):
                for row in range(row_count):
                    index: T.let = (tile * size + p) * row_count + row
                    out_flat[index] = finish(sums[row * size + p] + bias[row], added_flat, index)

    return entry(geometry, shared, tiling.chunks, epilogue, run)
