from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.search.improvement import expected_improvement
from hwsparse.search.pareto import hypervolume, pareto_front
from tests.search.test_pareto import Spot

REFERENCE = (8.0, 1.0)
spots = st.lists(st.builds(Spot, st.floats(0.5, 9), st.floats(0, 9)), max_size=8)


def places(points: list[Spot]) -> np.ndarray:
    front = pareto_front(points)
    return np.array([(point.latency_s, point.quality) for point in front]).reshape(-1, 2)


@given(spots, st.floats(0.5, 9), st.floats(0, 9))
def test_of_a_quality_that_is_certain_it_is_what_the_hypervolume_gains(
    points: list[Spot], latency_s: float, quality: float
) -> None:
    best = max([REFERENCE[1], *(point.quality for point in points)])
    new = Spot(latency_s, min(quality, best))  # what is better than the best counts as that
    gained = hypervolume([*points, new], REFERENCE) - hypervolume(points, REFERENCE)
    (found,) = expected_improvement(np.array([latency_s]), np.array([quality]), np.zeros(1), places(points), REFERENCE)
    assert found == pytest.approx(gained, abs=1e-6)


def test_of_one_that_is_not_it_is_the_mean_of_what_it_would_gain() -> None:
    points = [Spot(1.0, 2.0), Spot(3.0, 5.0), Spot(6.0, 7.0)]
    before = hypervolume(points, REFERENCE)
    rng = np.random.default_rng(0)
    for latency_s, mean, deviation in ((2.0, 4.0, 1.0), (5.0, 4.0, 2.0), (0.5, 1.0, 0.5), (7.0, 7.0, 1.0)):
        drawn = np.minimum(rng.normal(mean, deviation, 4000), 7.0)
        gains = [hypervolume([*points, Spot(latency_s, value)], REFERENCE) - before for value in drawn]
        (found,) = expected_improvement(
            np.array([latency_s]), np.array([mean]), np.array([deviation]), places(points), REFERENCE
        )
        assert found == pytest.approx(np.mean(gains), abs=5 * np.std(gains) / np.sqrt(len(gains)) + 1e-9)


def test_what_is_slower_than_the_reference_gains_nothing() -> None:
    found = expected_improvement(np.array([9.0]), np.array([5.0]), np.array([1.0]), places([Spot(1, 2)]), REFERENCE)
    assert found == pytest.approx([0])
