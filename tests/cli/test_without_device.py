"""Commands for a device that is not there: all is compiled, nothing is run, and every figure says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwsparse.artifact import Artifact
from hwsparse.data import Dataset, write_npz
from hwsparse.report import read_report
from tests.cli.test_cli import run
from tests.sparsify.test_quality import classifier


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model whose layers pay, and data, where the command runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "wide.onnx").write_bytes(classifier(256).proto)
    x = np.random.default_rng(0).random((6, 16, 12, 12), np.float32)
    write_npz(Dataset("data", {"x": x}, np.array([0, 1, 2, 3, 0, 1])), tmp_path / "data.npz")
    return tmp_path


def test_a_search_without_a_device_says_that_all_is_predicted(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--target", "arm-cortex-a76", "--pattern", "block4x1", "--trials", "3", "--max-drop", "1", "--out", "out")
    code, told, _ = run(
        monkeypatch, capsys, "optimize", "wide.onnx", "--data", "data.npz", *asked, "--records", "records.sqlite"
    )  # fmt: skip
    assert code == 0
    assert "Latencies are predicted: nothing ran on the device." in told
    report = read_report(home / "out" / "front.json")
    assert {point.latency_source for point in report.points} == {"predicted"}
    assert "Predicted latency of one inference (ms)" in (home / "out" / "front.html").read_text()
    built = [point.artifact for point in report.points if point.artifact is not None]
    assert built and not (home / "records.sqlite").exists()
    code, told, _ = run(monkeypatch, capsys, "verify", str(home / "out" / built[0].directory))
    assert code == 0 and "its outputs were not checked there" in told


def test_a_plan_for_a_device_that_is_not_here_is_compiled_by_estimates(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--choice", "block4x1@0.9", "--target", "arm-cortex-a76", "--out", "plan", "--records", "records.sqlite")
    code, told, _ = run(monkeypatch, capsys, "compile", "wide.onnx", *asked)
    assert code == 0 and told.count("predicted") == 3 and "its outputs were not checked there" in told
    (built,) = (home / "plan" / "artifacts").iterdir()
    latency = Artifact.load(built).manifest.latency
    assert latency is not None and latency.source == "predicted"
    assert not (home / "records.sqlite").exists()
