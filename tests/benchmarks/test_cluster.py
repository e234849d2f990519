"""The cluster benchmark, with processes of this machine as its workers."""

from __future__ import annotations

from benchmarks.cluster import Run, lost_plans, search
from hwsparse.execution import open_workers
from hwsparse.plan import Plan
from hwsparse.sparsify import Evaluator, apply_plan
from tests.sparsify.networks import classifier, images

MODEL = classifier()


def test_a_worker_that_is_killed_loses_no_plan() -> None:
    evaluator = Evaluator(MODEL, images(400), "held-out")
    with open_workers(processes=2) as workers:
        sound = search(workers, MODEL, evaluator, 12, 0)
        killed = search(workers, MODEL, evaluator, 12, 0, kill_after=4)
    assert sound.trials == killed.trials == 12
    assert killed.begun in (sound.begun, sound.begun + 1)
    assert sound.qualities == {
        text: evaluator.evaluate(apply_plan(MODEL, Plan.from_json(text))).value for text in sound.qualities
    }
    assert not lost_plans(killed, sound)


def test_plans_that_are_missing_or_differ_are_lost() -> None:
    sound = Run(1.0, {"a": 0.5, "b": 0.6, "c": 0.7}, 3, 3)
    assert lost_plans(Run(1.0, {"a": 0.5, "c": 0.8}, 2, 2), sound) == {"b", "c"}
