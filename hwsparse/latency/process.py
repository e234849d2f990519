"""The worker process seen from its parent: starts it, asks it, notices its death, ends it.

Knows the form of requests and answers, not what they mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hwsparse.errors import MeasureError
from hwsparse.execution.child import death, environment, module_path
from hwsparse.probe import ALLOWED_CPUS

START_TIMEOUT_S = 120.0
# An answer is a short line, and of what a library prints only the end is shown.
MAX_ANSWER_BYTES, KEPT_PRINT_BYTES = 1 << 20, 4096
# None where the system cannot pin.
PINNABLE_CPUS = ALLOWED_CPUS if hasattr(os, "sched_setaffinity") else frozenset[int]()


class LostError(Exception):
    """The worker is gone: it crashed, hung or spoke nonsense. What it had loaded is gone too.

    One that was `killed` from outside, as for lack of memory, may be gone for the sake of all that it had loaded.
    """

    def __init__(self, stage: Literal["run", "timeout"], reason: str, *, killed: bool = False) -> None:
        super().__init__(reason)
        self.stage: Literal["run", "timeout"] = stage
        self.reason = reason
        self.killed = killed


class RefusedError(Exception):
    """The worker lives and answered that it could not do what was asked; perhaps because there was no memory left."""

    def __init__(self, reason: str, *, full: bool = False) -> None:
        super().__init__(reason)
        self.full = full


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that can run the worker, and where it finds modules besides its own: `hwsparse.errors` among them."""

    executable: str
    path: tuple[str, ...]

    @classmethod
    def this(cls) -> Interpreter:
        """The one that runs here, with the same modules."""
        return cls(sys.executable, module_path())


class Worker:
    """A running worker process, by default with `threads` CPUs of its own to run on."""

    def __init__(
        self,
        loader: str,
        threads: int,
        interpreter: Interpreter | None = None,
        *,
        pinned: bool = True,
        options: Mapping[str, Any] | None = None,
        start_s: float = START_TIMEOUT_S,
    ) -> None:
        """Starts the process.

        Args:
            loader: "module:class" of the library class.
            interpreter: of an environment that has what the loader imports; by default this one.
            pinned: to CPUs of its own, or free to run on any.
            options: what the class is made with, where it does not load libraries itself, but its instances do.
            start_s: how long it may take to start.

        Raises:
            MeasureError: it does not start, or this machine has too few CPUs.
        """
        self.threads = threads
        self.starter = threading.current_thread()
        python = interpreter or Interpreter.this()
        numbers = map(str, (threads, os.getpid(), *(choose_cpus(threads) if pinned else ())))
        # By its file: as a module it would import its package first, and with that all that we need.
        command = [python.executable, str(Path(__file__).with_name("worker.py")), loader, *numbers]
        if options is not None:
            command += ["--options", json.dumps(options)]
        pipe, env = subprocess.PIPE, environment(threads, python.path)
        try:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=env)
        except OSError as error:
            raise MeasureError(f"cannot start the process that times libraries: {error}") from None
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        # Asked for their descriptors at each use: a closed one's number may be another file's by then.
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._prints = self._process.stderr
        self._received, self._printed, self._asked = b"", b"", 0
        try:
            greeting = self._receive(start_s)
        except LostError as lost:
            raise MeasureError(f"the process that times libraries did not start: {lost.reason}") from None
        if "ready" not in greeting:
            self.close()
            unforeseen = f"the process that times libraries cannot load {loader}: {greeting.get('failed')}"
            raise MeasureError(greeting.get("refused", unforeseen))

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def ask(self, timeout_s: float, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for its answer.

        Raises:
            LostError: no answer; the process has ended.
            RefusedError: the answer is that it failed.
        """
        self._asked += 1
        line = json.dumps({"id": self._asked, **request}) + "\n"
        with contextlib.suppress(BrokenPipeError):  # `_receive` finds out why
            os.write(self._requests.fileno(), line.encode())
        answer = self._receive(timeout_s)
        if answer.get("id") != self._asked:
            raise self._lost("run", "answered another request")
        if "failed" in answer:
            raise RefusedError(str(answer["failed"]), full=bool(answer.get("full")))
        return answer

    def pause(self) -> None:
        """Stops the process where it is, its threads that wait by spinning included, until `resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused process go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends the process, whatever it is doing; whoever waits for its answer learns that it is lost."""
        self._process.kill()

    def close(self) -> None:
        """Ends the process, whatever it is doing, when nobody waits for an answer."""
        self._process.kill()
        self._process.wait()
        for stream in (self._requests, self._answers, self._prints):
            with contextlib.suppress(OSError):
                stream.close()

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        try:
            line = self._line(time.monotonic() + timeout_s)
        except LostError:
            raise
        except BaseException:  # Ctrl-C: an answer that comes later would be taken for the next one's
            self.close()
            raise
        if line is None:
            raise self._lost("timeout", f"no answer within {timeout_s:g} s")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._lost("run", f"answered {line[:40]!r}, which is no answer")
        return answer

    def _line(self, deadline: float) -> bytes | None:
        """The next line of output; None when the time is over. Takes in what is printed meanwhile."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            selector.register(self._prints, selectors.EVENT_READ)
            while b"\n" not in self._received:
                left_s = deadline - time.monotonic()
                ready = selector.select(left_s) if left_s > 0 else []
                if not ready:
                    return None
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    if key.fileobj is self._prints:
                        self._printed = (self._printed + data)[-KEPT_PRINT_BYTES:]
                        if not data:
                            selector.unregister(self._prints)
                        continue
                    self._received += data
                    if not data or len(self._received) > MAX_ANSWER_BYTES:
                        raise self._lost("run", "closed its output" if not data else "does not stop answering")
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _lost(self, stage: Literal["run", "timeout"], reason: str) -> LostError:
        """Makes sure that the process is gone; a death of its own is the better reason."""
        status = 0
        if stage == "run":
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self._process.wait(1.0 if reason == "closed its output" else 0.0)
                reason = death(status)
        self._process.kill()
        self._process.wait()
        printed = self._printed + self._last_print()
        self.close()
        words = printed.decode(errors="replace").strip().splitlines()
        last = "".join(filter(str.isprintable, words[-1]))[:200] if words else ""
        said = f"{reason}; it printed: {last}" if last else reason
        return LostError(stage, said, killed=status == -signal.SIGKILL)

    def _last_print(self) -> bytes:
        with selectors.DefaultSelector() as selector:
            selector.register(self._prints, selectors.EVENT_READ)
            return os.read(self._prints.fileno(), 1 << 16) if selector.select(0.0) else b""


def choose_cpus(threads: int, allowed: Collection[int] = PINNABLE_CPUS, sys: Path = Path("/sys")) -> tuple[int, ...]:
    """CPUs to pin threads to: of different cores first, high numbers first (interrupts go to CPU 0).

    Empty where the system cannot pin.

    Raises:
        MeasureError: there are fewer than `threads`.
    """
    if not allowed:
        return ()
    if threads > len(allowed):
        raise MeasureError(f"{threads} threads wanted, but this process may use {len(allowed)} CPUs")
    first_of_core: list[int] = []
    others: list[int] = []
    seen: set[str] = set()
    for cpu in sorted(allowed, reverse=True):
        try:
            core = (sys / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            core = str(cpu)
        (others if core in seen else first_of_core).append(cpu)
        seen.add(core)
    return tuple((first_of_core + others)[:threads])
