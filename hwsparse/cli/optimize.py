"""`hwsparse optimize`: a model's front on a device, and the artifacts of the best on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from hwsparse.cli import options
from hwsparse.cli.front import present
from hwsparse.cli.progress import StageProgress
from hwsparse.errors import InputError
from hwsparse.execution import open_workers


def optimize(
    model: Path = options.MODEL,
    data: Path = options.DATA,
    target: str = options.TARGET,
    out: Path = options.OUT,
    trials: int = typer.Option(60, help="Plans to try."),
    max_drop: float = typer.Option(
        0.01, help="Quality that the winner may lose, in the metric's unit: 0.01 is a point of accuracy."
    ),
    max_latency_ms: float | None = options.MAX_LATENCY_MS,
    min_quality: float | None = options.MIN_QUALITY,
    max_file_mb: float | None = options.MAX_FILE_MB,
    max_memory_mb: float | None = options.MAX_MEMORY_MB,
    sampler: str = typer.Option(
        "front",
        help="Who proposes plans: front (our own, which knows what layers cost and harm), or Optuna's tpe, nsga2, "
        "nsga3, gp or random.",
    ),
    dtype: list[str] = options.DTYPE,
    ranges: str = options.RANGES,
    pattern: list[str] = typer.Option([], help="Only these patterns, as unstructured or block4x1; may be repeated."),
    within: float | None = options.WITHIN,
    threads: int | None = options.THREADS,
    seed: int = options.SEED,
    shape: list[str] = options.SHAPE,
    tokenizer: Path | None = options.TOKENIZER,
    image: str | None = options.IMAGE,
    limit: int | None = options.LIMIT,
    metric: str | None = options.METRIC,
    robustness: bool = options.ROBUSTNESS,
    records: Path = options.RECORDS,
    ray: str | None = options.RAY,
    tracker: str | None = options.TRACKER,
    priority: int = options.PRIORITY,
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Say what was found, and nothing on the way."),
    study: str | None = typer.Option(
        None,
        help="Where the search is kept: an SQLite file, or postgresql://user:password@host/database. Several of these "
        "commands, on one machine or many, each with its own --out, share a study there and its trials.",
    ),
    study_name: str | None = typer.Option(
        None, help="What --study calls it; a search of anything else under that name is refused."
    ),
) -> None:
    """Finds the fastest sparse form of a model on a device, with proof.

    Measures what sparsity costs each layer there, searches, builds the best and times them beside the dense
    model. Writes into --out: artifacts/ (what to deploy), front.html and front.png (pictures), front.json, layers.json
    (what each layer's choices take and harm), study.sqlite. Stopped in the middle, the same command goes on where it
    was. With --tracker, layers and networks are timed on a board of the device, and all else is done here. Without one,
    of a device whose descriptor has a [core], times are predicted, but for layers that --records has of a board.
    """
    from hwsparse.model import import_onnx
    from hwsparse.pipeline import Goal, Workspace
    from hwsparse.pipeline import optimize as run
    from hwsparse.pipeline.thrift import untaught_note
    from hwsparse.search.database import Place

    device, board = options.timed_place(target, threads, tracker, priority, estimates=True)
    network = import_onnx(model, shapes=options.shapes(shape))
    dataset = options.dataset(data, network, tokenizer, image, limit, seed, metric)
    corrupted = options.corrupted(dataset, data, network, tokenizer, image, limit, seed) if robustness else ()
    chosen_sampler: Any = sampler
    goal = Goal(
        trials=trials,
        seed=seed,
        sampler=chosen_sampler,
        max_drop=max_drop,
        bounds=options.bounds(max_latency_ms, min_quality, max_file_mb, max_memory_mb),
        patterns=tuple(pattern),
        dtypes=tuple(dict.fromkeys(dtype)) or device.usual_dtypes,
        ranges=ranges,
        within=within,
    )
    if study is None and study_name is not None:
        raise InputError("--study-name names a study of --study: give that too")
    shared = None if study is None else Place.parse(study, study_name)
    console = Console()
    workspace = Workspace(out, records, shared)
    with open_workers(ray) as workers, StageProgress(console, max_drop, quiet, goal.bounds.max_latency_s) as progress:
        outcome = run(
            network, dataset, device, goal, workspace, progress, corrupted=corrupted, workers=workers, board=board
        )
    present(outcome, dataset.name, out, console, quiet)
    if device.estimable and board is None:
        console.print("Latencies are predicted: nothing ran on the device.")
    if note := untaught_note(within, outcome.costs.learned):
        console.print(note)
    if outcome.winner is None:
        console.print(escape(f"No winner: {out / 'front.html'} says why. What was built is in {out / 'artifacts'}."))
    else:
        console.print(escape(f"Winner: {outcome.winner.label}, artifact {outcome.winner.artifact.directory}"))
