"""Which inputs the positions of a layer read: a window that slides over a map of channels, or one cell each.

Inputs of a position are counted channels last: k = kernel position x channels + channel, so that N:M groups and
blocks of inputs, which are of consecutive channels, are consecutive in k. Knows no weights and no machine.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from hwsparse.errors import PlanError, UnsupportedError
from hwsparse.plan import Layer, Window

_MOST = 2**31  # elements of a map or of all windows
_MOST_CELLS = 2**28  # read by all windows, of whatever channels


@dataclass(frozen=True, slots=True)
class Geometry:
    """A map of `batch` samples of `channels`, and the window that slides over its axes."""

    batch: int
    channels: int
    sizes: tuple[int, ...]  # of the map, an entry for each axis
    kernel: tuple[int, ...]
    window: Window

    def __post_init__(self) -> None:
        axes = len(self.sizes)
        lengths = {len(self.kernel), len(self.window.strides), len(self.window.pads), len(self.window.dilations)}
        if not 1 <= axes <= 3 or lengths != {axes}:
            raise PlanError(f"a window has 1 to 3 axes, with a size, stride, pad and dilation for each, not {axes}")
        positive = (self.batch, self.channels, *self.sizes, *self.kernel, *self.window.strides, *self.window.dilations)
        if min(positive) < 1 or min(min(pair) for pair in self.window.pads) < 0 or min(self.positions_by_axis) < 1:
            raise PlanError("a map's sizes, kernel and strides are 1 at least, pads 0, and some window fits the map")
        if self.window.groups != 1:
            raise UnsupportedError("the accelerator runs no convolutions in groups; they are the host's")
        cells = self.positions * math.prod(self.kernel)
        if max(self.map_elements, self.positions * self.inputs) >= _MOST or cells >= _MOST_CELLS:
            raise PlanError(f"a map of {self.map_elements} elements, or its windows, are too many")

    @property
    def positions_by_axis(self) -> tuple[int, ...]:
        w = self.window
        axes = zip(self.sizes, self.kernel, w.strides, w.pads, w.dilations, strict=True)
        return tuple((size + sum(pad) - dil * (kern - 1) - 1) // stride + 1 for size, kern, stride, pad, dil in axes)

    @property
    def positions(self) -> int:
        return self.batch * math.prod(self.positions_by_axis)

    @property
    def inputs(self) -> int:
        """Inputs of a position: K."""
        return self.channels * math.prod(self.kernel)

    @property
    def map_elements(self) -> int:
        return self.batch * self.channels * math.prod(self.sizes)

    @classmethod
    def of(cls, layer: Layer) -> Geometry:
        """Of a convolution or a matrix product.

        Raises:
            UnsupportedError: a convolution in groups.
            PlanError: its map or windows are more than can be counted.
        """
        if layer.window is None:
            still = Window((1,), ((0, 0),), (1,))
            return cls(1, layer.inputs, (math.prod(layer.input_shape[:-1]),), (1,), still)
        return cls(
            layer.input_shape[0], layer.input_shape[1], layer.input_shape[2:], layer.weight_shape[2:], layer.window
        )

    def cells(self) -> np.ndarray:
        """(kernel positions, positions) cells of the map, sample by sample; -1 where a window is beyond its edge."""
        w = self.window
        found = np.zeros((1, 1), np.int64)
        for size, kernel, stride, (pad, _), dilation, count in zip(
            self.sizes, self.kernel, w.strides, w.pads, w.dilations, self.positions_by_axis, strict=True
        ):
            at = np.arange(kernel)[:, None] * dilation - pad + np.arange(count) * stride
            at[(at < 0) | (at >= size)] = -1
            outer, inner = found[:, None, :, None], at[None, :, None, :]
            joined = np.where((outer < 0) | (inner < 0), -1, outer * size + inner)
            found = joined.reshape(found.shape[0] * kernel, found.shape[1] * count)
        samples = np.arange(self.batch)[:, None] * math.prod(self.sizes)
        whole = np.where(found[:, None] < 0, -1, found[:, None] + samples)
        return whole.reshape(found.shape[0], -1)

    def columns(self, inputs: np.ndarray, pad: int = 0) -> np.ndarray:
        """(K, positions): what every position reads, `pad` beyond the edge.

        Args:
            inputs: (batch, channels, *sizes).
        """
        flat = np.moveaxis(inputs.reshape(self.batch, self.channels, -1), 1, 2).reshape(-1, self.channels)
        beyond = np.full((1, self.channels), pad, inputs.dtype)
        read = np.concatenate([flat, beyond])[self.cells()]  # -1 is the last
        return np.ascontiguousarray(np.moveaxis(read, 2, 1).reshape(self.inputs, self.positions))


@functools.lru_cache(maxsize=256)
def fetched_cells(geometry: Geometry, tile: int, spans: tuple[tuple[int, int], ...]) -> np.ndarray:
    """(tiles, spans): cells that each tile of positions needs, every one counted once.

    Args:
        tile: positions of a tile.
        spans: first kernel position, and the one after the last.
    """
    positions = geometry.positions
    tiles = -(-positions // tile)
    cells = geometry.cells()
    which = np.arange(positions) // tile
    cell_count = geometry.batch * math.prod(geometry.sizes)
    found: dict[tuple[int, int], np.ndarray] = {}
    for span in set(spans):
        keys = (which * cell_count + cells[slice(*span)])[cells[slice(*span)] >= 0]
        distinct = np.unique(keys) if span[1] - span[0] > 1 or tile > 1 else keys
        found[span] = np.bincount(distinct // cell_count, minlength=tiles)
    counts = np.stack([found[span] for span in spans], axis=1)
    counts.setflags(write=False)
    return counts


def touched_elements(geometry: Geometry) -> int:
    """Elements of the map that some position reads: what must be fetched at least once."""
    cells = geometry.cells()
    return int(np.unique(cells[cells >= 0]).size) * geometry.channels
