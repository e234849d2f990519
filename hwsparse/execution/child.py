"""A process of ours that is talked with in bytes, and what all processes that we start have in common.

Knows nothing of what is said.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection

from hwsparse.errors import ExecutionError

PR_SET_PDEATHSIG = 1
KEPT_PRINT_BYTES = 4096
# A process that has closed its end of the line is about to end.
DEATH_S = 5.0


class ChildLostError(Exception):
    """The process has ended, or does not answer; its text says how that came about."""


class Child:
    """A running process, and what it starts; with `module` as its main one, which begins with `line_to_parent`.

    It has a session of its own: Ctrl-C does not reach it, and it ends with all that it started.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        """Starts the process.

        Raises:
            ExecutionError: it cannot be started.
        """
        ours, theirs = socket.socketpair()
        # Kept to tell what it died of; read by nobody else.
        self._prints = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the child lives
        with theirs:
            command = [sys.executable, "-m", module, str(theirs.fileno()), str(os.getpid()), *arguments]
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=self._prints,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno()],
                    env=environment(1, module_path()),
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                self._prints.close()
                raise ExecutionError(f"cannot start a process to work in: {error.strerror or error}") from None
        self._socket, self.line = ours, Connection(os.dup(ours.fileno()))

    def answer(self, timeout_s: float | None = None) -> bytes:
        """The next message of the process.

        Raises:
            ChildLostError: it has ended, or there is none in so many seconds; it has ended by then.
        """
        try:
            if timeout_s is not None and not self.line.poll(timeout_s):
                self.kill()
                raise ChildLostError(self._with_print(f"no answer within {timeout_s:g} s"))
            return self.line.recv_bytes()
        except (EOFError, OSError):
            raise self.lost() from None

    def ask(self, message: bytes) -> bytes:
        """Says something and waits for the answer.

        Raises:
            ChildLostError: there is none; the process has ended.
        """
        self.say(message)
        return self.answer()

    def say(self, message: bytes) -> None:
        """Says something; to a process that has ended, in vain."""
        with contextlib.suppress(OSError):  # `answer` finds out why
            self.line.send_bytes(message)

    def hang_up(self) -> None:
        """Says nothing more, so that the process may end; what it still says is heard."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def lost(self) -> ChildLostError:
        """What a process died of that no longer listens; makes sure that it is gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(DEATH_S)
        self.kill()
        return ChildLostError(self._with_print(death(self._process.wait())))

    def kill(self) -> None:
        """Ends the process, whatever it is doing; whoever waits for its answer learns that it is lost."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self, patience_s: float = 0.0) -> None:
        """Ends the process, when nobody waits for an answer; gives it time to end by itself if told so."""
        self.line.close()
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if patience_s:
                self._process.wait(patience_s)
        self.kill()
        self._process.wait()
        self._prints.close()

    def _with_print(self, reason: str) -> str:
        end = os.fstat(self._prints.fileno()).st_size
        words = os.pread(self._prints.fileno(), KEPT_PRINT_BYTES, max(0, end - KEPT_PRINT_BYTES)).decode(
            errors="replace"
        )
        lines = words.strip().splitlines()
        return f"{reason}; it printed: {lines[-1][:200]}" if lines else reason


def line_to_parent(arguments: Sequence[str]) -> Connection:
    """What a child talks with its parent by, given its command line."""
    return Connection(int(arguments[1]))


def end_with_parent(parent: int) -> None:
    """A library that hangs reads no end of input: on Linux the kernel ends this process with its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        sys.exit(1)


def module_path() -> tuple[str, ...]:
    """Where this process finds modules."""
    return tuple(entry or os.getcwd() for entry in sys.path)


def environment(threads: int, path: Sequence[str]) -> Mapping[str, str]:
    """This process's environment, with thread counts fixed before any library reads them, and a path to modules."""
    counts = ("TVM_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {
        **os.environ,
        **{name: str(threads) for name in counts},
        # Otherwise TVM pins its threads to the machine's first CPUs, whatever CPUs we chose.
        "TVM_BIND_THREADS": "0",
        # Nothing from the directory that the user happens to be in.
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONSAFEPATH": "1",
    }


def death(status: int) -> str:
    """How a process ended, by its exit status as `subprocess` tells it."""
    if status >= 0:
        return f"ended with exit status {status}"
    name = signal_name(-status)
    return f"killed by {name}" + (" (perhaps for lack of memory)" if name == "SIGKILL" else "")


def signal_name(number: int) -> str:
    """As in `SIGKILL`; a number that has no name goes by itself."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
