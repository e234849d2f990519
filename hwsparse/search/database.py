"""Optuna studies in a database: opened whole or refused with one line, and closed again.

A study belongs to one model, data set, target, pruner and list of choices. Its name ends with a digest of them, so that
a job of anything else has a study of its own in the same database; under a name that a user chose, a job of anything
else is refused. Several processes may work on one study: what they must not do at once they do in turns (locks.py).

An SQLite file serves the processes of one machine, a PostgreSQL server those of many. Of trials' content it knows whose
they are, and no more.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.distributions import distribution_to_json
from optuna.exceptions import ExperimentalWarning, OptunaError, StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from hwsparse import strictjson
from hwsparse.errors import HwsparseError, InputError, PlanError, StudyError, one_line
from hwsparse.search.locks import FileLocks, Locks, PostgresLocks
from hwsparse.search.space import Beginning
from hwsparse.search.trials import INSTEAD_KEY, OWNER_KEY

FORMAT = 4  # of what a study's attributes hold; raised when an older reader would be misled
LOCK_TIMEOUT_S = 10.0  # how long SQLite waits for another process's write
PATIENCE_S = 60.0  # how long a server may be away
PAUSE_S = 1.0

DRIVER = "postgresql+psycopg"
# A host that is cut off is noticed in half a minute: by this end, and by the server, which then lets go of its locks.
_ALIVE = {"idle": 10, "interval": 5, "count": 3}
_CONNECT = {
    "connect_timeout": 10, "keepalives": 1, "tcp_user_timeout": 30_000,
    **{f"keepalives_{name}": value for name, value in _ALIVE.items()},
    "options": " ".join(f"-c tcp_keepalives_{name}={value}" for name, value in _ALIVE.items()),
}  # fmt: skip
IDENTITY_KEY = "hwsparse"
_BEGINNING_KEY = "choices"
_DIFFERENCES = {
    "model_digest": "the model",
    "dataset_digest": "the data that choose",
    "target": "the target",
    "threads": "threads:",
    "pruner": "the pruner",
}
_DIGEST = re.compile("[0-9a-f]{64}")
_WAY_OUT = "remove that study or choose another place for it"
_DAMAGE = (PlanError, ValueError, LookupError, TypeError, AttributeError, AssertionError)
_DIRECTIONS = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]  # latency in seconds, quality

# Optuna writes parameters one by one, looking for each of them first, and reads all of a trial to tell its number: a
# millisecond for every layer. These are its tables.
_PARAMETERS = sqlalchemy.table(
    "trial_params", *map(sqlalchemy.column, ("trial_id", "param_name", "param_value", "distribution_json"))
)

_TRIALS = sqlalchemy.table("trials", *map(sqlalchemy.column, ("trial_id", "number")))

log = logging.getLogger(__name__)
T = TypeVar("T")


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


@dataclass(frozen=True, slots=True)
class Entry:
    """A trial of this process, as the database knows it."""

    number: int
    trial_id: int


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A study that this process works on, others perhaps too."""

    where: str  # without passwords
    optuna: optuna.Study
    locks: Locks
    storage: RDBStorage
    patience_s: float

    @property
    def beginning(self) -> Beginning | None:
        """What it chooses from, and tries first; None until its search begins.

        Raises:
            StudyError: the database cannot be read, or what it holds is none.
        """
        text = self.patiently(lambda: self.optuna.user_attrs.get(_BEGINNING_KEY))
        if text is None:
            return None
        try:
            return strictjson.loads(Beginning, str(text), "its choices")
        except HwsparseError as error:
            raise StudyError(f"{self.where}: the study's database cannot be used: {error}; {_WAY_OUT}") from None

    def begin(self, beginning: Beginning) -> Beginning:
        """Keeps what the study chooses from, for all searches of it; the one that was kept first is returned.

        Raises:
            StudyError: the database cannot be used.
        """
        with self.turn():
            there = self.beginning
            if there is None:
                self.patiently(lambda: self.optuna.set_user_attr(_BEGINNING_KEY, strictjson.dumps(beginning)))
        return beginning if there is None else there

    @contextmanager
    def turn(self) -> Iterator[None]:
        """No other process adds to the study meanwhile.

        Raises:
            StudyError: the database cannot be used, or another process has the turn for too long.
        """
        with ExitStack() as stack:
            self.patiently(lambda: stack.enter_context(self.locks.turn()))
            yield

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number; not to be changed.

        Raises:
            StudyError: the database cannot be used.
        """
        return self.patiently(lambda: self.optuna.get_trials(deepcopy=False))

    def add(self, trial: FrozenTrial) -> Entry:
        """Adds a trial that is under way, with everything that it holds, or nothing of it.

        Raises:
            StudyError: the database cannot be used.
        """

        def added() -> Entry:
            study_id = self.storage.get_study_id_from_name(self.optuna.study_name)
            # Nobody runs it, nor takes it for a trial, until all of it is there.
            bare = copy(trial)
            bare.params, bare.distributions, bare.state, bare.datetime_start = {}, {}, TrialState.WAITING, None
            trial_id = self.storage.create_new_trial(study_id, bare)
            rows = [
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": distribution.to_internal_repr(trial.params[name]),
                    "distribution_json": distribution_to_json(distribution),
                }
                for name, distribution in trial.distributions.items()
            ]
            with self.storage.engine.begin() as connection:
                if rows:
                    connection.execute(_PARAMETERS.insert(), rows)
                number = connection.scalar(sqlalchemy.select(_TRIALS.c.number).where(_TRIALS.c.trial_id == trial_id))
            if number is None:
                raise LookupError(f"trial {trial_id} is gone")
            self.storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            return Entry(number, trial_id)

        return self.patiently(added)

    def live_trials(self) -> list[FrozenTrial]:
        """All trials, of which none is under way that nobody runs any more: those are ended.

        In a turn only: what was not added whole is ended too.

        Raises:
            StudyError: the database cannot be used.
        """
        trials = self.trials()
        owners = {
            trial.number: trial.user_attrs.get(OWNER_KEY) for trial in trials if trial.state == TrialState.RUNNING
        }
        alive = {owner: self._alive(owner) for owner in owners.values()}
        nobodys = [number for number, owner in owners.items() if not alive[owner]]
        nobodys += [each.number for each in trials if each.state == TrialState.WAITING and OWNER_KEY in each.user_attrs]
        for number in nobodys:
            self.end(Entry(number, self._trial_id(number)))
        return self.trials() if nobodys else trials

    def end(self, entry: Entry, patience_s: float | None = None) -> None:
        """Ends a trial that found nothing, unless it has ended; its plan is to be tried again.

        Raises:
            StudyError: the database cannot be used.
        """

        def ended() -> None:
            with suppress(UpdateFinishedTrialError):
                self.storage.set_trial_state_values(entry.trial_id, TrialState.FAIL)

        self.patiently(ended, patience_s)

    def tell(
        self,
        entry: Entry,
        state: TrialState,
        values: Sequence[float] | None,
        attributes: Mapping[str, Any],
        constraints: Mapping[str, float],
    ) -> bool:
        """Ends a trial of this process, with all that is to be kept of it.

        Returns:
            Whether it is that trial which has it all: one that another process ended, which took this one for dead
            while a server was away, stays so, and a new trial has it.

        Raises:
            StudyError: the database cannot be used.
        """

        def told() -> bool:
            try:
                for key, value in attributes.items():
                    self.storage.set_trial_user_attr(entry.trial_id, key, value)
                if constraints:
                    trial = Trial(self.optuna, entry.trial_id)
                    for name in constraints.keys() - trial.constraints.keys():
                        trial.set_constraint(name, constraints[name])
                self.storage.set_trial_state_values(entry.trial_id, state, values)
            except UpdateFinishedTrialError:
                trials = self.optuna.get_trials(deepcopy=False)
                there = trials[entry.number]
                if there.state == state and attributes.items() <= there.user_attrs.items():
                    return True  # told at the first attempt
                if not any(each.user_attrs.get(INSTEAD_KEY) == entry.number for each in trials):
                    self.optuna.add_trial(
                        create_trial(
                            state=state, values=values, params=there.params, distributions=there.distributions,
                            user_attrs={**there.user_attrs, **attributes, INSTEAD_KEY: entry.number},
                            system_attrs=there.system_attrs, constraints=dict(constraints),
                        )
                    )  # fmt: skip
                return False
            return True

        return self.patiently(told)

    def _trial_id(self, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(self.optuna.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def _alive(self, owner: Any) -> bool:
        """Whether a process of this sign works on the study; what is no sign is nobody's."""
        return isinstance(owner, int) and owner > 0 and self.patiently(partial(self.locks.alive, owner))

    def patiently(self, call: Callable[[], T], patience_s: float | None = None) -> T:
        """What a call of Optuna gives; while a server is away it is made again, for a minute unless told otherwise.

        Raises:
            StudyError: the database cannot be used.
        """
        end = time.monotonic() + (self.patience_s if patience_s is None else patience_s)
        said = False
        with translated(self.where):
            while True:
                try:
                    return call()
                except (StorageInternalError, sqlalchemy.exc.OperationalError) as error:
                    if time.monotonic() > end or not _is_away(error):
                        raise
                    if not said:
                        log.warning("%s: the study's database does not answer; asking again", self.where)
                    said = True
                    time.sleep(PAUSE_S)
        raise AssertionError  # translated() lets nothing through


def _is_away(error: BaseException | None) -> bool:
    """Whether a server did not answer, or is about to go: not that it refused."""
    while error is not None:
        original = getattr(error, "orig", None)
        if original is not None:
            state = getattr(original, "sqlstate", None)
            return state is None or state[:2] in ("08", "57")  # connections; an operator's intervention
        error = error.__cause__
    return False


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
    name = f"{name}, {identity.digest[:12]}" if place.name is None else place.name
    own = {"format": FORMAT, **strictjson.encode(identity)}
    where = str(place)
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        locks = stack.enter_context(_locks(place))
        with translated(where), locks.turn():
            try:
                storage = stack.enter_context(_database(place))
            except RuntimeError as error:  # of tables that another Optuna made
                raise StudyError(f"{where}: {one_line(error)}; {_WAY_OUT}") from None
            study = optuna.create_study(
                storage=storage, study_name=name, directions=_DIRECTIONS, load_if_exists=True,
                sampler=RandomSampler(),  # nothing is drawn by it: plans are proposed elsewhere (mirror.py)
            )  # fmt: skip
            attributes = study.user_attrs
            fresh = not attributes and study.directions == _DIRECTIONS and not study.get_trials(deepcopy=False)
            if fresh:
                _introduce(study, own)
        if not fresh and (found := attributes.get(IDENTITY_KEY)) != own:
            raise StudyError(f"{where}: study {name!r} {_difference(found, own)}; {_WAY_OUT}")
        patience_s = 0.0 if isinstance(place.at, Path) else PATIENCE_S
        yield OpenStudy(where, study, locks, storage, patience_s)


def _introduce(study: optuna.Study, own: dict[str, Any]) -> None:
    with warnings.catch_warnings():  # names for optuna-dashboard: experimental, but years old
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(["latency_s", "quality"])
    study.set_user_attr(IDENTITY_KEY, own)


@contextmanager
def translated(where: str) -> Iterator[None]:
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
        raise StudyError(f"{where}: the study's database cannot be used: {reason}") from None


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
