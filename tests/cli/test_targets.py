"""`hwsparse targets`: what is probed is measured, and can be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwsparse import probe
from hwsparse.target import PATH_VARIABLE, load_target
from tests.cli.test_cli import run


def test_a_probe_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(probe, "_bandwidth", lambda cores: 2e10)
    for figure in (1e11, 3e11):
        monkeypatch.setattr(probe, "_peak_flops", lambda figure=figure: figure)
        assert run(monkeypatch, capsys, "targets", "probe", "--force")[0] == 0
        assert f"peak_flops = {figure}" in Path("my-machine.toml").read_text()


def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(probe, "_measure", lambda cores: {"peak_flops": 1e11, "bandwidth_bytes_per_s": 2e10})
    (tmp_path / "file").touch()
    for place in ("nowhere", "file"):
        path = tmp_path / place / "x.toml"
        code, _, errors = run(monkeypatch, capsys, "targets", "probe", "--out", str(path))
        assert code == 1
        assert f"{path}: cannot be written: " in errors and str(os.getpid()) not in errors


def test_a_malformed_descriptor_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text("name = 7")
    monkeypatch.setenv(PATH_VARIABLE, str(tmp_path))
    code, shown, errors = run(monkeypatch, capsys, "targets")
    assert code == 2 and "mine.toml: " in errors
    assert "arm-cortex-a76" in shown


def test_this_machine_is_of_any_kind() -> None:
    assert load_target("x86-local").description == "this machine, as probed"
