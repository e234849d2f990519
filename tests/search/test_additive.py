from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.plan import Choice
from hwsparse.search import SearchSpace
from hwsparse.search.additive import Additive
from tests.search.test_seeds import fastest, figures, spaces
from tests.search.toy import toy_space


def rows_of(additive: Additive, seed: int = 0, count: int = 20) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, additive.counts, size=(count, len(additive.counts)))


@given(spaces(), st.integers(0, 99))
def test_arrays_say_what_the_space_says(space: SearchSpace, seed: int) -> None:
    additive = Additive(space)
    rows = rows_of(additive, seed)
    for row, latency_s, errors in zip(rows, additive.latencies(rows), additive.errors(rows), strict=True):
        plan = additive.plan(row)
        assert (latency_s, errors.sum()) == pytest.approx(figures(space, plan))
        texts = additive.texts(row)
        assert {name: str(plan.choice(name)) for name in texts} == texts
        assert (additive.row(texts) == row).all()


def test_a_choice_that_cannot_be_had_is_dense() -> None:
    additive = Additive(toy_space())
    row = additive.row({"conv0": "block16x1@0.5", "conv1": "block4x1@0.5"})
    plan = additive.plan(row)
    assert [name for name, _ in plan.choices] == ["conv1"]


@given(spaces(), st.floats(0, 1e3), st.integers(0, 99))
def test_the_front_has_what_is_best_by_any_coefficients(space: SearchSpace, multiplier: float, seed: int) -> None:
    additive = Additive(space)
    coefficients = np.exp(np.random.default_rng(seed).normal(size=len(additive.layers)))
    front = additive.front(coefficients)
    costs = additive.latencies(front) + multiplier * (additive.errors(front) * coefficients).sum(1)
    weights = dict(zip((layer.layer for layer in additive.layers), coefficients, strict=True))
    best = sum(
        min(option.latency_s + multiplier * weights.get(layer.layer, 1) * option.error for option in layer.options)
        for layer in space.layers
    )
    assert costs.min() == pytest.approx(best)
    assert (np.diff(additive.latencies(front)) < 0).all()
    assert additive.latencies(front)[-1] == pytest.approx(fastest(space))


@given(spaces(), st.integers(0, 99), st.integers(1, 3))
def test_plans_nearby_differ_by_steps_along_the_hulls(space: SearchSpace, seed: int, most: int) -> None:
    additive = Additive(space)
    if not additive.layers:
        return
    rows = additive.front()[::3]
    before = rows.copy()
    near = additive.near(rows, np.random.default_rng(seed), 30, most)
    assert near.shape == (30, len(additive.layers))
    assert (rows == before).all()
    on_front = {(at, row[at]) for row in additive.front() for at in range(row.size)}
    for plan in near:
        assert min(np.count_nonzero(plan != row) for row in rows) <= most
        assert all((at, plan[at]) in on_front for at in range(plan.size))


def test_a_space_without_choices_has_one_plan() -> None:
    space = toy_space(0)
    additive = Additive(space)
    assert additive.front().shape == (1, 0)
    assert additive.plan(additive.front()[0]).choices == ()
    assert additive.latencies(additive.front()) == pytest.approx([space.layers[0].options[0].latency_s])
    assert space.layers[0].options[0].choice == Choice()
