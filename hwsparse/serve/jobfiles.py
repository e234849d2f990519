"""What server and worker tell each other: files in the job's directory.

    request.json     what to do; written by the server before the worker starts
    progress.jsonl   how far it is; one line per report, appended by the worker
    report.json      of a search, all that it found
    result.json      what came of the job, or
    error.json       why nothing did; written whole by the worker before it ends
    work/            what the worker needs only while it works; removed when it has ended

Knows neither the server nor what the work is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hwsparse import strictjson
from hwsparse.errors import HwsparseError, InputError, ServiceError
from hwsparse.plan import Plan, parse_choice
from hwsparse.range_methods import DEFAULT_METHOD
from hwsparse.serve.operation import Budget, FrontPoint, JobError, JobKind, JobResult, Progress

T = TypeVar("T")

WORK = "work"
MAX_FILE_BYTES = 64 << 20
MAX_LINE_BYTES = 16 << 20
MAX_MESSAGE_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a worker is to do. Paths and the store are the server's own choice, never a caller's."""

    kind: JobKind
    model_path: str
    model_name: str
    model_sha256: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]  # for inputs whose shape the file leaves open
    target: str  # a target's name
    dataset_path: str | None
    dataset_name: str | None
    seed: int
    store: str  # where to put artifacts: ArtifactStore(store)
    budget: Budget | None = None  # optimize
    dtypes: tuple[str, ...] = ("float32",)  # optimize: types of weights, and of what layers read, to choose from
    ranges: str = DEFAULT_METHOD  # how the range of what int8 layers read is found
    plan: Plan | None = None  # compile: either this
    choice: str | None = None  # or this, for every layer that can have it
    threads: int | None = None  # that inference runs with; None: the target's own number

    def __post_init__(self) -> None:
        if any(size < 1 for _, shape in self.shapes for size in shape):
            raise InputError("an input's shape has sizes of at least 1")
        if len(dict(self.shapes)) != len(self.shapes):
            raise InputError("an input's shape is given twice")
        if (self.dataset_path is None) != (self.dataset_name is None):
            raise InputError("a data set has a path and a name")
        if self.kind == "optimize":
            if self.budget is None or self.dataset_path is None:
                raise InputError("a search needs a budget, and a data set to measure quality on")
        elif (self.plan is None) == (self.choice is None):
            raise InputError("give either a plan or one choice for every layer")
        if (self.budget is not None) != (self.kind == "optimize"):
            raise InputError("a budget belongs to a search, and only to one")
        if self.choice is not None:
            parse_choice(self.choice)


@dataclass(frozen=True, slots=True)
class _Report:
    """One line of progress.jsonl; no front: the one before still holds."""

    stage: str
    fraction: float
    message: str
    trials_done: int
    trials_total: int
    front: tuple[FrontPoint, ...] | None


class ProgressWriter:
    """The worker's end of progress.jsonl."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "progress.jsonl"
        self._front: tuple[FrontPoint, ...] = ()

    def report(
        self,
        stage: str,
        fraction: float,
        message: str = "",
        *,
        trials_done: int = 0,
        trials_total: int = 0,
        front: tuple[FrontPoint, ...] | None = None,
    ) -> None:
        """Says how far the job is; a front, once given, holds until another is."""
        now = Progress(stage, fraction, one_line(message), trials_done, trials_total, front or self._front)
        news = now.front if now.front != self._front else None
        line = strictjson.dumps(_Report(stage, fraction, now.message, trials_done, trials_total, news))
        with open(self._path, "ab") as file:
            file.write(line.encode() + b"\n")
        self._front = now.front


class ProgressReader:
    """The server's end of progress.jsonl: remembers how far it has read."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "progress.jsonl"
        self._offset = 0
        self._last = Progress()

    def latest(self) -> Progress:
        """The last report. A line without its end is still being written, and is left for the next time.

        Raises:
            ServiceError: the file holds something else.
        """
        try:
            with open(self._path, "rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    raise ServiceError(f"{self._path.name}: shorter than what was read of it before")
                file.seek(self._offset)
                while (line := file.readline(MAX_LINE_BYTES)).endswith(b"\n"):
                    self._offset += len(line)
                    self._last = self._read(line)
        except FileNotFoundError:
            return self._last
        except OSError as error:
            raise _unreadable(self._path, error) from None
        if len(line) == MAX_LINE_BYTES:
            raise ServiceError(f"{self._path.name}: a line is longer than {MAX_LINE_BYTES} bytes")
        return self._last

    def _read(self, line: bytes) -> Progress:
        try:
            report = strictjson.loads(_Report, line, self._path.name)
            front = self._last.front if report.front is None else report.front
            return Progress(
                report.stage,
                report.fraction,
                report.message,
                report.trials_done,
                report.trials_total,
                front,
            )
        except InputError as error:
            raise ServiceError(str(error)) from None


def write_request(directory: Path, request: JobRequest) -> None:
    """Says what the worker of this directory is to do."""
    _write(directory / "request.json", request)


def read_request(directory: Path) -> JobRequest:
    """What the worker of this directory is to do.

    Raises:
        ServiceError: there is no request, or it cannot be read.
    """
    request = _read(JobRequest, directory / "request.json")
    if request is None:
        raise ServiceError(f"{directory}: not a job's directory: it has no request.json")
    return request


def write_result(directory: Path, result: JobResult) -> None:
    """Says what came of the job."""
    _write(directory / "result.json", result)


def read_result(directory: Path) -> JobResult | None:
    """What came of the job; None if its worker has not said.

    Raises:
        ServiceError: the file cannot be read.
    """
    return _read(JobResult, directory / "result.json")


def write_report(directory: Path, text: str) -> None:
    """Keeps what a search found, as JSON text, in the caller's words."""
    _write_text(directory / "report.json", _in_callers_words(directory, text))


def read_report(directory: Path) -> str | None:
    """What a search found; None if its worker has not said, or was not asked.

    Raises:
        ServiceError: the file cannot be read.
    """
    text = _read_text(directory / "report.json")
    return None if text is None else text.decode("utf-8", errors="replace")


def write_error(directory: Path, error: BaseException) -> None:
    """Says why the job failed, in the caller's words; the text of an unexpected error stays in the worker's log."""
    if isinstance(error, HwsparseError):
        kind, text = type(error).__name__, str(error)
    elif isinstance(error, OSError):  # a full disk, a directory that cannot be written to
        where = f"{error.filename}: " if error.filename else ""
        kind, text = "StorageError", f"{where}{error.strerror or error}"
    else:
        kind, text = "InternalError", f"the worker failed unexpectedly ({type(error).__name__})"
    text = _in_callers_words(directory, text)
    shutil.rmtree(directory / WORK, ignore_errors=True)  # on a full disk, room to say so
    _write(directory / "error.json", JobError(kind, one_line(text)))


def _in_callers_words(directory: Path, text: str) -> str:
    for path, name in _names(directory):
        text = text.replace(path, name)
    return text


def _names(directory: Path) -> list[tuple[str, str]]:
    """Paths that no caller is to see, each with what to call it; what lies within another comes first."""
    names = {str(directory): "the job", tempfile.gettempdir(): "TMPDIR"}
    with contextlib.suppress(RuntimeError):  # a user whom the system does not know has no home
        names[str(Path.home())] = "~"
    with contextlib.suppress(ServiceError):
        request = read_request(directory)
        names[request.store] = "the server's store"
        names[request.model_path] = f"{request.model_name}.onnx"
        names[request.dataset_path or ""] = f"{request.dataset_name}.npz"
    found = (path for path in names if len(path) > 1)  # neither "" nor "/"
    return [(path, names[path]) for path in sorted(found, key=len, reverse=True)]


def read_error(directory: Path) -> JobError | None:
    """Why the job failed; None if its worker has not said.

    Raises:
        ServiceError: the file cannot be read.
    """
    return _read(JobError, directory / "error.json")


def end_with_server() -> None:
    """For the worker's first line: has its whole process group asked to end when the server is gone.

    The server holds the other end of the worker's standard input, and never writes to it. A worker that
    was started by hand is left alone.
    """
    if not stat.S_ISFIFO(os.fstat(0).st_mode) or os.getpgrp() != os.getpid():
        return

    def wait() -> None:
        while os.read(0, 1):  # not sys.stdin: its lock would be held when the interpreter ends
            pass
        os.killpg(os.getpgrp(), signal.SIGTERM)

    threading.Thread(target=wait, name="end-with-server", daemon=True).start()


def one_line(text: str) -> str:
    """`text` without line breaks, and not too long to be sent with an error."""
    joined = " ".join(text.split())
    return joined if len(joined) <= MAX_MESSAGE_CHARACTERS else joined[: MAX_MESSAGE_CHARACTERS - 3] + "..."


def _write(path: Path, value: object) -> None:
    _write_text(path, strictjson.dumps(value))


def _write_text(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.write_text(text, "utf-8")
    os.replace(scratch, path)


def _read(cls: type[T], path: Path) -> T | None:
    text = _read_text(path)
    try:
        return None if text is None else strictjson.loads(cls, text, path.name)
    except InputError as error:
        raise ServiceError(str(error)) from None


def _read_text(path: Path) -> bytes | None:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ServiceError(f"{path.name}: larger than {MAX_FILE_BYTES} bytes")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> ServiceError:
    return ServiceError(f"{path.name}: cannot be read: {error.strerror or error}")
