"""Where work runs: processes of this machine by default, a Ray cluster when asked; one code path for both.

    task.py     a task on its way to a worker and back, and values that many tasks need
    child.py    a process of ours that is talked with in bytes
    local.py    workers that are processes of this machine
    cluster.py  workers that are Ray's; ray_driver.py: the process that speaks with Ray

A task is a function of a module, by its name, and what it is called with. A worker that is lost in the middle of a
task costs one more try. Pruning layers, evaluating plans and building libraries are tasks. Timing never is: a device is
timed by the host that owns it, which is the one that runs the job or, of a board, one that is reached over TVM's RPC.

Knows nothing of what tasks do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from hwsparse.errors import ExecutionError
from hwsparse.execution.task import Shared

__all__ = ["Here", "Shared", "Workers", "as_done", "open_workers"]

R = TypeVar("R")
T = TypeVar("T")

# Tasks under way for each worker: it finds the next one waiting when it is done with one.
AHEAD = 2


class Workers(Protocol):
    """What runs tasks."""

    @property
    def parallel(self) -> int:
        """How many tasks run at once."""

    def submit(self, task: Callable[..., R], *arguments: object) -> Future[R]:
        """Has a worker call `task`; of its arguments those that are `Shared` are resolved there.

        The future raises what the task raised, or ExecutionError where workers were lost twice in the middle of it.
        """

    def share(self, value: T) -> Shared[T]:
        """A value that goes to each worker once, and stays there, however many tasks name it.

        Raises:
            StorageError: there is no room for it.
        """


class Here:
    """Runs each task at once, in this process: for what is too little to start others for."""

    parallel = 1

    def submit(self, task: Callable[..., R], *arguments: object) -> Future[R]:
        """As `Workers.submit`; the future is done when this returns."""
        future: Future[R] = Future()
        try:
            future.set_result(task(*(each.value if isinstance(each, _Held) else each for each in arguments)))
        except Exception as error:
            future.set_exception(error)
        return future

    def share(self, value: T) -> Shared[T]:
        """As `Workers.share`; the value stays where it is."""
        return _Held(value)


class _Held(Shared[T]):
    def __init__(self, value: T) -> None:
        self.value = value


def open_workers(ray: str | None = None, processes: int | None = None) -> AbstractContextManager[Workers]:
    """Workers for the time of a job; when it is over, none is left.

    Args:
        ray: the address of a Ray cluster, as HOST:PORT, ray://HOST:PORT, auto (the one that runs here) or local (one
            that is started here for the time of the job). By default processes of this machine work.
        processes: of this machine, so many at most; by default as many as it has CPUs for us.

    Raises:
        ExecutionError: Ray is not installed, or the cluster cannot be reached or used.
    """
    if ray is None:
        from hwsparse.execution.local import LocalWorkers

        return LocalWorkers(processes)
    from hwsparse.execution.cluster import RayWorkers

    return RayWorkers(ray)


def as_done(
    workers: Workers,
    task: Callable[..., R],
    calls: Iterable[tuple[Any, ...]],
    what: Callable[..., str] = lambda *call: "working",
) -> Iterator[R]:
    """The results of many calls of a task, each as soon as it is there.

    No more calls are made ahead than keep all workers busy. What a call raises ends it, and no others are begun then.

    Args:
        what: says of a call what it does, for whoever reads that workers were lost in the middle of it.
    """
    waiting = iter(calls)
    under_way: dict[Future[R], tuple[Any, ...]] = {}
    try:
        while True:
            while len(under_way) < AHEAD * workers.parallel and (call := next(waiting, None)) is not None:
                under_way[workers.submit(task, *call)] = call
            if not under_way:
                return
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                call = under_way.pop(future)
                try:
                    result = future.result()
                except ExecutionError as lost:
                    raise ExecutionError(f"{what(*call)}: {lost}") from None
                yield result
    finally:
        for future in under_way:
            future.cancel()
