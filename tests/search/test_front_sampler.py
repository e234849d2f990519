"""Our own sampler, within searches of the toy."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from hwsparse.plan import Choice, Plan
from hwsparse.search import Candidate, surrogate_plans
from hwsparse.search.pareto import hypervolume
from hwsparse.search.study import SearchSettings
from tests.search import toy
from tests.search.test_study import search, trials

DENSE = Plan(toy.MODEL)
REFERENCE = toy.latency_s(DENSE), 0.0


def area(found: tuple[Candidate, ...]) -> float:
    return hypervolume(found, REFERENCE)


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_more_than_stock_samplers_in_fewer_trials(tmp_path: Path, seed: int) -> None:
    ours = search(tmp_path / "ours.db", SearchSettings(trials=20, seed=seed, seed_share=0.2))
    for stock in ("tpe", "nsga2", "random"):
        settings = SearchSettings(trials=40, seed=seed, sampler=stock, seed_share=0.0)
        assert area(ours) > area(search(tmp_path / f"{stock}.db", settings))


def test_no_plan_is_tried_twice_while_there_are_others(tmp_path: Path) -> None:
    search(tmp_path / "s.db", SearchSettings(trials=40, seed=0))
    texts = [tuple(sorted(trial.params.items())) for trial in trials(tmp_path / "s.db")]
    assert len(set(texts)) == len(texts)


def test_a_space_of_fewer_plans_than_trials_is_searched_to_its_end(tmp_path: Path) -> None:
    found = search(tmp_path / "s.db", SearchSettings(trials=30, seed=0), space=toy.toy_space(1))
    assert [trial.state for trial in trials(tmp_path / "s.db")] == [TrialState.COMPLETE] * 30
    assert {candidate.plan for candidate in found} >= set(surrogate_plans(toy.toy_space(1)))


def test_what_loses_too_much_is_not_looked_for(tmp_path: Path) -> None:
    """Until the plans that lose little are tried."""
    most = {}
    for worst in (None, 0.05):
        settings = SearchSettings(trials=30, seed=1, seed_share=0.1, worst_drop=worst)
        found = search(tmp_path / f"{worst}.db", settings)
        dense = next(candidate.quality for candidate in found if candidate.plan == DENSE)
        proposed = [candidate for candidate in found if candidate.kind == "search"][:8]
        most[worst] = max(dense - candidate.quality for candidate in proposed)
    assert most[0.05] < 0.06 < 0.15 < most[None]


def test_a_choice_that_is_never_worth_it_is_not_proposed(tmp_path: Path) -> None:
    """Whoever knows what layers harm needs no trial to see that one choice is beaten by another."""
    found = search(tmp_path / "s.db", SearchSettings(trials=30, seed=0))
    proposed = [candidate.plan for candidate in found if candidate.kind == "search"]
    assert proposed
    assert all(plan.choice("head") == Choice() for plan in proposed)
