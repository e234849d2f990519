"""A piece of work as callers see it: what was asked, how far it is, what came of it.

Knows neither processes, files nor the protocol.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

from hwsparse.artifact import LatencyFigure, QualityFigure
from hwsparse.errors import InputError
from hwsparse.plan import Plan

JobKind = Literal["optimize", "compile"]


class OperationState(enum.Enum):
    """Where a piece of work stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def done(self) -> bool:
        """Whether it has ended, one way or another."""
        return self not in (OperationState.QUEUED, OperationState.RUNNING)


@dataclass(frozen=True, slots=True)
class Budget:
    """How far to search, and what the winner must reach."""

    trials: int
    max_latency_s: float | None = None
    min_quality: float | None = None
    max_quality_drop: float | None = None
    max_file_bytes: int | None = None
    max_memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.trials <= 1_000_000:
            raise InputError(f"a search has 1 to 1000000 trials, not {self.trials}")
        if self.max_latency_s is not None and not self.max_latency_s > 0:
            raise InputError(f"a latency of at most {self.max_latency_s} s is none")
        for limit in (self.max_file_bytes, self.max_memory_bytes):
            if limit is not None and limit < 1:
                raise InputError(f"at most {limit} bytes are none")
        if self.max_quality_drop is not None and not self.max_quality_drop >= 0:
            raise InputError(f"a quality drop of {self.max_quality_drop} is below 0")


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """One way to prune the model, with what it costs and what it is worth."""

    method: Literal["dense", "uniform", "search"]  # how it was found
    latency: LatencyFigure
    quality: QualityFigure | None
    plan: Plan
    artifact: str | None = None  # digest of the artifact compiled from it


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is; `stage` is empty before the first report."""

    stage: str = ""
    fraction: float = 0.0  # of the whole job, 0 to 1
    message: str = ""  # one line for people
    trials_done: int = 0
    trials_total: int = 0
    front: tuple[FrontPoint, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise InputError(f"progress of {self.fraction} is not between 0 and 1")
        if self.trials_done < 0 or self.trials_total < 0:
            raise InputError(f"{self.trials_done} of {self.trials_total} trials: below 0")


@dataclass(frozen=True, slots=True)
class JobResult:
    """What came of a job that succeeded: digests of its artifacts, the best first, and its front."""

    artifacts: tuple[str, ...]
    front: tuple[FrontPoint, ...] = ()


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job did not succeed: the error's class name and its one line."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Operation:
    """A piece of work. Times are seconds since 1970, None for what has not happened."""

    name: str
    kind: JobKind
    state: OperationState
    target: str
    model_sha256: str
    request_id: str
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    progress: Progress = Progress()
    error: JobError | None = None  # set when it failed or was cancelled
    artifacts: tuple[str, ...] = ()  # set when it succeeded


@dataclass(frozen=True, slots=True)
class ArtifactSummary:
    """The head of a stored artifact's manifest."""

    digest: str
    model_name: str
    target: str
    latency: LatencyFigure | None
    dense_latency: LatencyFigure | None
    quality: QualityFigure | None
    created_at: str
