"""Whole channels, by the power of their output against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hwsparse.errors import PatternError
from hwsparse.plan import parse_choice
from hwsparse.sparsify import LayerStatistics, alps, output_error, sparsegpt
from hwsparse.sparsify.apply import Pruner
from tests.sparsify.problems import correlated, statistics_of


@pytest.mark.parametrize("pruner", [alps, sparsegpt])
def test_channels_go_by_the_power_of_their_output(pruner: Pruner) -> None:
    moment = np.array([[[1, 0.9], [0.9, 1]]], np.float32)
    # Alone, the inputs of the first row count most; together they cancel out.
    weight = np.array([[1, -1], [0.6, 0.6], [0.5, 0.5], [0.1, 0.1]], np.float32)
    pruned = pruner(weight, LayerStatistics(moment, 9), parse_choice("channel2@0.5"), 1)
    np.testing.assert_array_equal(pruned, weight * np.array([[0], [1], [1], [0]]))


@pytest.mark.parametrize("pruner", [alps, sparsegpt])
def test_no_other_channels_lose_less(pruner: Pruner) -> None:
    rng = np.random.default_rng(0)
    weight, statistics = rng.standard_normal((8, 3, 2)).astype(np.float32), statistics_of(correlated(rng, 1, 6, 99))
    pruned = pruner(weight, statistics, parse_choice("channel2@0.5"), 1)
    keeps = itertools.combinations(range(8), 4)
    others = (weight * np.isin(np.arange(8), keep)[:, None, None] for keep in keeps)
    least = min(output_error(weight, other.astype(np.float32), statistics) for other in others)
    assert output_error(weight, pruned, statistics) == pytest.approx(least, rel=1e-4)


@pytest.mark.parametrize("pruner", [alps, sparsegpt])
def test_channels_of_groups_are_refused(pruner: Pruner) -> None:
    statistics = statistics_of(correlated(np.random.default_rng(0), 2, 6, 99))
    with pytest.raises(PatternError, match="2 groups"):
        pruner(np.ones((8, 6), np.float32), statistics, parse_choice("channel@0.5"), 2)
