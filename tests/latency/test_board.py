"""Boards over loopback: TVM's own tracker and server, this machine for the board."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tvm import rpc

from hwsparse.codegen import Library, build_layer
from hwsparse.codegen.library import LIBRARY, REFERENCE
from hwsparse.errors import InputError, MeasureError
from hwsparse.latency import Address, BoardRunner, MeasureFailure, Measurement, RunSettings
from hwsparse.latency.board import Board
from hwsparse.latency.board_runner import COOL_EVERY_S, COOL_S
from hwsparse.latency.cores import usable_cpus
from hwsparse.latency.presence import Needs, Presence
from hwsparse.latency.process import Worker
from hwsparse.plan import Choice
from hwsparse.target import load_target
from tests.latency.boards import KEY, board, children, end, running_tracker
from tests.latency.examples import TOOLCHAIN, Clock, conv
from tests.latency.test_runner import gone, wait_until

HERE = Presence.here(usable_cpus())
QUICK = RunSettings(threads=1, samples=12, rounds=3, warmup_s=0.0)
SHORT_S = 12.0  # of a session: enough for what is timed


@pytest.fixture(scope="module")
def tracker() -> Iterator[str]:
    with running_tracker() as address:
        yield address


@pytest.fixture(scope="module")
def shared(tracker: str) -> Iterator[subprocess.Popen[str]]:
    """A board for all tests that leave it as it was: each takes seconds to start. Others have keys of their own."""
    with board(tracker) as process:
        yield process


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("library")
    build_layer(conv(), Choice(), load_target("x86-local").with_threads(1), directory)
    return directory


@pytest.fixture(scope="module")
def timed(tracker: str, shared: subprocess.Popen[str], library: Path) -> Iterator[BoardRunner]:
    """Times on that board, in a session that lasts from one test to the next: each takes seconds to begin."""
    with runner(tracker, reference=library) as lasting:
        yield lasting


@pytest.fixture
def held(timed: BoardRunner) -> BoardRunner:
    """The runner, in a session."""
    timed._empty_worker(threads=1)
    return timed


@pytest.fixture
def free(timed: BoardRunner, shared: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """The shared board without a session."""
    timed.close()
    return shared


def session_of(process: subprocess.Popen[str]) -> int:
    """The process of a board's only session; of those before it some may not have been waited for."""
    (session,) = (each for each in children(process.pid) if not gone(each))
    return session


def runner(
    tracker: str,
    wait_s: float = 60.0,
    reference: Path | None = None,
    needs: Needs | None = None,
    sleep: Callable[[float], None] = time.sleep,
    **address: Any,
) -> BoardRunner:
    host, _, port = tracker.partition(":")
    place = Address(**{"host": host, "port": int(port), "key": KEY, "wait_s": wait_s, **address})
    return BoardRunner(TOOLCHAIN, Clock(), place, reference, needs, sleep)


def test_a_library_is_checked_and_timed_on_a_board(timed: BoardRunner, library: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for path in library.iterdir():
        (wrong / path.name).write_bytes(path.read_bytes())
    other = load_file(library / REFERENCE)
    save_file({name: value + np.float32(name.startswith("out")) for name, value in other.items()}, wrong / REFERENCE)
    found = timed.run_many({"right": library, "wrong": wrong, "none": tmp_path / "none"}, QUICK)
    cold = timed.run("cold", library, replace(QUICK, cache="cold"))
    assert timed.device == HERE.device
    right = found["right"]
    assert isinstance(right, Measurement)
    assert (right.device, len(right.samples_s), right.cpu_share) == (HERE.device, 12, 1.0)
    assert right.reference_s is not None and right.reference_s > 0
    assert isinstance(found["wrong"], MeasureFailure) and found["wrong"].stage == "check"
    assert isinstance(found["none"], MeasureFailure) and found["none"].stage == "load"
    assert isinstance(cold, Measurement)


def test_code_that_a_board_cannot_load_is_told(timed: BoardRunner, library: Path, tmp_path: Path) -> None:
    changes = {"other": (slice(18, 20), b"\x2a\x00"), "newer": (None, b"0.14")}
    for name, (place, value) in changes.items():
        (tmp_path / name).mkdir()
        for path in library.iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
        data = bytearray((library / "library.so").read_bytes())
        if place is None:  # the form of the virtual machine's code: TVM's VM_VERSION
            data = data.replace(value, b"9.99")
        else:  # ELF's number of a machine: SuperH
            data[place] = value
        (tmp_path / name / "library.so").write_bytes(data)
    found = timed.run_many({name: tmp_path / name for name in changes}, QUICK)
    other, newer = found["other"], found["newer"]
    assert isinstance(other, MeasureFailure) and isinstance(newer, MeasureFailure)
    assert (other.stage, newer.stage) == ("load", "load")
    assert "the board cannot load what was compiled for it" in other.reason and "mtriple" in other.reason
    assert "the board runs another TVM than 0." in newer.reason
    assert "install the same apache-tvm on both sides, or compile it anew" in newer.reason


LONG = RunSettings(threads=1, samples=40, rounds=40, warmup_s=0.0, min_sample_s=0.03)


def time_disturbed(
    timed: BoardRunner, library: Path, disturb: Callable[[], None], settings: RunSettings = LONG
) -> list[int]:
    """How often each of two libraries was timed, where its session is lost meanwhile to what disturbs it."""
    starts, start, begun = list[int](), timed.start, timed._worker is not None

    def noted(threads: int) -> Worker:
        starts.append(threads)
        return start(threads)

    def in_the_middle() -> None:
        wait_until(lambda: timed._worker is not None)
        time.sleep(0.3)  # of the two seconds and a half that timing takes
        disturb()

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(timed, "start", noted)
        disturbing = pool.submit(in_the_middle)
        found = timed.run_many({"a": library, "b": library}, settings)
        disturbing.result(60)
    assert len(starts) == 2 - begun  # the first session was lost
    return [len(each.samples_s) for each in found.values() if isinstance(each, Measurement)]


def test_a_board_that_reboots_costs_nothing_but_time_and_it_is_said(
    tracker: str, library: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    boot = tmp_path / "boot_id"
    told = f"import hwsparse.latency.presence as p, pathlib; p.BOOT = pathlib.Path({str(boot)!r}); "
    boot.write_text("the first\n")
    with ExitStack() as stack:
        timed = stack.enter_context(runner(tracker, key="reboots"))
        first = stack.enter_context(board(tracker, key="reboots", before=told))

        def reboot() -> None:
            end(first)
            boot.write_text("the second\n")
            stack.enter_context(board(tracker, key="reboots", before=told))

        assert time_disturbed(timed, library, reboot) == [40, 40]
    assert "a session with board 'reboots' was lost: the board started anew: look at its power" in caplog.text


def test_a_session_that_crashes_does_not_end_the_board(
    held: BoardRunner, shared: subprocess.Popen[str], library: Path
) -> None:
    """As a kernel's crash does, for the second time too."""
    assert time_disturbed(held, library, lambda: os.kill(session_of(shared), signal.SIGKILL)) == [40, 40]
    os.kill(session_of(shared), signal.SIGKILL)
    assert isinstance(held.run("a", library, QUICK), Measurement)


def test_a_session_that_hangs_is_waited_for_and_another_tried(
    tracker: str, free: subprocess.Popen[str], library: Path
) -> None:
    """As a connection looks that was cut without a word, and as a kernel does that hangs."""
    stopped = list[int]()

    def stop() -> None:
        stopped.append(session_of(free))
        os.kill(stopped[0], signal.SIGSTOP)

    with runner(tracker, wait_s=1.0, session_s=SHORT_S) as timed:
        assert time_disturbed(timed, library, stop, replace(LONG, timeout_s=5.0)) == [40, 40]
    if not gone(stopped[0]):  # who is stopped is not ended until it goes on
        os.kill(stopped[0], signal.SIGKILL)


def test_a_session_whose_time_is_over_in_the_middle_is_nobodys_fault(
    tracker: str, free: subprocess.Popen[str], library: Path
) -> None:
    """Whoever times is paused until the board has ended the session."""
    with runner(tracker, session_s=SHORT_S) as timed:

        def pause() -> None:
            session, worker = session_of(free), timed._worker
            assert worker is not None
            worker.pause()
            wait_until(lambda: gone(session))
            worker.resume()

        assert time_disturbed(timed, library, pause) == [40, 40]


def test_a_board_that_another_uses_is_said_to_be_in_use(tracker: str, held: BoardRunner) -> None:
    with runner(tracker, wait_s=1.0) as second:
        with pytest.raises(MeasureError, match=r"every board 'test-board' of the tracker at .* was in use for 1 s"):
            assert second.device
        held.close()
        assert second.device == held.device


def test_of_two_who_wait_for_a_board_the_one_of_higher_priority_has_it_first(tracker: str, held: BoardRunner) -> None:
    served = list[str]()

    def use(name: str, priority: int) -> None:
        with runner(tracker, priority=priority) as waiting:
            assert waiting.device
            served.append(name)

    with ThreadPoolExecutor(2) as pool:
        users = []
        for at, (name, priority) in enumerate((("low", 1), ("high", 2))):
            users.append(pool.submit(use, name, priority))
            wait_until(lambda waiting=at + 1: pending(tracker) == waiting)  # type: ignore[misc]
        held.close()
        for user in users:
            user.result(120)
    assert served == ["high", "low"]


def pending(tracker: str) -> int:
    """How many wait for a board."""
    host, _, port = tracker.partition(":")
    asked = rpc.connect_tracker(host, int(port))
    try:
        return int(asked.summary()["queue_info"][KEY]["pending"])
    finally:
        asked.close()


@pytest.mark.usefixtures("free")
def test_another_device_under_the_same_key_is_refused(tracker: str, library: Path) -> None:
    with runner(tracker) as timed:
        timed._presence = replace(HERE, device=replace(HERE.device, cpu="another"))
        with pytest.raises(MeasureError, match="board 'test-board' is another device than before"):
            timed.run("a", library, QUICK)


def test_a_board_that_stays_away_is_one_clear_error(tracker: str, library: Path) -> None:
    with board(tracker, key="leaves") as only, runner(tracker, wait_s=2.0, key="leaves") as timed:
        assert isinstance(timed.run("a", library, QUICK), Measurement)
        end(only)
        with pytest.raises(MeasureError, match=r"knows no board 'leaves'; there are "):
            timed.run("a", library, QUICK)


def test_a_tracker_that_is_not_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked in this process: others are asked by those that time libraries."""
    monkeypatch.setattr("hwsparse.latency.board.TRACKER_S", 1.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = Address("127.0.0.1", free.getsockname()[1], KEY)
    began = time.monotonic()
    with pytest.raises(MeasureError, match=r"the tracker at 127\.0\.0\.1:\d+ cannot be reached"):
        Board(**asdict(nowhere))
    assert time.monotonic() - began > 1.5  # it may be starting


def test_a_tracker_without_boards_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        empty = SimpleNamespace(summary=lambda: {"server_info": []})
        monkeypatch.setattr(rpc, "connect_tracker", lambda host, to: {("127.0.0.1", port): empty}[host, to])
        with pytest.raises(MeasureError, match=r"knows no board 'test-board'; there are none; `hwsparse device serve"):
            Board(**asdict(Address("127.0.0.1", port, KEY, wait_s=0.0)))


@pytest.mark.parametrize("text", ["", "host", "host:", ":9190", "host:port", "host:0", "host:65536", "host:-1"])
def test_an_address_is_a_host_and_a_port(text: str) -> None:
    with pytest.raises(InputError, match="give it as HOST:PORT"):
        Address.parse(text, KEY)
    assert Address.parse("host:9190", KEY, 3) == Address("host", 9190, KEY, 3)


def test_a_board_that_answers_gives_what_this_machine_does(
    timed: BoardRunner, shared: subprocess.Popen[str], library: Path
) -> None:
    """Also when the session that it would have been asked in was lost."""
    inputs = {name[3:]: value for name, value in load_file(library / REFERENCE).items() if name.startswith("in/")}
    expected = Library.load(library, 1).run(inputs)
    first = timed.answers(library, inputs, QUICK)
    os.kill(session_of(shared), signal.SIGKILL)
    again = timed.answers(library, inputs, QUICK)
    with pytest.raises(MeasureError, match=r"board 'test-board' cannot run a network: .* not a compiled library"):
        timed.answers(library / "none", inputs, QUICK)
    for found in (first, again):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


def test_memory_on_a_board_is_that_of_its_session(held: BoardRunner, library: Path) -> None:
    """Another than the one that is held, which is given up for it."""
    most = held.peak_memory("a", library, QUICK)
    assert isinstance(most, int) and (library / LIBRARY).stat().st_size < most < 1 << 30


def test_a_board_on_some_of_its_cores_is_a_device_of_its_own(tracker: str) -> None:
    core = max(usable_cpus())
    with (
        board(tracker, "--cores", str(core), key="cores"),
        runner(tracker, key="cores", needs=needs(threads=2)) as timed,
    ):
        with pytest.raises(
            MeasureError, match=f"on its CPUs {core} only, and target x takes 2 threads: give --threads"
        ):
            assert timed.device
        timed._needs = needs(threads=1)
        device = timed.device
    assert device.used.split(" at ")[0] == str(core)
    assert device.digest != HERE.device.digest


def needs(**changed: Any) -> Needs:
    return replace(Needs("x", HERE.device.machine, (), 1, HERE.tvm), **changed)


def test_a_board_with_an_older_runtime_is_one_clear_error(tracker: str) -> None:
    older = "import hwsparse.latency.presence as p; p._version = lambda package: '0.20.0'; "
    with (
        board(tracker, key="older", before=older),
        runner(tracker, key="older", needs=needs()) as timed,
        pytest.raises(MeasureError, match=r"runs code by TVM 0\.20\.0, and .*pip install apache-tvm=="),
    ):
        assert timed.device


@pytest.mark.usefixtures("free")
def test_code_for_another_machine_is_one_clear_error(tracker: str, library: Path, tmp_path: Path) -> None:
    """What the target says is looked at before anything is sent; what a file says, before it is loaded."""
    with (
        runner(tracker, needs=needs(machine="riscv64")) as refused,
        pytest.raises(MeasureError, match="and target x is code for riscv64: register it under the key of a target"),
    ):
        assert refused.device
    for path in library.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    code = bytearray((library / LIBRARY).read_bytes())
    code[18:20] = (243).to_bytes(2, "little")
    (tmp_path / LIBRARY).write_bytes(code)
    with runner(tracker, reference=tmp_path) as timed:
        with pytest.raises(MeasureError, match=r"reference kernel cannot be timed \(load\): .* code for riscv64"):
            timed.run("a", library, QUICK)
        timed._reference = None
        failed = timed.run("a", tmp_path, QUICK)
    assert isinstance(failed, MeasureFailure) and failed.stage == "load"
    assert "it is code for riscv64, and board 'test-board' is of" in failed.reason


def test_a_board_without_room_times_what_fits_and_says_so_of_the_rest(
    tracker: str, library: Path, tmp_path: Path
) -> None:
    """Of three libraries two fit side by side; the third is timed when they are gone."""
    size, full = sum(path.stat().st_size for path in library.iterdir()), tmp_path / "full"
    little = (
        f"import hwsparse.latency.onboard as o, itertools, pathlib; left = itertools.cycle([{size}, {size}, 1]); "
        f"o.available_memory = lambda: 1 if pathlib.Path({str(full)!r}).exists() else next(left); "
    )
    with board(tracker, key="little", before=little), runner(tracker, key="little") as timed:
        found = timed.run_many({"a": library, "b": library, "c": library}, QUICK)
        assert all(isinstance(each, Measurement) for each in found.values())
        full.touch()
        failed = timed.run("a", library, QUICK)
    assert isinstance(failed, MeasureFailure) and failed.stage == "load"
    assert "board 'little' has 0 MB of memory left, and this takes" in failed.reason


def test_what_a_system_kills_twice_is_said_to_lack_memory(
    tracker: str, free: subprocess.Popen[str], library: Path
) -> None:
    """As Linux does to whoever has most of the memory when there is none left."""

    killed = set[int]()
    with runner(tracker) as timed, ThreadPoolExecutor(1) as pool:

        def kill_twice() -> None:
            while len(killed) < 2:
                wait_until(lambda: timed._worker is not None)
                for session in children(free.pid):
                    if session not in killed and not gone(session):
                        time.sleep(0.3)
                        os.kill(session, signal.SIGKILL)
                        killed.add(session)
                time.sleep(0.05)

        killing = pool.submit(kill_twice)
        failed = timed.run("a", library, LONG)
        killing.result(60)
    assert isinstance(failed, MeasureFailure) and failed.stage == "run"
    assert "its process on the board was killed by SIGKILL (perhaps for lack of memory)" in failed.reason


def test_a_server_that_is_none_of_ours_is_one_clear_error(tracker: str) -> None:
    """As TVM's own, which can tell nothing of the machine."""
    server = [sys.executable, "-m", "tvm.exec.rpc_server", "--host=127.0.0.1", f"--tracker={tracker}", "--key=plain"]
    process = subprocess.Popen(
        server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, text=True
    )
    try:
        with (
            runner(tracker, key="plain") as timed,
            pytest.raises(MeasureError, match="what is registered as 'plain' does not run `hwsparse device serve`"),
        ):
            assert timed.device
    finally:
        end(process)


@pytest.mark.usefixtures("shared")
def test_a_wrong_key_is_told_the_right_ones(tracker: str) -> None:
    with (
        runner(tracker, wait_s=0.0, key="other") as timed,
        pytest.raises(
            MeasureError, match=r"knows no board 'other'; there are test-board; `hwsparse device serve --key"
        ),
    ):
        assert timed.device


def test_a_hot_board_is_waited_for_until_it_is_cool_and_no_longer_than_is_said(
    tracker: str, library: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    zone = tmp_path / "class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    for name, text in (("type", "cpu-thermal"), ("trip_point_0_type", "passive"), ("trip_point_0_temp", "80000")):
        (zone / name).write_text(text)
    hot = (
        "import hwsparse.latency.onboard as o, functools, pathlib; "
        f"o.read_heat = functools.partial(o.read_heat, sys=pathlib.Path({str(tmp_path)!r})); "
    )
    waited = list[float]()

    def cool(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            (zone / "temp").write_text("60000")

    (zone / "temp").write_text("40000")
    with board(tracker, key="hot", before=hot), runner(tracker, key="hot", sleep=cool) as timed:
        (zone / "temp").write_text("79000")
        assert isinstance(timed.run("a", library, QUICK), Measurement)
        assert len(waited) == 3
        assert "board 'hot' is too hot to be timed (cpu-thermal has 79 °C of 80): waiting" in caplog.text
        timed.close()  # a new session is looked at anew
        waited += [0.0]  # from now on it stays hot
        (zone / "temp").write_text("79000")
        assert isinstance(timed.run("a", library, QUICK), Measurement)
        assert sum(waited) <= 3 * COOL_EVERY_S + COOL_S
        assert "board 'hot' has not cooled down" in caplog.text
