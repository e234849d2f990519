"""What a comparison lacks, each with the reason and what to do about it.

Several reports are one comparison: several seeds or tasks. Reports of the same model on the same data are one task.

Knows reports only: it measures nothing, and believes what they say of themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hwsparse.plan import Choice
from hwsparse.report import words
from hwsparse.report.comparison import Budget
from hwsparse.report.front import FrontPoint, FrontReport
from hwsparse.report.terms import budget_text

MIN_SEEDS = 3
SAME_LATENCY = 0.1  # a small dense network is to take as long as the winner, to this share
RESOLUTION = 0.01  # of quality: what is known to one point is known well enough
TOO_SMALL = re.compile("mnist|cifar", re.IGNORECASE)
RIVALS = ("dense", "dense-rounded", "small-dense", "uniform")  # what a difference is told from
NAMED = 3  # rows; of more the number is told

Reports = Sequence[FrontReport]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a comparison lacks."""

    rule: str
    what: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found in which reports, by their titles."""

    reports: tuple[str, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """`lacks` gives a sentence for each thing that is missing or wrong; none: all is well."""

    lacks: Callable[[Reports], Iterable[str]]
    why: str
    remedy: str


def audit(reports: Reports) -> Audit:
    """What a comparison lacks, at most one finding for each rule."""
    findings = []
    for name, rule in RULES.items():
        if what := tuple(dict.fromkeys(rule.lacks(reports))):
            findings.append(Finding(name, "; ".join(what), rule.why, rule.remedy))
    return Audit(tuple(report.title for report in reports), tuple(findings))


def _each(check: Callable[[FrontReport], Iterable[str]]) -> Callable[[Reports], Iterator[str]]:
    """A check of one report as one of several, which then says whose finding it is."""

    def lacks(reports: Reports) -> Iterator[str]:
        for report in reports:
            whose = f"{_name(report)}: " if len(reports) > 1 else ""
            yield from (whose + what for what in check(report))

    return lacks


def _name(report: FrontReport) -> str:
    seeds = report.comparison.seeds if report.comparison is not None else ()
    return report.title + (f", seed {', '.join(map(str, seeds))}" if seeds else "")


def _tasks(reports: Reports) -> Mapping[str, Reports]:
    """Reports that differ in their seeds alone, by what they are about."""
    tasks: dict[str, list[FrontReport]] = {}
    for report in reports:
        tasks.setdefault(f"{report.model} on {report.dataset}", []).append(report)
    return tasks


def _rows(points: Iterable[FrontPoint]) -> str:
    labels = list(dict.fromkeys(point.label for point in points))
    more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
    return ", ".join(labels[:NAMED]) + more


def _seeds(reports: Reports) -> Iterator[str]:
    for task, same in _tasks(reports).items():
        for device in dict.fromkeys(report.device for report in same):
            stated = [report.comparison for report in same if report.device == device]
            if None in stated:
                yield f"{task}: the seeds are not stated"
                continue
            seeds = {seed for each in stated if each is not None for seed in each.seeds}
            if 0 < len(seeds) < MIN_SEEDS:
                one = "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
                yield f"{task}: {one} ({', '.join(map(str, sorted(seeds)))})"


def _datasets(reports: Reports) -> Iterator[str]:
    if reports and all(TOO_SMALL.search(report.dataset) for report in reports):
        yield f"only {', '.join(dict.fromkeys(report.dataset for report in reports))}"


def _budgets(reports: Reports) -> Iterator[str]:
    for task, same in _tasks(reports).items():
        shown = [point for report in same for point in report.shortlist]
        if missing := [point for point in shown if point.removed and point.budget is None]:
            yield f"{task}: the budget of {_rows(missing)} is not stated"
        by_budget: dict[Budget, list[FrontPoint]] = {}
        for point in shown:
            if point.removed and point.budget is not None:
                by_budget.setdefault(point.budget, []).append(point)
        if len(by_budget) > 1:
            told = (f"{_rows(points)} {budget_text(budget)}" for budget, points in by_budget.items())
            yield f"{task}: rows have different budgets: {', '.join(told)}"
        epochs = max((budget.epochs for budget in by_budget), default=0.0)
        dense = [point for point in shown if point.kind == "dense"]
        if any((point.budget.epochs if point.budget is not None else 0) < epochs for point in dense):
            yield f"{task}: sparse rows were tuned for {epochs:g} epochs, and the dense baseline was not"


def _checkpoints(reports: Reports) -> Iterator[str]:
    for task, same in _tasks(reports).items():
        if any(report.comparison is None for report in same):
            yield f"{task}: the checkpoint is not stated"
        stated = dict.fromkeys(report.comparison.checkpoint for report in same if report.comparison is not None)
        if len(stated) > 1:
            yield f"{task}: rows start from {len(stated)} checkpoints ({', '.join(digest[:12] for digest in stated)})"
        planned = [point for report in same for point in report.points if point.plan is not None]
        if strange := [point for point in planned if stated and point.plan and point.plan.model_digest not in stated]:
            yield f"{task}: {_rows(strange)} start from another checkpoint than is stated"


def _latencies(report: FrontReport) -> Iterator[str]:
    subject = report.subject
    if subject is None:
        yield "no row is sparse"
    elif subject.latency_source != "measured":
        yield f"the latency of {subject.label} is {subject.latency_source}, not measured"


def _dense(report: FrontReport) -> Iterator[str]:
    beside = report.subject
    known = None if beside is None else (beside.latency_source, beside.split)
    found = [point for point in report.points if point.kind == "dense"]
    if not found:
        yield "no dense baseline"
    elif known is not None and all((point.latency_source, point.split) != known for point in found):
        yield "the dense baseline was not timed and judged like the sparse rows"


def _external(report: FrontReport) -> Iterator[str]:
    beside = report.subject
    found = [point for point in report.points if point.kind == "external"]
    if not found:
        yield "no runtime but ours"
    elif beside is not None and all(point.latency_source != beside.latency_source for point in found):
        yield "no other runtime was timed like the sparse rows"


def _small_dense(report: FrontReport) -> Iterator[str]:
    subject = report.subject
    found = [point for point in report.points if point.kind == "small-dense"]
    if not found:
        yield "no small dense baseline"
    elif subject is not None:
        if all((point.latency_source, point.split) != (subject.latency_source, subject.split) for point in found):
            yield "the small dense baseline was not timed and judged like the sparse rows"
        nearest = min((point.latency_s / subject.latency_s - 1 for point in found), key=abs)
        if abs(nearest) > SAME_LATENCY:
            yield f"the small dense baseline takes {1 + nearest:.2f} times as long as {subject.label}"


def _ceiling(report: FrontReport) -> Iterator[str]:
    subject, ceiling = report.subject, report.comparison.ceiling if report.comparison is not None else None
    if ceiling is None:
        yield "no unstructured ceiling"
    elif subject is not None and ceiling.of != subject.label:
        yield f"the unstructured ceiling is of {ceiling.of}, not of {subject.label}"


def _uniform(report: FrontReport) -> Iterator[str]:
    subject = report.subject
    searched = any(point.kind in ("search", "surrogate") and point is not subject for point in report.points)
    plan = subject.plan if subject is not None else None
    if not searched and plan is not None and len({choice for _, choice in plan.choices}) == 1:
        return  # it was asked for as it is: one choice, wherever that pays
    if all(point.kind != "uniform" for point in report.points):
        yield "no baseline of uniform sparsity"


def _rounded(report: FrontReport) -> Iterator[str]:
    """Types that the subject's layers have, and no dense row has."""
    subject = report.subject
    if subject is None or subject.plan is None:
        return
    dense = [point.plan for point in report.points if point.kind == "dense-rounded" and point.plan is not None]
    there = {Choice().dtype, *(choice.dtype for plan in dense for _, choice in plan.choices)}
    for dtype in sorted({choice.dtype for _, choice in subject.plan.choices} - there):
        yield f"no dense baseline in {dtype}"


def _held_out(report: FrontReport) -> Iterator[str]:
    if (subject := report.subject) is not None and subject.split == "calibration":
        yield f"the quality of {subject.label} is on the samples that chose it"


def _intervals(report: FrontReport) -> Iterator[str]:
    subject = report.subject
    if subject is None:
        return
    for rival in report.shortlist:
        if rival.kind not in RIVALS or rival is subject or rival.split != subject.split:
            continue
        difference, doubt = subject.quality - rival.quality, _doubt(subject, rival)
        if doubt > max(abs(difference), RESOLUTION):
            told = words.change(report.metric, difference)
            unsure = words.change(report.metric, doubt).removeprefix("+")
            yield f"{subject.label} against {rival.label}: {told}, give or take {unsure}"


def _doubt(subject: FrontPoint, rival: FrontPoint) -> float:
    """Half of the 95 % interval of the difference: of pairs of samples where those are known."""

    def half(interval: tuple[float, float]) -> float:
        return (interval[1] - interval[0]) / 2

    if subject.drop_interval is not None and rival.kind == "dense":
        return half(subject.drop_interval)
    if subject.drop_interval is not None and rival.drop_interval is not None:
        return math.hypot(half(subject.drop_interval), half(rival.drop_interval))
    return math.hypot(half(subject.quality_interval), half(rival.quality_interval))


def _categories(report: FrontReport) -> Iterator[str]:
    if missing := [point for point in report.points if point.method is None or point.structure is None]:
        yield f"the category of {_rows(missing)} is not stated"


RULES: Mapping[str, Rule] = {
    "seeds": Rule(
        _seeds,
        "Splits, searches and training are random: what one run gains another may lose, and few tell by how much "
        "(Blalock et al. 2020, What is the State of Neural Network Pruning?)",
        f"repeat it with other seeds, at least {MIN_SEEDS}, and give all reports to one audit",
    ),
    "datasets": Rule(
        _datasets,
        "Networks for these are so much too large that nearly any pruning looks good, and what wins there need not win "
        "at scale (Blalock et al. 2020; Gale et al. 2019, The State of Sparsity in Deep Neural Networks)",
        "add a task of the size that the result is to hold for, as ImageNet or STS-B",
    ),
    "budgets": Rule(
        _budgets,
        "How weights are retrained matters more than what was pruned, and more training helps dense networks too "
        "(Le and Hua 2021, Network Pruning That Matters; Renda et al. 2020, Comparing Rewinding and Fine-tuning)",
        "fit and tune every row alike, the dense baseline included",
    ),
    "checkpoints": Rule(
        _checkpoints,
        "A method that starts from a better network ends with a better one (Blalock et al. 2020)",
        "start every row from the same checkpoint, and state its digest",
    ),
    "latency": Rule(
        _each(_latencies),
        "FLOPs, ratios of zeros and sums of layers do not tell time: memory, caches and kernels do (Ma et al. 2018, "
        "ShuffleNet V2)",
        "build the network and time it on the device",
    ),
    "dense": Rule(
        _each(_dense),
        "A speed-up and a loss are against something: the same network, dense, in the same run on the same samples",
        "time and judge the dense model beside the sparse ones",
    ),
    "external": Rule(
        _each(_external),
        "A slow dense baseline makes any sparse kernel look fast: users compare with the runtime that they have",
        "time the dense model in another runtime in the same run, as `optimize` and `tune` do with onnxruntime",
    ),
    "small-dense": Rule(
        _each(_small_dense),
        "A narrower dense network of equal latency is often as good as what pruning found (Liu et al. 2019, Rethinking "
        "the Value of Network Pruning; Zhu and Gupta 2017, To Prune, or Not to Prune)",
        "narrow the same model to the winner's latency and give it the same budget, as `optimize` and `tune` do",
    ),
    "ceiling": Rule(
        _each(_ceiling),
        "Unstructured sparsity at equal ratios tells what the structure costs (Mao et al. 2017, Exploring the "
        "Granularity of Sparsity in Convolutional Neural Networks)",
        "judge the winner's plan with each pattern unstructured, as `optimize` and `tune` do",
    ),
    "uniform": Rule(
        _each(_uniform),
        "Whether ratios by layer were worth a search is only seen beside one choice for all layers: what is simple is "
        "hard to beat (Gale et al. 2019)",
        "add plans that give every layer the same choice",
    ),
    "rounded": Rule(
        _each(_rounded),
        "What zeros gain is only told from what fewer bits gain beside a dense network of the same type, often the "
        "better one (Kuzmin et al. 2023, Pruning vs Quantization: Which is Better?)",
        "add the same model, dense, in that type, as `optimize` does",
    ),
    "held-out": Rule(
        _each(_held_out),
        "Of many plans on few samples the best looking were lucky there (Cawley and Talbot 2010, On Over-fitting in "
        "Model Selection)",
        "judge it on samples that took no part in fitting or choosing",
    ),
    "intervals": Rule(
        _each(_intervals),
        "A difference smaller than its 95 % interval, and that wider than one point, may be none or the opposite (Card "
        "et al. 2020, With Little Power Comes Great Responsibility)",
        "judge on more held-out samples, or claim less",
    ),
    "categories": Rule(
        _each(_categories),
        "Methods that prune before, during and after training, with and without structure, cost and promise different "
        "things (Hoefler et al. 2021, Sparsity in Deep Learning)",
        "state when each row was pruned, from what, to which patterns, with which kind of mask",
    ),
}
