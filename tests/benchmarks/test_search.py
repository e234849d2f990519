"""The search benchmark: dynamic programming against trying all plans, and what is made of curves."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import search, spdy
from benchmarks.search import EARLY, METHODS
from hwsparse.search import SearchSpace
from hwsparse.search.additive import Additive
from tests.search.test_seeds import spaces
from tests.search.toy import toy_space


@given(spaces(), st.floats(0.1, 1), st.integers(0, 9))
def test_dynamic_programming_finds_what_trying_all_plans_finds(space: SearchSpace, share: float, seed: int) -> None:
    additive = Additive(space)
    coefficients = np.random.default_rng(seed).uniform(0.1, 2, size=len(additive.layers))
    plans = list(itertools.product(*map(range, additive.counts)))
    every = np.array(plans, np.int64).reshape(len(plans), len(coefficients))
    slowest = additive.latencies(every).max()
    within_s = share * slowest
    found = spdy.least_harm(additive, coefficients, within_s)
    harm = (additive.errors(every) * coefficients).sum(1)
    # Times are cut into buckets and rounded up, a bucket for each layer.
    spare = (within_s - additive.latencies(every).min()) / spdy.BUCKETS * len(coefficients)
    surely = additive.latencies(every) <= within_s - spare
    if found is None:
        assert not surely.any()
        return
    assert additive.latencies(found[None])[0] <= within_s + 1e-9
    if surely.any():
        assert (additive.errors(found[None]) * coefficients).sum() <= harm[surely].min() + 1e-9


def test_its_search_shares_trials_among_times() -> None:
    additive = Additive(toy_space())
    rows, qualities = spdy.search(additive, lambda row: -float(additive.errors(row[None]).sum()), 26, seed=0)
    assert len(rows) == len(qualities) == 26
    assert (rows[0] == 0).all()
    assert len(np.unique(additive.latencies(rows).round(6))) > spdy.TIMES
    again, _ = spdy.search(additive, lambda row: -float(additive.errors(row[None]).sum()), 26, seed=0)
    assert (rows == again).all()


def test_figures_are_of_the_task_where_ours_is_ahead_by_least() -> None:
    trials = np.linspace(0, 1, 2 * EARLY)
    curves = {
        "easy": {"front": np.stack([trials, trials]), "tpe": np.stack([trials / 2] * 2), "spdy": trials[None] / 4},
        "hard": {
            "front": np.stack([trials, 0.8 * trials]), "tpe": np.stack([trials * 0.6] * 2), "random": 0 * trials[None],
        },
    }  # fmt: skip
    found = search._figures(curves)
    assert found["over_stock"] == pytest.approx(0.5)
    assert found["over_spdy"] == pytest.approx(3)
    assert np.isnan(found["over_surrogate"])
    assert found[f"over_stock_after_{EARLY}"] == pytest.approx(0.9 * trials[EARLY - 1] / 0.6 - 1)


def test_the_tables_and_the_picture_show_every_method(tmp_path: Path) -> None:
    curves = {"task": {"front": np.linspace(0, 1, 30)[None], "tpe": np.linspace(0, 0.5, 30)[None]}}
    table = search._curve_table("task", curves["task"])
    assert [str(cell) for cell in table.columns[0].cells] == ["front", "tpe"]
    assert len(table.columns) == 3  # after 10 and 25 trials
    search._draw(curves, tmp_path / "search.png")
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
    told = search._told("lost", np.linspace(0.0, 0.02, 101)) | search._told("behind", np.full(101, -0.01))
    assert told["lost_low"] == 0.0 < told["lost_high"] and told["behind"] == told["behind_low"] == -0.01
    assert search._built_table("task", {"front 2x": {"speedup": 2.01, **told}}).row_count == 1


def test_a_floor_that_was_not_tried_is_not_held() -> None:
    figures = search._figures({"task": {"front": np.ones((1, 30)), "tpe": np.full((1, 30), 0.95)}})
    table = search._floors(figures | {"overhead_ms": 60.0})
    assert [str(cell) for cell in table.columns[2].cells] == ["[bold red]NO", "yes", "not tried", "[bold red]NO"]


def test_every_beginning_of_the_order_is_spread() -> None:
    assert [search._turn(number) for number in range(5)] == [0, 0.5, 0.25, 0.75, 0.125]


def test_a_trial_costs_something_and_is_counted() -> None:
    mean, last = search.overhead_ms(layers=3, options=4, trials=5)
    assert 0 < mean < 60_000 and 0 < last < 60_000


def test_its_options() -> None:
    parser = argparse.ArgumentParser()
    search.options(parser)
    given = parser.parse_args(["--tasks", "minilm", "--no-builds"])
    assert (given.tasks, tuple(given.methods), given.trials, given.seeds) == (["minilm"], METHODS, 100, 3)
