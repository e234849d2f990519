"""What holds for a study wherever it is kept: an SQLite file, or a PostgreSQL server."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from hwsparse.errors import InputError, StudyError
from hwsparse.plan import Plan
from hwsparse.search import Candidate, locks, open_study
from hwsparse.search import database as databases
from hwsparse.search.bounds import Bounds
from hwsparse.search.database import Place, opened_study
from hwsparse.search.evaluation import evaluated_here
from hwsparse.search.study import SearchSettings, run_search
from tests.search import postgres, toy
from tests.search.test_study import after, search

pytestmark = pytest.mark.xdist_group("postgres")  # one server is enough

ROOT = Path(__file__).parents[2]
SETTINGS = SearchSettings(trials=16, seed=3, seed_share=0.5)
# Searches, and notes each plan that it evaluates; hangs in the evaluation of that number.
PROCESS = """
import datetime, os, sys, time
if skew := float(os.environ.get("SKEW_S", "0")):
    class Skewed(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.fromtimestamp(wall() + skew, tz)
    wall, datetime.datetime = time.time, Skewed
    time.time = lambda: wall() + skew
from pathlib import Path
from tests.search import toy
from hwsparse.search.database import Place, opened_study
from hwsparse.search.evaluation import evaluated_here
from hwsparse.search.study import SearchSettings, run_search
place, noted, trials, hang = Place.parse(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
if sys.argv[5]:
    Path(f"{sys.argv[5]}.{os.getpid()}").touch()
    while not Path(sys.argv[5]).exists():
        time.sleep(0.01)
calls = []
@evaluated_here
def evaluate(plan, at_least):
    calls.append(plan)
    with open(noted, "a") as file:
        file.write(f"{os.getpid()} {plan.to_json()}\\n")
    if len(calls) == hang:
        print("in mid-trial", flush=True)
        time.sleep(600)
    time.sleep(0.02)
    return toy.evaluate(plan)
with opened_study(place, "toy", toy.IDENTITY) as study:
    found = run_search(study, toy.toy_space(), evaluate, toy.predict, SearchSettings(trials, seed=3, seed_share=0.5))
print(len(found), flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    at = postgres.programs()
    if at is None:
        pytest.skip("PostgreSQL is not installed: `apt-get install postgresql` has these tests run")
    with postgres.running_server(at) as server:
        yield server


@pytest.fixture(autouse=True)
def little_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "GRACE_S", 0.2)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a study is kept, as a user says it."""
    if request.param == "sqlite":
        return str(tmp_path / "s.db")
    server: postgres.Server = request.getfixturevalue("server")
    return server.database(uuid.uuid4().hex)


def started(
    place: str, noted: Path, trials: int, hang: int = 0, ready: Path | None = None, skew_s: float = 0.0
) -> subprocess.Popen[str]:
    """A process that searches, whose clock is fast by so much; one that says that it is `ready` waits for others."""
    command = [sys.executable, "-c", PROCESS, place, str(noted), str(trials), str(hang), str(ready or "")]
    environment = {**os.environ, "SKEW_S": str(skew_s)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)


def ended(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return out


def killed(process: subprocess.Popen[str]) -> None:
    """In mid-trial."""
    assert process.stdout is not None
    assert process.stdout.readline() == "in mid-trial\n"
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()


def states(place: str) -> Counter[TrialState]:
    with opened_study(Place.parse(place), "toy", toy.IDENTITY) as study:
        return Counter(trial.state for trial in study.trials())


def evaluated(noted: Path) -> list[str]:
    return [line.split(" ", 1)[1] for line in noted.read_text().splitlines()]


def found_again(place: str) -> tuple[Candidate, ...]:
    return search(Place.parse(place), SETTINGS, evaluate_quality=after(0, AssertionError("evaluated again")))


def test_what_was_found_is_there_again(place: str) -> None:
    found = search(Place.parse(place), SETTINGS)
    assert states(place) == {TrialState.COMPLETE: 16}
    assert found_again(place) == found


def test_it_finds_the_same_wherever_it_is_kept(place: str, tmp_path: Path) -> None:
    assert search(Place.parse(place), SETTINGS) == search(tmp_path / "other.db", SETTINGS)


def test_a_kill_in_mid_trial_costs_that_trial(place: str, tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    killed(started(place, noted, 16, hang=5))
    assert states(place) == {TrialState.COMPLETE: 4, TrialState.RUNNING: 1}
    assert ended(started(place, noted, 16)) == "16\n"
    assert states(place) == {TrialState.COMPLETE: 16, TrialState.FAIL: 1}
    (again,) = [plan for plan, times in Counter(evaluated(noted)).items() if times == 2]
    assert again == evaluated(noted)[4]


def test_four_processes_share_a_study(place: str, tmp_path: Path) -> None:
    """Whose clocks are days apart."""
    noted = tmp_path / "noted"
    processes = [started(place, noted, 40, ready=tmp_path / "ready", skew_s=86_400 * days) for days in (0, 0, 2, -3)]
    while len(list(tmp_path.glob("ready.*"))) < 4:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    (tmp_path / "ready").touch()
    assert {ended(process) for process in processes} == {"40\n"}
    assert states(place) == {TrialState.COMPLETE: 40}
    assert len(set(evaluated(noted))) == len(evaluated(noted)) == 40
    with opened_study(Place.parse(place), "toy", toy.IDENTITY) as study:
        trials = study.trials()
    assert [trial.number for trial in trials] == list(range(40))
    assert len({trial.user_attrs["owner"] for trial in trials}) > 1
    begun = [trial.datetime_start for trial in trials if trial.datetime_start is not None]
    assert max(begun) - min(begun) > timedelta(days=1)


def test_who_is_left_takes_over_from_who_is_killed(place: str, tmp_path: Path) -> None:
    """The one that is left would wait for the other's trial for ever."""
    noted = tmp_path / "noted"
    hanging = started(place, noted, 12, hang=2)
    assert hanging.stdout is not None
    assert hanging.stdout.readline() == "in mid-trial\n"
    other = started(place, noted, 12)
    try:
        while sum(states(place).values()) < 12:
            assert other.poll() is None
            time.sleep(0.05)
    finally:
        os.kill(hanging.pid, signal.SIGKILL)
        hanging.communicate()
    assert ended(other) == "12\n"
    assert states(place) == {TrialState.COMPLETE: 12, TrialState.FAIL: 1}


def test_all_choose_from_what_the_first_chose_from(place: str) -> None:
    with opened_study(Place.parse(place), "toy", toy.IDENTITY) as one:
        with pytest.raises(AssertionError):
            search(Place.parse(place), evaluate_quality=after(1, AssertionError("stop")))
        there = one.beginning
        assert there is not None
        assert one.begin(replace(there, seeds=())) == there


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("model_digest", "ef" * 32, "the model abababababababab, this search has efefefefefefefef"),
        ("dataset_digest", "ef" * 32, "the data that choose cdcdcdcdcdcdcdcd, this search has efefefefefefefef"),
        ("target", "arm", "the target toy, this search has arm"),
        (
            "device",
            "ef" * 32,
            "the device or how it is described: aaaaaaaaaaaaaaaa, this search has efefefefefefefef",
        ),
        ("threads", 2, "threads: 1, this search has 2"),
        ("pruner", "obs", "the pruner magnitude, this search has obs"),
        (
            "asked",
            ("2:4", "4:8"),
            "other choices: there block4x1@0.5, block4x1@0.7, block4x1@0.9, unstructured@0.8, "
            "here 4:8 beside those of both",
        ),
    ],
)
def test_another_search_under_a_chosen_name_is_refused(place: str, field: str, value: object, said: str) -> None:
    named = Place.parse(place, "ours")
    search(named)
    with pytest.raises(StudyError) as caught:
        search(named, identity=replace(toy.IDENTITY, **{field: value}))
    assert f"study 'ours' is of {said}" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert len(search(named, evaluate_quality=after(0, AssertionError("evaluated again")))) == 8


def test_a_server_that_goes_away_and_comes_back(
    server: postgres.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In mid-evaluation, so that what was found meets a server that is not there."""
    url = server.database(uuid.uuid4().hex)
    monkeypatch.setattr(open_study, "PAUSE_S", 0.05)
    calls = itertools.count()
    back = threading.Event()

    def come_back() -> None:
        server.start()
        back.set()

    def evaluate(plan: Plan) -> toy.ToyQuality:
        if next(calls) == 6:
            server.stop()
            threading.Timer(0.5, come_back).start()
        return toy.evaluate(plan)

    found = search(Place.parse(url), SETTINGS, evaluate_quality=evaluate)
    assert back.wait(60)
    assert found == search(tmp_path / "undisturbed.db", SETTINGS)
    assert states(url) == {TrialState.COMPLETE: 16}


def test_who_was_taken_for_dead_loses_nothing(server: postgres.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that was away holds nobody's sign: another process may ask before this one is back."""
    url = server.database(uuid.uuid4().hex)
    calls = itertools.count()

    def evaluate(plan: Plan) -> toy.ToyQuality:
        if next(calls) == 6:
            server.stop()
            server.start()
            monkeypatch.setattr(locks, "GRACE_S", math.inf)
            with opened_study(Place.parse(url), "toy", toy.IDENTITY) as other, other.turn():
                under_way = [trial for trial in other.live_trials() if trial.state == TrialState.RUNNING]
                assert len(under_way) == 1  # not yet: who was there before may not be back
                monkeypatch.setattr(locks, "GRACE_S", 0.0)
                assert [trial for trial in other.live_trials() if trial.state == TrialState.RUNNING] == []
        return toy.evaluate(plan)

    bounds = Bounds(max_latency_s=1.0)
    search(Place.parse(url), replace(SETTINGS, bounds=bounds), evaluate_quality=evaluate)
    assert states(url) == {TrialState.COMPLETE: 16, TrialState.FAIL: 1}
    assert next(calls) == 16
    with opened_study(Place.parse(url), "toy", toy.IDENTITY) as study:
        (added,) = (trial for trial in study.trials() if "instead_of" in trial.user_attrs)
    assert added.constraints == {"latency": added.values[0] - 1}


def test_who_was_taken_for_dead_adds_nothing_that_another_tries_again(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is tried by the other one until it has its figures, before this one has told its own."""
    calls = itertools.count()

    def evaluate(plan: Plan) -> toy.ToyQuality:
        if next(calls) == 6:
            with monkeypatch.context() as patch, opened_study(Place.parse(place), "toy", toy.IDENTITY) as other:
                patch.setattr(type(other.locks), "alive", lambda locks, sign: sign == locks.sign)
                again = toy.toy_space(), evaluated_here(lambda plan, at_least: toy.evaluate(plan)), toy.predict
                run_search(other, *again, replace(SETTINGS, trials=9))
        return toy.evaluate(plan)

    search(Place.parse(place), SETTINGS, evaluate_quality=evaluate)
    with opened_study(Place.parse(place), "toy", toy.IDENTITY) as study:
        trials = study.trials()
    complete = [trial.user_attrs["plan"] for trial in trials if trial.state == TrialState.COMPLETE]
    (interrupted,) = (trial for trial in trials if trial.state == TrialState.FAIL)
    assert interrupted.user_attrs["interrupted"] == "who ran it is gone"
    assert len(complete) == 16 and complete.count(interrupted.user_attrs["plan"]) == 1


def test_an_answer_that_was_lost_makes_no_second_trial(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server did what it was asked for, and went away before it said so."""
    begin = RDBStorage.set_trial_state_values
    lost = iter([True])

    def cut_off(storage: RDBStorage, trial_id: int, state: TrialState, values: object = None) -> bool:
        done = begin(storage, trial_id, state, values)
        if state == TrialState.RUNNING and next(lost, False):
            raise OperationalError("begin", {}, ConnectionError("the server went away"))
        return done

    monkeypatch.setattr(open_study, "PAUSE_S", 0.0)
    monkeypatch.setattr(databases, "PATIENCE_S", 60.0)
    monkeypatch.setattr(RDBStorage, "set_trial_state_values", cut_off)
    with opened_study(Place.parse(place), "toy", toy.IDENTITY) as study:
        patient = replace(study, patience_s=60.0)  # a file is always there
        evaluated = evaluated_here(lambda plan, at_least: toy.evaluate(plan))
        run_search(patient, toy.toy_space(), evaluated, toy.predict, SETTINGS)
    assert states(place) == {TrialState.COMPLETE: 16}


def test_a_turn_that_was_lost_is_noticed(server: postgres.Server) -> None:
    url = server.database(uuid.uuid4().hex)
    with opened_study(Place.parse(url), "toy", toy.IDENTITY) as study:
        with study.turn():
            assert study.locks.keeps_turn()
            server.stop()
            server.start()
            assert not study.locks.keeps_turn()
        with study.turn():
            assert study.locks.keeps_turn()
        study.locks.renew()
        with opened_study(Place.parse(url), "toy", toy.IDENTITY) as other:
            time.sleep(2 * locks.GRACE_S)
            assert other.locks.alive(study.locks.sign)


def test_two_jobs_make_one_database(server: postgres.Server, tmp_path: Path) -> None:
    """Of different models, and both find it empty."""
    url = server.database(uuid.uuid4().hex)
    processes = [started(url, tmp_path / "noted", 4, ready=tmp_path / "ready") for _ in range(2)]
    other = replace(toy.IDENTITY, target="another")
    while len(list(tmp_path.glob("ready.*"))) < 2:
        time.sleep(0.05)
    (tmp_path / "ready").touch()
    assert len(search(Place.parse(url), identity=other)) == 8
    assert {ended(process) for process in processes} == {"4\n"}


def test_a_server_that_stays_away_is_an_error(server: postgres.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.database(uuid.uuid4().hex)
    monkeypatch.setattr(open_study, "PAUSE_S", 0.01)
    monkeypatch.setattr(databases, "PATIENCE_S", 0.1)

    def evaluate(plan: Plan) -> toy.ToyQuality:
        server.stop()
        return toy.evaluate(plan)

    try:
        with pytest.raises(StudyError, match="the study's database cannot be used") as caught:
            search(Place.parse(url), SETTINGS, evaluate_quality=evaluate)
    finally:
        server.start()
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    assert len(search(Place.parse(url), SETTINGS)) == 16


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot be used") as caught:
        search(Place.parse(f"postgresql://me:secret@/there?host={tmp_path}"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mysql://me@there/that", "mysql:// cannot be used; a file's path or postgresql:// can"),
        ("://", "no URL; postgresql://user:password@host/database is one"),
        ("sqlite://", "cannot be used"),
        ("postgresql://me:secret@there:port/that", "no URL; postgresql://"),
        ("postgresql+asyncpg://me@there/that", "postgresql+asyncpg:// cannot be used"),
        ("postgresql://me@there/that?password=secret", "a password belongs before the @"),
        ("sqlite:///:memory:", "cannot be used"),
    ],
)
def test_places_that_are_none(text: str, said: str) -> None:
    with pytest.raises(InputError, match="study: ") as caught:
        Place.parse(text)
    assert said in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["", " ", "a\nb"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InputError, match="a study's name"):
        Place.parse("s.db", name)


def test_places_that_are_files(tmp_path: Path) -> None:
    assert Place.parse(f"sqlite:///{tmp_path}/s.db") == Place.parse(f"{tmp_path}/s.db") == Place(tmp_path / "s.db")


@contextlib.contextmanager
def without(module: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, module, None)
        yield


def test_the_package_that_reaches_a_server_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place.parse("postgresql://me:secret@there/that")
    with without("psycopg", monkeypatch), pytest.raises(StudyError, match=r"hwsparse\[postgresql\]"):
        search(place)
