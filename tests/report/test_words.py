from __future__ import annotations

import pytest

from hwsparse.metric import METRICS
from hwsparse.report import Method, words
from tests.report.sample import PRUNED, make_plan, point, sample_report


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "500 ms"), (0.0123, "12.3 ms"), (0.00481, "4.81 ms"), (0.000456, "0.456 ms"), (2.3e-5, "0.0230 ms")],
)
def test_milliseconds_have_three_figures(seconds: float, text: str) -> None:
    assert words.milliseconds(seconds) == text


def test_accuracy_is_in_percent_and_correlation_is_not() -> None:
    assert words.quality("top1", 0.9632) == "96.3 %"
    assert words.quality("spearman", 0.81234) == "0.8123"
    assert words.metric_name("top1") == "Top-1 accuracy"
    assert words.metric_name("bleu") == words.short_metric_name("bleu") == "bleu"
    assert words.quality("neg_log_loss", -0.51234) == f"{words.MINUS}0.5123"
    assert words.quality("bleu", 0.5) == "0.5000"


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_has_names(metric: str) -> None:
    assert words.metric_name(metric) == METRICS[metric].title != metric
    assert words.short_metric_name(metric) == METRICS[metric].short
    assert len(METRICS[metric].short) <= 12  # over a column
    assert words.quality(metric, 0.25) == ("25.0 %" if METRICS[metric].percent else "0.2500")


@pytest.mark.parametrize(
    ("metric", "difference", "text"),
    [
        ("top1", -0.0061, f"{words.MINUS}0.6 pts"),
        ("top1", 0.0061, "+0.6 pts"),
        ("top1", -0.0001, "±0.0 pts"),
        ("top1", 0.0001, "±0.0 pts"),
        ("spearman", -0.01, f"{words.MINUS}0.0100"),
        ("spearman", 0.0, "±0.0000"),
    ],
)
def test_a_change_has_a_sign_unless_it_is_none(metric: str, difference: float, text: str) -> None:
    assert words.change(metric, difference) == text


def test_a_plan_is_told_pattern_by_pattern() -> None:
    plan = make_plan("block4x1@0.9", "2:4", "block4x1@0.5", "block4x1@0.7")
    assert words.plan_summary(plan) == f"2:4, block4x1@0.5{words.DASH}0.9 {words.TIMES}3"
    assert words.plan_summary(make_plan("2:4", "2:4")) == f"2:4 {words.TIMES}2"
    assert words.plan_summary(make_plan()) == "dense"
    assert words.plan_summary(None) == ""


def test_speed_and_loss_are_against_dense() -> None:
    report = sample_report()
    winner = report.winning_point
    assert winner is not None
    assert words.speedup(report, winner) == f"2.31{words.TIMES}"
    assert words.quality_change(report, winner) == f"{words.MINUS}0.6 pts"
    assert words.latency_interval(point("a", "search", 2.0, 0.9)) == f"1.97{words.DASH}2.06"
    assert words.quality_interval("top1", winner) == f"95.4{words.DASH}97.0"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (999_499, "999 k"), (999_600, "1.00 M"), (84_200_000, "84.2 M"),
     (4_100_000_000, "4.10 G")],
)  # fmt: skip
def test_counts_have_three_figures(number: int, text: str) -> None:
    assert words.count(number) == text


def test_flops_are_two_for_each_multiply_add() -> None:
    known = point("a", "search", 2.0, 0.9, macs=42_100_000, parameters=180_000)
    assert words.sizes(known) == "84.2 M FLOPs, 180 k parameters"
    assert words.sizes(point("a", "search", 2.0, 0.9, macs=None, parameters=None)) == ""


def test_a_category_says_when_and_what_and_from_what() -> None:
    sparse = point("a", "search", 2.0, 0.9, plan=make_plan("unstructured@0.8"), method=PRUNED)
    assert words.category(sparse) == "after training, unstructured, dense-to-sparse, static"
    assert words.short_category(sparse) == "after, unstructured, dense-to-sparse, static"
    trained = Method("RigL", "during", "sparse-to-sparse", "dynamic")
    assert words.category(point("a", "search", 2.0, 0.9, method=trained)) == (
        "during training, sparse-to-sparse, dynamic"
    )
    assert words.category(point("dense", "dense", 2.0, 0.9)) == "dense"
    assert words.category(point("a", "search", 2.0, 0.9, method=None)) == ""


def test_the_interval_of_a_change_has_its_signs() -> None:
    lost = point("a", "search", 2.0, 0.9, drop_interval=(-0.004, 0.031))
    assert words.drop_interval("top1", lost) == f"{words.MINUS}3.1 to +0.4"
    assert words.drop_interval("top1", point("a", "search", 2.0, 0.9, drop_interval=None)) == ""
