"""The whole job on a small network: all of it is built, run and checked for real, and takes times that are given."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import hwsparse.codegen
import hwsparse.compiler
from hwsparse.artifact import Artifact
from hwsparse.cli.job import STAGE_ENDS
from hwsparse.codegen import Library, relative_error
from hwsparse.compiler import onnxruntime_answers
from hwsparse.data import Dataset, write_npz
from hwsparse.errors import (
    ArtifactError,
    DataError,
    MeasureError,
    PlanError,
    StudyError,
    UnsupportedError,
)
from hwsparse.latency import CostModel, Crew
from hwsparse.latency.builders import Order
from hwsparse.model import Model
from hwsparse.pipeline import (
    Goal,
    Outcome,
    SmallDense,
    Workspace,
    compile_plan,
    front_report,
    optimize,
    robustness_notes,
    uniform_plan,
)
from hwsparse.pipeline.ceiling import unstructured_plan
from hwsparse.pipeline.compilation import layer_database
from hwsparse.pipeline.judges import appoint_judges
from hwsparse.plan import Plan, parse_choice
from hwsparse.report import Budget, parse_report, read_report, words
from hwsparse.report.audit import audit
from hwsparse.search import Candidate
from hwsparse.sparsify import Sizes, narrowed_shape
from hwsparse.target import load_target
from tests.pipeline.benches import times_by_weight
from tests.sparsify.test_quality import classifier

GOAL = Goal(trials=5, finalists=2, max_drop=0.2, patterns=("unstructured", "block4x1"), ratios=(0.5, 0.9))


@pytest.fixture(scope="module", autouse=True)
def times() -> Iterator[None]:
    with times_by_weight():
        yield


@pytest.fixture(scope="module")
def model() -> Model:
    return classifier(64)


@pytest.fixture(scope="module")
def data(model: Model) -> Dataset:
    x = np.random.default_rng(2).standard_normal((40, 16, 12, 12)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.proto, providers=["CPUExecutionProvider"])
    return Dataset("own", {"x": x}, np.array([session.run(None, {"x": row[None]})[0].argmax() for row in x]))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    directory = tmp_path_factory.mktemp("job")
    return Workspace(directory / "out", directory / "records.sqlite")


TARGET = replace(load_target("x86-local"), threads=1)


@pytest.fixture(scope="module")
def corrupted(data: Dataset) -> tuple[Dataset, ...]:
    """Two corruptions: noise, and less of everything."""
    x = data.inputs["x"]
    noise = np.random.default_rng(3).standard_normal(x.shape).astype(np.float32)
    return data.under("noise", {"x": x + 2 * noise}), data.under("faint", {"x": x / 4 + 1})


@pytest.fixture(scope="module")
def outcome(model: Model, data: Dataset, workspace: Workspace, corrupted: tuple[Dataset, ...]) -> Outcome:
    return optimize(model, data, TARGET, GOAL, workspace, corrupted=iter(corrupted))


def test_finalists_are_what_their_manifests_say(outcome: Outcome, data: Dataset, workspace: Workspace) -> None:
    assert outcome.finalists
    for finalist in outcome.finalists:
        artifact = Artifact.load(finalist.artifact.directory)
        manifest = artifact.manifest
        assert manifest.plan == finalist.plan
        assert manifest.latency is not None and manifest.latency.source == "measured"
        assert manifest.latency.median_s == pytest.approx(finalist.latency.median_s)
        assert manifest.quality is not None and manifest.quality.split == "held-out"
        assert manifest.quality.samples == len(data) // 2
        assert {proof.name for proof in manifest.layers} == {"conv", "head"}
        for proof in manifest.layers:
            assert proof.dense_s is not None and proof.dense_s > 0
            assert (proof.refused is None) == (proof.asked == proof.shipped)
        measured = outcome.costs.kernels(outcome.model, finalist.plan)
        assert {proof.name: proof.kernel for proof in manifest.layers} == measured
        check(artifact, outcome.model, outcome.weights(finalist.plan), data)


def check(artifact: Artifact, model: Model, weights: Mapping[str, np.ndarray], data: Dataset) -> None:
    library = Library.load(artifact.directory, 1)
    for row in range(3):
        inputs = {"x": np.ascontiguousarray(data.inputs["x"][row : row + 1])}
        expected = onnxruntime_answers(model, weights, inputs)
        assert relative_error(library.run(inputs)["y"], expected["y"]) < 1e-4


def test_the_winner_is_the_fastest_that_beats_dense_and_reaches_the_goal(outcome: Outcome) -> None:
    baselines = outcome.baselines
    good = [
        finalist
        for finalist in outcome.finalists
        if finalist.latency.interval_s[1] < baselines.dense.interval_s[0]
        and finalist.chosen_by is not None
        and finalist.chosen_by.drop + finalist.chosen_by.drop_error <= GOAL.max_drop + 1e-9
    ]
    assert outcome.winner is min(good, key=lambda finalist: finalist.latency.median_s)
    assert baselines.quality is not None and baselines.quality.value == 1.0  # labels are the dense model's own


def test_the_front_can_be_looked_at_again(outcome: Outcome) -> None:
    report = front_report(outcome, "own")
    assert parse_report(report.text) == report
    assert {"dense", "onnxruntime"} <= {point.label for point in report.points}
    places = {point.label: point.artifact for point in report.points if point.artifact is not None}
    assert places.keys() == {finalist.label for finalist in outcome.finalists}
    for finalist in outcome.finalists:
        place = places[finalist.label]
        assert place.digest == finalist.artifact.digest
        assert outcome.directory / place.directory == finalist.artifact.directory
    for winner in outcome.finalists:
        won = front_report(replace(outcome, winner=winner), "own").winning_point
        assert won is not None and won.artifact == places[winner.label]
    lost = front_report(replace(outcome, winner=None), "own")
    assert lost.winning_point is None and any(note.startswith("No plan was faster") for note in lost.notes)


def test_a_winner_is_held_to_its_rivals(outcome: Outcome, data: Dataset) -> None:
    rivals = outcome.rivals
    assert rivals is not None and outcome.winner is not None
    assert rivals.of == outcome.winner.label
    judges = appoint_judges(outcome.model, data, TARGET, GOAL.seed)
    plan = outcome.winner.plan
    loose = unstructured_plan(plan, outcome.weights(plan))
    assert rivals.ceiling == judges.reporting.evaluate(outcome.weights(loose))
    small = rivals.small_dense
    assert isinstance(small, SmallDense)
    assert (small.latency.source, small.quality.split) == ("measured", "held-out")
    assert small.quality == judges.reporting.evaluate_other(small.model)
    assert Sizes(small.model).of_weights({}).macs < Sizes(outcome.model).of_weights({}).macs


def test_the_front_states_what_makes_its_rows_comparable(outcome: Outcome, data: Dataset) -> None:
    report = front_report(outcome, "own")
    assert report.comparison is not None and outcome.rivals is not None
    assert (report.comparison.checkpoint, report.comparison.seeds) == (outcome.model.digest, (GOAL.seed,))
    assert report.comparison.ceiling is not None and report.comparison.ceiling.of == outcome.rivals.of
    sizes, fitting = Sizes(outcome.model), len(appoint_judges(outcome.model, data, TARGET, GOAL.seed).fitting)
    for point in report.points:
        assert point.method is not None and point.macs is not None and point.parameters is not None
        assert point.budget == Budget(fitting if point.removed else 0)
        if point.kind in ("dense", "external"):
            assert (point.macs, point.parameters) == tuple(astuple(sizes.of_weights({})))
        if point.kind == "small-dense":
            assert point.structure == "structured" and point.removed
    for finalist in outcome.finalists:
        point = next(each for each in report.points if each.label == finalist.label)
        assert point.macs == sizes.of_weights(outcome.weights(finalist.plan)).macs
        assert finalist.quality is not None and point.drop_interval == finalist.quality.drop_interval
    assert {"dense", "external", "small-dense"} <= {point.kind for point in report.points}
    without = replace(outcome, rivals=replace(outcome.rivals, small_dense="no channel can go"))
    said = "There is no small dense baseline: no channel can go."
    assert said in front_report(without, "own").notes and said not in report.notes
    residual = outcome.costs.residuals[outcome.model.digest]
    (between,) = (note for note in report.notes if note.startswith("A whole network was found to take"))
    assert f"{residual.scale:.3g} of its layers' time" in between
    beside = front_report(replace(outcome, cpu_share=0.5), "own")
    assert [note for note in beside.notes if "other processes took 50% of the CPU" in note]
    weighed = [point for point in report.points if point.file_bytes is not None]
    assert {point.latency_source for point in weighed} == {"predicted", "measured"}
    built = next(point for point in weighed if point.label == outcome.finalists[0].label)
    assert built.file_bytes == sum(entry.size for entry in outcome.finalists[0].artifact.manifest.files)
    lacks = {finding.rule for finding in audit([report]).findings}
    assert "seeds" in lacks  # one
    assert not lacks & {"budgets", "checkpoints", "latency", "dense", "external", "ceiling", "held-out", "categories"}
    assert ("uniform" in lacks) == all(candidate.kind != "uniform" for candidate in outcome.candidates)


def test_what_choices_take_and_harm_is_told_layer_by_layer(
    outcome: Outcome, model: Model, data: Dataset, workspace: Workspace
) -> None:
    assert outcome.choices is not None and outcome.space is not None
    told = {(each.layer, each.choice): each for each in outcome.choices.choices}
    judges = appoint_judges(model, data, TARGET, GOAL.seed)
    entries = layer_database(workspace, model, judges, TARGET, GOAL.seed).entries()
    for layer in outcome.space.layers:
        for option in layer.options:
            found = told.pop((layer.layer, str(option.choice)))
            assert (found.latency_s, found.error, found.source) == (option.latency_s, option.error, "measured")
            harm = 0.0 if option.choice.is_dense else entries[layer.layer, option.choice].harm.loss
            assert found.harm == harm and found.refused is None
    # What is left is what the space has not, with the reason.
    assert {(each.layer, str(each.choice)): each.reason for each in outcome.space.refused} == {
        key: each.refused for key, each in told.items()
    }


def test_a_second_run_measures_and_tries_nothing_again(
    outcome: Outcome, model: Model, data: Dataset, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_many = Crew.build_many

    def refuse(crew: Crew, orders: Iterable[Order], on_built: Callable[[], None]) -> Mapping[Order, str | None]:
        asked = list(orders)  # of a small dense network that another latency asks for
        assert not [order for order in asked if order.layer in model.layers], "a layer was built again"
        return build_many(crew, asked, on_built)

    monkeypatch.setattr(Crew, "build_many", refuse)
    stages = dict[str, int]()
    again = optimize(
        model, data, TARGET, GOAL, workspace, lambda stage, done, total, known: stages.update({stage: total})
    )
    assert stages["whole networks"] == 1, "a network of the survey was built again"
    assert [c.plan for c in again.candidates] == [c.plan for c in outcome.candidates]
    assert finished(workspace.directory / "study.sqlite") == GOAL.trials


def test_a_search_goes_on_where_layers_are_timed_anew_and_some_cannot_be(
    outcome: Outcome, model: Model, data: Dataset, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_many = Crew.build_many

    def build(crew: Crew, orders: Iterable[Order], on_built: Callable[[], None]) -> Mapping[Order, str | None]:
        asked = list(orders)
        refused = [order for order in asked if str(order.choice.pattern) == "unstructured"]
        built = build_many(crew, [order for order in asked if order not in refused], on_built)
        return {**built, **dict.fromkeys(refused, "not today")}

    copy = Workspace(Path(shutil.copytree(workspace.directory, tmp_path / "out")), tmp_path / "records.sqlite")
    monkeypatch.setattr(Crew, "build_many", build)
    known, stages = list[tuple[Candidate, ...]](), dict[str, None]()

    def on_progress(stage: str, done: int, total: int, found: tuple[Candidate, ...]) -> None:
        stages[stage] = None
        known.append(found)

    longer = optimize(model, data, TARGET, replace(GOAL, trials=8), copy, on_progress)
    assert {"finalists", "small dense", "side by side", "ceiling"} <= stages.keys() <= STAGE_ENDS.keys()
    assert finished(copy.directory / "study.sqlite") == 8
    assert all(str(choice.pattern) == "block4x1" for each in longer.candidates for _, choice in each.plan.choices)
    kept = [each.plan for each in outcome.candidates if "unstructured" not in each.plan.to_json()]
    assert [each.plan for each in longer.candidates][: len(kept)] == kept
    assert all(each.plan in [candidate.plan for candidate in longer.candidates] for each in known[-1])
    assert known[-1] == longer.candidates


def test_other_data_get_a_study_of_their_own(
    outcome: Outcome, model: Model, data: Dataset, workspace: Workspace, tmp_path: Path
) -> None:
    copy = Workspace(Path(shutil.copytree(workspace.directory, tmp_path / "out")), workspace.records)
    # Of so few layers nothing is learned: all are measured, whatever is asked for.
    found = optimize(model, data.subset(range(36)), TARGET, replace(GOAL, within=0.2), copy)
    assert found.candidates and found.costs.learned is None
    assert finished(copy.directory / "study.sqlite") == 2 * GOAL.trials


def test_a_study_that_cannot_be_used_is_said_before_anything_is_measured(
    model: Model, data: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "study.sqlite").write_text("this is no database, whatever its name says\n" * 100)
    with pytest.raises(StudyError, match=r"study\.sqlite"):
        optimize(model, data, TARGET, GOAL, Workspace(tmp_path, tmp_path / "records.sqlite"))
    assert not (tmp_path / "records.sqlite").exists()


def test_one_plan_with_data_and_without(
    model: Model, data: Dataset, workspace: Workspace, corrupted: tuple[Dataset, ...]
) -> None:
    plan = uniform_plan(model, parse_choice("block4x1@0.9"))
    assert [name for name, _ in plan.choices] == ["conv", "head"]
    alone = compile_plan(model, plan, TARGET, workspace)
    (plain,) = alone.finalists
    assert plain.artifact.manifest.quality is None and plain.robustness is None and robustness_notes(alone) == ()
    found = compile_plan(model, plan, TARGET, workspace, data, corrupted=iter(corrupted))
    (judged,) = found.finalists
    judges = appoint_judges(model, data, TARGET, 0, corrupted)
    assert found.baselines.robustness == judges.robustness({})
    assert judged.robustness == judges.robustness(found.weights(plan))
    (note,) = robustness_notes(found)
    assert "own (noise), own (faint)" in note and "dense " in note and "plan " in note
    assert judged.artifact.manifest.quality is not None
    assert judged.asked == plan
    assert all(proof.shipped == proof.asked == "block4x1@0.9" for proof in judged.artifact.manifest.layers)


def test_layers_that_do_not_pay_stay_dense(model: Model, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CostModel, "pays", lambda *arguments: False)
    refused = compile_plan(model, uniform_plan(model, parse_choice("block4x1@0.9")), TARGET, workspace)
    assert refused.winner is None
    for proof in refused.finalists[0].artifact.manifest.layers:
        assert proof.refused is not None and "not faster on x86-local" in proof.refused
        assert (proof.asked, proof.shipped) == ("block4x1@0.9", "dense")


def test_an_artifact_that_cannot_be_written_leaves_the_older_one(
    outcome: Outcome, model: Model, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise ArtifactError("no space left")

    old = Artifact.load(outcome.finalists[0].artifact.directory)
    monkeypatch.setattr(hwsparse.compiler, "write_artifact", full)
    with pytest.raises(ArtifactError, match="no space left"):
        compile_plan(model, outcome.finalists[0].asked, TARGET, workspace)
    assert Artifact.load(old.directory) == old


def test_a_changed_byte_is_an_error(outcome: Outcome) -> None:
    directory = outcome.finalists[0].artifact.directory
    for path in sorted(directory.iterdir()):
        before = path.read_bytes()
        # A new file: the old one may be mapped by a loaded library.
        path.unlink()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(ArtifactError, match=re.escape(path.name)):
            Artifact.load(directory)
        path.write_bytes(before)
    Artifact.load(directory)


def test_what_cannot_be_done_is_said_before_anything_is_written(model: Model, data: Dataset, tmp_path: Path) -> None:
    space = Workspace(tmp_path / "out", tmp_path / "records.sqlite")
    plan = Plan.of(model.digest, {"conv": parse_choice("2:4/float16")})
    with pytest.raises(UnsupportedError, match="ampere-a100"):
        compile_plan(model, plan, load_target("ampere-a100"), space)
    with pytest.raises(UnsupportedError, match="cannot run 2:4 in float16"):
        compile_plan(model, plan, TARGET, space)
    with pytest.raises(PlanError, match="not for classifier"):
        compile_plan(model, Plan.of("0" * 64, {"conv": parse_choice("2:4")}), TARGET, space)
    few = data.subset(range(5))
    with pytest.raises(DataError, match="has 5 labels: to fit weights, choose plans and judge them"):
        optimize(model, few, TARGET, GOAL, space)
    with pytest.raises(DataError):
        optimize(model, Dataset("other", {"z": data.inputs["x"]}, data.labels), TARGET, GOAL, space)
    assert not list(tmp_path.iterdir())


def test_what_fits_and_what_chooses_and_what_reports_are_different_samples(
    outcome: Outcome, model: Model, data: Dataset
) -> None:
    calibration, held_out = data.split(0.5, GOAL.seed)
    fitting, calibration = calibration.split(1 / 3, GOAL.seed)
    rows = [{row.tobytes() for row in part.inputs["x"]} for part in (fitting, calibration, held_out)]
    assert sum(map(len, rows)) == len(set.union(*rows)) == len(data)
    judges = appoint_judges(model, data, TARGET, GOAL.seed)
    assert judges.fitting.digest == fitting.digest
    assert judges.choosing.dataset.digest == calibration.digest
    assert judges.reporting.dataset.digest == held_out.digest
    for finalist in outcome.finalists:
        assert finalist.chosen_by is not None and finalist.quality is not None
        assert (finalist.chosen_by.split, finalist.quality.split) == ("calibration", "held-out")
        weights = outcome.weights(finalist.plan)
        for report, part in ((finalist.chosen_by, calibration), (finalist.quality, held_out)):
            answers = [onnxruntime_answers(outcome.model, weights, {"x": row[None]})["y"] for row in part.inputs["x"]]
            right = np.mean([answer.argmax() == label for answer, label in zip(answers, part.labels, strict=True)])
            assert report.value == pytest.approx(right)


def test_robustness_is_of_the_samples_held_out_and_chooses_nothing(
    outcome: Outcome, model: Model, data: Dataset, corrupted: tuple[Dataset, ...]
) -> None:
    """That a second run without it finds the same candidates is another test."""
    judges = appoint_judges(model, data, TARGET, GOAL.seed, corrupted)
    plain = appoint_judges(model, data, TARGET, GOAL.seed)
    assert judges.fitting.digest == plain.fitting.digest
    assert judges.choosing.dataset.digest == plain.choosing.dataset.digest
    held_out = plain.reporting.dataset
    for judge, whole in zip(judges.corrupted, corrupted, strict=True):
        np.testing.assert_array_equal(judge.dataset.labels, held_out.labels)
        rows = [int(np.flatnonzero((data.inputs["x"] == row).all(axis=(1, 2, 3)))[0]) for row in held_out.inputs["x"]]
        np.testing.assert_array_equal(judge.dataset.inputs["x"], whole.inputs["x"][rows])

    def share(network: Model, weights: Mapping[str, np.ndarray]) -> float:
        """Of right answers, over all corruptions."""
        right = [
            onnxruntime_answers(network, weights, {"x": row[None]})["y"].argmax() == label
            for judge in judges.corrupted
            for row, label in zip(judge.dataset.inputs["x"], judge.dataset.labels, strict=True)
        ]
        return float(np.mean(right))

    narrow = narrowed_shape(model, 0.5)
    assert plain.robustness({}) is None and plain.robustness_of(narrow) is None
    judged = [(outcome.baselines.robustness, model, {}), (judges.robustness_of(narrow), narrow, {})]
    judged += [(each.robustness, model, outcome.weights(each.plan)) for each in outcome.finalists]
    for robustness, network, weights in judged:
        assert robustness is not None and robustness.corruptions == ("own (noise)", "own (faint)")
        assert robustness.value == pytest.approx(share(network, weights))
        low, high = robustness.interval
        assert low <= robustness.value <= high and high - low < 0.6
    report = front_report(outcome, "own")
    shown = {point.label: point.robustness for point in report.points if point.latency_source == "measured"}
    assert shown["dense"] == shown["onnxruntime"] == judged[0][0].value  # type: ignore[union-attr]
    assert {
        each.label: each.robustness and each.robustness.value for each in outcome.finalists
    }.items() <= shown.items()
    assert outcome.rivals is not None and isinstance(small := outcome.rivals.small_dense, SmallDense)
    assert small.robustness == judges.robustness_of(small.model)
    assert small.robustness is not None and shown["small dense"] == small.robustness.value
    assert all(point.robustness is None for point in report.points if point.latency_source == "predicted")
    (note,) = (note for note in report.notes if note.startswith("Robustness"))
    dense = words.quality("top1", judged[0][0].value)  # type: ignore[union-attr]
    assert "own (noise), own (faint)" in note and f"dense {dense} (" in note


def test_corrupted_samples_have_the_labels_that_the_others_have(model: Model, data: Dataset) -> None:
    other = replace(data, labels=np.roll(data.labels, 1))
    for wrong in (other, replace(data, metric="f1"), data.subset(range(30))):
        with pytest.raises(DataError, match="has other labels than 'own', or another metric"):
            appoint_judges(model, data, TARGET, GOAL.seed, [wrong])


def test_a_target_that_cannot_be_timed_is_refused_first(model: Model, data: Dataset, tmp_path: Path) -> None:
    name, space = "ampere-a100", Workspace(tmp_path / "out", tmp_path / "records.sqlite")
    with pytest.raises(UnsupportedError, match=name):
        optimize(model, data, load_target(name), GOAL, space)
    with pytest.raises(UnsupportedError, match=name):
        compile_plan(model, Plan(model.digest), load_target(name), space, data)
    with pytest.raises(UnsupportedError, match="cannot prune to block3x1"):
        optimize(model, data, TARGET, replace(GOAL, patterns=("block3x1",)), space)
    with pytest.raises(UnsupportedError, match="is pipelined, and searches go by the sum"):
        optimize(model, data, replace(TARGET, pipelined=True), GOAL, space)
    assert not list(tmp_path.iterdir())


def test_a_layer_that_cannot_be_measured_is_named(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(crew: Crew, orders: Iterable[Order], on_built: Callable[[], None]) -> Mapping[Order, str | None]:
        return dict.fromkeys(orders, "the linker fell over")

    monkeypatch.setattr(Crew, "build_many", broken)
    plan = Plan.of(model.digest, {"head": parse_choice("2:4")})
    with pytest.raises(MeasureError, match=r"layer 'head', dense, cannot be measured \(build\): the linker fell over"):
        compile_plan(model, plan, TARGET, Workspace(tmp_path / "out", tmp_path / "records.sqlite"))
    assert not (tmp_path / "out").exists()


def test_a_choice_that_no_layer_can_have_is_said(model: Model) -> None:
    with pytest.raises(PlanError, match="no layer of classifier can be 3:7"):
        uniform_plan(model, parse_choice("3:7"))


# A shell starts what runs in the background with Ctrl-C ignored, which these tests may be.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from hwsparse.cli import main
main()
"""


def test_a_search_that_was_stopped_goes_on_to_the_trials_asked_for(model: Model, data: Dataset, tmp_path: Path) -> None:
    """For a device that is not there: it is the search that is stopped, and timing takes longer than it."""
    (tmp_path / "model.onnx").write_bytes(model.proto)
    write_npz(data, tmp_path / "data.npz")
    study, trials = tmp_path / "out" / "study.sqlite", 40
    command = [
        sys.executable, "-c", PROGRAM, "optimize", "model.onnx", "--data", "data.npz", "--out", "out",
        "--target", "arm-cortex-a76", "--trials", str(trials), "--pattern", "2:4", "--pattern", "1:4",
        "--max-drop", "0.2",
    ]  # fmt: skip
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}

    def stop(number: signal.Signals, after: int) -> tuple[int, str]:
        """Sends a signal in mid-search: exit code and standard error."""
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, start_new_session=True, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while finished(study) < after and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        # A terminal sends Ctrl-C to the whole group; SIGKILL must not leave processes of ours behind.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=60)
        while is_alive(process.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_alive(process.pid)
        assert after <= finished(study) <= trials
        return process.returncode, errors

    code, errors = stop(signal.SIGINT, 2)
    assert code == 130
    assert len(errors.strip().splitlines()) == 1 and "the same command goes on" in errors
    assert not (tmp_path / "out" / "front.json").exists()
    assert stop(signal.SIGKILL, finished(study) + 2)[0] == -signal.SIGKILL
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert finished(study) == trials
    report = read_report(tmp_path / "out" / "front.json")
    assert "dense" in {point.label for point in report.points}
    assert (tmp_path / "out" / "front.html").exists() and (tmp_path / "out" / "front.png").exists()


def is_alive(group: int) -> bool:
    """Whether a process of the group is running."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def finished(study: Path) -> int:
    """Complete trials in a study's database, read from outside."""
    if not study.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{study}?mode=ro", uri=True) as database:
            return int(database.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()[0])
    except sqlite3.Error:
        return 0
    finally:
        database.close()
