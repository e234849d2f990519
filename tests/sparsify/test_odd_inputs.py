"""Inputs that never vary, or are always zero: no pruner and no correction makes anything of them that is not finite."""

from __future__ import annotations

import numpy as np
import pytest

from hwsparse.plan import parse_choice
from hwsparse.sparsify import PRUNERS
from hwsparse.sparsify.correction import fitted
from hwsparse.sparsify.walk import Moments
from tests.sparsify.problems import correlated, has_structure, statistics_of

DEAD, CONSTANT = 3, 5


def inputs(kind: str) -> np.ndarray:
    """(groups, samples, columns)."""
    found = correlated(np.random.default_rng(0), 1, 8, 50)
    if kind in ("constant", "both"):
        found[:, :, CONSTANT] = 2.5
    if kind in ("dead", "both"):
        found[:, :, DEAD] = 0
    if kind == "all constant":
        found[:] = 1.5
    return found


@pytest.mark.parametrize("kind", ["constant", "dead", "both", "all constant"])
@pytest.mark.parametrize("text", ["unstructured@0.5", "block2x1@0.5", "2:4", "2:4x2", "channel2@0.5"])
@pytest.mark.parametrize("pruner", PRUNERS)
def test_pruners_make_finite_weights_of_the_pattern(pruner: str, text: str, kind: str) -> None:
    weight = np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)
    choice = parse_choice(text)
    pruned = PRUNERS[pruner](weight, statistics_of(inputs(kind)), choice, 1)
    assert np.isfinite(pruned).all() and np.abs(pruned).max() < 100
    if pruner != "regroup":  # rows of a block lie where they like
        assert has_structure(pruned, choice, 1)


def moments(own: np.ndarray, dense: np.ndarray) -> Moments:
    """Of inputs (samples, columns) of the pruned network and of the dense one."""
    return Moments(
        own=(own.T @ own / len(own))[None].astype(np.float64),
        cross=(dense.T @ own / len(own))[None].astype(np.float64),
        mean=dense.mean(axis=0)[None, :, None].astype(np.float64),
        own_mean=own.mean(axis=0)[None, :, None].astype(np.float64),
    )


@pytest.mark.parametrize("kind", ["constant", "dead", "both", "all constant"])
def test_correction_stays_finite(kind: str) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((4, 8)).astype(np.float32)
    kept = weight * (rng.random((4, 8)) < 0.5)
    (seen,) = inputs(kind)
    found, bias = fitted(weight, np.zeros(4, np.float32), kept, moments(seen, seen))
    assert bias is not None and np.isfinite(found).all() and np.isfinite(bias).all()
    np.testing.assert_array_equal(found != 0, kept != 0)
    answers = found @ seen.T + bias[:, None]
    assert np.square(answers - weight @ seen.T).sum() <= 1.001 * np.square((kept - weight) @ seen.T).sum()


@pytest.mark.parametrize("where", ["own", "cross"])
def test_what_a_network_that_runs_away_says_changes_nothing(where: str) -> None:
    rng = np.random.default_rng(1)
    weight, bias = rng.standard_normal((4, 8)).astype(np.float32), np.ones(4, np.float32)
    (seen,) = inputs("both")
    wild = moments(seen, seen)
    getattr(wild, where)[0, 0, 0] = np.inf
    found, told = fitted(weight, bias, 0.5 * weight, wild)
    np.testing.assert_array_equal(found, 0.5 * weight)
    np.testing.assert_array_equal(told, bias)
