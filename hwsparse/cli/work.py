"""What the command line does on this machine: inspect, optimize, compile, front, verify."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from hwsparse.artifact import Artifact
from hwsparse.artifact.manifest import NOISY
from hwsparse.cli import options
from hwsparse.cli.progress import StageProgress
from hwsparse.errors import InputError, StorageError
from hwsparse.execution import open_workers
from hwsparse.plan import Plan
from hwsparse.report import FrontReport, read_report, write_report
from hwsparse.report.table import front_table
from hwsparse.report.terms import terms


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
    names = Column("layer", overflow="fold")
    table = Table(names, "op", "weight", "input", "MACs", "share", title=escape(found.name))
    for layer in found.layers:
        sizes = ("x".join(map(str, shape)) for shape in (layer.weight_shape, layer.input_shape))
        table.add_row(escape(layer.name), layer.op, *sizes, f"{layer.macs / 1e6:.1f} M", f"{layer.macs / total:.1%}")
    console.print(table)
    require_compilable(found)


def optimize(
    model: Path = options.MODEL,
    data: Path = options.DATA,
    target: str = options.TARGET,
    out: Path = options.OUT,
    trials: int = typer.Option(60, help="Plans to try."),
    max_drop: float = typer.Option(
        0.01, help="Quality that the winner may lose, in the metric's unit: 0.01 is a point of accuracy."
    ),
    max_latency_ms: float | None = typer.Option(None, help="The winner may take no longer."),
    sampler: str = typer.Option(
        "front",
        help="Who proposes plans: front (our own, which knows what layers cost and harm), or Optuna's tpe, nsga2, "
        "nsga3, gp or random.",
    ),
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
    ray: str | None = options.RAY,
    records: Path = options.RECORDS,
) -> None:
    """Finds the fastest sparse form of a model on a device, with proof.

    Measures what sparsity costs each layer there, searches, builds the best and times them beside the dense
    model. Writes into --out: artifacts/ (what to deploy), front.html and front.png (pictures), front.json,
    study.sqlite. Stopped in the middle, the same command goes on where it was.
    """
    from hwsparse.model import import_onnx
    from hwsparse.pipeline import Goal, Workspace, front_report
    from hwsparse.pipeline import optimize as run

    device = options.device(target, threads)
    device.require_timing()
    network = import_onnx(model, shapes=options.shapes(shape))
    dataset = options.dataset(data, network, tokenizer, image, limit, seed, metric)
    corrupted = options.corrupted(dataset, data, network, tokenizer, image, limit, seed) if robustness else ()
    chosen_sampler: Any = sampler
    goal = Goal(
        trials=trials,
        seed=seed,
        sampler=chosen_sampler,
        max_drop=max_drop,
        max_latency_s=None if max_latency_ms is None else max_latency_ms / 1e3,
        patterns=tuple(pattern),
        within=within,
    )
    console = Console()
    with open_workers(ray) as workers, StageProgress(console) as progress:
        outcome = run(
            network, dataset, device, goal, Workspace(out, records), progress, corrupted=corrupted, workers=workers
        )
    report = front_report(outcome, dataset.name)
    write_front(report, out)
    show_front(report, console)
    if outcome.winner is None:
        console.print(escape(f"No winner. What was built is in {out / 'artifacts'}; --max-drop says what it may lose."))
    else:
        console.print(escape(f"Winner: {outcome.winner.label}, artifact {outcome.winner.artifact.directory}"))
    console.print(escape(f"Pictures: {out / 'front.html'}, {out / 'front.png'}"))


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
    records: Path = options.RECORDS,
) -> None:
    """Compiles one plan, without a search. Layers that do not pay on the device stay dense, and it says so."""
    from hwsparse.model import import_onnx
    from hwsparse.pipeline import Workspace, compile_plan, uniform_plan

    asked = options.asked(choice, plan)
    if data is None and any(option is not None for option in (tokenizer, image, limit, metric)):
        raise InputError(
            "--tokenizer, --image, --limit and --metric say how --data is read: give that too, or none of them"
        )
    device = options.device(target, threads)
    device.require_timing()
    network = import_onnx(model, shapes=options.shapes(shape))
    wanted = asked if isinstance(asked, Plan) else uniform_plan(network, asked)
    dataset = options.dataset(data, network, tokenizer, image, limit, seed, metric) if data else None
    console = Console()
    with StageProgress(console) as progress:
        outcome = compile_plan(network, wanted, device, Workspace(out, records), dataset, seed, progress)
    show_artifact(outcome.finalists[0].artifact, console)
    if dataset is None and wanted.choices:
        console.print("Pruned by magnitude, and its quality is not known: with --data weights are fitted and judged.")


def front(report: Path = typer.Argument(help="A front.json that `optimize`, `tune` or `quickstart` wrote.")) -> None:
    """Shows a Pareto front that was found before."""
    show_front(read_report(report), Console())


def verify(artifact: Path = typer.Argument(help="An artifact's directory.")) -> None:
    """Checks every byte of an artifact against its digests, and shows what it says of itself."""
    show_artifact(Artifact.load(artifact), Console())


def write_front(report: FrontReport, directory: Path) -> None:
    """Writes front.json, front.html and front.png into a directory that need not be there.

    Raises:
        StorageError: it cannot be written to.
    """
    from hwsparse.report.html import front_html
    from hwsparse.report.plot import front_png

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{directory}: cannot be written: {error.strerror}") from None
    write_report(report, directory / "front.json")
    front_html(report, directory / "front.html")
    front_png(report, directory / "front.png")


def show_front(report: FrontReport, console: Console) -> None:
    """Prints a front as a table, with the terms of its comparison and its notes."""
    console.print(front_table(report))
    for name, text in terms(report):
        console.print(f"[bold]{name}:[/] {escape(text)}", style="dim", highlight=False)
    for note in report.notes:
        console.print(escape(note), style="dim")


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
    if (known_to := max(figure.known_to for _, figure in figures if figure is not None)) > NOISY:
        console.print(f"  Known to {known_to:.0%} only: other work ran meanwhile. Time them anew on a quiet machine.")
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


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last parts of paths, as many as it takes to tell all apart."""
    parts = 1
    while True:
        short = {name: "/".join(name.split("/")[-parts:]) for name in names}
        if len(set(short.values())) == len(names) or parts > max(name.count("/") for name in names):
            return short
        parts += 1
