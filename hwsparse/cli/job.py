"""The work of a job: what a server's worker process does, told as its job's files tell it.

Knows neither the server nor how the job came to be.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

from hwsparse.artifact import LatencyFigure, QualityFigure
from hwsparse.cli import options
from hwsparse.compiler import latency_figure, quality_figure
from hwsparse.errors import ServiceError
from hwsparse.model import import_onnx
from hwsparse.pipeline import Goal, Outcome, Workspace, compile_plan, front_report, optimize, uniform_plan
from hwsparse.pipeline.finals import is_baseline
from hwsparse.pipeline.judges import appoint_judges
from hwsparse.plan import Plan, parse_choice
from hwsparse.report import ArtifactPlace, FrontReport
from hwsparse.search import Candidate, Kind, pareto_front
from hwsparse.search.bounds import Bounds
from hwsparse.serve.jobfiles import WORK, JobRequest, ProgressWriter, write_report
from hwsparse.serve.operation import FrontPoint, JobResult
from hwsparse.store import ArtifactStore

# Stages of a job, each with where in the whole it ends; by what they took for networks of 1 to 25 million weights.
STAGE_ENDS = {
    "dense layers": 0.05,
    "sparse layers": 0.40,
    "layers": 0.60,
    "statistics": 0.43,
    "pruning": 0.46,
    "whole networks": 0.50,
    "search": 0.80,
    "finalists": 0.88,
    "small dense": 0.95,
    "side by side": 0.97,
    "ceiling": 1.0,
}
FRONT_EVERY_S = 1.0
# Who proposed a plan, as callers see it: a surrogate is part of the search.
METHODS: dict[Kind, Literal["dense", "uniform", "search"]] = {
    "dense": "dense",
    "uniform": "uniform",
    "surrogate": "search",
    "search": "search",
}


def run_job(directory: Path, asked: JobRequest) -> JobResult:
    """Does what was asked, tells how far it is, and puts artifacts into the server's store.

    Raises:
        HwsparseError: as `pipeline.optimize` and `pipeline.compile_plan`; ServiceError: the request is incomplete.
    """
    progress = ProgressWriter(directory)
    progress.report("import", 0.0, f"reading {asked.model_name}")
    target = options.device(asked.target, asked.threads)
    model = import_onnx(Path(asked.model_path), shapes=dict(asked.shapes), name=Path(asked.model_name).stem)
    dataset = None
    if asked.dataset_path is not None:
        dataset = options.dataset(Path(asked.dataset_path), model, None, None, None, asked.seed)
    workspace = Workspace(directory / WORK, options.CACHE / "records.sqlite")
    if asked.kind == "compile":
        plan = asked.plan or uniform_plan(model, parse_choice(asked.choice or ""))
        report = JobProgress(progress)
        return _result(
            asked, compile_plan(model, plan, target, workspace, dataset, asked.seed, report, ranges=asked.ranges)
        )
    budget = asked.budget
    if budget is None or dataset is None:
        raise ServiceError("the request of a search has no budget or no data")
    goal = Goal(
        trials=budget.trials,
        seed=asked.seed,
        max_drop=budget.max_quality_drop if budget.max_quality_drop is not None else Goal().max_drop,
        bounds=Bounds(budget.max_latency_s, budget.max_file_bytes, budget.max_memory_bytes, budget.min_quality),
        dtypes=asked.dtypes,
        ranges=asked.ranges,
    )
    chosen_on = appoint_judges(model, dataset, target, asked.seed).choosing.dataset
    report = JobProgress(progress, chosen_on.metric, chosen_on.name, len(chosen_on))
    outcome = optimize(model, dataset, target, goal, workspace, report)
    result = _result(asked, outcome)
    write_report(directory, _served(front_report(outcome, dataset.name), result.artifacts).text)
    return result


class JobProgress:
    """Says how far a job is, and what its front is so far, as `pipeline.OnProgress` reports them."""

    def __init__(self, progress: ProgressWriter, metric: str = "", dataset: str = "", samples: int = 0) -> None:
        """Begins at 0.

        Args:
            metric, dataset, samples: what a search judges plans by.
        """
        self._progress, self._judged_by = progress, (metric, dataset, samples)
        self._fraction, self._front_at = 0.0, -FRONT_EVERY_S

    def __call__(self, stage: str, done: int, total: int, known: tuple[Candidate, ...]) -> None:
        """Writes a report; a front goes with it once in a while, and when its stage is done."""
        end = STAGE_ENDS[stage]
        start = max((e for e in STAGE_ENDS.values() if e < end), default=0.0)
        self._fraction = max(self._fraction, min(start + (end - start) * done / max(total, 1), 1.0))
        trials = (done, total) if stage == "search" else (0, 0)
        front, now = None, time.monotonic()
        if known and (done == total or now - self._front_at >= FRONT_EVERY_S):
            front, self._front_at = live_front(known, *self._judged_by), now
        self._progress.report(
            stage,
            self._fraction,
            f"{stage}: {done} of {total}",
            trials_done=trials[0],
            trials_total=trials[1],
            front=front,
        )


def live_front(known: tuple[Candidate, ...], metric: str, dataset: str, samples: int) -> tuple[FrontPoint, ...]:
    """The front of what a search knows: predicted latencies, quality on the samples that choose."""
    dense = next(candidate for candidate in known if candidate.kind == "dense")  # the first plan of every search
    points = []
    for candidate in pareto_front(known):
        latency = LatencyFigure(candidate.latency_s, candidate.latency_interval_s, candidate.latency_source, 0)
        drop, (low, high) = dense.quality - candidate.quality, candidate.loss_interval
        quality = QualityFigure(
            metric,
            candidate.quality,
            candidate.quality_interval,
            drop,
            (drop + low, drop + high),
            samples,
            dataset,
            "calibration",
        )
        points.append(FrontPoint(METHODS[candidate.kind], latency, quality, candidate.plan))
    return tuple(points)


def _served(report: FrontReport, kept: tuple[str, ...]) -> FrontReport:
    """A report of artifacts that are in the store, by their digests, and no longer where they were built."""
    points = [
        replace(point, artifact=ArtifactPlace(place.digest, place.digest) if place.digest in kept else None)
        if (place := point.artifact) is not None
        else point
        for point in report.points
    ]
    return replace(report, points=tuple(points))


def _result(asked: JobRequest, outcome: Outcome) -> JobResult:
    """Stores the artifacts and lists them, the winner first."""
    store = ArtifactStore(asked.store)
    winner = outcome.winner
    # A plan compiled on request ships whether or not it is faster: its manifest says which.
    kept = [f for f in outcome.finalists if f is not winner] if asked.kind == "compile" or winner else []
    artifacts = tuple(store.put(finalist.artifact) for finalist in ([winner] if winner else []) + kept)
    baselines = outcome.baselines
    dense = (latency_figure(baselines.dense), quality_figure(baselines.quality))
    points = [FrontPoint("dense", *dense, Plan(outcome.model.digest))]
    for finalist in outcome.finalists:
        digest = finalist.artifact.digest if finalist.artifact.digest in artifacts else None
        points.append(
            FrontPoint(
                "uniform" if is_baseline(finalist.label) or asked.choice else "search",
                latency_figure(finalist.latency),
                quality_figure(finalist.quality),
                finalist.plan,
                digest,
            )
        )
    return JobResult(artifacts, tuple(points))
