"""The command `tune`: what pruning took from a torch network, training gives back."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer
from rich.console import Console

from hwsparse.cli import options
from hwsparse.cli.front import present
from hwsparse.cli.progress import StageProgress
from hwsparse.cli.torch_code import example_inputs, load_module
from hwsparse.cli.work import show_artifact
from hwsparse.plan import Plan
from hwsparse.tuning import TuningSettings

if TYPE_CHECKING:
    from hwsparse.tuning.checkpoint import Epoch

DEFAULTS = TuningSettings()


def tune(
    network: str = typer.Argument(help="The function that makes the torch network, as package.module:function."),
    data: Path = options.DATA,
    weights: Path | None = typer.Option(None, help="A .safetensors file with the trained weights of the network."),
    training: Path | None = typer.Option(
        None, help="Labelled data to train on, read as --data is; by default most of --data is trained on."
    ),
    choice: str | None = options.CHOICE,
    plan: Path | None = options.PLAN,
    target: str = options.TARGET,
    out: Path = options.OUT,
    epochs: int = typer.Option(DEFAULTS.epochs, help="Passes over the training data, at most."),
    learning_rate: float = typer.Option(DEFAULTS.learning_rate, help="At first; it falls along a cosine to 0."),
    batch: int = typer.Option(DEFAULTS.batch, help="Labels that one step learns from."),
    optimizer: str = typer.Option(DEFAULTS.optimizer, help="sgd or, for transformers at a rate of about 5e-5, adamw."),
    distillation: float = typer.Option(
        DEFAULTS.distillation,
        help="Of the loss, the share that the dense network's answers tell; labels tell the rest.",
    ),
    temperature: float = typer.Option(DEFAULTS.temperature, help="Of those answers: higher is softer."),
    hints: float = typer.Option(
        DEFAULTS.hints, help="Weight of what pruned layers hand on, against the dense network's layers."
    ),
    gradual: bool = typer.Option(False, "--gradual", help="Start dense, and let zeros grow while it is trained."),
    augment: str = typer.Option(
        DEFAULTS.augment, help="Of images: none, flip, crop-flip, or crop-flip-mix, which adds each to another as well."
    ),
    averaging: float = typer.Option(
        DEFAULTS.averaging,
        help="Of the running mean of weights, the share that each step keeps; 0 turns it off.",
    ),
    patience: int = typer.Option(DEFAULTS.patience, help="Epochs without better validation quality that end it early."),
    rivals: bool = typer.Option(
        True, help="Train what it is held to as well: a small dense network, and the unstructured ceiling."
    ),
    device: str = typer.Option("cpu", help="Where torch trains: cpu, or cuda."),
    threads: int | None = options.THREADS,
    seed: int = options.SEED,
    tokenizer: Path | None = options.TOKENIZER,
    image: str | None = options.IMAGE,
    limit: int | None = options.LIMIT,
    metric: str | None = options.METRIC,
    robustness: bool = options.ROBUSTNESS,
    ranges: str = options.RANGES,
    records: Path = options.RECORDS,
) -> None:
    """Prunes a torch network, trains what is left with the dense network as teacher, and compiles it.

    Only layers that the plan makes faster on the device are pruned. Writes into --out: artifacts/ (what to deploy),
    front.html, front.png and front.json. Stopped in the middle, the same command goes on where it was. It imports and
    runs the Python code that you name.
    """
    from hwsparse.model import import_torch
    from hwsparse.pipeline import Workspace, uniform_plan
    from hwsparse.pipeline.recovery import recover

    asked = options.asked(choice, plan)
    settings = TuningSettings(
        epochs=epochs, batch=batch, learning_rate=learning_rate, optimizer=cast(Any, optimizer),
        distillation=distillation, temperature=temperature, hints=hints, gradual=gradual, patience=patience,
        augment=cast(Any, augment), averaging=averaging, seed=seed,
    )  # fmt: skip
    runs_on = options.timed_device(target, threads)
    module = load_module(network, weights)
    samples = options.samples(data, None, tokenizer, image, limit, seed, metric)
    model = import_torch(module, example_inputs(module, samples.inputs), name=network.rpartition(":")[2])
    judged = samples.judged(metric, model).for_model(model)
    corrupted = options.corrupted(judged, data, None, tokenizer, image, limit, seed) if robustness else ()
    trained_on = options.dataset(training, model, tokenizer, image, None, seed, metric) if training else None
    wanted = asked if isinstance(asked, Plan) else uniform_plan(model, asked)
    console = Console()
    with StageProgress(console) as progress:
        outcome = recover(
            module, model, wanted, judged, runs_on, settings, Workspace(out, records),
            training=trained_on, device=device, rivals=rivals, on_progress=progress,
            on_epoch=partial(_tell, console, judged.metric), corrupted=corrupted, ranges=ranges,
        )  # fmt: skip
    present(outcome, judged.name, out, console)
    show_artifact(outcome.finalists[0].artifact, console)


def _tell(console: Console, metric: str, epoch: Epoch) -> None:
    """Prints what came of an epoch."""
    loss = "" if epoch.loss is None else f"loss {epoch.loss:.4f}, "
    console.print(
        f"epoch {epoch.number}: {loss}validation {metric} {epoch.quality:.4f}, {epoch.ratio:.1%} zeros", highlight=False
    )
