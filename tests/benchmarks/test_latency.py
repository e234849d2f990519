"""What the latency benchmark makes of predictions, on pairs whose errors are known."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from benchmarks import latency
from benchmarks.latency import FLOORS, KEYS, Pair
from hwsparse.latency import CostModel, Workload
from hwsparse.plan import Choice, parse_choice
from tests.latency.examples import TARGET, matmul, measurement
from tests.latency.test_cost_model import described, model


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
    for outputs in range(8, 208, 8):
        for ratio in (0.3, 0.5, 0.9):
            workload = Workload.of(matmul(outputs=outputs), parse_choice(f"block4x1@{ratio}"), TARGET)
            seconds = 1e-9 * outputs * (1 - ratio) * (2 if outputs == 96 else 1)
            every[workload] = measurement(workload, seconds)
    alone, aided = latency._layers(every, latency._tenths(every), described, 0.05)
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
    plans = [latency._random_plan(net, costs, rng) for _ in range(30)]
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
    assert [str(cell) for cell in table.columns[0].cells] == ["layer_rmspe", "layer_coverage90", "model_rank_corr"]
    assert [str(cell) for cell in table.columns[3].cells] == ["yes", "NO", "NO"]


def test_its_options_and_figures() -> None:
    parser = argparse.ArgumentParser()
    latency.options(parser)
    given = parser.parse_args(["--models", "minilm", "--parts", "layers"])
    assert (given.models, given.parts, given.plans, given.repeats) == (["minilm"], ["layers"], 40, 5)
    assert len(set(KEYS)) == len(KEYS) == 19
    assert set(FLOORS) < set(KEYS)
