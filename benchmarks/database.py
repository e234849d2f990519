"""What it takes to keep a network's layers pruned in every way: to make them, to hold them, to put a plan together.

Every layer is pruned to every pattern that this machine has kernels for, at every ratio of the grid; weights are
fitted, and harm is measured, on calibration samples. With `--layers N` only so many, evenly spaced, are pruned, and
the table says what all of them would take at that rate.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.tasks import TRAIN_PAIRS, data_option, efficientnet_lite0, minilm
from hwsparse.data import Dataset
from hwsparse.model import Model
from hwsparse.pipeline.compilation import PRUNER
from hwsparse.pipeline.survey import choices_of
from hwsparse.plan import Plan
from hwsparse.sparsify import LayerDatabase, applicable
from hwsparse.sparsify.layer_database import RATIOS
from hwsparse.target import load_target

THREADS = 2


def _sentences(data: Path | None, seed: int) -> tuple[Model, Dataset]:
    return minilm(data, seed, "train", TRAIN_PAIRS)


MODELS: Mapping[str, Callable[[Path | None, int], tuple[Model, Dataset]]] = MappingProxyType(
    {"efficientnet-lite0": efficientnet_lite0, "minilm": _sentences}
)


def options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this benchmark asks for."""
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    parser.add_argument("--layers", type=int, help="prune only so many; by default all")
    parser.add_argument(
        "--directory", type=Path, help="where to keep the database, and to go on from; by default nowhere"
    )
    data_option(parser)


def run(arguments: argparse.Namespace) -> tuple[dict[str, float], object]:
    """Builds a database, builds it again when all is there, and puts a plan together from it."""
    console = Console()
    model, dataset = MODELS[arguments.model](arguments.data, arguments.seed)
    choices = choices_of(load_target("x86-local"), (), RATIOS)
    wanted = {
        layer.name: fitting
        for layer in model.layers
        if (fitting := [choice for choice in choices if applicable(layer, choice.pattern) is None])
    }
    names = list(wanted)
    if arguments.layers is not None:
        names = [
            names[place] for place in np.unique(np.linspace(0, len(names) - 1, arguments.layers).round().astype(int))
        ]
    share = sum(len(wanted[name]) for name in names) / sum(map(len, wanted.values()))
    wanted = {name: wanted[name] for name in names}
    with ExitStack() as stack:
        directory = arguments.directory
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hwsparse-")))
        progress = stack.enter_context(Progress(console=console, transient=True))
        task = progress.add_task(model.name)

        def database() -> LayerDatabase:
            threads = arguments.threads or THREADS
            return LayerDatabase(directory, model, dataset, pruner=PRUNER, seed=arguments.seed, threads=threads)

        def build() -> None:
            database().build(wanted, lambda stage, done, total: progress.update(task, completed=done, total=total))

        build_s, resume_s = _seconds(build), _seconds(build)
        rng = np.random.default_rng(arguments.seed)
        plan = Plan.of(model.digest, {name: wanted[name][rng.integers(len(wanted[name]))] for name in names})
        assemble_s = _seconds(lambda: database().weights(plan))
        entries = len(database().entries())
        size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    table = Table("", "", title=f"{model.name}: {len(names)} layers, {len(choices)} choices")
    table.add_row("entries", str(entries))
    table.add_row("build", f"{build_s:.0f} s")
    if share < 1:
        table.add_row("all layers at that rate", f"{build_s / share:.0f} s")
    table.add_row("size", f"{size / 1e6:.0f} MB")
    table.add_row("a plan of all of them put together", f"{assemble_s:.2f} s")
    table.add_row("build when all is there", f"{resume_s:.2f} s")
    console.print(table)
    figures = {
        "build_s": build_s,
        "entries": float(entries),
        "size_mb": size / 1e6,
        "assemble_s": assemble_s,
        "resume_s": resume_s,
    }
    return figures, {"model": model.name, "layers": names, "choices": [str(choice) for choice in choices]}


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
