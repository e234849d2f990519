"""The passes of a layer in order, and the bytes that memory brings before each and takes after it.

Weights that stay come with the first tile; those of the next set in equal slices beside the passes of the one before,
from its second on, when the half that they go to is free. Inputs stay where tile and chunk are those of the pass
before. Knows no times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwsparse.accelerator.machine import Accelerator
from hwsparse.accelerator.program import Program
from hwsparse.accelerator.stream import section_bytes
from hwsparse.accelerator.tiling import input_bytes


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Of P passes, each an array (P,)."""

    sets: np.ndarray
    tiles: np.ndarray
    chunks: np.ndarray
    own: np.ndarray  # whether a pass's section comes with it
    ahead: np.ndarray  # whether a slice of the next set comes with it
    fetches: np.ndarray  # whether inputs do
    weights: np.ndarray  # bytes, of both
    inputs: np.ndarray  # bytes
    residual: np.ndarray  # bytes
    stores: np.ndarray  # bytes; 0 where sums are not complete yet
    channels: np.ndarray  # of the set
    positions: np.ndarray  # of the tile, that are the layer's
    ends: np.ndarray  # whether it completes a set and tile
    stay: np.ndarray  # (sets,) whether half the weight memory holds a set's words, or all of it those of all sets

    def spread(self, sections: np.ndarray) -> np.ndarray:
        """(P,) what comes with each pass of something that sections have, (sets, chunks), such as their cycles."""
        many = np.bincount(self.sets, self.ahead)  # slices that the next set is cut into
        following = np.append(sections.sum(axis=1)[1:], 0)
        slices = following[self.sets] / np.maximum(many[self.sets], 1)
        return np.where(self.own, sections[self.sets, self.chunks], 0) + np.where(self.ahead, slices, 0)


def schedule(accelerator: Accelerator, program: Program) -> Schedule:
    """What a layer's tiling makes of it."""
    geometry, tiling, tile = program.geometry, program.tiling, accelerator.tile_positions
    sections = section_bytes(accelerator, program)
    sets, chunks = sections.shape
    tiles = -(-geometry.positions // tile)
    grid = (sets, tiles, chunks) if tiling.order == "sets" else (tiles, sets, chunks)
    first, second, chunk = (axis.reshape(-1) for axis in np.indices(grid))
    number, at = (first, second) if tiling.order == "sets" else (second, first)
    own, ahead, stay = _weights(accelerator, program, number, at, chunk)
    same = np.zeros(len(chunk), bool)
    same[1:] = (at[1:] == at[:-1]) & (chunk[1:] == chunk[:-1])
    fetched = input_bytes(geometry, tile, tiling.chunks, accelerator.element_bytes)[at, chunk]
    channels, positions = program.set_channels()[number], np.minimum(tile, geometry.positions - at * tile)
    ends = chunk == chunks - 1
    outputs = np.where(ends, channels * positions, 0)
    return Schedule(
        number, at, chunk, own, ahead, ~same,
        np.where(own, sections[number, chunk], 0) + _slices(sections.sum(axis=1), number, ahead),
        np.where(same, 0, fetched), outputs * program.residual_bytes, outputs * program.output_bytes,
        channels, positions, ends, stay,
    )  # fmt: skip


def _weights(
    accelerator: Accelerator, program: Program, number: np.ndarray, at: np.ndarray, chunk: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`own`, `ahead` and `stay` of a schedule."""
    words, passes = program.words(), np.arange(len(number))
    sets, chunks = words.shape[:2]
    if program.tiling.order == "positions":
        fits = int(words.sum(axis=(0, 1)).max(initial=0)) <= 2 * accelerator.row_words
        stay = np.full(sets, fits or sets * chunks == 1)
        return (at == 0) | ~stay[number], np.zeros(len(number), bool), stay
    stay = words.sum(axis=1).max(axis=1, initial=0) <= accelerator.row_words
    many = np.bincount(number)[0]
    with_first = np.ones(sets, bool)  # whether a set that stays comes with its own first tile
    with_first[1:] = ~stay[:-1] | (many == 1)
    own = np.where(stay[number], with_first[number] & (at == 0), (at == 0) | (chunks > 1))
    following = np.append(stay[1:] & ~with_first[1:], False)
    return own, following[number] & (passes % many > 0), stay


def _slices(whole: np.ndarray, number: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """(P,) bytes of the next set's that come with each pass: whole ones, as equal as may be."""
    found = np.zeros(len(number), np.int64)
    for of in np.unique(number[ahead]):
        mine = np.flatnonzero(ahead & (number == of))
        found[mine] = np.diff(np.arange(len(mine) + 1) * int(whole[of + 1]) // len(mine))
    return found
