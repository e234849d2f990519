"""Optuna studies in a database: opened whole or refused with one line, and closed again.

A study belongs to one model, data set, target, pruner and list of choices, which are in its name: a job of
anything else has a study of its own in the same file. Studies in a file are searched by one process at a
time, which a lock on a file beside it sees to: so a trial that is still marked as running when the lock is
had belongs to a process that is dead.

Knows Optuna and SQLite; knows no trial's content.
"""

from __future__ import annotations

import fcntl
import hashlib
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection

from hwsparse import strictjson
from hwsparse.errors import HwsparseError, PlanError, StudyError
from hwsparse.search.space import SettledChoices

FORMAT = 3  # of what a study's attributes hold; raised when an older reader would be misled
LOCK_TIMEOUT_S = 10.0  # how long SQLite waits for another process's write

IDENTITY_KEY = "hwsparse"
_SETTLED_KEY = "choices"
_WAY_OUT = "remove that file or choose another output directory"
_DAMAGE = (PlanError, ValueError, LookupError, TypeError, AttributeError, AssertionError)
_DIRECTIONS = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]  # latency in seconds, quality


@dataclass(frozen=True, slots=True)
class StudyIdentity:
    """What every trial of a study has in common; a study of anything else is another study."""

    model_digest: str
    dataset_digest: str  # of the samples and labels that quality is measured on
    target: str  # name
    threads: int
    pruner: str
    asked: tuple[str, ...]  # every choice that a layer may get, if it pays there

    @property
    def digest(self) -> str:
        """sha256, in hexadecimal: equal identities have equal digests."""
        return hashlib.sha256(strictjson.dumps(self).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A study that this process has to itself.

    `settled` is what it chooses from; None until its search begins.
    """

    storage: Path
    optuna: optuna.Study
    settled: SettledChoices | None

    def settle(self, choices: SettledChoices) -> None:
        """Keeps what the study chooses from, for all searches that go on with it.

        Raises:
            StudyError: the database cannot be written.
        """
        with translated(self.storage):
            self.optuna.set_user_attr(_SETTLED_KEY, strictjson.dumps(choices))


@contextmanager
def opened_study(storage: Path, name: str, identity: StudyIdentity) -> Iterator[OpenStudy]:
    """The study of this identity, made if there is none, for the one process that has it.

    Args:
        storage: an SQLite file, made if there is none; studies of other identities stay in it as they are.
        name: what people read; the identity's digest is appended to it.

    Raises:
        StudyError: the database cannot be used, another process has it, or what it holds is not what this
            version writes.
    """
    name = f"{name}, {identity.digest[:12]}"
    own = {"format": FORMAT, **strictjson.encode(identity)}
    with _lock(storage), _quiet(), _database(storage) as database:
        with translated(storage):
            study = optuna.create_study(storage=database, study_name=name, directions=_DIRECTIONS, load_if_exists=True)
            attributes = study.user_attrs
            fresh = not attributes and study.directions == _DIRECTIONS and not study.get_trials(deepcopy=False)
            if fresh:
                _introduce(study, own)
        if not fresh and (found := attributes.get(IDENTITY_KEY)) != own:
            raise StudyError(f"{storage}: study {name!r} {_difference(found)}; {_WAY_OUT}")
        yield OpenStudy(storage, study, _settled(storage, attributes.get(_SETTLED_KEY)))


def _settled(storage: Path, text: Any) -> SettledChoices | None:
    if text is None:
        return None
    try:
        return strictjson.loads(SettledChoices, str(text), "its choices")
    except HwsparseError as error:
        raise StudyError(f"{storage}: the study's database cannot be used: {error}; {_WAY_OUT}") from None


def _introduce(study: optuna.Study, own: dict[str, Any]) -> None:
    with warnings.catch_warnings():  # names for optuna-dashboard: experimental, but years old
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(["latency_s", "quality"])
    study.set_user_attr(IDENTITY_KEY, own)


@contextmanager
def translated(storage: Path) -> Iterator[None]:
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
def _database(path: Path) -> Iterator[RDBStorage]:
    with translated(path):
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


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    try:
        file = path.with_name(path.name + ".lock").open("a")
    except OSError as error:
        raise StudyError(f"{path}: a study cannot be kept there: {error.strerror}") from None
    with file:
        try:
            # lockf, not flock: a forked worker that outlives its parent must not keep the lock.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StudyError(
                f"{path}: another search is using it; wait for it or choose another output directory"
            ) from None
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _difference(found: Any) -> str:
    if not isinstance(found, dict):
        return "was not made by hwsparse"
    if found.get("format") != FORMAT:
        return f"has the format {found.get('format')!r}, this hwsparse writes {FORMAT}"
    return "is not of what its name says"
