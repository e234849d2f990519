from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume

from hwsparse.search import knee_point, pareto_front, pick_finalists
from hwsparse.search.pareto import hypervolume, staircase, unbeaten


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


@given(clouds, st.integers(0, 9), st.data())
def test_finalists_are_of_the_front_and_include_what_they_must(
    points: list[Spot], count: int, draw: st.DataObject
) -> None:
    front = pareto_front(points)
    must = draw.draw(st.sampled_from(points)) if points else None
    musts = () if must is None else (must,)
    picked = pick_finalists(front, count, musts=musts)
    assert len(picked) == len(set(picked)) == min(count, len({*front, *musts}))
    assert set(picked) <= {*front, *musts}
    assert list(picked) == sorted(picked, key=lambda p: p.latency_s)
    if points and count >= 1:
        assert must in picked
    if front and count >= 2:
        assert knee_point(front) in picked


def test_finalists_spread_above_the_quality_asked() -> None:
    musts = (FRONT[2],)
    assert pick_finalists(FRONT, 3, musts=musts) == FRONT[:3]
    assert pick_finalists(FRONT, 4, musts=musts) == (FRONT[0], FRONT[1], FRONT[2], FRONT[4])
    assert pick_finalists(FRONT, 5, musts=musts, min_quality=0.5) == FRONT[1:]
    beside = Spot(2.5, 0.7)
    assert pick_finalists(FRONT, 1, musts=(beside,)) == (beside,)


@given(clouds)
def test_the_staircase_is_the_front(points: list[Spot]) -> None:
    figures = np.array([(point.latency_s, point.quality) for point in points]).reshape(-1, 2)
    assert tuple(points[at] for at in staircase(figures[:, 0], figures[:, 1])) == pareto_front(points)


@given(clouds)
def test_the_hypervolume_is_optunas(points: list[Spot]) -> None:
    inside = [(point.latency_s, -point.quality) for point in points if point.latency_s < 8 and point.quality > 1]
    expected = compute_hypervolume(np.array(inside), np.array([8.0, -1.0])) if inside else 0.0
    assert hypervolume(points, (8.0, 1.0)) == pytest.approx(expected)


@dataclass(frozen=True)
class Measured:
    """A point known to `wide` seconds and `unsure` of quality either way."""

    latency_s: float
    quality: float
    wide: float = 0.0
    unsure: float = 0.0

    @property
    def latency_interval_s(self) -> tuple[float, float]:
        return self.latency_s - self.wide, self.latency_s + self.wide

    @property
    def loss_interval(self) -> tuple[float, float]:
        return -self.unsure, self.unsure


noisy = st.builds(
    Measured,
    st.integers(1, 9).map(float),
    st.integers(0, 9).map(float),
    st.sampled_from([0.0, 0.6]),
    st.sampled_from([0.0, 0.6]),
)


def beats(a: Measured, b: Measured) -> bool:
    """By the definition, point by point."""
    if a.latency_s > b.latency_s or a.quality < b.quality:
        return False
    return a.latency_s + a.wide < b.latency_s - b.wide or a.quality - a.unsure > b.quality + b.unsure


@given(st.lists(noisy, max_size=20))
def test_what_is_beaten_beyond_the_noise_is_left_out(points: list[Measured]) -> None:
    found = unbeaten(points)
    assert sorted(found, key=repr) == sorted((p for p in points if not any(beats(q, p) for q in points)), key=repr)
    assert [p.latency_s for p in found] == sorted(p.latency_s for p in found)
    assert {(p.latency_s, p.quality) for p in pareto_front(points)} <= {(p.latency_s, p.quality) for p in found}


def test_without_noise_it_is_the_front() -> None:
    points = [Measured(1, 1), Measured(2, 2), Measured(2.5, 1.5), Measured(3, 3)]
    assert unbeaten(points) == pareto_front(points)
