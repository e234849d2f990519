from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.errors import MeasureError
from hwsparse.latency.network import SCALE_RANGE, fit_residual

sums = st.floats(1e-5, 1.0)


@given(
    st.lists(sums, min_size=3, max_size=10, unique_by=lambda x: round(math.log(x), 1)),
    st.floats(0.6, 1.9),
    sums,
)
def test_an_exact_line_is_found(points: list[float], scale: float, offset: float) -> None:
    residual = fit_residual([(x, scale * x + offset) for x in points])
    for x in points:
        assert residual.apply(x) == pytest.approx(scale * x + offset, rel=1e-6)
    assert residual.spread == pytest.approx(0.0, abs=1e-5)


def test_it_is_the_weighted_least_squares_line() -> None:
    """Against numpy's solution of the same problem."""
    x = np.array([1.0, 2.0, 3.0, 5.0])
    y = np.array([1.6, 2.4, 3.7, 5.4])
    offset, scale = np.linalg.lstsq(np.stack([1 / y, x / y], axis=1), np.ones(4), rcond=None)[0]
    residual = fit_residual(list(zip(x, y, strict=True)))
    assert (residual.scale, residual.offset) == pytest.approx((scale, offset))
    errors = (y - scale * x - offset) / y
    expected = 4.303 * math.sqrt(float(np.sum(errors**2)) / 2 * 1.25)
    assert residual.spread == pytest.approx(expected)


def test_one_network_fits_the_offset_alone() -> None:
    residual = fit_residual([(2.0, 3.0)])
    assert (residual.scale, residual.offset, residual.spread) == (1.0, 1.0, None)


def test_one_network_faster_than_its_layers_fits_the_scale() -> None:
    residual = fit_residual([(4.0, 3.0)])
    assert (residual.scale, residual.offset) == (0.75, 0.0)


@given(st.lists(st.tuples(sums, sums), min_size=1, max_size=8), sums, sums)
def test_no_fit_is_absurd(pairs: list[tuple[float, float]], one: float, other: float) -> None:
    residual = fit_residual(pairs)
    assert SCALE_RANGE[0] <= residual.scale <= SCALE_RANGE[1]
    low, high = sorted((one, other))
    assert 0 < residual.apply(low) <= residual.apply(high)
    interval = residual.apply_interval(high, (low, high))
    assert 0 <= interval[0] <= residual.apply(high) <= interval[1]


@given(st.lists(st.floats(0.9, 1.1), min_size=3, max_size=3), st.floats(1.0, 10.0))
def test_equal_sums_leave_the_scale_at_most_one(measured: list[float], total: float) -> None:
    residual = fit_residual([(total, value) for value in measured])
    assert residual.scale <= 1.0
    assert residual.apply(total) > 0


def test_only_what_lies_among_three_or_more_networks_is_in_the_domain() -> None:
    assert not fit_residual([(1.0, 1.0), (2.0, 2.0)]).covers(1.5)
    residual = fit_residual([(1.0, 1.0), (2.0, 2.0), (3.0, 3.1)])
    assert [residual.covers(x) for x in (0.9, 1.0, 2.5, 3.0, 3.1)] == [False, True, True, True, False]


@pytest.mark.parametrize("pairs", [[], [(0.0, 1.0)], [(1.0, -1.0)], [(1.0, math.nan)], [(math.inf, 1.0)]])
def test_nothing_to_fit_is_an_error(pairs: list[tuple[float, float]]) -> None:
    with pytest.raises(MeasureError, match="at least one measured network"):
        fit_residual(pairs)


def test_the_spread_holds_new_networks_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        x = rng.uniform(1, 3, 7)
        y = (1.1 * x + 0.3) * (1 + rng.normal(0, 0.02, 7))
        residual = fit_residual(list(zip(x[:6], y[:6], strict=True)))
        low, high = residual.apply_interval(x[6], (x[6], x[6]))
        held += low <= y[6] <= high
    assert 0.90 <= held / 500 <= 0.99
