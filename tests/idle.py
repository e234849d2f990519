"""Processes handed on from one test to the next, where no test is about them: each takes seconds to start.

Processes that work (`hwsparse.execution.local`) are taken over by the next workers in the surroundings that these would
have started them in, and those that time libraries by the next runner. Whoever was lost or at work is ended as ever.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from hwsparse.execution import local
from hwsparse.execution.child import Child, ChildLostError, environment, module_path
from hwsparse.execution.local import LocalWorkers
from hwsparse.execution.task import outcome
from hwsparse.latency import LocalRunner
from hwsparse.latency.process import LostError, RefusedError, Worker
from hwsparse.latency.runner import UNLOAD_TIMEOUT_S, ProcessRunner


class WatchedChild(Child):
    """A process that works, and whether it does now; one that was lost is at work for ever."""

    busy = False

    def __init__(self, module: str) -> None:
        super().__init__(module)
        self.path = module_path()

    def ask(self, message: bytes) -> bytes:
        self.busy = True
        answer = super().ask(message)
        self.busy = False
        return answer


class IdleProcesses:
    """What is idle, a process of each kind at most, and who hands it on."""

    def __init__(self) -> None:
        self._child: WatchedChild | None = None
        self._workers: dict[tuple[str, int], Worker] = {}
        # A process ends with the thread that started it.
        self._starter = ThreadPoolExecutor(1, "starts")
        self._lock = threading.Lock()

    def close(self) -> None:
        """Ends what is idle."""
        if self._child is not None:
            self._child.close()
            self._child = None
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def hand_on(self, patch: pytest.MonkeyPatch) -> None:
        """Has workers and runners take up what is idle, and leave it, until the patch is undone."""
        close, empty_worker = ProcessRunner.close, ProcessRunner._empty_worker

        def close_workers(workers: LocalWorkers) -> None:
            workers._closed = True
            workers._pool.shutdown(wait=False, cancel_futures=True)
            for child in workers._children:
                if child.busy:  # type: ignore[attr-defined]
                    child.kill()
            workers._pool.shutdown()
            for child in workers._children:
                self._leave(child)  # type: ignore[arg-type]
            workers._directory.cleanup()

        def close_runner(runner: ProcessRunner) -> None:
            """Keeps a process that still answers."""
            worker = runner._worker
            if isinstance(runner, LocalRunner) and worker is not None and worker.starter is threading.main_thread():
                with suppress(LostError, RefusedError, ValueError):  # the latter where it was closed
                    worker.ask(UNLOAD_TIMEOUT_S, do="clear")
                    if self._workers.setdefault((runner._loader, worker.threads), worker) is worker:
                        runner._worker = None
            close(runner)

        def taken_up(runner: ProcessRunner, threads: int) -> Worker:
            if isinstance(runner, LocalRunner) and runner._worker is None:
                idle = self._workers.pop((runner._loader, threads), None)
                runner._worker, runner._started = idle, time.monotonic()
            return empty_worker(runner, threads)

        patch.setattr(local, "Child", self._take)
        patch.setattr(LocalWorkers, "close", close_workers)
        patch.setattr(ProcessRunner, "close", close_runner)
        patch.setattr(ProcessRunner, "_empty_worker", taken_up)

    def _take(self, module: str) -> WatchedChild:
        """A process that works as one does that is started now."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            with suppress(ChildLostError):
                if child.path == module_path():  # where modules are found, which are kept
                    return _settled(child)
            child.close()
        return _settled(self._starter.submit(WatchedChild, module).result())

    def _leave(self, child: WatchedChild) -> None:
        with self._lock:
            if not child.busy and self._child is None:
                self._child = child
                return
        child.close()


def _settled(child: WatchedChild) -> WatchedChild:
    outcome(child.ask(pickle.dumps((settle, (os.getcwd(), environment(1, child.path))))))
    return child


def settle(directory: str, variables: Mapping[str, str]) -> None:
    """Done in a process that works: it is where it would have been started, and its parser keeps what it finds out."""
    from tests.codegen import script_parsing

    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)
    script_parsing.install()
