from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from hwsparse.plan import Choice, parse_choice
from hwsparse.sparsify import LayerStatistics, achieved_ratio, output_error, sparsegpt, wanda
from tests.sparsify.problems import correlated, damped, has_structure, problems, short_blocks, statistics_of


@given(problems())
def test_the_structure_is_exact(problem: tuple[np.ndarray, LayerStatistics, Choice, int]) -> None:
    weight, statistics, choice, groups = problem
    pruned = sparsegpt(weight, statistics, choice, groups)
    assert pruned.shape == weight.shape and pruned.dtype == np.float32 and np.isfinite(pruned).all()
    assert has_structure(pruned, choice, groups)
    plain = wanda(weight, statistics, choice, groups)
    # Rounding leaves a weight more or less in each of the slices that masks are chosen in.
    slack = short_blocks(weight, choice, groups) + 8 / weight.size
    assert achieved_ratio(pruned != 0) == pytest.approx(achieved_ratio(plain != 0), abs=slack)


def by_brute_force(weight: np.ndarray, kept: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Column after column is fixed, kept or dropped; those to its right are solved for anew each time, in float64."""
    fixed = weight.astype(np.float64)
    for row in range(len(fixed)):
        current = fixed[row].copy()
        for column in range(fixed.shape[1]):
            if not kept[row, column]:
                current[column] = 0
            right = np.arange(column + 1, fixed.shape[1])
            if right.size and not kept[row, column]:
                # The rest that makes the output change least: H[right, right] d = H[right, left] (w - p)[left].
                left = np.arange(column + 1)
                gap = (weight[row] - current)[left]
                step = np.linalg.solve(moment[np.ix_(right, right)], moment[np.ix_(right, left)] @ gap)
                current[right] = weight[row, right] + step
        fixed[row] = current
    return fixed


@pytest.mark.parametrize("columns", [4, 128])  # that share a choice of mask: several slices, and one
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("text", ["unstructured@0.5", "block2x1@0.5", "2:4", "2:4x2"])
def test_the_updates_are_those_of_brute_force(
    text: str, groups: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sparsegpt.__globals__, "COLUMNS", columns)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        weight = rng.standard_normal((4 * groups, 12)).astype(np.float32)
        statistics = statistics_of(correlated(rng, groups, 12, 200))
        pruned = sparsegpt(weight, statistics, parse_choice(text), groups)
        moments = damped(statistics)
        for group in range(groups):
            rows = slice(4 * group, 4 * (group + 1))
            exact = by_brute_force(weight[rows], pruned[rows] != 0, moments[group])
            np.testing.assert_allclose(pruned[rows], exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("text", ["unstructured@0.5", "block2x1@0.5", "2:4"])
def test_it_loses_less_than_scores_alone(text: str) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 40, 3)).astype(np.float32)
    few = rng.standard_normal((1, 500, 20)) @ rng.standard_normal((1, 20, 120))  # causes of what the inputs are
    statistics = statistics_of((few + 0.5 * rng.standard_normal((1, 500, 120))).astype(np.float32))
    choice = parse_choice(text)
    fitted, plain = (output_error(weight, f(weight, statistics, choice), statistics) for f in (sparsegpt, wanda))
    assert fitted < 0.7 * plain


# In steps of 129, one or two columns are left over, which no such block fits.
@pytest.mark.parametrize("columns", [30, 130, 131])
def test_blocks_that_are_wide_stay_whole(columns: int) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, columns)).astype(np.float32)
    statistics = statistics_of(correlated(rng, 1, columns, 999))
    pruned = sparsegpt(weight, statistics, parse_choice("block2x3@0.5"))
    assert has_structure(pruned, parse_choice("block2x3@0.5"), 1)
