"""Dense convolution with fewer multiplications: Winograd's minimal filtering.

F(m x m, r x r), as in Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308: m * m
outputs of an r x r kernel g over a t x t patch d of the input, t = m + r - 1, cost t * t multiplications,

    outputs = A' [ sum over channels of (G g G') * (B' d B) ] A

instead of m * m * r * r; patches lie m apart. A convolution of stride s is one of stride 1 over the s * s phases of
the input as channels of their own, with ceil(k / s) taps.

The t * t places of a transformed patch are products of their own: (rows, channels) by (channels, patches), over a panel
of transformed patches, with the micro-kernel and lists of the shared-index kernel. Input lines are cut into phases
by what lies between two patches, so that vectors run along patches.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.polynomial import polynomial
from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.copying import copy_line
from hwsparse.codegen.cpu.entry import convolution, finish_of
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.geometry import FLOAT_BYTES, Geometry, Tile, Tiling, choose_variant, offset_type, tiling_of
from hwsparse.codegen.cpu.micro_kernel import keep_sums, micro_kernel_of
from hwsparse.codegen.cpu.packing import pack_rows
from hwsparse.target import Target

# Rows of a micro-kernel.
SHARED = 4
# Where polynomials of so many coefficients are evaluated, besides at infinity: of the small numbers tried, those that
# round off least. (Of 5 coefficients, as in F(4 x 4, 2 x 2) over the phases of a 3 x 3 kernel of stride 2, too little
# is saved.)
POINTS = {4: (0, 1, -1), 6: (0, 1, -1, 0.5, -2), 7: (0, 1, -1, 2, -2, 0.5)}


# Measured on Zen 4: how many times fewer multiplications pay for the transformations, and how many times as large as L2
# the transformed weights may be.
LEAST_SAVING = 1.5
MOST_WEIGHTS = 8


@dataclass(frozen=True, slots=True)
class Scheme:
    """F(outputs x outputs, taps x taps) over the phases of a strided convolution."""

    outputs: int
    taps: int
    stride: int

    def __str__(self) -> str:
        return f"winograd_f{self.outputs}x{self.taps}"

    @property
    def side(self) -> int:
        """Of a patch."""
        return self.outputs + self.taps - 1

    @property
    def step(self) -> int:
        """Input pixels from one patch to the next."""
        return self.outputs * self.stride

    def patches(self, geometry: Geometry) -> tuple[int, int]:
        """How many there are in height and width."""
        return -(-geometry.out_h // self.outputs), -(-geometry.out_w // self.outputs)

    def channels(self, geometry: Geometry) -> int:
        """Of the input, each phase counted."""
        return geometry.channels * self.stride**2


def schemes(geometry: Geometry, target: Target) -> tuple[Scheme, ...]:
    """Those that compute the layer with clearly fewer multiplications and patches enough to fill a vector."""
    g = geometry
    if g.tokens or g.groups > 1 or (g.dilation_h, g.dilation_w) != (1, 1):
        return ()
    if (g.kernel_h, g.stride_h) != (g.kernel_w, g.stride_w):
        return ()
    found = (Scheme(outputs, -(-g.kernel_h // g.stride_h), g.stride_h) for outputs in (4, 2))
    return tuple(
        scheme
        for scheme in found
        if scheme.side in POINTS
        and (scheme.outputs * g.kernel_h) ** 2 >= LEAST_SAVING * (scheme.side * g.stride_h) ** 2
        and math.prod(scheme.patches(g)) >= target.vector_bits // 32
    )


def pays(geometry: Geometry, scheme: Scheme, target: Target) -> bool:
    """Whether the scheme is likely to be faster than the direct product: its weights, which are larger, are near."""
    weights = scheme.side**2 * scheme.channels(geometry) * geometry.rows
    return weights * FLOAT_BYTES <= MOST_WEIGHTS * target.l2_bytes


@functools.cache
def matrices(scheme: Scheme) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A', G and B', by Toom and Cook's construction from the points and infinity.

    A product of polynomials is interpolated from its values at the points; a correlation is the transpose of that.
    """
    m, r, t = scheme.outputs, scheme.taps, scheme.side
    points = POINTS[t]
    outputs, kernel, patch = np.zeros((m, t)), np.zeros((t, r)), np.zeros((t, t))
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        outputs[:, i] = float(point) ** np.arange(m)
        kernel[i] = float(point) ** np.arange(r) / np.prod([point - other for other in others])
        patch[i, :-1] = polynomial.polyfromroots(others)
    outputs[-1, -1] = kernel[-1, -1] = 1
    patch[-1] = polynomial.polyfromroots(points)
    return outputs, kernel, patch


def tiling_for(geometry: Geometry, scheme: Scheme, target: Target) -> Tiling:
    """The tiling of patches instead of positions; sums of all places of a few rows stay in L1."""
    height, width = scheme.patches(geometry)
    patches = replace(geometry, out_h=height, out_w=width, kernel_h=1, kernel_w=1)
    vector_bytes = scheme.side**2 * SHARED * target.vector_bits // 8
    variant = choose_variant(patches, SHARED, target, max(1, target.l1d_bytes // vector_bytes))
    return tiling_of(patches, SHARED, variant, target)


def pack_transformed(weight: np.ndarray, geometry: Geometry, scheme: Scheme, tiling: Tiling) -> tuple[np.ndarray, ...]:
    """The lists over transformed kernels, place by place; `weight` is (rows, channels, k, k) float32."""
    rows, channels, k, _ = weight.shape
    s, r = scheme.stride, scheme.taps
    room = s * r - k
    phases = np.pad(weight.astype(np.float64), ((0, 0), (0, 0), (0, room), (0, room)))
    phases = phases.reshape(rows, channels, r, s, r, s).transpose(0, 1, 3, 5, 2, 4).reshape(rows, -1, r, r)
    _, kernel, _ = matrices(scheme)
    transformed = np.einsum("ia,rcab,jb->rijc", kernel, phases, kernel)
    columns = np.arange(scheme.side**2 * phases.shape[1])
    flat = replace(geometry, channels=len(columns), kernel_h=1, kernel_w=1)
    offsets = columns * _pitch(tiling)
    return pack_rows(
        transformed.astype(np.float32),
        flat,
        SHARED,
        tiling.chunks,
        phases.shape[1],
        offsets.astype(offset_type(len(columns) * _pitch(tiling))),
    ).arrays()


def _pitch(tiling: Tiling) -> int:
    """Floats of a panel line: a tile, and what is written past its end."""
    return tiling.panel.pitch + tiling.lanes


@functools.cache
def winograd(geometry: Geometry, scheme: Scheme, tiling: Tiling, epilogue: Epilogue) -> tirx.PrimFunc:
    """The kernel as a PrimFunc, with the arguments of `shared_index`."""
    g, lanes, finish, pitch = geometry, tiling.lanes, finish_of(epilogue), _pitch(tiling)
    row_count, positions, out_h, out_w, pad_top, chunks = (
        g.rows,
        g.positions,
        g.out_h,
        g.out_w,
        g.pad_top,
        tiling.chunks,
    )
    m, side, stride, step = scheme.outputs, scheme.side, scheme.stride, scheme.step
    places, channels = side**2, scheme.channels(g)
    patches_h, patches_w = scheme.patches(g)
    plane_h = step * patches_h + stride * (scheme.taps - 1)
    # Places of a line in each of its phases: as many as patches read, and as the input has.
    run_w = max(patches_w + (stride * side - 1) // step, -(-(g.pad_left + g.in_w) // step))
    line = step * run_w
    copy_padded = copy_line(replace(g, stride_w=step, pad_right=line - g.pad_left - g.in_w), run_w, lanes)
    output_matrix, _, patch_matrix = matrices(scheme)

    @T.inline
    def copy_planes(x, planes):
        for plane in T.parallel(g.batch * g.channels):
            for i in range(plane_h):
                copy_padded(planes, (plane * plane_h + i) * line, x, plane, i - pad_top)

    def transform_patches(panel: Any, to: Any, planes: Any, start: Any, across: int) -> None:
        """B' d B of as many patches as a vector has lanes, of the phase `across` of the convolution's columns."""
        columns = [stride * j + across for j in range(side)]
        patch = [
            [
                T.bind(planes[T.Ramp(start + i * stride * line + column % step * run_w + column // step, 1, lanes)])
                for column in columns
            ]
            for i in range(side)
        ]
        for place, value in enumerate(_transformed(patch_matrix, patch)):
            T.buffer_store(panel, value, [T.Ramp(to + place * channels * pitch, 1, lanes)])

    def transform_back(sums: Any, start: Any, size: int, lines: Any, to: Any, width: int) -> None:
        """A' M A of `width` patches; their outputs are laid side by side in `lines`, a line for each row."""
        values = [
            [T.bind(sums[T.Ramp(start + (i * side + j) * SHARED * size, 1, width)]) for j in range(side)]
            for i in range(side)
        ]
        outputs = _transformed(output_matrix, values)
        for i in range(m):
            for part, value in enumerate(_interleaved(outputs[i * m : (i + 1) * m], width)):
                T.buffer_store(lines, value, [T.Ramp(i * size * m + m * to + part * width, 1, width)])

    def tile_of(tile: Tile) -> Any:
        size = tile.size(lanes)
        micro_kernel = micro_kernel_of(SHARED, tile, lanes, False, keep_sums(SHARED, tile, lanes))

        def filler(across: int) -> Any:
            """Fills the lines of the phases `across` of the convolution's columns."""

            @T.inline
            def fill(planes, panel, image, left):
                for c in range(g.channels):
                    for down in range(stride):
                        for i in range((left + tile.width - 1) // patches_w - left // patches_w + 1):
                            row: T.let = left // patches_w + i
                            # What is written past the end of a row is written over by the next one.
                            begin: T.let = T.max(row * patches_w - left, 0)
                            end: T.let = T.min((row + 1) * patches_w - left, tile.width)
                            top: T.let = (image * g.channels + c) * plane_h + step * row + down
                            for k in range((end - begin + lanes - 1) // lanes):
                                place: T.let = begin + k * lanes
                                transform_patches(
                                    panel,
                                    ((c * stride + down) * stride + across) * pitch + place,
                                    planes,
                                    top * line + left + place - row * patches_w,
                                    across,
                                )

            return fill

        # One after the other: LLVM is slow on long code without branches.
        fillers = [filler(across) for across in range(stride)]

        def fill_all(planes: Any, panel: Any, image: Any, left: Any) -> None:
            for each in fillers:
                each(planes, panel, image, left)

        @T.inline
        def merge(sums, slot, lines):
            for i in range(tile.vectors):
                transform_back(sums, slot * size + i * lanes, size, lines, i * lanes, lanes)
            if tile.rest > 0:
                transform_back(sums, slot * size + tile.vectors * lanes, size, lines, tile.vectors * lanes, tile.rest)

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
                        column: T.let = m * (begin - row * patches_w)
                        wide: T.let = T.min(m * (end - begin), out_w - column)
                        for which in range(T.min(m, out_h - m * row)):
                            place: T.let = (
                                (image * row_count + channel) * positions + (m * row + which) * out_w + column
                            )
                            source: T.let = which * size * m + m * (begin - left)
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
            panel = T.alloc_buffer((places * channels * pitch,), "float32")
            sums = T.alloc_buffer((places * SHARED * size,), "float32")
            lines = T.alloc_buffer((m * m * size,), "float32")
            fill_all(planes, panel, image, left)
            for number in range(lists.bounds[chunk + 1] - lists.bounds[chunk]):
                group: T.let = lists.bounds[chunk] + number
                for place in range(places):
                    micro_kernel(
                        lists, place * lists.bounds[chunks] + group, group, panel, sums, place * SHARED * size, ends, 0
                    )
                store(lists, ends, group, sums, lines, image, left)

        return run

    # Vectors are read past the last patch.
    planes_size = g.batch * g.channels * plane_h * line + lanes
    panel_type = offset_type(places * channels * pitch)
    return convolution(g, SHARED, tiling, panel_type, epilogue, planes_size, copy_planes, tile_of)


def _transformed(matrix: np.ndarray, values: Sequence[Sequence[Any]]) -> list[Any]:
    """M V M' of a matrix of numbers and one of vectors, row after row."""
    down = [_products(matrix, [row[j] for row in values]) for j in range(len(values))]
    return [value for i in range(len(matrix)) for value in _products(matrix, [column[i] for column in down])]


def _products(matrix: np.ndarray, values: Sequence[Any]) -> list[Any]:
    """Each row of a matrix of numbers times a column of vectors."""
    return [T.bind(_product(row, values)) for row in matrix]


def _product(factors: np.ndarray, values: Sequence[Any]) -> Any:
    """Sums up the vectors; ones and zeros are not multiplied with."""
    total = None
    for factor, value in zip(factors.tolist(), values, strict=True):
        if factor == 0:
            continue
        term = value if abs(factor) == 1 else value * T.float32(abs(factor))
        if total is None:
            total = term if factor > 0 else T.float32(0) - term
        else:
            total = total + term if factor > 0 else total - term
    return total


def _interleaved(values: Sequence[Any], width: int) -> list[Any]:
    """The first elements of all vectors, then the second ones, and so on; of a power of two of vectors, in as many."""
    if len(values) == 1:
        return list(values)
    found = []
    for pair in zip(_interleaved(values[::2], width), _interleaved(values[1::2], width), strict=True):
        for half in (0, width // 2):
            order = [half + k // 2 + k % 2 * width for k in range(width)]
            found.append(T.bind(tirx.Shuffle(list(pair), order)))
    return found
