"""Which layers are measured and which predicted, on a bench whose times follow from what kernels do."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from hwsparse.compiler import settle
from hwsparse.errors import MeasureError
from hwsparse.latency import (
    CalibrationReport,
    CostModel,
    MeasureFailure,
    Measurement,
    RunSettings,
    Workload,
    layer_settings,
)
from hwsparse.model import Model
from hwsparse.pipeline.bench import Bench
from hwsparse.pipeline.thrift import (
    TEACHERS,
    LayerTimes,
    describe,
    measure_layers,
    measure_plans,
    untaught_note,
    wanted,
)
from hwsparse.plan import Choice, Layer, Plan, parse_choice
from hwsparse.target import load_target
from tests.latency.examples import matmul, measurement
from tests.latency.test_cost_model import model

TARGET = load_target("x86-avx512").with_threads(1)
CHOICES = [
    parse_choice(f"{pattern}@{ratio}")
    for pattern in ("unstructured", "block4x1", "block8x1")
    for ratio in (0.5, 0.7, 0.8, 0.9)
]
BROKEN = parse_choice("block8x1@0.9")


def seconds(workload: Workload) -> float:
    """By what kernels do, but for a factor that each layer has for itself."""
    work = describe(TARGET)(workload.signature, workload.choice, None)
    assert work is not None
    own = 1 + 0.2 * math.sin(zlib.crc32(workload.signature.encode()))
    return own * (1e-6 + 1e-9 * work.parts["multiply-adds"] + 1e-10 * work.parts["bytes of lists"])


class Timed:
    """A bench that keeps what it has measured, and counts it."""

    target = TARGET

    def __init__(self, broken: Choice | None = None) -> None:
        self.table: dict[Workload, Measurement] = {}
        self.imported: dict[Workload, Measurement] = {}
        self.records = SimpleNamespace(
            table=lambda name, threads, cache, imported=False: dict(self.imported if imported else self.table)
        )
        self.broken = broken
        self.done: list[int] = []

    def calibrate(
        self,
        net: Model,
        options: Mapping[str, Sequence[Choice]],
        progress: Callable[[int, int], None],
        settings: RunSettings | None = None,
    ) -> CalibrationReport:
        asked = {
            Workload.of(layer, choice, TARGET): choice
            for layer in net.layers
            for choice in (Choice(), *options.get(layer.name, ()))
        }
        failed = {each for each, choice in asked.items() if choice == self.broken}
        fresh = [each for each in asked if each not in self.table and each not in failed]
        self.table |= {each: measurement(each, seconds(each)) for each in fresh}
        self.done.append(len(fresh))
        return CalibrationReport(
            {each: self.table[each] for each in asked.keys() - failed},
            {each: MeasureFailure(each.key, "check", "wrong") for each in failed},
            frozenset(fresh),
        )


def network(sizes: Sequence[int]) -> Model:
    return model(*(matmul(f"layer{at}", inputs=64, outputs=size) for at, size in enumerate(sizes)))


def asked(net: Model) -> dict[str, list[Choice]]:
    return {layer.name: CHOICES for layer in net.layers}


def measured(bench: Timed, net: Model, within: float | None) -> LayerTimes:
    return measure_layers(cast(Bench, bench), net, asked(net), within, lambda *step: None, layer_settings(TARGET))


FIRST, SECOND = network(range(64, 1600, 64)), network(range(80, 800, 64))
ALL = len(CHOICES) + 1


@pytest.fixture(scope="module")
def bench() -> Timed:
    found = Timed()
    measured(found, FIRST, None)
    return found


def test_without_a_limit_everything_is_measured(bench: Timed) -> None:
    assert bench.done == [len(FIRST.layers) * ALL]


def test_a_second_network_takes_less_for_times_as_sure_as_was_asked(bench: Timed) -> None:
    own = Timed()
    own.table = dict(bench.table)
    times = measured(own, SECOND, 0.1)
    fresh = sum(own.done)
    assert len(SECOND.layers) <= fresh < 0.6 * len(SECOND.layers) * ALL
    misses = []
    for layer in SECOND.layers:
        assert times.known(layer, TARGET) == [Choice(), *CHOICES]
        for choice in CHOICES:
            workload = Workload.of(layer, choice, TARGET)
            guess = times.costs.predict(workload)
            assert guess.source == ("measured" if workload in times.report.table else "predicted")
            assert guess.interval_s[1] <= guess.latency_s * 1.12
            misses.append(abs(guess.latency_s / seconds(workload) - 1) > 0.1)
    assert sum(misses) <= 0.05 * len(misses)
    # The same again takes nothing.
    measured(own, SECOND, 0.1)
    assert sum(own.done) == fresh


def test_what_was_imported_teaches_and_counts_as_nothing_more(bench: Timed) -> None:
    own = Timed()
    own.imported = {each: replace(taken, imported=True) for each, taken in bench.table.items()}
    times = measured(own, FIRST, 0.1)
    assert times.learned is not None and times.learned.imported
    assert len(FIRST.layers) <= sum(own.done) < 0.6 * len(FIRST.layers) * ALL
    sources = {
        times.costs.predict(Workload.of(layer, choice, TARGET)).source
        for layer in FIRST.layers
        for choice in (Choice(), *CHOICES)
    }
    assert sources == {"measured", "predicted"}
    # What was measured here goes before it.
    own.table = dict(bench.table)
    times = measured(own, SECOND, 0.1)
    assert times.learned is not None and not times.learned.imported


def test_where_nothing_is_on_record_some_layers_teach_the_others() -> None:
    own = Timed()
    times = measured(own, FIRST, 0.1)
    assert own.done[0] == TEACHERS * len(CHOICES) + len(FIRST.layers)
    assert own.done[1] == 0  # dense layers: they were measured along
    assert sum(own.done) < 0.8 * len(FIRST.layers) * ALL
    assert times.learned is not None


def test_a_network_of_few_layers_is_measured_in_full() -> None:
    own, few = Timed(), network((64, 128, 192))
    times = measured(own, few, 0.1)
    assert sum(own.done) == 3 * ALL
    assert times.learned is None
    assert f"takes {TEACHERS} layer shapes" in untaught_note(0.1, times.learned)
    assert untaught_note(None, times.learned) == ""


@pytest.mark.parametrize("few", [CHOICES[:1], [CHOICES[0], CHOICES[3]], [CHOICES[1], CHOICES[6]]])
def test_few_ratios_are_enough_where_every_one_was_measured(few: list[Choice]) -> None:
    own, options = Timed(), {layer.name: few for layer in FIRST.layers}
    bench, settings = cast(Bench, own), layer_settings(TARGET)
    times = measure_layers(bench, FIRST, options, 0.3, lambda *step: None, settings)
    assert times.learned is not None and untaught_note(0.3, times.learned) == ""
    assert own.done[0] == TEACHERS * len(few) + len(FIRST.layers)
    predicted = [
        (times.costs.predict(workload).latency_s, seconds(workload))
        for workload in (Workload.of(layer, choice, TARGET) for layer in FIRST.layers for choice in few)
        if workload not in own.table
    ]
    assert len(predicted) > 0.5 * (len(FIRST.layers) - TEACHERS) * len(few)
    assert sum(abs(guess / truth - 1) > 0.3 for guess, truth in predicted) <= 0.1 * len(predicted)


def test_what_failed_is_not_predicted(bench: Timed) -> None:
    own, (layer, *_) = Timed(BROKEN), SECOND.layers
    report = own.calibrate(SECOND, {layer.name: [BROKEN]}, lambda *step: None, layer_settings(TARGET))
    learned = CostModel.fit(bench.table).learn(describe(TARGET)).learned
    times = LayerTimes({layer.name: CHOICES}, report, bench.table, learned, pipelined=False)
    assert times.known(layer, TARGET) == [Choice(), *CHOICES[:-1]]


def test_failures_of_layers_that_teach_are_not_forgotten() -> None:
    own = Timed(BROKEN)
    times = measured(own, FIRST, 0.1)
    assert times.learned is not None
    failed = {each.signature for each in times.report.failures}
    assert len(failed) >= TEACHERS
    for layer in FIRST.layers:
        if layer.signature in failed:
            assert BROKEN not in times.known(layer, TARGET)
    assert times.report.fresh == own.table.keys()


def test_a_calibration_that_was_stopped_while_some_layers_taught_goes_on() -> None:
    own = Timed()
    own.calibrate(network(range(64, 320, 64)), asked(FIRST), lambda *step: None, layer_settings(TARGET))
    assert measured(own, FIRST, 0.1).learned is not None
    assert sum(own.done) < 0.8 * len(FIRST.layers) * ALL


def test_a_record_of_a_kernel_that_there_is_not_teaches_nothing(bench: Timed) -> None:
    layer, tell = FIRST.layers[0], describe(TARGET)
    for kernel in ("fast", "shared_index_r0v0k0", "few_positions_r0"):
        assert tell(layer.signature, CHOICES[0], kernel) is None
    odd = {each: replace(taken, kernel="shared_index_r0v0k0") for each, taken in bench.table.items()}
    own = Timed()
    own.table = {**bench.table, **dict(list(odd.items())[:5])}
    assert measured(own, SECOND, 0.1).learned is not None


def test_what_was_imported_of_kernels_that_there_are_not_teaches_nothing(bench: Timed) -> None:
    own = Timed()
    own.imported = {
        each: replace(taken, imported=True, kernel="of another version") for each, taken in bench.table.items()
    }
    learned = measured(own, SECOND, 0.1).learned
    assert learned is None or not learned.imported


def test_what_plans_choose_is_measured(bench: Timed) -> None:
    own = Timed(BROKEN)
    own.table = {each: taken for each, taken in bench.table.items() if each.choice != BROKEN}
    costs = measured(own, SECOND, 0.5).costs
    first, *others = SECOND.layers
    choices = {layer.name: CHOICES[5] for layer in others} | {first.name: BROKEN}
    plan = Plan.of(SECOND.digest, choices)
    proven = measure_plans(cast(Bench, own), SECOND, [plan, Plan(SECOND.digest)], costs, lambda *step: None)
    found = {
        layer: proven.predict(Workload.of(layer, plan.choice(layer.name), TARGET)).source for layer in SECOND.layers
    }
    assert found == dict.fromkeys(others, "measured") | {first: "predicted"}
    # What cannot be measured does not ship.
    settled, refused = settle(SECOND, plan, TARGET, proven)
    assert settled.choice(first.name) == Choice()
    assert refused[first.name].reason == f"could not be measured on {TARGET.name}"


def test_a_model_that_has_learned_nothing_cannot_choose(bench: Timed) -> None:
    with pytest.raises(MeasureError, match="has learned nothing"):
        wanted(SECOND, asked(SECOND), CostModel.fit(bench.table), 0.1)


def test_choices_of_layers_of_one_shape_are_put_together() -> None:
    layers: list[Layer] = [matmul("a", inputs=64, outputs=96), matmul("b", inputs=64, outputs=96)]
    net, full = model(*layers), Timed()
    measured(full, FIRST, None)
    costs = CostModel.fit(full.table).learn(describe(TARGET))
    found = wanted(net, {"a": CHOICES[:2], "b": CHOICES[2:]}, costs, 0.01)
    assert found["a"] == found["b"] and found["a"][0] == Choice()
