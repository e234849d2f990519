"""What a job found: the dense model, the finalists beside it, the winner, and what that is held to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwsparse.artifact import Artifact
from hwsparse.compiler import Refusal
from hwsparse.latency import CostModel, Footprint, Footprints, Measurement
from hwsparse.model import Model
from hwsparse.plan import Plan
from hwsparse.report import words
from hwsparse.report.choices import LayerChoices
from hwsparse.search import Candidate, SearchSpace
from hwsparse.sparsify import QualityReport, Robustness
from hwsparse.target import Target

if TYPE_CHECKING:  # torch takes seconds to import, and few jobs train
    from hwsparse.tuning import TuningSettings
    from hwsparse.tuning.checkpoint import Epoch

ROUNDING = 1e-9  # 0.92 - 0.90 is a little more than 0.02
# Canonical pruned weights of a plan, by layer name, and constants fitted to them, by theirs.
Weights = Callable[[Plan], Mapping[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Finalist:
    """A plan that was built, timed end to end and judged on held-out data, and its artifact.

    `chosen_by` is the quality on calibration data, by which the winner is picked; `quality` is held out.
    Both are None when there are no data.
    """

    label: str
    asked: Plan
    plan: Plan  # as it ships
    refused: Mapping[str, Refusal]
    latency: Measurement
    chosen_by: QualityReport | None
    quality: QualityReport | None
    artifact: Artifact
    robustness: Robustness | None = None  # on the held-out samples, corrupted; None if that was not asked for
    footprint: Footprint | None = None

    def faster_than(self, other: Measurement) -> bool:
        """Whether it is faster beyond noise."""
        return faster(self.latency, other)


def faster(one: Measurement, other: Measurement) -> bool:
    """Whether it is faster beyond noise: the intervals do not touch."""
    return one.interval_s[1] < other.interval_s[0]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a winner may lose of the dense model's quality, must be worth, and may take."""

    max_drop: float = math.inf
    min_quality: float | None = None
    max_latency_s: float | None = None

    def refusal(self, latency: Measurement, quality: QualityReport | None, dense: Measurement) -> str | None:
        """Why what takes this `latency` cannot win, as the end of a sentence; None: it can.

        Args:
            quality: on calibration data, for held-out data report and do not choose; None: there are no data. A drop
                counts with one standard error: of many plans on few samples, the best looking are those that were
                lucky.
        """
        if not faster(latency, dense):
            return "is not faster than dense beyond the noise"
        if self.max_latency_s is not None and latency.median_s > self.max_latency_s:
            return f"takes longer than {words.milliseconds(self.max_latency_s)}"
        if quality is None:
            return None
        told = partial(words.quality, quality.metric)
        if quality.drop + quality.drop_error > self.max_drop + ROUNDING:
            return (
                f"lost {told(quality.drop)} on the data that choose, with a standard error of "
                f"{told(quality.drop_error)}: together more than the {told(self.max_drop)} allowed"
            )
        if self.min_quality is not None and quality.value < self.min_quality:
            return f"is worth {told(quality.value)} on the data that choose, less than {told(self.min_quality)}"
        return None


@dataclass(frozen=True, slots=True)
class Baselines:
    """The dense model, timed in the same run as the finalists, and judged on held-out data."""

    dense: Measurement
    onnxruntime: Measurement
    quality: QualityReport | None
    robustness: Robustness | None = None
    footprint: Footprint | None = None  # of ours


@dataclass(frozen=True, slots=True)
class SmallDense:
    """The same architecture with fewer channels, fitted, timed in the same run as the finalists, judged like them."""

    model: Model
    keep: float  # of the channels and heads
    trained: bool  # after it was fitted
    latency: Measurement
    quality: QualityReport
    robustness: Robustness | None = None


@dataclass(frozen=True, slots=True)
class Rivals:
    """What a finalist is held to: the winner, or else the fastest.

    `ceiling` is what the plan is worth with unstructured patterns. Where there is none, both say why.
    """

    of: str  # the finalist's label
    small_dense: SmallDense | str
    ceiling: QualityReport | str


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a training did to the only finalist; `taken` if its weights ship, and not those from before it."""

    settings: TuningSettings
    samples: int  # labels that were trained on
    epochs: tuple[Epoch, ...]
    best: Epoch
    taken: bool
    one_shot: QualityReport  # the same plan before training, on held-out data


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job found; `winner` is one of `finalists`, or None when none pays and reaches the goal.

    The finalists' artifacts lie below `directory`. `seed` is that of everything random, and `fitted_on` how many
    samples weights were fitted on, at most.
    """

    model: Model
    target: Target
    baselines: Baselines
    finalists: tuple[Finalist, ...]
    winner: Finalist | None
    candidates: tuple[Candidate, ...]
    space: SearchSpace | None
    costs: CostModel
    weights: Weights
    directory: Path
    seed: int
    fitted_on: int
    rivals: Rivals | None = None  # None: there was no finalist, or no comparison was asked for
    recovery: Recovery | None = None  # None: nothing was trained
    footprints: Footprints | None = None  # None: no network was weighed before its finalists
    limits: Limits = Limits()
    choices: LayerChoices | None = None  # None: no search asked what layers' choices take and harm
