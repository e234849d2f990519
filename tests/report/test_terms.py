from __future__ import annotations

from dataclasses import replace

from hwsparse.report import Budget, FrontReport
from hwsparse.report.terms import budget_text, terms
from tests.report.sample import MODEL, point, sample_report

REPORT = sample_report(12)


def said(report: FrontReport) -> dict[str, str]:
    return dict(terms(report))


def test_every_term_is_stated() -> None:
    found = said(REPORT)
    assert MODEL[:16] in found["Checkpoint"]
    assert "small dense: 61 % of the channels, fitted (after training, structured" in found["Methods"]
    assert found["Budget"] == "fitted on at most 128 samples, not tuned, for all rows that are pruned or narrowed"
    assert found["Seeds"] == "0, 1, 2"
    assert "95 %" in found["Intervals"] and "not over seeds" not in found["Intervals"]
    assert found["Unstructured ceiling"] == "96.5 % (95.7 % to 97.3 %) at the ratios of search 3"
    assert found["Small dense"].startswith("2.13 ms, 94.1 %")
    assert "search 3: 2.08 ms" in found["Small dense"]


def test_what_is_not_known_says_so() -> None:
    bare = FrontReport("t", "m", "d", "s", "top1", (point("a", "search", 3.0, 0.9, method=None, budget=None),))
    assert [text for _, text in terms(bare)] == [
        "not stated", "not stated", "not stated", "not stated",
        "95 %, of quality over the samples it is judged on, of latency over calls in turns; not over seeds",
        "not known", "not known",
    ]  # fmt: skip
    assert REPORT.comparison is not None
    fixed = replace(REPORT, comparison=replace(REPORT.comparison, seeds=()))
    assert said(fixed)["Seeds"] == "none: nothing was random"


def test_rows_of_different_budgets_are_told_apart() -> None:
    tuned = point("tuned", "search", 2.0, 0.96, budget=Budget(50_000, 10))
    text = said(replace(REPORT, points=(*REPORT.points, tuned)))["Budget"]
    assert "tuned: fitted on at most 50000 samples, tuned for at most 10 epochs" in text
    assert "search 1: fitted on at most 128 samples, not tuned" in text


def test_a_budget_in_words() -> None:
    assert budget_text(Budget(0)) == "nothing fitted"
    assert budget_text(Budget(9, 1)) == "fitted on at most 9 samples, tuned for at most 1 epoch"
    assert budget_text(Budget(9, 0.5)) == "fitted on at most 9 samples, tuned for at most 0.5 epochs"
