"""The study in memory that samplers write to."""

from __future__ import annotations

import optuna
import pytest
from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from hwsparse.search.mirror import Mirror
from hwsparse.search.trials import constrained

CHOICES = (("a", ("dense", "2:4")), ("b", ("block4x1@0.5", "dense", "2:4")))


def mirror() -> tuple[optuna.Study, Mirror]:
    study = optuna.create_study(directions=["minimize", "maximize"])
    return study, Mirror(CHOICES, study.directions)


@pytest.mark.parametrize("make", [RandomSampler, TPESampler, lambda seed: NSGAIISampler(seed=seed, population_size=4)])
def test_a_sampler_proposes_what_it_would_in_the_study_itself(make: object) -> None:
    """Trial after trial, with figures that depend on what was proposed."""
    study, copied = mirror()
    alone = optuna.create_study(directions=["minimize", "maximize"])
    for number in range(14):
        copied.follow(study.get_trials(deepcopy=False))
        proposed = copied.propose(make(seed=number))
        alone.sampler = make(seed=number)
        trial = alone.ask()
        expected = {name: trial.suggest_categorical(name, texts) for name, texts in CHOICES}
        assert proposed.params == expected
        values = [float(len(proposed.params["a"]) + number % 3), float(len(proposed.params["b"]))]
        alone.tell(trial, values)
        study.add_trial(create_trial(
            values=values, params=proposed.params, distributions=proposed.distributions,
            system_attrs=proposed.system_attrs,
        ))  # fmt: skip
        copied.adopt(proposed, number)


def test_what_is_given_is_what_is_proposed() -> None:
    _, copied = mirror()
    given = {"a": "2:4", "b": "dense"}
    proposed = copied.propose(RandomSampler(seed=0), given)
    assert proposed.params == given
    assert proposed.state == TrialState.RUNNING
    assert copied.propose(RandomSampler(seed=0)).number == 1


def test_it_follows_what_others_do() -> None:
    """A sampler sees trials of other processes as they are: under way first, and later with their figures."""
    study, copied = mirror()
    seen = []

    class Looking(RandomSampler):
        def sample_relative(self, study: optuna.Study, trial: object, space: object) -> dict[str, object]:
            seen.append([(each.number, each.state, each.values) for each in study.get_trials(deepcopy=False)])
            return {}

    other = study.ask()
    copied.follow(study.get_trials(deepcopy=False))
    copied.propose(Looking(seed=0))
    study.tell(other, [1.0, 2.0])
    copied.follow(study.get_trials(deepcopy=False))
    copied.propose(Looking(seed=0))
    assert seen[0][0] == (0, TrialState.RUNNING, None)
    assert seen[-1][0] == (0, TrialState.COMPLETE, [1.0, 2.0])


class Looking(RandomSampler):
    """Notes the states of what it sees."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.seen: list[TrialState] = []

    def sample_relative(self, study: optuna.Study, trial: object, space: object) -> dict[str, object]:
        self.seen = [each.state for each in study.get_trials(deepcopy=False)]
        return {}


def test_what_waits_to_be_run_is_nothing_yet() -> None:
    """As a trial is that is not there whole, or that a user has enqueued."""
    study, copied = mirror()
    study.enqueue_trial({"a": "2:4", "b": "2:4"})
    looking = Looking()
    copied.follow(study.get_trials(deepcopy=False))
    copied.propose(looking)
    assert looking.seen == [TrialState.RUNNING]  # itself
    study.tell(study.ask(), [1.0, 2.0])
    copied.follow(study.get_trials(deepcopy=False))
    copied.propose(looking)
    assert sorted(looking.seen) == [TrialState.RUNNING, TrialState.RUNNING, TrialState.COMPLETE]


def test_what_was_proposed_in_vain_is_not_under_way() -> None:
    _, copied = mirror()
    looking = Looking()
    copied.withdraw(copied.propose(looking))
    copied.propose(looking)
    assert looking.seen == [TrialState.FAIL, TrialState.RUNNING]


def test_a_sampler_sees_of_a_trial_what_it_is_to_see() -> None:
    study, copied = mirror()
    study.tell(study.ask(), [1.0, 2.0])
    seen = []

    class Weighing(RandomSampler):
        def sample_relative(self, study: optuna.Study, trial: object, space: object) -> dict[str, object]:
            seen.extend(each.constraints for each in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
            return {}

    copied.follow(study.get_trials(deepcopy=False), lambda trial: constrained(trial, {"latency": 0.5}))
    copied.propose(Weighing(seed=0))
    assert seen == [{"latency": 0.5}]
