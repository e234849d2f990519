"""What a job found: the dense model, the finalists beside it, the winner, and what that is held to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from hwsparse.artifact import Artifact
from hwsparse.compiler import Refusal
from hwsparse.latency import CostModel, Estimate, Footprint, Footprints, Latency, Measurement
from hwsparse.model import Model
from hwsparse.plan import Plan
from hwsparse.report import words
from hwsparse.report.choices import LayerChoices
from hwsparse.report.front import ROUNDING
from hwsparse.search import Candidate, SearchSpace
from hwsparse.search.bounds import UNBOUNDED, Bounds
from hwsparse.sparsify import QualityReport, Robustness
from hwsparse.target import Target

if TYPE_CHECKING:  # torch takes seconds to import, and few jobs train
    from hwsparse.tuning import TuningSettings
    from hwsparse.tuning.checkpoint import Epoch

# Canonical pruned weights of a plan, by layer name, and constants fitted to them, by theirs.
Weights = Callable[[Plan], Mapping[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Finalist:
    """A plan that was built, timed end to end, or estimated, and judged on held-out data, and its artifact.

    `chosen_by` is the quality on calibration data, by which the winner is picked; `quality` is held out.
    Both are None when there are no data.
    """

    label: str
    asked: Plan
    plan: Plan  # as it ships
    refused: Mapping[str, Refusal]
    latency: Latency
    chosen_by: QualityReport | None
    quality: QualityReport | None
    artifact: Artifact
    robustness: Robustness | None = None  # on the held-out samples, corrupted; None if that was not asked for
    footprint: Footprint | None = None

    def faster_than(self, dense: Latency) -> bool:
        """Whether it is faster beyond noise."""
        return faster(self.latency, dense)


def faster(one: Latency, dense: Latency) -> bool:
    """Whether it is faster beyond noise: the intervals do not touch, of estimates those beside each other."""
    if isinstance(one, Estimate) and isinstance(dense, Estimate):
        return one.beside_s[1] < dense.beside_s[0]
    return one.interval_s[1] < dense.interval_s[0]


class Entrant(Protocol):
    """Who may win: a finalist, or what is to be one."""

    @property
    def label(self) -> str: ...
    @property
    def latency(self) -> Latency: ...
    @property
    def chosen_by(self) -> QualityReport | None: ...
    @property
    def footprint(self) -> Footprint | None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What a winner may lose of the dense model's quality, and what it must keep to beside."""

    max_drop: float = math.inf
    bounds: Bounds = UNBOUNDED

    def refusal(self, entrant: Entrant, dense: Latency) -> str | None:
        """Why it cannot win, as the end of a sentence; None: it can.

        Held-out data report and do not choose: what counts is quality on calibration data, and a drop with one
        standard error of it: of many plans on few samples, the best looking are those that were lucky.
        """
        if not faster(entrant.latency, dense):
            return "is not faster than dense beyond the noise"
        bounds, size, quality = self.bounds, entrant.footprint, entrant.chosen_by
        if bounds.max_latency_s is not None and entrant.latency.median_s > bounds.max_latency_s:
            return f"takes longer than {words.milliseconds(bounds.max_latency_s)}"
        if size is not None and bounds.max_file_bytes is not None and size.file_bytes > bounds.max_file_bytes:
            return (
                f"has files of {words.byte_count(size.file_bytes)}, more than {words.byte_count(bounds.max_file_bytes)}"
            )
        if bounds.max_memory_bytes is not None:
            if size is None or size.memory_bytes is None:
                return "takes an amount of memory that could not be measured here"
            if size.memory_bytes > bounds.max_memory_bytes:
                limit = words.byte_count(bounds.max_memory_bytes)
                return f"takes {words.byte_count(size.memory_bytes)} of memory, more than {limit}"
        if quality is None:
            return None
        told = partial(words.quality, quality.metric)
        if quality.drop + quality.drop_error > self.max_drop + ROUNDING:
            return (
                f"lost {told(quality.drop)} on the data that choose, with a standard error of "
                f"{told(quality.drop_error)}: together more than the {told(self.max_drop)} allowed"
            )
        if bounds.min_quality is not None and quality.value < bounds.min_quality:
            return f"is worth {told(quality.value)} on the data that choose, less than {told(bounds.min_quality)}"
        return None


@dataclass(frozen=True, slots=True)
class Baselines:
    """The dense model, timed in the same run as the finalists, or estimated like them, and judged on held-out data."""

    dense: Latency
    onnxruntime: Measurement | None  # None: on a board there is none
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
    cpu_share: float = 1.0  # of its CPU, the least that any timing had
    choices: LayerChoices | None = None  # None: no search asked what layers' choices take and harm
