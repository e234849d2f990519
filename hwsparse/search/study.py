"""The search: plans proposed by an Optuna study, evaluated side by side, kept in a database.

A trial is complete when its figures are in the database. Whatever stops a search, a kill included, costs no more than
the trials that were running, and their plans are tried again when the search goes on. A plan is evaluated once: a
sampler that proposes it again gets the figures that are there, and that is a trial too. Several processes may search in
one study: each knows what the others try, and takes over what those leave behind that ended.

A study keeps the choices that it began with; where one of them cannot be had any more, the layer is dense.
Quality is kept and latency is not: whoever goes on with a study may know the device better, so what is
returned has the latencies predicted now. The sampler learns from those of the time of the trial.

Sees latency and quality only through the callables it is given: no TVM, no onnxruntime.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast, get_args

from optuna.trial import FrozenTrial, TrialState

from hwsparse.errors import Cancelled, ExecutionError, HwsparseError, StudyError
from hwsparse.plan import Plan
from hwsparse.search.additive import Additive
from hwsparse.search.bounds import UNBOUNDED, Bounds, Size
from hwsparse.search.candidate import Candidate, Kind, Source
from hwsparse.search.evaluation import Evaluate, Hopeless, Latency, Quality
from hwsparse.search.front_sampler import Aims
from hwsparse.search.mirror import Mirror
from hwsparse.search.open_study import Entry, OpenStudy, translated
from hwsparse.search.samplers import SamplerName, make_sampler
from hwsparse.search.seeds import seed_plans
from hwsparse.search.space import Beginning, SearchSpace, SettledChoices
from hwsparse.search.trials import (
    ANSWERED,
    FAILURE_KEY,
    FIGURES_KEY,
    KIND_KEY,
    OWNER_KEY,
    PLAN_KEY,
    candidate_of,
    constrained,
    count_answered,
    figures_of,
    hopeless_of,
    is_ended,
    quality_of,
)

# No fault of a plan's: they stop the search, and its trials are there to go on with.
STOPPING = (Cancelled, ExecutionError)
WAIT_S = 0.2  # between looks at what other processes do, and at whether to stop


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
    bounds: Bounds = UNBOUNDED  # what a plan should keep to
    parallel: int = 1  # so many plans are evaluated at once

    def __post_init__(self) -> None:
        if min(self.trials, self.max_failures, self.parallel) < 1 or self.seed < 0:
            raise StudyError(f"a search needs at least 1 trial and 1 failure, and a seed from 0 up, not {self}")
        if not 0 <= self.seed_share <= 1:
            raise StudyError(f"the share of structured trials is between 0 and 1, not {self.seed_share}")
        if self.sampler not in get_args(SamplerName):
            raise StudyError(f"{self.sampler!r} is no sampler; use {', '.join(get_args(SamplerName))}")


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """How a trial ended, and how far the search is: `done` of `asked` trials are.

    A trial without a candidate failed, or was given up as hopeless. `known` are the plans evaluated so far, those of
    earlier searches included, and of other processes as far as this one knows.
    """

    number: int
    done: int
    asked: int
    candidate: Candidate | None
    failure: str | None
    hopeless: Hopeless | None
    elapsed_s: float
    known: tuple[Candidate, ...]


def run_search(
    study: OpenStudy,
    space: SearchSpace,
    evaluate_quality: Evaluate,
    predict_latency: Callable[[Plan], Latency],
    settings: SearchSettings,
    *,
    predict_size: Callable[[Plan], Size] | None = None,
    on_trial: Callable[[TrialOutcome], None] = lambda outcome: None,
    on_wait: Callable[[int], None] = lambda done: None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Candidate, ...]:
    """Searches until the study has the trials asked for; goes on with a study that was stopped.

    Args:
        space: the plans that can be had. A study that goes on chooses among those of them that it began with.
        evaluate_quality: on calibration data. An HwsparseError fails the trial and the search goes on; Cancelled,
            ExecutionError and anything else stop it.
        predict_latency: on the target, of every plan in the space.
        predict_size: of every plan; None: bounds say nothing of bytes.
        on_trial: called after each trial of this process; what it raises stops the search.
        on_wait: called several times a second with the trials that are done, while evaluations are under way elsewhere
            or other processes have the last trials; what it raises stops the search.
        clock: seconds, for the time that a trial took.

    Returns:
        Every plan evaluated that can still be had, in the order of the trials, each once.

    Raises:
        StudyError: the study's database cannot be used, its choices are not of this model's layers, or too
            many trials failed in a row.
    """
    told = _Told(predict_latency, predict_size, settings.bounds)
    beginning = study.beginning or study.begin(_beginning(space, settings, told.fits))
    layers = {layer.layer for layer in space.layers}
    space = space.limited_to(beginning.choices)
    if unknown := {name for name, _ in beginning.choices.layers} - layers:
        raise StudyError(f"{study.where}: the study has choices for {min(unknown)!r}, which is no layer of the model")
    search = _Search(
        study=study,
        beginning=beginning,
        space=space,
        additive=Additive(space),
        mirror=Mirror(beginning.choices.layers, study.optuna.directions),
        told=told,
        evaluate_quality=evaluate_quality,
        settings=settings,
        on_trial=on_trial,
        on_wait=on_wait,
        clock=clock,
    )
    try:
        search.run()
    except BaseException:
        with suppress(StudyError):  # the first error is the one to be read
            search.abandon()
        raise
    return _candidates(study, space, predict_latency)


@dataclass(frozen=True, slots=True)
class _Told:
    """What can be told of a plan before it is evaluated."""

    predict_latency: Callable[[Plan], Latency]
    predict_size: Callable[[Plan], Size] | None
    bounds: Bounds

    def excess(self, plan: Plan, latency: Latency) -> dict[str, float]:
        """By how much it exceeds each bound."""
        size = self.predict_size(plan) if self.predict_size is not None else None
        return self.bounds.excess(latency.latency_s, size)

    def fits(self, plan: Plan) -> bool:
        """Whether it keeps to the bounds."""
        return all(excess <= 0 for excess in self.excess(plan, self.predict_latency(plan)).values())


@dataclass(frozen=True, slots=True)
class _Running:
    """A trial of this process that is under way."""

    entry: Entry
    kind: Kind
    plan: Plan
    latency: Latency | None  # None: it could not be told
    started: float

    def judged(self, quality: Quality) -> Candidate:
        """What the trial found."""
        if self.latency is None:
            raise ValueError("a plan whose latency could not be told was evaluated")
        return Candidate(
            plan=self.plan,
            latency_s=self.latency.latency_s,
            latency_interval_s=self.latency.interval_s,
            latency_source=cast(Source, self.latency.source),
            quality=quality.value,
            quality_interval=quality.interval,
            drop_error=quality.drop_error,
            kind=self.kind,
            trial=self.entry.number,
        )


@dataclass(slots=True, kw_only=True)
class _Search:
    study: OpenStudy
    beginning: Beginning
    space: SearchSpace
    additive: Additive
    mirror: Mirror
    told: _Told
    evaluate_quality: Evaluate
    settings: SearchSettings
    on_trial: Callable[[TrialOutcome], None]
    on_wait: Callable[[int], None]
    clock: Callable[[], float]
    own: dict[int, Entry] = field(default_factory=dict)  # under way, by number
    running: dict[Future[Any], _Running] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)  # trials, of other processes too as far as they are known
    known: dict[str, Candidate] = field(default_factory=dict)  # by plan
    # What else is known of plans; failures are of this run: in another one the plan gets another chance.
    hopeless: dict[str, Hopeless] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    failed_in_row: int = 0

    def run(self) -> None:
        while True:
            while len(self.running) < self.settings.parallel and self._start():
                pass
            if not self.running and count_answered(self.study.trials()) >= self.settings.trials:
                return
            # In the order of the trials: so what a trial is proposed by does not depend on which evaluation was faster.
            oldest = next(iter(self.running), None)
            if oldest is not None and wait([oldest], timeout=WAIT_S).done:
                self._end(self.running.pop(oldest), oldest)
                continue
            self.study.locks.renew()
            self.on_wait(len(self.answered))
            if oldest is None:  # other processes have the last trials
                time.sleep(WAIT_S)

    def abandon(self) -> None:
        """Leaves what is under way to whoever goes on."""
        for future in self.running:
            future.cancel()
        for entry in self.own.values():
            self.study.end(entry, "the search was stopped", patience_s=0.0)

    def _start(self) -> bool:
        """Begins another trial; False: as many as were asked for are done, or under way."""
        started = self.clock()
        with self.study.turn():
            trials = self.study.live_trials()
            under_way = sum(trial.state == TrialState.RUNNING for trial in trials)
            if count_answered(trials) + under_way >= self.settings.trials:
                return False
            self._take_over(trials)
            self.mirror.follow(trials, self._bound)
            proposed = self._proposed(trials)
            plan = self.additive.plan(self.additive.row(proposed.params))
            # Where a choice cannot be had here, what is tried is dense, and that is what is kept.
            proposed.params = self.beginning.choices.texts(plan)
            kind = cast(Kind, proposed.user_attrs.setdefault(KIND_KEY, "search"))
            proposed.user_attrs |= {OWNER_KEY: self.study.locks.sign, PLAN_KEY: plan.to_json()}
            if not self.study.locks.keeps_turn():
                self.mirror.withdraw(proposed)
                return True  # what others did meanwhile is not known: from the beginning
            entry = self.study.add(proposed)
            self.mirror.adopt(proposed, entry.number)
            self.own[entry.number] = entry
        future: Future[Any] = Future()
        latency = None
        try:
            latency = self.told.predict_latency(plan)
            if (known := self._known(plan, self._least(plan, latency))) is not None:
                future.set_result(known)
            else:
                future = self.evaluate_quality(plan, self._least(plan, latency))
        except STOPPING:
            raise
        except HwsparseError as error:
            future.set_exception(error)
        self.running[future] = _Running(entry, kind, plan, latency, started)
        return True

    def _known(self, plan: Plan, at_least: float) -> Candidate | Hopeless | None:
        """What is known of the plan, if that is enough.

        Raises:
            StudyError: it failed in this run.
        """
        text = plan.to_json()
        if (reason := self.refused.get(text)) is not None:
            raise StudyError(reason)
        hopeless = self.hopeless.get(text)
        given_up = hopeless is not None and at_least >= hopeless.at_least
        return self.known.get(text) or (hopeless if given_up else None)

    def _least(self, plan: Plan, latency: Latency) -> float:
        """The quality that a plan must have to be worth knowing: more than one that is as fast."""
        if not plan.choices:
            return -math.inf
        as_fast = [each.quality for each in self.known.values() if each.latency_s <= latency.latency_s]
        if self.settings.worst_drop is not None:
            dense = (each.quality for each in self.known.values() if not each.plan.choices)
            as_fast.extend(quality - self.settings.worst_drop for quality in dense)
        return max(as_fast, default=-math.inf)

    def _end(self, running: _Running, future: Future[Any]) -> None:
        candidate, hopeless, failure = None, None, None
        text, number = running.plan.to_json(), running.entry.number
        try:
            found = future.result()
            if isinstance(found, Hopeless):
                hopeless = self.hopeless[text] = found
            else:
                candidate = found if isinstance(found, Candidate) else running.judged(found)
        except STOPPING:
            raise
        except HwsparseError as error:
            failure = self.refused[text] = str(error)
        elapsed_s = self.clock() - running.started
        if self._tell(running, candidate, hopeless, failure, elapsed_s) and failure is None:
            self.answered.add(number)
        if candidate is not None:
            self.known.setdefault(text, candidate)
        self.failed_in_row = 0 if failure is None else self.failed_in_row + 1
        done, known = len(self.answered), tuple(self.known.values())
        self.on_trial(TrialOutcome(number, done, self.settings.trials, candidate, failure, hopeless, elapsed_s, known))
        if self.failed_in_row == self.settings.max_failures:
            gave_up = f"gave up after {self.failed_in_row} failed trials in a row"
            raise StudyError(f"{self.study.where}: {gave_up}, the last one: {failure}")

    def _tell(
        self,
        running: _Running,
        candidate: Candidate | None,
        hopeless: Hopeless | None,
        failure: str | None,
        elapsed_s: float,
    ) -> bool:
        """Whether it is this trial that has it: see `OpenStudy.tell`."""
        entry = running.entry
        attributes: dict[str, Any] = {FIGURES_KEY: {"elapsed_s": elapsed_s}}
        state, values = TrialState.FAIL, None
        if candidate is not None:
            state, values = TrialState.COMPLETE, [candidate.latency_s, candidate.quality]
            attributes[FIGURES_KEY] |= figures_of(candidate)
            if candidate.trial != entry.number:
                attributes["figures_of"] = candidate.trial
        elif hopeless is not None:
            state = TrialState.PRUNED
            attributes[FIGURES_KEY] |= asdict(hopeless)
        else:
            attributes[FAILURE_KEY] = failure
        excess = self.told.excess(running.plan, running.latency) if running.latency is not None else {}
        if (known := candidate or hopeless) is not None:
            excess |= self.settings.bounds.lack(known.quality)

        told = self.study.tell(entry, state, values, attributes, excess)
        del self.own[entry.number]
        return told

    def _take_over(self, trials: Sequence[FrozenTrial]) -> None:
        """Takes note of what other processes found, and earlier searches."""
        for trial in trials:
            if trial.state not in ANSWERED or trial.number in self.answered:
                continue
            self.answered.add(trial.number)
            with translated(self.study.where):
                if trial.state == TrialState.PRUNED:
                    self.hopeless[trial.user_attrs[PLAN_KEY]] = hopeless_of(trial)
                    continue
                candidate = candidate_of(trial)
            if self.space.allows(candidate.plan):
                timed = _timed(candidate, self.told.predict_latency(candidate.plan))
                self.known.setdefault(candidate.plan.to_json(), timed)

    def _bound(self, trial: FrozenTrial) -> FrozenTrial:
        """An answered trial under the bounds of this search: the one that made it may have had others."""
        if trial.state not in ANSWERED:
            return trial
        with translated(self.study.where):
            plan, quality = Plan.from_json(trial.user_attrs[PLAN_KEY]), quality_of(trial)
        if not self.space.allows(plan):
            return trial
        excess = self.told.excess(plan, self.told.predict_latency(plan)) | self.settings.bounds.lack(quality)
        return constrained(trial, excess)

    def _proposed(self, trials: Sequence[FrozenTrial]) -> FrozenTrial:
        """What is to be tried next: what was interrupted, what the search begins with, or what the sampler makes."""
        settings = self.settings
        ended = [each for each in trials if is_ended(each)]
        under_way = sum(each.state == TrialState.RUNNING for each in trials)
        # Stock samplers learn nothing from failed trials: after one, they would be likely to propose the same again.
        last_failed = bool(ended) and ended[-1].state == TrialState.FAIL
        name = "random" if last_failed and settings.sampler != "front" else settings.sampler
        aims = Aims(settings.worst_drop, settings.bounds.max_latency_s, self.told.fits)
        behind = len(ended) + under_way
        sampler = make_sampler(name, settings.seed, behind, self.additive, self.beginning.choices, aims)
        due = self._due(trials)
        proposed = self.mirror.propose(sampler, None if due is None else due[1])
        if due is not None:
            proposed.user_attrs[KIND_KEY] = due[0]
        return proposed

    def _due(self, trials: Sequence[FrozenTrial]) -> tuple[Kind, Mapping[str, str]] | None:
        """The first plan that was interrupted, or that the search begins with, and that nobody tries or has tried."""
        layers = {name for name, _ in self.beginning.choices.layers}
        taken, interrupted = set(), []
        for trial in trials:
            kind = cast(Kind, trial.user_attrs.get(KIND_KEY, "search"))
            failed = trial.state == TrialState.FAIL
            # Without the dense model nothing can be compared: in another run it gets another chance.
            again = failed and kind == "dense" and trial.user_attrs.get(PLAN_KEY) not in self.refused
            if trial.state == TrialState.RUNNING or (is_ended(trial) and not again):
                taken.add(frozenset(trial.params.items()))
            elif failed and trial.params.keys() == layers:
                interrupted.append((kind, trial.params))
        for kind, texts in (*interrupted, *self.beginning.planned()):
            # What cannot be had here is left to others, and tried as it can be had.
            if frozenset(texts.items()) not in taken and frozenset((here := self._had(texts)).items()) not in taken:
                return kind, here
        return None

    def _had(self, texts: Mapping[str, str]) -> dict[str, str]:
        """These choices, as far as they can be had: else a layer is dense."""
        return self.beginning.choices.texts(self.additive.plan(self.additive.row(texts)))


def _beginning(space: SearchSpace, settings: SearchSettings, fits: Callable[[Plan], bool]) -> Beginning:
    """What a new study of the space begins with; of what does not keep to the bounds, the dense network alone."""
    choices = SettledChoices.of(space)
    seeds = seed_plans(space, max(1, round(settings.trials * settings.seed_share)), fits)
    return Beginning(choices, tuple((seed.kind, tuple(choices.texts(seed.plan).values())) for seed in seeds))


def _candidates(
    study: OpenStudy, space: SearchSpace, predict_latency: Callable[[Plan], Latency]
) -> tuple[Candidate, ...]:
    """What the study found, as far as it can still be had, each plan once and with its latency of today."""
    found: dict[str, Candidate] = {}
    for trial in study.trials():
        if trial.state == TrialState.COMPLETE:
            with translated(study.where):
                candidate = candidate_of(trial)
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
