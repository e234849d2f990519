"""What a search found: a plan, what it costs and what it is worth.

Knows neither how latency is predicted nor how quality is measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from hwsparse.errors import StudyError
from hwsparse.plan import Plan

Source = Literal["measured", "simulated", "predicted"]  # how a latency is known
Kind = Literal["dense", "uniform", "surrogate", "search"]  # who proposed the plan

HALF_95 = 1.96  # standard errors from the middle of an interval of 95 % to its ends


class Point(Protocol):
    """Anything with a place in the plane that a search explores: a candidate, a point of a report."""

    @property
    def latency_s(self) -> float: ...
    @property
    def quality(self) -> float: ...


class MeasuredPoint(Point, Protocol):
    """A point with 95 % intervals: of its latency, and of what it loses against the dense model."""

    @property
    def latency_interval_s(self) -> tuple[float, float]: ...
    @property
    def loss_interval(self) -> tuple[float, float]: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """One evaluated plan; intervals are 95 %, more quality is better.

    `drop_error` is the standard error of what the plan loses against the dense model on the same samples.

    Raises:
        StudyError: a figure is not finite, an interval is upside down, or the source is none.
    """

    plan: Plan
    latency_s: float
    latency_interval_s: tuple[float, float]
    latency_source: Source
    quality: float
    quality_interval: tuple[float, float]
    drop_error: float
    kind: Kind = "search"
    trial: int | None = None  # number in its study; None: not of a study

    def __post_init__(self) -> None:
        figures = (self.latency_s, *self.latency_interval_s, self.quality, *self.quality_interval, self.drop_error)
        if not all(math.isfinite(figure) for figure in figures) or self.latency_s <= 0 or self.drop_error < 0:
            raise StudyError(f"latency {self.latency_s} s at quality {self.quality} is no result")
        if self.latency_source not in get_args(Source) or self.kind not in get_args(Kind):
            raise StudyError(f"a latency is {' or '.join(get_args(Source))}, not {self.latency_source!r}")
        for low, high in (self.latency_interval_s, self.quality_interval):
            if low > high:
                raise StudyError(f"the interval {low} to {high} is upside down")

    @property
    def loss_interval(self) -> tuple[float, float]:
        """Of what is lost against the dense model, around none: only its width is known here."""
        return -HALF_95 * self.drop_error, HALF_95 * self.drop_error

    @property
    def sure_quality(self) -> float:
        """The quality less one standard error of the loss: what is still there in five cases of six."""
        return self.quality - self.drop_error
