"""The cluster benchmark, with processes of this machine as its workers."""

from __future__ import annotations

from benchmarks.cluster import Run, evaluate, lost_plans, random_plans
from hwsparse.execution import open_workers
from hwsparse.sparsify import Evaluator, apply_plan
from tests.sparsify.networks import classifier, images

MODEL = classifier()


def test_plans_are_drawn_by_the_seed() -> None:
    assert random_plans(MODEL, 5, 1) == random_plans(MODEL, 5, 1) != random_plans(MODEL, 5, 2)
    assert all(plan.choices for plan in random_plans(MODEL, 5, 1))


def test_a_worker_that_is_killed_loses_no_plan() -> None:
    evaluator = Evaluator(MODEL, images(400), "held-out")
    plans = [apply_plan(MODEL, plan) for plan in random_plans(MODEL, 12, 0)]
    with open_workers(processes=2) as workers:
        sound = evaluate(workers, evaluator, plans)
        killed = evaluate(workers, evaluator, plans, kill_after=4)
    assert sound.begun == 12 and killed.begun in (12, 13)
    assert sound.qualities == {n: evaluator.evaluate(weights).value for n, weights in enumerate(plans)}
    assert not lost_plans(killed, sound)


def test_plans_that_are_missing_or_differ_are_lost() -> None:
    sound = Run(1.0, {0: 0.5, 1: 0.6, 2: 0.7}, 3)
    assert lost_plans(Run(1.0, {0: 0.5, 2: 0.8}, 2), sound) == {1, 2}
