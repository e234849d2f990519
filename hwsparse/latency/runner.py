"""Times compiled libraries on this machine, in a process of their own.

Knows directories that hold libraries, not what they compute.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Protocol, final

from hwsparse.latency.fingerprint import Device, Toolchain
from hwsparse.latency.measurement import MeasureFailure, Measurement, RunSettings, Stage
from hwsparse.latency.process import LostError, RefusedError, Worker

# Libraries that are in memory together, and take turns.
BATCH = 16
UNLOAD_TIMEOUT_S = 10.0

Outcome = Measurement | MeasureFailure
Progress = Callable[[int, int], None]  # steps done, steps in all
Clock = Callable[[], datetime]  # with a time zone


class Runner(Protocol):
    """A way to have libraries timed."""

    def run_many(
        self, libraries: Mapping[str, Path], settings: RunSettings, progress: Progress | None = None
    ) -> dict[str, Outcome]:
        """Times each library, given as key: directory; drift hits all alike."""


@final
class LocalRunner:
    """Times libraries in a child process with pinned threads; a context manager that leaves no process."""

    def __init__(
        self,
        toolchain: Toolchain,
        clock: Clock,
        device: Device | None = None,
        loader: str = "hwsparse.codegen:Library",
    ) -> None:
        """Starts nothing yet.

        Args:
            toolchain: what built the libraries.
            clock: tells the time for `taken_at`.
            device: goes into the measurements, as does the toolchain; this machine unless given.
            loader: "module:class" with `load(directory, threads)`, `check()` and `time(repeats, number)`.
        """
        self.toolchain = toolchain
        self.device = device or Device.probe()
        self._clock = clock
        self._loader = loader
        self._worker: Worker | None = None

    def __enter__(self) -> LocalRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child process; the next run starts another."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def run(self, key: str, directory: Path, settings: RunSettings) -> Outcome:
        """Times one library; `key` says what it is in the result.

        Raises:
            MeasureError: the child process cannot be started, or this machine has too few CPUs.
        """
        return self.run_many({key: directory}, settings)[key]

    def run_many(
        self, libraries: Mapping[str, Path], settings: RunSettings, progress: Progress | None = None
    ) -> dict[str, Outcome]:
        """Times libraries (key: directory) in batches of up to 16 that take turns, A B C A B C.

        A library that crashes or hangs costs its batch a fresh start, without it.

        Raises:
            MeasureError: the child process cannot be started, or this machine has too few CPUs.
        """
        done: dict[str, Outcome] = {}
        keys = iter(libraries)
        while batch := list(islice(keys, BATCH)):
            left = batch
            while left:
                done |= self._attempt({key: libraries[key] for key in left}, settings)
                left = [key for key in batch if key not in done]
            if progress is not None:
                progress(len(done), len(libraries))
        return {key: done[key] for key in libraries}

    def _attempt(self, libraries: Mapping[str, Path], settings: RunSettings) -> dict[str, Outcome]:
        """Times a batch; when a library takes the worker down, gives what failed until then and no more."""
        worker = self._empty_worker(settings.threads)
        failures: dict[str, Outcome] = {}
        numbers: dict[str, int] = {}
        samples: dict[str, list[float]] = {key: [] for key in libraries}
        at = ""
        try:
            for slot, (at, directory) in enumerate(libraries.items()):
                number = _prepare(worker, settings, at, slot, directory)
                if isinstance(number, MeasureFailure):
                    failures[at] = number
                else:
                    numbers[at] = number
            for slot, at in list(enumerate(libraries)) * settings.rounds:
                if at in failures:
                    continue
                turn = _take_turn(worker, settings, at, slot, numbers[at])
                if isinstance(turn, MeasureFailure):
                    failures[at] = turn
                else:
                    samples[at] += turn
        except LostError as lost:
            self.close()
            return {**failures, at: MeasureFailure(at, lost.stage, lost.reason)}
        except BaseException:  # Ctrl-C
            self.close()
            raise
        return failures | {
            key: Measurement(key, tuple(taken), "measured", settings, self.device, self.toolchain, self._clock())
            for key, taken in samples.items()
            if key not in failures
        }

    def _empty_worker(self, threads: int) -> Worker:
        """A worker for `threads` threads with nothing loaded; one that died idle is replaced.

        So is one that another thread of ours started: the kernel ends it with that thread, in mid-work perhaps.
        """
        if self._worker is not None:
            try:
                if self._worker.threads == threads and self._worker.starter is threading.current_thread():
                    self._worker.ask(UNLOAD_TIMEOUT_S, do="clear")
                    return self._worker
            except (LostError, RefusedError):
                pass  # nobody waits for an answer: another worker will do
            self.close()
        self._worker = Worker(self._loader, threads)
        return self._worker


def _prepare(worker: Worker, settings: RunSettings, key: str, slot: int, directory: Path) -> int | MeasureFailure:
    """Loads, checks and warms a library up: how many calls make a sample long enough to time."""
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
        return MeasureFailure(key, stage, str(refused))
    return max(1, math.ceil(settings.min_sample_s / call_s))


def _take_turn(worker: Worker, settings: RunSettings, key: str, slot: int, number: int) -> list[float] | MeasureFailure:
    """A library's samples of one round, of `number` calls each, in seconds per call."""
    repeats = math.ceil(settings.samples / settings.rounds)
    try:
        samples = worker.ask(settings.timeout_s, do="time", slot=slot, repeats=repeats, number=number)["samples"]
    except RefusedError as refused:
        return MeasureFailure(key, "run", str(refused))
    if len(samples) != repeats or not all(math.isfinite(sample) and sample > 0 for sample in samples):
        return MeasureFailure(key, "run", f"the clock gave {samples[:3]} s for {repeats} samples")
    return list(samples)
