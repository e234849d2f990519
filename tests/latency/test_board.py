"""Boards over loopback: TVM's own tracker and server, this machine for the board."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tvm import rpc

from hwsparse.codegen import build_layer
from hwsparse.codegen.library import REFERENCE
from hwsparse.errors import InputError, MeasureError
from hwsparse.latency import Address, BoardRunner, Device, MeasureFailure, Measurement, RunSettings
from hwsparse.latency.process import Worker
from hwsparse.plan import Choice
from hwsparse.target import load_target
from tests.latency.examples import TOOLCHAIN, Clock, conv
from tests.latency.test_runner import gone, wait_until

KEY = "test-board"
STARTING = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from hwsparse.cli import main; main()"
)
QUICK = RunSettings(threads=1, samples=12, rounds=3, warmup_s=0.0)


@contextmanager
def command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A running `hwsparse` that has said its first line, in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", STARTING, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout is not None
        assert "listens on" in process.stdout.readline()
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Pulls the plug: the process and all that it started are gone at once."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@pytest.fixture(scope="module")
def tracker() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with command("device", "tracker", "--port", str(port)):
        yield f"127.0.0.1:{port}"


@contextmanager
def board(tracker: str) -> Iterator[subprocess.Popen[str]]:
    with command("device", "serve", "--tracker", tracker, "--key", KEY) as process:
        yield process


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("library")
    build_layer(conv(), Choice(), load_target("x86-local").with_threads(1), directory)
    return directory


def runner(tracker: str, wait_s: float = 60.0, reference: Path | None = None, **address: Any) -> BoardRunner:
    host, _, port = tracker.partition(":")
    return BoardRunner(TOOLCHAIN, Clock(), Address(host, int(port), KEY, wait_s=wait_s, **address), reference)


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
        assert timed.device == Device.probe()
    right = found["right"]
    assert isinstance(right, Measurement)
    assert (right.device, len(right.samples_s), right.cpu_share) == (Device.probe(), 12, 1.0)
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


def children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


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


def test_a_board_that_vanishes_and_comes_back_costs_nothing_but_time(tracker: str, library: Path) -> None:
    found: dict[str, object] = {}
    with ExitStack() as stack:
        timed = stack.enter_context(runner(tracker))
        first = stack.enter_context(board(tracker))
        with timing(timed, library, found):
            end(first)
            stack.enter_context(board(tracker))
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
        timed._device = replace(Device.probe(), cpu="another")
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
