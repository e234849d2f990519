"""Weights rounded to what bytes stand for: against every choice of bytes on small rows, and what must stay."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.quantise import rounded, weight_bytes
from hwsparse.sparsify.rounding import rounded_to_fit
from tests.sparsify.problems import correlated, damped, statistics_of


def lost(weight: np.ndarray, wanted: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """By row."""
    change = weight - wanted
    return np.asarray(np.sum((change @ moment) * change, axis=-1))


@given(
    seed=st.integers(0, 999),
    groups=st.integers(1, 2),
    rows=st.integers(1, 5),
    columns=st.integers(1, 150),
    zeros=st.sampled_from([0, 0.5, 1]),
)
def test_zeros_and_the_grid_stay_and_nothing_gets_worse(
    seed: int, groups: int, rows: int, columns: int, zeros: float
) -> None:
    rng = np.random.default_rng(seed)
    moment = damped(statistics_of(correlated(rng, groups, columns, 300)))
    start = rng.standard_normal((groups, rows, columns)) * (rng.random((groups, rows, columns)) >= zeros)
    wanted = start + 0.1 * rng.standard_normal(start.shape)
    found = rounded_to_fit(wanted, start, moment)
    nearest = rounded(start.reshape(-1, columns)).reshape(start.shape)
    assert not found[start == 0].any()
    assert (lost(found, wanted, moment) <= lost(nearest, wanted, moment) * (1 + 1e-5) + 1e-12).all()
    _, scales = weight_bytes(start.reshape(-1, columns))
    again, same = weight_bytes(found.reshape(-1, columns))
    np.testing.assert_allclose(same, scales, rtol=1e-6)  # the grid of what was found is the one it was found on
    np.testing.assert_allclose(again * same[:, None], found.reshape(-1, columns), rtol=1e-5, atol=1e-7)


def test_of_few_weights_nothing_is_better() -> None:
    """Two inputs that say nearly the same: of all neighbouring bytes, the descent finds the best or nearly so."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 400, 4))
    x[..., 1] = x[..., 0] + 0.3 * x[..., 1]
    moment = damped(statistics_of(x.astype(np.float32)))
    start = rng.standard_normal((1, 6, 4))
    start[..., 3] = 4.0  # the largest, which stays
    step = 4.0 / 127
    found = rounded_to_fit(start, start, moment)
    around = np.array(list(itertools.product(range(-3, 4), repeat=3))) * step
    for row in range(6):
        best = min(
            float(lost(np.append(np.rint(start[0, row, :3] / step) * step + moved, 4.0), start[0, row], moment[0]))
            for moved in around
        )
        nearest = float(lost(np.rint(start[0, row] / step) * step, start[0, row], moment[0]))
        reached = float(lost(found[0, row], start[0, row], moment[0]))
        assert best * (1 - 1e-5) <= reached <= best + 0.3 * (nearest - best) + 1e-9


def test_neighbours_make_up_for_what_is_lost() -> None:
    """On correlated inputs much less of the output is lost than by rounding to the nearest."""
    rng = np.random.default_rng(5)
    moment = damped(statistics_of(correlated(rng, 1, 64, 2000)))
    weight = rng.standard_normal((1, 32, 64))
    weight[..., 0] = 40  # a coarse grid
    found = rounded_to_fit(weight, weight, moment)
    assert lost(found, weight, moment).sum() < 0.7 * lost(rounded(weight[0])[None], weight, moment).sum()
