"""What a job found: the dense model, the finalists beside it, the winner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwsparse.artifact import Artifact
from hwsparse.compiler import Refusal
from hwsparse.latency import CostModel, Measurement
from hwsparse.model import Model
from hwsparse.plan import Plan
from hwsparse.search import Candidate, SearchSpace
from hwsparse.sparsify import QualityReport
from hwsparse.target import Target

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

    def faster_than(self, other: Measurement) -> bool:
        """Whether it is faster beyond noise: the intervals do not touch."""
        return self.latency.interval_s[1] < other.interval_s[0]


@dataclass(frozen=True, slots=True)
class Baselines:
    """The dense model, timed in the same run as the finalists, and judged on held-out data."""

    dense: Measurement
    onnxruntime: Measurement
    quality: QualityReport | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job found; `winner` is one of `finalists`, or None when none pays and reaches the goal.

    The finalists' artifacts lie below `directory`.
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
