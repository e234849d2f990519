"""Contenders timed in turns, A B C A B C, each in a process of its own that stands still while others have their turn.

Thread pools wait by spinning: a runtime that has just answered would take the CPU from the next one.
Knows no networks: a contender is a class that `hwsparse.latency.worker` can load, and its directory.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwsparse.errors import MeasureError, one_line
from hwsparse.latency import MeasureFailure
from hwsparse.latency.measurement import Stage
from hwsparse.latency.process import Interpreter, LostError, RefusedError, Worker

# 50 samples each, in rounds short enough that drift hits all alike.
ROUNDS, TURN_SAMPLES = 10, 5
WARMUP_S = 0.3
# With some, quantising a network or compiling it is part of loading.
LOAD_TIMEOUT_S, TURN_TIMEOUT_S, PROBE_TIMEOUT_S = 900.0, 120.0, 60.0
PROBE = "import json, sys, importlib.metadata as m; print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"


@dataclass(frozen=True, slots=True)
class Contender:
    """What takes turns; `tolerance` is for its largest relative error."""

    name: str
    loader: str  # module:class
    directory: Path
    threads: int
    tolerance: float
    interpreter: Interpreter | None = None  # by default this one


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds that calls took, turn by turn, and how far the outputs were from the expected ones."""

    error: float
    turns_s: tuple[tuple[float, ...], ...]

    @property
    def median_s(self) -> float:
        return statistics.median(sample for turn in self.turns_s for sample in turn)

    @property
    def minimum_s(self) -> float:
        return min(sample for turn in self.turns_s for sample in turn)

    @property
    def drift(self) -> float:
        """By how much, relative, the medians of the first, second and last third of the turns differ."""
        third = math.ceil(len(self.turns_s) / 3)
        parts = (self.turns_s[at : at + third] for at in range(0, len(self.turns_s), third))
        medians = [statistics.median(sample for turn in part for sample in turn) for part in parts]
        return max(medians) / min(medians) - 1


Result = Timing | MeasureFailure


def time_in_turns(
    contenders: Sequence[Contender], rounds: int = ROUNDS, turn_samples: int = TURN_SAMPLES, warmup_s: float = WARMUP_S
) -> dict[str, Result]:
    """Loads and checks all of them, then times them in turns; a failure is a value, by contender's name.

    Raises:
        MeasureError: a contender's outputs are wrong; nothing has been timed then.
    """
    failures: dict[str, MeasureFailure] = {}
    errors: dict[str, float] = {}
    turns: dict[str, list[tuple[float, ...]]] = {contender.name: [] for contender in contenders}
    with ExitStack() as stack:
        seats: dict[str, _Seat] = {}
        for contender in contenders:
            name = contender.name
            with _recording(failures, name, "load"):
                seats[name] = stack.enter_context(_Seat.taken(contender))
                errors[name] = seats[name].load(contender.directory)
            if name in errors and not errors[name] <= contender.tolerance:
                raise MeasureError(
                    f"{name}: outputs differ from onnxruntime's on the same weights by {errors[name]:.2g} of their "
                    f"largest value, more than {contender.tolerance:g}: not timed"
                )
        for name, seat in seats.items():
            if name not in failures:
                with _recording(failures, name, "run"):
                    seat.ask(TURN_TIMEOUT_S, do="warm", seconds=warmup_s)
        for name, seat in list(seats.items()) * rounds:
            if name not in failures:
                with _recording(failures, name, "run"):
                    answer = seat.ask(TURN_TIMEOUT_S, do="time", repeats=turn_samples, number=1)
                    turns[name].append(tuple(answer["samples"]))
    return {name: failures.get(name) or Timing(errors[name], tuple(taken)) for name, taken in turns.items()}


def versions(executable: str, packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages in another Python's environment.

    Raises:
        MeasureError: it is no Python, or lacks one of them.
    """
    try:
        asked = subprocess.run(
            [executable, "-c", PROBE, *packages], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False
        )
        found = json.loads(asked.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MeasureError(f"{executable} cannot be started: {one_line(error)}") from None
    except ValueError:
        said = asked.stderr.strip().splitlines()[-1:] or [f"exit status {asked.returncode}"]
        raise MeasureError(f"{executable} is no Python that has {' and '.join(packages)}: {said[0]}") from None
    return {str(name): str(version) for name, version in found.items()}


class _Seat:
    """A contender's process; it runs only while it is asked."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        worker.pause()

    @classmethod
    @contextmanager
    def taken(cls, contender: Contender) -> Iterator[_Seat]:
        """The process, for as long as the context lasts."""
        worker = Worker(contender.loader, contender.threads, contender.interpreter)
        try:
            yield cls(worker)
        finally:
            worker.close()

    def ask(self, timeout_s: float, **request: Any) -> dict[str, Any]:
        """Wakes the process for as long as it takes to answer."""
        self._worker.resume()
        answer = self._worker.ask(timeout_s, slot=0, **request)
        self._worker.pause()
        return answer

    def load(self, directory: Path) -> float:
        """Loads the contender: the error of its outputs."""
        self.ask(LOAD_TIMEOUT_S, do="load", directory=str(directory.absolute()))
        return float(self.ask(TURN_TIMEOUT_S, do="check")["error"])


@contextmanager
def _recording(failures: dict[str, MeasureFailure], name: str, stage: Stage) -> Iterator[None]:
    """What goes wrong with a contender becomes its failure."""
    try:
        yield
    except LostError as lost:
        failures[name] = MeasureFailure(name, lost.stage, lost.reason)
    except (RefusedError, MeasureError) as error:
        failures[name] = MeasureFailure(name, stage, str(error))
