"""Searches for a device that is not there: all is pruned, judged and compiled for real, and nothing is timed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from hwsparse.artifact import Artifact
from hwsparse.codegen import KERNEL_VERSION
from hwsparse.data import Dataset
from hwsparse.errors import InputError, UnsupportedError
from hwsparse.latency import Estimate, Records, Toolchain, Workload
from hwsparse.latency.records import RecordsFile
from hwsparse.pipeline import Goal, Outcome, Workspace, compile_plan, front_report, optimize, uniform_plan
from hwsparse.pipeline.estimation import estimated_costs, estimates, measured_on_boards
from hwsparse.pipeline.survey import estimated_offers
from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.report import parse_report, words
from hwsparse.report.terms import terms
from hwsparse.report.view import headline, view
from hwsparse.search.bounds import Bounds
from hwsparse.target import load_target
from tests.latency.examples import measurement
from tests.sparsify.networks import product
from tests.sparsify.test_quality import classifier

GOAL = Goal(trials=6, finalists=2, max_drop=1.0, patterns=("block4x1",), ratios=(0.7, 0.8, 0.9))
TARGET = load_target("arm-cortex-a76")
MODEL = classifier(256)


@pytest.fixture(scope="module")
def data() -> Dataset:
    x = np.random.default_rng(2).standard_normal((40, 16, 12, 12)).astype(np.float32)
    session = onnxruntime.InferenceSession(MODEL.proto, providers=["CPUExecutionProvider"])
    return Dataset("own", {"x": x}, np.array([session.run(None, {"x": row[None]})[0].argmax() for row in x]))


def refuse(*arguments: Any, **others: Any) -> Any:
    raise AssertionError("nothing is run or timed without a device")


@pytest.fixture(scope="module")
def outcome(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    directory = tmp_path_factory.mktemp("job")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hwsparse.compiler.Library.load", refuse)
        patch.setattr("hwsparse.pipeline.open_bench", refuse)
        goal = replace(GOAL, dtypes=("float32", "float16"))
        return optimize(MODEL, data, TARGET, goal, Workspace(directory / "out", directory / "records.sqlite"))


def test_a_search_without_a_device_predicts_every_latency_and_says_so(outcome: Outcome, tmp_path: Path) -> None:
    assert outcome.winner is not None
    latencies = [outcome.baselines.dense, *(each.latency for each in outcome.finalists)]
    assert all(isinstance(latency, Estimate) for latency in latencies)
    assert outcome.baselines.onnxruntime is None
    report = parse_report(front_report(outcome, "own").text)
    assert {point.latency_source for point in report.points} == {"predicted"}
    assert words.latency_axis(report) == "Predicted latency of one inference (ms)"
    notes = " ".join(report.notes)
    for told in ("No network was timed", "outputs were not checked", "estimated by a core model", "no small dense"):
        assert told in notes
    assert "of latency as it is predicted" in dict(terms(report))["Intervals"]
    assert "timed in turns" not in notes and "quiet machine" not in notes
    assert not (outcome.directory.parent / "records.sqlite").exists()  # nothing predicted is on record


@pytest.mark.parametrize("with_data", [True, False])
def test_one_plan_is_compiled_without_a_device(
    with_data: bool, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwsparse.compiler.Library.load", refuse)
    monkeypatch.setattr("hwsparse.pipeline.compilation.open_bench", refuse)
    plan, workspace = uniform_plan(MODEL, parse_choice("block4x1@0.9")), Workspace(tmp_path / "out", tmp_path / "r.db")
    outcome = compile_plan(MODEL, plan, TARGET, workspace, data if with_data else None)
    (finalist,) = outcome.finalists
    assert outcome.winner is finalist and isinstance(finalist.latency, Estimate)
    assert (finalist.quality is not None) == with_data
    manifest = Artifact.load(finalist.artifact.directory).manifest
    assert manifest.latency is not None and manifest.latency.source == "predicted"
    assert manifest.target.name == "arm-cortex-a76" and not (tmp_path / "r.db").exists()


def test_it_chooses_among_types(outcome: Outcome) -> None:
    assert outcome.winner is not None
    types = {choice.dtype for finalist in outcome.finalists for _, choice in finalist.plan.choices}
    assert "float16" in types <= {"float32", "float16"}
    kernels = {proof.kernel for proof in outcome.winner.artifact.manifest.layers}
    assert any(kernel.startswith("halves_") for kernel in kernels)


def test_its_artifacts_are_the_devices_and_hold_no_measured_figure(outcome: Outcome) -> None:
    for finalist in outcome.finalists:
        artifact = Artifact.load(finalist.artifact.directory)
        manifest = artifact.manifest
        assert manifest.latency is not None and manifest.dense_latency is not None
        assert {manifest.latency.source, manifest.dense_latency.source} == {"predicted"}
        assert manifest.latency.samples == 0 and manifest.onnxruntime_latency is None
        assert all(proof.dense_s is None and proof.sparse_s is None for proof in manifest.layers)
        machine = (artifact.directory / "library.so").read_bytes()[18:20]
        assert int.from_bytes(machine, "little") == 183  # e_machine: EM_AARCH64


def test_its_front_is_of_points_judged_alike(outcome: Outcome) -> None:
    report = front_report(outcome, "own")
    built = {point.label for point in report.points if point.artifact is not None}
    assert built == {finalist.label for finalist in outcome.finalists}
    assert {point.split for point in report.front("predicted")} == {outcome.winner.quality.split}  # type: ignore[union-attr]
    assert built <= {point.label for point in report.shortlist}
    shown = view(report)
    names = {group.name for group in shown.groups}
    assert "trials of the search" in names
    assert sum(len(group.points) for group in shown.groups if group.name == "dense") == 1
    assert "as fast as dense" in headline(report) and " ms, predicted" in headline(report)


def test_gains_are_known_better_than_times(outcome: Outcome) -> None:
    dense, winner = outcome.baselines.dense, outcome.winner
    assert winner is not None and isinstance(winner.latency, Estimate) and isinstance(dense, Estimate)
    assert winner.latency.interval_s[1] > dense.interval_s[0]  # by either time alone nothing would be told
    assert winner.latency.beside_s[1] < dense.beside_s[0] == dense.median_s
    assert winner.latency.beside_s[0] < winner.latency.median_s < winner.latency.beside_s[1]


def test_what_layers_gain_decides_what_pays() -> None:
    costs = estimated_costs(TARGET)
    layer, choice = MODEL.layers[0], parse_choice("block4x1@0.9")
    dense, sparse = costs.compared(layer, choice, TARGET)
    alone = costs.predict(Workload.of(layer, choice, TARGET))
    assert sparse.latency_s == pytest.approx(alone.latency_s)
    assert dense.interval_s == (dense.latency_s, dense.latency_s)
    gain, (least, most) = costs.learned.gain(layer.signature, choice)  # type: ignore[union-attr]
    assert dense.latency_s / sparse.latency_s == pytest.approx(gain)
    assert dense.latency_s / sparse.interval_s[1] == pytest.approx(least)
    assert dense.latency_s / sparse.interval_s[0] == pytest.approx(most)
    assert costs.pays(layer, choice, TARGET) == (least > 1)


def test_a_layer_with_a_weight_beyond_float16_is_not_offered_it() -> None:
    weight = np.ones((64, 32), np.float32)
    weight[3, 4] = 1e5
    model, choices = product(weight), tuple(map(parse_choice, ("dense/float16", "block4x1@0.9")))
    ((_, half, plain),) = estimated_offers(model, TARGET, choices, None, estimated_costs(TARGET)).values()
    assert half.refused == "a weight of 100000 lies beyond 65504, the last float16"
    assert plain.refused != half.refused


def test_of_the_dense_network_nothing_is_uncertain_beside_itself() -> None:
    told = estimates(MODEL, {"dense": Plan(MODEL.digest)}, TARGET, estimated_costs(TARGET))["dense"]
    assert told.beside_s == (told.median_s, told.median_s)
    assert told.interval_s[0] < told.median_s < told.interval_s[1]


def test_layers_that_a_board_was_calibrated_with_are_measured(tmp_path: Path) -> None:
    records = tmp_path / "records.sqlite"
    assert measured_on_boards(records, TARGET) == {} and not records.exists()
    workload = Workload.of(MODEL.layers[0], Choice(), TARGET)
    taken = replace(measurement(workload, 1e-3), toolchain=Toolchain.of(TARGET, KERNEL_VERSION))
    taken = replace(taken, settings=replace(taken.settings, threads=TARGET.threads))
    with Records(records, taken.device, taken.toolchain) as file:
        file.add(workload, taken)
    found = measured_on_boards(records, TARGET)
    assert list(found) == [workload]
    costs = estimated_costs(TARGET, found)
    assert costs.predict(workload).source == "measured"
    # Of others, or of other kernels, nothing is taken.
    assert measured_on_boards(records, load_target("arm-neoverse-n1")) == {}
    old = tmp_path / "old.sqlite"
    before = replace(taken, toolchain=Toolchain.of(TARGET, "0"))
    with Records(old, before.device, before.toolchain) as file:
        file.add(workload, before)
    assert measured_on_boards(old, TARGET) == {}
    imported = tmp_path / "imported.sqlite"
    with RecordsFile(imported) as others:
        others.take_in([(workload, taken)])
    assert measured_on_boards(imported, TARGET) == {}


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        (replace(GOAL, bounds=Bounds(max_file_bytes=10**6)), "nothing is weighed without a device"),
        (replace(GOAL, bounds=Bounds(max_memory_bytes=10**6)), "nothing is weighed without a device"),
        (replace(GOAL, within=0.1), "nothing is measured without a device"),
        (replace(GOAL, bounds=Bounds(max_latency_s=1e-9)), "latency: no plan of"),
    ],
)
def test_what_only_a_device_tells_is_refused(goal: Goal, said: str, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        optimize(MODEL, data, TARGET, goal, Workspace(tmp_path / "out", tmp_path / "r.db"))


def test_a_device_without_a_core_needs_a_board(data: Dataset, tmp_path: Path) -> None:
    target = replace(TARGET, core=None)
    with pytest.raises(UnsupportedError, match=r"by --tracker HOST:PORT where"):
        optimize(MODEL, data, target, GOAL, Workspace(tmp_path / "out", tmp_path / "r.db"))
    assert not (tmp_path / "out").exists()


def test_a_search_goes_by_what_a_board_was_calibrated_with(data: Dataset, tmp_path: Path) -> None:
    layer, fast = MODEL.layers[0], parse_choice("block4x1@0.9")
    toolchain = Toolchain.of(TARGET, KERNEL_VERSION)
    for choice, seconds in ((Choice(), 1e-3), (fast, 3e-4), (parse_choice("block4x1@0.7"), 2e-3)):
        workload = Workload.of(layer, choice, TARGET)
        taken = replace(measurement(workload, seconds), toolchain=toolchain)
        with Records(tmp_path / "r.db", taken.device, toolchain) as file:
            file.add(workload, taken)
    workspace = Workspace(tmp_path / "out", tmp_path / "r.db")
    outcome = optimize(MODEL, data, TARGET, replace(GOAL, trials=3, ratios=(0.7, 0.9)), workspace)
    assert outcome.choices is not None and outcome.winner is not None
    told = {each.choice: each for each in outcome.choices.choices if each.layer == layer.name}
    assert {told[text].source for text in ("dense", str(fast))} == {"measured"}
    assert "not faster than dense" in (told["block4x1@0.7"].refused or "")
    assert outcome.winner.plan == Plan.of(MODEL.digest, {layer.name: fast})
    manifest = outcome.winner.artifact.manifest
    assert (
        manifest.latency is not None and manifest.latency.source == "predicted"
    )  # of layers, not all of them measured
    proof = next(proof for proof in manifest.layers if proof.name == layer.name)
    assert (proof.dense_s, proof.sparse_s) == (pytest.approx(1e-3), pytest.approx(3e-4))
    assert "layers measured or estimated" in front_report(outcome, "own").notes[0]


def test_where_nothing_pays_the_dense_network_is_all_that_is_built(data: Dataset, tmp_path: Path) -> None:
    goal = replace(GOAL, trials=2, ratios=(0.1,))
    outcome = optimize(MODEL, data, TARGET, goal, Workspace(tmp_path / "out", tmp_path / "r.db"))
    assert outcome.finalists == () and outcome.winner is None
    report = front_report(outcome, "own")
    assert {point.kind for point in report.points} == {"dense"}
    assert any("nothing is gained" in note for note in report.notes)
    assert any("There was nothing to choose" in note for note in report.notes)
    assert headline(report) == "Predictions only: nothing was timed yet"


def test_a_target_without_kernels_for_anything_else_is_refused(data: Dataset, tmp_path: Path) -> None:
    plain = replace(TARGET, supported=(("dense", "float32"),))
    with pytest.raises(UnsupportedError, match="nothing to choose"):
        optimize(MODEL, data, plain, replace(GOAL, patterns=()), Workspace(tmp_path / "out", tmp_path / "r.db"))
    assert not (tmp_path / "out").exists()
