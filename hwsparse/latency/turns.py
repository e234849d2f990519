"""The turns that a library takes at being timed in a worker, beside others and the reference kernel.

Knows directories that hold libraries, not what they compute.
"""

from __future__ import annotations

import math
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from hwsparse.errors import MeasureError
from hwsparse.latency.measurement import (
    LONGEST_S,
    MEDIAN,
    QUIET,
    SHORTEST_S,
    MeasureFailure,
    RunSettings,
    Source,
    Stage,
    quantile_interval,
    quiet,
)
from hwsparse.latency.process import RefusedError, Worker

# Where the reference kernel sits beside others, and how long it runs to tell how fast the clock is.
REFERENCE_SLOT, REFERENCE_S = -1, 3e-4


@dataclass(slots=True)
class Turns:
    """What a library took, turn by turn: seconds per call, each the mean of `number` calls."""

    slot: int
    number: int
    samples: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)  # of its CPU, that the process had in each turn
    reference: list[float] = field(default_factory=list)  # what the reference kernel took before each turn
    source: Source = "measured"

    def take(self, worker: Worker, settings: RunSettings, repeats: int) -> None:
        """One turn more.

        Raises:
            LostError, RefusedError: the worker's, as they say.
            ClockError: what it gave are no times.
        """
        answer = worker.ask(
            settings.timeout_s,
            do="time",
            slot=self.slot,
            repeats=repeats,
            number=self.number,
            cold=settings.cache == "cold",
        )
        samples = answer["samples"]
        if len(samples) != repeats or not all(SHORTEST_S <= sample <= LONGEST_S for sample in samples):
            raise ClockError(f"the clock gave {samples[:3]} s for {repeats} samples")
        self.samples += samples
        self.source = answer["source"]
        self.shares.append(answer["share"])

    def known_to(self, quantile: float) -> float:
        """How far the ends of a quantile's 95 % interval are from it at most, relative to it."""
        low, high = quantile_interval(self.samples, quantile)
        usual = statistics.median(self.samples) if quantile == MEDIAN else quiet(self.samples)
        return max(high - usual, usual - low) / usual


@dataclass(frozen=True, slots=True)
class Goal:
    """What turns are taken for: a quantile that is known to the settings' precision."""

    settings: RunSettings
    quantile: float
    until_s: float  # of the monotonic clock: from then on what there is will do
    strict: bool  # what is known less well is a failure

    @classmethod
    def of(cls, settings: RunSettings, patience_s: float | None) -> Goal:
        """The goal of turns that begin now."""
        if patience_s is None:
            return cls(settings, QUIET, math.inf, strict=True)
        return cls(settings, MEDIAN, time.monotonic() + patience_s, strict=False)

    def reached(self, taken: Turns) -> bool:
        """Whether a library needs no more turns."""
        settings, count = self.settings, len(taken.samples)
        if count < settings.samples:
            return False
        if settings.precision is None or count >= settings.samples * settings.stretch:
            return True
        return time.monotonic() >= self.until_s or taken.known_to(self.quantile) <= settings.precision


class ClockError(Exception):
    """A time is no time."""


class NoRoom(Exception):  # a state of the device, and not of what is asked
    """The device has no memory left for one library more."""

    def __init__(self, failure: MeasureFailure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class Reference:
    """The reference kernel in a worker, to be timed before each turn of others: several calls, of which but the first
    find their caches warm, whatever those of others are.
    """

    def __init__(self, worker: Worker, settings: RunSettings, directory: Path) -> None:
        """Makes it ready.

        Raises:
            LostError: the worker's.
            MeasureError: it does not run.
        """
        self._worker, self._settings = worker, replace(settings, min_sample_s=REFERENCE_S, cache="warm")
        try:
            number = prepare(worker, self._settings, "reference", REFERENCE_SLOT, directory)
        except NoRoom as full:
            number = full.failure
        if isinstance(number, MeasureFailure):
            raise MeasureError(f"the reference kernel cannot be timed ({number.stage}): {number.reason}")
        self._turns = Turns(REFERENCE_SLOT, number)

    def take(self, beside: Turns) -> None:
        """Times it once, for what is timed next; a reading that is none is left out.

        Raises:
            LostError: the worker's.
        """
        with suppress(RefusedError, ClockError):
            self._turns.take(self._worker, self._settings, 1)
            beside.reference.append(self._turns.samples[-1])


def prepare(worker: Worker, settings: RunSettings, key: str, slot: int, directory: Path) -> int | MeasureFailure:
    """Loads, checks and warms a library up: how many calls make a sample long enough to time.

    Raises:
        LostError: the worker's.
        NoRoom: it does not fit beside what is loaded.
    """
    stage: Stage = "load"
    try:
        worker.ask(settings.timeout_s, do="load", slot=slot, directory=str(directory.absolute()))
        stage = "run"
        error = worker.ask(settings.timeout_s, do="check", slot=slot)["error"]
        if error is not None and not error <= settings.tolerance:
            reason = f"wrong output: relative error {error:.3g}, more than {settings.tolerance:g}"
            return MeasureFailure(key, "check", reason)
        call_s: float = worker.ask(settings.timeout_s, do="warm", slot=slot, seconds=settings.warmup_s)["seconds"]
    except RefusedError as refused:
        failure = MeasureFailure(key, stage, str(refused))
        if refused.full:
            raise NoRoom(failure) from None
        return failure
    return max(1, math.ceil(settings.min_sample_s / call_s))
