"""The front of a search: the points that no other point beats, and which of them to take.

Less latency and more quality are better. Pure functions on anything with a `latency_s` and a `quality`;
none of them knows how the figures came to be, so points of different sources do not belong in one call.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from hwsparse.search.candidate import MeasuredPoint, Point

P = TypeVar("P", bound=Point)
M = TypeVar("M", bound=MeasuredPoint)


def pareto_front(points: Sequence[P]) -> tuple[P, ...]:
    """The points that no other is at least as good as in both respects, from the fastest to the best.

    Of points with equal figures the first stands for all.
    """
    figures = np.array([(point.latency_s, point.quality) for point in points], float).reshape(-1, 2)
    return tuple(points[at] for at in staircase(figures[:, 0], figures[:, 1]))


def staircase(latencies: np.ndarray, qualities: np.ndarray) -> np.ndarray:
    """Of points given as arrays (n,) the places of those on the front (m,), from the fastest to the best."""
    order = np.lexsort((-qualities, latencies))
    best = np.maximum.accumulate(qualities[order])
    rising = np.concatenate([[True], best[1:] > best[:-1]]) if len(order) else np.zeros(0, bool)
    found: np.ndarray = order[rising]
    return found


def unbeaten(points: Sequence[M]) -> tuple[M, ...]:
    """The points that none is better than beyond the noise, from the fastest to the slowest.

    A point is beaten where another is at least as fast and as good, and their intervals of latency, or of what they
    lose, do not touch.
    """
    latencies = np.array([point.latency_s for point in points])
    qualities = np.array([point.quality for point in points])
    fast = np.array([point.latency_interval_s for point in points]).reshape(-1, 2)
    # The interval of what is lost, around the quality: qualities of the same samples differ by that.
    half = np.array([(high - low) / 2 for low, high in (point.loss_interval for point in points)])
    no_worse = (latencies[:, None] <= latencies) & (qualities[:, None] >= qualities)
    faster = fast[:, None, 1] < fast[:, 0]
    better = (qualities - half)[:, None] > qualities + half
    beaten = (no_worse & (faster | better)).any(0)
    return tuple(points[at] for at in np.lexsort((-qualities, latencies)) if not beaten[at])


def hypervolume(points: Iterable[Point], reference: tuple[float, float]) -> float:
    """The area that points beat: seconds times quality, up to a latency and a quality that are not worth having."""
    worst_s, worst = reference
    area, end_s = 0.0, worst_s
    for point in reversed(pareto_front([each for each in points if each.latency_s < worst_s and each.quality > worst])):
        area += (end_s - point.latency_s) * (point.quality - worst)
        end_s = point.latency_s
    return area


def knee_point(front: Sequence[P]) -> P:
    """The point of a front that lies farthest above the line between its ends, each axis from 0 to 1.

    Past it, quality falls faster for each second gained. Without a point above the line: the best.

    Raises:
        ValueError: the front is empty.
    """
    if not front:
        raise ValueError("an empty front has no knee")
    places = _unit_square(front)
    # The line runs from the fastest, (0, 0), to the best, (1, 1): above it, quality is ahead of latency.
    lift = [quality - latency for latency, quality in places]
    best = max(range(len(front)), key=lambda i: front[i].quality)
    highest = max(range(len(front)), key=lambda i: lift[i])
    return front[highest] if lift[highest] > 1e-12 else front[best]


def pick_finalists(
    front: Sequence[P], count: int, *, musts: Sequence[P] = (), min_quality: float = -math.inf
) -> tuple[P, ...]:
    """At most `count` points worth compiling, from the fastest to the best.

    First come `musts`, of the front or not, then the knee; the others are each the farthest from all that
    are picked, so that they spread along the front.

    Args:
        min_quality: the spread leaves out points that are worse, such as those where the model has
            collapsed.
    """
    if count < 1 or not (front or musts):
        return ()
    points = [*musts, *(point for point in front if point not in musts)]
    places = _unit_square(points)
    knee = [points.index(knee_point(front))] if front else []
    picked = list(dict.fromkeys((*range(len(musts)), *knee)))[:count]
    left = [i for i, point in enumerate(points) if i not in picked and point.quality >= min_quality]
    while left and len(picked) < count:
        farthest = max(left, key=lambda i: min(math.dist(places[i], places[j]) for j in picked))
        picked.append(farthest)
        left.remove(farthest)
    return tuple(sorted((points[i] for i in picked), key=lambda point: point.latency_s))


def _unit_square(front: Sequence[Point]) -> list[tuple[float, float]]:
    """Each point's (latency, quality) with the front's ranges stretched to 0 to 1."""

    def stretched(values: list[float]) -> list[float]:
        low, high = min(values), max(values)
        return [(value - low) / (high - low) if high > low else 0.0 for value in values]

    return list(
        zip(
            stretched([point.latency_s for point in front]),
            stretched([point.quality for point in front]),
            strict=True,
        )
    )
