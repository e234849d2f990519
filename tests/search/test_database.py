from __future__ import annotations

import contextlib
import dataclasses
import logging
import random
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from hwsparse.errors import StudyError
from hwsparse.plan import Plan
from hwsparse.search import database
from hwsparse.search.study import SearchSettings
from tests.search import toy
from tests.search.test_study import FEW, after, search


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "s.db"
    search(path)
    return path


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(finished, tmp_path))


def refused(path: Path, **changes: object) -> str:
    with pytest.raises(StudyError) as caught:
        search(path, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


NAME = f"toy, {toy.IDENTITY.digest[:12]}"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_digest", "ef" * 32),
        ("dataset_digest", "ef" * 32),
        ("target", "arm"),
        ("threads", 2),
        ("pruner", "obs"),
        ("asked", ("2:4",)),
    ],
)
def test_a_search_of_something_else_has_a_study_beside(study: Path, field: str, value: object) -> None:
    other = dataclasses.replace(toy.IDENTITY, **{field: value})
    evaluated: list[Plan] = []

    def evaluate(plan: Plan) -> toy.ToyQuality:
        evaluated.append(plan)
        return toy.evaluate(plan)

    before = search(study, evaluate_quality=after(0, AssertionError("evaluated again")))
    assert len(search(study, identity=other, evaluate_quality=evaluate)) == len(evaluated) > 0
    assert search(study, evaluate_quality=after(0, AssertionError("evaluated again"))) == before


def test_a_study_of_another_format_is_refused(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = database.FORMAT
    monkeypatch.setattr(database, "FORMAT", 99)
    message = refused(study)
    assert f"has the format {written}, this hwsparse writes 99; remove that study or choose" in message
    assert str(study) in message


@contextlib.contextmanager
def from_outside(path: Path) -> Iterator[optuna.Study]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    yield optuna.create_study(
        storage=storage, study_name=NAME, directions=["minimize", "maximize"], load_if_exists=True
    )
    storage.remove_session()
    storage.engine.dispose()


def test_somebody_elses_study_is_refused(tmp_path: Path) -> None:
    with from_outside(tmp_path / "s.db") as study:
        study.add_trial(optuna.create_trial(values=[1.0, 2.0]))
    assert "was not made by hwsparse; remove that study or choose" in refused(tmp_path / "s.db")


def test_a_study_that_says_it_is_of_something_else_is_refused(study: Path) -> None:
    with from_outside(study) as changed:
        changed.set_user_attr("hwsparse", {**changed.user_attrs["hwsparse"], "threads": 2})
    assert "is of threads: 2, this search has 1; remove that study or choose" in refused(study)
    with from_outside(study) as changed:
        changed.set_user_attr("hwsparse", {**changed.user_attrs["hwsparse"], "threads": 1, "more": 1})
    assert "holds what no search keeps; remove that study or choose" in refused(study)


@pytest.mark.parametrize(
    "choices",
    [
        7,
        "[",
        {"layers": []},
        '{"choices":{"layers":[["conv0",["2:4"]]]},"seeds":[]}',
        '{"choices":{"layers":[["conv0",["dense"]]]},"seeds":[]}',
        '{"choices":{"layers":[["conv0",["dense","2:4"]]]},"seeds":[]}',
        '{"choices":{"layers":[["conv0",["2:4","2:4","dense"]]]},"seeds":[]}',
        '{"choices":{"layers":[["conv0",["block4x1@0.50","dense"]]]},"seeds":[]}',
        '{"choices":{"layers":[["conv0",["dense","__import__"]]]},"seeds":[]}',
        '{"choices":{"layers":[["conv0",["2:4","dense"]],["conv0",["2:4","dense"]]]},"seeds":[]}',
        '{"choices":{"layers":[["conv0",["2:4","dense"],1]]},"seeds":[]}',
        '{"choices":{"layers":[],"more":1},"seeds":[]}',
        '{"choices":{"layers":NaN},"seeds":[]}',
        '{"choices":{"layers":[["conv0",["2:4","dense"]]]},"seeds":[["search",["2:8"]]]}',
        '{"choices":{"layers":[["conv0",["2:4","dense"]]]},"seeds":[["search",[]]]}',
        '{"choices":{"layers":[["conv0",["2:4","dense"]]]},"seeds":[["magic",["2:4"]]]}',
        '{"choices":{"layers":[["conv0",["2:4","dense"]]]}}',
    ],
)
def test_choices_that_are_none_are_refused(study: Path, choices: object) -> None:
    with from_outside(study) as changed:
        changed.set_user_attr("choices", choices)
    message = refused(study)
    assert "cannot be used" in message and str(study) in message


def test_a_search_killed_before_its_first_trial_can_begin_again(tmp_path: Path) -> None:
    with from_outside(tmp_path / "s.db"):
        pass
    assert search(tmp_path / "s.db")


def test_awkward_file_names_are_files(tmp_path: Path) -> None:
    path = tmp_path / "50% {odd} name?x=1#2.db"
    assert search(path) == search(path)
    assert path.is_file()


def test_tables_of_another_optuna(study: Path) -> None:
    with contextlib.closing(sqlite3.connect(study)) as connection, connection:
        connection.execute("UPDATE version_info SET schema_version = schema_version + 1")
        connection.execute("UPDATE alembic_version SET version_num = 'v9.9.9'")
    assert "remove that study or choose" in refused(study) or "cannot be used" in refused(study)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"this is not a database, whatever its name says\n" * 100)
    assert "file is not a database" in refused(tmp_path / "s.db")


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "missing" / "s.db")
    (tmp_path / "dir").mkdir()
    assert "unable to open database file" in refused(tmp_path / "dir")


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_database_is_an_error_or_read_as_far_as_it_goes(study: Path, seed: int) -> None:
    generator = random.Random(seed)
    data = bytearray(study.read_bytes())
    if seed % 3 == 0:
        del data[generator.randrange(100, len(data)) :]
    else:
        for _ in range(400):
            data[generator.randrange(100, len(data))] = generator.randrange(256)
    study.write_bytes(data)
    with contextlib.suppress(StudyError):
        for candidate in search(study, SearchSettings(trials=9, seed=3)):
            assert candidate.quality == toy.evaluate(candidate.plan).value


def test_a_locked_database(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.01)
    monkeypatch.setattr("optuna.storages._rdb.storage.time.sleep", lambda seconds: None)
    with contextlib.closing(sqlite3.connect(study, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StudyError, match="database is locked"):
            search(study, SearchSettings(trials=9))
    assert len(search(study, SearchSettings(trials=9))) > 0


@contextlib.contextmanager
def small_disk(monkeypatch: pytest.MonkeyPatch, pages: int) -> Iterator[None]:
    connect = database._connect

    def connect_to_small_disk(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.execute(f"PRAGMA max_page_count={pages}")
        return connection

    with monkeypatch.context() as patched:
        patched.setattr(database, "_connect", connect_to_small_disk)
        patched.setattr("optuna.storages._rdb.storage.time.sleep", lambda seconds: None)
        yield


@pytest.mark.parametrize("pages", [4, 30])
def test_a_full_disk_stops_the_search_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    path = tmp_path / "s.db"
    many = SearchSettings(trials=20, seed=3)
    with small_disk(monkeypatch, pages):
        assert "database or disk is full" in refused(path, settings=many)
    assert search(path, many)
    assert search(path, many) == search(path, many, evaluate_quality=after(0, AssertionError("evaluated again")))


def test_optuna_says_nothing_and_gets_its_voice_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(logging.INFO)
    search(tmp_path / "s.db", FEW)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == logging.INFO


def test_that_a_new_study_is_begun_beside_another_is_said_with_the_reason(
    study: Path, caplog: pytest.LogCaptureFixture
) -> None:
    search(study)
    assert not caplog.messages
    search(study, identity=replace(toy.IDENTITY, device="ef" * 32))
    (said,) = caplog.messages
    assert "a new study is begun" in said and "the device or how it is described" in said
