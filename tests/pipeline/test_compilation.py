"""Which weights of a plan are built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from hwsparse.compiler import onnxruntime_answers
from hwsparse.data import Dataset
from hwsparse.model import Model
from hwsparse.pipeline import compilation
from hwsparse.pipeline.compilation import Workspace, corrected_weights, layer_database
from hwsparse.pipeline.judges import Judges, appoint_judges
from hwsparse.plan import Plan, parse_choice
from hwsparse.sparsify import LayerDatabase
from hwsparse.target import load_target
from tests.sparsify.test_quality import classifier

TARGET = load_target("x86-avx2")
MODEL = classifier()
PLAN = Plan.of(MODEL.digest, {"head": parse_choice("unstructured@0.9")})


@pytest.fixture
def judges() -> Judges:
    x = np.random.default_rng(1).standard_normal((60, 16, 12, 12)).astype(np.float32)
    labels = [int(onnxruntime_answers(MODEL, {}, {"x": each[None]})["y"].argmax()) for each in x]
    return appoint_judges(MODEL, Dataset("own", {"x": x}, np.array(labels)), TARGET, 0)


@pytest.fixture
def database(judges: Judges, tmp_path: Path) -> LayerDatabase:
    found = layer_database(Workspace(tmp_path, tmp_path / "records.sqlite"), MODEL, judges, TARGET, 0)
    found.build({"head": [parse_choice("unstructured@0.9")]})
    return found


@pytest.mark.parametrize("factor", [np.inf, 0.0])
def test_a_correction_that_makes_it_worse_is_left_out(
    judges: Judges, database: LayerDatabase, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    """Of no use are answers that are not finite, and those that are all alike."""

    def ruined(
        model: Model, weights: Mapping[str, np.ndarray], *given: object, **more: object
    ) -> dict[str, np.ndarray]:
        return {name: np.where(each != 0, np.float32(factor), np.float32(0)) for name, each in weights.items()}

    monkeypatch.setattr(compilation, "correct", ruined)
    found = corrected_weights(database, MODEL, judges, TARGET, 0)(PLAN)
    np.testing.assert_array_equal(found["head"], database.weights(PLAN)["head"])


def test_a_correction_that_makes_it_better_is_taken(
    judges: Judges, database: LayerDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = {"head": MODEL.weight("head")}
    worse = judges.choosing.evaluate(database.weights(PLAN)).value
    assert judges.choosing.evaluate(dense).value > worse
    monkeypatch.setattr(compilation, "correct", lambda *given, **more: dense)
    assert corrected_weights(database, MODEL, judges, TARGET, 0)(PLAN) is dense
