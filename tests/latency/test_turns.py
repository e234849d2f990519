"""When a library has had turns enough."""

from __future__ import annotations

import pytest

from hwsparse.latency import RunSettings
from hwsparse.latency.measurement import MEDIAN, QUIET
from hwsparse.latency.turns import Goal, Turns

SETTINGS = RunSettings(threads=1, precision=0.02)
STEADY = [1e-3] * SETTINGS.samples
WAVERING = [1e-3 * (1 + step * 37 % 101 / 100) for step in range(SETTINGS.samples)]


def turns(samples: list[float]) -> Turns:
    return Turns(slot=0, number=1, samples=samples)


@pytest.mark.parametrize("quantile", [MEDIAN, QUIET])
def test_what_is_always_the_same_is_known_exactly_and_what_wavers_is_not(quantile: float) -> None:
    assert turns(STEADY).known_to(quantile) == 0
    assert turns(WAVERING).known_to(quantile) > SETTINGS.precision  # type: ignore[operator]


def test_a_goal_takes_all_samples_that_are_asked_for_and_more_while_they_waver() -> None:
    goal = Goal.of(SETTINGS, patience_s=None)
    assert goal.strict
    assert not goal.reached(turns(STEADY[:-1]))
    assert goal.reached(turns(STEADY))
    assert not goal.reached(turns(WAVERING))
    assert goal.reached(turns(WAVERING * SETTINGS.stretch)), "there is an end to it"


def test_where_no_precision_is_asked_for_the_samples_are_enough() -> None:
    assert Goal.of(RunSettings(threads=1), patience_s=None).reached(turns(WAVERING))


def test_when_patience_is_over_what_there_is_will_do() -> None:
    patient, impatient = (Goal.of(SETTINGS, patience_s=seconds) for seconds in (3600.0, 0.0))
    assert not patient.strict
    assert not patient.reached(turns(WAVERING))
    assert impatient.reached(turns(WAVERING))
    assert not impatient.reached(turns(WAVERING[:-1])), "the least that is asked for is taken all the same"
