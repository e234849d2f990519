"""Optuna samplers by name, our own and the stock ones, made anew for every trial.

A sampler's randomness depends on the search's seed and on how many trials are behind it, and on nothing
else: so a search that was interrupted goes on exactly as one that was not, where it tries one plan at a time; where it
tries several at once, it is the same whenever it is not interrupted.

Knows no study and no plan.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from hwsparse.search.additive import Additive
from hwsparse.search.front_sampler import Aims, FrontSampler
from hwsparse.search.space import SettledChoices

SamplerName = Literal["front", "tpe", "nsga2", "nsga3", "gp", "random"]

POPULATION = 20  # Optuna's 50 would leave a search of 100 trials with two generations


def make_sampler(
    name: SamplerName,
    seed: int,
    trials_behind: int,
    additive: Additive,
    settled: SettledChoices,
    aims: Aims,
) -> BaseSampler:
    """The sampler for the trial after `trials_behind` others.

    Args:
        additive: what each layer's options take and harm: `front` alone goes by it.
        settled: what may be chosen.
        aims: what is worth having; stock samplers see it in trials' constraints.
    """
    first, second = (int(word) for word in np.random.SeedSequence((seed, trials_behind)).generate_state(2))
    if name == "front":
        return FrontSampler(additive, settled, aims, first)
    if name in ("gp", "nsga3"):
        with warnings.catch_warnings():  # experimental, but years old
            warnings.simplefilter("ignore", ExperimentalWarning)
            return GPSampler(seed=first, deterministic_objective=True) if name == "gp" else _Nsga3(first, second)
    if name == "tpe":
        # constant_liar is for processes that share a study; it reads all trials anew for every layer.
        return TPESampler(seed=first, constant_liar=False)
    if name == "nsga2":
        return _Nsga2(first, second)
    return RandomSampler(seed=first)


class _Mutating(BaseSampler):
    """Draws mutations independently of crossovers.

    Optuna seeds both with the same number. They drift apart over a study, but not within the one trial
    that a sampler lives here: which layer mutates would decide to what.
    """

    _mutations: RandomSampler

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._mutations.sample_independent(study, trial, param_name, param_distribution)


class _Nsga2(_Mutating, NSGAIISampler):
    def __init__(self, seed: int, mutation_seed: int) -> None:
        super().__init__(population_size=POPULATION, seed=seed)
        self._mutations = RandomSampler(seed=mutation_seed)


class _Nsga3(_Mutating, NSGAIIISampler):
    def __init__(self, seed: int, mutation_seed: int) -> None:
        super().__init__(population_size=POPULATION, seed=seed)
        self._mutations = RandomSampler(seed=mutation_seed)
