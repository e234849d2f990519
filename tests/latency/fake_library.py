"""A library in pure Python whose speed and misbehaviour are written in its directory's fake.json.

    seconds   what one call takes, as its clock tells
    steps     what each sample takes instead, one after the other
    sleep     how long each call of `time` sleeps
    elsewhere whether it is on a board, so that its process has nothing to do with how long it takes
    dies_after   how many calls of `time` it lives through
    session   how many calls of `time` its process lives through, whichever libraries they are of
    together  how many libraries its process may have loaded, to live through a call of `time`
    once      a file: what goes wrong does so only where it is not there, and makes it
    error     what `check` gives
    holds, needs   bytes of memory, from its loading on and while it runs
    load, check, time   what goes wrong there: crash, killed, exit, hang, chatter, raise, print, garbage, stale, flood
    log       a file that each call of `time` is noted in
    mark      a file that appears when a hang begins

The worker process imports it by name; tests write its directories with `write`.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import stat
import sys
import time
from pathlib import Path
from typing import Any

LOADER = "tests.latency.fake_library:FakeLibrary"


def write(directory: Path, **fake: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "fake.json").write_text(json.dumps({"name": directory.name, **fake}))
    return directory


class FakeLibrary:
    calls_of_all = loaded = 0

    def __init__(self, fake: dict[str, Any]) -> None:
        self.fake, self.calls = fake, 0
        self.elsewhere = fake.get("elsewhere", False)
        self.held = b""

    @classmethod
    def load(cls, directory: Path, threads: int) -> FakeLibrary:
        library = cls(json.loads((directory / "fake.json").read_text()))
        FakeLibrary.loaded += 1
        library.held = b"x" * library.fake.get("holds", 0)
        library.misbehave("load")
        return library

    def check(self) -> float | None:
        self.misbehave("check")
        return self.fake.get("error")

    def time(self, repeats: int, number: int = 1, *, cold: bool = False) -> tuple[float, ...]:
        self.misbehave("time")
        self.calls += 1
        FakeLibrary.calls_of_all += 1
        lived = self.fake.get("dies_after", math.inf), self.fake.get("session", math.inf)
        crowded = FakeLibrary.loaded > self.fake.get("together", math.inf)
        if crowded or self.calls > lived[0] or FakeLibrary.calls_of_all > lived[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.fake.get("sleep", 0))
        needed = b"x" * self.fake.get("needs", 0)
        del needed
        if "log" in self.fake:
            with open(self.fake["log"], "a") as log:
                log.write(json.dumps([self.fake["name"], repeats, number, {**state(), "cold": cold}]) + "\n")
        if "steps" in self.fake:
            return tuple(self.fake["steps"].pop(0) for _ in range(repeats))
        return (self.fake.get("seconds", 1e-3),) * repeats

    def misbehave(self, where: str) -> None:
        if where in self.fake and "once" in self.fake:
            if Path(self.fake["once"]).exists():
                return
            Path(self.fake["once"]).touch()
        match self.fake.get(where):
            case "crash":
                ctypes.string_at(0)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                print("\x1bcannot go on\a", file=sys.stderr, flush=True)
                os._exit(3)
            case "hang":
                if "mark" in self.fake:
                    Path(self.fake["mark"]).touch()
                time.sleep(1000)
            case "chatter":
                while True:
                    os.write(2, b"still here\n")
            case "raise":
                raise RuntimeError("no such\nkernel")
            case "print":
                os.write(1, b'{"id": 1, "samples": [7]}\n' * 1000)
                print("hello from the library", flush=True)
            case "garbage":
                os.write(protocol_descriptor(), b"what?\n")
            case "stale":
                os.write(protocol_descriptor(), b'{"id": 0}\n')
            case "flood":
                while True:
                    os.write(protocol_descriptor(), b"x" * 65536)


def state() -> dict[str, Any]:
    """What the worker's environment looks like from inside."""
    return {
        "pid": os.getpid(),
        "cpus": sorted(os.sched_getaffinity(0)),
        "tvm": os.environ["TVM_NUM_THREADS"],
        "omp": os.environ["OMP_NUM_THREADS"],
        "bind": os.environ["TVM_BIND_THREADS"],
        "input": os.read(0, 1).decode(),
    }


def protocol_descriptor() -> int:
    """The pipe that the worker answers on, as only a hostile library would find it."""
    for descriptor in range(3, 64):
        try:
            is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
            if is_pipe and os.readlink(f"/proc/self/fd/{descriptor}") and _writable(descriptor):
                return descriptor
        except OSError:
            continue
    raise AssertionError("the worker has no pipe to answer on")


def _writable(descriptor: int) -> bool:
    flags = Path(f"/proc/self/fdinfo/{descriptor}").read_text().split("flags:")[1].split()[0]
    return int(flags, 8) & os.O_ACCMODE == os.O_WRONLY
