"""Channels removed in the benchmark: who goes, which floors are asked for, and networks of which none can go."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

import numpy as np
import pytest
from rich.console import Console

from benchmarks.removal import (
    MAGNITUDE,
    MAGNITUDE_FITTED,
    OBS,
    OBS_FITTED,
    Removed,
    removal_floors,
    removal_table,
    remove,
)
from benchmarks.tasks import Task
from hwsparse.data import Dataset
from hwsparse.errors import DataError
from hwsparse.sparsify import Evaluator, Size, Sizes
from tests.sparsify.networks import classifier, images, product

METHODS = {MAGNITUDE, MAGNITUDE_FITTED, OBS, OBS_FITTED}


def evaluator(task: Task) -> Evaluator:
    return Evaluator(task.model, task.held_out, "held-out")


def test_a_share_that_keeps_as_many_channels_is_not_tried_again() -> None:
    task = Task(classifier(), images(20), images(30, seed=1))
    found = list(remove(task, evaluator(task), (1.0, 0.5, 0.49, 0.3), threads=1, seed=0, console=Console()))
    assert {each.method for each in found} == METHODS
    shares = [each.kept for each in found if each.method == OBS]
    assert shares[0] == 0.5 and 0.49 not in shares
    whole = Sizes(task.model).of_weights({})
    assert all(each.size.macs < whole.macs and each.size.parameters < whole.parameters for each in found)
    resamples = evaluator(task).resampled({}).shape
    assert all(each.values.shape == resamples for each in found)


def test_nothing_is_tried_where_no_channel_can_go() -> None:
    task = Task(
        product(np.eye(6, dtype=np.float32)), *[Dataset("x", {"x": np.eye(6, dtype=np.float32)}, np.arange(6))] * 2
    )
    assert list(remove(task, evaluator(task), (0.5,), threads=1, seed=0, console=Console())) == []


def test_a_narrower_network_without_finite_answers_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task, honest = Task(classifier(), images(20), images(30, seed=1)), Evaluator.resampled
    answers = count()

    def resampled(self: Evaluator, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        if next(answers) == 0:
            raise DataError("an answer is not finite")
        return honest(self, weights)

    monkeypatch.setattr(Evaluator, "resampled", resampled)
    found = list(remove(task, evaluator(task), (0.5,), threads=1, seed=0, console=Console()))
    assert {each.method for each in found} == METHODS - {MAGNITUDE}
    assert "classifier, magnitude, 50% kept is left out: an answer is not finite" in capsys.readouterr().out
    assert [floor.what for floor in removal_floors(found)] == [f"{OBS_FITTED} over {MAGNITUDE_FITTED}"]
    dense = np.ones_like(found[0].values)
    table = removal_table(task, dense, found)
    assert [str(cell) for cell in table.columns[0].cells] == ["50%"] and len(table.columns) == 2 + len(METHODS) - 1


@pytest.mark.parametrize(
    ("kept", "gain", "holds"),
    [
        (0.9, (0.1, -0.1, 0.3), None),  # too little is removed for anything to be asked
        (0.5, (0.1, -0.1, 0.3), True),
        (0.5, (-0.1, -0.3, 0.1), False),
        (0.3, (0.1, -0.1, 0.3), False),  # beyond doubt from here on
        (0.3, (0.2, 0.1, 0.3), True),
    ],
)
def test_what_is_asked_of_structured_obs(kept: float, gain: tuple[float, float, float], holds: bool | None) -> None:
    middle, low, high = gain
    better = 0.5 + np.array([middle, *np.linspace(low, high, 1001)])
    values = {OBS_FITTED: better} | dict.fromkeys(METHODS - {OBS_FITTED}, np.full(better.shape, 0.5))
    found = [Removed(method, kept, each, Size(1, 1)) for method, each in values.items()]
    asked, told = removal_floors(found)
    assert asked.holds is holds and told.holds is None
    assert asked.points[0] == pytest.approx(100 * middle)
