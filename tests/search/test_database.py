from __future__ import annotations

import contextlib
import dataclasses
import logging
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from hwsparse.errors import StudyError
from hwsparse.search import build_space, database
from hwsparse.search.study import SearchSettings, read_candidates
from tests.search import toy
from tests.search.test_study import FEW, search


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


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("dataset", "photos", "another data set: files there, photos now"),
        ("dataset_digest", "ef" * 32, "another data: cdcdcdcdcdcd there, efefefefefef now"),
        ("target", "arm", "another target: toy there, arm now"),
        ("threads", 2, "another number of threads: 1 there, 2 now"),
        ("pruner", "obs", "another pruner: magnitude there, obs now"),
    ],
)
def test_a_study_of_something_else_is_refused(study: Path, field: str, value: object, text: str) -> None:
    message = refused(study, identity=dataclasses.replace(toy.IDENTITY, **{field: value}))
    assert text in message
    assert str(study) in message


def test_a_study_of_another_model_or_space_is_refused(study: Path) -> None:
    space = build_space("ef" * 32, {"a": [toy.offer("dense")]})
    assert "another model: abababababab there" in refused(study, space=space)
    assert "another search space" in refused(study, space=toy.toy_space(3))


def test_a_study_of_another_format_is_refused(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = database.FORMAT
    monkeypatch.setattr(database, "FORMAT", 99)
    assert f"has the format {written}, this hwsparse writes 99" in refused(study)
    with pytest.raises(StudyError, match=f"has the format {written}"):
        read_candidates(study, "toy")


def test_somebody_elses_study_is_refused(tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 's.db'}")
    other = optuna.create_study(storage=storage, study_name="toy", directions=["minimize", "maximize"])
    other.add_trial(optuna.create_trial(values=[1.0, 2.0]))
    storage.remove_session()
    storage.engine.dispose()
    assert "was not made by hwsparse" in refused(tmp_path / "s.db")
    with pytest.raises(StudyError, match="was not made by hwsparse"):
        read_candidates(tmp_path / "s.db", "toy")


def test_a_search_killed_before_its_first_trial_can_begin_again(tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 's.db'}")
    optuna.create_study(storage=storage, study_name="toy", directions=["minimize", "maximize"])
    storage.remove_session()
    storage.engine.dispose()
    assert search(tmp_path / "s.db")


def test_a_search_killed_among_its_seeds_enqueues_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue, calls = optuna.Study.enqueue_trial, iter(range(100))

    def killed(self: optuna.Study, *args: object, **kwargs: object) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt
        enqueue(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "enqueue_trial", killed)
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / "s.db")
    assert search(tmp_path / "s.db") == search(tmp_path / "whole.db")


def test_several_studies_live_in_one_file(study: Path) -> None:
    assert search(study, name="other", identity=dataclasses.replace(toy.IDENTITY, target="arm"))
    assert len(search(study)) == len(read_candidates(study, "toy"))


def test_awkward_file_names_are_files(tmp_path: Path) -> None:
    path = tmp_path / "50% {odd} name?x=1#2.db"
    assert search(path) == read_candidates(path, "toy")
    assert path.is_file()


def test_a_url_is_a_database_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    assert search(url) == read_candidates(url, "toy") == read_candidates(tmp_path / "s.db", "toy")


@pytest.mark.parametrize("url", ["nosuchdb://host/x", "postgresql+nodriver://host/x", "://", "sqlite:////no/such/x.db"])
def test_a_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(StudyError):
        search(url)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"this is not a database, whatever its name says\n" * 100)
    assert "file is not a database" in refused(tmp_path / "s.db")


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "missing" / "s.db")
    (tmp_path / "dir").mkdir()
    assert "unable to open database file" in refused(tmp_path / "dir")


def test_reading_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such study file"):
        read_candidates(tmp_path / "s.db", "toy")
    assert list(tmp_path.iterdir()) == []


def test_reading_a_study_that_is_not_there(study: Path) -> None:
    with pytest.raises(StudyError, match="has no study 'other'"):
        read_candidates(study, "other")


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
    for use in (lambda: read_candidates(study, "toy"), lambda: search(study, SearchSettings(trials=9, seed=3))):
        try:
            found = use()
        except StudyError:
            continue
        for candidate in found:
            assert candidate.latency_s == toy.predict(candidate.plan).latency_s
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
    assert search(path, many) == read_candidates(path, "toy")


def test_optuna_says_nothing_and_gets_its_voice_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(logging.INFO)
    search(tmp_path / "s.db", FEW)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == logging.INFO
