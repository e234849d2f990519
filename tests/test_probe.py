"""Probing: measured once, kept, measured again when what was kept is not sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsparse import probe


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []

    def note(name: str, value: float) -> float:
        calls.append(name)
        return value

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(probe, "_peak_flops", lambda: note("peak", 1e11))
    monkeypatch.setattr(probe, "_bandwidth", lambda cores: note("bandwidth", 2e10))
    return calls


def test_figures_are_measured_once(measured: list[str], tmp_path: Path) -> None:
    first = probe.probe_hardware()
    assert (first["peak_flops"], first["bandwidth_bytes_per_s"]) == (1e11, 2e10)
    assert probe.probe_hardware() == first
    assert measured == ["peak", "bandwidth"]
    assert len(list((tmp_path / "hwsparse").iterdir())) == 1


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '{"peak_flops": -1, "bandwidth_bytes_per_s": 1}', '{"peak_flops": "x"}']
)
def test_a_cache_that_is_not_sound_is_remade(measured: list[str], tmp_path: Path, content: str) -> None:
    first = probe.probe_hardware()
    (kept,) = (tmp_path / "hwsparse").iterdir()
    kept.write_text(content)
    assert probe.probe_hardware() == first
    assert measured == ["peak", "bandwidth"] * 2


def test_caches_are_read_from_the_system(tmp_path: Path) -> None:
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M")]
    ):
        directory = tmp_path / f"index{index}"
        directory.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (directory / name).write_text(value + "\n")
    assert probe._caches(tmp_path) == {"l1d_bytes": 48 << 10, "l2_bytes": 2 << 20}


def test_what_is_measured_is_plausible() -> None:
    assert 1e8 < probe._peak_flops() < 1e15
    assert 1e8 < probe._bandwidth(1) < 1e13
