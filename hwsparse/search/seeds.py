"""Plans to try before any sampler has learned anything: dense, uniform sparsity, and a surrogate's front.

The surrogate is additive (additive.py), with coefficients of 1. Knows no Optuna and measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hwsparse.plan import Choice, Plan
from hwsparse.search.additive import Additive
from hwsparse.search.candidate import Kind
from hwsparse.search.space import SearchSpace

SURROGATES_PER_UNIFORM = 2  # uniform plans are there as a baseline, surrogate plans to be improved on


@dataclass(frozen=True, slots=True)
class Seed:
    """A plan to try first, and the family it belongs to."""

    plan: Plan
    kind: Kind


def seed_plans(space: SearchSpace, limit: int, fits: Callable[[Plan], bool] = lambda plan: True) -> tuple[Seed, ...]:
    """At most `limit` different plans: dense, then each family from coarse to fine.

    Every beginning of the sequence is spread over the whole range, so that a search with few trials still
    sees all of it.

    Args:
        fits: whether a plan is of use; dense is there in any case, to compare with.
    """
    dense = Plan.of(space.model_digest, {})
    uniform = tuple(filter(fits, uniform_plans(space)))
    kinds: dict[Plan, Kind] = {dense: "dense", **dict.fromkeys(uniform, "uniform")}
    coarse_uniform = iter(_coarse_to_fine(space, uniform, limit))
    coarse_surrogate = iter(_coarse_to_fine(space, tuple(filter(fits, surrogate_plans(space))), limit))
    found = {dense: None}
    while len(found) < limit:
        turn = [*_take(coarse_surrogate, SURROGATES_PER_UNIFORM), *_take(coarse_uniform, 1)]
        if not turn:
            break
        found.update(dict.fromkeys(turn))
    return tuple(Seed(plan, kinds.get(plan, "surrogate")) for plan in list(found)[:limit])


def uniform_plans(space: SearchSpace) -> tuple[Plan, ...]:
    """For each of the space's uniform choices, the plan that gives it to every layer that has it."""
    plans = dict.fromkeys(map(space.uniformly, space.uniform))
    return tuple(plan for plan in plans if plan.choices)


def surrogate_plans(space: SearchSpace) -> tuple[Plan, ...]:
    """Every plan that is best for some multiplier, from the most accurate to the fastest."""
    additive = Additive(space)
    return tuple(additive.plan(row) for row in additive.front())


def _coarse_to_fine(space: SearchSpace, plans: Sequence[Plan], limit: int) -> list[Plan]:
    """At most `limit` of the plans, each the farthest from dense and from all before it.

    Far is meant of the logarithm of their errors: networks collapse somewhere between the first layer that is
    pruned and the last, some of them early, and what is worth having lies before that.
    """
    errors = {layer.layer: {option.choice: option.error for option in layer.options} for layer in space.layers}

    def error(plan: Plan) -> float:
        chosen = dict(plan.choices)
        return sum(options[chosen.get(name, Choice())] for name, options in errors.items())

    found = [error(plan) for plan in plans]
    least = min((value for value in found if value > 0), default=1.0)
    positions = [math.log(value + least) for value in found]
    gaps = [position - math.log(least) for position in positions]
    ordered: list[Plan] = []
    left = list(range(len(plans)))
    while left and len(ordered) < limit:
        farthest = max(left, key=gaps.__getitem__)
        left.remove(farthest)
        ordered.append(plans[farthest])
        gaps = [min(gap, abs(position - positions[farthest])) for gap, position in zip(gaps, positions, strict=True)]
    return ordered


def _take(plans: Iterator[Plan], count: int) -> list[Plan]:
    return [plan for _, plan in zip(range(count), plans, strict=False)]
