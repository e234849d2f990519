"""Times compiled libraries in a process of their own: on this machine here, on boards in `board_runner.py`.

Knows directories that hold libraries, not what they compute.
"""

from __future__ import annotations

import math
import os
import statistics
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar, final

from hwsparse.errors import MeasureError
from hwsparse.latency.alone import alone
from hwsparse.latency.fingerprint import Device, Toolchain
from hwsparse.latency.load import Bystanders, taken_by_others
from hwsparse.latency.measurement import MeasureFailure, Measurement, RunSettings, Stage, quiet
from hwsparse.latency.process import PINNABLE_CPUS, LostError, RefusedError, Worker
from hwsparse.latency.turns import ClockError, Goal, NoRoom, Reference, Turns, prepare

# Libraries that are in memory together, and take turns.
BATCH = 16
UNLOAD_TIMEOUT_S = 10.0
# What the reference kernel is called beside them.
REFERENCE = ""
# So much of a session's time, and what ends is the session: when it began is known roughly.
NEARLY = 0.95

Outcome = Measurement | MeasureFailure
Progress = Callable[[int, int], None]  # steps done, steps in all
Clock = Callable[[], datetime]  # with a time zone


R = TypeVar("R", bound="ProcessRunner")


class Runner(Protocol):
    """A way to have libraries timed."""

    def alone(self) -> AbstractContextManager[None]:
        """Keeps others of ours from the device, and from work beside it, meanwhile; may be entered again within."""

    def run_many(
        self, libraries: Mapping[str, Path], settings: RunSettings, progress: Progress | None = None
    ) -> dict[str, Outcome]:
        """Times each library, given as key: directory; drift hits all alike."""


class ProcessRunner(ABC):
    """Times libraries in a child process; a context manager that leaves none."""

    # How often the process may be lost while a library is at it, before the library is to blame.
    chances = 1

    def __init__(
        self, toolchain: Toolchain, clock: Clock, reference: Path | None = None, session_s: float = math.inf
    ) -> None:
        """Starts nothing yet.

        Args:
            toolchain: what built the libraries.
            clock: tells the time for `taken_at`.
            reference: a library that is timed now and then beside all others, to tell how fast the clock is.
            session_s: how long a child process can be of use.
        """
        self.toolchain = toolchain
        self._clock = clock
        self._reference = reference
        self._worker: Worker | None = None
        self._session_s = session_s
        self._started = 0.0

    @property
    @abstractmethod
    def device(self) -> Device:
        """What runs the libraries; goes into the measurements.

        Raises:
            MeasureError: it has to be asked, and does not answer.
        """

    @abstractmethod
    def start(self, threads: int) -> Worker:
        """A new child process.

        Raises:
            MeasureError: it cannot be started.
        """

    def __enter__(self: R) -> R:
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
        self,
        libraries: Mapping[str, Path],
        settings: RunSettings,
        progress: Progress | None = None,
        *,
        patience_s: float | None = None,
    ) -> dict[str, Outcome]:
        """Times libraries (key: directory) in batches of up to 16 that take turns, A B C A B C.

        A library that crashes or hangs costs those of its batch that need more turns a fresh start, without it.

        Args:
            patience_s: given where medians are read, and any figure is better than none: then the precision that is
                wanted is the median's, and what is not known to it after so many seconds of turns is given as it is.

        Raises:
            MeasureError: the child process cannot be started, or this machine has too few CPUs.
        """
        done: dict[str, Outcome] = {}
        keys = iter(libraries)
        while batch := list(islice(keys, BATCH)):
            left, lost = batch, Counter[str]()
            while left:
                with self.alone():
                    done |= self._attempt({key: libraries[key] for key in left}, settings, lost, patience_s)
                left = [key for key in batch if key not in done]
            if progress is not None:
                progress(len(done), len(libraries))
        return {key: done[key] for key in libraries}

    def peak_memory(self, key: str, directory: Path, settings: RunSettings) -> int | MeasureFailure:
        """Bytes of memory that a library takes at most while it is loaded and runs, beyond what the runtime takes.

        Raises:
            MeasureError: the child process cannot be started, or this machine has too few CPUs.
        """
        with self.alone():
            return self._peak_memory(key, directory, settings)

    def _peak_memory(self, key: str, directory: Path, settings: RunSettings) -> int | MeasureFailure:
        worker = self.start(settings.threads)
        stage: Stage = "load"
        try:
            before: int = worker.ask(settings.timeout_s, do="memory")["held"]
            worker.ask(settings.timeout_s, do="load", slot=0, directory=str(directory.absolute()))
            stage = "run"
            taken = worker.ask(settings.timeout_s, do="time", slot=0, repeats=2, number=1)
            if taken["source"] == "simulated":
                return MeasureFailure(key, stage, "what a simulator takes is not what the device would")
            most: int = worker.ask(settings.timeout_s, do="memory")["most"]
            return max(0, most - before)
        except RefusedError as refused:
            return MeasureFailure(key, stage, str(refused))
        except LostError as lost:
            return MeasureFailure(key, lost.stage, self.reason(lost))
        finally:
            worker.close()

    def alone(self) -> AbstractContextManager[None]:
        """As `Runner.alone`."""
        return nullcontext()

    def watch(self, worker: Worker) -> Callable[[], float]:
        """From now on: what tells the share of the device's CPUs that nobody took but the worker and this process."""
        return lambda: 1.0

    def rest(self, worker: Worker) -> float:
        """Before a turn: lets the device cool down, if it is too hot to be timed; gives the seconds that it took.

        Raises:
            LostError: the worker's.
        """
        return 0.0

    def was_killed(self, loss: LostError, threads: int) -> bool:
        """Whether what ran the libraries was killed from outside, perhaps for the sake of all that it had loaded.

        Args:
            threads: of the worker that is needed next.

        Raises:
            MeasureError: there can be no other worker to tell.
        """
        return loss.killed

    def reason(self, loss: LostError) -> str:
        """Why a worker was lost, as far as it is known."""
        return loss.reason

    def _attempt(
        self, libraries: Mapping[str, Path], settings: RunSettings, lost: Counter[str], patience_s: float | None
    ) -> dict[str, Outcome]:
        """Times a batch; when the worker is lost, gives what failed or was finished until then and no more.

        Where its time was over, or it was killed from outside, nobody is to blame, as long as there are several: half
        of what is left is timed in the next one. Where the device has no room for all of them, so are those that are
        not loaded yet.

        Args:
            lost: how often that happened while a library was at it; counts on.
        """
        worker = self._empty_worker(settings.threads)
        failures: dict[str, Outcome] = {}
        turns: dict[str, Turns] = {}
        goal = Goal.of(settings, patience_s)
        left_to_us = self.watch(worker)
        at = REFERENCE
        try:
            reference = None if self._reference is None else Reference(worker, settings, self._reference)
            for slot, (at, directory) in enumerate(libraries.items()):
                try:
                    number = prepare(worker, settings, at, slot, directory)
                except NoRoom as full:
                    if turns:
                        break
                    number = full.failure
                if isinstance(number, MeasureFailure):
                    failures[at] = number
                else:
                    turns[at] = Turns(slot, number)
            goal, left_to_us = Goal.of(settings, patience_s), self.watch(worker)  # loading takes none of the time
            while waiting := [key for key in turns if key not in failures and not goal.reached(turns[key])]:
                for key in waiting:
                    goal = replace(goal, until_s=goal.until_s + self.rest(worker))
                    if reference is not None:
                        at = REFERENCE
                        reference.take(beside=turns[key])
                    at = key
                    try:
                        turns[at].take(worker, settings, math.ceil(settings.samples / settings.rounds))
                    except (RefusedError, ClockError) as error:
                        failures[at] = MeasureFailure(at, "run", str(error))
        except LostError as loss:
            over = time.monotonic() - self._started >= NEARLY * self._session_s
            self._lose()
            finished = [key for key in turns if key not in (at, *failures) and goal.reached(turns[key])]
            share = left_to_us()
            found = failures | {key: self._outcome(key, turns[key], goal, share) for key in finished}
            left = [key for key in libraries if key not in found]
            if len(left) > 1 and (over or self.was_killed(loss, settings.threads)):
                half = {key: libraries[key] for key in left[: len(left) // 2]}
                return found | self._attempt(half, settings, lost, patience_s)
            lost[at] += 1
            if lost[at] < self.chances:
                return found
            if at == REFERENCE:
                raise MeasureError(
                    f"the reference kernel cannot be timed ({loss.stage}): {self.reason(loss)}"
                ) from None
            return {**found, at: MeasureFailure(at, loss.stage, self.reason(loss))}
        except BaseException:  # Ctrl-C
            self.close()
            raise
        share = left_to_us()
        return failures | {
            key: self._outcome(key, taken, goal, share) for key, taken in turns.items() if key not in failures
        }

    def _outcome(self, key: str, taken: Turns, goal: Goal, left_to_us: float) -> Outcome:
        """The measurement, or that there was too much noise for one; others left so much of all CPUs meanwhile."""
        settings, known_to = goal.settings, taken.known_to(goal.quantile)
        share = min(left_to_us, statistics.fmean(taken.shares))
        if goal.strict and settings.precision is not None and known_to > settings.precision:
            reason = (
                f"after {len(taken.samples)} samples its time is known to {known_to:.1%} only, "
                f"not to {settings.precision:.1%}"
            )
            return MeasureFailure(key, "noise", "; ".join(filter(None, (reason, taken_by_others(share)))))
        # What is simulated keeps to no clock of this machine's.
        beside = taken.reference if taken.source == "measured" else []
        return Measurement(
            key, tuple(taken.samples), taken.source, settings, self.device, self.toolchain, self._clock(),
            reference_s=quiet(beside) if beside else None, cpu_share=share,
        )  # fmt: skip

    def _empty_worker(self, threads: int) -> Worker:
        """A worker for `threads` threads with nothing loaded; one that died idle is replaced.

        So are one that another thread of ours started, which the kernel ends with that thread, in mid-work perhaps,
        and one half of whose time is over.
        """
        if self._worker is not None:
            try:
                own = self._worker.threads == threads and self._worker.starter is threading.current_thread()
                if own and time.monotonic() - self._started < self._session_s / 2:
                    self._worker.ask(UNLOAD_TIMEOUT_S, do="clear")
                    return self._worker
                self.close()
            except (LostError, RefusedError):
                self._lose()  # nobody waits for an answer: another worker will do
        self._worker, self._started = self.start(threads), time.monotonic()
        return self._worker

    def _lose(self) -> None:
        """Ends a worker that was lost."""
        self.close()


@final
class LocalRunner(ProcessRunner):
    """Times libraries on this machine, with pinned threads."""

    def __init__(
        self,
        toolchain: Toolchain,
        clock: Clock,
        device: Device | None = None,
        loader: str = "hwsparse.codegen:Library",
        reference: Path | None = None,
        lock: Path | None = None,
    ) -> None:
        """Starts nothing yet; arguments are those of `ProcessRunner`, and

        Args:
            lock: a file that all who time on this machine know, so that one waits for the other.
            device: this machine unless given.
            loader: "module:class" with `load(directory, threads)`, `check()` and `time(repeats, number)`; of libraries
                to be timed with a cold cache, `time(repeats, number, cold=True)` too.
        """
        super().__init__(toolchain, clock, reference)
        self._device = device or Device.probe()
        self._loader = loader
        self._lock, self._held = lock, False

    @property
    def device(self) -> Device:
        return self._device

    @contextmanager
    def alone(self) -> Iterator[None]:
        if self._held:
            yield
            return
        with alone(self._lock):
            self._held = True
            try:
                yield
            finally:
                self._held = False

    def watch(self, worker: Worker) -> Callable[[], float]:
        return Bystanders(PINNABLE_CPUS, (os.getpid(), worker.pid)).left_to_us

    def start(self, threads: int) -> Worker:
        return Worker(self._loader, threads)
