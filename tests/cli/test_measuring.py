"""The commands that measure and that keep measurements: calibrate, measure, records."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from hwsparse import codegen, strictjson
from hwsparse.cli.calibrate import calibrate
from hwsparse.cli.measure import Measured, Report, run_settings, show
from hwsparse.latency import Device, MeasureFailure, Measurement, Records, RunSettings, Toolchain, Workload
from hwsparse.latency.records import RecordsFile
from hwsparse.plan import Choice, parse_choice
from hwsparse.target import Target, load_target
from tests.cli.test_cli import home, model, run  # noqa: F401
from tests.example_artifact import example_artifact
from tests.latency.examples import NOON, matmul, measurement

COMPILE = "compile model.onnx --choice dense --threads 1 --records r.sqlite"
CALIBRATE = "calibrate model.onnx --threads 1 --pattern block4x1 --ratio 0.5 --ratio 0.9 --records r.sqlite"


class Place:
    """A directory with a model, where commands run, on this machine with what is installed."""

    def __init__(self, directory: Path, call: Callable[..., tuple[int, str, str]]) -> None:
        self.home, self._call = directory, call
        self.device = Device.probe()
        self.toolchain = Toolchain.of(load_target("x86-local"), codegen.KERNEL_VERSION)

    def run(self, line: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a command."""
        return self._call(*line.split())

    def add(
        self,
        name: str = "r.sqlite",
        target: Target | None = None,
        device: Device | None = None,
        toolchain: Toolchain | None = None,
        **changed: object,
    ) -> None:
        """Puts a measurement into a records file, taken here unless told otherwise."""
        made = {"device": device or self.device, "toolchain": toolchain or self.toolchain}
        workload = Workload.of(matmul(), Choice(), target or load_target("x86-local"))
        with Records(self.home / name, **made) as records:
            records.add(workload, measurement(workload, 1.0, **made, **changed))

    def kept(self, name: str) -> list[tuple[Workload, Measurement]]:
        with RecordsFile(self.home / name) as file:
            return list(file.every())


@pytest.fixture
def place(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:  # noqa: F811
    return Place(home, partial(run, monkeypatch, capsys))


def test_a_model_is_calibrated_once_and_shown(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = place.run(CALIBRATE)
    assert code == 0
    assert "dense" in out and "block4x1" in out
    taken = place.kept("r.sqlite")
    assert {str(workload.choice) for workload, _ in taken} == {"dense", "block4x1@0.5", "block4x1@0.9"}
    assert all(each.reference_s and each.kernel and each.settings.precision for _, each in taken)
    assert f"{len(taken)} measured now, 0 were on record" in out
    code, out, _ = place.run(CALIBRATE)
    assert code == 0
    assert f"0 measured now, {len(taken)} were on record" in out
    # Where patterns are many they stand one below the other.
    monkeypatch.setattr(f"{calibrate.__module__}.MOST_COLUMNS", 0)
    code, stacked, _ = place.run(CALIBRATE)
    assert code == 0 and "faster than dense" in stacked and "faster than dense" not in out


def test_types_are_calibrated_beside_each_other(place: Place) -> None:
    """Each in the patterns that the target has of it."""
    code, out, _ = place.run(f"{CALIBRATE} --pattern block4x4 --dtype float32 --dtype int8 --dtype int8")
    assert code == 0 and "dense/int8" in out and "block4x4/int8" in out and "block4x1" in out
    taken = {str(workload.choice) for workload, _ in place.kept("r.sqlite")}
    of_bytes = {"dense/int8", "block4x4@0.5/int8", "block4x4@0.9/int8"}
    assert taken == {"dense", "block4x1@0.5", "block4x1@0.9"} | of_bytes
    # Dense in float32 is what all are held to.
    line = CALIBRATE.replace("block4x1", "block4x4")
    code, out, _ = place.run(f"{line} --dtype int8")
    assert code == 0 and "0 measured now" in out
    assert "block4x4/int8" in out and "block4x1" not in out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("calibrate model.onnx --dtype int4", "supports nothing in int4"),
        ("calibrate model.onnx --ratio 1.0", "shares of zeros lie between 0 and 1"),
        ("calibrate model.onnx --pattern 3:4", "cannot prune to 3:4"),
        ("calibrate model.onnx --target ampere-a100", "ampere-a100"),
        ("calibrate plain.onnx", "no prunable layers"),
        ("calibrate model.onnx --target arm-cortex-a76 --tracker nowhere", "give it as HOST:PORT"),
        ("calibrate model.onnx --tracker 127.0.0.1:9190", "is timed here, and needs no tracker"),
        (
            "device serve --tracker 127.0.0.1:9190 --key k --cores fast",
            "give numbers as 4-7 or 0,2,3, or big",
        ),
        ("device serve --tracker 127.0.0.1:9190 --key k --cores 9998", "this process may use"),
        ("measure model.onnx --tracker 127.0.0.1:9190", "there is no onnxruntime on a board"),
        ("measure data.npz", "neither an artifact's directory nor a file .onnx"),
        ("measure model.onnx model.onnx", "is named twice"),
        ("measure model.onnx --threads 4096", "4096 threads wanted"),
        ("measure nothing.onnx", "nothing.onnx"),
        ("records --records none.sqlite", "there are no records yet"),
        ("records export out.jsonl --records none.sqlite", "there are no records yet"),
        ("records import data.npz --records r.sqlite", "data.npz, line 1: "),
        ("records list --failures --records none.sqlite", "there are no records yet"),
        ("records import none.jsonl --records r.sqlite", "cannot be read"),
        ("records prune --all --older-than 3 --records none.sqlite", "give one of them"),
        ("records prune --all --damaged --records none.sqlite", "give one of them"),
        ("records prune --damaged --target t --records none.sqlite", "give one of them"),
        ("records --records model.onnx", "model.onnx"),
    ],
)
def test_a_bad_request_is_one_line(place: Place, line: str, said: str) -> None:
    code, _, error = place.run(line)
    assert code in (1, 2)
    assert error.startswith("error: ") and error.count("\n") == 1
    assert said in error


def test_records_travel_and_stay_marked(place: Place) -> None:
    place.add()
    assert place.run("records export out.jsonl --records r.sqlite")[0] == 0
    (line,) = (place.home / "out.jsonl").read_text().splitlines()
    assert json.loads(line)["samples_s"] == [1.0] * 6
    code, _, error = place.run("records export out.jsonl --records r.sqlite")
    assert code == 2 and "is there already" in error
    for added in (1, 0):
        code, out, _ = place.run("records import out.jsonl --records other.sqlite")
        assert code == 0 and f"took {added} measurements" in out
        assert ("1 were there already" in out) == (added == 0)
    _, out, _ = place.run("records --records r.sqlite")
    assert "measured, warm" in out and "yes" in out
    _, out, _ = place.run("records --records other.sqlite")
    assert "imported, warm" in out and "teaches" in out and "yes" not in out
    with Records(place.home / "other.sqlite", place.device, place.toolchain) as records:
        assert records.table("x86-local", load_target("x86-local").threads) == {}


def test_a_file_named_before_the_subcommand_is_the_one_that_it_works_on(place: Place) -> None:
    for name in ("r.sqlite", "other.sqlite"):
        place.add(name)
    assert place.run("records --records r.sqlite prune --all")[0] == 0
    assert place.run("records --records none.sqlite prune --all --records r.sqlite")[0] == 0
    for name, left in (("r.sqlite", 0), ("other.sqlite", 1)):
        assert len(place.kept(name)) == left


def test_a_bad_line_imports_nothing(place: Place) -> None:
    place.add()
    place.run("records export out.jsonl --records r.sqlite")
    with open(place.home / "out.jsonl", "a") as file:
        file.write("{}\n")
    code, _, error = place.run("records import out.jsonl --records other.sqlite")
    assert code == 2 and "out.jsonl, line 2" in error
    assert place.kept("other.sqlite") == []


def test_records_of_any_name_are_listed_and_stay_where_no_target_tells_of_them(place: Place) -> None:
    place.add(toolchain=replace(place.toolchain, kernels="[/x]"))
    place.add(target=replace(load_target("x86-local"), name="gone"))
    code, out, _ = place.run("records --records r.sqlite")
    assert code == 0 and "[/x]" in out and "gone" in out
    code, out, _ = place.run("records prune --records r.sqlite")
    assert code == 0 and "removed 1 measurements" in out
    with RecordsFile(place.home / "r.sqlite") as file:
        assert [group.target_name for group in file.groups()] == ["gone"]


def test_what_cannot_be_read_can_be_removed(place: Place) -> None:
    place.add()
    place.add()
    connection = sqlite3.connect(place.home / "r.sqlite")
    connection.execute("UPDATE measurements SET samples = 'x' WHERE id = 1")
    connection.commit()
    connection.close()
    code, _, error = place.run("records export out.jsonl --records r.sqlite")
    assert code == 1 and "row 1 of measurements is malformed" in error and "prune --damaged" in error
    assert not list(place.home.glob("*out.jsonl*"))
    code, out, _ = place.run("records prune --damaged --records r.sqlite")
    assert code == 0 and "removed 1 rows that could not be read" in out
    assert place.run("records export out.jsonl --records r.sqlite")[0] == 0


def test_failures_are_listed_with_their_reasons(place: Place) -> None:
    target = load_target("x86-local")
    half, most = (Workload.of(matmul(), parse_choice(text), target) for text in ("block4x1@0.5", "block4x1@0.9"))
    with Records(place.home / "r.sqlite", place.device, place.toolchain) as records:
        for workload, reason in ((half, "crashed"), (most, "[/red]\x1b[2J")):
            records.add_failure(workload, MeasureFailure(workload.key, "run", reason), NOON)
        made = {"device": place.device, "toolchain": place.toolchain, "taken_at": NOON + timedelta(hours=1)}
        records.add(most, measurement(most, 1.0, **made))
    code, out, _ = place.run("records list --failures --records r.sqlite")
    assert code == 0
    first, second = (next(line for line in out.splitlines() if str(each.choice) in line) for each in (half, most))
    assert "crashed" in first and " no " in first
    assert "[/red]" in second and " yes " in second and "\x1b" not in out
    assert "block4x1" not in place.run("records list --failures --target other --records r.sqlite")[1]


def test_what_was_measured_is_listed_with_or_without_the_word(place: Place) -> None:
    place.add()
    place.add(target=replace(load_target("x86-local"), name="other"))
    listed = place.run("records list --records r.sqlite")
    assert listed == place.run("records --records r.sqlite") and listed[0] == 0
    only = place.run("records list --target other --records r.sqlite")[1]
    assert "other" in only and "x86-local" not in only


def test_a_full_disk_leaves_no_half_an_export(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.add()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hwsparse.cli.records.write_lines", full)
    code, _, error = place.run("records export out.jsonl --records r.sqlite")
    assert code == 1 and "No space left on device" in error
    assert not list(place.home.glob("*out.jsonl*")) and not list(place.home.glob(".out*"))


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
def test_what_is_of_no_more_use_is_removed(place: Place, options: str, left: set[str]) -> None:
    device, toolchain = place.device, place.toolchain
    kinds = {
        "here": (device, toolchain, {}),
        "elsewhere": (replace(device, cpu="another"), toolchain, {}),
        "old": (replace(device, cpu="another, old"), replace(toolchain, kernels="0"), {}),
        "earlier": (device, replace(toolchain, kernels="0"), {"taken_at": NOON}),
    }
    for one, other, changed in kinds.values():
        place.add(device=one, toolchain=other, **changed)
    code, out, _ = place.run(f"records prune {options} --records r.sqlite")
    assert code == 0 and f"removed {len(kinds) - len(left)} measurements" in out
    with RecordsFile(place.home / "r.sqlite") as file:
        found = {(group.device, group.toolchain) for group in file.groups()}
    assert found == {kinds[name][:2] for name in left}
    rows = sqlite3.connect(place.home / "r.sqlite").execute("SELECT count(*) FROM measurements").fetchone()
    assert rows == (len(left),)


def test_networks_are_timed_side_by_side(place: Place) -> None:
    made = place.run(COMPILE)
    assert made[0] == 0
    (artifact,) = (place.home / "hwsparse-out" / "artifacts").iterdir()
    line = f"measure {artifact} model.onnx --samples 12"
    code, out, _ = place.run(f"{line} --json")
    assert code == 0
    report = strictjson.loads(Report, out, "here")
    assert [each.runtime for each in report.networks] == ["hwsparse", "onnxruntime"]
    for each in report.networks:
        assert 12 <= len(each.samples_s) <= 60
        assert each.quiet_s <= each.median_s
        assert each.samples_per_s == pytest.approx(each.batch / each.median_s)
        assert each.file_bytes > 0
    code, out, error = place.run(line)
    assert code == 0, error
    assert "onnxruntime" in out and "samples/s" in out


def test_how_well_times_are_known_is_said_and_what_ran_beside(capsys: pytest.CaptureFixture[str]) -> None:
    well, badly = (
        Measured("m.onnx", "onnxruntime", 1, 1.0, (low, 1.0), 1.0, 1.0, None, 1, (1.0,) * 6, share, "measured")
        for low, share in ((0.99, 1.0), (0.9, 0.6))
    )
    settings, console = RunSettings(threads=1), Console(width=200)
    show(Report(Device.probe(), settings, (well,)), console)
    out = capsys.readouterr().out
    assert "m.onnx" in out and "known to" not in out and "other processes" not in out
    show(Report(Device.probe(), settings, (well, badly)), console)
    out = capsys.readouterr().out
    assert "Times are known to 10.0% only, not to 2%" in out
    assert "other processes took 40% of the CPU" in out


def test_an_artifact_that_is_changed_is_not_run(place: Place) -> None:
    written = example_artifact(place.home / "artifact")
    (next(path for path in written.directory.iterdir() if path.name != "manifest.json")).write_bytes(b"other")
    code, _, error = place.run(f"measure {written.directory}")
    assert code == 1 and error.startswith("error: ")


@pytest.mark.parametrize("samples", [6, 60, 10_000])
def test_a_turn_is_of_few_calls_however_many_are_asked_for(samples: int) -> None:
    settings = run_settings(1, samples)
    assert settings.samples == samples
    assert 1 <= samples / settings.rounds <= 5
