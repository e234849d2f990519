"""What is said of an artifact, in tables and in sentences."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hwsparse.artifact import LatencyFigure, write_artifact
from hwsparse.report.explain import explain
from tests.cli.test_cli import run
from tests.example_artifact import FILES, example_artifact, example_manifest

SLOW = LatencyFigure(0.00195, (0.0018, 0.0021), "measured", 30)


@pytest.mark.parametrize(
    ("latency", "told"),
    [(None, False), (SLOW, True), (replace(SLOW, source="predicted"), False), (example_manifest().latency, False)],
    ids=["not timed", "within the noise", "predicted", "faster"],
)
def test_what_is_no_faster_than_dense_says_so(
    latency: LatencyFigure | None,
    told: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_artifact(tmp_path / "made", FILES, replace(example_manifest(), latency=latency))
    code, out, _ = run(monkeypatch, capsys, "verify", str(tmp_path / "made"))
    assert code == 0 and ("not faster than dense beyond the noise: deploy the dense network" in out) == told


def test_an_artifact_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = example_artifact(tmp_path / "made", "[/b]magika")
    code, out, _ = run(monkeypatch, capsys, "explain", str(artifact.directory), "--json")
    assert code == 0 and json.loads(out) == list(explain(artifact.manifest))
    code, out, _ = run(monkeypatch, capsys, "explain", str(artifact.directory))
    assert code == 0 and out.startswith("An inference of [/b]magika takes")
    (artifact.directory / "manifest.json").write_bytes(b"{}")
    code, _, errors = run(monkeypatch, capsys, "explain", str(artifact.directory))
    assert code == 1 and len(errors.strip().splitlines()) == 1
