"""One worker process and its process group: started, watched, ended.

Knows neither the table of jobs nor what a worker does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hwsparse.errors import ServiceError
from hwsparse.execution.child import signal_name

JobCommand = Sequence[str]  # started with the job's directory as its last argument
LOG = "worker.log"


class Worker:
    """A process that does one job. It leads a group of its own, and nothing of the group outlives it."""

    def __init__(self, command: JobCommand, directory: Path) -> None:
        """Starts the process; what it prints goes to worker.log.

        Raises:
            ServiceError: it cannot be started.
        """
        try:
            with open(directory / LOG, "ab") as log:
                # Its standard input is a pipe that closes when this process ends, however it ends:
                # jobfiles.end_with_server waits for that.
                self._process = subprocess.Popen(
                    [*command, str(directory)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise ServiceError(f"cannot start a worker with {Path(command[0]).name}: {error.strerror}") from None

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        if self._process.returncode is not None:
            return self._process.returncode
        pid = self._process.pid
        # Seen but not reaped yet: until it is, its number cannot become another group's.
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        self._signal_group(signal.SIGKILL)
        returncode = self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return returncode

    def ask_to_end(self) -> None:
        """Sends the group SIGTERM."""
        if self.poll() is None:
            self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """Sends the group SIGKILL."""
        if self.poll() is None:
            self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def ending(returncode: int) -> str:
    """How a worker ended, in words."""
    if returncode >= 0:
        return f"ended with exit status {returncode}"
    return f"was killed by {signal_name(-returncode)}"
