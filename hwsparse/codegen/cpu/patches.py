"""How a convolution's input patches come into panels: from the input itself, or from planes made ready for it.

Knows nothing of weights and outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.arithmetic import FLOATS, Arithmetic
from hwsparse.codegen.cpu.copying import (
    copy_every,
    copy_line,
    copy_line_of_words,
    copy_past,
    copy_run,
    copy_words,
)
from hwsparse.codegen.cpu.geometry import Geometry, Panel


@dataclass(frozen=True, slots=True)
class Patches:
    """Where tiles read their patches from: planes copied from the input, or the input itself if `size` is 0.

    `copy` is an inline function of (x, planes, lists). `filler` gives for a panel and a tile's width an inline function
    of (planes, panel, image, left, channel, channels) that fills the panel, from channel `channel` on.
    """

    size: int
    copy: Any
    filler: Callable[[Panel, int], Any]


def patches_of(geometry: Geometry, lanes: int, arithmetic: Arithmetic = FLOATS) -> Patches:
    """The patches of a convolution; where the geometry's channels are words, these are put together on the way."""
    if arithmetic.of != "float32":
        padded = not geometry.single_tap
        return _padded_words(geometry, lanes, arithmetic) if padded else _thinned_words(geometry, lanes, arithmetic)
    return _padded_input(geometry, lanes) if not geometry.single_tap else _thinned_input(geometry, lanes)


def _thinned_input(geometry: Geometry, lanes: int) -> Patches:
    """A pixel for each position: patches are runs of what remains of the planes after striding."""
    g = geometry
    planes_count, channels, positions, out_w = g.batch * g.channels, g.channels, g.positions, g.out_w
    pick = copy_every(out_w, g.stride_w, lanes)

    @T.inline
    def copy(x, planes, lists):
        for plane in T.parallel(planes_count):
            for row in range(g.out_h):
                pick(planes, plane * positions + row * out_w, x, (plane * g.in_h + row * g.stride_h) * g.in_w)

    def filler(panels: Panel, width: int) -> Any:
        copy_tile = copy_run(width, lanes)

        @T.inline
        def fill(planes, panel, image, left, channel, count):
            for c in range(count):
                copy_tile(panel, c * panels.pitch, planes, (image * channels + channel + c) * positions + left)

        return fill

    return Patches(planes_count * positions if g.strided else 0, copy, filler)


def _thinned_words(geometry: Geometry, lanes: int, arithmetic: Arithmetic) -> Patches:
    """As `_thinned_input`, of words."""
    g, planes_at = geometry, _planes_of_words(geometry, arithmetic.inputs_of_word)
    planes_count, channels, positions, out_w = g.batch * g.channels, g.channels, g.positions, g.out_w

    def pick(planes: Any, plane: Any, row: Any, x: Any) -> None:
        starts = [start + row * g.stride_h * g.in_w for start in planes_at(plane)]
        copy_words(out_w, g.stride_w, lanes, arithmetic.word_of)(planes, plane * positions + row * out_w, x, starts)

    @T.inline
    def copy(x, planes, lists):
        for plane in T.parallel(planes_count):
            for row in range(g.out_h):
                pick(planes, plane, row, x)

    def filler(panels: Panel, width: int) -> Any:
        if g.strided:
            return _thinned_input(g, lanes).filler(panels, width)

        def join(panel: Any, start: Any, x: Any, plane: Any, left: Any) -> None:
            copy_words(width, 1, lanes, arithmetic.word_of)(
                panel, start, x, [start + left for start in planes_at(plane)]
            )

        @T.inline
        def fill(x, panel, image, left, channel, count):
            for c in range(count):
                join(panel, c * panels.pitch, x, image * channels + channel + c, left)

        return fill

    return Patches(planes_count * positions if g.strided else 0, copy, filler)


def _planes_of_words(geometry: Geometry, inputs_of_word: int) -> Callable[[Any], list[Any]]:
    """Where the planes begin in the input that a plane of words is made of.

    Where there are fewer, the last one is taken more than once: its other weights are zero.
    """
    words, channels, size = geometry.channels, geometry.input_shape[1], geometry.in_h * geometry.in_w

    def planes_at(plane: Any) -> list[Any]:
        image, word = plane // words, plane % words
        inputs = (T.min(word * inputs_of_word + place, channels - 1) for place in range(inputs_of_word))
        return [(image * channels + each) * size for each in inputs]

    return planes_at


def _padded_words(geometry: Geometry, lanes: int, arithmetic: Arithmetic) -> Patches:
    """As `_padded_input`, of words; those around the image stand for zeros."""
    g, floats = geometry, _padded_input(geometry, lanes)
    planes_count, pad_top, plane_h, pitch = g.batch * g.channels, g.pad_top, _height(g), _pitch(g)
    planes_at = _planes_of_words(g, arithmetic.inputs_of_word)
    line, copy_padded = g.stride_w * pitch, copy_line_of_words(g, pitch, lanes, planes_at, arithmetic.word_of)
    of_bytes, zero = int(arithmetic.is_bytes), tirx.const(0, arithmetic.dtype)

    @T.inline
    def copy(x, planes, lists):
        for plane in T.parallel(planes_count):
            for i in range(plane_h):
                if of_bytes > 0:
                    copy_padded(planes, (plane * plane_h + i) * line, x, plane, i - pad_top, lists.blank[0])
                else:
                    copy_padded(planes, (plane * plane_h + i) * line, x, plane, i - pad_top, zero)

    return replace(floats, copy=copy)


def _height(geometry: Geometry) -> int:
    """Lines of a padded plane."""
    return geometry.in_h + geometry.pad_top + geometry.pad_bottom


def _pitch(geometry: Geometry) -> int:
    """Pixels of a padded line in each phase."""
    return -(-(geometry.in_w + geometry.pad_left + geometry.pad_right) // geometry.stride_w)


def _padded_input(geometry: Geometry, lanes: int) -> Patches:
    """Padded planes, their lines cut into stride phases, so that every tap reads a run of each output row."""
    g = geometry
    planes_count, channels, stride_w, out_w, pad_top = g.batch * g.channels, g.channels, g.stride_w, g.out_w, g.pad_top
    plane_h, pitch = _height(g), _pitch(g)
    line = stride_w * pitch
    copy_padded, copy_vectors = copy_line(g, pitch, lanes), copy_past(lanes)

    @T.inline
    def copy(x, planes, lists):
        for plane in T.parallel(planes_count):
            for i in range(plane_h):
                copy_padded(planes, (plane * plane_h + i) * line, x, plane, i - pad_top)

    def filler(panels: Panel, width: int) -> Any:
        total = width + panels.reach * out_w

        @T.inline
        def copy_row(planes, panel, left, plane, c, tap, row):
            across: T.let = tap % g.kernel_w * g.dilation_w
            # What is copied past the end of a row is written over by the next one.
            begin: T.let = T.max(row * out_w - left, 0)
            end: T.let = T.min((row + 1) * out_w - left, total)
            copy_vectors(
                panel,
                (c * panels.lines + tap) * panels.pitch + begin,
                planes,
                (plane * plane_h + row * g.stride_h + tap // g.kernel_w * g.dilation_h) * line
                + across % stride_w * pitch
                + across // stride_w
                + (left + begin - row * out_w),
                end - begin,
            )

        @T.inline
        def fill(planes, panel, image, left, channel, count):
            first_row: T.let = left // out_w
            rows: T.let = (left + total - 1) // out_w - first_row + 1
            first_plane: T.let = image * channels + channel
            # Row by row is faster, and needs lines with room past their ends.
            if panels.reach > 0:
                for i in range(rows):
                    for c in range(count):
                        for tap in range(panels.lines):
                            copy_row(planes, panel, left, first_plane + c, c, tap, first_row + i)
            else:
                for c in range(count):
                    for tap in range(panels.lines):
                        for i in range(rows):
                            copy_row(planes, panel, left, first_plane + c, c, tap, first_row + i)

        return fill

    # Lines that serve several rows of a kernel are read past the last row, and rows in whole vectors.
    return Patches(planes_count * plane_h * line + g.stride_h * line + lanes, copy, filler)
