"""`hwsparse front`, asked for one point."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsparse.report import write_report
from tests.cli.test_cli import run
from tests.report.sample import sample_report

REPORT = sample_report(12)


def test_the_knee_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(REPORT, tmp_path / "front.json")
    code, said, _ = run(monkeypatch, capsys, "front", str(tmp_path / "front.json"), "--knee")
    assert REPORT.knee is not None
    assert code == 0 and REPORT.knee.label in said


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        (("--max-drop", "-1"), "--max-drop: -1"),
        (("--max-drop", "nan"), "--max-drop: nan"),
        (("--max-latency-ms", "0"), "--max-latency-ms: a limit above 0"),
        (("--knee", "--max-drop", "0.1"), "--knee: goes with no limits"),
    ],
)
def test_limits_that_are_none_are_refused(
    asked: tuple[str, ...], wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_report(REPORT, tmp_path / "front.json")
    code, _, said = run(monkeypatch, capsys, "front", str(tmp_path / "front.json"), *asked)
    assert code == 2 and wrong in said and len(said.strip().splitlines()) == 1
