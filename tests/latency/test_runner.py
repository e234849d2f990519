from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hwsparse.errors import MeasureError
from hwsparse.latency import LocalRunner, MeasureFailure, Measurement, RunSettings
from hwsparse.latency.process import PINNABLE_CPUS, Worker, choose_cpus
from hwsparse.latency.runner import BATCH, ProcessRunner
from tests.latency.examples import DEVICE, SETTINGS, TOOLCHAIN, Clock
from tests.latency.fake_library import LOADER, write

WAVERING_S = [1e-3 * (1 + step * 37 % 101 / 100) for step in range(1000)]  # anything from 1 to 2 ms
HASTY = RunSettings(threads=1, warmup_s=0.0, timeout_s=3.0)


@pytest.fixture(scope="module")
def runner() -> Iterator[LocalRunner]:
    with LocalRunner(TOOLCHAIN, Clock(), DEVICE, LOADER) as runner:
        yield runner


def log_of(path: Path) -> list[tuple[str, int, int, dict[str, object]]]:
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()]


def test_a_library_is_timed_with_its_provenance(runner: LocalRunner, tmp_path: Path) -> None:
    taken = runner.run("k", write(tmp_path / "a", seconds=2e-3), SETTINGS)
    assert isinstance(taken, Measurement)
    assert (taken.key, taken.source, taken.median_s) == ("k", "measured", 2e-3)
    assert len(taken.samples_s) >= 60
    assert (taken.settings, taken.device, taken.toolchain) == (SETTINGS, DEVICE, TOOLCHAIN)
    assert taken.taken_at.utcoffset() is not None


def test_libraries_take_turns_and_short_calls_are_repeated_within_a_sample(runner: LocalRunner, tmp_path: Path) -> None:
    log = tmp_path / "log"
    libraries = {
        name: write(tmp_path / name, seconds=seconds, log=str(log)) for name, seconds in (("a", 3e-5), ("b", 1.0))
    }
    results = runner.run_many(libraries, SETTINGS)
    turns = [(name, number) for name, repeats, number, _ in log_of(log) if repeats == 5]
    assert turns == [("a", 4), ("b", 1)] * 12
    assert all(isinstance(result, Measurement) and len(result.samples_s) == 60 for result in results.values())


def test_rounds_go_on_until_the_time_is_known_well_enough(runner: LocalRunner, tmp_path: Path) -> None:
    """`steps` are what its samples take, one after the other."""
    settings = RunSettings(threads=1, warmup_s=0.0, precision=0.02)
    libraries = {
        "steady": write(tmp_path / "steady"),
        "settles": write(tmp_path / "settles", steps=WAVERING_S[:60] + [1e-3] * 1000),
        "never": write(tmp_path / "never", steps=WAVERING_S),
    }
    found = runner.run_many(libraries, settings)
    assert isinstance(found["steady"], Measurement) and len(found["steady"].samples_s) == 60
    assert isinstance(found["settles"], Measurement) and 60 < len(found["settles"].samples_s) < 300
    never = found["never"]
    assert isinstance(never, MeasureFailure)
    assert never.stage == "noise"
    assert never.reason.startswith("after 300 samples its time is known to ")


def test_where_a_median_is_wanted_rounds_go_on_until_that_is_known(runner: LocalRunner, tmp_path: Path) -> None:
    """Half of the samples are alike when `settles` has had more than twice 60."""
    settings = RunSettings(threads=1, warmup_s=0.0, precision=0.02)
    libraries = {
        "steady": write(tmp_path / "steady"),
        "settles": write(tmp_path / "settles", steps=WAVERING_S[:60] + [1e-3] * 1000),
        "never": write(tmp_path / "never", steps=WAVERING_S),
    }
    found = runner.run_many(libraries, settings, patience_s=600.0)
    counts = {key: len(taken.samples_s) for key, taken in found.items() if isinstance(taken, Measurement)}
    assert (counts["steady"], counts["never"]) == (60, 300)
    assert 120 < counts["settles"] < 200
    low, high = found["settles"].interval_s  # type: ignore[union-attr]
    assert (low, high) == (1e-3, 1e-3)


def test_when_patience_is_over_what_there_is_is_given(runner: LocalRunner, tmp_path: Path) -> None:
    settings = RunSettings(threads=1, warmup_s=0.0, precision=0.02)
    taken = runner.run_many({"never": write(tmp_path / "never", steps=WAVERING_S)}, settings, patience_s=0.0)["never"]
    assert isinstance(taken, Measurement) and len(taken.samples_s) == 60
    wrong = runner.run_many({"wrong": write(tmp_path / "wrong", error=1.0)}, settings, patience_s=0.0)["wrong"]
    assert isinstance(wrong, MeasureFailure) and wrong.stage == "check"


def test_the_reference_kernel_is_timed_beside_all_others(tmp_path: Path) -> None:
    log = tmp_path / "log"
    reference = write(tmp_path / "reference", seconds=1e-4, log=str(log))
    libraries = {name: write(tmp_path / name, log=str(log)) for name in ("a", "b")}
    with LocalRunner(TOOLCHAIN, Clock(), DEVICE, LOADER, reference) as runner:
        found = runner.run_many(libraries, SETTINGS)
    turns = [(name, repeats, number) for name, repeats, number, _ in log_of(log)][-48:]
    assert turns == [("reference", 1, 3), ("a", 5, 1), ("reference", 1, 3), ("b", 5, 1)] * 12
    assert all(isinstance(taken, Measurement) and taken.reference_s == 1e-4 for taken in found.values())


@pytest.mark.parametrize(
    "wrong",
    [{"load": "raise"}, {"error": 1.0}, {"time": "raise"}, {"load": "crash"}, {"check": "killed"}, {"time": "exit"}],
)
def test_a_reference_kernel_that_does_not_run_is_one_clear_error(tmp_path: Path, wrong: dict[str, object]) -> None:
    reference = write(tmp_path / "reference", **wrong)
    with (
        LocalRunner(TOOLCHAIN, Clock(), DEVICE, LOADER, reference) as runner,
        pytest.raises(MeasureError, match="the reference kernel cannot be timed"),
    ):
        runner.run("a", write(tmp_path / "a"), SETTINGS)


def test_a_reference_kernel_that_is_lost_between_turns_is_no_librarys_fault(tmp_path: Path) -> None:
    reference = write(tmp_path / "reference", dies_after=10)
    with (
        LocalRunner(TOOLCHAIN, Clock(), DEVICE, LOADER, reference) as runner,
        pytest.raises(MeasureError, match=r"the reference kernel cannot be timed \(run\): killed by SIGKILL"),
    ):
        runner.run_many({name: write(tmp_path / name) for name in "ab"}, SETTINGS)


def test_a_reading_of_the_reference_kernel_that_is_none_is_left_out(tmp_path: Path) -> None:
    """A clock that jumps, for once."""
    reference = write(tmp_path / "reference", steps=[1e-4] * 5 + [-1.0] + [2e-4] * 100)
    with LocalRunner(TOOLCHAIN, Clock(), DEVICE, LOADER, reference) as runner:
        taken = runner.run("a", write(tmp_path / "a"), SETTINGS)
    assert isinstance(taken, Measurement)
    assert taken.reference_s in (1e-4, 2e-4)


def test_each_library_has_the_reference_of_its_own_turns(tmp_path: Path) -> None:
    """The clock is halved when `short` has had all its turns."""
    reference = write(tmp_path / "reference", steps=[1e-4] * 25 + [2e-4] * 1000)
    libraries = {"short": write(tmp_path / "short"), "long": write(tmp_path / "long", steps=WAVERING_S)}
    settings = RunSettings(threads=1, warmup_s=0.0, precision=0.02)
    with LocalRunner(TOOLCHAIN, Clock(), DEVICE, LOADER, reference) as runner:
        found = runner.run_many(libraries, settings)
    short = found["short"]
    assert isinstance(short, Measurement) and short.reference_s == 1e-4


def test_a_library_that_crashes_in_its_turn_is_blamed_and_not_the_reference(tmp_path: Path) -> None:
    reference = write(tmp_path / "reference")
    libraries = {"bad": write(tmp_path / "bad", time="crash"), "good": write(tmp_path / "good")}
    with LocalRunner(TOOLCHAIN, Clock(), DEVICE, LOADER, reference) as runner:
        found = runner.run_many(libraries, SETTINGS)
    assert isinstance(found["bad"], MeasureFailure)
    assert isinstance(found["good"], Measurement)


def test_cold_caches_are_asked_of_the_library(runner: LocalRunner, tmp_path: Path) -> None:
    log = tmp_path / "log"
    taken = runner.run("a", write(tmp_path / "a", log=str(log)), RunSettings(threads=1, warmup_s=0.0, cache="cold"))
    assert isinstance(taken, Measurement)
    assert [state["cold"] for _, repeats, _, state in log_of(log) if repeats == 5] == [True] * 12


def test_a_process_that_shares_its_cpu_is_noticed(runner: LocalRunner, tmp_path: Path) -> None:
    """A sleeping library has as little of its CPU as one whose CPU another process takes."""
    taken = runner.run("a", write(tmp_path / "a", sleep=0.01), SETTINGS)
    assert isinstance(taken, Measurement)
    assert taken.cpu_share < 0.5
    noisy = write(tmp_path / "b", sleep=0.002, steps=WAVERING_S)
    failed = runner.run("b", noisy, RunSettings(threads=1, warmup_s=0.0, precision=0.02))
    assert isinstance(failed, MeasureFailure)
    assert "; other processes took " in failed.reason


def test_who_keeps_the_machine_may_time_on_it_meanwhile(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with LocalRunner(TOOLCHAIN, Clock(), DEVICE, LOADER, lock=lock) as runner:
        with runner.alone():
            assert isinstance(runner.run("a", write(tmp_path / "a"), SETTINGS), Measurement)
            with open(lock) as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


BUSY = "import os\nos.sched_setaffinity(0, {cpus})\nprint(flush=True)\nwhile True: pass"


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="this system does not tell what its CPUs do")
def test_a_busy_process_is_noticed_on_another_cpu_too(runner: LocalRunner, tmp_path: Path) -> None:
    cpus = set(PINNABLE_CPUS) - set(choose_cpus(1)) or set(PINNABLE_CPUS)
    with subprocess.Popen([sys.executable, "-c", BUSY.format(cpus=cpus)], stdout=subprocess.PIPE) as busy:
        try:
            assert busy.stdout
            busy.stdout.readline()
            taken = runner.run("a", write(tmp_path / "a", sleep=0.1, elsewhere=True), SETTINGS)
        finally:
            busy.kill()
    assert isinstance(taken, Measurement)
    assert taken.cpu_share < 1 - 0.5 / len(PINNABLE_CPUS)


def test_warming_up_goes_on_as_long_as_asked(runner: LocalRunner, tmp_path: Path) -> None:
    log = tmp_path / "log"
    directory = write(tmp_path / "a", seconds=1e-3, log=str(log))
    runner.run("a", directory, RunSettings(threads=1, warmup_s=0.02))
    assert sum(number for _, repeats, number, _ in log_of(log) if repeats == 1) >= 20


def test_warming_up_goes_on_until_calls_take_as_long_as_before(runner: LocalRunner, tmp_path: Path) -> None:
    """Stretches of 3, 6, 12 and 24 calls: the last takes as long as the one before it."""
    log = tmp_path / "log"
    directory = write(tmp_path / "a", steps=[9e-3, 5e-3, 1e-3, 1e-3] + [1e-3] * 1000, log=str(log))
    runner.run("a", directory, RunSettings(threads=1, warmup_s=0.05))
    assert [number for _, repeats, number, _ in log_of(log) if repeats == 1] == [3, 6, 12, 24]
    log.unlink()
    restless = write(tmp_path / "b", steps=[1e-3, 2e-3] * 500, log=str(log))
    runner.run("b", restless, RunSettings(threads=1, warmup_s=0.01))
    assert sum(repeats == 1 for _, repeats, _, _ in log_of(log)) < 8  # and then it is given up


def test_the_worker_is_pinned_and_its_thread_counts_are_set(runner: LocalRunner, tmp_path: Path) -> None:
    log = tmp_path / "log"
    runner.run("a", write(tmp_path / "a", log=str(log)), SETTINGS)
    inside = log_of(log)[0][3]
    assert len(inside["cpus"]) == 1
    assert (inside["tvm"], inside["omp"], inside["bind"], inside["input"]) == ("1", "1", "0", "")


def test_more_libraries_than_a_batch_keep_their_order_and_report_progress(runner: LocalRunner, tmp_path: Path) -> None:
    libraries = {f"k{number}": write(tmp_path / str(number)) for number in range(20)}
    seen: list[tuple[int, int]] = []
    results = runner.run_many(libraries, SETTINGS, lambda done, total: seen.append((done, total)))
    assert list(results) == list(libraries)
    assert seen == [(16, 20), (20, 20)]


def test_no_libraries_need_no_worker(tmp_path: Path) -> None:
    with LocalRunner(TOOLCHAIN, Clock(), DEVICE, "no.such:Loader") as runner:
        assert runner.run_many({}, SETTINGS) == {}


@pytest.mark.parametrize(
    ("where", "what", "reason"),
    [
        ("load", "crash", "killed by SIGSEGV"),
        ("check", "killed", "killed by SIGKILL (perhaps for lack of memory)"),
        ("time", "exit", "ended with exit status 3; it printed: cannot go on"),
        ("time", "crash", "killed by SIGSEGV"),
    ],
)
def test_a_library_that_dies_fails_alone(
    runner: LocalRunner, tmp_path: Path, where: str, what: str, reason: str
) -> None:
    libraries = {name: write(tmp_path / name) for name in ("before", "after")}
    libraries = {"before": libraries["before"], "bad": write(tmp_path / "bad", **{where: what}), **libraries}
    results = runner.run_many(libraries, SETTINGS)
    assert results["bad"] == MeasureFailure("bad", "run", reason)
    assert isinstance(results["before"], Measurement)
    assert isinstance(results["after"], Measurement)


@pytest.mark.parametrize(
    ("fake", "stage", "reason"),
    [
        ({"load": "raise"}, "load", "RuntimeError: no such kernel"),
        ({"check": "raise"}, "run", "RuntimeError: no such kernel"),
        ({"time": "raise"}, "run", "RuntimeError: no such kernel"),
        ({"error": 2e-3}, "check", "wrong output: relative error 0.002, more than 0.001"),
        ({"error": float("nan")}, "check", "wrong output: relative error nan, more than 0.001"),
        ({"error": float("inf")}, "check", "wrong output: relative error inf, more than 0.001"),
        ({"seconds": 0.0}, "run", "ValueError: a call took 0.0 seconds"),
        ({"seconds": -1.0}, "run", "ValueError: a call took -1.0 seconds"),
        ({"seconds": float("nan")}, "run", "ValueError: a call took nan seconds"),
        ({"seconds": float("inf")}, "run", "the clock gave [inf, inf, inf] s for 5 samples"),
        ({"seconds": 2e9}, "run", "the clock gave [2000000000.0, 2000000000.0, 2000000000.0] s for 5 samples"),
        ({"check": "garbage"}, "run", "answered b'what?', which is no answer"),
        ({"check": "stale"}, "run", "answered another request"),
        ({"time": "flood"}, "run", "does not stop answering"),
    ],
)
def test_what_goes_wrong_is_a_failure_with_its_reason(
    runner: LocalRunner, tmp_path: Path, fake: dict[str, object], stage: str, reason: str
) -> None:
    libraries = {"bad": write(tmp_path / "bad", **fake), "good": write(tmp_path / "good")}
    results = runner.run_many(libraries, SETTINGS)
    assert results["bad"] == MeasureFailure("bad", stage, reason)  # type: ignore[arg-type]
    assert isinstance(results["good"], Measurement)


def test_libraries_that_are_too_many_for_the_memory_are_timed_in_smaller_batches(
    runner: LocalRunner, tmp_path: Path
) -> None:
    """What is killed where it is with more than three others is not to blame for it."""
    libraries = {name: write(tmp_path / name, together=4) for name in "abcdefghij"}
    results = runner.run_many(libraries, SETTINGS)
    assert all(isinstance(result, Measurement) and len(result.samples_s) == 60 for result in results.values())


def test_what_is_killed_alone_is_to_blame(runner: LocalRunner, tmp_path: Path) -> None:
    libraries = {name: write(tmp_path / name) for name in "abcde"} | {"bad": write(tmp_path / "bad", time="killed")}
    results = runner.run_many(libraries, SETTINGS)
    failed = results.pop("bad")
    assert failed == MeasureFailure("bad", "run", "killed by SIGKILL (perhaps for lack of memory)")
    assert all(isinstance(result, Measurement) and len(result.samples_s) == 60 for result in results.values())


def test_a_directory_that_is_no_library_is_a_load_failure(runner: LocalRunner, tmp_path: Path) -> None:
    failed = runner.run("none", tmp_path / "none", SETTINGS)
    assert isinstance(failed, MeasureFailure)
    assert failed.stage == "load"


def test_a_right_output_passes(runner: LocalRunner, tmp_path: Path) -> None:
    assert isinstance(runner.run("k", write(tmp_path / "a", error=1e-3), SETTINGS), Measurement)


def test_what_a_library_prints_is_not_taken_for_an_answer(runner: LocalRunner, tmp_path: Path) -> None:
    noisy = write(tmp_path / "a", load="print", check="print", time="print", seconds=1e-3)
    taken = runner.run("k", noisy, SETTINGS)
    assert isinstance(taken, Measurement)
    assert taken.median_s == 1e-3


@pytest.mark.parametrize(("where", "what"), [("load", "hang"), ("time", "chatter")])
def test_a_library_that_hangs_is_given_up_and_killed(
    runner: LocalRunner, tmp_path: Path, where: str, what: str
) -> None:
    libraries = {"bad": write(tmp_path / "bad", **{where: what}), "good": write(tmp_path / "good")}
    results = runner.run_many(libraries, HASTY)
    failed = results["bad"]
    assert isinstance(failed, MeasureFailure)
    assert failed.stage == "timeout"
    assert failed.reason.startswith("no answer within 3 s")
    assert isinstance(results["good"], Measurement)


class Remote(ProcessRunner):
    """As a board's: a lost process may be nobody's fault."""

    chances = 2
    device = DEVICE

    def start(self, threads: int) -> Worker:
        return Worker(LOADER, threads)


@pytest.mark.parametrize(("where", "what"), [("check", "crash"), ("time", "exit"), ("load", "hang")])
def test_a_library_that_fails_in_one_session_only_is_timed(tmp_path: Path, where: str, what: str) -> None:
    libraries = {name: write(tmp_path / name) for name in ("before", "after")}
    unlucky = write(tmp_path / "unlucky", once=str(tmp_path / "once"), **{where: what})
    with Remote(TOOLCHAIN, Clock()) as remote:
        results = remote.run_many({"before": libraries["before"], "unlucky": unlucky, **libraries}, HASTY)
    assert all(isinstance(result, Measurement) and len(result.samples_s) == 60 for result in results.values())


@pytest.mark.parametrize(("what", "stage"), [("crash", "run"), ("hang", "timeout")])
def test_a_library_that_fails_in_a_new_session_too_is_to_blame(tmp_path: Path, what: str, stage: str) -> None:
    libraries = {"bad": write(tmp_path / "bad", time=what), "good": write(tmp_path / "good")}
    with Remote(TOOLCHAIN, Clock()) as remote:
        results = remote.run_many(libraries, HASTY)
    assert isinstance(results["bad"], MeasureFailure) and results["bad"].stage == stage
    assert isinstance(results["good"], Measurement)


def test_each_batch_may_lose_a_session_of_its_own_at_the_reference_kernel(tmp_path: Path) -> None:
    """A batch takes some 420 calls, so that the second one and the third lose the session that they began in."""
    reference = write(tmp_path / "reference", session=600)
    libraries = {str(at): write(tmp_path / str(at)) for at in range(3 * BATCH)}
    losses = list[None]()

    class Counting(Remote):
        def _lose(self) -> None:
            losses.append(None)
            super()._lose()

    with Counting(TOOLCHAIN, Clock(), reference) as remote:
        results = remote.run_many(libraries, SETTINGS)
    assert all(isinstance(result, Measurement) for result in results.values())
    assert len(losses) == 2


def test_what_was_finished_when_a_session_ended_is_not_timed_again(tmp_path: Path) -> None:
    """`wavering` needs more turns than `steady`, and its process is lost when `steady` has had all of its own."""
    log, settings = tmp_path / "log", RunSettings(threads=1, warmup_s=0.0, precision=0.02)
    libraries = {
        "steady": write(tmp_path / "steady", log=str(log)),
        "wavering": write(tmp_path / "wavering", steps=WAVERING_S, dies_after=30, log=str(log)),
    }
    with Remote(TOOLCHAIN, Clock()) as remote:
        results = remote.run_many(libraries, settings)
    assert isinstance(results["steady"], Measurement)
    assert isinstance(results["wavering"], MeasureFailure)
    pids = {name: {state["pid"] for of, _, _, state in log_of(log) if of == name} for name in libraries}
    assert {name: len(found) for name, found in pids.items()} == {"steady": 1, "wavering": 2}


@pytest.mark.parametrize(("calls", "timed"), [(60, 4), (32, 4), (17, 4), (10, 0)])
def test_of_libraries_that_a_session_is_too_short_for_fewer_are_timed_in_one(
    tmp_path: Path, calls: int, timed: int
) -> None:
    """A library takes 2 calls to warm up and 12 turns; a session lasts for so many calls, of all libraries together."""
    libraries = {str(at): write(tmp_path / str(at), session=calls) for at in range(4)}
    with Remote(TOOLCHAIN, Clock(), session_s=0.0) as remote:  # whenever one is lost, its time was over
        results = remote.run_many(libraries, SETTINGS)
    assert sum(isinstance(result, Measurement) for result in results.values()) == timed


def worker_pid(runner: LocalRunner, tmp_path: Path) -> int:
    """The process that a library of this runner runs in."""
    log = tmp_path / "pid-log"
    runner.run("k", write(tmp_path / "pid", log=str(log)), SETTINGS)
    return int(str(log_of(log)[-1][3]["pid"]))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_the_worker_is_kept_between_runs_and_ends_with_the_context(tmp_path: Path) -> None:
    with LocalRunner(TOOLCHAIN, Clock(), DEVICE, LOADER) as runner:
        pid = worker_pid(runner, tmp_path)
        assert worker_pid(runner, tmp_path) == pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_worker_killed_while_idle_is_replaced_and_nobody_blamed(runner: LocalRunner, tmp_path: Path) -> None:
    os.kill(worker_pid(runner, tmp_path), signal.SIGKILL)
    assert isinstance(runner.run("k", write(tmp_path / "a"), SETTINGS), Measurement)


def test_a_worker_that_another_thread_started_is_replaced(runner: LocalRunner, tmp_path: Path) -> None:
    """The kernel ends it some time after the thread: perhaps in the middle of the next library."""
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pid = pool.submit(worker_pid, runner, tmp_path).result()
        pool.submit(over.wait)  # the thread lives on, so that the worker could be used
        try:
            assert worker_pid(runner, tmp_path) != pid
        finally:
            over.set()


def test_a_loader_that_cannot_be_imported_is_one_clear_error(tmp_path: Path) -> None:
    said = pytest.raises(MeasureError, match=r"cannot load no\.such:Loader: ModuleNotFoundError")
    with LocalRunner(TOOLCHAIN, Clock(), DEVICE, "no.such:Loader") as runner, said:
        runner.run("k", tmp_path, SETTINGS)


def test_memory_is_all_that_is_held_and_needed_at_once(runner: LocalRunner, tmp_path: Path) -> None:
    little = runner.peak_memory("a", write(tmp_path / "a"), SETTINGS)
    if isinstance(little, MeasureFailure):
        pytest.skip(f"this system does not tell: {little.reason}")
    much = runner.peak_memory("b", write(tmp_path / "b", holds=64 << 20, needs=32 << 20), SETTINGS)
    assert isinstance(much, int)
    assert 90 << 20 < much - little < 110 << 20


def test_memory_of_a_library_that_does_not_load_is_a_failure(runner: LocalRunner, tmp_path: Path) -> None:
    failed = runner.peak_memory("a", write(tmp_path / "a", load="raise"), SETTINGS)
    assert isinstance(failed, MeasureFailure) and failed.stage == "load"


def test_what_a_loader_refuses_on_purpose_is_said_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "refusing.py").write_text(
        "from hwsparse.errors import MeasureError\nraise MeasureError('no board is free')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    said = pytest.raises(MeasureError, match=r"^no board is free$")
    with LocalRunner(TOOLCHAIN, Clock(), DEVICE, "refusing:Loader") as runner, said:
        runner.run("k", tmp_path, SETTINGS)


def test_more_threads_than_cpus_is_an_error(runner: LocalRunner, tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="4096 threads wanted"):
        runner.run("k", tmp_path, RunSettings(threads=4096))


def test_threads_go_to_different_cores_first(tmp_path: Path) -> None:
    for cpu, core in enumerate(["0,4", "1,5", "2,6", "3,7"] * 2):
        siblings = tmp_path / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        siblings.parent.mkdir(parents=True)
        siblings.write_text(core)
    everything = range(8)
    assert choose_cpus(1, everything, tmp_path) == (7,)
    assert sorted(choose_cpus(4, everything, tmp_path)) == [4, 5, 6, 7]
    assert choose_cpus(6, everything, tmp_path) == (7, 6, 5, 4, 3, 2)
    assert choose_cpus(2, [1, 5, 6], tmp_path) == (6, 5)
    assert choose_cpus(3, [], tmp_path) == ()


PARENT = """
import sys
from pathlib import Path
from hwsparse.latency import LocalRunner, RunSettings
from tests.latency.examples import DEVICE, TOOLCHAIN, Clock
from tests.latency.fake_library import LOADER, write
here = Path(sys.argv[1])
with LocalRunner(TOOLCHAIN, Clock(), DEVICE, LOADER) as runner:
    runner.run("a", write(here / "a", log=str(here / "log")), RunSettings(threads=1, warmup_s=0.0))
    runner.run("b", write(here / "b", load="hang", mark=str(here / "mark")), RunSettings(threads=1))
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(tmp_path: Path, sent: signal.Signals) -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as parent:  # fmt: skip
        wait_until((tmp_path / "mark").exists)
        pid = int(str(log_of(tmp_path / "log")[0][3]["pid"]))
        # Ctrl-C goes to the whole group; SIGKILL to the parent alone.
        (os.killpg if sent == signal.SIGINT else os.kill)(parent.pid, sent)
        _, printed = parent.communicate(timeout=60)
    wait_until(lambda: gone(pid))
    assert parent.returncode != 0
    if sent == signal.SIGINT:
        assert printed.rstrip().endswith("KeyboardInterrupt")
