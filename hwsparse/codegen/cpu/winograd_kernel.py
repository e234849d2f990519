"""Winograd's convolution as a kernel: patches are transformed into a panel, multiplied there, and transformed back.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.arithmetic import FLOATS, Arithmetic
from hwsparse.codegen.cpu.copying import copy_line
from hwsparse.codegen.cpu.entry import convolution, finish_of
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.geometry import Geometry, Tile, Tiling, offset_type
from hwsparse.codegen.cpu.micro_kernel import keep_sums, micro_kernel_of
from hwsparse.codegen.cpu.winograd import SHARED, Scheme, matrices, panel_pitch


@functools.cache
def winograd_convolution(
    geometry: Geometry, scheme: Scheme, tiling: Tiling, epilogue: Epilogue, arithmetic: Arithmetic = FLOATS
) -> tirx.PrimFunc:
    """The kernel as a PrimFunc, with the arguments of `shared_index`."""
    g, lanes, chunks, pitch = geometry, tiling.lanes, tiling.chunks, panel_pitch(tiling)
    places, outputs, finish = scheme.side**2, scheme.outputs, finish_of(epilogue)
    panel_size = places * scheme.channels(g) * pitch
    source = _Planes(g, scheme, lanes)

    def tile_of(tile: Tile) -> Any:
        size = tile.size(lanes)
        micro_kernel = micro_kernel_of(SHARED, tile, lanes, False, keep_sums(SHARED, tile, lanes), arithmetic)
        # One after the other: LLVM is slow on long code without branches.
        fillers = [source.filler(pitch, tile, across) for across in range(scheme.stride)]
        store = _storer(g, scheme, tile, lanes, finish)

        def fill(planes: Any, panel: Any, image: Any, left: Any) -> None:
            for each in fillers:
                each(planes, panel, image, left)

        @T.inline
        def run(planes, lists, ends, image, left, chunk):
            panel = T.alloc_buffer((panel_size,), "float32")
            sums = T.alloc_buffer((places * SHARED * size,), "float32")
            lines = T.alloc_buffer((outputs * outputs * size,), "float32")
            fill(planes, panel, image, left)
            for number in range(lists.bounds[chunk + 1] - lists.bounds[chunk]):
                group: T.let = lists.bounds[chunk] + number
                for place in range(places):
                    micro_kernel(
                        lists, place * lists.bounds[chunks] + group, group, panel, sums, place * SHARED * size, ends, 0
                    )
                store(lists, ends, group, sums, lines, image, left)

        return run

    return convolution(g, SHARED, tiling, offset_type(panel_size), epilogue, source.size, source.copier(), tile_of)


@dataclass(frozen=True, slots=True)
class _Planes:
    """The padded input; each line is cut into runs, of every column that lies so far right of a patch's first one."""

    geometry: Geometry
    scheme: Scheme
    lanes: int

    @property
    def height(self) -> int:
        """Lines of a plane."""
        return self.scheme.step * self.scheme.patches(self.geometry)[0] + self.scheme.stride * (self.scheme.taps - 1)

    @property
    def run(self) -> int:
        """Floats of a run: as many as patches read, and as the input has."""
        g, step = self.geometry, self.scheme.step
        read = self.scheme.patches(g)[1] + (self.scheme.stride * self.scheme.side - 1) // step
        return max(read, -(-(g.pad_left + g.in_w) // step))

    @property
    def line(self) -> int:
        """Floats of a line."""
        return self.scheme.step * self.run

    @property
    def size(self) -> int:
        """Floats of all planes; vectors are read past the last patch."""
        return self.geometry.batch * self.geometry.channels * self.height * self.line + self.lanes

    def copier(self) -> Any:
        """An inline function of (x, planes, lists)."""
        g, line, height = self.geometry, self.line, self.height
        count, pad_top = g.batch * g.channels, g.pad_top
        cut = replace(g, stride_w=self.scheme.step, pad_right=line - g.pad_left - g.in_w)
        copy_padded = copy_line(cut, self.run, self.lanes)

        @T.inline
        def copy(x, planes, lists):
            for plane in T.parallel(count):
                for i in range(height):
                    copy_padded(planes, (plane * height + i) * line, x, plane, i - pad_top)

        return copy

    def filler(self, pitch: int, tile: Tile, across: int) -> Any:
        """An inline function of (planes, panel, image, left) that transforms a tile's patches.

        It fills the panel's lines, of `pitch` floats, that are of the phases `across` of the convolution's columns.
        """
        channels, height, line, lanes, width = self.geometry.channels, self.height, self.line, self.lanes, tile.width
        stride, step, patches_w = self.scheme.stride, self.scheme.step, self.scheme.patches(self.geometry)[1]
        transform = self._transform

        @T.inline
        def fill(planes, panel, image, left):
            for c in range(channels):
                for down in range(stride):
                    for i in range((left + width - 1) // patches_w - left // patches_w + 1):
                        row: T.let = left // patches_w + i
                        # What is written past the end of a row is written over by the next one.
                        begin: T.let = T.max(row * patches_w - left, 0)
                        end: T.let = T.min((row + 1) * patches_w - left, width)
                        top: T.let = (image * channels + c) * height + step * row + down
                        for k in range((end - begin + lanes - 1) // lanes):
                            place: T.let = begin + k * lanes
                            transform(
                                panel,
                                ((c * stride + down) * stride + across) * pitch + place,
                                pitch,
                                planes,
                                top * line + left + place - row * patches_w,
                                across,
                            )

        return fill

    def _transform(self, panel: Any, to: Any, pitch: int, planes: Any, start: Any, across: int) -> None:
        """B' d B of as many patches as a vector has lanes."""
        side, stride, step, lanes = self.scheme.side, self.scheme.stride, self.scheme.step, self.lanes
        apart = self.scheme.channels(self.geometry) * pitch
        columns = [stride * j + across for j in range(side)]
        places = [column % step * self.run + column // step for column in columns]
        tops = [start + i * stride * self.line for i in range(side)]
        patch = [[T.bind(planes[T.Ramp(top + place, 1, lanes)]) for place in places] for top in tops]
        _, _, matrix = matrices(self.scheme)
        for number, value in enumerate(_transformed(matrix, patch)):
            T.buffer_store(panel, value, [T.Ramp(to + number * apart, 1, lanes)])


def _storer(geometry: Geometry, scheme: Scheme, tile: Tile, lanes: int, finish: Callable[[Any, Any, Any], Any]) -> Any:
    """An inline function that transforms back the sums of one row group and stores its outputs."""
    rows, positions, out_h, out_w = geometry.rows, geometry.positions, geometry.out_h, geometry.out_w
    m, side, size, patches_w = scheme.outputs, scheme.side, tile.size(lanes), scheme.patches(geometry)[1]
    output_matrix, _, _ = matrices(scheme)

    def transform_back(sums: Any, slot: Any, lines: Any, to: int, width: int) -> None:
        """A' M A of `width` patches; their outputs are laid side by side in `lines`, a line for each row."""
        start = slot * size + to
        values = [
            [T.bind(sums[T.Ramp(start + (i * side + j) * SHARED * size, 1, width)]) for j in range(side)]
            for i in range(side)
        ]
        outputs = _transformed(output_matrix, values)
        for i in range(m):
            for part, value in enumerate(_interleaved(outputs[i * m : (i + 1) * m], width)):
                T.buffer_store(lines, value, [T.Ramp(i * size * m + m * to + part * width, 1, width)])

    @T.inline
    def merge(sums, slot, lines):
        for i in range(tile.vectors):
            transform_back(sums, slot, lines, i * lanes, lanes)
        if tile.rest > 0:
            transform_back(sums, slot, lines, tile.vectors * lanes, tile.rest)

    @T.inline
    def store_line(lines, source, ends, channel, place, wide):
        for k in range(wide // lanes):
            for lane in T.vectorized(lanes):
                ends.out[place + k * lanes + lane] = finish(
                    lines[source + k * lanes + lane] + ends.bias[channel], ends, place + k * lanes + lane, 1
                )
        for k in range(wide % lanes):
            ends.out[place + wide - wide % lanes + k] = finish(
                lines[source + wide - wide % lanes + k] + ends.bias[channel],
                ends,
                place + wide - wide % lanes + k,
                1,
            )

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
                        place: T.let = (image * rows + channel) * positions + (m * row + which) * out_w + column
                        source: T.let = which * size * m + m * (begin - left)
                        store_line(lines, source, ends, channel, place, wide)

    return store


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
