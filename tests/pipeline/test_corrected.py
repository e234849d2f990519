"""Which weights of a plan are built: corrected ones where they are better, by whoever corrects them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwsparse.compiler import onnxruntime_answers
from hwsparse.data import Dataset
from hwsparse.errors import PlanError
from hwsparse.execution import Here, open_workers
from hwsparse.pipeline import corrected
from hwsparse.pipeline.compilation import Workspace, layer_database
from hwsparse.pipeline.corrected import CorrectedWeights
from hwsparse.pipeline.judges import Judges, appoint_judges
from hwsparse.plan import Plan, parse_choice
from hwsparse.quantise import range_name, rounded
from hwsparse.sparsify import LayerDatabase
from hwsparse.target import load_target
from tests.sparsify.test_quality import classifier

TARGET = load_target("x86-avx2")
MODEL = classifier()
CHOICES = [parse_choice(text) for text in ("unstructured@0.9", "unstructured@0.5", "unstructured@0.9/int8")]
PLAN, OTHER, IN_BYTES = (Plan.of(MODEL.digest, {"head": choice}) for choice in CHOICES)


@pytest.fixture
def judges() -> Judges:
    x = np.random.default_rng(1).standard_normal((60, 16, 12, 12)).astype(np.float32)
    labels = [int(onnxruntime_answers(MODEL, {}, {"x": each[None]})["y"].argmax()) for each in x]
    return appoint_judges(MODEL, Dataset("own", {"x": x}, np.array(labels)), TARGET, 0)


@pytest.fixture
def database(judges: Judges, tmp_path: Path) -> LayerDatabase:
    found = layer_database(Workspace(tmp_path, tmp_path / "records.sqlite"), MODEL, judges, TARGET, 0)
    found.build({"head": CHOICES})
    return found


@pytest.mark.parametrize("factor", [np.inf, 0.0])
def test_a_correction_that_makes_it_worse_is_left_out(
    judges: Judges, database: LayerDatabase, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    """Of no use are answers that are not finite, and those that are all alike."""

    def ruined(*given: object, **more: object) -> dict[str, np.ndarray]:
        weights = database.weights(PLAN)
        return {name: np.where(each != 0, np.float32(factor), np.float32(0)) for name, each in weights.items()}

    monkeypatch.setattr(corrected, "correct", ruined)
    corrections = CorrectedWeights(database, MODEL, judges, 1, 0)
    np.testing.assert_array_equal(corrections(PLAN)["head"], database.weights(PLAN)["head"])
    assert corrections.worth(PLAN) == judges.choosing.evaluate(database.weights(PLAN))


def test_a_correction_that_makes_it_better_is_taken(
    judges: Judges, database: LayerDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = {"head": MODEL.weight("head")}
    worse = judges.choosing.evaluate(database.weights(PLAN)).value
    assert judges.choosing.evaluate(dense).value > worse
    monkeypatch.setattr(corrected, "correct", lambda *given, **more: dense)
    corrections = CorrectedWeights(database, MODEL, judges, 1, 0)
    assert corrections(PLAN) is dense
    assert corrections.worth(PLAN) == judges.choosing.evaluate(dense)


def test_what_a_plan_is_worth_uncorrected_is_not_asked_again(
    judges: Judges, database: LayerDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corrected, "correct", lambda *given, **more: {"head": MODEL.weight("head")})
    for worth, better in ((0.0, True), (2.0, False)):
        corrections = CorrectedWeights(database, MODEL, judges, 1, 0)
        corrections.begin([PLAN], Here(), {PLAN: worth, OTHER: 0.5})
        assert np.array_equal(corrections(PLAN)["head"], MODEL.weight("head")) == better


def test_workers_find_the_weights_that_this_process_does(
    judges: Judges, database: LayerDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after they have gone; what is int8 is what bytes stand for, and its range comes with it."""
    here, ahead = (CorrectedWeights(database, MODEL, judges, 1, 0) for _ in range(2))
    with open_workers(processes=2) as workers, monkeypatch.context() as patch:
        ahead.begin([PLAN, IN_BYTES, PLAN], workers)
        patch.setattr(corrected, "correct", None)  # nothing is left to do here
        ahead(IN_BYTES)
        kept = ahead(PLAN)
    assert ahead(PLAN) is kept
    for plan in (PLAN, IN_BYTES, OTHER):
        found, expected = ahead(plan), here(plan)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(rounded(ahead(IN_BYTES)["head"]), ahead(IN_BYTES)["head"], rtol=1e-5, atol=1e-7)
    assert ahead(IN_BYTES).keys() - ahead(PLAN).keys() == {range_name("f")}


def test_a_plan_whose_layers_are_not_there(judges: Judges, database: LayerDatabase) -> None:
    weights = CorrectedWeights(database, MODEL, judges, 1, 0)
    absent = Plan.of(MODEL.digest, {"head": parse_choice("unstructured@0.7")})
    with pytest.raises(PlanError, match="was not built"):
        weights(absent)
    with open_workers(processes=1) as workers, pytest.raises(PlanError, match="was not built"):
        weights.begin([absent], workers)
