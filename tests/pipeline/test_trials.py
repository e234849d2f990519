from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from hwsparse.errors import ModelError, PlanError
from hwsparse.execution import Here, Workers, open_workers
from hwsparse.pipeline.trials import evaluated_by
from hwsparse.plan import Plan, parse_choice
from hwsparse.search.evaluation import Hopeless
from hwsparse.sparsify import Evaluator, apply_plan
from tests.sparsify.networks import classifier, images

MODEL, DATA = classifier(), images(40)
PLANS = [Plan(MODEL.digest), *(Plan.of(MODEL.digest, {"last": parse_choice(f"unstructured@0.{n}")}) for n in (5, 9))]


@pytest.fixture(scope="module", params=["here", "processes"])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    if request.param == "here":
        yield Here()
        return
    with open_workers(processes=2) as workers:
        yield workers


def weights(plan: Plan) -> Mapping[str, np.ndarray]:
    return apply_plan(MODEL, plan)


def test_plans_are_worth_what_they_are_here(workers: Workers) -> None:
    evaluator = Evaluator(MODEL, DATA, "calibration", threads=2, seed=3)
    evaluate = evaluated_by(workers, evaluator, weights)
    futures = [evaluate(plan, -math.inf) for plan in PLANS]
    assert [future.result() for future in futures] == [evaluator.evaluate(weights(plan)) for plan in PLANS]


def test_weights_that_cannot_be_had_fail_the_trial_and_no_other(workers: Workers) -> None:
    def some(plan: Plan) -> Mapping[str, np.ndarray]:
        if plan.choices:
            raise PlanError("it was not built")
        return {}

    evaluate = evaluated_by(workers, Evaluator(MODEL, DATA, "calibration"), some)
    with pytest.raises(PlanError, match="it was not built"):
        evaluate(PLANS[1], 0.0).result()
    assert evaluate(PLANS[0], 0.0).result().drop == 0


def test_what_cannot_be_evaluated_fails_the_trial(workers: Workers) -> None:
    evaluate = evaluated_by(workers, Evaluator(MODEL, DATA, "calibration"), lambda plan: {"last": np.zeros((1, 1))})
    with pytest.raises(ModelError, match="shape"):
        evaluate(PLANS[1], 0.0).result()


def test_what_is_hopeless_is_given_up(workers: Workers) -> None:
    """By what is lost on a part of the samples."""
    evaluator = Evaluator(MODEL, images(160), "calibration", seed=3)
    evaluate = evaluated_by(workers, evaluator, lambda plan: {"last": np.zeros(MODEL.layer("last").weight_shape)})
    told = evaluate(PLANS[1], evaluator.evaluate({}).value + 1).result()
    assert isinstance(told, Hopeless)
    part = evaluator.evaluate({"last": np.zeros(MODEL.layer("last").weight_shape)}, 2.0)
    at_least = evaluator.evaluate({}).value + 1
    assert told == Hopeless(evaluator.evaluate({}).value - part.drop, 40, at_least)
