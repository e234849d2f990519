from __future__ import annotations

from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.sparsify import least_squares as least_squares_file
from hwsparse.sparsify.least_squares import refit, solved
from tests.sparsify.problems import correlated, damped, least_squares, statistics_of


@given(st.integers(1, 2), st.integers(1, 6), st.integers(1, 20), st.floats(0, 1), st.integers(0, 99))
def test_the_kept_weights_are_those_of_least_squares(
    groups: int, rows: int, columns: int, density: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((groups, rows, columns)).astype(np.float32)
    kept = rng.random(dense.shape) < density
    moment = damped(statistics_of(correlated(rng, groups, columns, 200)))
    fitted = refit(dense, dense * kept, kept, moment.astype(np.float32))
    assert not fitted[~kept].any()
    for group in range(groups):
        exact = least_squares(dense[group].astype(np.float64), kept[group], moment[group])
        lost = [
            np.sum((dense[group] - each) @ moment[group] * (dense[group] - each)) for each in (fitted[group], exact)
        ]
        whole = np.sum(dense[group] @ moment[group] * dense[group])
        assert lost[0] <= lost[1] * 1.01 + 1e-5 * whole


def test_what_is_dense_stays_as_it_is() -> None:
    dense = np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        refit(dense, dense, np.ones(dense.shape, bool), np.eye(4, dtype=np.float32)[None]), dense
    )


def test_a_row_that_keeps_nothing_is_zero() -> None:
    dense = np.ones((1, 2, 3), np.float32)
    kept = np.array([[[False] * 3, [True, False, True]]])
    moment = (np.eye(3) + 0.5).astype(np.float32)[None]
    fitted = refit(dense, dense * kept, kept, moment)
    assert not fitted[0, 0].any()
    np.testing.assert_allclose(fitted[0, 1], least_squares(dense[0, 1:], kept[0, 1:], moment[0])[0], rtol=1e-3)


@given(
    st.integers(1, 2), st.integers(1, 4), st.integers(1, 4), st.integers(60, 90), st.floats(0, 0.3), st.integers(0, 9)
)
def test_rows_that_share_masks_are_solved_exactly(
    groups: int, blocks: int, high: int, columns: int, density: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((groups, blocks * high, columns)).astype(np.float32)
    kept = np.repeat(rng.random((groups, blocks, columns)) < density, high, axis=1)
    moment = damped(statistics_of(correlated(rng, groups, columns, 200)))
    with mock.patch.object(least_squares_file, "BEGINNING", 0):
        fitted = solved((dense @ moment).astype(np.float32), kept, moment.astype(np.float32))
    assert fitted is not None and not fitted[~kept].any()
    for group in range(groups):
        exact = least_squares(dense[group].astype(np.float64), kept[group], moment[group])
        np.testing.assert_allclose(fitted[group], exact, atol=2e-3 * max(np.abs(exact).max(), 1))


def test_where_it_takes_longer_or_cannot_be_nothing_is_solved() -> None:
    wanted, apart = np.ones((1, 64, 64), np.float32), np.random.default_rng(0).random((1, 64, 64)) < 0.9
    assert solved(wanted, apart, np.eye(64, dtype=np.float32)[None]) is None
    with mock.patch.object(least_squares_file, "BEGINNING", 0):
        wide, one = np.ones((1, 8, 64), np.float32), np.tile(np.arange(64) < 4, (1, 8, 1))
        assert solved(wide, one, np.eye(64, dtype=np.float32)[None]) is not None
        assert solved(wide, one, -np.eye(64, dtype=np.float32)[None]) is None
