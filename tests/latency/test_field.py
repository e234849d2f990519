"""Estimates of a field, held to the equations of kriging in float64 numpy, and to fields drawn at random."""

from __future__ import annotations

import numpy as np
import pytest

from hwsparse.latency.field import FREEDOM, VAGUE, Field

FIELD = Field(shared=0.01, apart=0.02, varying=0.04, lengths=(2.0, 5.0), noise=1e-4)


def covariance(field: Field, a: np.ndarray, b: np.ndarray, vague: bool = False) -> np.ndarray:
    distance = np.sqrt((((a[:, None] - b[None]) / np.array(field.lengths)) ** 2).sum(-1))
    apart = np.sqrt(3) * distance
    same = np.abs(a[:, None, 0] - b[None, :, 0]) < 0.5
    varying = field.varying * (1 + apart) * np.exp(-apart)
    return np.asarray((VAGUE if vague else field.shared) + field.apart * same + varying)


def places(count: int, seed: int) -> np.ndarray:
    """Of which the first coordinate is a whole number, as rows of a block are powers of 2."""
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.integers(0, 6, count), rng.uniform(0, 6, count)])


@pytest.mark.parametrize("vague", [False, True])
def test_estimates_are_those_of_kriging(vague: bool) -> None:
    known, asked = places(5, 0), places(7, 1)
    deviations = np.random.default_rng(2).normal(0, 0.2, 5)
    inverse = np.linalg.inv(covariance(FIELD, known, known, vague) + FIELD.noise * np.eye(5))
    cross = covariance(FIELD, asked, known, vague)
    prior = np.diag(covariance(FIELD, asked, asked, vague)) + FIELD.noise
    means, spreads = FIELD.estimate(asked, known, deviations, vague)
    np.testing.assert_allclose(means, cross @ inverse @ deviations, rtol=1e-5, atol=1e-8)
    variances = prior - np.einsum("ij,jk,ik->i", cross, inverse, cross)
    np.testing.assert_allclose(FIELD.spreads(asked, known, vague) ** 2, variances, rtol=1e-4)
    # Of a Student process of FREEDOM + 2 degrees of freedom: Shah, Wilson and Ghahramani, equation 8.
    freedom = FREEDOM + 2
    uneven = (freedom + deviations @ inverse @ deviations - 2) / (freedom + 5 - 2)
    np.testing.assert_allclose(spreads**2, uneven * variances, rtol=1e-4)


def test_what_is_uneven_where_it_is_known_is_unsure_elsewhere() -> None:
    known, asked = places(12, 0), places(7, 1)
    like_most = np.random.default_rng(2).multivariate_normal(np.zeros(12), covariance(FIELD, known, known))
    spreads = [FIELD.estimate(asked, known, scale * like_most)[1] for scale in (0.2, 1.0, 3.0)]
    assert np.all(spreads[0] < spreads[1]) and np.all(spreads[1] < spreads[2])
    assert 0.5 < FIELD.unevenness(known, like_most) < 2
    assert FIELD.unevenness(np.empty((0, 2)), np.empty(0)) == 1


def test_where_nothing_is_known_it_is_what_it_is_anywhere() -> None:
    means, spreads = FIELD.estimate(places(3, 0), np.empty((0, 2)), np.empty(0))
    np.testing.assert_array_equal(means, 0)
    np.testing.assert_allclose(spreads**2, 0.01 + 0.02 + 0.04 + 1e-4)


def test_a_fit_finds_the_field_that_deviations_were_drawn_from() -> None:
    rng, groups = np.random.default_rng(3), []
    for seed in range(60):
        at = places(20, seed)
        spread = covariance(FIELD, at, at) + FIELD.noise * np.eye(20)
        groups.append((at, rng.multivariate_normal(np.zeros(20), spread)))
    found = Field.fit(groups)
    assert found.varying == pytest.approx(FIELD.varying, rel=0.5)
    assert found.apart == pytest.approx(FIELD.apart, rel=0.7)
    assert found.shared == pytest.approx(FIELD.shared, abs=0.02)
    assert found.lengths == pytest.approx(FIELD.lengths, rel=0.5)


def test_the_next_place_is_where_least_is_known() -> None:
    line = np.array([[0.0, ratio] for ratio in (0.0, 1.0, 2.0, 3.0, 9.0)])
    assert FIELD.most_telling(line, []) in (1, 2)
    assert FIELD.most_telling(line, [1]) == 4
    assert FIELD.most_telling(line, [1, 4]) == 3
