from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from hwsparse.errors import Cancelled, CompileError, ExecutionError, StudyError
from hwsparse.plan import Choice, Plan
from hwsparse.search import Candidate, SettledChoices, build_space, pareto_front
from hwsparse.search.database import Place, StudyIdentity, opened_study
from hwsparse.search.evaluation import Hopeless, evaluated_here
from hwsparse.search.open_study import OpenStudy
from hwsparse.search.study import SearchSettings, TrialOutcome, run_search
from tests.search import toy

FEW = SearchSettings(trials=8, seed=3, seed_share=0.5)  # 4 of them seeds


def search(
    place: Path | Place,
    settings: SearchSettings = FEW,
    *,
    identity: StudyIdentity = toy.IDENTITY,
    evaluate_quality: Callable[[Plan], toy.ToyQuality | Hopeless] = toy.evaluate,
    **changes: object,
) -> tuple[Candidate, ...]:
    given = {"space": toy.toy_space(), "predict_latency": toy.predict}
    place = Place(place) if isinstance(place, Path) else place
    evaluated = evaluated_here(lambda plan, at_least: evaluate_quality(plan))
    with opened_study(place, "toy", identity) as study:
        return run_search(study, evaluate_quality=evaluated, settings=settings, **{**given, **changes})


def trials(path: Path) -> list[FrozenTrial]:
    storage = RDBStorage(f"sqlite:///{path}")
    try:
        (name,) = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage).trials
    finally:
        storage.remove_session()
        storage.engine.dispose()


def states(path: Path) -> Counter[TrialState]:
    return Counter(trial.state for trial in trials(path))


def complete_plans(path: Path) -> list[str]:
    return [trial.user_attrs["plan"] for trial in trials(path) if trial.state == TrialState.COMPLETE]


def after(calls: int, error: BaseException) -> Callable[[Plan], toy.ToyQuality]:
    """An evaluation that raises on its call number `calls`, counted from 0."""
    counter = itertools.count()

    def evaluate(plan: Plan) -> toy.ToyQuality:
        if next(counter) == calls:
            raise error
        return toy.evaluate(plan)

    return evaluate


def test_a_search_has_the_trials_asked_for(tmp_path: Path) -> None:
    found = search(tmp_path / "s.db")
    assert states(tmp_path / "s.db")[TrialState.COMPLETE] == 8
    assert len({candidate.plan for candidate in found}) == len(found) <= 8
    assert found[0].kind == "dense"
    assert found[0].plan.choices == ()
    assert {"uniform", "surrogate"} <= {candidate.kind for candidate in found}
    for candidate in found:
        assert candidate.latency_s == toy.predict(candidate.plan).latency_s
        assert candidate.latency_interval_s == toy.predict(candidate.plan).interval_s
        assert candidate.latency_source == "predicted"
        assert candidate.quality == toy.evaluate(candidate.plan).value
        assert candidate.quality_interval == toy.evaluate(candidate.plan).interval
        assert candidate.drop_error == toy.evaluate(candidate.plan).drop_error
        assert candidate.sure_quality == candidate.quality - candidate.drop_error


def test_what_was_found_is_read_back_from_the_database(tmp_path: Path) -> None:
    found = search(tmp_path / "s.db")
    assert search(tmp_path / "s.db", evaluate_quality=after(0, AssertionError("evaluated again"))) == found
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.db", "s.db.lock"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole") / "s.db"
    search(path)
    return path


@pytest.mark.parametrize("sampler", ["front", "tpe", "nsga2", "nsga3", "gp"])
def test_a_seed_makes_a_search_repeatable(tmp_path: Path, sampler: str) -> None:
    settings = SearchSettings(trials=13, seed=3, sampler=sampler, seed_share=0.1)
    assert search(tmp_path / "1.db", settings) == search(tmp_path / "2.db", settings)


def test_another_seed_makes_another_search(tmp_path: Path, whole: Path) -> None:
    assert search(tmp_path / "s.db", SearchSettings(trials=8, seed=4)) != search(whole)


@pytest.mark.parametrize("sampler", ["front", "tpe", "nsga2"])
def test_samplers_find_more_than_the_seeds(tmp_path: Path, sampler: str) -> None:
    found = search(tmp_path / "s.db", SearchSettings(trials=30, seed=1, sampler=sampler, seed_share=0.2))
    seeds = [candidate for candidate in found if candidate.kind != "search"]
    assert len(seeds) == 6
    assert any(candidate.kind == "search" for candidate in pareto_front(found))


def test_seeds_are_the_first_generation_of_nsga2(tmp_path: Path) -> None:
    search(tmp_path / "s.db", SearchSettings(trials=6, sampler="nsga2"))
    for trial in trials(tmp_path / "s.db"):
        assert [value for key, value in trial.system_attrs.items() if key.endswith("generation")] == [0]


@pytest.mark.parametrize("sampler", ["front", "tpe", "nsga2", "nsga3", "gp", "random"])
def test_a_space_without_choices_is_searched_too(tmp_path: Path, sampler: str) -> None:
    space = build_space(toy.MODEL, {"a": [toy.offer("dense")]})
    settings = SearchSettings(trials=4, sampler=sampler)
    (dense,) = search(tmp_path / "s.db", settings, space=space)
    assert dense.kind == "dense"
    assert states(tmp_path / "s.db")[TrialState.COMPLETE] == 4


def test_a_plan_is_evaluated_once_and_counts_each_time(tmp_path: Path) -> None:
    evaluated: list[Plan] = []

    def evaluate(plan: Plan) -> toy.ToyQuality:
        evaluated.append(plan)
        return toy.evaluate(plan)

    space = build_space(toy.MODEL, {"conv0": [toy.offer("dense"), toy.offer("2:4", 0.5, 0.1)]})
    search(tmp_path / "s.db", space=space, evaluate_quality=evaluate)
    assert len(evaluated) == len(set(evaluated)) == 2
    assert states(tmp_path / "s.db")[TrialState.COMPLETE] == 8
    assert {trial.user_attrs.get("figures_of") for trial in trials(tmp_path / "s.db")} == {None, 0, 1}


def test_a_longer_search_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    first = search(tmp_path / "s.db")
    assert search(tmp_path / "s.db") == first
    longer = search(tmp_path / "s.db", SearchSettings(trials=12, seed=3))
    assert longer[: len(first)] == first
    assert states(tmp_path / "s.db") == {TrialState.COMPLETE: 12}


def test_a_study_keeps_its_choices_when_layers_are_timed_anew(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    first = search(path)
    settled = SettledChoices.of(toy.toy_space())
    # Every layer twice as fast, and none of them faster than dense any more: a new space would be empty.
    offers = {
        name: [toy.offer("dense", 1e-3), *(toy.offer(str(choice), 2e-3, 0.1) for choice in settled.sparse(name))]
        for name in ("conv0", "conv1", "conv2", "conv3", "head")
    }
    assert build_space(toy.MODEL, offers).free == ()
    seen: list[TrialOutcome] = []
    longer = search(
        path,
        SearchSettings(trials=14, seed=3),
        space=build_space(toy.MODEL, offers, settled=True),
        predict_latency=lambda plan: toy.ToyLatency(toy.latency_s(plan) / 2, (0, 1), "simulated"),
        on_trial=seen.append,
    )
    assert states(path) == {TrialState.COMPLETE: 14}
    assert {tuple(sorted(trial.params)) for trial in trials(path)} == {("conv0", "conv1", "conv2", "conv3")}
    assert [each.plan for each in longer[: len(first)]] == [each.plan for each in first]
    assert any(each.kind == "search" for each in longer[len(first) :])
    for candidate in longer:  # the figures of today, whenever the plan was evaluated
        assert candidate.latency_s == toy.latency_s(candidate.plan) / 2
        assert candidate.latency_source == "simulated"
        assert candidate.quality == toy.evaluate(candidate.plan).value
    assert seen[0].known[: len(first)] == longer[: len(first)]
    assert seen[-1].known == longer


def test_a_choice_that_cannot_be_had_any_more_is_dense(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    first = search(path, SearchSettings(trials=12, seed=3, sampler="tpe"))
    whole = toy.toy_space()
    lost = [replace(layer, options=layer.options[:1]) if layer.layer == "conv3" else layer for layer in whole.layers]
    found = search(path, SearchSettings(trials=40, seed=3, sampler="tpe"), space=replace(whole, layers=tuple(lost)))
    assert states(path) == {TrialState.COMPLETE: 40}
    assert all(trial.params["conv3"] == "dense" for trial in trials(path)[12:])
    assert any(candidate.plan.choice("conv3") != Choice() for candidate in first)
    assert all(candidate.plan.choice("conv3") == Choice() for candidate in found)
    assert {candidate.plan for candidate in found} > {c.plan for c in first if c.plan.choice("conv3") == Choice()}
    assert {c.plan for c in search(path, SearchSettings(trials=40, seed=3))} >= {c.plan for c in (*first, *found)}


def test_choices_of_layers_that_the_model_lacks_are_refused(tmp_path: Path) -> None:
    search(tmp_path / "s.db")
    fewer = toy.toy_space(3)
    with pytest.raises(StudyError, match="choices for 'conv3', which is no layer of the model"):
        search(tmp_path / "s.db", space=fewer)


KILLED = """
import sys, time
from pathlib import Path
from tests.search import toy
from hwsparse.search.database import Place, opened_study
from hwsparse.search.evaluation import evaluated_here
from hwsparse.search.study import SearchSettings, run_search
path, calls, trials = Path(sys.argv[1]), [], int(sys.argv[3])
@evaluated_here
def evaluate(plan, at_least):
    calls.append(plan)
    if len(calls) == int(sys.argv[2]):
        print("in mid-trial", flush=True)
        time.sleep(600)
    return toy.evaluate(plan)
with opened_study(Place(path), "toy", toy.IDENTITY) as study:
    run_search(study, toy.toy_space(), evaluate, toy.predict, SearchSettings(trials=trials, seed=3, seed_share=0.5))
"""


def start_and_hang(path: Path, at_call: int, trials: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KILLED, str(path), str(at_call), str(trials)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    assert process.stdout.readline() == "in mid-trial\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.parametrize("at_call", [1, 3, 7])
def test_a_search_killed_in_mid_trial_loses_nothing(tmp_path: Path, whole: Path, at_call: int) -> None:
    path = tmp_path / "s.db"
    kill(start_and_hang(path, at_call, 8))
    before = states(path)
    assert before[TrialState.RUNNING] == 1
    assert before[TrialState.COMPLETE] >= at_call - 1

    found = search(path)
    assert states(path) == {TrialState.COMPLETE: 8, TrialState.FAIL: 1}
    if at_call == 7:  # past the seeds: the sampler then sees the same trials in the same order
        assert complete_plans(path) == complete_plans(whole)
    seeds = {candidate.plan for candidate in search(whole) if candidate.kind != "search"}
    assert {candidate.plan for candidate in found} >= seeds


def test_a_search_killed_again_and_again_still_ends_whole(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    for at_call in (1, 4):
        kill(start_and_hang(path, at_call, 8))
    search(path)
    assert states(path) == {TrialState.COMPLETE: 8, TrialState.FAIL: 2}
    dense = Plan.of(toy.MODEL, {}).to_json()
    assert dense in complete_plans(path)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Cancelled("stopped"), RuntimeError("a bug")])
def test_whatever_stops_a_search_leaves_it_resumable(tmp_path: Path, whole: Path, error: BaseException) -> None:
    path = tmp_path / "s.db"
    with pytest.raises(type(error)):
        search(path, evaluate_quality=after(6, error))
    stopped = states(path)
    assert stopped[TrialState.RUNNING] == 0
    assert stopped[TrialState.FAIL] == 1
    search(path)
    assert states(path) == {TrialState.COMPLETE: 8, TrialState.FAIL: 1}
    assert complete_plans(path) == complete_plans(whole)


def test_what_the_callback_raises_stops_after_the_trial(tmp_path: Path) -> None:
    def stop(outcome: TrialOutcome) -> None:
        if outcome.done == 3:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        search(tmp_path / "s.db", on_trial=stop)
    assert states(tmp_path / "s.db")[TrialState.COMPLETE] == 3
    assert TrialState.FAIL not in states(tmp_path / "s.db")
    search(tmp_path / "s.db")
    assert states(tmp_path / "s.db") == {TrialState.COMPLETE: 8}


def test_a_failed_trial_is_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    outcomes: list[TrialOutcome] = []
    failing = after(2, CompileError("the linker refused"))
    search(path, evaluate_quality=failing, on_trial=outcomes.append, clock=itertools.count().__next__)
    assert states(path) == {TrialState.COMPLETE: 8, TrialState.FAIL: 1}
    (failed,) = (trial for trial in trials(path) if trial.state == TrialState.FAIL)
    assert failed.user_attrs["failure"] == "the linker refused"
    assert [outcome.failure for outcome in outcomes].count("the linker refused") == 1
    assert [outcome.done for outcome in outcomes] == [1, 2, 2, *range(3, 9)]
    assert all(outcome.asked == 8 and outcome.elapsed_s == 1 for outcome in outcomes)
    assert (outcomes[2].candidate, outcomes[2].number) == (None, failed.number)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_quality_that_is_no_number_fails_the_trial(tmp_path: Path, value: float) -> None:
    qualities = itertools.chain(
        [toy.ToyQuality(value, (0, 1), 0)], itertools.repeat(toy.ToyQuality(0.5, (0.4, 0.6), 0))
    )
    search(tmp_path / "s.db", evaluate_quality=lambda plan: next(qualities))
    assert states(tmp_path / "s.db") == {TrialState.COMPLETE: 8, TrialState.FAIL: 1}


def test_a_hopeless_plan_is_given_up_and_told_to_the_sampler(tmp_path: Path) -> None:
    """Less than the best plan that is as fast, or than may be lost, is not worth knowing to the last digit."""
    asked: dict[Plan, float] = {}
    outcomes: list[TrialOutcome] = []

    def evaluate(plan: Plan, at_least: float) -> toy.ToyQuality | Hopeless:
        asked[plan] = at_least
        found = toy.evaluate(plan)
        return found if found.value >= at_least else Hopeless(found.value, 7, at_least)

    settings = SearchSettings(trials=30, seed=1, sampler="random", seed_share=0.3, worst_drop=0.4)
    with opened_study(Place(tmp_path / "s.db"), "toy", toy.IDENTITY) as study:
        found = run_search(
            study, toy.toy_space(), evaluated_here(evaluate), toy.predict, settings, on_trial=outcomes.append
        )
    assert asked[Plan(toy.MODEL)] == -math.inf
    dense = toy.evaluate(Plan(toy.MODEL)).value
    assert all(at_least >= dense - 0.4 for plan, at_least in asked.items() if plan.choices)
    given_up = [outcome.hopeless for outcome in outcomes if outcome.hopeless is not None]
    assert given_up and all(each.samples == 7 for each in given_up)
    assert states(tmp_path / "s.db") == {
        TrialState.COMPLETE: 30 - len(given_up), TrialState.PRUNED: len(given_up)
    }  # fmt: skip
    assert [outcome.done for outcome in outcomes] == list(range(1, 31))
    kept = {candidate.plan for candidate in found}
    assert kept == {plan for plan, at_least in asked.items() if toy.evaluate(plan).value >= at_least}
    front = {candidate.plan for candidate in pareto_front(found)}
    everything = [replace(found[0], plan=plan, latency_s=toy.latency_s(plan), quality=toy.evaluate(plan).value)
                  for plan in asked if toy.evaluate(plan).value >= dense - 0.4]  # fmt: skip
    assert front == {candidate.plan for candidate in pareto_front(everything)}
    # Whoever goes on knows of them, and our sampler learns from them.
    again = SearchSettings(trials=36, seed=1, worst_drop=0.4)
    search(tmp_path / "s.db", again, evaluate_quality=lambda plan: unseen(plan, asked))


def unseen(plan: Plan, seen: Mapping[Plan, float]) -> toy.ToyQuality:
    assert plan not in seen, "evaluated again"
    return toy.evaluate(plan)


def test_what_was_hopeless_is_looked_at_again_where_more_may_be_lost(tmp_path: Path) -> None:
    """Of two choices for one layer, both proposed again and again."""
    space = build_space(toy.MODEL, {"conv0": [toy.offer("dense"), toy.offer("2:4", 0.5, 0.1)]})
    bars: list[float] = []

    def evaluate(plan: Plan, at_least: float) -> toy.ToyQuality | Hopeless:
        bars.append(at_least)
        found = toy.evaluate(plan)
        return found if found.value >= at_least else Hopeless(found.value, 7, at_least)

    def searched(trials: int, worst_drop: float) -> tuple[Candidate, ...]:
        settings = SearchSettings(trials=trials, seed=1, sampler="random", worst_drop=worst_drop)
        with opened_study(Place(tmp_path / "s.db"), "toy", toy.IDENTITY) as study:
            return run_search(study, space, evaluated_here(evaluate), toy.predict, settings)

    assert [candidate.plan for candidate in searched(6, 0.001)] == [Plan(toy.MODEL)]
    assert len(bars) == 2
    assert len(searched(12, 0.001)) == 1 and len(bars) == 2
    assert len(searched(18, 0.9)) == 2 and len(bars) == 3


@pytest.mark.parametrize("parallel", [2, 4])
def test_a_seed_makes_a_search_of_many_workers_repeatable(tmp_path: Path, parallel: int) -> None:
    """However long each of them takes."""

    def searched(name: str, slow: int) -> list[Plan]:
        calls = itertools.count()

        def evaluate(plan: Plan) -> toy.ToyQuality:
            if next(calls) % 3 == slow:
                time.sleep(0.05)
            return toy.evaluate(plan)

        settings = SearchSettings(trials=16, seed=2, seed_share=0.2, parallel=parallel)
        with ThreadPoolExecutor(4) as pool, opened_study(Place(tmp_path / name), "toy", toy.IDENTITY) as study:
            found = run_search(
                study, toy.toy_space(), lambda plan, at_least: pool.submit(evaluate, plan), toy.predict, settings
            )
        return [candidate.plan for candidate in found]

    assert searched("1.db", 0) == searched("2.db", 2)


def test_workers_that_are_lost_stop_the_search_and_cost_no_plan(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError):
        search(tmp_path / "s.db", evaluate_quality=after(0, ExecutionError("lost")))
    assert states(tmp_path / "s.db") == {TrialState.FAIL: 1}
    assert search(tmp_path / "s.db")[0].plan == Plan(toy.MODEL)


def test_a_dense_model_that_failed_is_tried_again_in_another_run(tmp_path: Path) -> None:
    first = search(tmp_path / "s.db", evaluate_quality=after(0, CompileError("not today")))
    assert not any(candidate.plan == Plan(toy.MODEL) for candidate in first)
    again = search(tmp_path / "s.db", SearchSettings(trials=9, seed=3))
    assert any(candidate.plan == Plan(toy.MODEL) and candidate.kind == "dense" for candidate in again)


def test_a_trial_that_was_not_added_whole_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a kill, or a connection that was lost, before its parameters were there."""
    whole = search(tmp_path / "whole.db")
    add = OpenStudy.add

    def killed(study: OpenStudy, trial: FrozenTrial) -> object:
        if trial.number == 3:
            with monkeypatch.context() as patch:
                patch.setattr(RDBStorage, "set_trial_state_values", lambda *arguments: sys.exit(9))
                return add(study, trial)
        return add(study, trial)

    with monkeypatch.context() as patch:
        patch.setattr(OpenStudy, "add", killed)
        with pytest.raises(SystemExit):
            search(tmp_path / "s.db")
    assert states(tmp_path / "s.db") == {TrialState.COMPLETE: 3, TrialState.WAITING: 1}
    found = search(tmp_path / "s.db")
    assert [candidate.plan for candidate in found] == [candidate.plan for candidate in whole]
    assert states(tmp_path / "s.db") == {TrialState.COMPLETE: 8, TrialState.FAIL: 1}


def test_who_lacks_a_choice_tries_no_plan_again_and_again(tmp_path: Path) -> None:
    """Of the plans to begin with, most have a choice that the one who goes on cannot have."""
    whole = toy.toy_space(4)
    settings = SearchSettings(trials=14, seed=3, seed_share=0.6)
    with pytest.raises(Cancelled):
        search(tmp_path / "s.db", settings, evaluate_quality=after(2, Cancelled("enough")))
    lost = [replace(layer, options=layer.options[:1]) if layer.layer == "conv3" else layer for layer in whole.layers]
    search(tmp_path / "s.db", settings, space=replace(whole, layers=tuple(lost)))
    plans = [trial.user_attrs["plan"] for trial in trials(tmp_path / "s.db") if trial.state == TrialState.COMPLETE]
    assert len(plans) == len(set(plans)) == 14


def test_who_joins_a_study_searches_what_it_began_with(tmp_path: Path) -> None:
    """Two that begin at once each draw up a space of their own; noise makes them differ."""
    fewer = toy.toy_space(4)
    lost = [replace(layer, options=layer.options[:2]) if layer.layer == "conv2" else layer for layer in fewer.layers]
    without = [replace(layer, options=layer.options[:1]) if layer.layer == "conv3" else layer for layer in lost]
    search(tmp_path / "s.db", SearchSettings(trials=6, seed=3), space=replace(fewer, layers=tuple(without)))
    search(tmp_path / "s.db", SearchSettings(trials=16, seed=3))
    for trial in trials(tmp_path / "s.db"):
        assert set(trial.params) == {"conv0", "conv1", "conv2"}
        plan = Plan.from_json(trial.user_attrs["plan"])
        assert {name: str(plan.choice(name)) for name in trial.params} == trial.params
    plans = [trial.user_attrs["plan"] for trial in trials(tmp_path / "s.db")]
    assert len(set(plans)) == len(plans)


def test_several_plans_are_evaluated_at_once(tmp_path: Path) -> None:
    """Never more than were asked for, and no plan twice."""
    under_way: list[Plan] = []
    most = 0
    lock = threading.Lock()

    def evaluate(plan: Plan) -> toy.ToyQuality:
        nonlocal most
        with lock:
            under_way.append(plan)
            most = max(most, len(under_way))
            assert len(set(under_way)) == len(under_way)
        everybody.wait(10)
        with lock:
            under_way.remove(plan)
        return toy.evaluate(plan)

    everybody = threading.Barrier(3)
    settings = SearchSettings(trials=12, seed=1, parallel=3)
    with ThreadPoolExecutor(8) as pool, opened_study(Place(tmp_path / "s.db"), "toy", toy.IDENTITY) as study:
        found = run_search(
            study, toy.toy_space(), lambda plan, at_least: pool.submit(evaluate, plan), toy.predict, settings
        )
    assert most == 3
    assert len(found) == 12
    assert states(tmp_path / "s.db") == {TrialState.COMPLETE: 12}


def test_a_search_that_waits_can_be_stopped(tmp_path: Path) -> None:
    never: Future[toy.ToyQuality] = Future()

    def stop(done: int) -> None:
        raise Cancelled("enough")

    with opened_study(Place(tmp_path / "s.db"), "toy", toy.IDENTITY) as study, pytest.raises(Cancelled):
        run_search(study, toy.toy_space(), lambda plan, at_least: never, toy.predict, FEW, on_wait=stop)
    assert states(tmp_path / "s.db") == {TrialState.FAIL: 1}
    assert never.cancelled()


def test_many_failures_in_a_row_end_the_search(tmp_path: Path) -> None:
    def fail(plan: Plan) -> toy.ToyQuality:
        raise CompileError("no compiler")

    with pytest.raises(StudyError, match="3 failed trials in a row, the last one: no compiler"):
        search(tmp_path / "s.db", SearchSettings(trials=20, max_failures=3), evaluate_quality=fail)
    assert states(tmp_path / "s.db")[TrialState.COMPLETE] == 0


def test_a_sampler_does_not_repeat_what_failed_for_ever(tmp_path: Path) -> None:
    """Every plan with a 2:4 layer fails, and nothing tells the sampler so."""
    tried: list[Plan] = []

    def picky(plan: Plan) -> toy.ToyQuality:
        tried.append(plan)
        if any(str(choice) == "2:4" for _, choice in plan.choices):
            raise CompileError("no 2:4 today")
        return toy.evaluate(plan)

    search(tmp_path / "s.db", SearchSettings(trials=20, seed_share=0.1), evaluate_quality=picky)
    assert states(tmp_path / "s.db")[TrialState.COMPLETE] == 20
    assert len(tried) == len(set(tried))


@pytest.mark.parametrize(
    "settings",
    [{"trials": 0}, {"seed": -1}, {"max_failures": 0}, {"seed_share": 1.5}, {"sampler": "cmaes"}],
)
def test_settings_are_checked(settings: dict[str, object]) -> None:
    with pytest.raises(StudyError):
        SearchSettings(**settings)
