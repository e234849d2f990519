"""`hwsparse doctor`: each check says what it found, and what is wrong ends with 1."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from hwsparse import compiler
from hwsparse.cli import doctor
from hwsparse.cli.doctor import Finding, spread
from hwsparse.errors import CompileError, TargetError
from tests.cli.test_cli import run


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PIECES", 20)


def found(check: str) -> list[Finding]:
    return list(getattr(doctor, f"_{check}")())


def test_all_checks_are_told_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(monkeypatch, capsys, "doctor", "--json")
    told = json.loads(out)
    assert code == any(finding["state"] == "wrong" for finding in told)
    checks = ["packages", "instructions", "compiler", "cores", "clock", "room", "extras"]
    assert list(dict.fromkeys(finding["check"] for finding in told)) == checks
    assert all(finding["what"] and (finding["remedy"] or finding["state"] == "ok") for finding in told)
    assert [finding["state"] for finding in told if finding["check"] == "compiler"] == ["ok"]


def test_what_is_wrong_ends_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def _broken() -> Iterator[Finding]:
        yield Finding("compiler", "wrong", "no linker [/red]", "install one")

    monkeypatch.setattr(doctor, "CHECKS", (_broken,))
    code, out, _ = run(monkeypatch, capsys, "doctor")
    assert code == 1 and "no linker [/red]" in out and "do: install one" in out


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "optuna":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    wrong, rest = found("packages")
    assert (wrong.state, wrong.remedy) == ("wrong", "pip install optuna")
    assert rest.state == "ok" and "optuna" not in rest.what


def test_a_compiler_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object) -> None:
        raise CompileError("no C compiler on PATH to link with")

    monkeypatch.setattr(compiler, "build", build)
    (finding,) = found("compiler")
    assert finding.state == "wrong" and "no C compiler on PATH" in finding.what


@pytest.mark.parametrize(
    ("bits", "isa", "state", "said"),
    [
        (128, (), "note", "several times as fast"),
        (256, ("avx2",), "note", "int8 gains less"),
        (512, ("avx512f", "avx512_vnni"), "ok", ""),
    ],
)
def test_instructions_that_are_missing_are_worth_knowing(
    bits: int, isa: tuple[str, ...], state: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = SimpleNamespace(vector_bits=bits, isa=isa, tvm_target='{"kind": "llvm", "mcpu": "x86-64-v3"}')
    monkeypatch.setattr(doctor, "load_target", lambda name: target)
    (finding,) = found("instructions")
    assert finding.state == state and said in finding.remedy and f"{bits}-bit" in finding.what


def test_a_machine_that_cannot_be_described_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_target(name: str) -> None:
        raise TargetError("no [hardware]")

    monkeypatch.setattr(doctor, "load_target", load_target)
    assert found("instructions")[0].state == "wrong"


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("5 0\n", None), ("?", None)]
)
def test_a_quota_is_read(text: str, quota: float | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert doctor._quota(tmp_path) == quota
    assert doctor._quota(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("cpus", "quota", "state"), [({0, 1}, None, "ok"), ({0, 1}, 1.5, "note"), ({0}, None, "note"), ({0, 1}, 4.0, "ok")]
)
def test_cores_are_told(cpus: set[int], quota: float | None, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "usable_cpus", lambda: frozenset(cpus))
    monkeypatch.setattr(doctor, "_quota", lambda: quota)
    (finding,) = found("cores")
    assert finding.state == state and f"{len(cpus)} of" in finding.what


@pytest.mark.parametrize(
    ("times", "busy", "trouble", "state"),
    [
        ([1.0] * 20, "", None, "ok"),
        ([1.0] * 15 + [2.0] * 5, "", None, "note"),
        ([1.0] * 20, "other processes took 12% of the CPU", None, "note"),
        ([1.0] * 20, "", "zone has 95 °C", "note"),
    ],
)
def test_a_clock_that_is_not_steady_is_worth_knowing(
    times: list[float], busy: str, trouble: str | None, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_times", lambda: times)
    monkeypatch.setattr(doctor, "taken_by_others", lambda share: busy)
    monkeypatch.setattr(doctor, "read_heat", lambda cpus, sys: SimpleNamespace(trouble=trouble))
    (finding,) = found("clock")
    assert finding.state == state and busy in finding.what and (trouble or "") in finding.what


def test_times_lie_as_far_apart_as_nine_of_ten_do() -> None:
    assert spread([2.0] * 100) == 0
    assert spread([float(each) for each in range(1, 101)]) == pytest.approx(90 / 50, rel=0.03)


def test_little_room_is_worth_knowing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "there"))
    assert {finding.state for finding in found("room")} == {"ok"}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    assert {finding.state for finding in found("room")} == {"note"}
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert {finding.state for finding in found("room")} == {"wrong"}
    monkeypatch.setattr(doctor, "cache_directory", lambda: None)
    assert found("room")[0].remedy == "set XDG_CACHE_HOME"


def test_what_is_left_out_is_told_with_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/x")
    told = {finding.what.split()[1 if finding.state == "note" else 0]: finding for finding in found("extras")}
    assert told["ray"].state == "note" and "hwsparse[ray]" in told["ray"].remedy
    assert told["qemu-aarch64"].state == "ok"
