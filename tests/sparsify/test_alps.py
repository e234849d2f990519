from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given

from hwsparse.errors import PatternError
from hwsparse.plan import Choice, parse_choice
from hwsparse.sparsify import LayerStatistics, achieved_ratio, alps, make_mask, output_error, wanda
from tests.sparsify.problems import (
    correlated,
    damped,
    has_structure,
    least_squares,
    problems,
    short_blocks,
    statistics_of,
)


@given(problems())
def test_the_structure_is_exact_and_the_error_no_larger_than_without_fitting(
    problem: tuple[np.ndarray, LayerStatistics, Choice, int],
) -> None:
    weight, statistics, choice, groups = problem
    pruned = alps(weight, statistics, choice, groups)
    assert pruned.shape == weight.shape and pruned.dtype == np.float32 and np.isfinite(pruned).all()
    assert has_structure(pruned, choice, groups)
    plain = wanda(weight, statistics, choice, groups)
    # Short blocks at the edges count as blocks.
    assert achieved_ratio(pruned != 0) == pytest.approx(
        achieved_ratio(plain != 0), abs=short_blocks(weight, choice, groups)
    )
    assert output_error(weight, pruned, statistics) <= output_error(weight, plain, statistics) + 0.02


def test_the_weights_are_those_of_least_squares_under_their_mask() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 12)).astype(np.float32)
    statistics = statistics_of(correlated(rng, 1, 12, 300))
    pruned = alps(weight, statistics, parse_choice("unstructured@0.5"))
    exact = least_squares(weight.astype(np.float64), pruned != 0, damped(statistics)[0])
    np.testing.assert_allclose(pruned, exact, rtol=0.05, atol=0.02)


def test_of_small_layers_it_comes_near_the_best_of_all_masks() -> None:
    excess = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        weight = rng.standard_normal((1, 10)).astype(np.float32)
        statistics = statistics_of(correlated(rng, 1, 10, 300))
        moment = damped(statistics)[0]

        def lost(pruned: np.ndarray, dense: np.ndarray = weight, moment: np.ndarray = moment) -> float:
            return float(np.sum((dense - pruned) @ moment * (dense - pruned)))

        masks = (np.isin(np.arange(10), kept)[None] for kept in combinations(range(10), 5))
        best = min(lost(least_squares(weight.astype(np.float64), mask, moment)) for mask in masks)
        plain = make_mask(np.abs(weight), parse_choice("unstructured@0.5"))
        by_size = lost(least_squares(weight.astype(np.float64), plain, moment))
        found = lost(alps(weight, statistics, parse_choice("unstructured@0.5")))
        assert found >= 0.999 * best
        excess.append((found - best) / max(by_size - best, 1e-9))
    assert np.median(excess) < 0.2  # of what the largest weights lose more than the best ones


@pytest.mark.parametrize("statistics", [None, LayerStatistics(np.zeros((1, 6, 6), np.float32), 3)])
def test_where_nothing_is_known_magnitude_decides(statistics: LayerStatistics | None) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    choice = parse_choice("unstructured@0.5")
    pruned = alps(weight, statistics, choice)
    np.testing.assert_array_equal(pruned, wanda(weight, statistics, choice))
    assert achieved_ratio(pruned != 0) == 0.5


def test_inputs_that_never_vary_are_no_trouble() -> None:
    rng = np.random.default_rng(0)
    inputs = correlated(rng, 1, 8, 50)
    inputs[:, :, 3] = 0
    inputs[:, :, 5] = 2.5
    weight = rng.standard_normal((4, 8)).astype(np.float32)
    pruned = alps(weight, statistics_of(inputs), parse_choice("unstructured@0.5"))
    assert np.isfinite(pruned).all() and not pruned[:, 3].any()  # what multiplies a zero is dropped first


def test_a_ratio_that_a_pattern_cannot_have_is_refused() -> None:
    statistics = statistics_of(correlated(np.random.default_rng(0), 1, 6, 20))
    with pytest.raises(PatternError, match="block4x1 does not fit"):
        alps(np.ones((2, 6), np.float32), statistics, parse_choice("block4x1@0.5"))
