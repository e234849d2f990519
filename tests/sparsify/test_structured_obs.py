"""Structured optimal brain surgeon against least squares in float64, unit by unit."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.sparsify.structured_obs import Reader, removal_order
from tests.sparsify.problems import correlated, damped, least_squares, statistics_of


def error(weight: np.ndarray, gone: np.ndarray, moment: np.ndarray) -> tuple[float, np.ndarray]:
    """What the best weight without some columns does to the output, relative to the output; and that weight."""
    fitted = least_squares(weight, np.broadcast_to(~gone, weight.shape), moment)
    change = weight - fitted
    return float(np.sum((change @ moment) * change) / np.sum((weight @ moment) * weight)), fitted


@given(seed=st.integers(0, 999), units=st.integers(2, 6), taps=st.integers(1, 3), rows=st.integers(1, 5))
def test_each_unit_costs_what_the_best_fit_without_it_loses(seed: int, units: int, taps: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    columns = units * taps
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    statistics = statistics_of(correlated(rng, 1, columns, 300))
    moment = damped(statistics)[0]
    owners = rng.permutation(np.repeat(np.arange(units), taps))
    reader = Reader(weight, moment, owners)
    gone = np.zeros(columns, bool)
    left = list(range(units))
    while len(left) > 1:
        lost, _ = error(weight.astype(np.float64), gone, moment)
        expected = [error(weight.astype(np.float64), gone | (owners == unit), moment)[0] - lost for unit in left]
        np.testing.assert_allclose(reader.costs(left), expected, rtol=1e-3, atol=1e-6)
        out = left.pop(int(rng.integers(len(left))))
        reader.remove([out])
        gone |= owners == out


def test_units_go_by_what_all_readers_lose() -> None:
    """A unit that is nothing to one layer may be all to another."""
    independent = damped(statistics_of(np.random.default_rng(0).standard_normal((1, 4000, 3)).astype(np.float32)))[0]
    first = Reader(np.array([[1.0, 0.1, 3.0]], np.float32), independent, np.array([5, 6, 7]))
    second = Reader(np.array([[1.0, 9.0, 0.5]], np.float32), independent, np.array([5, 6, 7]))
    assert removal_order([5, 6, 7], [first]) == [6, 5, 7]
    assert removal_order([5, 6, 7], [_again(first), second]) == [5, 7, 6]
    assert removal_order([5, 6, 7], []) == [5, 6, 7]


def _again(reader: Reader) -> Reader:
    assert reader.costs([5, 6, 7]).tolist() == [0, 0, 0]  # everything has gone from it
    independent = damped(statistics_of(np.random.default_rng(0).standard_normal((1, 4000, 3)).astype(np.float32)))[0]
    return Reader(np.array([[1.0, 0.1, 3.0]], np.float32), independent, np.array([5, 6, 7]))


def test_of_two_that_say_the_same_one_goes_and_the_other_takes_over() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, 500, 3)).astype(np.float32)
    x[..., 1] = 2 * x[..., 0]
    x[..., 2] *= 0.3
    reader = Reader(np.array([[5.0, 4.0, 5.0]], np.float32), damped(statistics_of(x))[0], np.array([0, 1, 2]))
    first, *_, last = removal_order([0, 1, 2], [reader])
    assert {first, last} == {0, 1}
