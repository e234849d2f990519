"""What a search is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from hwsparse.errors import InputError
from hwsparse.pattern import parse_pattern
from hwsparse.range_methods import DEFAULT_METHOD, require_use
from hwsparse.search.bounds import UNBOUNDED, Bounds
from hwsparse.search.samplers import SamplerName

DTYPES = ("float32", "float16", "bfloat16", "int8")
RATIOS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
# Finalists may lose this many times the drop allowed, and so much in any case: the front shows what lies beyond the
# winner.
SHOWN_DROPS, SHOWN_DROP = 5, 0.02


@dataclass(frozen=True, slots=True)
class Goal:
    """How far to search, and what the winner must reach.

    The winner is the fastest finalist that loses at most `max_drop` of the dense model's quality, one
    standard error of that loss included, and keeps to the bounds.
    """

    trials: int = 60
    seed: int = 0
    max_drop: float = 0.01
    bounds: Bounds = UNBOUNDED
    finalists: int = 4
    sampler: SamplerName = "front"
    patterns: tuple[str, ...] = ()  # of those that the target supports; all if empty
    ratios: tuple[float, ...] = RATIOS
    dtypes: tuple[str, ...] = ("float32",)  # of weights, and of what layers read
    ranges: str = DEFAULT_METHOD  # the method that tells between what lies what int8 layers read
    within: float | None = None  # how surely layers' times may be predicted, relative, instead of being measured

    def __post_init__(self) -> None:
        for what, count in (("trials", self.trials), ("finalists", self.finalists)):
            if count < 1:
                raise InputError(f"{what}: at least 1, not {count}")
        if self.seed < 0:
            raise InputError(f"seed: not negative, as {self.seed} is")
        if self.sampler not in get_args(SamplerName):
            raise InputError(f"{self.sampler!r} is no sampler; use {', '.join(get_args(SamplerName))}")
        if not 0 <= self.max_drop < math.inf:
            raise InputError(f"quality drop: 0 or more, as 0.01 for one point of accuracy, not {self.max_drop:g}")
        if not self.ratios or not all(0 < ratio < 1 for ratio in self.ratios):
            raise InputError("ratios of zeros lie between 0 and 1")
        if self.within is not None and not 0 < self.within <= 1:
            raise InputError(f"within: a share above 0, as 0.1 for 10 %, not {self.within:g}")
        for text in self.patterns:
            parse_pattern(text)
        if not self.dtypes or not set(self.dtypes) <= set(DTYPES):
            raise InputError(
                f"weights are of {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, not of {', '.join(self.dtypes) or 'nothing'}"
            )
        require_use(self.ranges, self.dtypes)


def shown_drop(max_drop: float) -> float:
    """What a plan that is worth showing may lose, where the winner may lose `max_drop`."""
    return max(SHOWN_DROPS * max_drop, SHOWN_DROP)
