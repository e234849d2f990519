"""What makes rows of a front comparable: the category of each method, its budget, what all rows share.

The categories are those of Hoefler, Alistarh, Ben-Nun, Dryden and Peste, "Sparsity in Deep Learning", JMLR 2021: when
weights are removed, what training starts from, whether the mask changes. Whether a plan is structured is told by its
patterns.

Knows no latencies and no points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from hwsparse.artifact.manifest import DIGEST
from hwsparse.errors import InputError
from hwsparse.pattern import Unstructured
from hwsparse.plan import Plan

When = Literal["before", "during", "after", "never"]  # weights are removed, as seen from training
Start = Literal["dense-to-sparse", "sparse-to-sparse", "dense"]
MaskKind = Literal["static", "dynamic"]  # while weights change
Structure = Literal["dense", "structured", "unstructured", "mixed"]


@dataclass(frozen=True, slots=True)
class Method:
    """How a row's weights came to be; `never` and `dense` belong together.

    Raises:
        InputError: there is no such category.
    """

    name: str
    when: When
    start: Start
    mask: MaskKind = "static"

    def __post_init__(self) -> None:
        if (self.when == "never") != (self.start == "dense"):
            raise InputError(f"method {self.name!r}: what is never pruned is dense, and nothing else is")
        if self.when == "after" and self.start == "sparse-to-sparse":
            raise InputError(f"method {self.name!r}: what is pruned after training was trained dense")


@dataclass(frozen=True, slots=True)
class Budget:
    """What a row's weights were fitted by: at most so many samples, and passes over training data; 0 in one shot.

    Raises:
        InputError: a figure is negative or not finite.
    """

    samples: int
    epochs: float = 0.0

    def __post_init__(self) -> None:
        if self.samples < 0 or not 0 <= self.epochs < math.inf:
            raise InputError(f"{self.samples} samples and {self.epochs} epochs are no budget")


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a point's plan is worth with each layer's pattern unstructured, at the same ratio; the interval is 95 %."""

    of: str  # the point's label
    quality: float
    quality_interval: tuple[float, float]

    def __post_init__(self) -> None:
        low, high = self.quality_interval
        if not all(map(math.isfinite, (self.quality, low, high))) or low > high:
            raise InputError(f"the ceiling {self.quality} with the interval {low} to {high} is no quality")


@dataclass(frozen=True, slots=True)
class Comparison:
    """What all rows of a front share.

    Raises:
        InputError: the checkpoint is no digest, or a seed is there twice.
    """

    checkpoint: str  # sha256 of the dense model that every row starts from
    seeds: tuple[int, ...]  # of everything random; none: nothing was
    ceiling: Ceiling | None = None  # None: not known

    def __post_init__(self) -> None:
        if not DIGEST.fullmatch(self.checkpoint):
            raise InputError(f"{self.checkpoint!r} is no checkpoint's digest")
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"of the seeds {', '.join(map(str, self.seeds))} one is there twice")


def structure(plan: Plan) -> Structure:
    """What a plan's patterns are: blocks, N:M and channels are structured."""
    loose = {isinstance(choice.pattern, Unstructured) for _, choice in plan.choices if not choice.is_dense}
    if not loose:
        return "dense"
    return "mixed" if len(loose) == 2 else "unstructured" if loose == {True} else "structured"
