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


def test_figures_are_measured_again_when_asked(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe.probe_hardware()  # beside other work
    monkeypatch.setattr(probe, "_peak_flops", lambda: 3e11)
    assert probe.probe_hardware()["peak_flops"] == 1e11
    assert probe.probe_hardware(again=True)["peak_flops"] == 3e11
    assert probe.probe_hardware()["peak_flops"] == 3e11  # and kept


def test_the_best_of_many_runs_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def work() -> None:  # for most of the time something else has the machine
        now[0] += 0.01 if now[0] > 0.8 else 0.05

    assert probe._best(work) == pytest.approx(0.01)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[1]",
        "[" * 100_000,
        '{"peak_flops": -1, "bandwidth_bytes_per_s": 1}',
        '{"peak_flops": "x"}',
        '{"peak_flops": Infinity, "bandwidth_bytes_per_s": 1}',
        '{"peak_flops": 1' + "0" * 400 + ', "bandwidth_bytes_per_s": 1}',
    ],
)
def test_a_cache_that_is_not_sound_is_remade(measured: list[str], tmp_path: Path, content: str) -> None:
    first = probe.probe_hardware()
    (kept,) = (tmp_path / "hwsparse").iterdir()
    kept.write_text(content)
    assert probe.probe_hardware() == first
    assert measured == ["peak", "bandwidth"] * 2


def test_a_user_without_a_home_is_measured_each_time(measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert probe.probe_hardware() == probe.probe_hardware()
    assert measured == ["peak", "bandwidth"] * 2


def test_a_cache_that_cannot_be_written_is_no_error(
    measured: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert probe.probe_hardware()["peak_flops"] == 1e11
    assert measured == ["peak", "bandwidth"]


@pytest.mark.parametrize(
    ("flags", "cpu", "bits"),
    [
        ("avx512f avx512bw avx512cd avx512dq avx512vl avx2 fma bmi2", "x86-64-v4", 512),
        ("avx512f avx512cd avx512er avx2 fma bmi2", "x86-64-v3", 256),  # AVX-512 without what x86-64-v4 needs
        ("avx2", "x86-64-v2", 128),
        ("", "x86-64-v2", 128),  # a system that does not tell
    ],
)
def test_a_level_needs_all_its_flags(monkeypatch: pytest.MonkeyPatch, flags: str, cpu: str, bits: int) -> None:
    monkeypatch.setattr(probe, "machine", lambda: "x86_64")
    monkeypatch.setattr(probe, "cpu_flags", lambda: frozenset(flags.split()))
    found = probe._instructions(2)
    assert (found["tvm_target"]["mcpu"], found["vector_bits"]) == (cpu, bits)
    assert set(found["isa"]) <= set(flags.split())


@pytest.mark.parametrize(
    ("machine", "flags", "features"),
    [
        ("x86_64", "avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni avx_vnni", {"avx512_vnni": "+avx512vnni"}),
        ("x86_64", "avx512f avx512bw avx512cd avx512dq avx512vl avx512_bf16", {"avx512_bf16": "+avx512bf16"}),
        ("x86_64", "avx2 fma bmi2 avx_vnni", {"avx_vnni": "+avxvnni"}),
        ("x86_64", "avx2 avx_vnni", {}),  # without what code is made for at least
        ("aarch64", "fp asimd asimddp i8mm", {"asimddp": "+dotprod", "i8mm": "+i8mm"}),
        ("aarch64", "fp asimd", {}),
    ],
)
def test_what_multiplies_words_is_told(
    monkeypatch: pytest.MonkeyPatch, machine: str, flags: str, features: dict[str, str]
) -> None:
    monkeypatch.setattr(probe, "machine", lambda: machine)
    monkeypatch.setattr(probe, "cpu_flags", lambda: frozenset(flags.split()))
    found = probe._instructions(2)
    assert found["tvm_target"].get("mattr", []) == list(features.values())
    assert found["isa"][len(found["isa"]) - len(features) :] == list(features)
    assert set(found["isa"]) <= set(flags.split())


def test_architectures_have_one_name() -> None:
    assert [probe.machine(name) for name in ("AMD64", "x86_64", "arm64", "aarch64")] == ["x86_64"] * 2 + ["aarch64"] * 2


def test_caches_are_read_from_the_system(tmp_path: Path) -> None:
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M")]
    ):
        directory = tmp_path / f"index{index}"
        directory.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (directory / name).write_text(value + "\n")
    caches = probe.read_caches(tmp_path)
    assert caches == (("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M"))
    assert probe._cache_bytes(caches) == {"l1d_bytes": 48 << 10, "l2_bytes": 2 << 20}


@pytest.mark.parametrize("size", ["", "48G", "K", "-1K", "48 K"])
def test_a_cache_size_that_cannot_be_read_is_taken_as_the_least(tmp_path: Path, size: str) -> None:
    (tmp_path / "index0").mkdir()
    for name, value in (("level", "1"), ("type", "Data"), ("size", size)):
        (tmp_path / "index0" / name).write_text(value)
    (tmp_path / "index1").mkdir()  # with nothing in it
    for directory in (tmp_path, tmp_path / "nowhere"):
        assert probe._cache_bytes(probe.read_caches(directory)) == {"l1d_bytes": 32 << 10, "l2_bytes": 256 << 10}


def test_what_is_measured_is_plausible() -> None:
    assert 1e8 < probe._peak_flops() < 1e15
    assert 1e8 < probe._bandwidth(1) < 1e13
