"""Each rule fires on what lacks and is silent on what does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hwsparse.report import Budget, FrontPoint, FrontReport
from hwsparse.report.audit import RULES, audit
from tests.report.sample import NOTHING, make_plan, point, sample_report

FAIR = sample_report(12)
OTHER = "cd" * 32


def lacking(*reports: FrontReport) -> dict[str, str]:
    return {finding.rule: finding.what for finding in audit(reports).findings}


def changed(change: Callable[[FrontPoint], FrontPoint | None], report: FrontReport = FAIR) -> FrontReport:
    """The report with every point changed, or left out where None comes back."""
    points = tuple(new for each in report.points if (new := change(each)) is not None)
    winner = report.winner if report.winner in [each.label for each in points] else None
    return replace(report, points=points, winner=winner)


def without(*kinds: str) -> FrontReport:
    return changed(lambda each: None if each.kind in kinds else each)


def only(*labels: str) -> FrontReport:
    return changed(lambda each: each if each.label in labels else None)


def with_kind(kind: str, **more: object) -> FrontReport:
    return changed(lambda each: replace(each, **more) if each.kind == kind else each)


def with_subject(report: FrontReport = FAIR, **more: object) -> FrontReport:
    return changed(lambda each: replace(each, **more) if each.label == "search 3" else each, report)


def with_comparison(report: FrontReport = FAIR, **more: object) -> FrontReport:
    assert report.comparison is not None
    return replace(report, comparison=replace(report.comparison, **more))


def test_a_fair_comparison_lacks_nothing() -> None:
    assert audit([FAIR]) == replace(audit([FAIR]), findings=())


ROUNDED = with_subject(plan=make_plan("block4x4@0.5/int8", "2:4"))


def with_rival(text: str) -> FrontReport:
    """ROUNDED beside a dense network whose layers are so."""
    rival = point(f"dense {text}", "dense-rounded", 3.0, 0.96, plan=make_plan(text, text))
    return replace(ROUNDED, points=(*ROUNDED.points, rival))


# rule, what is said, the report that lacks it
LACKING = [
    ("seeds", "one seed (0)", with_comparison(seeds=(0,))),
    ("seeds", "2 seeds (0, 1)", with_comparison(seeds=(0, 1))),
    ("seeds", "not stated", replace(FAIR, comparison=None)),
    ("datasets", "only Fashion-MNIST", replace(FAIR, dataset="Fashion-MNIST")),
    ("datasets", "only cifar10-test", replace(FAIR, dataset="cifar10-test")),
    ("budgets", "small dense fitted on at most 128 samples, tuned", with_kind("small-dense", budget=Budget(128, 3))),
    ("budgets", "fitted on at most 64 samples", with_subject(budget=Budget(64))),
    ("budgets", "the budget of small dense is not stated", with_kind("small-dense", budget=None)),
    ("budgets", "3 epochs, and the dense baseline was not",
     changed(lambda each: replace(each, budget=Budget(9, 3)) if each.removed else each)),
    ("checkpoints", "not stated", replace(FAIR, comparison=None)),
    ("checkpoints", "start from another checkpoint", with_comparison(checkpoint=OTHER)),
    ("checkpoints", "search 3 start", with_subject(plan=replace(make_plan("2:4"), model_digest=OTHER))),
    ("latency", "is predicted, not measured", sample_report(12, measured=False)),
    ("latency", "is simulated, not measured",
     changed(lambda each: replace(each, latency_source="simulated") if each.latency_source == "measured" else each)),
    ("latency", "no row is sparse", without("search", "surrogate")),
    ("dense", "no dense baseline", without("dense")),
    ("dense", "not timed and judged like", with_kind("dense", split="calibration")),
    ("dense", "not timed and judged like", with_kind("dense", latency_source="predicted")),
    ("external", "no runtime but ours", without("external")),
    ("external", "no other runtime was timed like", with_kind("external", latency_source="predicted")),
    ("small-dense", "no small dense", without("small-dense")),
    ("small-dense", "not timed and judged like the sparse", with_kind("small-dense", split="calibration")),
    ("small-dense", "1.20 times as long as search 3", with_kind("small-dense", latency_s=2.08e-3 * 1.2)),
    ("small-dense", "0.87 times as long as search 3", with_kind("small-dense", latency_s=2.08e-3 * 0.87)),
    ("ceiling", "no unstructured ceiling", with_comparison(ceiling=None)),
    ("ceiling", "is of search 3, not of search 2", replace(FAIR, winner="search 2")),
    ("uniform", "no baseline of uniform", without("uniform")),
    ("uniform", "no baseline of uniform", with_subject(without("uniform"), plan=make_plan("2:4", "2:4"))),
    ("uniform", "no baseline of uniform", only("dense", "search 3")),
    ("rounded", "no dense baseline in int8", ROUNDED),
    ("rounded", "no dense baseline in int8", with_rival("dense/bfloat16")),
    ("held-out", "search 3 is on the samples that chose it",
     changed(lambda each: replace(each, split="calibration"))),
    ("intervals", "search 3 against dense", with_subject(drop_interval=(-0.02, 0.03))),
    ("intervals", "search 3 against small dense", with_kind("small-dense", quality=0.955, drop_interval=(-0.02, 0.03))),
    ("intervals", "search 3 against dense", with_subject(drop_interval=None, quality_interval=(0.93, 0.97))),
    ("categories", "search 3 is not stated", with_subject(method=None)),
    ("categories", "trial 1, trial 2, trial 3 and", changed(lambda each: replace(each, method=None)
                                                            if each.label.startswith("trial") else each)),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "said", "report"), LACKING, ids=[f"{rule}: {said}" for rule, said, _ in LACKING])
def test_what_lacks_is_named(rule: str, said: str, report: FrontReport) -> None:
    found = lacking(report)
    assert said in found[rule]
    finding = next(finding for finding in audit([report]).findings if finding.rule == rule)
    assert finding.why and finding.remedy


def test_every_rule_is_tried() -> None:
    assert {rule for rule, _, _ in LACKING} == set(RULES)


# What comes near to lacking something and does not.
ENOUGH = [
    ("uniform", with_subject(only("dense", "search 3"), plan=make_plan("2:4", "2:4"))),
    ("rounded", with_rival("dense/int8")),
    ("seeds", with_comparison(seeds=())),  # nothing was random
    ("budgets", changed(lambda each: replace(each, budget=Budget(9, 3)) if each.kind != "external" else each)),
    ("budgets", with_subject(plan=make_plan(), method=NOTHING, budget=Budget(0))),  # nothing of the plan shipped
    ("small-dense", with_kind("small-dense", latency_s=2.08e-3 * 1.09)),
    ("small-dense", with_kind("small-dense", latency_s=2.08e-3 * 0.91)),
    ("intervals", with_subject(drop_interval=(-0.002, 0.011))),  # known to one point
    ("intervals", with_subject(quality=0.9, drop_interval=(0.05, 0.08))),  # less doubt than difference
    ("intervals", with_kind("small-dense", quality_interval=(0.5, 1.0))),  # pairs of samples are known
    ("datasets", replace(FAIR, dataset="ImageNet")),
]


@pytest.mark.parametrize(("rule", "report"), ENOUGH)
def test_what_does_not_lack_is_not_named(rule: str, report: FrontReport) -> None:
    assert rule not in lacking(report)


def test_seeds_of_several_reports_count_together_for_one_task_each() -> None:
    one, two, three = (with_comparison(seeds=(seed,)) for seed in range(3))
    assert lacking(one, two, three) == {}
    assert "2 seeds (0, 1)" in lacking(one, two)["seeds"]
    tasks = lacking(one, two, three, replace(three, model="another"))
    assert tasks == {"seeds": "another on files, 420 held out: one seed (2)"}
    assert "one seed" in lacking(one, two, replace(three, device="another"))["seeds"]


def test_one_larger_task_is_enough() -> None:
    assert "datasets" not in lacking(FAIR, replace(FAIR, dataset="CIFAR-10"))
    assert lacking(replace(FAIR, dataset="MNIST"), replace(FAIR, dataset="CIFAR-10"))["datasets"] == (
        "only MNIST, CIFAR-10"
    )


def test_reports_of_one_task_start_from_one_checkpoint() -> None:
    def moved(each: FrontPoint) -> FrontPoint:
        return replace(each, plan=None if each.plan is None else replace(each.plan, model_digest=OTHER))

    other = with_comparison(changed(moved), checkpoint=OTHER)
    assert "checkpoints" not in lacking(other)
    assert "2 checkpoints (abababababab, cdcdcdcdcdcd)" in lacking(FAIR, other)["checkpoints"]
    assert "checkpoints" not in lacking(FAIR, replace(other, model="another"))


def test_reports_of_one_task_have_one_budget() -> None:
    tuned = changed(lambda each: replace(each, budget=Budget(9, 3)) if each.kind != "external" else each)
    assert "different budgets" in lacking(FAIR, tuned)["budgets"]
    assert "budgets" not in lacking(FAIR, replace(tuned, model="another"))


def test_of_several_reports_it_is_said_which_lacks() -> None:
    found = lacking(FAIR, replace(without("external"), title="the other"))
    assert found == {"external": "the other, seed 0, 1, 2: no runtime but ours"}


def test_it_reads_whatever_a_report_may_be() -> None:
    bare = FrontReport("t", "m", "d", "s", "top1", (point("a", "external", 1.0, 0.5, method=None),))
    assert {"seeds", "latency", "dense", "small-dense", "uniform", "categories"} <= lacking(bare).keys()
    assert lacking(FrontReport("t", "m", "d", "", "top1", (point("a", "dense", 1.0, 0.5),)))
