"""What a search asks of those who know devices and weights: a plan's latency, and its quality.

Knows neither of them itself, nor Optuna.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from hwsparse.errors import HwsparseError
from hwsparse.plan import Plan


class Latency(Protocol):
    """What is predicted for a plan: seconds, a 95 % interval, and how they are known."""

    @property
    def latency_s(self) -> float: ...
    @property
    def interval_s(self) -> tuple[float, float]: ...
    @property
    def source(self) -> str: ...


class Quality(Protocol):
    """How good a pruned model is, more being better, with a 95 % interval, and how sure its loss is."""

    @property
    def value(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float]: ...
    @property
    def drop_error(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Hopeless:
    """A plan that was given up: on so many of the samples it was worse, beyond doubt, than `at_least`."""

    quality: float  # as far as those samples tell
    samples: int
    at_least: float


# Gives the quality of a plan, of which less than the second argument is not worth having.
Evaluate = Callable[[Plan, float], "Future[Quality | Hopeless]"]


def evaluated_here(evaluate: Callable[[Plan, float], Quality | Hopeless]) -> Evaluate:
    """For `run_search`: plans are evaluated by this process, one at a time."""

    def evaluated(plan: Plan, at_least: float) -> Future[Quality | Hopeless]:
        found: Future[Quality | Hopeless] = Future()
        try:
            found.set_result(evaluate(plan, at_least))
        except HwsparseError as error:
            found.set_exception(error)
        return found

    return evaluated
