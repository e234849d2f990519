from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwsparse.data import Dataset
from hwsparse.model import Model
from hwsparse.pipeline.ceiling import find_ceiling, unstructured_plan
from hwsparse.pipeline.judges import Judges, appoint_judges
from hwsparse.plan import Plan, parse_choice
from hwsparse.sparsify import LayerDatabase, apply_plan
from hwsparse.target import load_target
from tests.sparsify.test_quality import classifier

TARGET = load_target("x86-avx2")


def plan_of(model: Model, **texts: str) -> Plan:
    return Plan.of(model.digest, {name: parse_choice(text) for name, text in texts.items()})


def loose(model: Model, **texts: str) -> Plan:
    plan = plan_of(model, **texts)
    return unstructured_plan(plan, apply_plan(model, plan))


def test_the_pattern_goes_and_the_ratio_stays() -> None:
    model = classifier()
    assert loose(model, conv="block4x1@0.9", head="2:4") == plan_of(
        model, conv="unstructured@0.9", head="unstructured@0.5"
    )
    assert loose(model, conv="unstructured@0.7") == plan_of(model, conv="unstructured@0.7")
    assert loose(model) == Plan(model.digest)


def test_the_ratio_is_that_of_the_weights_where_the_one_asked_for_could_not_be_had() -> None:
    model = classifier(24)  # of 24 channels a multiple of 8 is kept
    (name, choice), *_ = loose(model, conv="channel@0.5").choices
    weight = apply_plan(model, plan_of(model, conv="channel@0.5"))["conv"]
    assert (name, choice.ratio) == ("conv", pytest.approx(1 - np.count_nonzero(weight) / weight.size, abs=1e-6))
    assert choice.ratio != 0.5


@pytest.fixture
def judges() -> Judges:
    model = classifier()
    x = np.random.default_rng(1).standard_normal((60, 16, 12, 12)).astype(np.float32)
    return appoint_judges(model, Dataset("own", {"x": x}, np.arange(60) % 4), TARGET, 0)


def test_it_is_pruned_like_every_plan_and_judged_on_held_out_data(judges: Judges, tmp_path: Path) -> None:
    model = classifier()
    database = LayerDatabase(tmp_path, model, judges.fitting, pruner="regroup")
    plan, steps = plan_of(model, conv="block4x1@0.8"), list[tuple[int, int]]()
    database.build({"conv": [parse_choice("block4x1@0.8")]})
    found = find_ceiling(plan, database, database.weights, judges, lambda done, total: steps.append((done, total)))
    assert found == judges.reporting.evaluate(database.weights(plan_of(model, conv="unstructured@0.8")))
    assert found.split == "held-out"
    assert (steps[0], steps[-1]) == ((0, 1), (1, 1))
    steps.clear()
    assert (
        find_ceiling(plan, database, database.weights, judges, lambda done, total: steps.append((done, total))) == found
    )
    assert steps == [(0, 1), (1, 1)]  # nothing was built again


def test_what_is_unstructured_is_its_own_ceiling(judges: Judges, tmp_path: Path) -> None:
    model = classifier()
    database = LayerDatabase(tmp_path, model, judges.fitting, pruner="regroup")
    plan = plan_of(model, head="unstructured@0.5")
    database.build({"head": [parse_choice("unstructured@0.5")]})
    own = judges.reporting.evaluate(database.weights(plan))
    assert find_ceiling(plan, database, database.weights, judges, lambda done, total: None) == own


def test_answers_that_are_not_finite_are_no_ceiling_and_said(judges: Judges, tmp_path: Path) -> None:
    model = classifier()
    database = LayerDatabase(tmp_path, model, judges.fitting, pruner="regroup")
    plan = plan_of(model, conv="unstructured@0.5")
    weight = apply_plan(model, plan)["conv"]

    def overflowing(plan: Plan) -> dict[str, np.ndarray]:
        return {"conv": np.where(weight != 0, np.float32(3e38), np.float32(0))}

    found = find_ceiling(plan, database, overflowing, judges, lambda done, total: None)
    assert isinstance(found, str) and "not finite" in found
