"""The whole job where layers may be int8 or bfloat16: built, run and checked for real, with times that are given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx
import onnxruntime
import pytest

from hwsparse.artifact import Artifact
from hwsparse.codegen import Library
from hwsparse.compiler import onnxruntime_answers
from hwsparse.data import Dataset
from hwsparse.errors import InputError, PlanError, UnsupportedError
from hwsparse.model import import_onnx
from hwsparse.pipeline import Goal, Outcome, Workspace, compile_plan, figures, front_report, optimize
from hwsparse.pipeline.compilation import layer_database
from hwsparse.pipeline.judges import appoint_judges
from hwsparse.pipeline.outcome import Recovery
from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.quantise import range_name, rounded, split_weights
from hwsparse.range_methods import METHODS
from hwsparse.report import Budget
from hwsparse.report.audit import audit
from hwsparse.report.words import plan_summary, short_category
from hwsparse.search.database import Place, StudyIdentity
from hwsparse.target import load_target
from hwsparse.tuning import TuningSettings
from tests.model.graphs import run
from tests.model.qdq import quantised
from tests.pipeline.benches import times_by_weight
from tests.sparsify.test_quality import classifier

GOAL = Goal(
    trials=6, finalists=2, max_drop=0.3, patterns=("block4x1", "block4x4", "block4x2"), ratios=(0.5, 0.75),
    dtypes=("float32", "bfloat16", "int8"),
)  # fmt: skip
TARGET = replace(load_target("x86-local"), threads=1)
MODEL = classifier(64)


@pytest.fixture(scope="module")
def data() -> Dataset:
    x = np.random.default_rng(2).standard_normal((40, 16, 12, 12)).astype(np.float32)
    session = onnxruntime.InferenceSession(MODEL.proto, providers=["CPUExecutionProvider"])
    return Dataset("own", {"x": x}, np.array([session.run(None, {"x": row[None]})[0].argmax() for row in x]))


@pytest.fixture(scope="module")
def outcome(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    directory = tmp_path_factory.mktemp("job")
    with times_by_weight():
        yield optimize(MODEL, data, TARGET, GOAL, Workspace(directory / "out", directory / "records.sqlite"))


def test_types_are_chosen_layer_by_layer(outcome: Outcome) -> None:
    offered = {option.choice for layer in outcome.space.layers for option in layer.options}
    assert offered >= {Choice(dtype="int8"), Choice(dtype="bfloat16")}
    assert {choice.dtype for choice in offered} == {"float32", "bfloat16", "int8"}
    chosen = {choice.dtype for each in outcome.finalists for _, choice in each.plan.choices}
    assert "int8" in chosen


def test_what_ships_computes_what_onnxruntime_does_on_the_same_bytes(outcome: Outcome, data: Dataset) -> None:
    sample = {"x": data.inputs["x"][:1]}
    for finalist in outcome.finalists:
        artifact = Artifact.load(finalist.artifact.directory)
        assert artifact.manifest.plan == finalist.plan
        weights = outcome.weights(finalist.plan)
        outputs = Library.load(artifact.directory, threads=1).run(sample)
        for name, value in onnxruntime_answers(MODEL, weights, sample).items():
            assert np.abs(outputs[name] - value).max() <= 0.05 * np.abs(value).max()
        for name, choice in finalist.plan.choices:
            if choice.dtype == "int8":
                np.testing.assert_allclose(rounded(weights[name]), weights[name], rtol=1e-6)
                assert any(each.startswith(range_name("")) for each in weights)


def test_what_was_found_is_reported_with_its_types(outcome: Outcome) -> None:
    report = front_report(outcome, "own")
    assert any("/int8" in plan_summary(point.plan) for point in report.points)
    assert all("int8" not in (short_category(point) or "") for point in report.points)


def test_finalists_are_held_to_what_their_types_give_without_zeros(outcome: Outcome) -> None:
    report = front_report(outcome, "own")
    rivals = {point.label: point for point in report.points if point.kind == "dense-rounded"}
    assert rivals.keys() == {"dense bfloat16", "dense int8"}
    for label, rival in rivals.items():
        assert {str(choice) for _, choice in rival.plan.choices} == {f"dense/{label.split()[1]}"}
        assert short_category(rival) == "dense" and rival.latency_source == "measured"
        assert rival.budget == Budget(outcome.fitted_on)
    assert "rounded" not in {finding.rule for finding in audit([report]).findings}


def test_what_was_trained_is_told_as_trained_with_zeros_or_without(outcome: Outcome) -> None:
    (rounded,) = (each for each in outcome.finalists if each.label == "dense int8")
    settings = cast(TuningSettings, SimpleNamespace(epochs=10, gradual=False))
    recovery = cast(Recovery, SimpleNamespace(settings=settings, samples=1000, taken=True))
    method, budget = figures._finalist_terms(replace(rounded, label="tuned"), replace(outcome, recovery=recovery))
    assert method == figures.TUNED and budget == Budget(1000, 10)


@pytest.mark.parametrize("with_data", [False, True], ids=["without data", "with data"])
def test_bfloat16_layers_read_and_weigh_bfloat16(data: Dataset, with_data: bool, tmp_path: Path) -> None:
    choices = {layer.name: parse_choice("block4x2@0.5/bfloat16") for layer in MODEL.layers}
    plan = Plan.of(MODEL.digest, {name: choice for name, choice in choices.items() if name != MODEL.layers[0].name})
    workspace = Workspace(tmp_path / "out", tmp_path / "records.sqlite")
    with times_by_weight():
        outcome = compile_plan(MODEL, plan, TARGET, workspace, data if with_data else None)
    (built,) = outcome.finalists
    assert {choice.dtype for _, choice in built.plan.choices} == {"bfloat16"}
    weights, sample = outcome.weights(built.plan), {"x": data.inputs["x"][:1]}
    assert all((rounded(weights[name], "bfloat16") == weights[name]).all() for name, _ in built.plan.choices)
    assert split_weights(weights).reads == {name: "bfloat16" for name, _ in built.plan.choices}
    outputs = Library.load(Artifact.load(built.artifact.directory).directory, threads=1).run(sample)
    for name, value in onnxruntime_answers(MODEL, weights, sample).items():
        assert np.abs(outputs[name] - value).max() <= 1e-3 * np.abs(value).max()


def test_int8_layers_need_data(tmp_path: Path) -> None:
    plan = Plan.uniform(MODEL.digest, MODEL.layers, Choice(dtype="int8"))
    with pytest.raises(PlanError, match=r"int8 layers need data: .* nothing tells between what it lies; give --data"):
        compile_plan(MODEL, plan, TARGET, Workspace(tmp_path / "out", tmp_path / "r.sqlite"))
    assert not (tmp_path / "out").exists()


def test_pruned_layers_are_kept_as_they_were_before_rounding(data: Dataset, tmp_path: Path) -> None:
    """What is rounded to zero is told from what was pruned."""
    judges = appoint_judges(MODEL, data, TARGET, 0)
    database = layer_database(Workspace(tmp_path / "out", tmp_path / "records.sqlite"), MODEL, judges, TARGET, 0)
    layer, choice = MODEL.layers[1], parse_choice("block4x4@0.5/int8")
    database.build({layer.name: [choice]})
    plan = Plan.of(MODEL.digest, {layer.name: choice})
    floats, found = database.unrounded(plan), database.weights(plan)
    assert floats.keys() == found.keys() and len(found) == 2
    np.testing.assert_array_equal(found[layer.name], rounded(floats[layer.name]))
    assert np.count_nonzero(found[layer.name]) < np.count_nonzero(floats[layer.name])


def test_ranges_are_kept_with_the_pruned_layers(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path / "out", tmp_path / "records.sqlite")
    judges = appoint_judges(MODEL, data, TARGET, 0)
    database = layer_database(workspace, MODEL, judges, TARGET, 0)
    plan = Plan.uniform(MODEL.digest, MODEL.layers, Choice(dtype="int8"))
    seen = database.ranges(plan)
    low, high = seen[range_name("x")]
    values = judges.fitting.inputs["x"]
    assert values.min() <= low < 0 < high <= values.max()
    monkeypatch.setattr("hwsparse.sparsify.layer_database.ranges_on", None)  # not looked at again
    again = layer_database(workspace, MODEL, judges, TARGET, 0).ranges(plan)
    assert {name: ends.tolist() for name, ends in again.items()} == {name: ends.tolist() for name, ends in seen.items()}
    assert database.ranges(Plan(MODEL.digest)) == {}


def test_methods_have_ranges_of_their_own(data: Dataset, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "out", tmp_path / "records.sqlite")
    judges = appoint_judges(MODEL, data, TARGET, 0)
    plan = Plan.uniform(MODEL.digest, MODEL.layers, Choice(dtype="int8"))

    def found(method: str) -> list[float]:
        database = layer_database(workspace, MODEL, judges, TARGET, 0, ranges=method)
        return [float(end) for _, ends in sorted(database.ranges(plan).items()) for end in ends]

    methods = ("averaged", "minmax", "mse")
    once = [found(method) for method in methods]
    assert len(set(map(tuple, once))) == len(methods)
    assert [found(method) for method in methods] == once
    with pytest.raises(InputError, match="'best' is no way to find them"):
        found("best")


def test_searches_by_different_ranges_have_studies_of_their_own(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opened(Exception):
        pass

    def opened(place: Place, name: str, identity: StudyIdentity) -> None:
        raise Opened(identity)

    monkeypatch.setattr("hwsparse.pipeline.opened_study", opened)

    def identity(goal: Goal) -> StudyIdentity:
        with pytest.raises(Opened) as caught:
            optimize(MODEL, data, TARGET, goal, Workspace(tmp_path / "out", tmp_path / "r.sqlite"))
        found = caught.value.args[0]
        assert isinstance(found, StudyIdentity)
        return found

    goals = [replace(GOAL, ranges=method) for method in METHODS]
    assert len({identity(goal) for goal in goals}) == len(METHODS)
    assert "ranges" not in identity(replace(GOAL, dtypes=("float32",), patterns=())).pruner


def test_a_plan_is_compiled_by_the_ranges_asked_for(data: Dataset, tmp_path: Path) -> None:
    plan = Plan.uniform(MODEL.digest, MODEL.layers[:1], Choice(dtype="int8"))
    workspace = Workspace(tmp_path / "out", tmp_path / "records.sqlite")
    with times_by_weight():
        outcome = compile_plan(MODEL, plan, TARGET, workspace, data, ranges="minmax")
    values = appoint_judges(MODEL, data, TARGET, 0).fitting.inputs["x"]
    assert outcome.weights(plan)[range_name("x")].tolist() == [values.min(), values.max()]
    with pytest.raises(InputError, match="'best' is no way to find them"):
        compile_plan(MODEL, plan, TARGET, replace(workspace, directory=tmp_path / "other"), data, ranges="best")
    assert not (tmp_path / "other").exists()


def test_a_model_that_states_its_ranges_is_built_by_them(data: Dataset, tmp_path: Path) -> None:
    seen = [{"x": data.inputs["x"][row][None]} for row in range(3)]
    proto = quantised(onnx.load_from_string(MODEL.proto), seen)
    model = import_onnx(proto.SerializeToString(), name="quantised")
    workspace = Workspace(tmp_path / "out", tmp_path / "records.sqlite")
    judges = appoint_judges(model, data, TARGET, 0)
    plan = Plan.uniform(model.digest, model.layers, Choice(dtype="int8"))
    found = layer_database(workspace, model, judges, TARGET, 0).ranges(plan)
    assert len(found) == 2
    for name, ends in found.items():
        np.testing.assert_array_equal(ends, np.float32(model.ranges[name.removeprefix(range_name(""))]))
    with times_by_weight():
        outcome = compile_plan(model, plan, TARGET, workspace)  # without data
    for name, ends in outcome.weights(plan).items():
        if name in found:
            np.testing.assert_array_equal(ends, found[name])
        else:
            np.testing.assert_array_equal(ends, rounded(model.weight(name)))
    artifact = Artifact.load(outcome.finalists[0].artifact.directory)
    assert artifact.manifest.plan == plan
    (answer,) = Library.load(artifact.directory, threads=1).run(seen[0]).values()
    (expected,) = run(proto.SerializeToString(), seen[0])
    assert np.abs(answer - expected).max() <= 0.05 * np.abs(expected).max()


def test_types_that_there_are_not_are_refused(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="weights are of float32, float16, bfloat16 or int8, not of int4"):
        Goal(dtypes=("int4",))
    with pytest.raises(InputError, match="not of nothing"):
        Goal(dtypes=())
    without = replace(TARGET, supported=tuple(each for each in TARGET.supported if each[1] != "int8"))
    with pytest.raises(UnsupportedError, match="supports nothing in int8"):
        optimize(MODEL, data, without, GOAL, Workspace(tmp_path / "out", tmp_path / "r.sqlite"))
