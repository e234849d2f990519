"""`hwsparse serve`, `hwsparse request`, and the worker process of a job."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Literal

# Before grpc is imported: otherwise its core prints a line whenever a connection ends.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import typer
from rich.console import Console

from hwsparse.artifact import LatencyFigure, QualityFigure
from hwsparse.cli import options
from hwsparse.cli.work import show_artifact
from hwsparse.errors import Cancelled, InputError, ServiceError
from hwsparse.plan import parse_choice
from hwsparse.serve.client import Client, OperationHandle
from hwsparse.serve.jobfiles import (
    JobRequest,
    ProgressWriter,
    end_with_server,
    read_request,
    write_error,
    write_result,
)
from hwsparse.serve.operation import Budget, FrontPoint, JobResult
from hwsparse.serve.server import ServerSettings
from hwsparse.serve.server import serve as run_server
from hwsparse.store import ArtifactStore
from hwsparse.target import list_targets, load_target

JOB_COMMAND = (sys.executable, "-m", "hwsparse", "job")


def serve(
    host: str = typer.Option("127.0.0.1", help="Address to listen on; the default is reached from this machine only."),
    port: int = typer.Option(50051, help="Port to listen on; 0 for any that is free."),
    state: Path = typer.Option(options.CACHE / "server", help="Directory of uploads, jobs and artifacts."),
    data: Path | None = typer.Option(None, help="Directory of data sets that callers can use by name, NAME.npz."),
    store: str | None = typer.Option(None, help="Where artifacts go, a path or fsspec URL; by default in --state."),
    max_jobs: int = typer.Option(1, help="Jobs that run at once; timing wants the machine to itself."),
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
    )
    console = Console()
    run_server(settings, lambda address: console.print(f"serving on {address}; Ctrl-C stops"))


def request(
    model: Path = options.MODEL,
    device: str = typer.Option("x86-local", help="A device that the server knows (see its `hwsparse targets`)."),
    server: str = typer.Option("127.0.0.1:50051", help="HOST:PORT of the server."),
    data: str | None = typer.Option(None, help="A .npz file to upload, or the name of one of the server's data sets."),
    out: Path = options.OUT,
    choice: str | None = typer.Option(None, help="Compile this choice for every layer instead of searching."),
    trials: int = typer.Option(60, help="Plans to try."),
    max_drop: float = typer.Option(0.01, help="Quality that the winner may lose, as a fraction."),
    seed: int = options.SEED,
    shape: list[str] = options.SHAPE,
) -> None:
    """Asks a server for a faster form of a model on a device, and downloads the artifact, verified, into --out."""
    console = Console()
    shapes, budget = options.shapes(shape), Budget(trials, max_quality_drop=max_drop)
    wanted = None if choice is None else parse_choice(choice)
    if wanted is None and data is None:
        raise InputError("a search needs --data; without data give a --choice to compile")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: something is there already; choose another --out or remove it")
    with Client(server) as client:
        client.target(device)  # an unknown device is said before anything is sent
        digest = client.upload_model(model)
        dataset = "" if data is None else client.upload_dataset(Path(data)) if Path(data).is_file() else data
        if wanted is not None:
            operation = client.compile(digest, device, wanted, dataset=dataset, seed=seed, shapes=shapes)
        else:
            operation = client.optimize(digest, device, dataset, budget, seed=seed, shapes=shapes)
        result = follow(operation, console)
        if not result.artifacts:
            console.print(f"Nothing gained on {device}: no plan was faster than dense within the goal.")
            raise typer.Exit(1)
        artifact = client.download(result.artifacts[0], out)
    show_artifact(artifact, console)


def follow(operation: OperationHandle, console: Console) -> JobResult:
    """Shows an operation's progress until it is done; Ctrl-C cancels it."""
    try:
        with console.status("queued") as status:
            for seen in operation.watch():
                progress = seen.progress
                trials = f", trial {progress.trials_done} of {progress.trials_total}" if progress.trials_total else ""
                status.update(f"{progress.fraction:4.0%} {progress.stage or 'queued'}{trials}")
        return operation.result()
    except KeyboardInterrupt:
        operation.cancel()
        raise


def job(directory: Path) -> None:
    """Does the job of a directory that a server made: its worker process."""
    end_with_server()
    signal.signal(signal.SIGTERM, _cancel)
    try:
        write_result(directory, _work(directory, read_request(directory)))
    except BaseException as error:
        write_error(directory, error)
        raise


def _cancel(number: int, frame: FrameType | None) -> None:
    raise Cancelled("the job was cancelled")


# Stages of a job, each with where in the whole it ends; by what they took for networks of 1 to 25 million weights.
STAGE_ENDS = {
    "dense layers": 0.05,
    "sparse layers": 0.40,
    "layers": 0.60,
    "statistics": 0.43,
    "sensitivity": 0.46,
    "whole networks": 0.50,
    "search": 0.85,
    "finalists": 1.0,
}


def _work(directory: Path, asked: JobRequest) -> JobResult:
    from hwsparse.data import read_dataset
    from hwsparse.model import import_onnx
    from hwsparse.pipeline import Goal, Outcome, Workspace, compile_plan, optimize, uniform_plan

    progress = ProgressWriter(directory)
    before = 0.0

    def report(stage: str, done: int, total: int, known: object) -> None:
        nonlocal before
        end = STAGE_ENDS[stage]
        start = max((e for e in STAGE_ENDS.values() if e < end), default=0.0)
        before = max(before, start + (end - start) * done / max(total, 1))
        trials = (done, total) if stage == "search" else (0, 0)
        message = f"{stage}: {done} of {total}"
        progress.report(stage, min(before, 1.0), message, trials_done=trials[0], trials_total=trials[1])

    progress.report("import", 0.0, f"reading {asked.model_name}")
    target = load_target(asked.target)
    model = import_onnx(Path(asked.model_path), shapes=dict(asked.shapes), name=Path(asked.model_name).stem)
    dataset = None
    if asked.dataset_path is not None:
        dataset = read_dataset(Path(asked.dataset_path)).for_model(model)
    workspace = Workspace(directory / "work", options.CACHE / "records.sqlite")
    outcome: Outcome
    if asked.kind == "optimize":
        budget = asked.budget
        if budget is None or dataset is None:
            raise ServiceError("the request of a search has no budget or no data")
        goal = Goal(
            trials=budget.trials,
            seed=asked.seed,
            max_drop=budget.max_quality_drop if budget.max_quality_drop is not None else Goal().max_drop,
            min_quality=budget.min_quality,
            max_latency_s=budget.max_latency_s,
        )
        outcome = optimize(model, dataset, target, goal, workspace, report)
    else:
        plan = asked.plan or uniform_plan(model, parse_choice(asked.choice or ""))
        outcome = compile_plan(model, plan, target, workspace, dataset, asked.seed, report)
    return _result(asked, outcome)


def _result(asked: JobRequest, outcome: object) -> JobResult:
    """Stores the artifacts and lists them, the winner first."""
    from hwsparse.compiler import latency_figure, quality_figure
    from hwsparse.pipeline import Outcome

    assert isinstance(outcome, Outcome)
    store = ArtifactStore(asked.store)
    winner = outcome.winner
    # A plan compiled on request ships whether or not it is faster: its manifest says which.
    kept = [f for f in outcome.finalists if f is not winner] if asked.kind == "compile" or winner else []
    artifacts = tuple(store.put(finalist.artifact) for finalist in ([winner] if winner else []) + kept)
    baselines = outcome.baselines
    dense: tuple[LatencyFigure, QualityFigure | None] = (
        latency_figure(baselines.dense),
        quality_figure(baselines.quality),
    )
    from hwsparse.plan import Plan

    points = [FrontPoint("dense", *dense, Plan(outcome.model.digest))]
    for finalist in outcome.finalists:
        method: Literal["uniform", "search"] = "uniform" if finalist.label == "uniform" or asked.choice else "search"
        digest = finalist.artifact.digest if finalist.artifact.digest in artifacts else None
        points.append(
            FrontPoint(
                method, latency_figure(finalist.latency), quality_figure(finalist.quality), finalist.plan, digest
            )
        )
    return JobResult(artifacts, tuple(points))
