from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from hwsparse.errors import CompileError, InputError, MeasureError
from hwsparse.latency import (
    LocalRunner,
    MeasureFailure,
    Measurement,
    Outcome,
    Progress,
    Records,
    RunSettings,
    Workload,
    calibrate,
)
from hwsparse.latency.builders import Order
from hwsparse.latency.calibrate import NOISY_CHANCES
from hwsparse.pattern import NM, Block, Unstructured
from hwsparse.plan import Choice, Layer
from hwsparse.target import Target
from tests.latency.examples import DEVICE, NOON, SETTINGS, TARGET, TOOLCHAIN, Clock, conv, matmul
from tests.latency.fake_library import LOADER, write

HALF, MOST = Choice(Block(4), 0.5), Choice(Block(4), 0.9)


class Bench:
    """Builds and times by table; notes in which order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.refused: dict[str, Exception] = {}
        self.failing: dict[str, MeasureFailure] = {}

    def kernels_for(self, layer: Layer, choice: Choice, target: Target) -> tuple[str, ...]:
        return ("kernel",)

    def build_many(self, orders: Iterable[Order], on_built: Callable[[], None]) -> dict[Order, str | None]:
        reasons: dict[Order, str | None] = {}
        for order in orders:
            try:
                self.build_layer(order.layer, order.choice, order.target, order.directory, order.kernel)
                reasons[order] = None
            except CompileError as error:
                reasons[order] = str(error)
            on_built()
        return reasons

    def build_layer(self, layer: Layer, choice: Choice, target: Target, directory: Path, kernel: str) -> None:
        assert directory.is_dir()
        assert not list(directory.iterdir())
        self.events.append(f"build {layer.op} {choice}")
        if error := self.refused.get(str(choice)):
            raise error
        (directory / "library.so").write_text(str(choice))

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()

    def run_many(
        self, libraries: Mapping[str, Path], settings: RunSettings, progress: Progress | None = None
    ) -> dict[str, Outcome]:
        choices = [(directory / "library.so").read_text() for directory in libraries.values()]
        self.events.append(f"time {' '.join(choices)}")
        return {
            key: self.failing.get(choice)
            or Measurement(key, (1e-3,) * 30, "measured", settings, DEVICE, TOOLCHAIN, NOON)
            for key, choice in zip(libraries, choices, strict=True)
        }


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    with Records(tmp_path / "records.db", DEVICE, TOOLCHAIN) as records:
        yield records


def run(bench: Bench, records: Records, layers: list[Layer], options: dict[str, list[Choice]], **more):
    return calibrate(layers, options, TARGET, records, bench, bench, Clock(), **more)


def test_a_layers_choices_are_built_then_timed_together_with_dense(records: Records) -> None:
    bench = Bench()
    report = run(bench, records, [matmul(), conv()], {"fc": [HALF, MOST], "conv": [HALF]})
    assert bench.events == [
        "build MatMul dense", "build MatMul block4x1@0.5", "build MatMul block4x1@0.9",
        "time dense block4x1@0.5 block4x1@0.9",
        "build Conv dense", "build Conv block4x1@0.5", "time dense block4x1@0.5",
    ]  # fmt: skip
    assert report.measured == 5
    assert report.failures == {}
    assert report.table == records.table(TARGET.name, TARGET.threads)


def test_layers_of_one_signature_are_measured_once_with_what_any_of_them_asks(records: Records) -> None:
    bench = Bench()
    options = {"a": [HALF], "b": [MOST, HALF], matmul().signature: [Choice(Unstructured(), 0.5), Choice()]}
    report = run(bench, records, [matmul("a"), matmul("b")], options)
    assert len(bench.events) == 5
    assert bench.events[-1] == "time dense unstructured@0.5 block4x1@0.5 block4x1@0.9"
    assert len(report.table) == 4


def test_nothing_is_measured_twice(records: Records) -> None:
    bench = Bench()
    first = run(bench, records, [matmul()], {"fc": [HALF]})
    bench.events.clear()
    again = run(bench, records, [matmul("other name")], {"other name": [HALF, MOST]})
    assert bench.events == ["build MatMul block4x1@0.9", "time block4x1@0.9"]
    assert again.measured == 1
    assert len(again.table) == 3
    assert first.table.items() <= again.table.items()


class Rivals(Bench):
    """Three kernels for sparse layers, with times of their own; those without a time fail."""

    def __init__(self, **times_s: float) -> None:
        super().__init__()
        self.times_s = times_s

    def kernels_for(self, layer: Layer, choice: Choice, target: Target) -> tuple[str, ...]:
        return ("plain",) if choice.is_dense else ("first", "second", "third")

    def build_layer(self, layer: Layer, choice: Choice, target: Target, directory: Path, kernel: str) -> None:
        super().build_layer(layer, choice, target, directory, kernel)
        self.events[-1] += f" {kernel}"
        (directory / "library.so").write_text(kernel)

    def run_many(
        self, libraries: Mapping[str, Path], settings: RunSettings, progress: Progress | None = None
    ) -> dict[str, Outcome]:
        found: dict[str, Outcome] = {}
        for key, taken in super().run_many(libraries, settings).items():
            time_s = ({"plain": 1.0} | self.times_s).get((libraries[key] / "library.so").read_text())
            assert isinstance(taken, Measurement)
            found[key] = replace(taken, samples_s=(time_s,) * 30) if time_s else MeasureFailure(key, "run", "crashed")
        return found


def test_the_fastest_of_several_kernels_is_measured_for_all_ratios_and_remembered(records: Records) -> None:
    bench = Rivals(first=1.0, second=0.5, third=0.9)
    options = [Choice(Block(4), ratio) for ratio in (0.5, 0.7, 0.9)]
    report = run(bench, records, [matmul()], {"fc": options})
    assert bench.events == [
        *(f"build MatMul block4x1@0.7 {kernel}" for kernel in ("first", "second", "third")),
        "time first second third",
        "build MatMul dense plain", "build MatMul block4x1@0.5 second", "build MatMul block4x1@0.9 second",
        "time plain second second",
    ]  # fmt: skip
    assert {str(workload.choice): taken.kernel for workload, taken in report.table.items()} == {
        "dense": "plain", "block4x1@0.5": "second", "block4x1@0.7": "second", "block4x1@0.9": "second",
    }  # fmt: skip
    assert all(taken.key == workload.key for workload, taken in report.table.items())
    again = Rivals(first=0.1, second=0.5, third=0.9)
    run(again, records, [matmul()], {"fc": [Choice(Block(4), 0.8)]})
    assert again.events == ["build MatMul block4x1@0.8 second", "time second"]


@pytest.mark.parametrize(
    ("times_s", "winner"),
    [
        ({"first": 1.0, "second": 0.99, "third": 1.0}, "first"),
        ({"first": 1.0, "second": 0.9, "third": 0.8}, "third"),
        ({"second": 1.0, "third": 0.9}, "third"),
    ],
)
def test_the_kernel_expected_to_be_fastest_loses_only_to_one_clearly_faster(
    records: Records, times_s: dict[str, float], winner: str
) -> None:
    report = run(Rivals(**times_s), records, [matmul()], {"fc": [HALF]})
    assert report.table[Workload.of(matmul(), HALF, TARGET)].kernel == winner
    assert report.failures == {}


def test_when_no_kernel_can_be_timed_the_first_ones_reason_is_told(records: Records) -> None:
    report = run(Rivals(), records, [matmul()], {"fc": [HALF, MOST]})
    assert {workload.choice: failure.reason for workload, failure in report.failures.items()} == {
        HALF: "crashed",
        MOST: "crashed",
    }
    assert all(failure.key == workload.key for workload, failure in report.failures.items())


def test_what_a_kernel_that_is_no_more_was_measured_at_is_measured_again(records: Records) -> None:
    older = Rivals(first=1.0, second=0.5, third=0.9)
    older.kernels_for = lambda layer, choice, target: ("gone",)  # type: ignore[method-assign]
    older.times_s["gone"] = 1.0
    run(older, records, [matmul()], {"fc": [HALF]})
    report = run(Rivals(first=1.0, second=0.5, third=0.9), records, [matmul()], {"fc": [HALF, MOST]})
    assert report.measured == 3
    assert {str(workload.choice): taken.kernel for workload, taken in report.table.items()} == {
        "dense": "plain", "block4x1@0.5": "second", "block4x1@0.9": "second",
    }  # fmt: skip


def test_each_pattern_has_a_contest_of_its_own(records: Records) -> None:
    bench = Rivals(first=1.0, second=0.5, third=0.9)
    run(bench, records, [matmul()], {"fc": [HALF, MOST]})
    bench.events.clear()
    run(bench, records, [matmul()], {"fc": [Choice(NM(2, 4), 0.5)]})
    assert bench.events[-1] == "time first second third"


def test_where_a_leader_cannot_be_timed_the_others_hold_the_contest(records: Records) -> None:
    bench = Rivals(first=1.0, second=0.5, third=0.9)
    bench.refused = {str(MOST): CompileError("not this one")}
    seen: list[tuple[int, int]] = []
    report = run(bench, records, [matmul()], {"fc": [HALF, MOST]}, progress=lambda *step: seen.append(step))
    assert [workload.choice for workload in report.failures] == [MOST]
    assert report.table[Workload.of(matmul(), HALF, TARGET)].kernel == "second"
    assert seen[-1] == (14, 14)


def test_a_contest_is_never_cut_in_two(records: Records) -> None:
    bench = Rivals(first=1.0, second=0.5, third=0.9)
    patterns = [Choice(Block(rows), 0.5) for rows in (2, 4, 8, 16)] + [Choice(NM(1, 4), 0.75), Choice(NM(2, 4), 0.5)]
    run(bench, records, [matmul()], {"fc": patterns})
    timed = [event.split()[1:] for event in bench.events if event.startswith("time")]
    assert timed == [["first", "second", "third"] * 5, ["first", "second", "third"], ["plain"]]


def test_what_fails_is_told_with_its_reason_recorded_and_tried_again(records: Records) -> None:
    bench = Bench()
    key = Workload.of(matmul(), MOST, TARGET).key
    bench.refused = {str(HALF): CompileError("TVM said no")}
    bench.failing = {str(MOST): MeasureFailure(key, "run", "killed by SIGSEGV")}
    report = run(bench, records, [matmul()], {"fc": [HALF, MOST]})
    told = {workload.choice: (failure.stage, failure.reason) for workload, failure in report.failures.items()}
    assert told == {HALF: ("build", "TVM said no"), MOST: ("run", "killed by SIGSEGV")}
    assert {each.workload: each.failure for each in records.failures()} == report.failures
    assert [workload.choice for workload in report.table] == [Choice()]
    bench.refused, bench.failing = {}, {}
    assert run(bench, records, [matmul()], {"fc": [HALF, MOST]}).measured == 2


def test_what_was_timed_beside_too_much_noise_is_timed_again_at_once(records: Records) -> None:
    class Noisy(Bench):
        def run_many(
            self, libraries: Mapping[str, Path], settings: RunSettings, progress: Progress | None = None
        ) -> dict[str, Outcome]:
            found = super().run_many(libraries, settings)
            if self.events.count("time block4x1@0.5") == 1:
                self.failing = {}
            return found

    bench = Noisy()
    bench.failing = {str(HALF): MeasureFailure(Workload.of(matmul(), HALF, TARGET).key, "noise", "a neighbour")}
    report = run(bench, records, [matmul()], {"fc": [HALF]})
    assert bench.events[-3:] == ["time dense block4x1@0.5", *["time block4x1@0.5"] * 2]
    assert report.failures == {}
    bench.failing = {str(MOST): MeasureFailure("k", "run", "crashed")}
    assert len(run(bench, records, [matmul()], {"fc": [MOST]}).failures) == 1


def test_noise_that_stays_is_a_failure_with_its_reason(records: Records) -> None:
    bench = Bench()
    bench.failing = {str(HALF): MeasureFailure("k", "noise", "a neighbour")}
    ((workload, failure),) = run(bench, records, [matmul()], {"fc": [HALF]}).failures.items()
    assert (failure.key, failure.stage, failure.reason) == (workload.key, "noise", "a neighbour")
    assert bench.events.count("time block4x1@0.5") == NOISY_CHANCES


def test_options_for_no_layer_are_an_error(records: Records) -> None:
    with pytest.raises(InputError, match="'fd', which is no layer's name"):
        run(Bench(), records, [matmul()], {"fd": [HALF]})


def test_settings_of_other_threads_than_the_targets_are_an_error(records: Records) -> None:
    with pytest.raises(MeasureError, match="settings say 2 threads"):
        run(Bench(), records, [matmul()], {}, settings=RunSettings(threads=2))


def test_progress_counts_every_step_to_the_end(records: Records) -> None:
    bench = Bench()
    bench.refused = {str(HALF): CompileError("no")}
    many = [Choice(Block(4), ratio / 100) for ratio in range(10, 40)]
    seen: list[tuple[int, int]] = []
    run(bench, records, [matmul()], {"fc": many[:3]})
    run(bench, records, [matmul()], {"fc": [*many, HALF]}, progress=lambda *step: seen.append(step))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert {total for _, total in seen} == {64}
    assert seen[-1] == (64, 64)
    rivals: list[tuple[int, int]] = []
    three = Rivals(first=1.0, second=0.5, third=0.9)
    run(three, records, [conv()], {"conv": [HALF]}, progress=lambda *step: rivals.append(step))
    assert rivals == [(done, 8) for done in range(1, 9)]
    assert max(len(event.split()) - 1 for event in bench.events if event.startswith("time")) == 16


def test_no_layers_is_an_empty_report(records: Records) -> None:
    report = run(Bench(), records, [], {})
    assert (report.table, report.failures, report.measured) == ({}, {}, 0)


def test_what_another_calibration_records_meanwhile_is_not_measured_again(records: Records) -> None:
    class Slow(Rivals):
        """Another calibration finishes while the first batch is timed."""

        def run_many(
            self, libraries: Mapping[str, Path], settings: RunSettings, progress: Progress | None = None
        ) -> dict[str, Outcome]:
            if not self.others:
                self.others = True
                run(Rivals(first=1.0, second=0.5, third=0.9), records, [conv()], {"conv": [HALF, MOST]})
            return super().run_many(libraries, settings)

        others = False

    bench, seen = Slow(first=1.0, second=0.5, third=0.9), list[tuple[int, int]]()
    options = {"fc": [HALF], "conv": [HALF, MOST]}
    report = run(bench, records, [matmul(), conv()], options, progress=lambda *step: seen.append(step))
    assert not [event for event in bench.events if "Conv" in event]
    assert (report.measured, len(report.table)) == (2, 5)
    assert report.table[Workload.of(conv(), MOST, TARGET)].kernel == "second"
    assert seen[-1][0] == seen[-1][1]
    assert len(list(records.every())) == 5


def test_what_is_less_precise_than_wanted_is_measured_again(records: Records) -> None:
    rough, fine = (RunSettings(threads=1, warmup_s=0.0, precision=precision) for precision in (0.1, 0.02))
    for settings, measured in ((rough, 1), (rough, 0), (fine, 1), (fine, 0), (rough, 0)):
        assert run(Bench(), records, [matmul()], {}, settings=settings).measured == measured


def test_it_works_with_real_processes(records: Records) -> None:
    class Fakes(Bench):
        def build_layer(self, layer: Layer, choice: Choice, target: Target, directory: Path, kernel: str) -> None:
            write(directory, seconds=1e-3 * (1 - choice.ratio), **({"time": "crash"} if choice == MOST else {}))

    options = {"fc": [HALF, MOST]}
    with LocalRunner(TOOLCHAIN, Clock(), DEVICE, LOADER) as runner:
        report = calibrate([matmul()], options, TARGET, records, runner, Fakes(), Clock(), settings=SETTINGS)
    assert {str(workload.choice): taken.median_s for workload, taken in report.table.items()} == {
        "dense": 1e-3,
        "block4x1@0.5": 5e-4,
    }
    assert [failure.reason for failure in report.failures.values()] == ["killed by SIGSEGV"]


KILLED = """
import sys, time
from pathlib import Path
from hwsparse.latency import Records
from tests.latency.examples import DEVICE, TOOLCHAIN, conv, matmul
from tests.latency.test_calibrate import HALF, Bench, run

class Slow(Bench):
    def build_layer(self, layer, choice, target, directory, kernel):
        super().build_layer(layer, choice, target, directory, kernel)
        if layer.op == "Conv":
            print("building the second batch", flush=True)
            time.sleep(1000)

with Records(Path(sys.argv[1]), DEVICE, TOOLCHAIN) as records:
    run(Slow(), records, [matmul(), conv()], {"fc": [HALF], "conv": [HALF]})
"""


def test_a_killed_calibration_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "building the second batch\n"
        process.send_signal(signal.SIGKILL)
    bench = Bench()
    with Records(path, DEVICE, TOOLCHAIN) as records:
        report = run(bench, records, [matmul(), conv()], {"fc": [HALF], "conv": [HALF]})
    assert [event for event in bench.events if "MatMul" in event] == []
    assert report.measured == 2
    assert len(report.table) == 4


SIDE_BY_SIDE = """
import sys
from datetime import datetime, timezone
from pathlib import Path
from hwsparse.latency import LocalRunner, Records, calibrate
from tests.latency.examples import DEVICE, SETTINGS, TARGET, TOOLCHAIN, conv, matmul
from tests.latency.fake_library import LOADER, write
from tests.latency.test_calibrate import HALF, MOST, Bench

class Fakes(Bench):
    def build_layer(self, layer, choice, target, directory, kernel):
        write(directory, **({"time": "exit"} if choice == MOST else {}))

path, clock = Path(sys.argv[1]), lambda: datetime.now(timezone.utc)
layers = [make(outputs=outputs) for make in (matmul, conv) for outputs in (8, 16, 24)]
options = {layer.signature: [HALF, MOST] for layer in layers}
print("ready", flush=True)
sys.stdin.readline()
with (
    Records(path, DEVICE, TOOLCHAIN) as records,
    LocalRunner(TOOLCHAIN, clock, DEVICE, LOADER, lock=path.with_suffix(".lock")) as runner,
):
    report = calibrate(layers, options, TARGET, records, runner, Fakes(), clock, settings=SETTINGS)
print(len(report.table), report.measured, len(report.failures))
"""


def test_two_processes_that_calibrate_at_once_lose_nothing_and_count_nothing_twice(tmp_path: Path) -> None:
    """Six layers, dense and under one choice that can be timed and one that takes its process down."""
    path = tmp_path / "records.db"
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", SIDE_BY_SIDE, str(path)],
                    cwd=Path(__file__).parents[2],
                    env=os.environ | {"TMPDIR": str(tmp_path)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(2)
        ]
        for process in processes:
            assert process.stdout is not None and process.stdin is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [tuple(map(int, process.communicate(timeout=300)[0].split())) for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
    assert {(known, failed) for known, _, failed in told} == {(12, 6)}
    assert sum(measured for _, measured, _ in told) == 12
    with Records(path, DEVICE, TOOLCHAIN) as records:
        rows = list(records.every())
        assert len(rows) == 12
        assert len({(taken.key, taken.taken_at, taken.samples_s) for _, taken in rows}) == len(rows)
        assert records.table(TARGET.name, TARGET.threads).keys() == {workload for workload, _ in rows}
        assert len(records.table(TARGET.name, TARGET.threads)) == 12
        assert {each.workload.choice for each in records.failures()} == {MOST} and len(records.failures()) == 6


def test_records_made_for_another_toolchain_are_measured_again(records: Records) -> None:
    run(Bench(), records, [matmul()], {})
    newer = replace(TOOLCHAIN, kernels="2")

    class Newer(Bench):
        def run_many(
            self, libraries: Mapping[str, Path], settings: RunSettings, progress: Progress | None = None
        ) -> dict[str, Outcome]:
            taken = super().run_many(libraries, settings)
            return {key: replace(outcome, toolchain=newer) for key, outcome in taken.items()}  # type: ignore[type-var]

    with Records(records.path, DEVICE, newer) as updated:
        assert run(Newer(), updated, [matmul()], {}).measured == 1
