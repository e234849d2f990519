"""Searches for a board, over loopback: all of it is built, sent, run and checked for real, and takes given times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from hwsparse.artifact import Artifact
from hwsparse.codegen import Library, relative_error
from hwsparse.compiler import onnxruntime_answers
from hwsparse.data import Dataset
from hwsparse.errors import UnsupportedError
from hwsparse.latency import Address
from hwsparse.latency.cores import usable_cpus
from hwsparse.latency.presence import Presence
from hwsparse.pipeline import Goal, Outcome, SmallDense, Workspace, front_report, optimize
from hwsparse.report.audit import audit
from hwsparse.target import load_target
from tests.latency.boards import board, running_tracker
from tests.pipeline.benches import times_by_weight
from tests.sparsify.test_quality import classifier

GOAL = Goal(trials=2, finalists=1, max_drop=0.5, patterns=("block4x1",), ratios=(0.5,))
TARGET = replace(load_target("x86-local"), name="test-pi", runner="rpc", threads=1)
MODEL = classifier(64)


@pytest.fixture(scope="module")
def place() -> Iterator[Address]:
    """A board that pretends to be of the target."""
    with running_tracker() as tracker, board(tracker, key=TARGET.name):
        yield Address.parse(tracker, TARGET.name)


@pytest.fixture(scope="module")
def data() -> Dataset:
    x = np.random.default_rng(2).standard_normal((40, 16, 12, 12)).astype(np.float32)
    session = onnxruntime.InferenceSession(MODEL.proto, providers=["CPUExecutionProvider"])
    return Dataset("own", {"x": x}, np.array([session.run(None, {"x": row[None]})[0].argmax() for row in x]))


def refuse(*arguments: Any) -> Any:
    raise AssertionError("a library of a board's is loaded here")


@pytest.fixture(scope="module")
def outcome(place: Address, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    directory = tmp_path_factory.mktemp("job")
    with times_by_weight(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("hwsparse.compiler.Library.load", refuse)  # as if it were another machine's
        workspace = Workspace(directory / "out", directory / "records.sqlite")
        return optimize(MODEL, data, TARGET, GOAL, workspace, board=place)


def test_a_search_for_a_board_is_timed_there_and_judged_here(outcome: Outcome, data: Dataset) -> None:
    device = Presence.here(usable_cpus()).device
    assert outcome.winner is not None
    assert outcome.rivals is not None and isinstance(outcome.rivals.small_dense, SmallDense)
    timed = [outcome.baselines.dense, outcome.rivals.small_dense.latency, *(each.latency for each in outcome.finalists)]
    assert {taken.device for taken in timed} == {device}
    artifact = Artifact.load(outcome.winner.artifact.directory)
    assert artifact.manifest.target.name == TARGET.name
    library = Library.load(artifact.directory, 1)  # a board's code is this machine's here
    inputs = {"x": np.ascontiguousarray(data.inputs["x"][:1])}
    expected = onnxruntime_answers(MODEL, outcome.weights(outcome.winner.plan), inputs)
    assert relative_error(library.run(inputs)["y"], expected["y"]) < 1e-4
    assert outcome.winner.footprint is not None and outcome.winner.footprint.memory_bytes


def test_a_front_of_a_board_is_held_to_our_dense_network_and_says_so(outcome: Outcome) -> None:
    assert outcome.baselines.onnxruntime is None
    assert outcome.winner is not None
    assert Artifact.load(outcome.winner.artifact.directory).manifest.onnxruntime_latency is None
    report = front_report(outcome, "own")
    assert "external" not in {point.kind for point in report.points}
    assert any("There is no onnxruntime on it: speed is over the dense network of our own" in n for n in report.notes)
    assert "no runtime but ours" in {finding.what for finding in audit((report,)).findings}


def test_a_board_without_a_tracker_is_one_clear_error(data: Dataset, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "out", tmp_path / "r.db")
    with pytest.raises(UnsupportedError, match=r"test-pi is timed on a board: tell .* by --tracker HOST:PORT where"):
        optimize(MODEL, data, TARGET, GOAL, workspace)
    assert not (tmp_path / "out").exists()
