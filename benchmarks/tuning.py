"""What tuning recovers: ResNet-20 or ResNet-56 on CIFAR-10, pruned in one shot, then trained under its mask.

All layers get the same choice, but for the first and the last, which stay dense; the dense network is the teacher.
Training images alone prune, train and tell the best epoch; the test images only report. Each seed decides the order of
samples, their augmentation and which of them prune.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from benchmarks.models.resnet_cifar import resnet_cifar
from benchmarks.tasks import CIFAR_SIDE, data_option, given, read_cifar
from hwsparse.data import Dataset
from hwsparse.model import Model, import_torch
from hwsparse.plan import Plan, parse_choice
from hwsparse.sparsify import PRUNERS, Evaluator, QualityReport, applicable, apply_plan, collect_statistics, correct
from hwsparse.tuning import Epoch, TuningSettings, tune

THREADS = 2
FITTING, VALIDATION = 1000, 0.05  # samples that prune; the share of training images that tells the best epoch


@dataclass(frozen=True, slots=True)
class Run:
    """One seed: quality on test images before and after training, and what the training took."""

    seed: int
    pruned: QualityReport
    tuned: QualityReport
    epochs: tuple[Epoch, ...]
    training_s: float


def options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this benchmark asks for."""
    parser.add_argument("--layers", type=int, default=20, choices=(20, 56), help="of the ResNet")
    parser.add_argument("--choice", default="unstructured@0.8")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=TuningSettings().epochs)
    parser.add_argument("--learning-rate", type=float, default=TuningSettings().learning_rate)
    parser.add_argument("--gradual", action="store_true", help="start dense, and let zeros grow")
    data_option(parser)


def run(arguments: argparse.Namespace) -> tuple[dict[str, float], object]:
    """Prunes and trains once for each seed."""
    console, threads = Console(), arguments.threads or THREADS
    torch.set_num_threads(threads)
    source = given(arguments.data) / "cifar10"
    module = resnet_cifar(arguments.layers, source / f"resnet{arguments.layers}.safetensors")
    model = import_torch(module, (torch.zeros(1, 3, CIFAR_SIDE, CIFAR_SIDE),), name=f"resnet-{arguments.layers}")
    data, test = (read_cifar(source, part).for_model(model) for part in ("train", "test_a"))
    choice = parse_choice(arguments.choice)
    layers = [layer for layer in model.layers[1:-1] if applicable(layer, choice.pattern) is None]
    plan = Plan.uniform(model.digest, layers, choice)
    evaluator = Evaluator(model, test, "held-out", threads)
    runs = []
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        validation, train = data.split(VALIDATION, seed)
        settings = TuningSettings(
            epochs=arguments.epochs,
            learning_rate=arguments.learning_rate,
            gradual=arguments.gradual,
            augment="crop-flip",
            seed=seed,
        )
        start = _one_shot(model, plan, train, threads, seed)
        began = time.monotonic()
        with Progress(console=console, transient=True) as bars:
            update = partial(_update, bars, bars.add_task(f"seed {seed}"))
            tuned = tune(
                module, model, plan, train, validation, settings,
                start=None if arguments.gradual else start, progress=update,
            )  # fmt: skip
        took_s = time.monotonic() - began
        after = import_torch(tuned.module, (torch.zeros(1, 3, CIFAR_SIDE, CIFAR_SIDE),), name=model.name)
        tuned_quality = Evaluator(after, test, "held-out", threads).evaluate({})
        runs.append(Run(seed, evaluator.evaluate(start), tuned_quality, tuned.epochs, took_s))
        console.print(f"seed {seed}: {tuned_quality.value:.2%} after {len(tuned.epochs)} epochs, {took_s / 60:.1f} min")
    dense = evaluator.evaluate({})
    console.print(_table(f"{model.name}, {choice} on {len(layers)} layers", dense, runs))
    drops = [100 * (dense.value - each.tuned.value) for each in runs]
    figures = {
        "drop_mean": statistics.mean(drops),
        "drop_deviation": statistics.stdev(drops) if len(drops) > 1 else float("nan"),
        "drop_one_shot": statistics.mean(100 * each.pruned.drop for each in runs),
        "minutes_max": max(each.training_s for each in runs) / 60,
        "seeds": float(len(runs)),
    }
    return figures, {"dense": asdict(dense), "plan": plan.to_json(), "runs": [asdict(each) for each in runs]}


def _update(bars: Progress, bar: TaskID, done: int, total: int) -> None:
    bars.update(bar, completed=done, total=total)


def _one_shot(model: Model, plan: Plan, train: Dataset, threads: int, seed: int) -> dict[str, np.ndarray]:
    """Pruned weights as a search ships them: regrouped, then corrected as a whole."""
    fitting, _ = train.split(FITTING / len(train), seed)
    layers = [model.layer(name) for name, _ in plan.choices]
    moments = collect_statistics(model, fitting, layers, threads=threads, seed=seed)
    return correct(model, apply_plan(model, plan, PRUNERS["regroup"], moments), fitting, threads=threads, seed=seed)


def _table(title: str, dense: QualityReport, runs: list[Run]) -> Table:
    table = Table("seed", "one shot", "tuned", "points lost", "epochs", "minutes", title=title)
    table.add_row("dense", "", _percent(dense), "", "", "")
    for each in runs:
        lost = 100 * (dense.value - each.tuned.value)
        table.add_row(
            str(each.seed),
            _percent(each.pruned),
            _percent(each.tuned),
            f"{lost:.2f}",
            str(len(each.epochs)),
            f"{each.training_s / 60:.1f}",
        )
    return table


def _percent(quality: QualityReport) -> str:
    low, high = quality.interval
    return f"{quality.value:.2%} ({low:.1%} to {high:.1%})"
