"""The front of a search: the points that no other point beats, and which of them to take.

Less latency and more quality are better. Pure functions on anything with a `latency_s` and a `quality`;
none of them knows how the figures came to be, so points of different sources do not belong in one call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from hwsparse.search.candidate import Point

P = TypeVar("P", bound=Point)

_ROUNDING = 1e-9  # 0.92 - 0.90 is a little more than 0.02


def pareto_front(points: Sequence[P]) -> tuple[P, ...]:
    """The points that no other is at least as good as in both respects, from the fastest to the best.

    Of points with equal figures the first stands for all.
    """
    front: list[P] = []
    for point in sorted(points, key=lambda point: (point.latency_s, -point.quality)):
        if not front or point.quality > front[-1].quality:
            front.append(point)
    return tuple(front)


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


def fastest_within(front: Sequence[P], max_drop: float, *, reference: float | None = None) -> P | None:
    """The fastest point whose quality is at most `max_drop` below the reference; None: there is none.

    Args:
        reference: normally the dense model's quality; the best quality of the front if not given.
    """
    if not front:
        return None
    level = max(point.quality for point in front) if reference is None else reference
    good = [point for point in front if level - point.quality <= max_drop + _ROUNDING]
    return min(good, key=lambda point: (point.latency_s, -point.quality), default=None)


def best_under(front: Sequence[P], max_latency_s: float) -> P | None:
    """The point of best quality that takes at most so long; None: nothing is that fast."""
    fast = [point for point in front if point.latency_s <= max_latency_s]
    return max(fast, key=lambda point: (point.quality, -point.latency_s), default=None)


def pick_finalists(
    front: Sequence[P],
    count: int,
    *,
    max_drop: float,
    reference: float | None = None,
    min_quality: float = -math.inf,
) -> tuple[P, ...]:
    """At most `count` points worth compiling, from the fastest to the best.

    The fastest within the tolerance comes first, then the knee; the others are each the farthest from
    all that are picked, so that they spread along the front.

    Args:
        max_drop, reference: as for `fastest_within`.
        min_quality: the spread leaves out points that are worse, such as those where the model has
            collapsed.
    """
    if not front or count < 1:
        return ()
    places = _unit_square(front)
    musts = (fastest_within(front, max_drop, reference=reference), knee_point(front))
    of_musts = [i for must in musts for i, point in enumerate(front) if point is must]
    picked = list(dict.fromkeys(of_musts))[:count]
    left = [i for i, point in enumerate(front) if i not in picked and point.quality >= min_quality]
    while left and len(picked) < count:
        farthest = max(left, key=lambda i: min(math.dist(places[i], places[j]) for j in picked))
        picked.append(farthest)
        left.remove(farthest)
    return tuple(sorted((front[i] for i in picked), key=lambda point: point.latency_s))


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
