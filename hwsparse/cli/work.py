"""What the command line does with one model or artifact on this machine: inspect, compile, verify, explain."""

from __future__ import annotations

import json as json_
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from hwsparse.artifact import Artifact
from hwsparse.artifact.manifest import ARRAY, noise_note
from hwsparse.cli import options
from hwsparse.cli.progress import StageProgress
from hwsparse.errors import InputError
from hwsparse.latency.load import load_note
from hwsparse.plan import Plan
from hwsparse.range_methods import DEFAULT_METHOD
from hwsparse.report.explain import explain, no_faster, short_names

if TYPE_CHECKING:
    from hwsparse.data import Dataset


def inspect(
    model: Path = options.MODEL,
    shape: list[str] = options.SHAPE,
) -> None:
    """Lists a model's inputs and prunable layers: what each computes, its weights and its multiply-adds.

    Fails if the model holds an operator that cannot be compiled.
    """
    from hwsparse.codegen import require_compilable
    from hwsparse.model import import_onnx

    found = import_onnx(model, shapes=options.shapes(shape))
    total = sum(layer.macs for layer in found.layers) or 1
    console = Console()
    for spec in found.inputs:
        console.print(escape(f"input {spec.name}: {spec.dtype}, {'x'.join(map(str, spec.shape))}"), highlight=False)
    console.print(f"digest {found.digest}", highlight=False)
    if found.ranges:
        console.print(f"quantised: its file states the ranges of {len(found.ranges)} tensors", highlight=False)
    names = Column("layer", overflow="fold")
    table = Table(names, "op", "weight", "input", "MACs", "share", title=escape(found.name))
    for layer in found.layers:
        sizes = ("x".join(map(str, shape)) for shape in (layer.weight_shape, layer.input_shape))
        table.add_row(escape(layer.name), layer.op, *sizes, f"{layer.macs / 1e6:.1f} M", f"{layer.macs / total:.1%}")
    console.print(table)
    require_compilable(found)


def compile_(
    model: Path = options.MODEL,
    choice: str | None = options.CHOICE,
    plan: Path | None = options.PLAN,
    data: Path | None = typer.Option(None, help="Labelled data, to fit the weights and to state quality."),
    target: str = options.TARGET,
    out: Path = options.OUT,
    threads: int | None = options.THREADS,
    seed: int = options.SEED,
    shape: list[str] = options.SHAPE,
    tokenizer: Path | None = options.TOKENIZER,
    image: str | None = options.IMAGE,
    limit: int | None = options.LIMIT,
    metric: str | None = options.METRIC,
    robustness: bool = options.ROBUSTNESS,
    ranges: str = options.RANGES,
    records: Path = options.RECORDS,
    tracker: str | None = options.TRACKER,
    priority: int = options.PRIORITY,
) -> None:
    """Compiles one plan, without a search. Layers that do not pay on the device stay dense, and it says so."""
    from hwsparse.model import import_onnx
    from hwsparse.pipeline import Workspace, coarseness_notes, compile_plan, robustness_notes, uniform_plan

    asked = options.asked(choice, plan)
    of_data = (tokenizer, image, limit, metric)
    if data is None and (robustness or ranges != DEFAULT_METHOD or any(option is not None for option in of_data)):
        raise InputError(
            "--tokenizer, --image, --limit, --metric, --robustness and --ranges are about --data: give that too, or "
            "none of them"
        )
    device, board = options.timed_place(target, threads, tracker, priority, estimates=True)
    network = import_onnx(model, shapes=options.shapes(shape))
    wanted = asked if isinstance(asked, Plan) else uniform_plan(network, asked)
    dataset = options.dataset(data, network, tokenizer, image, limit, seed, metric) if data else None
    corrupted: Iterable[Dataset] = ()
    if robustness and data is not None and dataset is not None:
        corrupted = options.corrupted(dataset, data, network, tokenizer, image, limit, seed)
    console = Console()
    with StageProgress(console) as progress:
        outcome = compile_plan(
            network, wanted, device, Workspace(out, records), dataset, seed, progress,
            corrupted=corrupted, ranges=ranges, board=board,
        )  # fmt: skip
    show_artifact(outcome.finalists[0].artifact, console)
    for note in (*robustness_notes(outcome), *coarseness_notes(outcome)):
        console.print(escape(note))
    if note := load_note(outcome.cpu_share):
        console.print(note)
    if dataset is None and wanted.choices:
        console.print("Pruned by magnitude, and its quality is not known: with --data weights are fitted and judged.")


def verify(artifact: Path = typer.Argument(help="An artifact's directory.")) -> None:
    """Checks every byte of an artifact against its digests, and shows what it says of itself."""
    show_artifact(Artifact.load(artifact), Console())


def explain_(
    artifact: Path = typer.Argument(help="An artifact's directory."),
    json: bool = typer.Option(False, "--json", help="Print the paragraphs as JSON."),
) -> None:
    """Says in plain sentences what was done to a model, what that costs, and why it is faster."""
    paragraphs = explain(Artifact.load(artifact).manifest)
    if json:
        print(json_.dumps(paragraphs, indent=2, ensure_ascii=False))
    else:
        Console(highlight=False).print("\n\n".join(map(escape, paragraphs)))


def show_artifact(artifact: Artifact, console: Console) -> None:
    """Prints an artifact's proof: whole network, then layer by layer."""
    manifest = artifact.manifest
    model, target = escape(manifest.model.name), escape(manifest.target.name)
    console.print(
        f"[bold]{model}[/] for {target}, {manifest.target.threads} thread{'s' if manifest.target.threads > 1 else ''}"
    )
    console.print(escape(f"artifact {artifact.directory}\ndigest   {manifest.digest}"))
    figures = (
        ("this artifact", manifest.latency),
        ("dense, same code generator", manifest.dense_latency),
        ("dense, onnxruntime", manifest.onnxruntime_latency),
    )
    for name, figure in figures:
        if figure is not None:
            low, high = (1e3 * bound for bound in figure.interval_s)
            console.print(
                f"  {name:<27} {figure.median_s * 1e3:8.3f} ms  ({low:.3f} to {high:.3f}, {figure.source})",
                highlight=False,
            )
    if note := noise_note(figure for _, figure in figures):
        console.print(f"  {note}")
    if no_faster(manifest):
        console.print("  [yellow]not faster than dense beyond the noise: deploy the dense network[/]")
    if manifest.latency is not None and manifest.latency.source == "predicted":
        console.print("  predicted: it ran on no such device, and its outputs were not checked there")
    if manifest.quality is not None and manifest.dense_quality is not None:
        quality, dense = manifest.quality, manifest.dense_quality
        console.print(f"{quality.metric} on {quality.samples} {quality.split} samples of {escape(quality.dataset)}")
        rows = (
            ("this artifact", quality.value, quality.interval),
            ("dense", dense.value, dense.interval),
            ("lost, sample by sample", quality.drop, quality.drop_interval),
        )
        for name, value, (low, high) in rows:
            console.print(f"  {name:<27} {value:8.4f}     ({low:.4f} to {high:.4f})", highlight=False)
    whole = [Column(name, no_wrap=True) for name in ("ships", "kernel", "dense ms", "sparse ms")]
    table = Table(Column("layer", overflow="fold"), *whole, "not as asked", box=box.SIMPLE, padding=0)
    told = [proof for proof in manifest.layers if proof.asked != "dense"]
    short = short_names([proof.name for proof in manifest.layers])
    for proof in told:
        times = ("" if time is None else f"{time * 1e3:.3f}" for time in (proof.dense_s, proof.sparse_s))
        why = f"{proof.asked}: {proof.refused}" if proof.refused else ""
        table.add_row(*map(escape, (short[proof.name], proof.shipped, proof.kernel, *times, why)))
    if told:
        console.print(table)
    if dense_ones := [short[proof.name] for proof in manifest.layers if proof.asked == "dense"]:
        console.print(escape(f"dense, as asked: {', '.join(dense_ones)}"), style="dim")
    if any(proof.kernel == ARRAY for proof in manifest.layers):
        hosts = [f"{short[proof.name]} ({proof.kernel})" for proof in manifest.layers if proof.kernel != ARRAY]
        console.print(escape(f"run by the host, not by the accelerator: {', '.join(hosts) or 'no layer'}"), style="dim")
