"""The whole path on three real networks: search, compile, time in turns with onnxruntime, judge on held-out data.

Magika's data are files of this Python installation; EfficientNet-Lite0 wants labelled ImageNet images and
MiniLM STS-B pairs, from --data. A network whose package or data are missing is named and left out.

What a search takes, from nothing where --work is new, to what is built and timed is told. With `--again` it is done a
second time, when layers are timed and pruned already.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.tasks import data_option, efficientnet_lite0, magika, minilm
from hwsparse.cli.progress import StageProgress
from hwsparse.codegen import Library, relative_error
from hwsparse.compiler import onnxruntime_answers
from hwsparse.data import Dataset
from hwsparse.errors import HwsparseError
from hwsparse.latency import Measurement
from hwsparse.model import Model
from hwsparse.pipeline import Finalist, Goal, Outcome, Workspace, optimize
from hwsparse.search.database import Place
from hwsparse.target import Target, load_target

# Unless others are asked for: what pays on CPUs, at ratios that keep the calibration of fifty layers to some minutes.
PATTERNS, RATIOS = ("unstructured", "block4x1", "block8x1"), (0.5, 0.7, 0.8, 0.9)
MAX_DROP = 0.02
CHECKED = 4

Task = Callable[[Path | None, int], tuple[Model, Dataset]]


def options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this benchmark asks for."""
    parser.add_argument("--trials", type=int, default=40, help="plans that a search tries")
    parser.add_argument("--models", nargs="*", help="only these networks")
    parser.add_argument("--patterns", nargs="*", default=PATTERNS, help="that layers may have; all if none is named")
    parser.add_argument("--ratios", nargs="+", type=float, default=RATIOS, help="of zeros that layers may have")
    parser.add_argument("--dtypes", nargs="+", default=("float32",), help="of weights: float32, int8")
    parser.add_argument("--again", action="store_true", help="search twice, and tell what it takes the second time")
    data_option(parser)
    parser.add_argument("--work", type=Path, default=Path("hwsparse-benchmarks"), help="directory for what is kept")


def run(arguments: argparse.Namespace) -> tuple[dict[str, float], object]:
    """Runs every network that can be had; gives the means over networks, and figures by network."""
    console = Console()
    target = load_target("x86-local")
    if arguments.threads:
        target = target.with_threads(arguments.threads)
    times = ("minutes", "ort ms", "dense ms", "sparse ms", "ort/ dense", "ort/ sparse")
    columns = (*times, "quality dense", "quality sparse")
    title = f"{target.name}, {target.threads} threads, timed in turns in one run; quality held out"
    table = Table("network", *columns, "rel. error", title=title, padding=0)
    rows: dict[str, dict[str, float]] = {}
    details = {}
    if unknown := set(arguments.models or ()) - set(TASKS):
        raise HwsparseError(f"no network is called {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    for name, task in TASKS.items():
        if arguments.models and name not in arguments.models:
            continue
        try:
            model, dataset = task(arguments.data, arguments.seed)
        except (HwsparseError, ImportError) as error:
            console.print(f"{name} is left out: {error}")
            continue
        console.rule(name)
        goal = Goal(
            arguments.trials, arguments.seed, MAX_DROP, finalists=3,
            patterns=tuple(arguments.patterns), ratios=tuple(arguments.ratios), dtypes=tuple(arguments.dtypes),
        )  # fmt: skip
        workspace = Workspace(arguments.work / f"{name}-{target.threads}", arguments.work / "records.sqlite")
        outcome, took_s = _timed(console, model, dataset, target, goal, workspace)
        shown = outcome.winner or max(outcome.finalists, key=_calibrated)
        if outcome.winner is None:
            console.print(
                f"{name}: no plan is surely faster than dense within {MAX_DROP:.0%}; the best finalist is shown"
            )
        rows[name] = _row(outcome, shown, dataset) | {"minutes": took_s / 60}
        if arguments.again:
            with tempfile.TemporaryDirectory(prefix="hwsparse-") as scratch:
                anew = replace(workspace, shared_study=Place(Path(scratch, "study.sqlite")))
                _, again_s = _timed(console, model, dataset, target, goal, anew)
            rows[name]["minutes_again"] = again_s / 60
        details[name] = _details(outcome, shown)
        table.add_row(name, *(f"{value:.3g}" for value in _cells(outcome, shown, rows[name])))
    console.print(table)
    if not rows:
        raise HwsparseError("no network could be run")
    # Quality is top-1 of some and Spearman of others: its mean compares with itself over time, with nothing else.
    means = {key: _mean(key, [row[key] for row in rows.values()]) for key in next(iter(rows.values()))}
    return means | {f"{name}_{key}": value for name, row in rows.items() for key, value in row.items()}, details


def _timed(
    console: Console, model: Model, dataset: Dataset, target: Target, goal: Goal, workspace: Workspace
) -> tuple[Outcome, float]:
    """What a search finds, and the seconds that it takes."""
    began = time.monotonic()
    with StageProgress(console) as progress:
        outcome = optimize(model, dataset, target, goal, workspace, progress)
    return outcome, time.monotonic() - began


def _calibrated(finalist: Finalist) -> float:
    assert finalist.chosen_by is not None
    return finalist.chosen_by.value


def _row(outcome: Outcome, finalist: Finalist, dataset: Dataset) -> dict[str, float]:
    baselines = outcome.baselines
    assert baselines.quality is not None and finalist.quality is not None
    assert baselines.onnxruntime is not None
    return {
        "ort_over_ours": baselines.onnxruntime.median_s / finalist.latency.median_s,
        "ort_over_ours_dense": baselines.onnxruntime.median_s / baselines.dense.median_s,
        "dense_over_sparse": baselines.dense.median_s / finalist.latency.median_s,
        "quality_dense": baselines.quality.value,
        "quality_sparse": finalist.quality.value,
        "max_rel_err": _worst_error(outcome, finalist, dataset),
    }


def _cells(outcome: Outcome, finalist: Finalist, row: dict[str, float]) -> tuple[float, ...]:
    assert outcome.baselines.onnxruntime is not None
    times = (outcome.baselines.onnxruntime, outcome.baselines.dense, finalist.latency)
    keys = ("ort_over_ours_dense", "ort_over_ours", "quality_dense", "quality_sparse", "max_rel_err")
    return (row["minutes"], *(time.median_s * 1e3 for time in times), *(row[key] for key in keys))


def _worst_error(outcome: Outcome, finalist: Finalist, dataset: Dataset) -> float:
    """The artifact against onnxruntime on the same pruned weights, over several samples."""
    library = Library.load(finalist.artifact.directory, finalist.artifact.manifest.target.threads)
    weights = outcome.weights(finalist.plan)
    worst = 0.0
    for row in range(CHECKED):
        inputs = {key: np.ascontiguousarray(values[row : row + 1]) for key, values in dataset.inputs.items()}
        ours, theirs = library.run(inputs), onnxruntime_answers(outcome.model, weights, inputs)
        worst = max(worst, *(relative_error(ours[name], value) for name, value in theirs.items()))
    return worst


def _details(outcome: Outcome, finalist: Finalist) -> dict[str, object]:
    baselines = outcome.baselines
    assert baselines.onnxruntime is not None
    assert isinstance(baselines.dense, Measurement) and isinstance(finalist.latency, Measurement)
    return {
        "plan": finalist.plan.to_json(),
        "onnxruntime_s": baselines.onnxruntime.samples_s,
        "dense_s": baselines.dense.samples_s,
        "sparse_s": finalist.latency.samples_s,
        "quality_dense": [baselines.quality.value, *baselines.quality.interval] if baselines.quality else None,
        "quality_sparse": [finalist.quality.value, *finalist.quality.interval] if finalist.quality else None,
        "front": [[c.latency_s, c.quality, c.plan.to_json()] for c in outcome.candidates],
    }


def _mean(key: str, values: list[float]) -> float:
    """Ratios are averaged geometrically; of errors the worst counts."""
    if key == "max_rel_err":
        return max(values)
    if "_over_" in key:
        return math.exp(sum(map(math.log, values)) / len(values))
    return sum(values) / len(values)


TASKS: dict[str, Task] = {"magika": magika, "efficientnet-lite0": efficientnet_lite0, "minilm": minilm}
