"""The stock Optuna samplers by name, made anew for every trial.

A sampler's randomness depends on the search's seed and on how many trials are behind it, and on nothing
else: so a search that was interrupted goes on exactly as one that was not.

Knows no study and no plan.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

SamplerName = Literal["tpe", "nsga2", "random"]

POPULATION = 20  # Optuna's 50 would leave a search of 100 trials with two generations


def make_sampler(name: SamplerName, seed: int, trials_behind: int) -> BaseSampler:
    """The sampler for the trial after `trials_behind` others."""
    first, second = (int(word) for word in np.random.SeedSequence((seed, trials_behind)).generate_state(2))
    if name == "tpe":
        # constant_liar is for processes that share a study; it reads all trials anew for every layer.
        return TPESampler(seed=first, constant_liar=False)
    if name == "nsga2":
        return _Nsga2(first, second)
    return RandomSampler(seed=first)


class _Nsga2(NSGAIISampler):
    """NSGA-II whose mutations are drawn independently of its crossovers.

    Optuna seeds both with the same number. They drift apart over a study, but not within the one trial
    that a sampler lives here: which layer mutates would decide to what.
    """

    def __init__(self, seed: int, mutation_seed: int) -> None:
        super().__init__(population_size=POPULATION, seed=seed)
        self._mutations = RandomSampler(seed=mutation_seed)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._mutations.sample_independent(study, trial, param_name, param_distribution)
