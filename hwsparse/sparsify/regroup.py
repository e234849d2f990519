"""Row regrouping: rows that keep the same columns anyway are made to share them.

Where several output rows share a choice, in blocks and in shared N:M, which rows these are is free: kernels read each
group's rows from a list. So the layer is pruned first as if each row stood alone; rows whose masks overlap most are
brought together; and the layer is pruned with its structure in that order, or in the order in which rows came if that
keeps more. Rows are joined in pairs, then pairs in pairs, by the overlap that is left, greedily from the largest on;
related to column combining (Kung, McDanel, Zhang, ASPLOS 2019) and to the row permutation of Tetris (Ji et al.,
NeurIPS 2018).
"""

from __future__ import annotations

import functools

import numpy as np

from hwsparse.pattern import NM, Block, Unstructured
from hwsparse.plan import Choice
from hwsparse.sparsify.alps import alps
from hwsparse.sparsify.mask import make_mask
from hwsparse.sparsify.statistics import LayerStatistics


def regroup(weight: np.ndarray, statistics: LayerStatistics | None, choice: Choice, groups: int = 1) -> np.ndarray:
    """A canonical weight pruned by `alps`, its rows sharing choices in the order of `row_order` where that pays.

    Patterns that share nothing between rows are pruned as `alps` does.

    Raises:
        PatternError: the weight's shape cannot have the pattern.
    """
    stored = weight.astype(np.float32).tobytes(), weight.shape, statistics
    match choice.pattern:
        case Block(rows=shared) if shared > 1:
            alone = Choice(Unstructured(), choice.ratio)
        case NM(n=n, m=m, shared=shared) if shared > 1:
            alone = Choice(NM(n, m), choice.ratio)
        case Unstructured() | NM():
            return _loose(*stored, choice, groups).copy()
        case _:
            return alps(weight, statistics, choice, groups)
    per_group = weight.shape[0] // groups
    worth, loose = (_worth(rows, statistics, groups) for rows in (weight, _loose(*stored, alone, groups)))
    overlapping = np.concatenate([row_order(rows, shared) + place * per_group for place, rows in enumerate(loose)])

    def kept(order: np.ndarray) -> float:
        scores = worth.reshape(weight.shape)[order]
        return float(np.sum(scores * make_mask(scores, choice, groups), dtype=np.float64))

    order = max((np.arange(len(weight)), overlapping), key=kept)
    pruned = np.empty_like(weight)
    pruned[order] = alps(weight[order], statistics, choice, groups)
    return pruned


def _worth(weight: np.ndarray, statistics: LayerStatistics | None, groups: int) -> np.ndarray:
    """The power that each weight makes of its input, (groups, rows, columns)."""
    power = np.square(weight.reshape(groups, weight.shape[0] // groups, -1))
    return np.asarray(power if statistics is None else power * statistics.diagonal[:, None])


# A layer is pruned to one pattern after the other at the same ratio: without a pattern, and to N:M.
@functools.lru_cache(maxsize=2)
def _loose(
    weight: bytes,
    shape: tuple[int, ...],
    statistics: LayerStatistics | None,
    choice: Choice,
    groups: int,
) -> np.ndarray:
    """A float32 weight pruned by `alps` to a choice that rows do not share."""
    return alps(np.frombuffer(weight, np.float32).reshape(shape), statistics, choice, groups)


def row_order(power: np.ndarray, shared: int) -> np.ndarray:
    """An order of rows in which every `shared` of them, a power of two, keep much in the same columns.

    Args:
        power: (rows, columns), what each kept weight is worth, 0 where it is dropped.
        shared: a group's rows.
    """
    together = [np.array([row]) for row in range(len(power))]
    rest: list[np.ndarray] = []
    while len(together[0]) < shared and len(together) > 1:
        amounts = np.sqrt(np.stack([power[rows].sum(axis=0) for rows in together]))
        pairs, alone = _pairs(amounts @ amounts.T)
        rest = [together[member] for member in alone] + rest
        together = [np.concatenate([together[first], together[second]]) for first, second in pairs]
    return np.concatenate(together + rest)


def _pairs(overlap: np.ndarray) -> tuple[list[tuple[int, int]], list[int]]:
    """Pairs of large overlap, from the largest on, and what is left alone where the number is odd.

    Two that overlap most with each other are joined whatever becomes of the others: so in each round all of these are.
    What overlaps with nothing that is left is joined in order.
    """
    free = np.arange(len(overlap))
    pairs: list[tuple[int, int]] = []
    left = np.maximum(overlap, overlap.T)
    np.fill_diagonal(left, -np.inf)
    while left.max(initial=0) > 0:
        best = left.argmax(axis=1)
        places = np.arange(len(free))
        first = places[(best[best] == places) & (places < best)]
        pairs += zip(free[first].tolist(), free[best[first]].tolist(), strict=True)
        stay = np.setdiff1d(places, np.concatenate([first, best[first]]))
        free, left = free[stay], left[np.ix_(stay, stay)]
    even = len(free) - len(free) % 2
    pairs += zip(free[:even:2].tolist(), free[1:even:2].tolist(), strict=True)
    return pairs, free[even:].tolist()
