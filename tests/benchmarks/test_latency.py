"""What the latency benchmark makes of predictions, on pairs whose errors are known."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from benchmarks import latency
from benchmarks.latency import FLOORS, KEYS, Pair
from hwsparse.latency import CostModel, Footprint, Measurement, Workload, layer_settings, stored_bytes
from hwsparse.model import Model
from hwsparse.pipeline.bench import Bench
from hwsparse.pipeline.thrift import describe, measure_layers
from hwsparse.plan import Choice, Plan, parse_choice
from tests.latency.examples import TARGET, matmul, measurement
from tests.latency.test_cost_model import described, model
from tests.pipeline.test_thrift import CHOICES, FIRST, SECOND, Timed, asked
from tests.pipeline.test_thrift import TARGET as LAYERS_TARGET


def pair(predicted_s: float, measured_s: float, *, spread: float = 0.1, in_domain: bool = True) -> Pair:
    interval_s = (predicted_s * (1 - spread), predicted_s * (1 + spread))
    return Pair("it", predicted_s, interval_s, in_domain, measured_s)


PAIRS = [pair(1.03, 1.0), pair(1.96, 2.0), pair(3.0, 3.0), pair(4.8, 4.0)]


def test_the_figures_of_layers() -> None:
    found = latency._layer_figures("layer", PAIRS)
    errors = [0.03, -0.02, 0.0, 0.2]
    assert found["layer_rmspe"] == pytest.approx(100 * np.sqrt(np.mean(np.square(errors))))
    assert (found["layer_within10"], found["layer_coverage90"]) == (75.0, 75.0)


def test_the_figures_of_networks_are_of_the_one_predicted_worst() -> None:
    well = [pair(1.0, 1.0), pair(2.0, 2.0), pair(3.0, 3.0)]
    crossed = [pair(2.0, 1.0), pair(1.0, 2.0), pair(3.0, 3.0)]
    found = latency._network_figures([well, crossed])
    assert found["model_median_err"] == 50.0
    assert found["model_within10"] == pytest.approx(100 / 3)
    assert found["model_rank_corr"] == pytest.approx(0.5)  # Spearman: 1 - 6 * 2 / (3 * 8)


def test_a_layer_is_predicted_from_others_alone() -> None:
    """One layer is twice as slow as the others' law: whoever predicted it from itself would know."""
    every = {}
    for outputs in range(16, 208, 16):
        for ratio in (0.3, 0.5, 0.9):
            workload = Workload.of(matmul(outputs=outputs), parse_choice(f"block4x1@{ratio}"), TARGET)
            seconds = 1e-9 * outputs * (1 - ratio) * (2 if outputs == 96 else 1)
            every[workload] = measurement(workload, seconds)
    alone, aided = latency._predicted(every, latency._tenths(every), described, 0.05)
    pairs = {each.what: each for each in alone}
    assert set(pairs) == {workload.key for workload in every}
    odd = [each.error for what, each in pairs.items() if what.startswith(matmul(outputs=96).signature)]
    assert len(odd) == 3 and max(odd) < -0.3
    assert np.median([abs(each.error) for each in pairs.values()]) < 0.05
    # What was measured of a layer itself is not predicted.
    assert {each.what for each in aided} < set(pairs)


def test_random_plans_hold_what_was_measured_and_nothing_else() -> None:
    net = model(matmul("a"), matmul("b", outputs=64))
    known = Workload.of(matmul("a"), parse_choice("block4x1@0.5"), TARGET)
    costs = CostModel.fit({known: measurement(known, 1.0)})
    rng = np.random.default_rng(0)
    every = [parse_choice("block4x1@0.5"), parse_choice("2:4")]
    plans = [latency._random_plan(net, costs, every, rng) for _ in range(30)]
    assert {name for plan in plans for name, _ in plan.choices} == {"a"}
    assert any(plan.choice("a") == Choice() for plan in plans)


def test_the_table_and_the_picture_show_every_part(tmp_path: Path) -> None:
    pairs = {"layers": [*PAIRS, pair(9.0, 1.0, in_domain=False)], "resnet50": PAIRS}
    table = latency._table(pairs)
    assert [str(cell) for cell in table.columns[0].cells] == ["layers", "  in domain", "resnet50"]
    assert [str(cell) for cell in table.columns[1].cells] == ["5", "4", "4"]
    latency._draw(pairs, tmp_path / "latency.png")
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_verdicts_are_of_what_was_measured() -> None:
    figures = dict.fromkeys(KEYS, np.nan) | {"layer_rmspe": 5.0, "model_rank_corr": 0.97, "layer_coverage90": 96.0}
    table = latency._verdicts(figures)
    columns = ([str(cell) for cell in column.cells] for column in table.columns)
    verdicts = {name: (figure, holds) for name, figure, _, holds in zip(*columns, strict=True)}
    assert verdicts.keys() == FLOORS.keys()
    assert verdicts["layer_rmspe"] == ("5", "yes")
    assert verdicts["layer_coverage90"][1] == verdicts["model_rank_corr"][1] == "NO"
    assert verdicts["repeat_spread"] == ("not measured", "")


def test_its_options_and_figures() -> None:
    parser = argparse.ArgumentParser()
    latency.options(parser)
    given = parser.parse_args(["--models", "minilm", "--parts", "layers"])
    assert (given.models, given.parts, given.plans, given.repeats) == (["minilm"], ["layers"], 40, 5)
    assert len(set(KEYS)) == len(KEYS) == 20
    assert set(FLOORS) < set(KEYS)


class Whole(Timed):
    """Networks take a tenth more than their layers, and files and memory what layers store and a fixed part."""

    def __init__(self, net: Model, plans: Sequence[Plan]) -> None:
        super().__init__()
        self.net, self.plans = net, {plan.digest: plan for plan in plans}

    def time_networks(self, directories: Mapping[str, Path]) -> dict[str, Measurement]:
        every = self.calibrate(self.net, asked(self.net), lambda *step: None)
        costs = CostModel.fit(every.table)
        took = {key: 1.1 * costs.compose(self.net, self.plans[key]).latency_s for key in directories}
        workload = Workload.of(self.net.layers[0], Choice(), LAYERS_TARGET)
        return {key: measurement(workload, seconds) for key, seconds in took.items()}

    def weigh_networks(self, directories: Mapping[str, Path]) -> dict[str, Footprint]:
        tell = describe(LAYERS_TARGET)
        stored = {key: stored_bytes(self.net, self.plans[key], {}, tell) for key in directories}
        return {key: Footprint(each + 1e4, 2 * each + 1e5) for key, each in stored.items()}


def test_whole_networks_are_predicted_from_their_layers_and_a_few_others() -> None:
    rng = np.random.default_rng(0)
    plans = [
        Plan.of(FIRST.digest, {layer.name: CHOICES[rng.integers(len(CHOICES))] for layer in FIRST.layers})
        for _ in range(latency.FITTED + 4)
    ]
    whole = Whole(FIRST, plans)
    costs = CostModel.fit(whole.calibrate(FIRST, asked(FIRST), lambda *step: None).table)
    bench, directories = cast(Bench, whole), {plan: Path() for plan in plans}
    pairs = latency._networks(FIRST, costs, bench, directories)
    assert [pair.what for pair in pairs] == [plan.digest[:16] for plan in plans[latency.FITTED :]]
    assert max(abs(pair.error) for pair in pairs) < 0.01
    weighed = latency._weighed(FIRST, costs, bench, directories)
    assert {what: len(found) for what, found in weighed.items()} == {"files": 4, "memory": 4}
    assert max(abs(pair.error) for found in weighed.values() for pair in found) < 0.01


def test_a_second_network_is_predicted_from_the_first_and_some_of_its_own() -> None:
    whole, console = Timed(), Console(quiet=True)
    measure_layers(cast(Bench, whole), FIRST, asked(FIRST), None, lambda *step: None, layer_settings(LAYERS_TARGET))
    with Progress(console=console) as progress:
        pairs, figures = latency._second(SECOND, cast(Bench, whole), 0.1, progress, console)
        assert pairs and figures["second_rmspe"] < 10 and 0 < figures["second_share"] < 1
        # Once all of it is on record, there is nothing to predict.
        assert latency._second(SECOND, cast(Bench, whole), 0.1, progress, console) == ([], {})
