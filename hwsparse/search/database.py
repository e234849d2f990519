"""Optuna studies in a database: opened whole or refused with one line, and closed again.

A study belongs to one model, data set, target, pruner and list of choices. Its name ends with a digest of them, so that
a job of anything else has a study of its own in the same database; under a name that a user chose, a job of anything
else is refused. What is done with a study that is open is open_study.py's.

An SQLite file serves the processes of one machine, a PostgreSQL server those of many. Knows nothing of trials.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection

from hwsparse import strictjson
from hwsparse.errors import InputError, StudyError, one_line
from hwsparse.search.locks import FileLocks, Locks, PostgresLocks
from hwsparse.search.open_study import WAY_OUT, OpenStudy, translated

FORMAT = 5  # of what a study's attributes hold; raised when an older reader would be misled
LOCK_TIMEOUT_S = 10.0  # how long SQLite waits for another process's write
PATIENCE_S = 60.0  # how long a server may be away

DRIVER = "postgresql+psycopg"
# A host that is cut off is noticed in half a minute: by this end, and by the server, which then lets go of its locks.
_ALIVE = {"idle": 10, "interval": 5, "count": 3}
_CONNECT = {
    "connect_timeout": 10, "keepalives": 1, "tcp_user_timeout": 30_000,
    **{f"keepalives_{name}": value for name, value in _ALIVE.items()},
    "options": " ".join(f"-c tcp_keepalives_{name}={value}" for name, value in _ALIVE.items()),
}  # fmt: skip
IDENTITY_KEY = "hwsparse"
_DIFFERENCES = {
    "model_digest": "the model",
    "dataset_digest": "the data that choose",
    "target": "the target",
    "device": "the device or how it is described:",
    "threads": "threads:",
    "pruner": "the pruner",
}
_DIGEST = re.compile("[0-9a-f]{64}")
_DIRECTIONS = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]  # latency in seconds, quality

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StudyIdentity:
    """What every trial of a study has in common; a study of anything else is another study."""

    model_digest: str
    dataset_digest: str  # of the samples and labels that quality is measured on
    target: str  # name
    device: str  # digest of what the target is, and of the machine where it is timed there
    threads: int
    pruner: str
    asked: tuple[str, ...]  # every choice that a layer may get, if it pays there

    @property
    def digest(self) -> str:
        """sha256, in hexadecimal: equal identities have equal digests."""
        return hashlib.sha256(strictjson.dumps(self).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a study is kept: an SQLite file, or a database server by its URL; and under which name.

    `name` None: the one that tells what the study is of.

    Raises:
        InputError: a URL is of no database that can be used.
    """

    at: Path | sqlalchemy.URL
    name: str | None = None

    @classmethod
    def parse(cls, text: str, name: str | None = None) -> Place:
        """From a file's path, or a URL as postgresql://user:password@host/database.

        Raises:
            InputError: as above.
        """
        if name is not None and not (name.strip() and name.isprintable()):
            raise InputError("a study's name is printable text")
        if "://" not in text:
            return cls(Path(text), name)
        try:
            url = sqlalchemy.make_url(text)
        except (sqlalchemy.exc.ArgumentError, ValueError):  # the latter of a port that is none
            raise InputError("study: no URL; postgresql://user:password@host/database is one") from None
        if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:" and not url.query:
            return cls(Path(url.database), name)
        if url.drivername not in ("postgresql", DRIVER):
            raise InputError(f"study: {url.drivername}:// cannot be used; a file's path or postgresql:// can")
        if any("password" in key for key in url.query):
            raise InputError("study: a password belongs before the @ of a URL, where nobody else gets to see it")
        return cls(url.set(drivername=DRIVER), name)

    def __str__(self) -> str:
        if isinstance(self.at, Path):
            return str(self.at)
        return self.at.set(drivername="postgresql", query={}).render_as_string(hide_password=True)


@contextmanager
def opened_study(place: Place, name: str, identity: StudyIdentity) -> Iterator[OpenStudy]:
    """The study of this identity, made if there is none.

    Args:
        place: studies of other identities stay in it as they are.
        name: what people read, where the place has no name for it; the identity's digest is appended.

    Raises:
        StudyError: the database cannot be used, what it holds is not what this version writes, or the study of the
            place's name is of something else: it says of what.
    """
    title, name = name, f"{name}, {identity.digest[:12]}" if place.name is None else place.name
    own = {"format": FORMAT, **strictjson.encode(identity)}
    where = str(place)
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        locks = stack.enter_context(_locks(place))
        with translated(where), locks.turn():
            try:
                storage = stack.enter_context(_database(place))
            except RuntimeError as error:  # of tables that another Optuna made
                raise StudyError(f"{where}: {one_line(error)}; {WAY_OUT}") from None
            study = optuna.create_study(
                storage=storage, study_name=name, directions=_DIRECTIONS, load_if_exists=True,
                sampler=RandomSampler(),  # nothing is drawn by it: plans are proposed elsewhere (mirror.py)
            )  # fmt: skip
            attributes = study.user_attrs
            fresh = not attributes and study.directions == _DIRECTIONS and not study.get_trials(deepcopy=False)
            if fresh:
                _introduce(study, own)
                if place.name is None:
                    _say_why(study, title, own, where)
        if not fresh and (found := attributes.get(IDENTITY_KEY)) != own:
            raise StudyError(f"{where}: study {name!r} {_difference(found, own)}; {WAY_OUT}")
        patience_s = 0.0 if isinstance(place.at, Path) else PATIENCE_S
        yield OpenStudy(where, study, locks, storage, patience_s)


def _introduce(study: optuna.Study, own: dict[str, Any]) -> None:
    with warnings.catch_warnings():  # names for optuna-dashboard: experimental, but years old
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(["latency_s", "quality"])
    study.set_user_attr(IDENTITY_KEY, own)


def _say_why(study: optuna.Study, title: str, own: dict[str, Any], where: str) -> None:
    """Tells who may have meant to go on with a study under the same title that this is another one, and why."""
    names = optuna.get_all_study_names(study._storage)
    others = [name for name in names if name.startswith(f"{title}, ") and name != study.study_name]
    if others:
        found = optuna.load_study(study_name=others[-1], storage=study._storage).user_attrs.get(IDENTITY_KEY)
        log.warning("%s: a new study is begun: %r %s", where, others[-1], _difference(found, own))


@contextmanager
def _locks(place: Place) -> Iterator[Locks]:
    with ExitStack() as stack:
        if isinstance(place.at, Path):
            yield FileLocks(place.at, stack)
            return
        with translated(str(place)):
            try:
                engine = sqlalchemy.create_engine(place.at, poolclass=sqlalchemy.NullPool, connect_args=_CONNECT)
            except ImportError:
                raise StudyError(
                    f"{place}: the package that reaches it is missing: pip install 'hwsparse[postgresql]'"
                ) from None
            locks = PostgresLocks(engine, str(place), stack)
        yield locks


@contextmanager
def _database(place: Place) -> Iterator[RDBStorage]:
    at = place.at
    if isinstance(at, Path):
        # With a creator the path never passes through a URL, whose syntax some file names break.
        database = RDBStorage("sqlite:///study.db", engine_kwargs={"creator": lambda: _connect(at)})
    else:
        # A connection that was lost is found out before it is used.
        engine = {"pool_pre_ping": True, "connect_args": _CONNECT}
        database = RDBStorage(at.render_as_string(hide_password=False), engine_kwargs=engine)
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
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _difference(found: Any, own: dict[str, Any]) -> str:
    """What tells a study's identity from the one that it should have, as the end of a sentence."""
    if not isinstance(found, dict):
        return "was not made by hwsparse"
    if found.get("format") != FORMAT:
        return f"has the format {found.get('format')!r}, this hwsparse writes {FORMAT}"
    differ = [
        f"{words} {_shortened(found.get(name))}, this search has {_shortened(own[name])}"
        for name, words in _DIFFERENCES.items()
        if found.get(name) != own[name]
    ]
    if isinstance(asked := found.get("asked"), list) and asked != own["asked"]:
        here, there = (", ".join(sorted(some)) or "none" for some in _apart(map(str, own["asked"]), map(str, asked)))
        differ.append(f"other choices: there {there}, here {here} beside those of both")
    return f"is of {'; '.join(differ)}" if differ else "holds what no search keeps"


def _apart(some: Iterable[str], others: Iterable[str]) -> tuple[set[str], set[str]]:
    """What is in one and not in the other, either way."""
    first, second = set(some), set(others)
    return first - second, second - first


def _shortened(value: Any) -> str:
    """A digest's beginning; anything else as it is."""
    text = str(value)
    return text[:16] if _DIGEST.fullmatch(text) else text
