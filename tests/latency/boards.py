"""Boards over loopback for tests: TVM's own tracker and server, this machine for the board."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEY = "test-board"
STARTING = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {before}"
    "from hwsparse.cli import main; main()"
)


@contextmanager
def command(*arguments: str, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """A running `hwsparse` that has said its first line, in a process group of its own.

    Args:
        before: statements that are run first, each with its semicolon.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", STARTING.format(before=before), *arguments],
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


@contextmanager
def running_tracker() -> Iterator[str]:
    """A tracker's HOST:PORT."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with command("device", "tracker", "--port", str(port)):
        yield f"127.0.0.1:{port}"


@contextmanager
def board(tracker: str, *more: str, key: str = KEY, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """This machine as a board; `before` is run on it first."""
    with command("device", "serve", "--tracker", tracker, "--key", key, *more, before=before) as process:
        yield process


def children(pid: int) -> list[int]:
    """Processes that a process has started and that are there."""
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
