"""The terms of a comparison in words: what all rows share, and what the best row is to be held to.

Knows no markup: whoever writes HTML or terminal codes escapes what comes from here.
"""

from __future__ import annotations

from hwsparse.report import words
from hwsparse.report.comparison import Budget
from hwsparse.report.front import TIMED, FrontPoint, FrontReport


def terms(report: FrontReport) -> tuple[tuple[str, str], ...]:
    """Each term and what it is in this report; a term that is not known says so."""
    return (
        ("Checkpoint", _checkpoint(report)),
        ("Methods", _methods(report)),
        ("Budget", _budget(report)),
        ("Seeds", _seeds(report)),
        ("Intervals", _intervals(report)),
        ("Unstructured ceiling", _ceiling(report)),
        ("Small dense", _small_dense(report)),
    )


def budget_text(budget: Budget) -> str:
    """As in `fitted on at most 128 samples, tuned for at most 9 epochs`: training may end early."""
    if budget == Budget(0):
        return "nothing fitted"
    epochs = f"{budget.epochs:g} epoch{'' if budget.epochs == 1 else 's'}"
    tuned = f"tuned for at most {epochs}" if budget.epochs else "not tuned"
    return f"fitted on at most {budget.samples} samples, {tuned}"


def _checkpoint(report: FrontReport) -> str:
    if report.comparison is None:
        return "not stated"
    return f"{report.model}, sha256 {report.comparison.checkpoint[:16]}, for all rows"


def _methods(report: FrontReport) -> str:
    named: dict[str, list[str]] = {}
    for point in report.shortlist:
        if point.removed and point.method is not None:
            named.setdefault(f"{point.method.name} ({words.category(point)})", []).append(point.label)
    return "; ".join(f"{', '.join(dict.fromkeys(labels))}: {what}" for what, labels in named.items()) or "not stated"


def _budget(report: FrontReport) -> str:
    named: dict[Budget, list[str]] = {}
    for point in report.shortlist:
        if point.removed and point.budget is not None:
            named.setdefault(point.budget, []).append(point.label)
    if len(named) == 1:
        return f"{budget_text(next(iter(named)))}, for all rows that are pruned or narrowed"
    return "; ".join(f"{', '.join(labels)}: {budget_text(each)}" for each, labels in named.items()) or "not stated"


def _seeds(report: FrontReport) -> str:
    if report.comparison is None:
        return "not stated"
    return ", ".join(map(str, report.comparison.seeds)) or "none: nothing was random"


def _intervals(report: FrontReport) -> str:
    over = report.comparison is not None and len(report.comparison.seeds) > 1
    timed = any(point.latency_source in TIMED for point in report.points)
    latency = "over calls in turns" if timed else "as it is predicted"
    return (
        f"95 %, of quality over the samples it is judged on, of latency {latency}{'' if over else '; not over seeds'}"
    )


def _ceiling(report: FrontReport) -> str:
    ceiling = report.comparison.ceiling if report.comparison is not None else None
    if ceiling is None:
        return "not known"
    low, high = ceiling.quality_interval
    metric = report.metric
    bounds = f"{words.quality(metric, low)} to {words.quality(metric, high)}"
    return f"{words.quality(metric, ceiling.quality)} ({bounds}) at the ratios of {ceiling.of}"


def _small_dense(report: FrontReport) -> str:
    found = [point for point in report.points if point.kind == "small-dense"]
    return "; ".join(_beside(report, point) for point in found) or "not known"


def _beside(report: FrontReport, point: FrontPoint) -> str:
    text = f"{words.milliseconds(point.latency_s)}, {words.quality(report.metric, point.quality)}"
    if change := words.quality_change(report, point):
        text += f", {change}"
    if (subject := report.subject) is not None:
        text += f"; {subject.label}: {words.milliseconds(subject.latency_s)}"
        text += f", {words.quality_change(report, subject) or words.quality(report.metric, subject.quality)}"
    return text
