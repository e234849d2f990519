"""Layers trained as bytes: against numpy's bytes, gradients, and networks that onnxruntime runs on the same bytes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hwsparse.errors import DataError, ModelError, TuningError
from hwsparse.model import import_torch
from hwsparse.plan import Plan
from hwsparse.quantise import MOST_WEIGHT, Scale, range_name, rounded
from hwsparse.sparsify import Evaluator, apply_plan
from hwsparse.sparsify.ranges import as_bytes, ranges_on, rounded_weights
from hwsparse.tuning import TuningSettings
from hwsparse.tuning.rounding import begin_rounding, end_rounding, rounded_rows, rounded_values
from hwsparse.tuning.tune import tune
from tests.tuning.modules import classifier, pictures, plan_of

TRAIN, VALIDATION, HELD_OUT = pictures(192, 1), pictures(64, 2), pictures(400, 3)
SETTINGS = TuningSettings(epochs=3, batch=32, learning_rate=0.02)
SCALE = Scale.of(-1.0, 3.0)


@given(st.integers(0, 999), st.floats(0, 4), st.floats(0.01, 4))
def test_values_and_weights_are_what_bytes_stand_for(seed: int, below: float, above: float) -> None:
    rng = np.random.default_rng(seed)
    scale = Scale.of(-below, above)
    values, weight = (3 * rng.standard_normal(shape).astype(np.float32) for shape in ((5, 7), (4, 3, 2)))
    weight[rng.random(weight.shape) < 0.3] = 0
    expected = scale.scale * (scale.bytes_of(values).astype(np.float64) - scale.zero)
    np.testing.assert_allclose(rounded_values(torch.from_numpy(values), scale).numpy(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(rounded_rows(torch.from_numpy(weight)).numpy(), rounded(weight), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ulps", [-1, 0, 1])
def test_rows_too_small_for_a_step_are_told_from_others_as_they_are_in_numpy(ulps: int) -> None:
    """Where the step is the least that there is of full precision, or next to it."""
    least = np.finfo(np.float32).tiny
    step = least + ulps * np.float32(1e-45)
    weight = np.array([[MOST_WEIGHT * step, 3.2 * step]], np.float32)
    assert weight[0, 0] / np.float32(MOST_WEIGHT) == step
    np.testing.assert_array_equal(rounded_rows(torch.from_numpy(weight)).numpy(), rounded(weight))
    assert rounded(weight).any() == (ulps >= 0)


def test_gradients_are_those_of_what_was_not_rounded_but_for_values_beyond_the_last_byte() -> None:
    values = torch.tensor([-2.0, -0.5, 0.3, 2.9, 3.5], requires_grad=True)
    rounded_values(values, SCALE).sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None and values.grad.tolist() == [0, 1, 1, 1, 0]
    weight = torch.tensor([[0.3, -1.7], [0.0, 0.0]], requires_grad=True)
    rounded_rows(weight).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None and weight.grad.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("kind", [lambda: nn.Conv1d(3, 4, 2), lambda: nn.Conv2d(3, 4, 2), lambda: nn.Linear(6, 4)])
def test_a_layer_rounds_until_it_is_told_to_end(kind: Callable[[], nn.Module]) -> None:
    module = nn.Sequential(kind())
    shape = {nn.Conv1d: (2, 3, 6), nn.Conv2d: (2, 3, 5, 6), nn.Linear: (2, 6)}[type(module[0])]
    x = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    plain, other = module(x), copy.deepcopy(module)
    with torch.no_grad():
        other[0].weight.copy_(rounded_rows(module[0].weight))
    begin_rounding(module, {"0": SCALE})
    expected = other(rounded_values(x, SCALE))
    for each in (module, copy.deepcopy(module)):
        torch.testing.assert_close(each(x), expected)
    assert not torch.equal(expected, plain)
    assert module.state_dict().keys() == other.state_dict().keys()
    end_rounding(module)
    assert torch.equal(module(x), plain) and type(module[0]) is type(other[0])


def start_of(plan: Plan) -> dict[str, np.ndarray]:
    _, model = classifier()
    return as_bytes(model, plan, apply_plan(model, plan), ranges_on(model, TRAIN))


def test_an_int8_network_recovers_what_pruning_lost() -> None:
    """What torch judged of it is what onnxruntime answers on bytes; zeros stay."""
    module, model = classifier()
    plan = plan_of(model, "block4x4@0.75/int8", "first", "second")
    start = start_of(plan)
    settings = TuningSettings(epochs=6, batch=32, learning_rate=0.05)
    found = tune(module, model, plan, TRAIN, VALIDATION, settings, start=start)
    assert type(found.module.first) is nn.Conv2d
    changed = model.changes_to(import_torch(found.module, (torch.zeros(1, 4, 8, 8),), name=model.name))
    ranges = {name: values for name, values in start.items() if name.startswith(range_name(""))}
    weights = rounded_weights(model, plan, changed) | ranges
    held_out, validation = Evaluator(model, HELD_OUT, "held-out"), Evaluator(model, VALIDATION, "validation")
    lost = held_out.evaluate(start).drop
    assert lost > 0.1 and held_out.evaluate(weights).drop < 0.7 * lost
    assert validation.evaluate(weights).value == pytest.approx(found.best.quality, abs=1.5 / len(VALIDATION))
    for name in plan.in_bytes:
        assert not weights[name][start[name] == 0].any()


def test_a_stopped_int8_training_goes_on(tmp_path: Path) -> None:
    module, model = classifier()
    plan = plan_of(model, "dense/int8", "first", "second", "last")
    start = start_of(plan)

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == total // 2:
            raise Stopped

    whole = tune(module, model, plan, TRAIN, VALIDATION, SETTINGS, start=start)
    checkpoint = tmp_path / "training.safetensors"
    with pytest.raises(Stopped):
        tune(module, model, plan, TRAIN, VALIDATION, SETTINGS, start=start, checkpoint=checkpoint, progress=stop)
    again = tune(module, model, plan, TRAIN, VALIDATION, SETTINGS, start=start, checkpoint=checkpoint)
    other = again.module.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in whole.module.state_dict().items())
    assert whole.best == again.best


def test_what_int8_cannot_be_trained_for() -> None:
    module, model = classifier()
    plan = plan_of(model, "dense/int8", "second")
    start = start_of(plan)
    with pytest.raises(DataError, match="nothing tells between what it lies"):
        tune(module, model, plan, TRAIN, VALIDATION, SETTINGS, start={"second": start["second"]})
    gradual = TuningSettings(epochs=2, gradual=True)
    with pytest.raises(TuningError, match="zeros cannot grow in int8 layers"):
        tune(module, model, plan, TRAIN, VALIDATION, gradual)

    class Odd(nn.Conv2d):
        pass

    module.second.__class__ = Odd
    with pytest.raises(ModelError, match="layer 'second' is a Odd: int8 is trained for Conv1d, Conv2d, Linear only"):
        tune(module, model, plan, TRAIN, VALIDATION, SETTINGS, start=start)
