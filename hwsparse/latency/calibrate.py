"""Measures what every choice costs on a target, layer by layer; may be killed and started again at any time.

Knows neither how libraries are built nor how they are timed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwsparse.errors import CompileError, InputError, MeasureError, UnsupportedError
from hwsparse.latency.measurement import MeasureFailure, Measurement, RunSettings
from hwsparse.latency.records import Records
from hwsparse.latency.runner import BATCH, Clock, Progress, Runner
from hwsparse.latency.workload import Workload
from hwsparse.plan import Choice, Layer
from hwsparse.target import Target

# Makes a library of one layer with random weights, in a directory that exists: codegen.build_layer.
Build = Callable[[Layer, Choice, Target, Path], object]


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What is known after a calibration about the workloads it was asked for."""

    table: Mapping[Workload, Measurement]
    failures: Mapping[Workload, MeasureFailure]
    measured: int  # of the table's entries: how many were not on record before


def calibrate(
    layers: Iterable[Layer],
    options: Mapping[str, Sequence[Choice]],
    target: Target,
    records: Records,
    runner: Runner,
    build: Build,
    clock: Clock,
    *,
    settings: RunSettings | None = None,
    progress: Progress | None = None,
) -> CalibrationReport:
    """Measures every distinct (layer signature, choice) that is not on record; dense always among them.

    Each batch is built, then timed while nothing is built, then recorded: a calibration that is killed loses
    one batch at most. A choice that failed in an earlier calibration is tried again.

    Args:
        options: choices by layer signature or layer name.
        clock: tells when a failure happened.
        progress: called with steps done and steps in all; each workload is two, built and timed.

    Raises:
        InputError: `options` names no layer.
        MeasureError: records cannot be written, no library can be timed, or the disk is full.
    """
    settings = settings or RunSettings(threads=target.threads)
    if settings.threads != target.threads:
        raise MeasureError(f"settings say {settings.threads} threads, target {target.name} {target.threads}")
    wanted = _workloads(layers, options, target)
    known = records.table(target.name, target.threads)
    table = {workload: known[workload] for workload in wanted if workload in known}
    missing = {workload: layer for workload, layer in wanted.items() if workload not in known}
    steps = _Steps(2 * len(wanted), 2 * len(table), progress)
    outcomes: dict[Workload, Measurement | MeasureFailure] = {}
    for batch in _batches(missing):
        with tempfile.TemporaryDirectory(prefix="hwsparse-calibrate-") as scratch:
            found = _measure(batch, target, runner, build, settings, Path(scratch), steps)
        for workload, outcome in found.items():
            if isinstance(outcome, Measurement):
                records.add(workload, outcome)
            else:
                records.add_failure(workload, outcome, clock())
        outcomes |= found
    fresh = {workload: outcome for workload, outcome in outcomes.items() if isinstance(outcome, Measurement)}
    failed = {workload: outcome for workload, outcome in outcomes.items() if isinstance(outcome, MeasureFailure)}
    return CalibrationReport(table | fresh, failed, len(fresh))


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


def _batches(missing: Mapping[Workload, Layer]) -> Iterable[dict[Workload, Layer]]:
    """Workloads of one signature together: a layer's choices are timed side by side with its dense form."""
    by_signature: dict[str, dict[Workload, Layer]] = {}
    for workload, layer in missing.items():
        by_signature.setdefault(workload.signature, {})[workload] = layer
    for same in by_signature.values():
        items = list(same.items())
        for start in range(0, len(items), BATCH):
            yield dict(items[start : start + BATCH])


def _measure(
    batch: Mapping[Workload, Layer],
    target: Target,
    runner: Runner,
    build: Build,
    settings: RunSettings,
    scratch: Path,
    steps: _Steps,
) -> dict[Workload, Measurement | MeasureFailure]:
    """Builds a batch, then times what could be built."""
    found: dict[Workload, Measurement | MeasureFailure] = {}
    built: dict[str, Path] = {}
    for number, (workload, layer) in enumerate(batch.items()):
        directory = scratch / str(number)
        try:
            directory.mkdir()
            build(layer, workload.choice, target, directory)
            built[workload.key] = directory
        except (CompileError, UnsupportedError, InputError) as error:
            found[workload] = MeasureFailure(workload.key, "build", str(error))
        except OSError as error:
            raise MeasureError(f"cannot build {workload.key} in {scratch}: {error.strerror or error}") from None
        steps.advance()
    timed = runner.run_many(built, settings)
    steps.advance(len(batch))
    return found | {workload: timed[workload.key] for workload in batch if workload.key in built}
