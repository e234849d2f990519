"""The search: plans proposed by an Optuna study, evaluated one by one, kept in a database.

A trial is complete when its figures are in the database. Whatever stops a search, a kill included, costs
no more than the trial that was running, and its plan is tried again when the search goes on. A plan is
evaluated once: a sampler that proposes it again gets the figures that are there, and that is a trial too.

A study keeps the choices that it began with; where one of them cannot be had any more, the layer is dense.
Quality is kept and latency is not: whoever goes on with a study may know the device better, so what is
returned has the latencies predicted now. The sampler learns from those of the time of the trial.

Sees latency and quality only through the two callables it is given: no TVM, no onnxruntime.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast, get_args

import optuna
from optuna.trial import FrozenTrial, TrialState

from hwsparse.errors import Cancelled, HwsparseError, StudyError
from hwsparse.plan import Plan
from hwsparse.search.additive import Additive
from hwsparse.search.candidate import Candidate, Kind, Source
from hwsparse.search.database import OpenStudy, translated
from hwsparse.search.samplers import SamplerName, make_sampler
from hwsparse.search.seeds import seed_plans
from hwsparse.search.space import SearchSpace, SettledChoices

_SEEDS_KEY = "seeds"  # study: how many plans were enqueued at the start; there once all of them are
_RETRY_KEY = "retry_of"  # trial: the number of the interrupted trial that it repeats
_FAILURE_KEY = "failure"  # trial: why it failed; a failed trial without it was interrupted


class Latency(Protocol):
    """What is predicted for a plan: seconds, a 95 % interval, and how they are known."""

    @property
    def latency_s(self) -> float: ...
    @property
    def interval_s(self) -> tuple[float, float]: ...
    @property
    def source(self) -> str: ...


class Quality(Protocol):
    """How good a pruned model is, more being better, with a 95 % interval, and how sure its loss is."""

    @property
    def value(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float]: ...
    @property
    def drop_error(self) -> float: ...


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How far and how to search.

    `seed_share` of the trials are structured plans (see seeds.py), the others come from the sampler.
    """

    trials: int = 100
    seed: int = 0
    sampler: SamplerName = "front"
    seed_share: float = 0.25
    max_failures: int = 10  # so many failed trials in a row end the search
    worst_drop: float | None = None  # a greater loss of quality is not worth having; None: any is

    def __post_init__(self) -> None:
        if self.trials < 1 or self.max_failures < 1 or self.seed < 0:
            raise StudyError(f"a search needs at least 1 trial and 1 failure, and a seed from 0 up, not {self}")
        if not 0 <= self.seed_share <= 1:
            raise StudyError(f"the share of structured trials is between 0 and 1, not {self.seed_share}")
        if self.sampler not in get_args(SamplerName):
            raise StudyError(f"{self.sampler!r} is no sampler; use {', '.join(get_args(SamplerName))}")


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """How a trial ended, and how far the search is: `done` of `asked` trials are complete.

    `known` are the plans evaluated so far, those of earlier searches included.
    """

    number: int
    done: int
    asked: int
    candidate: Candidate | None
    failure: str | None
    elapsed_s: float
    known: tuple[Candidate, ...]


def run_search(
    study: OpenStudy,
    space: SearchSpace,
    evaluate_quality: Callable[[Plan], Quality],
    predict_latency: Callable[[Plan], Latency],
    settings: SearchSettings,
    *,
    on_trial: Callable[[TrialOutcome], None] = lambda outcome: None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Candidate, ...]:
    """Searches until the study has the trials asked for; goes on with a study that was stopped.

    Args:
        space: the plans that can be had. A study that goes on chooses among those of them that it began with.
        evaluate_quality: on calibration data. An HwsparseError fails the trial and the search goes on;
            anything else, Cancelled included, stops it.
        predict_latency: on the target, of every plan in the space; errors as above.
        on_trial: called after each trial; what it raises stops the search.
        clock: seconds, for the time that a trial took.

    Returns:
        Every plan evaluated that can still be had, in the order of the trials, each once.

    Raises:
        StudyError: the study's database cannot be used, its choices are not of this model's layers, or too
            many trials failed in a row.
    """
    settled = study.settled
    if settled is None:
        settled = SettledChoices.of(space)
        study.settle(settled)
    if unknown := {name for name, _ in settled.layers} - {layer.layer for layer in space.layers}:
        raise StudyError(f"{study.storage}: the study has choices for {min(unknown)!r}, which is no layer of the model")
    search = _Search(
        study, settled, space, Additive(space), evaluate_quality, predict_latency, settings, on_trial, clock
    )
    with translated(study.storage):
        _set_running_aside(study.optuna, settled)
        _enqueue_seeds(study.optuna, settled, space, settings)
    try:
        search.run()
    except BaseException:
        with suppress(StudyError), translated(study.storage):  # the first error is the one to be read
            _set_running_aside(study.optuna, settled)
        raise
    return _candidates(study, space, predict_latency)


@dataclass(slots=True)
class _Search:
    study: OpenStudy
    settled: SettledChoices
    space: SearchSpace
    additive: Additive
    evaluate_quality: Callable[[Plan], Quality]
    predict_latency: Callable[[Plan], Latency]
    settings: SearchSettings
    on_trial: Callable[[TrialOutcome], None]
    clock: Callable[[], float]

    def run(self) -> None:
        found = _candidates(self.study, self.space, self.predict_latency)
        known = {candidate.plan.to_json(): candidate for candidate in found}
        refused: dict[str, str] = {}  # failures of this run; in another run the plan gets another chance
        with translated(self.study.storage):
            done, failed, last_failed = _tally(self.study.optuna)
        failed_in_row = 0
        while done < self.settings.trials:
            started = self.clock()
            with translated(self.study.storage):
                trial, plan = self._ask(done + failed, last_failed)
            text = plan.to_json()
            candidate, failure = known.get(text), refused.get(text)
            if candidate is None and failure is None:
                kind = cast(Kind, trial.user_attrs.get("kind", "search"))
                candidate, failure = self._evaluate(plan, kind, trial.number)
            elapsed_s = self.clock() - started
            with translated(self.study.storage):
                self._tell(trial, candidate, failure, elapsed_s)
            last_failed = candidate is None
            if candidate is not None:
                known.setdefault(text, candidate)
                done, failed_in_row = done + 1, 0
            else:
                refused[text] = str(failure)
                failed, failed_in_row = failed + 1, failed_in_row + 1
            progress = TrialOutcome(
                trial.number, done, self.settings.trials, candidate, failure, elapsed_s, tuple(known.values())
            )
            self.on_trial(progress)
            if failed_in_row == self.settings.max_failures:
                gave_up = f"gave up after {failed_in_row} failed trials in a row"
                raise StudyError(f"{self.study.storage}: {gave_up}, the last one: {failure}")

    def _ask(self, trials_behind: int, last_failed: bool) -> tuple[optuna.Trial, Plan]:
        # Stock samplers learn nothing from failed trials: after one, they would be likely to propose the same again.
        settings = self.settings
        sampler = "random" if last_failed and settings.sampler != "front" else settings.sampler
        self.study.optuna.sampler = make_sampler(
            sampler, settings.seed, trials_behind, self.additive, self.settled, settings.worst_drop
        )
        trial = self.study.optuna.ask()
        # Computed even where every parameter is given: it is how NSGA-II takes note of a trial's generation.
        _ = trial.relative_params
        texts = {name: trial.suggest_categorical(name, texts) for name, texts in self.settled.layers}
        return trial, self.additive.plan(self.additive.row(texts))

    def _evaluate(self, plan: Plan, kind: Kind, number: int) -> tuple[Candidate | None, str | None]:
        try:
            latency = self.predict_latency(plan)
            quality = self.evaluate_quality(plan)
            candidate = Candidate(
                plan=plan,
                latency_s=latency.latency_s,
                latency_interval_s=latency.interval_s,
                latency_source=cast(Source, latency.source),
                quality=quality.value,
                quality_interval=quality.interval,
                drop_error=quality.drop_error,
                kind=kind,
                trial=number,
            )
            return candidate, None
        except Cancelled:
            raise
        except HwsparseError as error:
            return None, str(error)

    def _tell(self, trial: optuna.Trial, candidate: Candidate | None, failure: str | None, elapsed_s: float) -> None:
        trial.set_user_attr("elapsed_s", elapsed_s)
        if candidate is None:
            trial.set_user_attr(_FAILURE_KEY, failure)
            self.study.optuna.tell(trial, state=TrialState.FAIL)
            return
        for key, value in _attributes(candidate).items():
            trial.set_user_attr(key, value)
        if candidate.trial != trial.number:
            trial.set_user_attr("figures_of", candidate.trial)
        self.study.optuna.tell(trial, [candidate.latency_s, candidate.quality])


def _tally(study: optuna.Study) -> tuple[int, int, bool]:
    """How many trials are complete, how many failed, and whether the last of them failed."""
    ended = [
        trial.state == TrialState.COMPLETE
        for trial in study.get_trials(deepcopy=False)
        if trial.state == TrialState.COMPLETE or _FAILURE_KEY in trial.user_attrs
    ]
    return sum(ended), len(ended) - sum(ended), bool(ended) and not ended[-1]


def _attributes(candidate: Candidate) -> dict[str, Any]:
    """What a trial's user attributes hold; `_candidate` reads it."""
    return {
        "plan": candidate.plan.to_json(),
        "kind": candidate.kind,
        "latency_interval_s": list(candidate.latency_interval_s),
        "latency_source": candidate.latency_source,
        "quality_interval": list(candidate.quality_interval),
        "drop_error": candidate.drop_error,
    }


def _candidate(trial: FrozenTrial) -> Candidate:
    latency_s, quality = trial.values
    attributes = trial.user_attrs
    latency_low, latency_high = attributes["latency_interval_s"]
    quality_low, quality_high = attributes["quality_interval"]
    return Candidate(
        plan=Plan.from_json(attributes["plan"]),
        latency_s=latency_s,
        latency_interval_s=(latency_low, latency_high),
        latency_source=attributes["latency_source"],
        quality=quality,
        quality_interval=(quality_low, quality_high),
        drop_error=attributes["drop_error"],
        kind=attributes["kind"],
        trial=trial.number,
    )


def _candidates(
    study: OpenStudy, space: SearchSpace, predict_latency: Callable[[Plan], Latency]
) -> tuple[Candidate, ...]:
    """What the study found, as far as it can still be had, each plan once and with its latency of today."""
    found: dict[str, Candidate] = {}
    with translated(study.storage):
        for trial in study.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            candidate = _candidate(trial)
            found.setdefault(candidate.plan.to_json(), candidate)
    had = (candidate for candidate in found.values() if space.allows(candidate.plan))
    return tuple(_timed(candidate, predict_latency(candidate.plan)) for candidate in had)


def _timed(candidate: Candidate, latency: Latency) -> Candidate:
    return replace(
        candidate,
        latency_s=latency.latency_s,
        latency_interval_s=latency.interval_s,
        latency_source=cast(Source, latency.source),
    )


def _enqueue_seeds(study: optuna.Study, settled: SettledChoices, space: SearchSpace, settings: SearchSettings) -> None:
    if _SEEDS_KEY in study.user_attrs:
        return
    # A search that was killed in here finds some of them enqueued already.
    there = [trial.system_attrs.get("fixed_params") for trial in study.get_trials(deepcopy=False)]
    seeds = seed_plans(space, max(1, round(settings.trials * settings.seed_share)))
    for seed in seeds:
        if (texts := settled.texts(seed.plan)) not in there:
            study.enqueue_trial(texts, user_attrs={"kind": seed.kind})
    study.set_user_attr(_SEEDS_KEY, len(seeds))


def _set_running_aside(study: optuna.Study, settled: SettledChoices) -> None:
    """Fails the trials that nobody runs any more, and enqueues their plans again.

    Enqueued first and failed second: killed in between, the trial is found again, and its repetition too.
    """
    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get(_RETRY_KEY) for trial in trials}
    for trial in trials:
        if trial.state != TrialState.RUNNING:
            continue
        texts = trial.system_attrs.get("fixed_params", trial.params)
        # Killed before all layers had their choice: the sampler will make the same choices again.
        proposed = texts.keys() == {name for name, _ in settled.layers}
        if proposed and trial.number not in repeated:
            kind = {"kind": trial.user_attrs["kind"]} if "kind" in trial.user_attrs else {}
            study.enqueue_trial(texts, user_attrs={**kind, _RETRY_KEY: trial.number})
        study.tell(trial.number, state=TrialState.FAIL)
