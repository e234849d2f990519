"""A study that is open: what this process adds to it, and what it takes note of, whoever else works on it.

What must not be done at once is done in turns (locks.py). A call that a server did not answer is made again, so each is
written to be made twice. Of trials' content it knows whose they are, and no more.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.distributions import distribution_to_json
from optuna.exceptions import OptunaError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from hwsparse import strictjson
from hwsparse.errors import HwsparseError, PlanError, StudyError
from hwsparse.search.locks import Locks
from hwsparse.search.space import Beginning
from hwsparse.search.trials import INSTEAD_KEY, INTERRUPTED_KEY, OWNER_KEY, PLAN_KEY

PAUSE_S = 1.0  # between calls while a server is away
BEGINNING_KEY = "choices"
WAY_OUT = "remove that study or choose another place for it"
_DAMAGE = (PlanError, ValueError, LookupError, TypeError, AttributeError, AssertionError)

# Optuna writes parameters one by one, looking for each of them first, and reads all of a trial to tell its number: a
# millisecond for every layer. These are its tables.
_PARAMETERS = sqlalchemy.table(
    "trial_params", *map(sqlalchemy.column, ("trial_id", "param_name", "param_value", "distribution_json"))
)

_TRIALS = sqlalchemy.table("trials", *map(sqlalchemy.column, ("trial_id", "number")))

log = logging.getLogger(__name__)
T = TypeVar("T")


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
        text = self.patiently(lambda: self.optuna.user_attrs.get(BEGINNING_KEY))
        if text is None:
            return None
        try:
            return strictjson.loads(Beginning, str(text), "its choices")
        except HwsparseError as error:
            raise StudyError(f"{self.where}: the study's database cannot be used: {error}; {WAY_OUT}") from None

    def begin(self, beginning: Beginning) -> Beginning:
        """Keeps what the study chooses from, for all searches of it; the one that was kept first is returned.

        Raises:
            StudyError: the database cannot be used.
        """
        with self.turn():
            there = self.beginning
            if there is None:
                self.patiently(lambda: self.optuna.set_user_attr(BEGINNING_KEY, strictjson.dumps(beginning)))
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

        begun: list[Entry] = []

        def added() -> Entry:
            # A server may have done what it was asked for, and gone away before it said so.
            if begun and self.storage.get_trial(begun[-1].trial_id).state == TrialState.RUNNING:
                return begun[-1]
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
            begun.append(Entry(number, trial_id))
            self.storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            return begun[-1]

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
        nobodys = {number: "who ran it is gone" for number, owner in owners.items() if not alive[owner]} | {
            each.number: "it was not added whole"
            for each in trials
            if each.state == TrialState.WAITING and OWNER_KEY in each.user_attrs
        }
        for number, reason in nobodys.items():
            self.end(Entry(number, self._trial_id(number)), reason)
        return self.trials() if nobodys else trials

    def end(self, entry: Entry, reason: str, patience_s: float | None = None) -> None:
        """Ends a trial that found nothing, unless it has ended; its plan is to be tried again.

        Args:
            reason: why it was interrupted, for those who look at the study.

        Raises:
            StudyError: the database cannot be used.
        """

        def ended() -> None:
            with suppress(UpdateFinishedTrialError):
                self.storage.set_trial_user_attr(entry.trial_id, INTERRUPTED_KEY, reason)
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
            while a server was away, stays so. A new trial has it, unless the plan is being tried again already.

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
                with self.locks.turn():
                    return self._told_instead(entry, state, values, attributes, constraints)
            return True

        return self.patiently(told)

    def _told_instead(
        self,
        entry: Entry,
        state: TrialState,
        values: Sequence[float] | None,
        attributes: Mapping[str, Any],
        constraints: Mapping[str, float],
    ) -> bool:
        """What `tell` does, in a turn, of a trial that has ended."""
        trials = self.optuna.get_trials(deepcopy=False)
        there = trials[entry.number]
        if there.state == state and attributes.items() <= there.user_attrs.items():
            return True  # told at the first attempt
        later = trials[entry.number + 1 :]
        plan = there.user_attrs.get(PLAN_KEY)
        again = [each for each in later if each.user_attrs.get(PLAN_KEY) == plan and each.state != TrialState.FAIL]
        if not again and not any(each.user_attrs.get(INSTEAD_KEY) == entry.number for each in later):
            kept = {key: value for key, value in there.user_attrs.items() if key != INTERRUPTED_KEY}
            self.optuna.add_trial(
                create_trial(
                    state=state, values=values, params=there.params, distributions=there.distributions,
                    user_attrs={**kept, **attributes, INSTEAD_KEY: entry.number},
                    system_attrs=there.system_attrs, constraints=dict(constraints),
                )
            )  # fmt: skip
        return False

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
