"""Layers with statistics for the tests of pruners, and the exact answers in float64."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from hwsparse.pattern import NM, Block, Channel
from hwsparse.plan import Choice, parse_choice
from hwsparse.sparsify import LayerStatistics
from hwsparse.sparsify.statistics import DAMPING

CHOICES = tuple(
    map(
        parse_choice,
        ("unstructured@0", "unstructured@0.5", "unstructured@0.9", "unstructured@1", "block2x1@0.5", "block4x1@0.75",
         "block2x2@0.5", "2:4", "1:4", "2:4x2", "channel2@0.5"),
    )
)  # fmt: skip


def correlated(rng: np.random.Generator, groups: int, columns: int, samples: int) -> np.ndarray:
    """Inputs (groups, samples, columns) that tell of each other; with few samples their moments are singular."""
    mixed = rng.standard_normal((groups, samples, columns)) @ rng.standard_normal((groups, columns, columns))
    return np.asarray(mixed, np.float32)


def statistics_of(inputs: np.ndarray) -> LayerStatistics:
    """Of inputs (groups, samples, columns)."""
    moment = inputs.transpose(0, 2, 1).astype(np.float64) @ inputs / inputs.shape[1]
    return LayerStatistics(moment.astype(np.float32), inputs.shape[1])


def damped(statistics: LayerStatistics) -> np.ndarray:
    """The second moments with their ridge, float64."""
    moment = statistics.second_moment.astype(np.float64)
    powers = np.diagonal(moment, axis1=1, axis2=2).mean(axis=1)
    powers[powers == 0] = powers.mean()
    return np.asarray(moment + DAMPING * powers[:, None, None] * np.eye(moment.shape[1]))


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, LayerStatistics, Choice, int]:
    """A weight (rows, in / groups, taps), statistics, a choice that fits the weight, and groups."""
    choice = draw(st.sampled_from(CHOICES))
    groups = 1 if isinstance(choice.pattern, Channel) else draw(st.integers(1, 2))
    rows = draw(st.integers(4, 9))
    inputs = 4 * draw(st.integers(1, 3)) if isinstance(choice.pattern, NM) else draw(st.integers(2, 9))
    taps = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    weight = rng.standard_normal((groups * rows, inputs, taps)).astype(np.float32)
    seen = correlated(rng, groups, inputs * taps, draw(st.sampled_from((3, 400))))
    if groups > 1 and draw(st.booleans()):
        seen[-1] = 0  # a group that is dead on these samples
    return weight, statistics_of(seen), choice, groups


def least_squares(dense: np.ndarray, kept: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Row by row, float64: the exact weights under a mask; `dense` and `kept` are (rows, columns)."""
    solved = np.zeros(dense.shape)
    for row, mask in enumerate(kept):
        columns = np.flatnonzero(mask)
        solved[row, columns] = np.linalg.solve(moment[np.ix_(columns, columns)], (moment @ dense[row])[columns])
    return solved


def has_structure(pruned: np.ndarray, choice: Choice, groups: int) -> bool:
    """Whether what is zero has the pattern: every block whole or gone, at most N of every M, rows whole or gone."""
    rows = pruned.reshape(groups, pruned.shape[0] // groups, *pruned.shape[1:]) != 0
    match choice.pattern:
        case Block(rows=high, cols=wide):
            flat = rows.reshape(*rows.shape[:3], -1)
            blocks = [
                flat[group, top : top + high, left : left + wide, position]
                for group in range(groups)
                for top in range(0, flat.shape[1], high)
                for left in range(0, flat.shape[2], wide)
                for position in range(flat.shape[3])
            ]
            return all(block.all() or not block.any() for block in blocks)
        case NM(n=n, m=m, shared=shared):
            tops = range(0, rows.shape[1], shared)
            together = np.stack([rows[:, top : top + shared].any(axis=1) for top in tops], axis=1)
            counts = together.reshape(groups, len(tops), -1, m, *rows.shape[3:]).sum(axis=3)
            return bool((counts <= n).all())
        case Channel():
            flat = rows.reshape(pruned.shape[0], -1)
            return bool((flat.all(axis=1) | ~flat.any(axis=1)).all())
        case _:
            return True


def short_blocks(weight: np.ndarray, choice: Choice, groups: int) -> float:
    """How far apart the ratios of two masks may be that drop as many blocks, some short ones among them."""
    if not isinstance(choice.pattern, Block):
        return 0.0
    rows, inputs = weight.shape[0] // groups, weight.shape[1]
    short = rows % choice.pattern.rows or inputs % choice.pattern.cols
    return 0.5 if short else 0.0
