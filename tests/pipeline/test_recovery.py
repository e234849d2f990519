"""A torch module pruned, trained and compiled: what ships is what was trained, judged against the dense module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwsparse.artifact import Artifact
from hwsparse.codegen import Library, relative_error
from hwsparse.compiler import onnxruntime_answers
from hwsparse.data import Dataset
from hwsparse.errors import DataError, ModelError, PlanError, TuningError, UnsupportedError
from hwsparse.latency import CostModel
from hwsparse.model import Model, import_torch
from hwsparse.pipeline import Outcome, SmallDense, Workspace, front_report, school, uniform_plan
from hwsparse.pipeline.ceiling import unstructured_plan
from hwsparse.pipeline.compilation import OnProgress, layer_database
from hwsparse.pipeline.corrected import CorrectedWeights
from hwsparse.pipeline.judges import appoint_judges
from hwsparse.pipeline.recovery import TRAINING_SHARE, recover
from hwsparse.pipeline.school import School
from hwsparse.plan import Plan, parse_choice
from hwsparse.quantise import range_name, rounded
from hwsparse.report import Budget, parse_report
from hwsparse.report.audit import audit
from hwsparse.sparsify import Evaluator, Narrower, QualityReport
from hwsparse.target import load_target
from hwsparse.tuning import TuningSettings
from hwsparse.tuning.checkpoint import Epoch
from hwsparse.tuning.tune import Tuned, tune
from tests.pipeline.benches import times_by_weight
from tests.tuning.modules import Wide, pictures, separable, wide

TARGET = replace(load_target("x86-local"), threads=1)
SETTINGS = TuningSettings(epochs=2, batch=32, learning_rate=0.001)  # at higher ones so few steps make it no better
CHOICE = parse_choice("block4x1@0.9")


@pytest.fixture(scope="module", autouse=True)
def times() -> Iterator[None]:
    with times_by_weight():
        yield


@pytest.fixture(scope="module")
def module() -> Wide:
    return wide()


@pytest.fixture(scope="module")
def model(module: Wide) -> Model:
    return import_torch(module, (torch.zeros(1, 4, 8, 8),), name="wide")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return pictures(200, 5)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    directory = tmp_path_factory.mktemp("job")
    return Workspace(directory / "out", directory / "records.sqlite")


@pytest.fixture(scope="module")
def outcome(module: Wide, model: Model, data: Dataset, workspace: Workspace) -> Outcome:
    plan = Plan.of(model.digest, {"second": CHOICE})
    return recover(module, model, plan, data, TARGET, SETTINGS, workspace, training=pictures(96, 6))


def test_what_ships_is_what_was_trained(outcome: Outcome, model: Model, data: Dataset) -> None:
    (finalist,) = outcome.finalists
    artifact = Artifact.load(finalist.artifact.directory)
    assert str(artifact.manifest.plan.choice("second")) == "block4x1@0.9"
    weights = outcome.weights(finalist.plan)
    assert np.mean(weights["second"] == 0) == pytest.approx(0.9, abs=0.01)
    library = Library.load(artifact.directory, 1)
    for row in range(3):
        inputs = {"image": np.ascontiguousarray(data.inputs["image"][row : row + 1])}
        for name, expected in onnxruntime_answers(model, weights, inputs).items():
            assert relative_error(library.run(inputs)[name], expected) < 1e-4


def test_it_is_judged_against_the_dense_module_on_held_out_data(outcome: Outcome, model: Model, data: Dataset) -> None:
    judges = appoint_judges(model, data, TARGET, SETTINGS.seed)
    (finalist,) = outcome.finalists
    assert finalist.quality == judges.reporting.evaluate(outcome.weights(finalist.plan))
    assert outcome.baselines.quality == judges.reporting.evaluate({})
    found = outcome.recovery
    assert found is not None and found.one_shot.split == "held-out"
    assert [epoch.number for epoch in found.epochs] == [0, 1, 2]
    best = max(found.epochs, key=lambda epoch: epoch.quality)
    assert found.best == best
    chosen = judges.choosing.evaluate(outcome.weights(finalist.plan)).value
    assert chosen == pytest.approx(best.quality) if found.taken else chosen >= best.quality


def test_weights_that_training_made_no_better_do_not_ship(
    module: Wide, model: Model, data: Dataset, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruined = copy.deepcopy(module)
    with torch.no_grad():
        ruined.last.weight.zero_()
    epochs = (Epoch(0, None, 0.9, 0.9), Epoch(1, 0.1, 1.0, 0.9))
    monkeypatch.setattr(school, "tune", lambda *given, **more: Tuned(ruined, epochs, epochs[1]))
    own = Workspace(tmp_path / "out", workspace.records)
    found = recover(module, model, Plan.of(model.digest, {"second": CHOICE}), data, TARGET, SETTINGS, own, rivals=False)
    assert found.recovery is not None and not found.recovery.taken
    (finalist,) = found.finalists
    assert finalist.quality == found.recovery.one_shot
    assert np.any(found.weights(finalist.plan)["second"]) and "last" not in found.weights(Plan(model.digest))
    report = front_report(found, "pictures")
    tuned = next(point for point in report.points if point.label == "tuned")
    assert found.rivals is None and tuned.budget == Budget(found.recovery.samples, SETTINGS.epochs)
    assert tuned.method is not None and "trained" not in tuned.method.name
    assert any("which made it no better" in note for note in report.notes)


def test_a_training_that_never_gets_better_than_its_start_does_not_count(
    module: Wide, model: Model, data: Dataset, workspace: Workspace, tmp_path: Path
) -> None:
    """Rates so low that every epoch is as good as the start, and neither the plan nor what it is held to is trained."""
    settings = replace(SETTINGS, learning_rate=1e-12)
    own = Workspace(tmp_path / "out", workspace.records)
    plan = Plan.of(model.digest, {"second": CHOICE})
    found = recover(module, model, plan, data, TARGET, settings, own, training=pictures(96, 6))
    assert found.recovery is not None and not found.recovery.taken
    assert found.recovery.best.number == 0 and len({epoch.quality for epoch in found.recovery.epochs}) == 1
    (finalist,), rivals = found.finalists, found.rivals
    assert finalist.quality == found.recovery.one_shot
    judges = appoint_judges(model, data, TARGET, settings.seed)
    database = layer_database(workspace, model, judges, TARGET, settings.seed)
    start = CorrectedWeights(database, model, judges, TARGET.cores, settings.seed)
    for asked in (finalist.plan, unstructured_plan(finalist.plan, found.weights(finalist.plan))):
        np.testing.assert_array_equal(found.weights(asked)["second"], start(asked)["second"])
    assert rivals is not None and isinstance(rivals.small_dense, SmallDense) and not rivals.small_dense.trained
    report = front_report(found, "pictures")
    methods = {point.label: point.method.name for point in report.points if point.method is not None}
    assert not any("trained under" in name or "then trained" in name for name in methods.values())
    assert any("which made it no better" in note for note in report.notes)


def test_int8_layers_are_trained_and_ship_as_bytes(
    module: Wide, model: Model, data: Dataset, workspace: Workspace, tmp_path: Path
) -> None:
    own = Workspace(tmp_path / "out", workspace.records)
    plan = Plan.of(model.digest, {"second": parse_choice("block4x4@0.75/int8")})
    found = recover(module, model, plan, data, TARGET, SETTINGS, own, training=pictures(96, 6), rivals=False)
    (finalist,) = found.finalists
    shipped = found.weights(finalist.plan)
    assert finalist.plan.in_bytes == {"second"} and any(each.startswith(range_name("")) for each in shipped)
    np.testing.assert_allclose(rounded(shipped["second"]), shipped["second"], rtol=1e-5, atol=1e-7)
    assert finalist.quality is not None and found.recovery is not None and len(found.recovery.epochs) == 3


def test_a_report_says_what_training_took(outcome: Outcome) -> None:
    report = front_report(outcome, "pictures")
    assert parse_report(report.text) == report
    # The dense network was its teacher, and is as it was.
    assert "budgets" in {finding.rule for finding in audit([report]).findings}
    tuned = next(point for point in report.points if point.label == "tuned")
    assert tuned.budget == Budget(96, 2)
    assert tuned.method is not None and "trained under the mask" in tuned.method.name
    assert any("In one shot the plan lost" in note for note in report.notes)


def test_what_it_is_held_to_was_trained_alike(
    outcome: Outcome, module: Wide, model: Model, data: Dataset, workspace: Workspace
) -> None:
    """The ceiling is what the same settings make of zeros that may lie anywhere."""
    rivals = outcome.rivals
    assert rivals is not None and rivals.of == "tuned"
    (finalist,) = outcome.finalists
    judges = appoint_judges(model, data, TARGET, SETTINGS.seed)
    loose = unstructured_plan(finalist.plan, outcome.weights(finalist.plan))
    weights = outcome.weights(loose)
    assert rivals.ceiling == judges.reporting.evaluate(weights)
    # Trained from what it was in one shot, as far as that makes it better.
    database = layer_database(workspace, model, judges, TARGET, SETTINGS.seed)
    start = CorrectedWeights(database, model, judges, TARGET.cores, SETTINGS.seed)(loose)
    trained = tune(
        module, model, loose, pictures(96, 6), judges.choosing.dataset, SETTINGS, start=start
    ).module  # fmt: skip
    changed = model.changes_to(school.imported(trained, model, judges.sample))
    better = judges.choosing.evaluate(changed).value > judges.choosing.evaluate(start).value
    np.testing.assert_allclose(weights["second"], (changed if better else start)["second"], rtol=1e-3, atol=1e-5)
    assert np.mean(weights["second"] == 0) == pytest.approx(0.9, abs=0.01)
    report = front_report(outcome, "pictures")
    (note,) = (note for note in report.notes if note.startswith("By the same settings were trained"))
    assert "unstructured ceiling" in note and "small dense network" in note
    assert isinstance(small := rivals.small_dense, SmallDense)
    assert small.quality == judges.reporting.evaluate_other(small.model)
    (point,) = (point for point in report.points if point.kind == "small-dense")
    assert point.budget == Budget(96, 2) and point.method is not None
    assert point.method.name.endswith("then trained") == small.trained
    without = front_report(replace(outcome, rivals=replace(rivals, small_dense="no channel can go")), "pictures")
    (note,) = (note for note in without.notes if note.startswith("By the same settings were trained"))
    assert "small dense network" not in note


def test_what_zeros_that_grow_are_held_to_grows_too(
    module: Wide, model: Model, data: Dataset, workspace: Workspace, tmp_path: Path
) -> None:
    stages: set[str] = set()
    found = recover(
        module, model, Plan.of(model.digest, {"second": CHOICE}), data, TARGET, replace(SETTINGS, gradual=True),
        Workspace(tmp_path / "out", workspace.records), training=pictures(96, 6),
        on_progress=lambda stage, done, total, known: stages.add(stage),
    )  # fmt: skip
    (finalist,), rivals = found.finalists, found.rivals
    assert found.recovery is not None and found.recovery.taken
    assert rivals is not None and isinstance(rivals.ceiling, QualityReport)
    assert {"training", "training ceiling"} <= stages
    loose = found.weights(unstructured_plan(finalist.plan, found.weights(finalist.plan)))["second"]
    assert np.mean(loose == 0) == pytest.approx(0.9, abs=0.01)
    rows = loose.reshape(-1, 4, loose[0].size)
    assert np.any((rows == 0).any(axis=1) & (rows != 0).any(axis=1))  # zeros lie anywhere, not in blocks of 4 rows


@pytest.mark.parametrize("make", [wide, separable])
def test_a_narrower_network_is_trained_as_a_part_of_the_module(
    make: Callable[[], nn.Module], data: Dataset, tmp_path: Path
) -> None:
    module = make()
    model = import_torch(module, (torch.zeros(1, 4, 8, 8),), name="whole")
    judges = appoint_judges(model, data, TARGET, SETTINGS.seed)
    narrower = Narrower(model, judges.fitting)
    narrow = narrower.narrow(0.1)
    stages, settings = set(), replace(SETTINGS, learning_rate=0.002)
    lessons = School(
        module, model, pictures(960, 6), judges, settings, tmp_path, "cpu", lambda stage, *steps: stages.add(stage)
    )  # fmt: skip
    trained = lessons.narrowed(narrower, 0.1, narrow)
    assert [layer.weight_shape for layer in trained.layers] == [layer.weight_shape for layer in narrow.layers]
    before, after = (judges.choosing.evaluate_other(each).value for each in (narrow, trained))
    assert trained.digest != narrow.digest and after > before
    assert stages == {"training small dense"}


def test_what_a_narrower_network_cannot_be_is_said(
    module: Wide, model: Model, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges = appoint_judges(model, data, TARGET, SETTINGS.seed)
    narrower = Narrower(model, judges.fitting)
    lessons = School(module, model, data, judges, SETTINGS, tmp_path, "cpu", lambda stage, *steps: None)
    monkeypatch.setattr(Narrower, "widened", lambda *given: {"second": np.zeros((96, 96, 3, 3), np.float32)})
    with pytest.raises(ModelError, match="something else with zeros for channels"):
        lessons.narrowed(narrower, 0.5, narrower.narrow(0.5))
    assert not list(tmp_path.iterdir())


class Stop(Exception):
    pass


def test_a_stopped_training_goes_on(
    outcome: Outcome, module: Wide, model: Model, data: Dataset, workspace: Workspace, tmp_path: Path
) -> None:
    plan, own = Plan.of(model.digest, {"second": CHOICE}), Workspace(tmp_path / "out", workspace.records)
    trained, seen = pictures(96, 6), []

    def stop(epoch: Epoch) -> None:
        if epoch.number == 1:
            raise Stop

    with pytest.raises(Stop):
        recover(module, model, plan, data, TARGET, SETTINGS, own, training=trained, on_epoch=stop)
    assert not own.artifacts.exists()
    again = recover(
        module,
        model,
        plan,
        data,
        TARGET,
        SETTINGS,
        own,
        training=trained,
        rivals=False,
        on_epoch=lambda e: seen.append(e.number),
    )
    assert seen == [2]
    for name, values in outcome.weights(plan).items():
        np.testing.assert_array_equal(again.weights(plan)[name], values)
    with pytest.raises(TuningError, match="with training data"):
        recover(module, model, plan, data, TARGET, SETTINGS, own, training=pictures(96, 7))
    other = replace(SETTINGS, epochs=1)  # a training of its own, beside the first
    recover(module, model, plan, data, TARGET, other, own, training=trained, rivals=False)
    assert len(list(own.directory.glob("training-*"))) == 2


def test_a_stopped_small_dense_network_goes_on_with_its_share(
    outcome: Outcome, module: Wide, model: Model, data: Dataset, workspace: Workspace, tmp_path: Path
) -> None:
    """Also where timings, made anew, would have found another."""
    plan, own = Plan.of(model.digest, {"second": CHOICE}), Workspace(tmp_path / "out", workspace.records)

    def stop(stage: str, done: int, total: int, known: object) -> None:
        if stage == "training small dense" and done == 3:  # the first epoch is kept
            raise Stop

    def go_on(on_progress: OnProgress) -> Outcome:
        return recover(
            module, model, plan, data, TARGET, SETTINGS, own, training=pictures(96, 6), on_progress=on_progress
        )  # fmt: skip

    with pytest.raises(Stop):
        go_on(stop)
    kept = set(own.directory.glob("training-*"))
    first = list[tuple[int, int]]()
    with times_by_weight(small_dense_takes=1.02):
        again = go_on(lambda stage, *steps: first.append(steps[:2]) if stage == "training small dense" else None)
    assert first[0][0] == 3
    assert len(kept) == 2 and len(set(own.directory.glob("training-*")) - kept) == 1  # the ceiling's
    assert again.rivals is not None and outcome.rivals is not None
    small, straight = again.rivals.small_dense, outcome.rivals.small_dense
    assert isinstance(small, SmallDense) and isinstance(straight, SmallDense)
    assert (small.keep, small.model.digest) == (straight.keep, straight.model.digest)


def test_without_data_of_its_own_training_takes_most_of_what_there_is(
    module: Wide, model: Model, data: Dataset, workspace: Workspace, tmp_path: Path
) -> None:
    plan = Plan.of(model.digest, {"second": CHOICE})
    own = Workspace(tmp_path / "out", workspace.records)
    images = data.inputs["image"]
    corrupted = [data.under("faint", {"image": images / 8}), data.under("back to front", {"image": images[..., ::-1]})]
    found = recover(
        module, model, plan, data, TARGET, replace(SETTINGS, epochs=1), own, rivals=False, corrupted=iter(corrupted)
    )
    assert found.baselines.quality is not None and found.baselines.quality.samples == 20
    # Judged under corruption on the same samples: of none of them anything was trained on.
    judges = appoint_judges(model, data.split(TRAINING_SHARE, SETTINGS.seed)[1], TARGET, SETTINGS.seed)
    held_out = judges.reporting.dataset
    same = [
        Evaluator(model, held_out.under(name, {"image": change(held_out.inputs["image"])}), "held-out")
        for name, change in (("faint", lambda x: x / 8), ("back to front", lambda x: x[..., ::-1]))
    ]
    (finalist,) = found.finalists
    for robustness, weights in (
        (found.baselines.robustness, {}),
        (finalist.robustness, found.weights(finalist.plan)),
    ):
        assert robustness is not None
        assert robustness.value == pytest.approx(np.mean([each.evaluate(weights).value for each in same]))
    report = front_report(found, "pictures")
    assert next(point for point in report.points if point.label == "tuned").robustness == finalist.robustness.value
    other = data.under("relabelled", {"image": images})
    wrong = replace(other, labels=np.roll(data.labels, 1))
    with pytest.raises(DataError, match="has other labels than 'pictures'"):
        recover(module, model, plan, data, TARGET, SETTINGS, own, rivals=False, corrupted=[wrong])


def test_what_pays_nowhere_is_not_trained(
    module: Wide, model: Model, data: Dataset, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Workspace(tmp_path / "out", workspace.records)
    monkeypatch.setattr(CostModel, "pays", lambda *arguments: False)
    with pytest.raises(UnsupportedError, match=r"runs no layer of wide faster as asked; layer 'second': not faster"):
        recover(module, model, Plan.of(model.digest, {"second": CHOICE}), data, TARGET, SETTINGS, own)
    assert not list(own.directory.glob("training-*"))


def test_what_does_not_belong_together_is_refused(
    module: Wide, model: Model, data: Dataset, workspace: Workspace
) -> None:
    plan = Plan.of(model.digest, {"second": CHOICE})
    with pytest.raises(UnsupportedError, match="2:8"):
        recover(module, model, uniform_plan(model, parse_choice("2:8")), data, TARGET, SETTINGS, workspace)
    in_bytes = Plan.of(model.digest, {"second": parse_choice("dense/int8")})
    with pytest.raises(TuningError, match="zeros cannot grow in int8 layers"):
        recover(module, model, in_bytes, data, TARGET, replace(SETTINGS, gradual=True), workspace)
    with pytest.raises(PlanError, match="not for wide"):
        recover(module, model, Plan.of("0" * 64, {"second": CHOICE}), data, TARGET, SETTINGS, workspace)
    with pytest.raises(DataError, match="at least 6"):
        recover(module, model, plan, data.subset(range(4)), TARGET, SETTINGS, workspace, training=pictures(64, 1))
    with pytest.raises(DataError, match="at least 30"):
        recover(module, model, plan, data.subset(range(24)), TARGET, SETTINGS, workspace)
    with pytest.raises(DataError, match="40 samples of 'pictures' are in the training data"):
        recover(module, model, plan, data, TARGET, SETTINGS, workspace, training=data.subset(range(40)))
