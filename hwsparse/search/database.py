"""Optuna studies in a database: opened whole or refused with one line, and closed again.

A study belongs to one model, data set, target, space and pruner for life. Studies in a file are searched
by one process at a time, which a lock on a file beside it sees to: so a trial that is still marked as
running when the lock is had belongs to a process that is dead.

Knows Optuna and SQLite; knows no trial's content.
"""

from __future__ import annotations

import fcntl
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection

from hwsparse.errors import PlanError, StudyError

FORMAT = 2  # of what a study's attributes hold; raised when an older reader would be misled
LOCK_TIMEOUT_S = 10.0  # how long SQLite waits for another process's write

IDENTITY_KEY = "hwsparse"
_DAMAGE = (PlanError, ValueError, LookupError, TypeError, AttributeError, AssertionError)
_DIRECTIONS = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]  # latency in seconds, quality


@dataclass(frozen=True, slots=True)
class StudyIdentity:
    """What every trial of a study has in common; a study of anything else is another study."""

    dataset: str  # name
    dataset_digest: str  # of the samples and labels that quality is measured on
    target: str  # name
    threads: int
    pruner: str = "magnitude"


@contextmanager
def opened_study(
    storage: Path | str, name: str, identity: StudyIdentity, model_digest: str, space_digest: str
) -> Iterator[optuna.Study]:
    """The study, made if there is none, for the one process that has it.

    Args:
        storage: an SQLite file, made if there is none, or any database URL that SQLAlchemy takes. Keeping
            a second process from a study behind a URL is left to the caller.
        name: of the study within the database.

    Raises:
        StudyError: the database cannot be used, another process has it, or the study is of something else.
    """
    own = {"format": FORMAT, "model": model_digest, "space": space_digest, **asdict(identity)}
    with _lock(storage), _quiet(), _database(storage) as database:
        with translated(storage):
            study = optuna.create_study(storage=database, study_name=name, directions=_DIRECTIONS, load_if_exists=True)
            found = study.user_attrs.get(IDENTITY_KEY)
            fresh = found is None and study.directions == _DIRECTIONS and not study.get_trials(deepcopy=False)
            if fresh:
                _introduce(study, own)
        if not fresh and found != own:
            raise StudyError(_difference(f"{storage}: study {name!r}", found, own))
        yield study


@contextmanager
def existing_study(storage: Path | str, name: str) -> Iterator[optuna.Study]:
    """A study to read, whoever searches it.

    Raises:
        StudyError: there is no such study, or the database cannot be read.
    """
    if _file(storage) is not None and not Path(storage).is_file():
        raise StudyError(f"{storage}: there is no such study file")
    with _quiet(), _database(storage) as database:
        with translated(storage):
            if name not in optuna.get_all_study_names(database):
                raise StudyError(f"{storage}: has no study {name!r}")
            study = optuna.load_study(study_name=name, storage=database)
            found = study.user_attrs.get(IDENTITY_KEY)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise StudyError(_difference(f"{storage}: study {name!r}", found, {"format": FORMAT}))
        yield study


def _introduce(study: optuna.Study, own: dict[str, Any]) -> None:
    with warnings.catch_warnings():  # names for optuna-dashboard: experimental, but years old
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(["latency_s", "quality"])
    study.set_user_attr(IDENTITY_KEY, own)


@contextmanager
def translated(storage: Path | str) -> Iterator[None]:
    """Turns what the database raises into a StudyError of one line; holds nothing but calls of Optuna.

    A damaged database also comes as the error of whatever stumbles over its content.
    """
    try:
        yield
    except (OptunaError, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, *_DAMAGE) as error:
        innermost: BaseException = error
        while innermost.__cause__ is not None:
            innermost = innermost.__cause__
        reason = " ".join(str(innermost).split())
        raise StudyError(f"{storage}: the study's database cannot be used: {reason}") from None


@contextmanager
def _database(storage: Path | str) -> Iterator[RDBStorage]:
    path = _file(storage)
    with translated(storage):
        if path is None:
            database = RDBStorage(str(storage).replace("{", "{{").replace("}", "}}"))
        else:
            # With a creator the path never passes through a URL, whose syntax some file names break.
            database = RDBStorage("sqlite:///study.db", engine_kwargs={"creator": lambda: _connect(path)})
    try:
        yield database
    finally:
        database.remove_session()
        database.engine.dispose()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, check_same_thread=False)
    try:
        # A trial is dozens of small commits. With a write-ahead log they cost no wait for the disk: a kill
        # loses nothing, a power cut the last trials at worst.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _file(storage: Path | str) -> Path | None:
    return None if "://" in str(storage) else Path(storage)


@contextmanager
def _lock(storage: Path | str) -> Iterator[None]:
    path = _file(storage)
    if path is None:
        yield
        return
    try:
        file = path.with_name(path.name + ".lock").open("a")
    except OSError as error:
        raise StudyError(f"{path}: a study cannot be kept there: {error.strerror}") from None
    with file:
        try:
            # lockf, not flock: a forked worker that outlives its parent must not keep the lock.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StudyError(f"{path}: another search is using it; wait for it or take another file") from None
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _difference(where: str, found: Any, own: dict[str, Any]) -> str:
    if not isinstance(found, dict):
        return f"{where} was not made by hwsparse; take another name"
    what = next(key for key in own if found.get(key) != own[key])
    if what == "format":
        return f"{where} has the format {found.get(what)!r}, this hwsparse writes {FORMAT}; take another name"
    readable = {
        "space": "search space",
        "dataset": "data set",
        "dataset_digest": "data",
        "threads": "number of threads",
    }
    return (
        f"{where} is of another {readable.get(what, what)}: "
        f"{_short(found.get(what))} there, {_short(own[what])} now; take another name"
    )


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
