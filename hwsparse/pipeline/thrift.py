"""Measures layers on a device, or of them as few as tell all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from hwsparse.codegen import kernels_for, refusal, work
from hwsparse.errors import MeasureError
from hwsparse.latency import CalibrationReport, CostModel, Measurement, RunSettings, Workload, layer_settings
from hwsparse.latency.learned import Describe, Foreknowledge
from hwsparse.model import Model
from hwsparse.pipeline.bench import Bench, Steps
from hwsparse.plan import Choice, Layer, Plan, parse_signature
from hwsparse.sparsify import applicable
from hwsparse.target import Target
from hwsparse.work import Work

# Where too little is on record to learn from, so many of a model's layer shapes are measured in every way first. Of a
# shape that has taught, so many sparse choices were measured, or as many as are asked for if those are fewer.
TEACHERS, TAUGHT = 10, 5
# Kernels that are measured may be others than those expected, and tell less of a layer: then it is looked at again.
LOOKS = 3


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """What was measured when layers were asked for, and what is known of them from there."""

    asked: Mapping[str, Sequence[Choice]]  # by layer name, beside dense
    report: CalibrationReport
    table: Mapping[Workload, Measurement]
    learned: Foreknowledge | None
    pipelined: bool

    @property
    def costs(self) -> CostModel:
        """What the layers cost.

        Raises:
            MeasureError: none of them could be measured.
        """
        if not self.table and self.report.failures:
            first = next(iter(self.report.failures.values()))
            raise MeasureError(
                f"no layer could be timed: {first.key} ({first.stage}): {first.reason}; "
                "`hwsparse records list --failures` shows all"
            )
        return CostModel.fit(self.table, self.learned, pipelined=self.pipelined)

    def known(self, layer: Layer, target: Target) -> list[Choice]:
        """Of what was asked of a layer, dense first, all that was measured or can be predicted."""
        found = []
        for choice in (Choice(), *self.asked.get(layer.name, ())):
            workload = Workload.of(layer, choice, target)
            if workload in self.table or (self.learned is not None and workload not in self.report.failures):
                found.append(choice)
        return found


def every_option(model: Model, choices: Sequence[Choice]) -> dict[str, list[Choice]]:
    """Of some choices those that each layer can be pruned to and run with, by layer name."""
    return {
        layer.name: [
            choice for choice in choices if applicable(layer, choice.pattern) is None and refusal(layer, choice) is None
        ]
        for layer in model.layers
    }


def measure_layers(
    bench: Bench,
    model: Model,
    options: Mapping[str, Sequence[Choice]],
    within: float | None,
    progress: Steps,
    settings: RunSettings,
) -> LayerTimes:
    """Measures a model's layers, dense and under `options` (by layer name), as far as not on record.

    Args:
        within: if given, only so many are measured that the 90 % intervals of the others reach no farther than this,
            relative; those are predicted, from all that is on record of the target. Where that is too little, what was
            imported teaches; it is never taken for measured.

    Raises:
        InputError: `options` names no layer.
        MeasureError: nothing can be timed, or the records cannot be written.
    """
    report = CalibrationReport({}, {}, frozenset())
    enough = min(TAUGHT, max((len(set(asked)) for asked in options.values()), default=TAUGHT))
    learned = None if within is None else _learned(bench, settings, enough)
    if within is not None and learned is None:
        report = bench.calibrate(model, _of_teachers(model, options), progress, settings)
        learned = _learned(bench, settings, enough)
    if within is None or learned is None:
        report = _together(report, bench.calibrate(model, options, progress, settings))
        return LayerTimes(options, report, report.table, None, bench.target.pipelined)
    report = _together(report, bench.calibrate(model, {}, progress, settings))
    table = {**_on_record(bench, settings), **report.table}
    for _ in range(LOOKS):
        chosen = wanted(model, options, CostModel.fit(table, learned), within)
        if not _missing(model, chosen, report, bench.target):
            break
        report = _together(report, bench.calibrate(model, chosen, progress, settings))
        table = {**_on_record(bench, settings), **report.table}
    return LayerTimes(options, report, table, learned, bench.target.pipelined)


def measure_plans(bench: Bench, model: Model, plans: Iterable[Plan], costs: CostModel, progress: Steps) -> CostModel:
    """The cost model, with every choice of some plans measured that can be: what ships rests on no prediction.

    One that has learned nothing predicts nothing, and stays as it is.

    Raises:
        MeasureError: nothing can be timed, or the records cannot be written.
    """
    if costs.learned is None:
        return costs
    options: dict[str, list[Choice]] = {}
    for plan in plans:
        for name, choice in plan.choices:
            options.setdefault(name, []).append(choice)
    settings = layer_settings(bench.target)
    report = bench.calibrate(model, options, progress, settings)
    return CostModel.fit(
        {**_on_record(bench, settings), **report.table}, costs.learned, pipelined=bench.target.pipelined
    )


def wanted(
    model: Model, options: Mapping[str, Sequence[Choice]], costs: CostModel, within: float
) -> dict[str, list[Choice]]:
    """Of options by layer name, those that are measured, or are to be, for the cost model to tell all others."""
    if costs.learned is None:
        raise MeasureError("this cost model has learned nothing, and cannot tell what it needs to know")
    every: dict[str, dict[Choice, None]] = {}
    for layer in model.layers:
        every.setdefault(layer.signature, {Choice(): None}).update(dict.fromkeys(options.get(layer.name, ())))
    chosen = {}
    for signature, choices in every.items():
        known = costs.known(signature)
        measured = {each.choice for each in known}
        missing = set(costs.learned.wanted(signature, list(choices), known, within))
        chosen[signature] = [choice for choice in choices if choice in measured or choice in missing]
    return {layer.name: chosen[layer.signature] for layer in model.layers}


def untaught_note(within: float | None, learned: Foreknowledge | None) -> str:
    """Why nothing was predicted where it was to be, as a sentence; empty where it was, or was not to be."""
    if within is None or learned is not None:
        return ""
    return (
        f"Everything was measured, and nothing predicted: that takes {TEACHERS} layer shapes, of this network or of "
        f"others on the same device, each measured under {TAUGHT} sparse choices or all that are asked for."
    )


def describe(target: Target) -> Describe:
    """What kernels do for layers on a target."""
    return lru_cache(maxsize=None)(partial(_describe, target))


def _describe(target: Target, signature: str, choice: Choice, kernel: str | None) -> Work | None:
    layer = parse_signature(signature)
    if refusal(layer, choice):
        return None
    kernels = kernels_for(layer, choice, target)
    if kernel is not None and kernel not in kernels:  # of other kernels than there are, whatever a record says
        return None
    return work(layer, choice, target, kernel or kernels[0])


def _missing(
    model: Model, chosen: Mapping[str, Sequence[Choice]], report: CalibrationReport, target: Target
) -> set[Workload]:
    """What is to be measured, and neither was nor could be."""
    asked = {Workload.of(layer, choice, target) for layer in model.layers for choice in chosen.get(layer.name, ())}
    return asked - report.table.keys() - report.failures.keys()


def _together(first: CalibrationReport, second: CalibrationReport) -> CalibrationReport:
    """What came of two calibrations, one after the other."""
    table = {**first.table, **second.table}
    failures = {each: failed for each, failed in {**first.failures, **second.failures}.items() if each not in table}
    return CalibrationReport(table, failures, first.fresh | second.fresh)


def _learned(bench: Bench, settings: RunSettings, enough: int) -> Foreknowledge | None:
    """From what is on record of the target, or else from what was imported; None: that is too little.

    Args:
        enough: sparse choices of a layer shape, for it to teach.
    """
    tell = describe(bench.target)
    for imported in (False, True):
        found = _on_record(bench, settings, imported=imported)
        # Of kernels that there are: others' records may be of others.
        table = {of: taken for of, taken in found.items() if tell(of.signature, of.choice, taken.kernel) is not None}
        ways = Counter(workload.signature for workload in table if not workload.choice.is_dense)
        if sum(count >= enough for count in ways.values()) >= TEACHERS:
            return CostModel.fit(table).learn(tell).learned
    return None


def _of_teachers(model: Model, options: Mapping[str, Sequence[Choice]]) -> dict[str, Sequence[Choice]]:
    """Options of layers that are spread over the model, from the first to the last that has any."""
    shown: dict[str, str] = {}
    for layer in model.layers:
        if options.get(layer.name):
            shown.setdefault(layer.signature, layer.name)
    names = list(shown.values())
    picked = {names[round((len(names) - 1) * at / (TEACHERS - 1))] for at in range(TEACHERS) if names}
    return {name: choices for name, choices in options.items() if name in picked}


def _on_record(bench: Bench, settings: RunSettings, *, imported: bool = False) -> dict[Workload, Measurement]:
    return bench.records.table(bench.target.name, bench.target.threads, settings.cache, imported=imported)
