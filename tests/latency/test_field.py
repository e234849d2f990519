"""Estimates of a field, held to the equations of kriging in float64 numpy, and to fields drawn at random."""

from __future__ import annotations

import numpy as np
import pytest

from hwsparse.latency.field import VAGUE, Field

FIELD = Field(shared=0.01, varying=0.04, lengths=(2.0, 5.0), noise=1e-4)


def covariance(field: Field, a: np.ndarray, b: np.ndarray, vague: bool = False) -> np.ndarray:
    distance = np.sqrt((((a[:, None] - b[None]) / np.array(field.lengths)) ** 2).sum(-1))
    apart = np.sqrt(3) * distance
    return np.asarray((VAGUE if vague else field.shared) + field.varying * (1 + apart) * np.exp(-apart))


def places(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 6, (count, 2))


@pytest.mark.parametrize("vague", [False, True])
def test_estimates_are_those_of_kriging(vague: bool) -> None:
    known, asked = places(5, 0), places(7, 1)
    deviations = np.random.default_rng(2).normal(0, 0.2, 5)
    inverse = np.linalg.inv(covariance(FIELD, known, known, vague) + FIELD.noise * np.eye(5))
    cross = covariance(FIELD, asked, known, vague)
    prior = np.diag(covariance(FIELD, asked, asked, vague)) + FIELD.noise
    means, spreads = FIELD.estimate(asked, known, deviations, vague)
    np.testing.assert_allclose(means, cross @ inverse @ deviations, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(spreads**2, prior - np.einsum("ij,jk,ik->i", cross, inverse, cross), rtol=1e-4)


def test_where_nothing_is_known_it_is_what_it_is_anywhere() -> None:
    means, spreads = FIELD.estimate(places(3, 0), np.empty((0, 2)), np.empty(0))
    np.testing.assert_array_equal(means, 0)
    np.testing.assert_allclose(spreads**2, 0.01 + 0.04 + 1e-4)


def test_a_fit_finds_the_field_that_deviations_were_drawn_from() -> None:
    rng, groups = np.random.default_rng(3), []
    for seed in range(60):
        at = places(20, seed)
        spread = covariance(FIELD, at, at) + FIELD.noise * np.eye(20)
        groups.append((at, rng.multivariate_normal(np.zeros(20), spread)))
    found = Field.fit(groups)
    assert found.varying == pytest.approx(FIELD.varying, rel=0.5)
    assert found.shared == pytest.approx(FIELD.shared, abs=0.02)
    assert found.lengths == pytest.approx(FIELD.lengths, rel=0.5)


def test_the_next_place_is_where_least_is_known() -> None:
    line = np.array([[0.0, ratio] for ratio in (0.0, 1.0, 2.0, 3.0, 9.0)])
    assert FIELD.most_telling(line, []) in (1, 2)
    assert FIELD.most_telling(line, [1]) == 4
    assert FIELD.most_telling(line, [1, 4]) == 3
