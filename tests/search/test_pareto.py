from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.search import best_under, fastest_within, knee_point, pareto_front, pick_finalists
from hwsparse.search.hypervolume import hypervolume


@dataclass(frozen=True)
class Spot:
    latency_s: float
    quality: float
    name: str = ""


grid = st.builds(Spot, st.integers(1, 9).map(float), st.integers(0, 9).map(float))
clouds = st.lists(grid, max_size=30)


def dominates(a: Spot, b: Spot) -> bool:
    no_worse = a.latency_s <= b.latency_s and a.quality >= b.quality
    return no_worse and (a.latency_s, a.quality) != (b.latency_s, b.quality)


@given(clouds)
def test_the_front_is_what_brute_force_finds(points: list[Spot]) -> None:
    expected = {p for p in points if not any(dominates(q, p) for q in points)}
    front = pareto_front(points)
    assert set(front) == expected
    assert len(front) == len(expected)
    assert [p.latency_s for p in front] == sorted(p.latency_s for p in front)


@given(clouds)
def test_the_front_of_a_front_is_itself(points: list[Spot]) -> None:
    front = pareto_front(points)
    assert pareto_front(front) == front


def test_the_first_of_equals_stands_for_all() -> None:
    assert pareto_front([Spot(1, 1, "a"), Spot(1, 1, "b")]) == (Spot(1, 1, "a"),)


FRONT = (Spot(1, 0.10), Spot(2, 0.80), Spot(3, 0.90), Spot(6, 0.94), Spot(9, 0.95))


def test_the_knee_is_where_quality_stops_coming_cheap() -> None:
    assert knee_point(FRONT) == Spot(2, 0.80)


def test_a_front_without_a_knee_gives_its_best() -> None:
    assert knee_point(FRONT[:1]) == FRONT[0]
    assert knee_point((FRONT[0], FRONT[4])) == FRONT[4]
    assert knee_point((Spot(1, 1), Spot(2, 2), Spot(3, 3))) == Spot(3, 3)
    with pytest.raises(ValueError, match="empty"):
        knee_point(())


def test_fastest_within_a_drop() -> None:
    assert fastest_within(FRONT, 0.06) == Spot(3, 0.90)
    assert fastest_within(FRONT, 0.0) == Spot(9, 0.95)
    assert fastest_within(FRONT, 0.02, reference=0.92) == Spot(3, 0.90)
    assert fastest_within(FRONT, 0.01, reference=0.99) is None
    assert fastest_within((), 1.0) is None


def test_best_under_a_latency() -> None:
    assert best_under(FRONT, 5.0) == Spot(3, 0.90)
    assert best_under(FRONT, 9.0) == Spot(9, 0.95)
    assert best_under(FRONT, 0.5) is None


@given(clouds, st.integers(0, 9), st.floats(0, 5))
def test_finalists_are_of_the_front_and_include_what_they_must(points: list[Spot], count: int, max_drop: float) -> None:
    front = pareto_front(points)
    picked = pick_finalists(front, count, max_drop=max_drop)
    assert len(picked) == len(set(picked)) == min(count, len(front))
    assert set(picked) <= set(front)
    assert list(picked) == sorted(picked, key=lambda p: p.latency_s)
    if front and count >= 2:
        assert knee_point(front) in picked
    if front and count >= 1:
        assert fastest_within(front, max_drop) in picked


def test_finalists_spread_above_the_quality_asked() -> None:
    assert pick_finalists(FRONT, 3, max_drop=0.06) == FRONT[:3]
    assert pick_finalists(FRONT, 4, max_drop=0.06) == (FRONT[0], FRONT[1], FRONT[2], FRONT[4])
    assert pick_finalists(FRONT, 5, max_drop=0.06, min_quality=0.5) == FRONT[1:]


@given(clouds)
def test_hypervolume_is_the_area_counted_cell_by_cell(points: list[Spot]) -> None:
    latency, quality = np.meshgrid(np.arange(0.5, 8), np.arange(2.5, 12), indexing="ij")
    covered = np.zeros(latency.shape, dtype=bool)
    for p in points:
        covered |= (latency > p.latency_s) & (quality < p.quality)
    assert hypervolume(points, max_latency_s=8, min_quality=2) == pytest.approx(covered.sum())


def test_hypervolume_of_nothing_is_nothing() -> None:
    assert hypervolume([], max_latency_s=1, min_quality=0) == 0
