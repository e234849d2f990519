"""`hwsparse serve`, `hwsparse request`, `hwsparse download`, and the worker process of a job."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

# Before grpc is imported: otherwise its core prints a line whenever a connection ends.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import typer
from rich.console import Console
from rich.markup import escape

from hwsparse.artifact import Artifact, require_writable
from hwsparse.cli import options
from hwsparse.cli.front import show_front, write_front
from hwsparse.cli.work import show_artifact
from hwsparse.errors import Cancelled, HwsparseError, InputError, ServiceError
from hwsparse.range_methods import DEFAULT_METHOD, require_use
from hwsparse.report import parse_report
from hwsparse.serve.client import Client, OperationHandle
from hwsparse.serve.jobfiles import end_with_server, read_request, write_error, write_result
from hwsparse.serve.operation import Budget, JobResult, OperationState, Progress
from hwsparse.serve.server import ServerSettings
from hwsparse.serve.server import serve as run_server
from hwsparse.target import list_targets

JOB_COMMAND = (sys.executable, "-m", "hwsparse", "job")
SERVER = typer.Option("127.0.0.1:50051", help="HOST:PORT of the server.")
RECEIVED = typer.Option(Path("hwsparse-out"), help="Directory for the artifact; nothing may be there yet.")


def serve(
    host: str = typer.Option("127.0.0.1", help="Address to listen on; the default is reached from this machine only."),
    port: int = typer.Option(50051, help="Port to listen on; 0 for any that is free."),
    state: Path = typer.Option(options.CACHE / "server", help="Directory of uploads, jobs and artifacts."),
    data: Path | None = typer.Option(None, help="Directory of data sets that callers can use by name, NAME.npz."),
    store: str | None = typer.Option(None, help="Where artifacts go, a path or fsspec URL; by default in --state."),
    max_jobs: int = typer.Option(1, help="Jobs that run at once; timing wants the machine to itself."),
    max_queued: int = typer.Option(100, help="Jobs that may wait; more are refused."),
    max_state_gib: int = typer.Option(64, help="GiB that --state may hold; more uploads and jobs are refused."),
) -> None:
    """Serves optimisation over gRPC until it is stopped: upload a model, ask for a device, fetch the artifact.

    There is no authentication yet: listen only where every caller may run compilers.
    """
    logging.getLogger("hwsparse").setLevel(logging.INFO)
    settings = ServerSettings(
        state=state,
        command=JOB_COMMAND,
        targets=list_targets(),
        host=host,
        port=port,
        data=data,
        store=store,
        max_jobs=max_jobs,
        max_queued=max_queued,
        max_state_bytes=max_state_gib << 30,
    )
    run_server(settings, lambda address: Console().print(f"serving on {address}; Ctrl-C stops"))


def request(
    model: Path = options.MODEL,
    device: str = typer.Option("x86-local", help="A device that the server knows (see its `hwsparse targets`)."),
    server: str = SERVER,
    data: str | None = typer.Option(
        None, help="Labelled data to upload, as for `optimize`, or the name of one of the server's data sets."
    ),
    out: Path = RECEIVED,
    front: Path | None = typer.Option(
        None, help="Directory for front.json, front.html and front.png; nothing may be there yet."
    ),
    choice: str | None = typer.Option(None, help="Compile this choice for every layer instead of searching."),
    trials: int = typer.Option(60, help="Plans to try."),
    dtype: list[str] = options.DTYPE,
    ranges: str = options.RANGES,
    max_drop: float = typer.Option(
        0.01, help="Quality that the winner may lose, in the metric's unit: 0.01 is a point of accuracy."
    ),
    threads: int | None = options.THREADS,
    seed: int = options.SEED,
    shape: list[str] = options.SHAPE,
    tokenizer: Path | None = options.TOKENIZER,
    image: str | None = options.IMAGE,
    limit: int | None = options.LIMIT,
    metric: str | None = options.METRIC,
) -> None:
    """Asks a server for a faster form of a model on a device, and downloads the artifact, verified, into --out."""
    console = Console()
    shapes, budget = options.shapes(shape), Budget(trials, max_quality_drop=max_drop)
    wanted = None if choice is None else options.choice(choice)
    if wanted is not None and front is not None:
        raise InputError("--front is of a search: leave it out, or --choice")
    if wanted is not None and dtype:
        raise InputError("--dtype is of a search: leave it out, and say it in --choice, as dense/int8")
    if asked := dtype if wanted is None else [wanted.dtype]:
        require_use(ranges, asked)
    if ranges != DEFAULT_METHOD and data is None:
        raise InputError("--ranges are of what is seen on data: give --data too, or leave it out")
    if wanted is None and data is None:
        raise InputError("a search needs --data; without data give a --choice to compile")
    path = None if data is None else _path(data)
    if path is None and {tokenizer, image, limit, metric} != {None}:
        raise InputError(
            "--tokenizer, --image, --limit and --metric prepare data that is here: give its path with --data"
        )
    if front is not None and out.resolve() in (front.resolve(), *front.resolve().parents):
        raise InputError(
            f"{front} lies in {out}, where the artifact goes and nothing else may be: give another --front"
        )
    for directory in (out, front):
        if directory is not None:
            require_writable(directory)
    with Client(server) as client, contextlib.ExitStack() as opened:
        known = client.target(device)  # an unknown device is said before anything is sent
        if threads is not None:
            known.with_threads(threads)
        upload = None
        if path is not None:
            upload = opened.enter_context(_npz(path, model, shapes, tokenizer, image, limit, seed, metric))
        digest = client.upload_model(model)
        dataset = client.upload_dataset(upload) if upload else data or ""
        if wanted is not None:
            operation = client.compile(
                digest, device, wanted, dataset=dataset, seed=seed, shapes=shapes, threads=threads or 0, ranges=ranges
            )
        else:
            operation = client.optimize(
                digest, device, dataset, budget,
                seed=seed, shapes=shapes, threads=threads or 0, dtypes=dtype, ranges=ranges,
            )  # fmt: skip
        best = next(iter(follow(operation, console).artifacts), None)
        if best is not None:
            show_artifact(_fetched(client, best, out, server), console)
        if wanted is None:
            report = parse_report(operation.report(), "the server's report")
            show_front(report, console)
            if front is not None:
                write_front(report, front)
    if best is None:
        console.print(f"Nothing gained on {device}: no plan was faster than dense within the goal.")
        raise typer.Exit(1)


def download(
    digest: str = typer.Argument(help="The artifact's digest, 64 hex digits, as the server gave it."),
    server: str = SERVER,
    out: Path = RECEIVED,
) -> None:
    """Downloads an artifact that a server made before, verified, into --out."""
    require_writable(out)
    with Client(server) as client:
        artifact = client.download(digest, out)
    show_artifact(artifact, Console())


def _fetched(client: Client, digest: str, out: Path, server: str) -> Artifact:
    """An artifact, downloaded.

    Raises:
        HwsparseError: that failed; the error says how to try again.
    """
    try:
        return client.download(digest, out)
    except HwsparseError as error:
        again = f"`hwsparse download {digest} --server {server} --out DIRECTORY`"
        raise type(error)(f"{error}; the server keeps the artifact: {again}") from None


def _path(data: str) -> Path | None:
    """The file or directory that --data names; None if it names a data set of the server's.

    Raises:
        InputError: it looks like a path, and nothing is there.
    """
    path = Path(data)
    if path.exists():
        return path
    if path.suffix in (".npz", ".csv") or len(path.parts) > 1:
        raise InputError(f"{data}: no such file or directory")
    return None


@contextlib.contextmanager
def _npz(
    path: Path,
    model: Path,
    shapes: dict[str, tuple[int, ...]],
    tokenizer: Path | None,
    image: str | None,
    limit: int | None,
    seed: int,
    metric: str | None,
) -> Iterator[Path]:
    """The data as one .npz file: the one that was given, or one written for the time being."""
    from hwsparse.data import write_npz
    from hwsparse.model import import_onnx

    if path.suffix == ".npz" and {tokenizer, image, limit, metric} == {None}:
        yield path
        return
    dataset = options.dataset(path, import_onnx(model, shapes=shapes), tokenizer, image, limit, seed, metric)
    with tempfile.TemporaryDirectory(prefix="hwsparse-") as scratch:
        written = Path(scratch, f"{dataset.name or 'data'}.npz")
        write_npz(dataset, written)
        yield written


def follow(operation: OperationHandle, console: Console) -> JobResult:
    """Shows an operation's progress until it is done; Ctrl-C cancels it, and says what became of it."""
    try:
        with console.status("queued") as status:
            for seen in operation.watch():
                status.update(escape(_words(seen.progress)))
        return operation.result()
    except KeyboardInterrupt:
        Console(stderr=True).print(escape(_cancelled(operation)))
        raise


def _cancelled(handle: OperationHandle) -> str:
    """Cancels an operation, and says what became of it."""
    try:
        operation = handle.cancel()
    except ServiceError as error:
        return f"job {handle.name} may go on: {error}"
    if operation.state in (OperationState.SUCCEEDED, OperationState.FAILED):
        return " ".join((f"job {handle.name} had {operation.state.value}", *operation.artifacts[:1]))
    return f"job {handle.name} is cancelled"


def _words(progress: Progress) -> str:
    """How far a job is, on one line."""
    trials = f", trial {progress.trials_done} of {progress.trials_total}" if progress.trials_total else ""
    front = progress.front
    known = f", front of {len(front)}, fastest {front[0].latency.median_s * 1e3:.3g} ms" if front else ""
    return f"{progress.fraction:4.0%} {progress.stage or 'queued'}{trials}{known}"


def job(directory: Path) -> None:
    """Does the job of a directory that a server made: its worker process."""
    from hwsparse.cli.job import run_job

    end_with_server()
    signal.signal(signal.SIGTERM, _cancel)
    try:
        write_result(directory, run_job(directory, read_request(directory)))
    except BaseException as error:
        write_error(directory, error)
        raise


def _cancel(number: int, frame: FrameType | None) -> None:
    raise Cancelled("the job was cancelled")
