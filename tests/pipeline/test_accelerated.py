"""A search for a simulated accelerator, with times that are given: its artifacts run like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwsparse.codegen import Library
from hwsparse.compiler import onnxruntime_answers
from hwsparse.data import Dataset
from hwsparse.errors import UnsupportedError
from hwsparse.pipeline import Goal, Workspace, optimize
from hwsparse.pipeline.figures import front_report
from hwsparse.plan import Choice
from hwsparse.target import load_target
from tests.pipeline.benches import times_by_weight
from tests.sparsify.test_quality import classifier

TARGET = load_target("fpga-sim")
MODEL = classifier()
GOAL = Goal(trials=2, max_drop=1.0, finalists=1, patterns=("unstructured",), ratios=(0.9,), dtypes=("int8",))


@pytest.fixture(scope="module")
def data() -> Dataset:
    x = np.random.default_rng(1).standard_normal((40, 16, 12, 12)).astype(np.float32)
    return Dataset("own", {"x": x}, np.arange(40) % 2)


def test_a_search_ends_in_simulated_artifacts(data: Dataset, tmp_path: Path) -> None:
    with times_by_weight():
        outcome = optimize(MODEL, data, TARGET, GOAL, Workspace(tmp_path / "out", tmp_path / "r.db"))
    report = front_report(outcome, "own")
    assert {point.latency_source for point in report.points} == {"simulated", "predicted"}
    # There is no onnxruntime on it.
    assert outcome.baselines.onnxruntime is None and all(point.kind != "external" for point in report.points)
    (dense,) = (finalist for finalist in outcome.finalists if finalist.label == "dense int8")
    assert dict(dense.plan.choices) == {layer.name: Choice(dtype="int8") for layer in MODEL.layers}
    for finalist in outcome.finalists:
        library = Library.load(finalist.artifact.directory, 1)
        inputs = {"x": data.inputs["x"][:1]}
        (expected,) = onnxruntime_answers(MODEL, outcome.weights(finalist.plan), inputs).values()
        (found,) = library.run(inputs).values()
        assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()
        accelerated = library.accelerated
        chosen = {name for name, _ in finalist.plan.choices}
        assert accelerated is not None and accelerated.programs.keys() == chosen
    assert any("array" in proof.kernel for proof in outcome.finalists[0].artifact.manifest.layers)


def test_a_pipelined_accelerator_is_not_searched_for(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="fpga-sim is pipelined, and searches go by the sum of layers' times"):
        optimize(MODEL, data, replace(TARGET, pipelined=True), GOAL, Workspace(tmp_path / "out", tmp_path / "r.db"))


def test_types_are_the_accelerators_own_unless_others_are_asked_for() -> None:
    assert TARGET.usual_dtypes == ("int8",) and load_target("x86-avx2").usual_dtypes == ("float32",)
    assert TARGET.supports(Choice()) and not TARGET.supports(Choice(dtype="float16"))
