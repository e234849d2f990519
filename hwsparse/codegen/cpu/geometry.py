"""A layer as a product: sizes of rows, columns and positions, and how positions are tiled.

    out[row, position] = sum over columns of weight[row, column] * patch[column, position]

For a convolution the columns are (input channel, kernel row, kernel column) over all groups and the
positions are the output pixels of one image; for a matrix product the positions are the rows (tokens)
of the activation. One-dimensional convolutions are two-dimensional ones of height 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from hwsparse.plan import Layer
from hwsparse.target import Target

FLOAT_BYTES = 4
LINE_FLOATS = 16  # of a cache line
NARROWEST = 4  # lanes of a vector
MOST_VECTORS = 8  # of a tile
# What it costs to share out rows instead of tiles, measured on Zen 4: every thread fills all panels.
CHUNKING = 1.15
# Rows that share an index list, up to which an entry's loads cost more than its multiply-adds.
MOST_LOAD_BOUND_ROWS = 2


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes a CPU kernel is generated from; `tokens` says that positions are rows of a matrix."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    tokens: bool
    batch: int
    channels: int
    in_h: int
    in_w: int
    rows: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_top: int
    pad_left: int
    pad_bottom: int
    pad_right: int
    dilation_h: int
    dilation_w: int
    groups: int
    out_h: int
    out_w: int

    @classmethod
    def of(cls, layer: Layer) -> Geometry:
        """The geometry of a Conv (1-D or 2-D), Gemm or MatMul layer."""
        window = layer.window
        if window is None:
            positions = math.prod(layer.input_shape[:-1])
            return cls(
                layer.input_shape, layer.output_shape,
                True, 1, layer.inputs, 1, positions, layer.outputs, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, positions,
            )  # fmt: skip
        one = len(window.strides) == 1
        batch, channels = layer.input_shape[:2]
        in_h, in_w = (1, layer.input_shape[2]) if one else layer.input_shape[2:]
        kernel_h, kernel_w = (1, layer.weight_shape[2]) if one else layer.weight_shape[2:]
        stride_h, stride_w = (1, window.strides[0]) if one else window.strides
        dilation_h, dilation_w = (1, window.dilations[0]) if one else window.dilations
        (top, bottom), (left, right) = ((0, 0), window.pads[0]) if one else window.pads
        out_h, out_w = (1, layer.output_shape[2]) if one else layer.output_shape[2:]
        return cls(
            layer.input_shape, layer.output_shape,
            False, batch, channels, in_h, in_w, layer.outputs, kernel_h, kernel_w, stride_h, stride_w,
            top, left, bottom, right, dilation_h, dilation_w, window.groups, out_h, out_w,
        )  # fmt: skip

    @property
    def columns(self) -> int:
        """Columns of the panel: every column of every group."""
        return self.channels * self.kernel_h * self.kernel_w

    @property
    def positions(self) -> int:
        """Output positions of one image, or tokens."""
        return self.out_h * self.out_w

    @property
    def padded(self) -> bool:
        return max(self.pad_top, self.pad_left, self.pad_bottom, self.pad_right) > 0

    @property
    def depthwise(self) -> bool:
        return not self.tokens and self.groups > 1 and self.groups == self.channels

    @property
    def single_tap(self) -> bool:
        """A patch is one input position, never one of padding."""
        return (self.kernel_h, self.kernel_w) == (1, 1) and not self.padded

    @property
    def strided(self) -> bool:
        return (self.stride_h, self.stride_w) != (1, 1)


@dataclass(frozen=True, slots=True)
class Panel:
    """How the input patches of a tile lie in memory: so many lines for each channel, one after the other.

    A line holds what one column of the kernel reads, output position after output position. It serves one row
    of the kernel, or all rows that lie whole output rows apart: then it goes on for `reach` more output rows.
    """

    channels: int  # worked on at a time
    lines: int  # of a channel
    pitch: int  # floats from one line to the next
    reach: int

    @classmethod
    def of(cls, geometry: Geometry, channels: int, size: int, whole: bool) -> Panel:
        """The panel for tiles of up to `size` positions, with `whole` lines for several rows of the kernel."""
        g = geometry
        if whole and can_share_lines(g):
            reach = (g.kernel_h - 1) * g.dilation_h // g.stride_h
            # With room for a vector that is copied past the end.
            pitch = (-(-(size + reach * g.out_w) // LINE_FLOATS) + 1) * LINE_FLOATS
            return cls(channels, g.stride_h * g.kernel_w, pitch, reach)
        return cls(channels, g.kernel_h * g.kernel_w, size, 0)

    @property
    def offset_type(self) -> str:
        return offset_type(self.channels * self.lines * self.pitch)

    def offsets(self, geometry: Geometry) -> np.ndarray:
        """Where each column of the weight begins in the panel, within its block of channels: (columns,)."""
        g = geometry
        channel, y, x = np.ogrid[: g.channels, : g.kernel_h, : g.kernel_w]
        row, down = (y % g.stride_h, y * g.dilation_h // g.stride_h) if self.reach else (y, 0 * y)
        start = (channel % self.channels * self.lines + row * g.kernel_w + x) * self.pitch
        return np.asarray(start + down * g.out_w, self.offset_type).reshape(-1)


def offset_type(floats: int) -> str:
    """The type of offsets into so many floats; short ones keep artifacts of very sparse layers small."""
    return "uint16" if floats <= 1 << 16 else "int32"


def can_share_lines(geometry: Geometry) -> bool:
    """Some rows of the kernel lie whole output rows apart."""
    return geometry.kernel_h > geometry.stride_h and 1 in (geometry.stride_h, geometry.dilation_h)


@dataclass(frozen=True, slots=True)
class Tile:
    """Output positions, one after the other, as SIMD vectors.

    A few positions that whole vectors leave over may take one narrower vector, of `rest` lanes.
    """

    width: int
    vectors: int
    rest: int = 0

    @classmethod
    def of(cls, width: int, lanes: int, narrow: bool) -> Tile:
        """A tile with a narrower last vector where that is `narrow` enough to be cheaper than a whole one."""
        whole, left = divmod(width, lanes)
        rest = max(NARROWEST, 1 << (left - 1).bit_length()) if left else 0
        if narrow and whole and 0 < rest < lanes:
            return cls(width, whole, rest)
        return cls(width, whole + (left > 0))

    def size(self, lanes: int) -> int:
        """Floats that its vectors hold."""
        return self.vectors * lanes + self.rest


@dataclass(frozen=True, slots=True)
class Tiling:
    """How positions are cut into tiles, columns into blocks, and both shared out.

    The last tile of an image may be smaller, or larger by a narrower vector. `chunks` parts of the row groups are
    separate tasks, so that few tiles still fill every thread.
    """

    tile: Tile
    last: Tile
    lanes: int
    count: int
    chunks: int
    panel: Panel


def most_vectors(shared_rows: int, target: Target) -> int:
    """Position vectors a tile may have so that `shared_rows` accumulators of each stay in registers.

    Measured on AVX-512: two registers are kept for the loaded vector and the weight; past `MOST_VECTORS`
    a row nothing is gained.
    """
    return max(1, min(MOST_VECTORS, (target.vector_registers - 3) // (shared_rows + 1)))


@dataclass(frozen=True, slots=True)
class Variant:
    """What can be chosen of a kernel's form; which is fastest is for measurement to say."""

    vectors: int  # of a tile
    channels: int  # of the panel, worked on at a time
    whole_lines: bool  # of the panel, each for several rows of the kernel

    def __str__(self) -> str:
        return f"v{self.vectors}k{self.channels}{'w' if self.whole_lines else ''}"


def tiling_of(geometry: Geometry, shared_rows: int, variant: Variant, target: Target) -> Tiling:
    """The tiling that a variant stands for."""
    lanes = target.vector_bits // 32
    size = variant.vectors * lanes
    count, left = divmod(geometry.positions, size)
    # Accumulators, weights, a loaded vector and one to spare.
    room = target.vector_registers - shared_rows * (variant.vectors + 1) - shared_rows - 2
    wider = Tile.of(size + left, lanes, not geometry.tokens)
    absorbed = count > 0 and room >= 0 and wider.rest > 0 and wider.vectors == variant.vectors
    if left and not absorbed:
        count += 1
    last = Tile.of(geometry.positions - (count - 1) * size, lanes, not geometry.tokens)
    tile = Tile(size, variant.vectors) if count > 1 else last
    shared_out = geometry.tokens or _busiest(geometry, size, count, target.threads) <= CHUNKING
    chunks = 1 if shared_out else min(target.threads, -(-geometry.rows // shared_rows))
    panel = Panel.of(geometry, variant.channels, max(tile.size(lanes), last.size(lanes)), variant.whole_lines)
    return Tiling(tile, last, lanes, count, chunks, panel)


def variants(geometry: Geometry, shared_rows: int, target: Target) -> tuple[Variant, ...]:
    """Variants that may be the fastest, the one expected to be first.

    Measured on Zen 4, all layers of ResNet-50: of every size of tile and panel and both kinds of lines, the fastest
    are 1 to 3 % faster than the expected ones, and most of that is had by these few.
    """
    first = choose_variant(geometry, shared_rows, target)
    fewer = max(1, first.vectors - (1 if shared_rows <= MOST_LOAD_BOUND_ROWS else 2))
    found = [first, _variant(geometry, shared_rows, fewer, first.whole_lines, target)]
    if can_share_lines(geometry):
        found.append(_variant(geometry, shared_rows, first.vectors, not first.whole_lines, target))
    return tuple(dict.fromkeys(found))


def choose_variant(geometry: Geometry, shared_rows: int, target: Target, most: int = MOST_VECTORS) -> Variant:
    """The variant of at most `most` vectors with the fewest steps on the busiest thread, where nothing was measured."""
    best: tuple[float, Variant] | None = None
    # Lines for several rows of a kernel are read unaligned: where loads are the limit, only long rows gain by them.
    long_rows = geometry.out_w >= 2 * target.vector_bits // 32
    whole = can_share_lines(geometry) and (shared_rows > MOST_LOAD_BOUND_ROWS or long_rows)
    for vectors in range(1, min(most, most_vectors(shared_rows, target)) + 1):
        variant = _variant(geometry, shared_rows, vectors, whole, target)
        tiling = tiling_of(geometry, shared_rows, variant, target)
        busiest = _busiest(geometry, vectors * tiling.lanes, tiling.count, target.threads)
        waiting = busiest if tiling.chunks == 1 else CHUNKING
        steps = (tiling.count - 1) * _steps(tiling.tile, shared_rows) + _steps(tiling.last, shared_rows)
        if best is None or steps * waiting <= best[0]:
            best = steps * waiting, variant
    assert best is not None
    return best[1]


def _variant(geometry: Geometry, shared_rows: int, vectors: int, whole_lines: bool, target: Target) -> Variant:
    """The variant with these tiles and lines, and the panel that suits them."""
    variant = Variant(vectors, geometry.channels, whole_lines)
    tiling = tiling_of(geometry, shared_rows, variant, target)
    return replace(variant, channels=_channels(geometry, shared_rows, tiling, target))


def _steps(tile: Tile, shared_rows: int) -> float:
    """What one entry costs over a tile: its multiply-adds, or its loads if they are more, and its index.

    Measured on Zen 4: a narrower vector costs half of a whole one, the eighth vector almost two.
    """
    vectors = tile.vectors + (tile.rest > 0) / 2 + (tile.vectors > 7) * 0.6
    return max(shared_rows * vectors, shared_rows + vectors) + 1


def _channels(geometry: Geometry, shared_rows: int, tiling: Tiling, target: Target) -> int:
    """Channels of a panel to work on at a time: all of them, unless loads are what an entry costs.

    Rows that share no index list load a vector for each multiply-add, from L2 half as fast. Measured on Zen 4: a
    panel may be twice as large as L1 before splitting it pays, and its parts once and a half.
    """
    channel_bytes = tiling.panel.lines * tiling.panel.pitch * FLOAT_BYTES
    if shared_rows > MOST_LOAD_BOUND_ROWS or geometry.channels * channel_bytes <= 2 * target.l1d_bytes:
        return geometry.channels
    most = max(1, target.l1d_bytes * 3 // 2 // channel_bytes)
    return -(-geometry.channels // -(-geometry.channels // most))


def _busiest(geometry: Geometry, size: int, count: int, threads: int) -> float:
    """The positions of the busiest thread, of `count` tiles of `size`, in equal shares of all positions."""
    tiles = -(-geometry.batch * count // threads)
    share = tiles * size * threads / (geometry.batch * geometry.positions)
    return max(1.0, share) if threads > 1 else 1.0
