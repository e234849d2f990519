"""The command line with a board, over loopback: compile for it, and measure what was compiled on it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from hwsparse.target import format_target, load_target
from tests.cli.test_cli import home, model, run  # noqa: F401
from tests.latency.boards import board, running_tracker
from tests.pipeline.benches import times_by_weight


def test_a_network_is_compiled_for_a_board_and_measured_there(
    home: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = replace(load_target("x86-local"), name="test-pi", runner="rpc", threads=1)
    (home / "test-pi.toml").write_text(format_target(target))
    command = partial(run, monkeypatch, capsys)
    with running_tracker() as tracker, board(tracker, key="test-pi"), times_by_weight():
        line = f"compile model.onnx --choice block4x1@0.5 --target test-pi.toml --tracker {tracker} --records r.sqlite"
        code, out, error = command(*line.split())
        assert code == 0, error
        assert "for test-pi, 1 thread" in out and "onnxruntime" not in out
        (artifact,) = (home / "hwsparse-out/artifacts").iterdir()
        code, out, error = command(*f"measure {artifact} --tracker {tracker} --samples 6 --json".split())
        assert code == 0, error
        report = json.loads(out)
        assert report["device"]["used"] and "TVM" in report["device"]["system"]
        (measured,) = report["networks"]
        assert len(measured["samples_s"]) >= 6 and measured["peak_memory_bytes"] > 0
        code, _, error = command("measure", "model.onnx", "--tracker", tracker)
        assert code == 2 and "there is no onnxruntime on a board" in error
