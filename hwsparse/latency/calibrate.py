"""Measures what every choice costs on a target, layer by layer; may be killed and started again at any time.

Where several kernels serve a choice, the fastest counts, and its name is kept for the compiler.

Knows neither how libraries are built nor how they are timed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from hwsparse.errors import InputError, MeasureError
from hwsparse.latency.builders import Order
from hwsparse.latency.contest import Contest
from hwsparse.latency.measurement import Cache, MeasureFailure, Measurement, RunSettings
from hwsparse.latency.records import Records
from hwsparse.latency.runner import BATCH, Clock, Outcome, Progress, Runner
from hwsparse.latency.workload import Workload
from hwsparse.plan import Choice, Layer
from hwsparse.target import Target

# Of a layer's time, relative: that of a choice which is chosen is known as well as what it gains.
PRECISION = 0.02
NOISY_CHANCES = 3  # more, for what was timed beside too much noise: a neighbour's work may pass


def layer_settings(target: Target, cache: Cache = "warm") -> RunSettings:
    """How layers are timed on a target."""
    return RunSettings(threads=target.threads, precision=PRECISION, cache=cache)


class Codegen(Protocol):
    """What builds layers: a `Crew`, or in tests something without a compiler."""

    def kernels_for(self, layer: Layer, choice: Choice, target: Target) -> Sequence[str]:
        """Names of the kernels that serve a choice, the one expected to be fastest first."""

    def build_many(self, orders: Iterable[Order], on_built: Callable[[], None]) -> Mapping[Order, str | None]:
        """Makes libraries of layers with random weights; says why one could not be made."""


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What is known after a calibration about the workloads it was asked for."""

    table: Mapping[Workload, Measurement]
    failures: Mapping[Workload, MeasureFailure]
    fresh: frozenset[Workload]  # of the table: what was not on record before

    @property
    def measured(self) -> int:
        """How many of the table's entries were measured now."""
        return len(self.fresh)

    @property
    def drift(self) -> float:
        """By how much, relative, the clock was slower at its slowest than at its fastest, of all in the table."""
        references = [taken.reference_s for taken in self.table.values() if taken.reference_s is not None]
        return max(references) / min(references) - 1 if references else 0.0

    @property
    def cpu_share(self) -> float:
        """The least share of its CPU that the process had now; less than 1 on a machine under load."""
        return min((self.table[workload].cpu_share for workload in self.fresh), default=1.0)


def calibrate(
    layers: Iterable[Layer],
    options: Mapping[str, Sequence[Choice]],
    target: Target,
    records: Records,
    runner: Runner,
    codegen: Codegen,
    clock: Clock,
    *,
    settings: RunSettings | None = None,
    progress: Progress | None = None,
) -> CalibrationReport:
    """Measures every distinct (layer signature, choice) that is not on record; dense always among them.

    Each batch is built, then timed while nothing is built, then recorded, and meanwhile no other calibration on this
    machine does any of that: one that is killed loses one batch at most, and what another has recorded is not measured
    again. A choice that failed in an earlier calibration is tried again, and at once, a few times, what was timed
    beside too much noise.

    Args:
        options: choices by layer signature or layer name.
        clock: tells when a failure happened.
        progress: called with steps done and steps in all; each library is two, built and timed.

    Raises:
        InputError: `options` names no layer.
        MeasureError: records cannot be written, no library can be timed, or the disk is full.
    """
    settings = settings or layer_settings(target)
    if settings.threads != target.threads:
        raise MeasureError(f"settings say {settings.threads} threads, target {target.name} {target.threads}")
    wanted = _workloads(layers, options, target)
    kernels = {
        workload: tuple(codegen.kernels_for(layer, workload.choice, target)) for workload, layer in wanted.items()
    }
    signatures = {workload.signature: layer for workload, layer in wanted.items()}
    known = _on_record(records, signatures, target, codegen, settings)
    table = {workload: known[workload] for workload in wanted if workload in known}
    missing = {workload: layer for workload, layer in wanted.items() if workload not in known}
    contest = Contest(kernels, missing, known)
    rivals = sum(len(kernels[workload]) - 1 for workload in contest.leaders)
    steps = _Steps(2 * (len(wanted) + rivals), 2 * len(table), progress)
    outcomes: dict[Workload, Outcome] = {}
    for planned in _batches(missing, contest):
        with runner.alone():
            own = {workload.signature: layer for workload, layer in planned.items()}
            by_now = _on_record(records, own, target, codegen, settings)
            others = {workload: taken for workload, taken in by_now.items() if workload in planned}
            table |= others
            contest.learn(others)
            if others:
                steps.advance(2 * len(others))
            batch = {workload: layer for workload, layer in planned.items() if workload not in others}
            entries = [
                _Entry(workload, layer, kernel)
                for workload, layer in batch.items()
                for kernel in contest.entrants(workload)
            ]
            # Where a leader could not be timed, others hold the contest; where others have held it, nobody does.
            held = sum(len(contest.entrants(each)) - 1 for each in batch)
            steps.total += 2 * (held - sum(len(kernels[each]) - 1 for each in planned if each in contest.leaders))
            if not entries:
                continue
            with tempfile.TemporaryDirectory(prefix="hwsparse-calibrate-") as scratch:
                timed = _measure(entries, target, runner, codegen, settings, Path(scratch), steps)
            for workload in batch:
                outcome = contest.decide(workload, [timed[entry] for entry in entries if entry.workload == workload])
                if isinstance(outcome, Measurement):
                    records.add(workload, outcome)
                else:
                    records.add_failure(workload, outcome, clock(), settings.cache)
                outcomes[workload] = outcome
    fresh = {workload: outcome for workload, outcome in outcomes.items() if isinstance(outcome, Measurement)}
    failed = {workload: outcome for workload, outcome in outcomes.items() if isinstance(outcome, MeasureFailure)}
    return CalibrationReport(table | fresh, failed, frozenset(fresh))


def _on_record(
    records: Records, signatures: Mapping[str, Layer], target: Target, codegen: Codegen, settings: RunSettings
) -> dict[Workload, Measurement]:
    """Of layers by their signatures, what is known as well as is wanted, of kernels that there are."""
    return {
        workload: taken
        for workload, taken in records.table(target.name, target.threads, settings.cache, signatures=signatures).items()
        if _as_good(taken, settings)
        and taken.kernel in codegen.kernels_for(signatures[workload.signature], workload.choice, target)
    }


def _as_good(taken: Measurement, wanted: RunSettings) -> bool:
    """Whether a measurement is as precise as one that would be made now."""
    had = taken.settings.precision
    return wanted.precision is None or (had is not None and had <= wanted.precision)


@dataclass(slots=True)
class _Steps:
    total: int
    done: int
    progress: Progress | None

    def advance(self, count: int = 1) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(self.done, self.total)


def _workloads(
    layers: Iterable[Layer], options: Mapping[str, Sequence[Choice]], target: Target
) -> dict[Workload, Layer]:
    """Every distinct workload with a layer that shows it: by signature, dense first."""
    shown: dict[str, Layer] = {}
    choices: dict[str, list[Choice]] = {}
    unused = set(options)
    for layer in layers:
        shown.setdefault(layer.signature, layer)
        asked = [*options.get(layer.signature, ()), *options.get(layer.name, ())]
        choices.setdefault(layer.signature, [Choice()]).extend(asked)
        unused -= {layer.signature, layer.name}
    if unused:
        raise InputError(f"choices are given for {min(unused)!r}, which is no layer's name or signature")
    return {Workload.of(layer, choice, target): layer for name, layer in shown.items() for choice in choices[name]}


def _batches(missing: Mapping[Workload, Layer], contest: Contest) -> Iterator[dict[Workload, Layer]]:
    """Workloads of one signature, as many as can be timed side by side; leaders of contests before all others."""
    parts: dict[tuple[str, bool], list[Workload]] = {}
    for signature in dict.fromkeys(workload.signature for workload in missing):
        parts[signature, True], parts[signature, False] = [], []
    for workload in missing:
        parts[workload.signature, workload in contest.leaders].append(workload)
    for part in parts.values():
        batch: dict[Workload, Layer] = {}
        libraries = 0
        for workload in part:
            # A contest is never cut in two.
            entrants = len(contest.entrants(workload))
            if batch and libraries + entrants > BATCH:
                yield batch
                batch, libraries = {}, 0
            batch[workload] = missing[workload]
            libraries += entrants
        if batch:
            yield batch


@dataclass(frozen=True, slots=True)
class _Entry:
    """A library to time; `layer` is one that shows the workload's signature."""

    workload: Workload
    layer: Layer
    kernel: str

    @property
    def key(self) -> str:
        return f"{self.workload.key} | {self.kernel}"


def _measure(
    entries: Iterable[_Entry],
    target: Target,
    runner: Runner,
    codegen: Codegen,
    settings: RunSettings,
    scratch: Path,
    steps: _Steps,
) -> dict[_Entry, Outcome]:
    """Builds libraries, then times what could be built."""
    orders = {entry: _order(entry, target, scratch / str(number)) for number, entry in enumerate(entries)}
    refused = codegen.build_many(orders.values(), steps.advance)
    found: dict[_Entry, Outcome] = {
        entry: MeasureFailure(entry.workload.key, "build", reason)
        for entry, order in orders.items()
        if (reason := refused[order]) is not None
    }
    built = {entry.key: order.directory for entry, order in orders.items() if entry not in found}
    timed = runner.run_many(built, settings)
    for _ in range(NOISY_CHANCES):
        noisy = {
            key: built[key] for key, each in timed.items() if isinstance(each, MeasureFailure) and each.stage == "noise"
        }
        if not noisy:
            break
        timed |= runner.run_many(noisy, settings)
    for entry in orders:
        steps.advance()
        if entry.key in timed:
            found[entry] = _named(entry, timed[entry.key])
    return found


def _order(entry: _Entry, target: Target, directory: Path) -> Order:
    """What is to be built for an entry, and a directory for it.

    Raises:
        MeasureError: the directory cannot be made.
    """
    try:
        directory.mkdir()
    except OSError as error:
        raise MeasureError(f"cannot build {entry.workload.key} in {directory}: {error.strerror or error}") from None
    return Order(entry.layer, entry.workload.choice, target, entry.kernel, directory)


def _named(entry: _Entry, outcome: Outcome) -> Outcome:
    """What came of timing a library, as the workload's."""
    if isinstance(outcome, Measurement):
        return replace(outcome, key=entry.workload.key, kernel=entry.kernel)
    return replace(outcome, key=entry.workload.key)
