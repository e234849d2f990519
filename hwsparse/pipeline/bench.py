"""Where a job measures: one records file, one process for layers, one for whole networks.

Knows nothing of data, quality or searches.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from hwsparse import codegen
from hwsparse.artifact.manifest import NOISY
from hwsparse.codegen.library import DESCRIPTION, LIBRARY, WEIGHTS
from hwsparse.compiler import Answer
from hwsparse.errors import MeasureError
from hwsparse.execution import Workers, open_workers
from hwsparse.latency import (
    REFERENCE,
    Address,
    BoardRunner,
    CalibrationReport,
    Crew,
    Footprint,
    LocalRunner,
    MeasureFailure,
    Measurement,
    NetworkRecords,
    Records,
    RunSettings,
    Toolchain,
    calibrate,
)
from hwsparse.latency.alone import timing_lock
from hwsparse.latency.contender import LOADER
from hwsparse.latency.drift import slowness, usual_reference
from hwsparse.latency.presence import Needs
from hwsparse.latency.runner import BATCH, ProcessRunner
from hwsparse.latency.sent import Compiled
from hwsparse.model import Model
from hwsparse.pipeline.building import NetworkOrder, build_networks, compile_networks
from hwsparse.plan import Choice
from hwsparse.target import Target

Clock = Callable[[], datetime]
Steps = Callable[[int, int], None]  # steps done, steps in all

# Whole networks are few, and their figures are the ones that users read: medians, to the precision of layers' times
# where that is to be had within so many seconds; fewer where they only tell what to do next.
NETWORK_SAMPLES, NETWORK_ROUNDS = 50, 10
NETWORK_PATIENCE_S, ROUGH_PATIENCE_S = 60.0, 15.0
STEP_S, SENDING_S = 60.0, 180.0  # that one step may take: a large network has a long way to a board
PASSES = 3  # over networks of which there are more than can take turns


class Place(Protocol):
    """Where networks are built: a `Bench`, or a `Desk` where there is nothing to time them on."""

    @property
    def clock(self) -> Clock: ...
    def build(
        self, inputs: Mapping[str, np.ndarray], orders: Iterable[NetworkOrder]
    ) -> Iterator[tuple[NetworkOrder, Compiled]]:
        """Each order with its library, as soon as it is there."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Where there is no device: networks are compiled for it, and can neither be run nor checked."""

    target: Target
    clock: Clock
    workers: Workers

    def build(
        self, inputs: Mapping[str, np.ndarray], orders: Iterable[NetworkOrder]
    ) -> Iterator[tuple[NetworkOrder, Compiled]]:
        """As `compile_networks`; the inputs are of no use."""
        return compile_networks(self.target, self.workers, orders)


@dataclass(frozen=True, slots=True)
class Bench:
    """A target's measuring place, open for the time of a job."""

    target: Target
    records: Records
    known: NetworkRecords
    crew: Crew
    layers: ProcessRunner
    networks: ProcessRunner
    clock: Clock
    workers: Workers  # build what is timed
    answer: Answer | None = None  # runs a library on a board; None: they are run here
    shares: list[float] = field(default_factory=list)  # of its CPU, that timings of the job had

    @property
    def cpu_share(self) -> float:
        """The least share of its CPU that anything timed had; less than 1 on a machine under load."""
        return min(self.shares, default=1.0)

    @property
    def _step_s(self) -> float:
        return STEP_S if self.answer is None else SENDING_S

    def calibrate(
        self,
        model: Model,
        options: Mapping[str, Sequence[Choice]],
        progress: Steps,
        settings: RunSettings | None = None,
    ) -> CalibrationReport:
        """Measures the model's layers, dense and under `options` (by layer name), as far as not on record.

        Raises:
            InputError: `options` names no layer.
            MeasureError: nothing can be timed, or the records cannot be written.
        """
        report = calibrate(
            model.layers,
            options,
            self.target,
            self.records,
            self.layers,
            self.crew,
            self.clock,
            settings=settings,
            progress=progress,
        )
        self.shares.append(report.cpu_share)
        return report

    def build(
        self, inputs: Mapping[str, np.ndarray], orders: Iterable[NetworkOrder]
    ) -> Iterator[tuple[NetworkOrder, Compiled]]:
        """As `build_networks`: what is built is checked on the inputs."""
        return build_networks(self.target, inputs, self.workers, orders, self.answer)

    def time_networks(
        self, directories: Mapping[str, Path], patience_s: float = NETWORK_PATIENCE_S
    ) -> dict[str, Measurement]:
        """Times whole networks in turns, A B C A B C: compiled libraries and onnxruntime models.

        Turns go on until medians are known to 2 %, or patience ends. How well each is known is the reader's to see.

        Of more than can take turns, each is timed several times, minutes apart, and its quietest time counts: or
        those that met a busy minute would be told to be slower than others.

        Args:
            directories: of the networks, by a key of the caller's.

        Raises:
            MeasureError: one of them crashed, hung or gave wrong outputs.
        """
        settings = RunSettings(
            threads=self.target.threads,
            samples=NETWORK_SAMPLES,
            rounds=NETWORK_ROUNDS,
            precision=NOISY,
            warmup_s=0.2,
            timeout_s=self._step_s,
            tolerance=1e-4,
        )
        taken: dict[str, list[Measurement]] = {key: [] for key in directories}
        for _ in range(1 if len(directories) <= BATCH else PASSES):
            for key, outcome in self.networks.run_many(directories, settings, patience_s=patience_s).items():
                if not isinstance(outcome, Measurement):
                    raise MeasureError(f"{key} could not be timed ({outcome.stage}): {outcome.reason}")
                taken[key].append(outcome)
        self.shares.extend(each.cpu_share for found in taken.values() for each in found)
        usual_s = usual_reference(each for found in taken.values() for each in found)

        def quietness(each: Measurement) -> float:
            return each.quiet_s / slowness(each, usual_s)

        return {key: min(found, key=quietness) for key, found in taken.items()}

    def weigh_networks(self, directories: Mapping[str, Path]) -> dict[str, Footprint]:
        """The bytes of compiled libraries, each alone: of what is deployed, and of memory at most.

        Args:
            directories: of the networks, by a key of the caller's.
        """
        settings, found = RunSettings(threads=self.target.threads, timeout_s=self._step_s), {}
        for key, directory in directories.items():
            memory = self.networks.peak_memory(key, directory, settings)
            found[key] = Footprint(file_bytes(directory), None if isinstance(memory, MeasureFailure) else memory)
        return found


def file_bytes(directory: Path) -> int:
    """Of a compiled library what is deployed."""
    return sum((directory / name).stat().st_size for name in (LIBRARY, WEIGHTS, DESCRIPTION))


@contextmanager
def open_bench(
    target: Target, records: Path, clock: Clock, board: Address | None = None, workers: Workers | None = None
) -> Iterator[Bench]:
    """A bench on this machine, or with a board where its target is timed.

    Args:
        workers: build layers and networks; by default processes of this machine do.

    Raises:
        UnsupportedError: the target cannot be timed from here.
        MeasureError: the records cannot be opened, or there is no such board.
    """
    target.require_timing(board=board is not None)
    toolchain, answer = Toolchain.of(target, codegen.KERNEL_VERSION), None
    with ExitStack() as stack:
        reference = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hwsparse-reference-")))
        codegen.build_layer(REFERENCE, Choice(), target, reference)
        layers: ProcessRunner
        if board is None:
            lock = timing_lock()
            networks: ProcessRunner = LocalRunner(toolchain, clock, None, LOADER, reference, lock)
            layers = networks
            if target.runner == "local":  # what loads layers alone needs no onnxruntime
                layers = LocalRunner(toolchain, clock, networks.device, reference=reference, lock=lock)
        else:
            onboard = layers = networks = BoardRunner(toolchain, clock, board, reference, Needs.of(target, toolchain))
            settings = RunSettings(threads=target.threads, timeout_s=SENDING_S)
            answer = partial(onboard.answers, settings=settings)
        stack.enter_context(layers)
        stack.enter_context(networks)
        kept = stack.enter_context(Records(records, layers.device, toolchain))
        known = stack.enter_context(NetworkRecords(records, layers.device, toolchain, target.name, target.threads))
        workers = workers or stack.enter_context(open_workers())
        yield Bench(target, kept, known, Crew(workers), layers, networks, clock, workers, answer)
