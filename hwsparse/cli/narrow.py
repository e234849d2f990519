"""The command `narrow`: a smaller dense network of the same architecture, as an ordinary ONNX file."""

from __future__ import annotations

import os
from pathlib import Path

import typer
from rich.console import Console

from hwsparse.cli import options
from hwsparse.cli.progress import StageProgress
from hwsparse.errors import InputError

# Of the data, what ranks and fits channels; the rest only reports.
FITTING_SHARE = 0.5


def narrow(
    model: Path = options.MODEL,
    data: Path = options.DATA,
    keep: float = typer.Option(
        0.75, min=0, max=1, help="The share of channels and attention heads to keep, between 0 and 1."
    ),
    out: Path = typer.Option(Path("narrow.onnx"), help="The ONNX file to write."),
    threads: int = typer.Option(1, help="Threads to work with."),
    seed: int = options.SEED,
    shape: list[str] = options.SHAPE,
    tokenizer: Path | None = options.TOKENIZER,
    image: str | None = options.IMAGE,
    limit: int | None = options.LIMIT,
    metric: str | None = options.METRIC,
) -> None:
    """Removes channels and attention heads that are missed least; what is left is an ordinary, smaller ONNX file.

    Channels that belong together, through sums, concatenations, depthwise convolutions or attention, go together, and
    the layers behind are fitted to what is left on half of the data. Nothing is trained. It has less to compute, and
    can be given to `optimize` again.
    """
    from hwsparse.model import import_onnx
    from hwsparse.report.files import write_whole
    from hwsparse.sparsify import Evaluator, Narrower

    if not keep > 0:
        raise InputError("--keep 0: of every family of channels something has to be left")
    if not out.parent.is_dir():
        raise InputError(f"{out}: there is no directory {out.parent}")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise InputError(f"{out}: no file can be written there; name another")
    if out.exists() and model.exists() and out.samefile(model):
        raise InputError(f"{out} is the model itself; write to another file")
    network = import_onnx(model, shapes=options.shapes(shape))
    dataset = options.dataset(data, network, tokenizer, image, limit, seed, metric)
    fitting, held_out = dataset.split(FITTING_SHARE, seed)
    console = Console()
    with StageProgress(console) as progress:
        narrower = Narrower(
            network, fitting, threads=threads, seed=seed,
            progress=lambda done, total: progress("ranking", done, total, ()),
        )  # fmt: skip
        smaller = narrower.narrow(keep, lambda done, total: progress("fitting", done, total, ()))
        if all(layer.weight_shape == smaller.layer(layer.name).weight_shape for layer in network.layers):
            raise InputError(f"--keep {keep:g} removes nothing from {network.name}: give a smaller share")
        quality = Evaluator(network, held_out, "held-out", threads, seed).evaluate_other(smaller)
    write_whole(out, smaller.proto)
    shares = (
        sum(layer.macs for layer in smaller.layers) / sum(layer.macs for layer in network.layers),
        len(smaller.proto) / len(network.proto),
    )
    low, high = quality.drop_interval
    console.print(f"{out}: {shares[0]:.0%} of the multiply-adds, {shares[1]:.0%} of the bytes", markup=False)
    console.print(
        f"{quality.metric} on {quality.samples} held-out samples: {quality.value:.4f}, "
        f"dense {quality.value + quality.drop:.4f}; lost {quality.drop:.4f} ({low:.4f} to {high:.4f})",
        highlight=False,
    )
