"""An outcome as the report of a front: predicted trials, and what was timed and judged on held-out data."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from hwsparse.latency import Measurement
from hwsparse.pipeline.outcome import Outcome
from hwsparse.plan import Plan
from hwsparse.report import ArtifactPlace, FrontPoint, FrontReport
from hwsparse.sparsify import QualityReport, Robustness


def front_report(outcome: Outcome, dataset: str) -> FrontReport:
    """Everything that the pictures and tables of an outcome show.

    Raises:
        InputError: the outcome has no quality to show: it was compiled without data.
    """
    model, target, baselines = outcome.model, outcome.target, outcome.baselines
    points = [FrontPoint.of(candidate) for candidate in outcome.candidates]
    if baselines.quality is not None:
        dense = Plan(model.digest)
        points.append(_point("dense", "dense", baselines.dense, baselines.quality, dense))
        points.append(_point("onnxruntime", "external", baselines.onnxruntime, baselines.quality, None))
    for finalist in outcome.finalists:
        if finalist.quality is not None:
            kind: Literal["uniform", "search"] = "uniform" if finalist.label.startswith("uniform") else "search"
            directory = finalist.artifact.directory.relative_to(outcome.directory).as_posix()
            place = ArtifactPlace(finalist.artifact.digest, directory)
            points.append(_point(finalist.label, kind, finalist.latency, finalist.quality, finalist.plan, place))
    winner = outcome.winner
    return FrontReport(
        title=f"{model.name} on {target.name}",
        model=model.name,
        device=f"{target.name}, {target.threads} thread{'s' if target.threads > 1 else ''}",
        dataset=dataset,
        metric=baselines.quality.metric if baselines.quality is not None else "",
        points=tuple(_with_robustness(point, outcome) for point in points),
        winner=winner.label if winner is not None else None,
        layers=winner.artifact.manifest.layers if winner is not None else (),
        notes=(*_notes(outcome), *_robustness_notes(outcome)),
    )


def _point(
    label: str,
    kind: Literal["dense", "uniform", "search", "external"],
    latency: Measurement,
    quality: QualityReport,
    plan: Plan | None,
    artifact: ArtifactPlace | None = None,
) -> FrontPoint:
    return FrontPoint(
        label=label,
        kind=kind,
        latency_s=latency.median_s,
        latency_interval_s=latency.interval_s,
        latency_source=latency.source,
        quality=quality.value,
        quality_interval=quality.interval,
        split=quality.split,
        plan=plan,
        artifact=artifact,
    )


def _robustness(outcome: Outcome) -> dict[str, Robustness]:
    """By label, of everything that was judged under corruption; onnxruntime's answers are the dense model's."""
    dense = outcome.baselines.robustness
    found = {"dense": dense, "onnxruntime": dense} | {each.label: each.robustness for each in outcome.finalists}
    return {label: robustness for label, robustness in found.items() if robustness is not None}


def _with_robustness(point: FrontPoint, outcome: Outcome) -> FrontPoint:
    robustness = _robustness(outcome).get(point.label) if point.latency_source != "predicted" else None
    return point if robustness is None else replace(point, robustness=robustness.value)


def _robustness_notes(outcome: Outcome) -> tuple[str, ...]:
    found = _robustness(outcome)
    if not found:
        return ()
    corruptions = ", ".join(next(iter(found.values())).corruptions)
    told = (f"{label} {each.value:.4f} ({each.interval[0]:.4f} to {each.interval[1]:.4f})"
            for label, each in found.items() if label != "onnxruntime")  # fmt: skip
    return (
        f"Robustness: the mean quality over {corruptions}, numbers being severities of 5; same held-out samples. "
        f"With 95 % intervals: {', '.join(told)}.",
    )


def _notes(outcome: Outcome) -> tuple[str, ...]:
    notes = [
        "Trials: latency predicted from measured layers, quality on calibration data. "
        "Finalists and baselines: timed in turns in one run, quality on held-out data.",
        "Pruned after training, in one shot: mask and weights of each layer found together (ALPS, rows regrouped) for "
        "the dense layer's output on calibration data; of what was built, each layer fitted again to what it reads "
        "then. Nothing was trained end to end.",
    ]
    if outcome.winner is None:
        notes.append(
            f"No plan was faster than the dense model on {outcome.target.name} within the goal: nothing is gained."
        )
    for finalist in outcome.finalists:
        lost = finalist.chosen_by
        if outcome.winner is None or lost is None or finalist.latency.median_s >= outcome.winner.latency.median_s:
            continue
        notes.append(
            f"{finalist.label} is faster than the winner, but its quality is not sure enough: on the data that choose "
            f"it lost {lost.drop:.2%}, with a standard error of {lost.drop_error:.2%}."
        )
    return tuple(notes)
