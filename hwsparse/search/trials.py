"""What a trial of a study holds beside its choices, as it is written and read.

Knows no study.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from hwsparse.plan import Plan
from hwsparse.search.candidate import Candidate
from hwsparse.search.evaluation import Hopeless

# What a trial's user attributes are called: who runs it; its plan, and of which kind that is; why it failed, or else
# was interrupted; its figures, without those that it was told.
OWNER_KEY, KIND_KEY, PLAN_KEY, FAILURE_KEY, FIGURES_KEY = "owner", "kind", "plan", "failure", "figures"
INTERRUPTED_KEY = "interrupted"
INSTEAD_KEY = "instead_of"  # the number of a trial that was taken for nobody's while it was under way
_CONSTRAINTS = "constraints"  # what the names of attributes begin with where Optuna keeps them
ANSWERED = (TrialState.COMPLETE, TrialState.PRUNED)


def is_ended(trial: FrozenTrial) -> bool:
    """Whether its plan was answered, or refused for a reason; one that was interrupted is to be tried again."""
    return trial.state in ANSWERED or FAILURE_KEY in trial.user_attrs


def is_answered(trial: FrozenTrial) -> bool:
    """Whether it has told what its plan is worth."""
    return trial.state in ANSWERED


def count_answered(trials: Iterable[FrozenTrial]) -> int:
    """How many of them have told what their plan is worth."""
    return sum(map(is_answered, trials))


def figures_of(candidate: Candidate) -> dict[str, Any]:
    """What a trial's user attribute of that name holds; `candidate_of` reads it."""
    return {
        "latency_interval_s": list(candidate.latency_interval_s),
        "latency_source": candidate.latency_source,
        "quality_interval": list(candidate.quality_interval),
        "drop_error": candidate.drop_error,
    }


def candidate_of(trial: FrozenTrial) -> Candidate:
    """What a complete trial found.

    Raises:
        LookupError, TypeError, ValueError, HwsparseError: the trial is not as a search writes it.
    """
    latency_s, quality = trial.values
    figures = trial.user_attrs[FIGURES_KEY]
    latency_low, latency_high = figures["latency_interval_s"]
    quality_low, quality_high = figures["quality_interval"]
    return Candidate(
        plan=Plan.from_json(trial.user_attrs[PLAN_KEY]),
        latency_s=latency_s,
        latency_interval_s=(latency_low, latency_high),
        latency_source=figures["latency_source"],
        quality=quality,
        quality_interval=(quality_low, quality_high),
        drop_error=figures["drop_error"],
        kind=trial.user_attrs[KIND_KEY],
        trial=trial.number,
    )


def hopeless_of(trial: FrozenTrial) -> Hopeless:
    """What a trial that was given up saw.

    Raises:
        LookupError, TypeError, ValueError: the trial is not as a search writes it.
    """
    figures = trial.user_attrs[FIGURES_KEY]
    return Hopeless(float(figures["quality"]), int(figures["samples"]), float(figures["at_least"]))


def quality_of(trial: FrozenTrial) -> float:
    """What an answered trial's plan is worth; if it was given up, as far as that was seen.

    Raises:
        as `hopeless_of`.
    """
    found: float = trial.values[1] if trial.state == TrialState.COMPLETE else hopeless_of(trial).quality
    return found


def constrained(trial: FrozenTrial, constraints: Mapping[str, float]) -> FrozenTrial:
    """A trial that has ended with these constraints instead of its own."""
    others = {key: value for key, value in trial.system_attrs.items() if not key.startswith(_CONSTRAINTS)}
    return create_trial(
        state=trial.state, values=trial.values, params=trial.params, distributions=trial.distributions,
        user_attrs=trial.user_attrs, system_attrs=others, constraints=dict(constraints),
    )  # fmt: skip
