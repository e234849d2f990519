"""Where samplers work: a copy of the study in memory, to which they may write as much as they like.

Optuna writes a trial to its database choice by choice, each of them for good: sixty layers take fifty milliseconds, and
a process that is killed leaves half a plan. Here a plan is proposed in memory, and is added to the database whole.

Knows no plans: a trial is a text for each of the names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState


class Mirror:
    """A study's trials in memory, and what is proposed for it."""

    def __init__(self, choices: Sequence[tuple[str, Sequence[str]]], directions: Sequence[StudyDirection]) -> None:
        """An empty one, of a study whose parameters are texts to choose from, by name."""
        self._choices = choices
        self._storage = InMemoryStorage()
        self._study = optuna.create_study(storage=self._storage, directions=list(directions))
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._unfinished: dict[int, int] = {}  # their ids here, by the study's number
        self._seen: set[int] = set()

    def follow(
        self, trials: Sequence[FrozenTrial], seen: Callable[[FrozenTrial], FrozenTrial] = lambda trial: trial
    ) -> None:
        """Takes over what is new of the study's trials; of one that waits to be run there is nothing yet.

        Args:
            seen: what samplers are to see of a trial; its number may be another.
        """
        for trial in trials:
            number = trial.number
            if trial.state == TrialState.WAITING:
                continue
            if number not in self._seen:
                self._seen.add(number)
                copied = self._storage.create_new_trial(self._study_id, seen(trial))
                if not trial.state.is_finished():
                    self._unfinished[number] = copied
            elif trial.state.is_finished() and number in self._unfinished:
                self._finish(self._unfinished.pop(number), seen(trial))

    def propose(self, sampler: BaseSampler, given: Mapping[str, str] | None = None) -> FrozenTrial:
        """A trial that the study does not have yet (see `adopt`); what is not given is the sampler's choice."""
        self._study.sampler = sampler
        if given is not None:
            self._study.enqueue_trial(dict(given))
        trial = self._study.ask()
        # Computed even where every parameter is given: it is how NSGA-II takes note of a trial's generation.
        _ = trial.relative_params
        for name, texts in self._choices:
            trial.suggest_categorical(name, texts)
        return self._storage.get_trial(self._id_here(trial.number))

    def adopt(self, proposed: FrozenTrial, number: int) -> None:
        """Takes note that the study has what was proposed last, under this number."""
        self._seen.add(number)
        self._unfinished[number] = self._id_here(proposed.number)

    def withdraw(self, proposed: FrozenTrial) -> None:
        """Takes note that the study will not have what was proposed last."""
        self._storage.set_trial_state_values(self._id_here(proposed.number), TrialState.FAIL)

    def _id_here(self, number_here: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number_here)

    def _finish(self, id_here: int, trial: FrozenTrial) -> None:
        for key, value in trial.user_attrs.items():
            self._storage.set_trial_user_attr(id_here, key, value)
        for key, value in trial.system_attrs.items():
            self._storage.set_trial_system_attr(id_here, key, value)
        self._storage.set_trial_state_values(id_here, trial.state, trial.values)
