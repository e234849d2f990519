"""Weights as the CPU kernels read them: row groups, each with one list of kept columns.

Knows nothing of TVM; arrays in, arrays out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwsparse.codegen.cpu.geometry import Geometry

# Other orders of rows are looked for where more than so many weights are stored for each that is not zero.
LOOSE = 1.02


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Row groups of one weight matrix.

    bounds  (chunks + 1,) int32          row groups of each chunk: bounds[c] to bounds[c + 1]
    starts  (blocks * groups + 1,) int32 entries of row group g in block b: from starts[b * groups + g] to the next
    offsets (entries,) uint16 or int32   where in the panel the column of each entry begins
    values  (entries, shared)            the group's weights in that column: float32, or int32 words of bytes
    rows    (groups * shared,) int32     output row of each slot, or -1 for a slot without one
    """

    bounds: np.ndarray
    starts: np.ndarray
    offsets: np.ndarray
    values: np.ndarray
    rows: np.ndarray

    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.bounds, self.starts, self.offsets, self.values, self.rows


def pack_rows(
    weight: np.ndarray, geometry: Geometry, shared: int, chunks: int, block: int, offsets: np.ndarray
) -> Packed:
    """Packs a canonical weight: every column in which one row of a group is not zero is kept.

    Rows that are wholly zero are gathered in groups of their own, so that a dropped output channel
    costs nothing but its store.

    Args:
        weight: (rows, in / groups, *kernel) or (rows, columns), float32, or words of bytes as `words_of` gives them.
        shared: output rows of a group.
        chunks: parts of about equal work to cut the groups into.
        block: panel columns that the kernel works on at a time; entries are sorted by block first.
        offsets: (columns,) int, where in its block's panel each column begins.
    """
    matrix = np.ascontiguousarray(weight).reshape(geometry.rows, -1)
    per_group = geometry.rows // geometry.groups
    slots = np.concatenate(
        [_slots(matrix[start : start + per_group], start, shared) for start in range(0, geometry.rows, per_group)]
    )
    grouped = np.where(slots[..., None] >= 0, matrix[slots], 0)  # (groups, shared, columns of one conv group)
    kept = (grouped != 0).any(axis=1)
    group, column = np.nonzero(kept)
    values = grouped.transpose(0, 2, 1)[group, column]
    column = column + slots.max(axis=1)[group] // per_group * matrix.shape[1]
    order = np.argsort(column // block, kind="stable")
    lists = (column // block * len(slots) + group)[order]
    blocks = -(-geometry.columns // block)
    starts = np.searchsorted(lists, np.arange(blocks * len(slots) + 1))
    counts = kept.sum(axis=1)
    # A group costs its entries and about two more for its store.
    work = np.concatenate([[0], np.cumsum(counts + 2)])
    bounds = np.searchsorted(work, np.linspace(0, work[-1], chunks + 1)).clip(0, len(slots))
    bounds[-1] = len(slots)
    return Packed(
        bounds.astype(np.int32),
        starts.astype(np.int32),
        offsets[column[order]],
        np.ascontiguousarray(values[order]).reshape(-1, shared),
        slots.reshape(-1).astype(np.int32),
    )


def _slots(matrix: np.ndarray, first_row: int, shared: int) -> np.ndarray:
    """Rows of one conv group as (groups, shared) slots, -1 where no row is left.

    Rows stay in place unless another order keeps fewer entries: those that have weights gathered, as when whole
    channels were dropped, or those together that keep the same columns, wherever they are.
    """
    slots = _fill([np.arange(len(matrix))], shared)
    if shared * _entries(matrix, slots) > LOOSE * np.count_nonzero(matrix):
        alive = matrix.any(axis=1)
        gathered = _fill([np.flatnonzero(alive), np.flatnonzero(~alive)], shared)
        alike = _fill([_alike(matrix, shared)], shared)
        slots = min(slots, gathered, alike, key=lambda slots: _entries(matrix, slots))
    return np.where(slots >= 0, slots + first_row, -1)


def _alike(matrix: np.ndarray, shared: int) -> np.ndarray:
    """Rows in an order in which each `shared` of them keep the same columns as far as can be."""
    kept = (matrix != 0).astype(np.float32)
    common = kept @ kept.T
    mates = min(shared, len(matrix))
    closeness = np.partition(common, -mates, axis=1)[:, -mates:].sum(axis=1) / np.maximum(kept.sum(axis=1), 1)
    free = np.ones(len(matrix), bool)
    order: list[int] = []
    for row in np.argsort(-closeness, kind="stable"):
        if free[row]:
            free[row] = False
            others = np.flatnonzero(free)
            best = others[np.argsort(-common[row, others], kind="stable")[: shared - 1]]
            free[best] = False
            order += [int(row), *best.tolist()]
    return np.array(order)


def _fill(parts: list[np.ndarray], shared: int) -> np.ndarray:
    filled = [np.pad(part, (0, -len(part) % shared), constant_values=-1) for part in parts]
    return np.concatenate(filled).reshape(-1, shared)


def _entries(matrix: np.ndarray, slots: np.ndarray) -> int:
    nonzero = np.where(slots[..., None] >= 0, matrix[slots] != 0, False)
    return int(nonzero.any(axis=1).sum())
