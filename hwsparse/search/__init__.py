"""Which plans are worth having: a space of choices, a study that explores it, a front.

    space.py        what may be chosen, layer by layer
    additive.py     the space as arrays, and what is best where latency and harm add up
    seeds.py        structured plans to begin with
    evaluation.py, bounds.py   what is asked of those who know devices and weights; what a plan must keep to
    samplers.py     who proposes plans after that: Optuna's samplers, or our own (front_sampler.py), which goes by
                    quality_model.py and improvement.py
    study.py        the search itself: run_search
    mirror.py       the study in memory, where samplers work; trials.py: what a trial holds
    database.py     where a study is kept; locks.py: who works on it
    candidate.py    what a search finds
    pareto.py       the front, and what to take from it

Whoever runs a search imports `hwsparse.search.study`; the names below need no Optuna.
"""

from hwsparse.search.candidate import Candidate, Kind, Source
from hwsparse.search.pareto import knee_point, pareto_front, pick_finalists
from hwsparse.search.seeds import Seed, seed_plans, surrogate_plans, uniform_plans
from hwsparse.search.space import LayerOptions, Offer, Option, Refusal, SearchSpace, SettledChoices, build_space, unpaid

__all__ = [
    "Candidate",
    "Kind",
    "LayerOptions",
    "Offer",
    "Option",
    "Refusal",
    "SearchSpace",
    "Seed",
    "SettledChoices",
    "Source",
    "build_space",
    "knee_point",
    "pareto_front",
    "pick_finalists",
    "seed_plans",
    "surrogate_plans",
    "uniform_plans",
    "unpaid",
]
