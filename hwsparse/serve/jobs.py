"""The jobs' lives: queued, run by worker processes, cancelled, done.

One thread starts workers and watches them; what callers ask is answered from the table and from what
that thread last saw. Knows neither the protocol nor what a job does.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hwsparse import strictjson
from hwsparse.errors import ArtifactError, FullError, InputError, ServiceError, UnknownNameError, UnsupportedError
from hwsparse.serve.jobfiles import (
    WORK,
    JobRequest,
    ProgressReader,
    one_line,
    read_error,
    read_report,
    read_result,
    write_request,
)
from hwsparse.serve.jobtable import JobTable
from hwsparse.serve.operation import FrontPoint, JobError, Operation, OperationState, Progress
from hwsparse.serve.room import Room
from hwsparse.serve.worker import JobCommand, Worker, ending
from hwsparse.store import ArtifactStore

POLL_S = 0.1
_log = logging.getLogger(__name__)

_STOPPED = (OperationState.FAILED, JobError("ServiceError", "the server stopped while the job was running"))
_CANCELLED = (OperationState.CANCELLED, JobError("Cancelled", "cancelled on request"))


@dataclass(slots=True)
class _Running:
    operation: Operation
    worker: Worker
    reader: ProgressReader
    verdict: tuple[OperationState, JobError] | None = None  # why it was asked to end
    kill_at: float = 0.0  # monotonic; when to stop asking


class Jobs:
    """All jobs of one server. Methods may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        command: JobCommand,
        store: ArtifactStore,
        room: Room,
        *,
        max_running: int = 1,
        max_queued: int = 100,
        grace_s: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Opens the jobs under `directory`; those that ran when their server stopped are marked failed.

        Args:
            command: starts a worker, given the job's directory as one more argument.
            store: where workers put artifacts.
            room: what uploads and jobs together may take.
            grace_s: how long a worker that was asked to end may take before it is killed.

        Raises:
            ServiceError: the table of jobs cannot be used.
        """
        self._directory = directory
        self._command = command
        self._store = store
        self._room = room
        self._max_running = max_running
        self._max_queued = max_queued
        self._grace_s = grace_s
        self._clock = clock
        self._running: dict[str, _Running] = {}
        self._stopping = False
        self._changed = threading.Condition()  # guards everything below, and every write to the table
        directory.mkdir(parents=True, exist_ok=True)
        self._table = JobTable(directory / "jobs.sqlite")
        for row in self._table.in_state(OperationState.RUNNING):
            self._close(_ended(row.operation, *_STOPPED, clock()))
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Begins to run what is in the queue."""
        self._thread.start()

    def stop(self) -> None:
        """Ends every worker and waits until they have ended; jobs in the queue stay there."""
        with self._changed:
            self._stopping = True
            for job in self._running.values():
                self._end(job, _STOPPED)
            self._changed.notify_all()
        if self._thread.ident is not None:  # started
            self._thread.join()
        self._table.close()

    def submit(self, request: JobRequest, request_id: str = "") -> Operation:
        """Queues a job. A request id that was used before gives the operation that it gave then.

        Raises:
            InputError: the request id was used for another request.
            FullError: as many jobs wait as may, or the server keeps more than it may.
            ServiceError: the server is stopping, or its disk refused.
        """
        digest = hashlib.sha256(strictjson.dumps(request).encode()).hexdigest()
        with self._changed:
            self._require_open()
            if request_id and (row := self._table.find_request(request_id)):
                if row.request_digest != digest:
                    raise InputError(f"the request id {request_id!r} was used for another request")
                return self._as_it_stands(row.operation)
            if len(self._table.in_state(OperationState.QUEUED)) >= self._max_queued:
                raise FullError(f"{self._max_queued} jobs wait on this server, as many as may; try again later")
            self._room.require(0)
            operation = Operation(
                name=secrets.token_hex(8),
                kind=request.kind,
                state=OperationState.QUEUED,
                target=request.target,
                model_sha256=request.model_sha256,
                request_id=request_id,
                created_at=self._clock(),
            )
            directory = self._directory / operation.name
            try:
                directory.mkdir()
                write_request(directory, request)
                self._table.add(operation, digest)
            except BaseException as error:
                shutil.rmtree(directory, ignore_errors=True)
                if isinstance(error, OSError):
                    raise ServiceError(f"the server cannot keep the request: {error.strerror}") from None
                raise
            self._changed.notify_all()
            return operation

    def get(self, name: str) -> Operation:
        """A job as it stands.

        Raises:
            UnknownNameError: no such job.
        """
        with self._changed:
            if name in self._running:
                return self._running[name].operation
            row = self._table.find(name)
        if row is None:
            raise UnknownNameError(f"no operation {name!r}")
        return self._as_it_stands(row.operation)

    def page(self, size: int, before: int | None = None) -> tuple[tuple[Operation, ...], int | None]:
        """The newest jobs, without their progress, and what to give as `before` for the ones after."""
        rows = self._table.page(size + 1, before)
        following = rows[size - 1].number if len(rows) > size else None
        return tuple(row.operation for row in rows[:size]), following

    def front(self, name: str) -> tuple[tuple[FrontPoint, ...], bool]:
        """A job's front as far as it is known, and whether the job is done.

        Raises:
            UnknownNameError: no such job.
        """
        operation = self.get(name)
        if operation.state is OperationState.SUCCEEDED:
            result = read_result(self._directory / name)
            return (result.front if result else ()), True
        return operation.progress.front, operation.state.done

    def report(self, name: str) -> str:
        """All that a search found, as JSON text.

        Raises:
            UnknownNameError: no such job.
            UnsupportedError: it has none: it has not succeeded, or was no search.
            ServiceError: the report cannot be read.
        """
        operation = self.get(name)
        if operation.kind != "optimize":
            raise UnsupportedError(f"operation {name!r} has no report: it was no search")
        text = read_report(self._directory / name) if operation.state is OperationState.SUCCEEDED else None
        if text is None:
            raise UnsupportedError(f"operation {name!r} has no report: it is {operation.state.value}")
        return text

    def watch(self, name: str, active: Callable[[], bool] = lambda: True) -> Iterator[Operation]:
        """A job as it stands, and again whenever it has changed, until it is done or `active` says no.

        Raises:
            UnknownNameError: no such job.
            ServiceError: the server stopped first.
        """
        seen = None
        while active():
            with self._changed:
                now = self.get(name)
                if now == seen:
                    self._require_open()
                    self._changed.wait(1.0)  # now and then, to ask `active`
                    continue
            yield now
            if now.state.done:
                return
            seen = now

    def cancel(self, name: str) -> Operation:
        """Takes a job out of the queue, or asks its worker to end; a job that is done stays as it is.

        Raises:
            UnknownNameError: no such job.
        """
        with self._changed:
            operation = self.get(name)
            if name in self._running:
                self._end(self._running[name], _CANCELLED)
            elif operation.state is OperationState.QUEUED:
                operation = _ended(operation, *_CANCELLED, self._clock())
                self._table.update(operation)
            self._changed.notify_all()
            return operation

    def _require_open(self) -> None:
        if self._stopping:
            raise ServiceError("the server is stopping")

    def _as_it_stands(self, operation: Operation) -> Operation:
        if operation.name in self._running:
            return self._running[operation.name].operation
        progress = Progress()
        with contextlib.suppress(ServiceError):  # unreadable: the job was failed for it
            progress = ProgressReader(self._directory / operation.name).latest()
        return replace(operation, progress=progress)

    def _run(self) -> None:
        while True:
            with self._changed:
                try:
                    self._step()
                    pause = POLL_S if self._running else None
                except Exception:  # this thread must live: without it no job would ever end
                    _log.exception("jobs cannot be advanced; trying again")
                    pause = 1.0
                    if self._stopping:  # what cannot be written down now is when the next server starts
                        self._abandon()
                if self._stopping and not self._running:
                    return
                self._changed.wait(pause)

    def _abandon(self) -> None:
        for job in self._running.values():
            job.worker.kill()
        self._running = {name: job for name, job in self._running.items() if job.worker.poll() is None}

    def _step(self) -> None:
        for job in list(self._running.values()):
            self._advance(job)
        while not self._stopping and len(self._running) < self._max_running:
            row = self._table.oldest_queued()
            if row is None:
                return
            self._start(row.operation)

    def _start(self, operation: Operation) -> None:
        directory = self._directory / operation.name
        operation = replace(operation, state=OperationState.RUNNING, started_at=self._clock())
        self._table.update(operation)
        try:
            worker = Worker(self._command, directory)
        except ServiceError as error:
            failed = JobError("ServiceError", str(error))
            self._table.update(_ended(operation, OperationState.FAILED, failed, self._clock()))
        else:
            self._running[operation.name] = _Running(operation, worker, ProgressReader(directory))
        self._changed.notify_all()

    def _advance(self, job: _Running) -> None:
        returncode = job.worker.poll()  # before reading: what it wrote last is read too
        try:
            progress = job.reader.latest()
        except ServiceError as error:
            self._end(job, (OperationState.FAILED, JobError("ServiceError", one_line(str(error)))))
            progress = job.operation.progress
        if progress != job.operation.progress:
            job.operation = replace(job.operation, progress=progress)
            self._changed.notify_all()
        if returncode is not None:
            operation = self._outcome(job, returncode)
            self._close(operation)
            del self._running[operation.name]
            self._changed.notify_all()
        elif job.verdict and time.monotonic() >= job.kill_at:
            job.worker.kill()

    def _close(self, operation: Operation) -> None:
        """Writes down how a job ended, and removes what its worker needed only while it worked."""
        self._table.update(operation)
        shutil.rmtree(self._directory / operation.name / WORK, ignore_errors=True)

    def _end(self, job: _Running, verdict: tuple[OperationState, JobError]) -> None:
        if job.verdict is None:
            job.verdict = verdict
            job.kill_at = time.monotonic() + self._grace_s
            job.worker.ask_to_end()

    def _outcome(self, job: _Running, returncode: int) -> Operation:
        name, now = job.operation.name, self._clock()
        try:
            result, error = read_result(self._directory / name), read_error(self._directory / name)
            if result:  # finished, whatever was asked of it meanwhile and however it ended afterwards
                for digest in result.artifacts:
                    if digest not in self._store:
                        raise ArtifactError(f"the worker names the artifact {digest}, which is not in the store")
                return replace(
                    job.operation,
                    state=OperationState.SUCCEEDED,
                    finished_at=now,
                    artifacts=result.artifacts,
                )
        except (ServiceError, ArtifactError) as failure:
            error = JobError(type(failure).__name__, one_line(str(failure)))
        if job.verdict:
            return _ended(job.operation, *job.verdict, now)
        if error is None:
            hint = "; was the memory full?" if returncode == -signal.SIGKILL else ""
            text = f"the worker {ending(returncode)} and left no result{hint}"
            error = JobError("ServiceError", f"{text} (its log is in the job {name} on the server)")
        return _ended(job.operation, OperationState.FAILED, error, now)


def _ended(operation: Operation, state: OperationState, error: JobError, now: float) -> Operation:
    return replace(operation, state=state, error=error, finished_at=now)
