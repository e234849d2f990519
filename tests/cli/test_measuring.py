"""The commands that measure and that keep measurements: calibrate, measure, records."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from hwsparse import codegen, strictjson
from hwsparse.cli.measure import Report
from hwsparse.latency import Device, Records, Toolchain, Workload
from hwsparse.latency.records import RecordsFile
from hwsparse.plan import Choice
from hwsparse.target import load_target
from tests.cli.test_cli import home, model, run  # noqa: F401
from tests.example_artifact import example_artifact
from tests.latency.examples import NOON, matmul, measurement

COMPILE = "compile model.onnx --choice dense --threads 1 --records r.sqlite"
CALIBRATE = "calibrate model.onnx --threads 1 --pattern block4x1 --ratio 0.5 --ratio 0.9 --records r.sqlite"


@pytest.fixture
def here() -> tuple[Device, Toolchain]:
    return Device.probe(), Toolchain.of(load_target("x86-local"), codegen.KERNEL_VERSION)


def add(path: Path, device: Device, toolchain: Toolchain, **changed: object) -> None:
    workload = Workload.of(matmul(), Choice(), load_target("x86-local"))
    with Records(path, device, toolchain) as records:
        records.add(workload, measurement(workload, 1.0, device=device, toolchain=toolchain, **changed))


def test_a_model_is_calibrated_once_and_shown(
    home: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = CALIBRATE.split()
    code, out, _ = run(monkeypatch, capsys, *line)
    assert code == 0
    assert "dense" in out and "block4x1" in out
    with RecordsFile(home / "r.sqlite") as file:
        taken = list(file.every())
    assert {str(workload.choice) for workload, _ in taken} == {"dense", "block4x1@0.5", "block4x1@0.9"}
    assert all(each.reference_s and each.kernel and each.settings.precision for _, each in taken)
    assert f"{len(taken)} measured now, 0 were on record" in out
    code, out, _ = run(monkeypatch, capsys, *line)
    assert code == 0
    assert f"0 measured now, {len(taken)} were on record" in out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("calibrate model.onnx --ratio 1.0", "shares of zeros lie between 0 and 1"),
        ("calibrate model.onnx --pattern 3:4", "cannot prune to 3:4"),
        ("calibrate model.onnx --target ampere-a100", "ampere-a100"),
        ("calibrate plain.onnx", "no prunable layers"),
        ("measure data.npz", "neither an artifact's directory nor a file .onnx"),
        ("measure model.onnx model.onnx", "is named twice"),
        ("measure model.onnx --threads 4096", "4096 threads wanted"),
        ("measure nothing.onnx", "nothing.onnx"),
        ("records --records none.sqlite", "there are no records yet"),
        ("records export out.jsonl --records none.sqlite", "there are no records yet"),
        ("records import data.npz --records r.sqlite", "data.npz, line 1: "),
        ("records import none.jsonl --records r.sqlite", "cannot be read"),
        ("records prune --all --older-than 3 --records none.sqlite", "give one of the two"),
        ("records --records model.onnx", "model.onnx"),
    ],
)
def test_a_bad_request_is_one_line(
    home: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    said: str,
) -> None:
    code, _, error = run(monkeypatch, capsys, *line.split())
    assert code in (1, 2)
    assert error.startswith("error: ") and error.count("\n") == 1
    assert said in error


def test_records_travel_and_stay_marked(
    home: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    here: tuple[Device, Toolchain],
) -> None:
    add(home / "r.sqlite", *here)
    assert run(monkeypatch, capsys, *["records", "export", "out.jsonl", "--records", "r.sqlite"])[0] == 0
    (line,) = (home / "out.jsonl").read_text().splitlines()
    assert json.loads(line)["samples_s"] == [1.0] * 6
    code, _, error = run(monkeypatch, capsys, *["records", "export", "out.jsonl", "--records", "r.sqlite"])
    assert code == 2 and "is there already" in error
    for added in (1, 0):
        code, out, _ = run(monkeypatch, capsys, *["records", "import", "out.jsonl", "--records", "other.sqlite"])
        assert code == 0 and f"took {added} measurements" in out
        assert ("1 were there already" in out) == (added == 0)
    _, out, _ = run(monkeypatch, capsys, *["records", "--records", "r.sqlite"])
    assert "measured, warm" in out and "yes" in out
    _, out, _ = run(monkeypatch, capsys, *["records", "--records", "other.sqlite"])
    assert "imported, warm" in out and "teaches" in out and "yes" not in out
    with Records(home / "other.sqlite", *here) as records:
        assert records.table("x86-local", load_target("x86-local").threads) == {}


def test_a_file_named_before_the_subcommand_is_the_one_that_it_works_on(
    home: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    here: tuple[Device, Toolchain],
) -> None:
    for name in ("r.sqlite", "other.sqlite"):
        add(home / name, *here)
    assert run(monkeypatch, capsys, *["records", "--records", "r.sqlite", "prune", "--all"])[0] == 0
    assert (
        run(monkeypatch, capsys, *["records", "--records", "none.sqlite", "prune", "--all", "--records", "r.sqlite"])[0]
        == 0
    )
    for name, left in (("r.sqlite", 0), ("other.sqlite", 1)):
        with RecordsFile(home / name) as file:
            assert len(list(file.every())) == left


def test_a_bad_line_imports_nothing(
    home: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    here: tuple[Device, Toolchain],
) -> None:
    add(home / "r.sqlite", *here)
    run(monkeypatch, capsys, *["records", "export", "out.jsonl", "--records", "r.sqlite"])
    with open(home / "out.jsonl", "a") as file:
        file.write("{}\n")
    code, _, error = run(monkeypatch, capsys, *["records", "import", "out.jsonl", "--records", "other.sqlite"])
    assert code == 2 and "out.jsonl, line 2" in error
    with RecordsFile(home / "other.sqlite") as other:
        assert list(other.every()) == []


def test_records_of_any_name_are_listed_and_stay_where_no_target_tells_of_them(
    home: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    here: tuple[Device, Toolchain],
) -> None:
    device, toolchain = here
    odd = replace(toolchain, kernels="[/x]")
    add(home / "r.sqlite", device, odd)
    workload = Workload.of(matmul(), Choice(), replace(load_target("x86-local"), name="gone"))
    with Records(home / "r.sqlite", *here) as records:
        records.add(workload, measurement(workload, 1.0, device=device, toolchain=toolchain))
    code, out, _ = run(monkeypatch, capsys, *["records", "--records", "r.sqlite"])
    assert code == 0 and "[/x]" in out and "gone" in out
    code, out, _ = run(monkeypatch, capsys, *["records", "prune", "--records", "r.sqlite"])
    assert code == 0 and "removed 1 measurements" in out
    with RecordsFile(home / "r.sqlite") as file:
        assert [group.target_name for group in file.groups()] == ["gone"]


def test_a_full_disk_leaves_no_half_an_export(
    home: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    here: tuple[Device, Toolchain],
) -> None:
    add(home / "r.sqlite", *here)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hwsparse.cli.records.write_lines", full)
    code, _, error = run(monkeypatch, capsys, *["records", "export", "out.jsonl", "--records", "r.sqlite"])
    assert code == 1 and "No space left on device" in error
    assert not list(home.glob("*out.jsonl*")) and not list(home.glob(".out*"))


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ("", {"here", "elsewhere", "old"}),
        ("--older-than 36500", {"here", "elsewhere", "old", "earlier"}),
        ("--older-than 0", set()),
        ("--all --target other", {"here", "elsewhere", "old", "earlier"}),
        ("--all", set()),
    ],
)
def test_what_is_of_no_more_use_is_removed(
    home: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    here: tuple[Device, Toolchain],
    options: str,
    left: set[str],
) -> None:
    device, toolchain = here
    kinds = {
        "here": (device, toolchain, {}),
        "elsewhere": (replace(device, cpu="another"), toolchain, {}),
        "old": (replace(device, cpu="another, old"), replace(toolchain, kernels="0"), {}),
        "earlier": (device, replace(toolchain, kernels="0"), {"taken_at": NOON}),
    }
    for one, other, changed in kinds.values():
        add(home / "r.sqlite", one, other, **changed)
    code, out, _ = run(monkeypatch, capsys, *f"records prune {options} --records r.sqlite".split())
    assert code == 0 and f"removed {len(kinds) - len(left)} measurements" in out
    with RecordsFile(home / "r.sqlite") as file:
        found = {(group.device, group.toolchain) for group in file.groups()}
    assert found == {kinds[name][:2] for name in left}
    rows = sqlite3.connect(home / "r.sqlite").execute("SELECT count(*) FROM measurements").fetchone()
    assert rows == (len(left),)


def test_networks_are_timed_side_by_side(
    home: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = run(monkeypatch, capsys, *COMPILE.split())
    assert made[0] == 0
    (artifact,) = (home / "hwsparse-out" / "artifacts").iterdir()
    line = ["measure", str(artifact), "model.onnx", "--samples", "12"]
    code, out, _ = run(monkeypatch, capsys, *line, "--json")
    assert code == 0
    report = strictjson.loads(Report, out, "here")
    assert [each.runtime for each in report.networks] == ["hwsparse", "onnxruntime"]
    for each in report.networks:
        assert len(each.samples_s) == 12
        assert each.quiet_s <= each.median_s
        assert each.samples_per_s == pytest.approx(each.batch / each.median_s)
        assert each.file_bytes > 0
    code, out, _ = run(monkeypatch, capsys, *line)
    assert code == 0 and "onnxruntime" in out and "samples/s" in out


def test_an_artifact_that_is_changed_is_not_run(
    home: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written = example_artifact(home / "artifact")
    (next(path for path in written.directory.iterdir() if path.name != "manifest.json")).write_bytes(b"other")
    code, _, error = run(monkeypatch, capsys, "measure", str(written.directory))
    assert code == 1 and error.startswith("error: ")
