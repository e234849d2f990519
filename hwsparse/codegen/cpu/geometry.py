"""A layer as a product: sizes of rows, columns and positions, and how positions are tiled.

    out[row, position] = sum over columns of weight[row, column] * patch[column, position]

For a convolution the columns are (input channel, kernel row, kernel column) over all groups and the
positions are the output pixels of one image; for a matrix product the positions are the rows (tokens)
of the activation. One-dimensional convolutions are two-dimensional ones of height 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hwsparse.plan import Layer
from hwsparse.target import Target

FLOAT_BYTES = 4
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
    def pointwise(self) -> bool:
        """A patch is one input position, at the same place as the output's."""
        window = (self.kernel_h, self.kernel_w, self.stride_h, self.stride_w)
        return window == (1, 1, 1, 1) and not self.padded


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of output positions, held in `vectors` SIMD registers a row."""

    height: int
    width: int
    vectors: int


@dataclass(frozen=True, slots=True)
class Tiling:
    """How positions are cut into tiles, columns into blocks, and both shared out.

    A tile either spans whole output rows or is one row high, so that its outputs are contiguous in
    memory. The last tile of an image, or of an image row, may be smaller and then has fewer vectors.
    `chunks` parts of the row groups are separate tasks, so that few tiles still fill every thread. Of
    the panel, `block` columns are worked on at a time.
    """

    tile: Tile
    last: Tile
    lanes: int
    down: int  # tiles along the height
    across: int  # tiles along the width
    chunks: int
    block: int


def most_vectors(shared_rows: int, target: Target) -> int:
    """Position vectors a tile may have so that `shared_rows` accumulators of each stay in registers.

    Measured on AVX-512: two registers are kept for the loaded vector and the weight; past 8 vectors
    a row nothing is gained.
    """
    return max(1, min(8, (target.vector_registers - 3) // (shared_rows + 1)))


def choose_tiling(geometry: Geometry, shared_rows: int, target: Target) -> Tiling:
    """The tiling with the fewest steps on the busiest thread."""
    lanes = target.vector_bits // 32
    # A tile of pointwise positions may cross output rows: they are contiguous in the input too.
    flat = geometry.pointwise or geometry.tokens
    out_h, out_w = (1, geometry.positions) if flat else (geometry.out_h, geometry.out_w)
    groups = -(-geometry.rows // shared_rows)
    best: tuple[float, Tiling] | None = None
    for vectors in range(1, most_vectors(shared_rows, target) + 1):
        size = vectors * lanes
        height, width = (min(size // out_w, out_h), out_w) if size >= out_w else (1, size)
        down, across = -(-out_h // height), -(-out_w // width)
        tile = Tile(height, width, -(-height * width // lanes))
        last_height, last_width = out_h - (down - 1) * height, out_w - (across - 1) * width
        last = Tile(last_height, last_width, -(-last_height * last_width // lanes))
        tasks = geometry.batch * down * across
        chunks = 1 if geometry.tokens else _chunks(tasks, groups, target.threads)
        idle = -(-tasks * chunks // target.threads) * target.threads / (tasks * chunks)
        lasts = down if height == 1 else 1
        steps = (down * across - lasts) * _steps(tile, shared_rows) + lasts * _steps(last, shared_rows)
        if best is None or steps * idle <= best[0]:
            block = _block(geometry, shared_rows, tile.vectors * lanes, target)
            best = steps * idle, Tiling(tile, last, lanes, down, across, chunks, block)
    assert best is not None
    return best[1]


def _steps(tile: Tile, shared_rows: int) -> int:
    """What one entry costs over a tile: its multiply-adds, or its loads if they are more, and its index."""
    return max(shared_rows * tile.vectors, shared_rows + tile.vectors) + 1


def _block(geometry: Geometry, shared_rows: int, size: int, target: Target) -> int:
    """Columns of a panel to work on at a time: all of them, unless loads are what an entry costs.

    Rows that share no index list load a vector for each multiply-add, from L2 half as fast. Measured on Zen 4: a
    panel may be twice as large as L1 before splitting it pays, and its parts once and a half.
    """
    taps = geometry.kernel_h * geometry.kernel_w
    line_bytes = size * FLOAT_BYTES * taps
    if shared_rows > MOST_LOAD_BOUND_ROWS or geometry.channels * line_bytes <= 2 * target.l1d_bytes:
        return geometry.columns
    most = max(1, target.l1d_bytes * 3 // 2 // line_bytes)
    return -(-geometry.channels // -(-geometry.channels // most)) * taps


def _chunks(tasks: int, groups: int, threads: int) -> int:
    """The fewest parts of the row groups that keep every thread busy for nine tenths of the time."""
    for chunks in range(1, min(groups, 2 * threads) + 1):
        work = tasks * chunks
        if work / (-(-work // threads) * threads) >= 0.9:
            return chunks
    return 1
