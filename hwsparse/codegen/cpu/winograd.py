"""Dense 3x3 convolution with 16 multiplications for four outputs instead of 36.

Winograd's minimal filtering F(2x2, 3x3), as in Lavin and Gray, Fast Algorithms for Convolutional Neural Networks,
arXiv:1509.09308, section 4.1: with g a kernel and d a 4x4 patch of the input, two rows and columns on from the last,

    outputs (2x2) = A' [ sum over channels of (G g G') * (B' d B) ] A

The 16 places of a transformed patch are products of their own: (rows, channels) by (channels, patches), over a panel
of transformed patches, with the micro-kernel and lists of the shared-index kernel. Input lines are cut into even and
odd pixels, so that vectors run along patches.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.copying import copy_line
from hwsparse.codegen.cpu.entry import Ends, Lists, entry, finish_of
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.geometry import Geometry, Tile, Tiling, choose_variant, offset_type, tiling_of
from hwsparse.codegen.cpu.packing import pack_rows
from hwsparse.codegen.cpu.shared_index import keep_sums, micro_kernel_of
from hwsparse.target import Target

PLACES = 16
# Rows of a micro-kernel.
SHARED = 4
KERNEL_TRANSFORM = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def applies(geometry: Geometry) -> bool:
    """Whether the layer is what the method computes."""
    g = geometry
    window = (g.kernel_h, g.kernel_w, g.stride_h, g.stride_w, g.dilation_h, g.dilation_w, g.groups)
    return not g.tokens and window == (3, 3, 1, 1, 1, 1, 1)


def pays(geometry: Geometry) -> bool:
    """Whether enough is summed up for the transformations to pay, in vectors enough (measured on Zen 4)."""
    patches = -(-geometry.out_h // 2) * -(-geometry.out_w // 2)
    return min(geometry.channels, geometry.rows) >= 32 and patches >= 32


def tiling_for(geometry: Geometry, target: Target) -> Tiling:
    """The tiling of patches instead of positions."""
    patches = replace(geometry, out_h=-(-geometry.out_h // 2), out_w=-(-geometry.out_w // 2), kernel_h=1, kernel_w=1)
    return tiling_of(patches, SHARED, choose_variant(patches, SHARED, target), target)


def pack_transformed(weight: np.ndarray, geometry: Geometry, tiling: Tiling) -> tuple[np.ndarray, ...]:
    """The lists over transformed kernels, place by place; `weight` is (rows, channels, 3, 3) float32."""
    transformed = np.einsum("ia,rcab,jb->rijc", KERNEL_TRANSFORM, weight.astype(np.float64), KERNEL_TRANSFORM)
    columns = np.arange(PLACES * geometry.channels)
    flat = replace(geometry, channels=len(columns), kernel_h=1, kernel_w=1)
    offsets = columns * _pitch(tiling)
    return pack_rows(
        transformed.astype(np.float32),
        flat,
        SHARED,
        tiling.chunks,
        geometry.channels,
        offsets.astype(offset_type(len(columns) * _pitch(tiling))),
    ).arrays()


def _pitch(tiling: Tiling) -> int:
    """Floats of a panel line: a tile, and what is written past its end."""
    return tiling.tile.size(tiling.lanes) + tiling.lanes


@functools.cache
def winograd(geometry: Geometry, tiling: Tiling, epilogue: Epilogue) -> tirx.PrimFunc:
    """The kernel as a PrimFunc, with the arguments of `shared_index`."""
    g, lanes, finish, pitch = geometry, tiling.lanes, finish_of(epilogue), _pitch(tiling)
    batch, channels, row_count, positions, out_h, out_w = g.batch, g.channels, g.rows, g.positions, g.out_h, g.out_w
    patches_h, patches_w = -(-out_h // 2), -(-out_w // 2)
    plane_h = 2 * patches_h + 2
    half = max(patches_w + 1, -(-(g.in_w + g.pad_left + g.pad_right) // 2))
    line, pad_top, chunks, count = 2 * half, g.pad_top, tiling.chunks, tiling.count
    uneven = int(tiling.tile != tiling.last)
    copy_padded = copy_line(replace(g, stride_w=2), half, lanes)

    @T.inline
    def copy_planes(x, planes):
        for plane in T.parallel(batch * channels):
            for i in range(plane_h):
                copy_padded(planes, (plane * plane_h + i) * line, x, plane, i - pad_top)

    def transform_patches(panel: Any, to: Any, planes: Any, start: Any) -> None:
        """B' d B of as many patches as a vector has lanes."""
        rows = [
            [T.bind(planes[T.Ramp(start + i * line + j % 2 * half + j // 2, 1, lanes)]) for j in range(4)]
            for i in range(4)
        ]
        down = [_differences([rows[i][j] for i in range(4)]) for j in range(4)]
        for i in range(4):
            for j, value in enumerate(_differences([down[j][i] for j in range(4)])):
                T.buffer_store(panel, value, [T.Ramp(to + (i * 4 + j) * channels * pitch, 1, lanes)])

    def transform_back(sums: Any, start: Any, step: int, lines: Any, to: Any, size: int, width: int) -> None:
        """A' m A of `width` patches; even and odd outputs are laid side by side in `lines`, a line for each row."""
        places = [[T.bind(sums[T.Ramp(start + (i * 4 + j) * step, 1, width)]) for j in range(4)] for i in range(4)]
        down = [_totals([places[i][j] for i in range(4)]) for j in range(4)]
        for i in range(2):
            even, odd = _totals([down[j][i] for j in range(4)])
            for part in range(2):
                order = [(part * width // 2 + k // 2) + k % 2 * width for k in range(width)]
                T.buffer_store(
                    lines, tirx.Shuffle([even, odd], order), [T.Ramp(i * size * 2 + 2 * to + part * width, 1, width)]
                )

    def tile_of(tile: Tile) -> Any:
        size = tile.size(lanes)
        micro_kernel = micro_kernel_of(SHARED, tile, lanes, False, keep_sums(SHARED, tile, lanes))
        parts = [(i * lanes, lanes) for i in range(tile.vectors)] + [(tile.vectors * lanes, tile.rest)] * (
            tile.rest > 0
        )

        @T.inline
        def fill(planes, panel, image, left):
            for c in range(channels):
                for i in range((left + tile.width - 1) // patches_w - left // patches_w + 1):
                    row: T.let = left // patches_w + i
                    # What is written past the end of a row is written over by the next one.
                    begin: T.let = T.max(row * patches_w - left, 0)
                    end: T.let = T.min((row + 1) * patches_w - left, tile.width)
                    start: T.let = ((image * channels + c) * plane_h + 2 * row) * line + left + begin - row * patches_w
                    for k in range((end - begin + lanes - 1) // lanes):
                        transform_patches(panel, c * pitch + begin + k * lanes, planes, start + k * lanes)

        def merge(sums: Any, slot: Any, lines: Any) -> None:
            for start, width in parts:
                transform_back(sums, slot * size + start, SHARED * size, lines, start, size, width)

        @T.inline
        def store(lists, ends, group, sums, lines, image, left):
            for slot in range(SHARED):
                if lists.rows[group * SHARED + slot] >= 0:
                    channel: T.let = lists.rows[group * SHARED + slot]
                    merge(sums, slot, lines)
                    for i in range((left + tile.width - 1) // patches_w - left // patches_w + 1):
                        row: T.let = left // patches_w + i
                        begin: T.let = T.max(row * patches_w, left)
                        end: T.let = T.min((row + 1) * patches_w, left + tile.width)
                        column: T.let = 2 * (begin - row * patches_w)
                        wide: T.let = T.min(2 * (end - begin), out_w - column)
                        for which in range(T.min(2, out_h - 2 * row)):
                            place: T.let = (
                                (image * row_count + channel) * positions + (2 * row + which) * out_w + column
                            )
                            source: T.let = which * size * 2 + 2 * (begin - left)
                            for k in range(wide // lanes):
                                for lane in T.vectorized(lanes):
                                    ends.out[place + k * lanes + lane] = finish(
                                        lines[source + k * lanes + lane] + ends.bias[channel],
                                        ends.added,
                                        place + k * lanes + lane,
                                    )
                            for k in range(wide % lanes):
                                ends.out[place + wide - wide % lanes + k] = finish(
                                    lines[source + wide - wide % lanes + k] + ends.bias[channel],
                                    ends.added,
                                    place + wide - wide % lanes + k,
                                )

        @T.inline
        def run(planes, lists, ends, image, left, chunk):
            panel = T.alloc_buffer((PLACES * channels * pitch,), "float32")
            sums = T.alloc_buffer((PLACES * SHARED * size,), "float32")
            lines = T.alloc_buffer((4 * size,), "float32")
            fill(planes, panel, image, left)
            for step in range(lists.bounds[chunk + 1] - lists.bounds[chunk]):
                group: T.let = lists.bounds[chunk] + step
                for place in range(PLACES):
                    micro_kernel(
                        lists, place * lists.bounds[chunks] + group, group, panel, sums, place * SHARED * size, ends, 0
                    )
                store(lists, ends, group, sums, lines, image, left)

        return run

    whole_tile, last_tile = tile_of(tiling.tile), tile_of(tiling.last)

    @T.inline
    def tiles(planes, lists, ends):
        for task in T.parallel(batch * count * chunks):
            # A thread works on one part of the rows for as long as it can.
            chunk: T.let = task // (batch * count)
            image: T.let = task // count % batch
            left: T.let = task % count * tiling.tile.width
            if uneven > 0:
                if task % count == count - 1:
                    last_tile(planes, lists, ends, image, left, chunk)
                else:
                    whole_tile(planes, lists, ends, image, left, chunk)
            else:
                whole_tile(planes, lists, ends, image, left, chunk)

    @T.inline
    def run(x, bounds, starts, offsets, values, rows, bias, added, out):
        x_flat = T.decl_buffer((batch * channels * g.in_h * g.in_w,), "float32", data=x.data)
        out_flat = T.decl_buffer((batch * row_count * positions,), "float32", data=out.data)
        added_flat = T.decl_buffer((batch * row_count * positions,), "float32", data=added.data)
        # Vectors are read past the last patch.
        planes = T.alloc_buffer((batch * channels * plane_h * line + lanes,), "float32")
        copy_planes(x_flat, planes)
        tiles(planes, Lists(bounds, starts, offsets, values, rows), Ends(bias, added_flat, out_flat))

    return entry(geometry, SHARED, chunks, offset_type(PLACES * channels * pitch), epilogue, run)


def _differences(d: list[Any]) -> list[Any]:
    """B' d for a column d."""
    return [T.bind(value) for value in (d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3])]


def _totals(m: list[Any]) -> list[Any]:
    """A' m for a column m."""
    return [T.bind(value) for value in (m[0] + m[1] + m[2], m[1] - m[2] - m[3])]
