"""Fronts for other programs."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.errors import InputError
from hwsparse.plan import Plan
from hwsparse.report import FrontPoint, FrontReport
from hwsparse.report.export import COLUMNS, front_csv
from hwsparse.report.front import TIMED
from tests.report.sample import sample_report
from tests.report.test_front import points

REPORT = sample_report(12)


def rows(report: FrontReport) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(front_csv(report), newline="")))


def test_every_point_is_a_row_that_says_what_the_point_says() -> None:
    found = rows(REPORT)
    assert sorted(row["label"] for row in found) == sorted(point.label for point in REPORT.points)
    assert [float(row["latency_ms"]) for row in found] == sorted(1e3 * point.latency_s for point in REPORT.points)
    by_figures = {(point.label, point.latency_s): point for point in REPORT.points}
    for row in found:
        point = by_figures[row["label"], float(row["latency_ms"]) / 1e3]
        assert float(row["quality"]) == point.quality
        assert row["latency_source"] == point.latency_source
        assert (Plan.from_json(row["plan"]) if row["plan"] else None) == point.plan
        assert row["artifact"] == (point.artifact.directory if point.artifact else "")
        assert (row["winner"] == "yes") == (point is REPORT.winning_point)
        dense = REPORT.dense_beside(point)
        assert dense is not None
        assert float(row["speedup"]) == dense.latency_s / point.latency_s


def test_the_front_is_marked_of_each_source_by_itself() -> None:
    found = rows(REPORT)
    strict = {(p.label, p.latency_source) for source in REPORT.sources for p in REPORT.front(source)}
    loose = {(p.label, p.latency_source) for p in REPORT.unbeaten}
    assert {(row["label"], row["latency_source"]) for row in found if row["on_front"] == "yes"} == strict
    assert {(row["label"], row["latency_source"]) for row in found if row["on_front"]} == strict | loose


@given(st.lists(points(), min_size=1, max_size=6), st.text(max_size=10))
def test_any_report_is_a_table(found: list[FrontPoint], metric: str) -> None:
    report = FrontReport("t", "m", "d", "s", metric, tuple(found))
    table = list(csv.reader(io.StringIO(front_csv(report), newline="")))
    assert table[0] == list(COLUMNS)
    assert len(table) == 1 + len(found)
    assert {len(row) for row in table} == {len(COLUMNS)}


def error(point: FrontPoint) -> float:
    """The standard error of what it lost, of its interval of 95 %."""
    low, high = point.drop_interval or (0.0, 0.0)
    return 0.0 if point.kind == "dense" else (high - low) / 3.92


def brute_force(report: FrontReport, max_drop: float | None, max_latency_s: float | None) -> FrontPoint | None:
    """Of the points that were timed, by trying all."""
    timed = [p for p in report.points if p.latency_source in TIMED and p.kind != "external"]
    dense = next(p for p in timed if p.kind == "dense")
    within = [
        p
        for p in timed
        if (max_drop is None or dense.quality - p.quality + error(p) <= max_drop)
        and (max_latency_s is None or p.latency_s <= max_latency_s)
    ]
    if max_drop is None:
        return max(within, key=lambda p: p.quality, default=None)
    return min(within, key=lambda p: p.latency_s, default=None)


@pytest.mark.parametrize("max_drop", [None, 0.0, 0.005, 0.01, 0.03, 0.5])
@pytest.mark.parametrize("share", [None, 0.2, 0.5, 0.8, 1.0])
def test_the_point_that_serves_best(max_drop: float | None, share: float | None) -> None:
    dense = next(p for p in REPORT.points if p.kind == "dense" and p.latency_source in TIMED)
    limit_s = None if share is None else share * dense.latency_s
    expected = brute_force(REPORT, max_drop, limit_s)
    if expected is not None:
        assert REPORT.serving(max_drop, limit_s) == expected
    else:
        with pytest.raises(InputError, match=r"no such point takes less than .* ms"):
            REPORT.serving(max_drop, limit_s)


def test_what_nobody_reaches_is_said_with_what_can_be_had() -> None:
    with pytest.raises(InputError, match="no point loses less than"):
        REPORT.serving(-1.0, None)


def test_predictions_serve_where_nothing_was_timed() -> None:
    predicted = replace(REPORT, points=tuple(p for p in REPORT.points if p.latency_source == "predicted"), winner=None)
    assert predicted.serving(None, 1.0).latency_source == "predicted"
