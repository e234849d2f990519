"""Boards over loopback: TVM's own tracker and server, this machine for the board."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tvm import rpc

from hwsparse.codegen import Library, build_layer
from hwsparse.codegen.library import LIBRARY, REFERENCE
from hwsparse.errors import InputError, MeasureError
from hwsparse.latency import Address, BoardRunner, MeasureFailure, Measurement, RunSettings
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


@pytest.fixture(scope="module")
def tracker() -> Iterator[str]:
    with running_tracker() as address:
        yield address


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("library")
    build_layer(conv(), Choice(), load_target("x86-local").with_threads(1), directory)
    return directory


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


def test_a_library_is_checked_and_timed_on_a_board(tracker: str, library: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for path in library.iterdir():
        (wrong / path.name).write_bytes(path.read_bytes())
    other = load_file(library / REFERENCE)
    save_file({name: value + np.float32(name.startswith("out")) for name, value in other.items()}, wrong / REFERENCE)
    with board(tracker), runner(tracker, reference=library) as timed:
        found = timed.run_many({"right": library, "wrong": wrong, "none": tmp_path / "none"}, QUICK)
        cold = timed.run("cold", library, RunSettings(threads=1, samples=12, rounds=3, warmup_s=0.0, cache="cold"))
        assert timed.device == HERE.device
    right = found["right"]
    assert isinstance(right, Measurement)
    assert (right.device, len(right.samples_s), right.cpu_share) == (HERE.device, 12, 1.0)
    assert right.reference_s is not None and right.reference_s > 0
    assert isinstance(found["wrong"], MeasureFailure) and found["wrong"].stage == "check"
    assert isinstance(found["none"], MeasureFailure) and found["none"].stage == "load"
    assert isinstance(cold, Measurement)


def test_code_that_a_board_cannot_load_is_told(tracker: str, library: Path, tmp_path: Path) -> None:
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
    with board(tracker), runner(tracker) as timed:
        found = timed.run_many({name: tmp_path / name for name in changes}, QUICK)
    other, newer = found["other"], found["newer"]
    assert isinstance(other, MeasureFailure) and isinstance(newer, MeasureFailure)
    assert (other.stage, newer.stage) == ("load", "load")
    assert "the board cannot load what was compiled for it" in other.reason and "mtriple" in other.reason
    assert "the board runs another TVM than 0." in newer.reason
    assert "install the same apache-tvm on both sides, or compile it anew" in newer.reason


LONG = RunSettings(threads=1, samples=40, rounds=40, warmup_s=0.0, min_sample_s=0.05)


@contextmanager
def timing(timed: BoardRunner, library: Path, found: dict[str, object], settings: RunSettings = LONG) -> Iterator[None]:
    """Two libraries are being timed while the context lasts, and to the end of it."""
    starts, start = list[int](), timed.start

    def noted(threads: int) -> Worker:
        starts.append(threads)
        return start(threads)

    timed.start = noted  # type: ignore[method-assign]
    work = threading.Thread(target=lambda: found.update(timed.run_many({"a": library, "b": library}, settings)))
    work.start()
    while not starts or timed._worker is None:
        assert work.is_alive()
        time.sleep(0.05)
    time.sleep(1.0)  # of the four seconds that timing takes
    yield
    work.join(120)
    assert not work.is_alive()
    assert len(starts) == 2  # the first session was lost


def test_a_board_that_reboots_costs_nothing_but_time_and_it_is_said(
    tracker: str, library: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found: dict[str, object] = {}
    boot = tmp_path / "boot_id"
    told = f"import hwsparse.latency.presence as p, pathlib; p.BOOT = pathlib.Path({str(boot)!r}); "
    boot.write_text("the first\n")
    with ExitStack() as stack:
        timed = stack.enter_context(runner(tracker))
        first = stack.enter_context(board(tracker, before=told))
        with timing(timed, library, found):
            end(first)
            boot.write_text("the second\n")
            stack.enter_context(board(tracker, before=told))
    assert "a session with board 'test-board' was lost: the board started anew: look at its power" in caplog.text
    assert [len(each.samples_s) for each in found.values() if isinstance(each, Measurement)] == [40, 40]


def test_a_session_that_crashes_does_not_end_the_board(tracker: str, library: Path) -> None:
    """As a kernel's crash does, for the second time too."""
    found: dict[str, object] = {}
    with board(tracker) as only, runner(tracker) as timed:
        with timing(timed, library, found):
            (session,) = children(only.pid)
            os.kill(session, signal.SIGKILL)
        assert [len(each.samples_s) for each in found.values() if isinstance(each, Measurement)] == [40, 40]
        timed.close()
        assert isinstance(timed.run("a", library, QUICK), Measurement)
        (session,) = children(only.pid)
        os.kill(session, signal.SIGKILL)
        assert isinstance(timed.run("a", library, QUICK), Measurement)


def test_a_session_that_hangs_is_waited_for_and_another_tried(tracker: str, library: Path) -> None:
    """As a connection looks that was cut without a word, and as a kernel does that hangs."""
    found: dict[str, object] = {}
    with (
        board(tracker) as only,
        runner(tracker, wait_s=1.0, session_s=20.0) as timed,
        timing(timed, library, found, replace(LONG, timeout_s=8.0)),
    ):
        (session,) = children(only.pid)
        os.kill(session, signal.SIGSTOP)
    assert [len(each.samples_s) for each in found.values() if isinstance(each, Measurement)] == [40, 40]


def test_a_session_whose_time_is_over_in_the_middle_is_nobodys_fault(tracker: str, library: Path) -> None:
    """Whoever times is paused until the board has ended the session."""
    found: dict[str, object] = {}
    with (
        board(tracker) as only,
        runner(tracker, session_s=20.0) as timed,
        timing(timed, library, found),
    ):
        (session,) = children(only.pid)
        assert timed._worker is not None
        timed._worker.pause()
        wait_until(lambda: gone(session))
        timed._worker.resume()
    assert [len(each.samples_s) for each in found.values() if isinstance(each, Measurement)] == [40, 40]


def test_a_board_that_another_uses_is_said_to_be_in_use(tracker: str) -> None:
    with board(tracker), runner(tracker) as first, runner(tracker, wait_s=1.0) as second:
        assert first.device
        with pytest.raises(MeasureError, match=r"every board 'test-board' of the tracker at .* was in use for 1 s"):
            assert second.device
        first.close()
        assert second.device == first.device


def test_of_two_who_wait_for_a_board_the_one_of_higher_priority_has_it_first(tracker: str) -> None:
    served = list[str]()

    def use(name: str, priority: int) -> None:
        with runner(tracker, priority=priority) as waiting:
            assert waiting.device
            served.append(name)

    with board(tracker), runner(tracker) as first, ThreadPoolExecutor(2) as pool:
        assert first.device
        users = []
        for at, (name, priority) in enumerate((("low", 1), ("high", 2))):
            users.append(pool.submit(use, name, priority))
            wait_until(lambda waiting=at + 1: pending(tracker) == waiting)  # type: ignore[misc]
        first.close()
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


def test_another_device_under_the_same_key_is_refused(tracker: str, library: Path) -> None:
    with board(tracker), runner(tracker) as timed:
        timed._presence = replace(HERE, device=replace(HERE.device, cpu="another"))
        with pytest.raises(MeasureError, match="board 'test-board' is another device than before"):
            timed.run("a", library, QUICK)


def test_a_board_that_stays_away_is_one_clear_error(tracker: str, library: Path) -> None:
    with board(tracker) as only, runner(tracker, wait_s=2.0) as timed:
        assert isinstance(timed.run("a", library, QUICK), Measurement)
        end(only)
        with pytest.raises(MeasureError, match=r"knows no board 'test-board'; there are none"):
            timed.run("a", library, QUICK)


def test_a_tracker_that_is_not_there_is_one_clear_error(library: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{free.getsockname()[1]}"
    with (
        runner(nowhere) as timed,
        pytest.raises(MeasureError, match=r"the tracker at 127\.0\.0\.1:\d+ cannot be reached"),
    ):
        timed.run("a", library, QUICK)


@pytest.mark.parametrize("text", ["", "host", "host:", ":9190", "host:port", "host:0", "host:65536", "host:-1"])
def test_an_address_is_a_host_and_a_port(text: str) -> None:
    with pytest.raises(InputError, match="give it as HOST:PORT"):
        Address.parse(text, KEY)
    assert Address.parse("host:9190", KEY, 3) == Address("host", 9190, KEY, 3)


def test_a_board_that_answers_gives_what_this_machine_does(tracker: str, library: Path) -> None:
    """Also when the session that it would have been asked in was lost."""
    inputs = {name[3:]: value for name, value in load_file(library / REFERENCE).items() if name.startswith("in/")}
    expected = Library.load(library, 1).run(inputs)
    with board(tracker) as only, runner(tracker) as timed:
        first = timed.answers(library, inputs, QUICK)
        (session,) = children(only.pid)
        os.kill(session, signal.SIGKILL)
        again = timed.answers(library, inputs, QUICK)
        with pytest.raises(MeasureError, match=r"board 'test-board' cannot run a network: .* not a compiled library"):
            timed.answers(library / "none", inputs, QUICK)
    for found in (first, again):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


def test_memory_on_a_board_is_that_of_its_session(tracker: str, library: Path) -> None:
    with board(tracker), runner(tracker) as timed:
        assert timed.device  # holds the session that is given up for this
        most = timed.peak_memory("a", library, QUICK)
    assert isinstance(most, int) and (library / LIBRARY).stat().st_size < most < 1 << 30


def test_a_board_on_some_of_its_cores_is_a_device_of_its_own(tracker: str) -> None:
    core = max(usable_cpus())
    with board(tracker, "--cores", str(core)), runner(tracker, needs=needs(threads=2)) as timed:
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
        board(tracker, before=older),
        runner(tracker, needs=needs()) as timed,
        pytest.raises(MeasureError, match=r"runs code by TVM 0\.20\.0, and .*pip install apache-tvm=="),
    ):
        assert timed.device


def test_code_for_another_machine_is_one_clear_error(tracker: str, library: Path, tmp_path: Path) -> None:
    """What the target says is looked at before anything is sent; what a file says, before it is loaded."""
    with board(tracker), runner(tracker, needs=needs(machine="riscv64")) as refused:
        with pytest.raises(
            MeasureError, match="and target x is code for riscv64: register it under the key of a target"
        ):
            assert refused.device
        for path in library.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        code = bytearray((library / LIBRARY).read_bytes())
        code[18:20] = (243).to_bytes(2, "little")
        (tmp_path / LIBRARY).write_bytes(code)
        with runner(tracker) as timed:
            failed = timed.run("a", tmp_path, QUICK)
        assert isinstance(failed, MeasureFailure) and failed.stage == "load"
        assert "it is code for riscv64, and board 'test-board' is of" in failed.reason
        with (
            runner(tracker, reference=tmp_path) as timed,
            pytest.raises(MeasureError, match=r"reference kernel cannot be timed \(load\): .* code for riscv64"),
        ):
            timed.run("a", library, QUICK)


def test_a_board_without_room_times_what_fits_and_says_so_of_the_rest(tracker: str, library: Path) -> None:
    """Of three libraries two fit side by side; the third is timed when they are gone."""
    size = sum(path.stat().st_size for path in library.iterdir())
    little = (
        f"import hwsparse.latency.onboard as o, itertools; left = itertools.cycle([{size}, {size}, 1]); "
        "o.available_memory = lambda: next(left); "
    )
    with board(tracker, before=little), runner(tracker) as timed:
        found = timed.run_many({"a": library, "b": library, "c": library}, QUICK)
        assert all(isinstance(each, Measurement) for each in found.values())
    none = "import hwsparse.latency.onboard as o; o.available_memory = lambda: 1; "
    with board(tracker, before=none), runner(tracker) as timed:
        failed = timed.run("a", library, QUICK)
    assert isinstance(failed, MeasureFailure) and failed.stage == "load"
    assert "board 'test-board' has 0 MB of memory left, and this takes" in failed.reason


def test_what_a_system_kills_twice_is_said_to_lack_memory(tracker: str, library: Path) -> None:
    """As Linux does to whoever has most of the memory when there is none left."""
    found: dict[str, object] = {}
    with board(tracker) as only, runner(tracker) as timed:
        work = threading.Thread(target=lambda: found.update(timed.run_many({"a": library}, LONG)))
        work.start()
        killed = set[int]()
        while work.is_alive() and len(killed) < 2:
            for session in children(only.pid):
                if session not in killed and timed._worker is not None:
                    time.sleep(0.5)
                    os.kill(session, signal.SIGKILL)
                    killed.add(session)
            time.sleep(0.05)
        work.join(120)
    failed = found["a"]
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


def test_a_wrong_key_is_told_the_right_ones(tracker: str) -> None:
    with (
        board(tracker),
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
    with board(tracker, before=hot), runner(tracker, sleep=cool) as timed:
        (zone / "temp").write_text("79000")
        assert isinstance(timed.run("a", library, QUICK), Measurement)
        assert len(waited) == 3
        assert "board 'test-board' is too hot to be timed (cpu-thermal has 79 °C of 80): waiting" in caplog.text
        timed.close()  # a new session is looked at anew
        waited += [0.0]  # from now on it stays hot
        (zone / "temp").write_text("79000")
        assert isinstance(timed.run("a", library, QUICK), Measurement)
        assert sum(waited) <= 3 * COOL_EVERY_S + COOL_S
        assert "board 'test-board' has not cooled down" in caplog.text
