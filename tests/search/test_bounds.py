from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState

from hwsparse.errors import StudyError
from hwsparse.plan import Plan
from hwsparse.search.bounds import UNBOUNDED, Bounds
from hwsparse.search.mirror import Mirror
from hwsparse.search.study import SearchSettings
from tests.search import toy
from tests.search.test_study import search, trials


@dataclass(frozen=True)
class ToySize:
    file_bytes: float
    memory_bytes: float | None = None


def size(plan: Plan) -> ToySize:
    """A layer is as large as its weights are many."""
    kept = sum((1 + i) * (1 - plan.choice(f"conv{i}").ratio) for i in range(4))
    return ToySize(1e6 * kept, None)


def test_what_exceeds_is_told_relative_to_the_limit() -> None:
    bounds = Bounds(max_latency_s=2.0, max_file_bytes=10, max_memory_bytes=100)
    assert bounds.excess(3.0, ToySize(5, 110)) == pytest.approx({"latency": 0.5, "file": -0.5, "memory": 0.1})
    assert bounds.excess(1.0, ToySize(10)) == {"latency": -0.5, "file": 0.0}
    assert bounds.excess(1.0, None) == {"latency": -0.5}
    assert UNBOUNDED.excess(3.0, ToySize(5, 110)) == {}
    assert Bounds(min_quality=0.9).lack(0.8) == pytest.approx({"quality": 0.1})
    assert UNBOUNDED.lack(0.8) == {}


@pytest.mark.parametrize(
    "wrong", [{"max_latency_s": 0}, {"max_file_bytes": -1}, {"max_memory_bytes": math.inf}, {"min_quality": math.nan}]
)
def test_limits_that_are_none(wrong: dict[str, float]) -> None:
    with pytest.raises(StudyError, match="is no limit"):
        Bounds(**wrong)


@pytest.mark.parametrize("sampler", ["front", "tpe", "nsga2", "nsga3", "gp", "random"])
def test_trials_hold_their_constraints(tmp_path: Path, sampler: str) -> None:
    dense = toy.latency_s(Plan(toy.MODEL))
    bounds = Bounds(0.6 * dense, 6e6, None, 0.5)
    settings = SearchSettings(trials=14, seed=1, sampler=sampler, seed_share=0.2, bounds=bounds)
    search(tmp_path / "s.db", settings, predict_size=size)
    for trial in trials(tmp_path / "s.db"):
        plan = Plan.from_json(trial.user_attrs["plan"])
        latency_s, quality = trial.values
        assert trial.constraints == pytest.approx(
            {
                "latency": latency_s / (0.6 * dense) - 1,
                "file": size(plan).file_bytes / 6e6 - 1,
                "quality": 0.5 - quality,
            }
        )


def test_our_sampler_keeps_to_bounds_and_seeds_do(tmp_path: Path) -> None:
    dense = toy.latency_s(Plan(toy.MODEL))
    bounds = Bounds(0.5 * dense, 5e6)
    found = search(tmp_path / "s.db", SearchSettings(trials=20, seed=1, bounds=bounds), predict_size=size)
    assert found[0].kind == "dense"
    assert len(found) > 10
    for candidate in found[1:]:
        assert candidate.latency_s <= 0.5 * dense
        assert size(candidate.plan).file_bytes <= 5e6


def test_the_limit_is_of_networks_not_of_their_layers(tmp_path: Path) -> None:
    """What lies between layers: a share of them, and something for each network."""

    def network(plan: Plan) -> toy.ToyLatency:
        value = 0.6 * toy.latency_s(plan) + 1e-3
        return toy.ToyLatency(value, (value, value))

    limit_s = network(Plan(toy.MODEL)).latency_s * 0.7
    settings = SearchSettings(trials=30, seed=1, seed_share=0.2, bounds=Bounds(limit_s))
    found = search(tmp_path / "s.db", settings, predict_latency=network)
    proposed = [candidate.latency_s for candidate in found if candidate.kind == "search"]
    assert max(proposed) <= limit_s
    assert max(proposed) > 0.9 * limit_s


def test_bounds_that_nothing_keeps_to_leave_a_search_all_the_same(tmp_path: Path) -> None:
    """It is for the caller to say what cannot be had; nothing is lost here."""
    settings = SearchSettings(trials=6, seed=1, bounds=Bounds(1e-9))
    assert len(search(tmp_path / "s.db", settings)) > 1
    assert {trial.state for trial in trials(tmp_path / "s.db")} == {TrialState.COMPLETE}


def test_trials_of_an_earlier_search_are_seen_under_the_bounds_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were made without any; so samplers would take all of them for what is looked for."""
    dense = toy.latency_s(Plan(toy.MODEL))
    settings = SearchSettings(trials=6, seed=1, sampler="tpe", seed_share=0.5)
    search(tmp_path / "s.db", settings)
    seen: list[FrozenTrial] = []
    propose = Mirror.propose

    def looking(mirror: Mirror, *arguments: object) -> FrozenTrial:
        seen[:] = mirror._study.get_trials()
        return propose(mirror, *arguments)

    monkeypatch.setattr(Mirror, "propose", looking)
    search(tmp_path / "s.db", replace(settings, trials=8, bounds=Bounds(0.6 * dense, min_quality=0.5)))
    complete = [trial for trial in seen if trial.state == TrialState.COMPLETE]
    assert len(complete) == 7
    for trial in complete:
        latency_s, quality = trial.values
        assert trial.constraints == pytest.approx({"latency": latency_s / (0.6 * dense) - 1, "quality": 0.5 - quality})
