from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.errors import HwsparseError, InputError
from hwsparse.plan import Plan
from hwsparse.report import (
    ArtifactPlace,
    Comparison,
    FrontPoint,
    FrontReport,
    parse_report,
    read_report,
    write_report,
)
from hwsparse.report.files import write_whole
from hwsparse.search import Candidate
from tests.report.sample import MODEL, NARROWED, NOTHING, PRUNED, make_plan, place, point, sample_report
from tests.report.test_comparison import budgets, comparisons, methods

REPORT = sample_report(12)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
numbers = st.floats(1e-6, 10)
counts = st.none() | st.integers(0, 10**15)


@st.composite
def points(draw: st.DrawFn) -> FrontPoint:
    low, mid, high = sorted(draw(st.tuples(numbers, numbers, numbers)))
    return FrontPoint(
        label=draw(texts),
        kind=draw(
            st.sampled_from(["dense", "dense-rounded", "small-dense", "uniform", "surrogate", "search", "external"])
        ),
        latency_s=mid,
        latency_interval_s=(low, high),
        latency_source=draw(st.sampled_from(["measured", "simulated", "predicted"])),
        quality=-mid,
        quality_interval=(-high, -low),
        split=draw(texts),
        plan=draw(st.sampled_from([None, make_plan(), make_plan("2:4", "block4x1@0.9")])),
        artifact=draw(st.sampled_from([None, place("a"), ArtifactPlace("0" * 64, "here")])),
        robustness=draw(st.sampled_from([None, 0.0, -1.5])),
        drop_interval=draw(st.none() | st.just((low - high, high - low))),
        macs=draw(counts),
        parameters=draw(counts),
        method=draw(st.none() | methods()),
        budget=draw(st.none() | budgets()),
    )


@given(
    st.lists(points(), min_size=1, max_size=4), texts, st.lists(texts, max_size=2), st.none() | comparisons()
)  # fmt: skip
def test_a_report_is_read_back_as_it_was(
    found: list[FrontPoint], text: str, notes: list[str], comparison: Comparison | None
) -> None:
    report = FrontReport(
        text, text, text, text, text, tuple(found), found[0].label, notes=tuple(notes), comparison=comparison
    )
    assert parse_report(report.text) == report
    assert parse_report(report.text).text == report.text


def test_a_report_is_kept_in_a_file(tmp_path: Path) -> None:
    write_report(REPORT, tmp_path / "front.json")
    assert read_report(tmp_path / "front.json") == REPORT
    assert [path.name for path in tmp_path.iterdir()] == ["front.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has the format 2; this hwsparse reads 3"),
        ({"format": None}, "has the format None"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"points": []}, "no result to show"),
        ({"points": None}, "is not a list"),
        ({"winner": "nobody"}, "'nobody' is none of the points"),
        ({"title": 3}, "is not a str"),
        ({"comparison": {"checkpoint": "ab", "seeds": [], "ceiling": None}}, "'ab' is no checkpoint's digest"),
        ({"comparison": {"checkpoint": MODEL, "seeds": [0.5], "ceiling": None}}, "is not a whole number"),
    ],
)
def test_a_changed_report_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "front.json"
    path.write_text(json.dumps({**json.loads(REPORT.text), **change}))
    with pytest.raises(InputError, match=message) as caught:
        read_report(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "{", '{"points": NaN}', b"\xff", '"points"'])
def test_what_is_no_report_is_refused(text: str | bytes) -> None:
    with pytest.raises(InputError):
        parse_report(text)


def test_a_missing_report_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_report(tmp_path / "front.json")


@pytest.mark.parametrize(
    "change",
    [
        {"latency_s": float("nan")},
        {"latency_s": 0.0},
        {"quality": float("inf")},
        {"quality_interval": (1.0, 0.0)},
        {"latency_interval_s": (1.0, 0.0)},
        {"drop_interval": (1.0, 0.0)},
        {"drop_interval": (0.0, float("nan"))},
        {"macs": -1},
        {"parameters": -1},
    ],
)
def test_impossible_points_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match="point 'dense'"):
        replace(REPORT.points[0], **change)


@pytest.mark.parametrize(
    ("digest", "directory"),
    [
        ("ab", "artifacts/a"),
        ("AB" * 32, "artifacts/a"),
        ("ab" * 32, ""),
        ("ab" * 32, "."),
        ("ab" * 32, "/etc"),
        ("ab" * 32, "../elsewhere"),
        ("ab" * 32, "artifacts/../../elsewhere"),
        ("ab" * 32, "artifacts//a"),
    ],
)
def test_a_place_that_no_artifact_has_is_refused(digest: str, directory: str) -> None:
    with pytest.raises(InputError, match="is no artifact's place"):
        ArtifactPlace(digest, directory)
    data = json.loads(REPORT.text)
    data["points"][-1]["artifact"] = {"digest": digest, "directory": directory}
    with pytest.raises(InputError, match="is no artifact's place"):
        parse_report(json.dumps(data))


def test_a_candidate_becomes_a_point() -> None:
    candidate = Candidate(make_plan("2:4"), 0.002, (0.001, 0.003), "predicted", 0.9, (0.8, 0.95), 0.01, "surrogate", 7)
    made = FrontPoint.of(candidate)
    assert (made.label, made.kind, made.plan) == ("trial 7", "surrogate", candidate.plan)
    assert (made.latency_s, made.latency_interval_s, made.latency_source) == (0.002, (0.001, 0.003), "predicted")
    assert FrontPoint.of(replace(candidate, kind="dense")).label == "dense"
    assert FrontPoint.of(candidate, label="A", split="held-out").split == "held-out"


def test_the_front_rests_on_timed_points_where_there_are_any() -> None:
    assert REPORT.sources == ("measured", "simulated")
    assert [p.label for p in REPORT.front(*REPORT.sources)] == ["search 4", "search 3", "search 2", "search 1"]
    predicted = sample_report(12, measured=False)
    assert predicted.sources == ("predicted",)
    assert all(p.latency_source == "predicted" for p in predicted.shortlist)


def test_another_runtime_is_never_on_our_front() -> None:
    fast = point("onnxruntime", "external", 0.1, 1.0)
    report = replace(REPORT, points=(*REPORT.points, fast))
    assert report.front(*report.sources) == REPORT.front(*REPORT.sources)
    assert fast in report.shortlist


def test_the_shortlist_is_the_front_and_every_baseline() -> None:
    labels = [p.label for p in REPORT.shortlist]
    assert set(labels) == {p.label for p in REPORT.points if p.latency_source == "measured"}
    assert [p.latency_s for p in REPORT.shortlist] == sorted(p.latency_s for p in REPORT.shortlist)


def test_a_point_is_compared_with_the_dense_model_known_in_the_same_way() -> None:
    timed = next(p for p in REPORT.points if p.kind == "dense" and p.latency_source == "measured")
    predicted = next(p for p in REPORT.points if p.kind == "dense" and p.latency_source == "predicted")
    assert REPORT.dense_beside(REPORT.points[-1]) is timed
    assert REPORT.dense_beside(REPORT.points[1]) is predicted
    only_timed = replace(REPORT, points=tuple(p for p in REPORT.points if p is not predicted))
    assert only_timed.dense_beside(REPORT.points[1]) is timed
    none = replace(REPORT, points=tuple(p for p in REPORT.points if p.kind != "dense"))
    assert none.dense_beside(REPORT.points[1]) is None


def test_the_winner_is_taken_as_timed() -> None:
    as_predicted = point("search 3", "search", 2.0, 0.95, "predicted")
    report = replace(REPORT, points=(as_predicted, *REPORT.points))
    assert report.winning_point is not None
    assert report.winning_point.latency_source == "measured"


def test_a_comparison_is_about_the_winner_or_else_the_fastest_sparse_point() -> None:
    assert REPORT.subject is REPORT.winning_point
    nobody = replace(REPORT, winner=None)
    assert nobody.subject is not None and nobody.subject.label == "search 4"  # timed, though trials promise more
    predicted = sample_report(12, measured=False).subject
    assert predicted is not None and predicted.latency_source == "predicted"
    assert replace(nobody, points=(point("dense", "dense", 4.0, 0.9),)).subject is None


def test_a_points_structure_is_that_of_its_plan() -> None:
    assert point("a", "search", 1.0, 0.9, plan=make_plan("2:4", "unstructured@0.8")).structure == "mixed"
    assert point("a", "search", 1.0, 0.9).structure is None
    assert point("a", "small-dense", 1.0, 0.9).structure == "structured"
    assert point("a", "external", 1.0, 0.9).structure == "dense"


def test_weights_are_removed_of_all_but_dense_models() -> None:
    assert point("a", "search", 1.0, 0.9, method=PRUNED).removed
    assert point("a", "small-dense", 1.0, 0.9, method=NARROWED).removed
    assert point("a", "search", 1.0, 0.9, method=None).removed
    assert not point("a", "search", 1.0, 0.9, method=NOTHING).removed  # of the plan nothing ships
    assert not point("a", "dense", 1.0, 0.9, method=None).removed


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_whole(path, b"old")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(HwsparseError, match="cannot be written: No space left"):
            write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    with pytest.raises(HwsparseError, match="cannot be written: No such file"):
        write_whole(tmp_path / "missing" / "f", b"")


def test_reading_a_front_loads_nothing_heavy() -> None:
    """The command line and the service show fronts without the packages that find them."""
    code = "import sys, hwsparse.report.table, hwsparse.search; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"optuna", "torch", "tvm", "onnxruntime", "plotly", "matplotlib"} & set(loaded)


def test_of_a_candidate_what_it_loses_is_told_against_the_dense_one() -> None:
    dense = Candidate(Plan(MODEL), 1.0, (1.0, 1.0), "predicted", 0.9, (0.8, 1.0), 0.0, "dense")
    sparse = replace(dense, latency_s=0.5, quality=0.89, drop_error=0.01, kind="search")
    made = FrontPoint.of(sparse, dense=dense)
    assert made.drop_interval == pytest.approx((0.01 - 0.0196, 0.01 + 0.0196))
    assert made.drop_error == pytest.approx(0.01)
    assert FrontPoint.of(dense, dense=dense).drop_error == FrontPoint.of(sparse).drop_error == 0.0


def test_of_two_points_within_the_noise_of_their_losses_both_are_unbeaten() -> None:
    """The qualities' own intervals, which overlap by far, would make all four so."""
    dense = Candidate(Plan(MODEL), 1.0, (1.0, 1.0), "predicted", 0.9, (0.8, 1.0), 0.0, "dense")
    tried = [
        replace(dense, latency_s=0.5, quality=quality, drop_error=0.01, kind="search") for quality in (0.88, 0.87, 0.8)
    ]
    points = tuple(FrontPoint.of(each, dense=dense, label=str(each.quality)) for each in (dense, *tried))
    report = FrontReport("t", "m", "d", "data", "top1", points)
    assert {point.label for point in report.unbeaten} == {"0.88", "0.87", "0.9"}
    assert report.knee is not None and report.knee.label in ("0.88", "0.9")
