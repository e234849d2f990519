"""The whole job on a small network, timed for real: structure and truth are asserted, never speed."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import hwsparse.pipeline.bench
from hwsparse.artifact import Artifact
from hwsparse.codegen import Library, relative_error
from hwsparse.compiler import onnxruntime_answers
from hwsparse.data import Dataset, write_npz
from hwsparse.errors import ArtifactError, DataError, PlanError, UnsupportedError
from hwsparse.model import Model
from hwsparse.pipeline import Goal, Outcome, Workspace, compile_plan, front_report, optimize, uniform_plan
from hwsparse.plan import Plan, parse_choice
from hwsparse.report import parse_report
from hwsparse.search.study import read_candidates
from hwsparse.target import load_target
from tests.sparsify.test_quality import classifier

GOAL = Goal(trials=5, finalists=2, max_drop=0.2, patterns=("unstructured", "block4x1"), ratios=(0.5, 0.9))


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
def outcome(model: Model, data: Dataset, workspace: Workspace) -> Outcome:
    return optimize(model, data, TARGET, GOAL, workspace)


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
        check(artifact, outcome.model, outcome.weights(finalist.plan), data)


def check(artifact: Artifact, model: Model, weights: Mapping[str, np.ndarray], data: Dataset) -> None:
    library = Library.load(artifact.directory, 1)
    for row in range(3):
        inputs = {"x": np.ascontiguousarray(data.inputs["x"][row : row + 1])}
        expected = onnxruntime_answers(model, weights, inputs)
        assert relative_error(library.run(inputs)["y"], expected["y"]) < 1e-4


def test_a_winner_is_faster_than_dense_and_within_the_goal(outcome: Outcome) -> None:
    winner, baselines = outcome.winner, outcome.baselines
    if winner is not None:
        assert winner.latency.interval_s[1] < baselines.dense.interval_s[0]
        assert winner.chosen_by is not None and baselines.chosen_by is not None
        assert winner.chosen_by.value >= baselines.chosen_by.value - GOAL.max_drop - 1e-9
    assert baselines.quality is not None and baselines.quality.value == 1.0  # labels are the dense model's own


def test_the_front_can_be_looked_at_again(outcome: Outcome) -> None:
    report = front_report(outcome, "own")
    assert parse_report(report.text) == report
    assert {"dense", "onnxruntime"} <= {point.label for point in report.points}


def test_a_second_run_measures_and_tries_nothing_again(
    outcome: Outcome, model: Model, data: Dataset, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a layer was built again")

    monkeypatch.setattr(hwsparse.pipeline.bench, "build_layer", refuse)
    again = optimize(model, data, TARGET, GOAL, workspace)
    assert [c.plan for c in again.candidates] == [c.plan for c in outcome.candidates]


def test_one_plan_with_data_and_without(model: Model, data: Dataset, workspace: Workspace) -> None:
    plan = uniform_plan(model, parse_choice("block4x1@0.9"))
    assert [name for name, _ in plan.choices] == ["conv", "head"]
    plain = compile_plan(model, plan, TARGET, workspace).finalists[0]
    assert plain.artifact.manifest.quality is None
    judged = compile_plan(model, plan, TARGET, workspace, data).finalists[0]
    assert judged.artifact.manifest.quality is not None
    assert judged.asked == plan
    for proof in judged.artifact.manifest.layers:
        if proof.refused:
            assert "not faster on x86-local" in proof.refused and proof.shipped == "dense"


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
    with pytest.raises(DataError):
        optimize(model, Dataset("other", {"z": data.inputs["x"]}, data.labels), TARGET, GOAL, space)
    assert not list(tmp_path.iterdir())


def test_a_killed_search_goes_on_to_the_trials_asked_for(model: Model, data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(model.proto)
    write_npz(data, tmp_path / "data.npz")
    out, trials = tmp_path / "out", 12
    network, samples = str(tmp_path / "model.onnx"), str(tmp_path / "data.npz")
    command = [
        sys.executable, "-m", "hwsparse", "optimize", network, "--data", samples,
        "--out", str(out), "--records", str(tmp_path / "records.sqlite"), "--trials", str(trials), "--threads", "1",
        "--pattern", "unstructured", "--max-drop", "0.2",
    ]  # fmt: skip
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while finished(out / "study.sqlite") < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= finished(out / "study.sqlite") <= trials
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert finished(out / "study.sqlite") == trials
    assert read_candidates(out / "study.sqlite", "model on x86-local")
    assert (out / "front.html").exists() and (out / "front.png").exists()


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
