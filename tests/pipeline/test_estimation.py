"""Cost tables of whole networks for devices that are not there."""

from __future__ import annotations

import pytest

from hwsparse.errors import MeasureError, UnsupportedError
from hwsparse.latency import Workload
from hwsparse.pipeline.estimation import cost_table, estimated_costs
from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.target import load_target
from tests.latency.examples import measurement
from tests.sparsify.test_quality import classifier

MODEL = classifier()
TARGET = load_target("arm-neoverse-n1")
CHOICES = [parse_choice(text) for text in ("block4x1@0.5", "unstructured@0.9", "2:4")]


def test_every_layer_and_choice_is_told_as_predicted() -> None:
    table = cost_table(MODEL, CHOICES, TARGET, estimated_costs(TARGET))
    assert {name for name, _ in table} == {layer.name for layer in MODEL.layers}
    for layer in MODEL.layers:
        assert (layer.name, Choice()) in table
    assert len({choice for _, choice in table}) > 1
    assert {told.source for told in table.values()} == {"predicted"}
    assert all(told.interval_s[0] < told.latency_s < told.interval_s[1] for told in table.values())


def test_a_plan_of_estimates_is_predicted_too() -> None:
    costs = estimated_costs(TARGET)
    told = costs.predict_model(MODEL, Plan(MODEL.digest))
    # Nothing was timed end to end: what lies between layers is not known.
    assert told.source == "predicted" and not told.in_domain
    table = cost_table(MODEL, [], TARGET, costs)
    assert told.latency_s == pytest.approx(sum(each.latency_s for each in table.values()))


def test_what_was_measured_comes_first() -> None:
    layer = MODEL.layers[0]
    workload = Workload.of(layer, Choice(), TARGET)
    costs = estimated_costs(TARGET, {workload: measurement(workload, 1e-3)})
    table = cost_table(MODEL, CHOICES, TARGET, costs)
    assert table[layer.name, Choice()].source == "measured"
    assert table[layer.name, Choice()].latency_s == pytest.approx(1e-3)
    others = {told.source for (name, choice), told in table.items() if not (name == layer.name and choice.is_plain)}
    assert others == {"predicted"}


def test_a_device_without_a_core_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"without a \[core\]"):
        estimated_costs(load_target("x86-avx512"))
    elsewhere = Workload.of(MODEL.layers[0], Choice(), load_target("arm-cortex-a76"))
    costs = estimated_costs(TARGET, {elsewhere: measurement(elsewhere, 1e-3)})
    with pytest.raises(MeasureError, match="calibrate for that target"):
        cost_table(MODEL, CHOICES, TARGET, costs)
