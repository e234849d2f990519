"""What tuning recovers: ResNet-20 or ResNet-56 on CIFAR-10, pruned in one shot, then trained under its mask.

All layers but the first and the last are pruned to the same ratio; with `--allocation erk` they have as many zeros
together, shared out by their shapes. The dense network is the teacher. Training images alone prune, train and tell the
best epoch; the test images only report. Each seed decides the order of samples, their augmentation and which of them
prune. Beside it a smaller dense network of as many weights, with fewer channels within its blocks, is trained by the
same settings.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from torch import nn

from benchmarks.models.resnet_cifar import narrower, resnet_cifar
from benchmarks.tasks import CIFAR_SIDE, data_option, given, read_cifar
from hwsparse.data import Dataset
from hwsparse.errors import InputError
from hwsparse.model import Model, import_torch
from hwsparse.pattern import Unstructured
from hwsparse.pipeline.compilation import PRUNER
from hwsparse.plan import Choice, Layer, Plan, parse_choice
from hwsparse.quantise import split_weights
from hwsparse.sparsify import PRUNERS, Evaluator, QualityReport, applicable, apply_plan, collect_statistics, correct
from hwsparse.sparsify.allocation import erdos_renyi_kernel
from hwsparse.sparsify.correction import SAMPLES
from hwsparse.sparsify.ranges import ranges_for, ranges_on, rounded_weights
from hwsparse.tuning import TuningSettings
from hwsparse.tuning.checkpoint import Epoch
from hwsparse.tuning.settings import AUGMENTATIONS
from hwsparse.tuning.tune import tune

THREADS = 2
# Samples that those which prune are drawn from; the share of training images that tells the best epoch.
FITTING, VALIDATION = 1000, 0.05
ALLOCATIONS = ("uniform", "erk")
EXAMPLE = (torch.zeros(1, 3, CIFAR_SIDE, CIFAR_SIDE),)


@dataclass(frozen=True, slots=True)
class Trained:
    """A network after training: its quality on test images, and what it took."""

    quality: QualityReport
    epochs: tuple[Epoch, ...]
    training_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """One seed: pruned in one shot, then trained; beside it the smaller dense network, if it was asked for."""

    seed: int
    pruned: QualityReport
    tuned: Trained
    small_dense: Trained | None


@dataclass(frozen=True, slots=True)
class Data:
    """CIFAR-10 as a seed splits it; no part has a sample of another."""

    train: Dataset
    validation: Dataset
    test: Dataset


def options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this benchmark asks for."""
    parser.add_argument("--layers", type=int, default=20, choices=(20, 56), help="of the ResNet")
    parser.add_argument("--choice", default="unstructured@0.8", help="of every layer, as block4x4@0.75/int8")
    parser.add_argument(
        "--allocation",
        choices=ALLOCATIONS,
        default="uniform",
        help="of zeros to layers, unstructured",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=TuningSettings().epochs)
    parser.add_argument("--learning-rate", type=float, default=TuningSettings().learning_rate)
    parser.add_argument("--hints", type=float, default=TuningSettings().hints)
    parser.add_argument("--distillation", type=float, default=TuningSettings().distillation)
    parser.add_argument("--averaging", type=float, default=TuningSettings().averaging, help="of weights; 0 for none")
    parser.add_argument("--augment", choices=AUGMENTATIONS, default="crop-flip")
    parser.add_argument("--batch", type=int, default=TuningSettings().batch)
    parser.add_argument("--gradual", action="store_true", help="start dense, and let zeros grow")
    parser.add_argument("--device", default="cpu", help="where torch trains: cpu, or cuda")
    parser.add_argument("--no-small-dense", action="store_true", help="leave out the smaller dense network")
    data_option(parser)


def run(arguments: argparse.Namespace) -> tuple[dict[str, float], object]:
    """Prunes and trains once for each seed."""
    console, threads = Console(), arguments.threads or THREADS
    torch.set_num_threads(threads)
    source = given(arguments.data) / "cifar10"
    module = resnet_cifar(arguments.layers, source / f"resnet{arguments.layers}.safetensors")
    model = import_torch(module, EXAMPLE, name=f"resnet-{arguments.layers}")
    images, test = (read_cifar(source, part).for_model(model) for part in ("train", "test_a"))
    choice = parse_choice(arguments.choice)
    layers = [layer for layer in model.layers[1:-1] if applicable(layer, choice.pattern) is None]
    plan = _plan(model, layers, choice, arguments.allocation)
    evaluator = Evaluator(model, test, "held-out", threads)
    dense, runs = evaluator.evaluate({}), []
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        validation, train = images.split(VALIDATION, seed)
        data = Data(train, validation, test)
        settings = TuningSettings(
            epochs=arguments.epochs,
            learning_rate=arguments.learning_rate,
            batch=arguments.batch,
            hints=arguments.hints,
            distillation=arguments.distillation,
            gradual=arguments.gradual,
            averaging=arguments.averaging,
            augment=arguments.augment,
            seed=seed,
        )
        start = _one_shot(model, plan, train, threads, seed)
        first = None if arguments.gradual else start
        tuned = _trained(module, module, model, plan, first, data, settings, arguments, console)
        small = None
        if not arguments.no_small_dense:
            narrow = narrower(module, 1 - choice.ratio)  # of as many weights: rows of one layer are columns of the next
            small_model, own = import_torch(narrow, EXAMPLE, name="small dense"), replace(settings, gradual=False)
            whole = Plan(small_model.digest)
            small = _trained(narrow, module, small_model, whole, {}, data, own, arguments, console)
        runs.append(Run(seed, evaluator.evaluate(start), tuned, small))
    title = f"{model.name}, {choice} on {len(layers)} layers together, shared out by {arguments.allocation}"
    console.print(_table(title, dense, runs))
    return _figures(dense, runs), {
        "dense": asdict(dense),
        "plan": plan.to_json(),
        "runs": [asdict(each) for each in runs],
    }


def _plan(model: Model, layers: Sequence[Layer], choice: Choice, allocation: str) -> Plan:
    if allocation == "uniform":
        return Plan.uniform(model.digest, layers, choice)
    if not isinstance(choice.pattern, Unstructured):
        raise InputError(f"--allocation {allocation}: for unstructured pruning only, not for {choice}")
    ratios = erdos_renyi_kernel(layers, choice.ratio)
    return Plan.of(model.digest, {name: Choice(choice.pattern, ratio) for name, ratio in ratios.items() if ratio > 0})


def _one_shot(model: Model, plan: Plan, train: Dataset, threads: int, seed: int) -> dict[str, np.ndarray]:
    """Pruned weights as a search ships them: regrouped, then corrected as a whole."""
    fitting, _ = train.split(FITTING / len(train), seed)
    layers = [model.layer(name) for name, _ in plan.choices]
    moments = collect_statistics(model, fitting, layers, max_samples=SAMPLES, threads=threads, seed=seed)
    pruned = apply_plan(model, plan, PRUNERS[PRUNER], moments) | ranges_for(model, plan, ranges_on(model, fitting))
    return correct(model, pruned, fitting, plan=plan, threads=threads, seed=seed)


def _trained(
    module: nn.Module,
    teacher: nn.Module,
    model: Model,
    plan: Plan,
    start: Mapping[str, np.ndarray] | None,
    data: Data,
    settings: TuningSettings,
    arguments: argparse.Namespace,
    console: Console,
) -> Trained:
    began = time.monotonic()
    with Progress(console=console, transient=True) as bars:
        update = partial(_update, bars, bars.add_task(f"{model.name}, seed {settings.seed}"))
        tuned = tune(
            module, model, plan, data.train, data.validation, settings,
            start=start, teacher=teacher, device=arguments.device, progress=update,
        )  # fmt: skip
    took_s = time.monotonic() - began
    after = import_torch(tuned.module.to("cpu"), EXAMPLE, name=model.name)
    plain = split_weights(start or {}).plain
    ranges = {name: values for name, values in (start or {}).items() if name not in plain}
    weights = rounded_weights(model, plan, model.changes_to(after)) | ranges
    quality = Evaluator(model, data.test, "held-out", arguments.threads or THREADS).evaluate(weights)
    passes = tuned.epochs[-1].number
    console.print(f"{model.name}, seed {settings.seed}: {quality.value:.2%} after {passes} epochs, {took_s:.0f} s")
    return Trained(quality, tuned.epochs, took_s)


def _update(bars: Progress, bar: TaskID, done: int, total: int) -> None:
    bars.update(bar, completed=done, total=total)


def _table(title: str, dense: QualityReport, runs: Sequence[Run]) -> Table:
    table = Table("seed", "", "top-1", "points lost", "epochs", "minutes", title=title)
    table.add_row("", "dense", _percent(dense), "", "", "")
    for each in runs:
        table.add_row(str(each.seed), "one shot", _percent(each.pruned), _lost(dense, each.pruned), "", "")
        for name, trained in (("tuned", each.tuned), ("small dense, tuned", each.small_dense)):
            if trained is not None:
                quality, minutes = trained.quality, f"{trained.training_s / 60:.1f}"
                table.add_row(
                    "", name, _percent(quality), _lost(dense, quality), str(trained.epochs[-1].number), minutes
                )
    return table


def _percent(quality: QualityReport) -> str:
    low, high = quality.interval
    return f"{quality.value:.2%} ({low:.1%} to {high:.1%})"


def _lost(dense: QualityReport, quality: QualityReport) -> str:
    return f"{100 * (dense.value - quality.value):.2f}"


def _figures(dense: QualityReport, runs: Sequence[Run]) -> dict[str, float]:
    """In points; deviations are over seeds, nan of one seed."""
    drops = [100 * (dense.value - each.tuned.quality.value) for each in runs]
    small = [100 * (dense.value - each.small_dense.quality.value) for each in runs if each.small_dense is not None]
    return {
        "drop_mean": statistics.mean(drops),
        "drop_deviation": statistics.stdev(drops) if len(drops) > 1 else math.nan,
        "drop_one_shot": statistics.mean(100 * (dense.value - each.pruned.value) for each in runs),
        "drop_small_dense": statistics.mean(small) if small else math.nan,
        "minutes_max": max(each.tuned.training_s for each in runs) / 60,
        "seeds": float(len(runs)),
    }
