"""`hwsparse calibrate`: what every choice costs each layer of a model on a device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from hwsparse.cli import options
from hwsparse.cli.progress import StageProgress
from hwsparse.errors import InputError, MeasureError
from hwsparse.latency import CostModel, Prediction, Workload
from hwsparse.latency.load import load_note
from hwsparse.plan import Choice, Layer

if TYPE_CHECKING:
    from hwsparse.model import Model
    from hwsparse.pipeline.thrift import LayerTimes
    from hwsparse.target import Target

# Ratios from 0 to nearly all: curves jump, so that between two of them nothing is certain.
RATIOS = [0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
# A clock that was slower by more than this, and whoever reads the figures should know.
WORTH_SAYING = 0.05
MOST_COLUMNS = 3  # of patterns side by side, on 80 columns of a terminal


def calibrate(
    model: Path = options.MODEL,
    target: str = options.TARGET,
    pattern: list[str] = typer.Option([], help="Only these patterns, as unstructured or block4x1; may be repeated."),
    dtype: list[str] = typer.Option(
        [],
        help="Types of weights, and of what layers read, to measure: float32, float16, bfloat16, int8; may be "
        "repeated. By default float32, or what the device's accelerator is of.",
    ),
    ratio: list[float] = typer.Option(RATIOS, help="Shares of zeros to measure; may be repeated."),
    within: float | None = options.WITHIN,
    cold: bool = typer.Option(
        False, "--cold", help="Empty the caches before every call: what a layer takes whose weights come from memory."
    ),
    threads: int | None = options.THREADS,
    shape: list[str] = options.SHAPE,
    tracker: str | None = options.TRACKER,
    priority: int = options.PRIORITY,
    records: Path = options.RECORDS,
) -> None:
    """Measures what every pattern and ratio of zeros costs each layer of a model on a device.

    Prints, for each layer shape and pattern, from which ratio on it is faster than dense, and how much faster at the
    highest: of int8 too, than dense in float32. A search measures what it needs by itself; this measures all, to be
    looked at, shared (`hwsparse records export`), or used by searches to come. With `--within 0.1` no more is measured
    than tells the rest: a third or less where other networks are on record of the device; where nothing is, ten layer
    shapes in full come first. Stopped in the middle, the same command goes on where it was.
    """
    from hwsparse.model import import_onnx
    from hwsparse.pipeline.calibration import calibrate_model
    from hwsparse.pipeline.thrift import untaught_note

    device, board = options.timed_place(target, threads, tracker, priority)
    if not all(0 < each < 1 for each in ratio):
        raise InputError(f"--ratio: shares of zeros lie between 0 and 1, not {ratio}")
    network = import_onnx(model, shapes=options.shapes(shape))
    console = Console()
    with StageProgress(console) as progress:
        times = calibrate_model(
            network,
            device,
            records,
            patterns=pattern,
            ratios=sorted(set(ratio)),
            dtypes=tuple(dict.fromkeys(dtype)) or device.usual_dtypes,
            within=within,
            cache="cold" if cold else "warm",
            board=board,
            on_step=lambda done, total: progress("layers", done, total, ()),
        )
    report = times.report
    for workload, failure in report.failures.items():
        console.print(escape(f"not measured: {workload.key} ({failure.stage}): {failure.reason}"))
    if report.table:
        console.print(_table(network, device, times))
    if report.table and within is not None and (predicted := _predicted(network, device, times)):
        sure = sum(each.in_domain and each.interval_s[1] <= (1 + within) * each.latency_s for each in predicted)
        console.print(f"~: {len(predicted)} are predicted; nine in ten of {sure} of them should be within {within:.0%}")
        if times.learned is not None and times.learned.imported:
            console.print("What predicts them was learned from imported measurements.")
    if note := untaught_note(within, times.learned):
        console.print(note)
    console.print(f"{report.measured} measured now, {len(report.table) - report.measured} were on record: {records}")
    if report.drift > WORTH_SAYING:
        console.print(f"The clock was up to {report.drift:.0%} slower at times; figures are corrected for it.")
    if note := load_note(report.cpu_share):
        console.print(note)
    if report.failures:
        raise MeasureError(
            f"{len(report.failures)} could not be measured, for the reasons above; the same command tries them again"
        )


def _predicted(model: Model, target: Target, times: LayerTimes) -> list[Prediction]:
    """What is known of distinct layers and was not measured."""
    costs = times.costs
    known = {Workload.of(layer, choice, target) for layer in model.layers for choice in times.known(layer, target)}
    return [costs.predict(workload) for workload in known - times.table.keys()]


def _table(model: Model, target: Target, times: LayerTimes) -> Table:
    """A row for every layer shape, a column for every pattern and type, or, where those are many, a line.

    Of an accelerator dense is what it does without zeros; what its host takes alone stands beside.
    """
    costs, alike = times.costs, defaultdict[str, list[Layer]](list)
    for layer in model.layers:
        alike[layer.signature].append(layer)
    known = {signature: times.known(layers[0], target) for signature, layers in alike.items()}
    plain = target.own_dense or Choice()
    others = (each for found in known.values() for each in found if each not in (plain, Choice()))
    ways = list(dict.fromkeys(_way(each) for each in others))
    hosts = [] if target.own_dense is None else ["on the host"]
    stacked = len(ways) > MOST_COLUMNS
    heads = ("dense", *hosts, *(("pattern", "faster than dense") if stacked else ways))
    columns = [Column(head, no_wrap=stacked) for head in heads]
    title = escape(f"{model.name} on {target.name}")
    table = Table("layers", "shape", *columns, title=title, show_lines=stacked)
    for signature, layers in alike.items():
        layer = layers[0]
        own = plain if plain in known[signature] else Choice()  # what an accelerator cannot run is its host's
        cells = [_pays(layer, way, target, known[signature], costs, own) for way in ways]
        dense = [
            f"{1e3 * costs.predict(Workload.of(layer, each, target)).latency_s:.3g} ms"
            if each in known[signature]
            else "-"
            for each in (own, Choice())[: 1 + len(hosts)]
        ]
        shape = f"{'x'.join(map(str, layer.weight_shape))} on {'x'.join(map(str, layer.input_shape))}"
        table.add_row(str(len(layers)), shape, *dense, *(map("\n".join, (ways, cells)) if stacked else cells))
    return table


def _way(choice: Choice) -> str:
    """Pattern and type of a choice, as its own text names them."""
    return str(choice.pattern) if choice.dtype == "float32" else f"{choice.pattern}/{choice.dtype}"


def _pays(layer: Layer, way: str, target: Target, known: Sequence[Choice], costs: CostModel, plain: Choice) -> str:
    """From which ratio on a pattern of some type is faster than dense, and by how much at most."""
    curve = sorted((each for each in known if _way(each) == way), key=lambda choice: choice.ratio)
    if not curve or plain not in known:
        return "-"
    paying = [choice for choice in curve if costs.pays(layer, choice, target, plain)]
    if not paying:
        return "never"
    dense, first, last = (
        costs.predict(Workload.of(layer, choice, target)) for choice in (plain, paying[0], paying[-1])
    )
    mark = "~" if "predicted" in (first.source, last.source) else ""
    gain = f"{dense.latency_s / last.latency_s:.2g}x"
    return (
        f"{mark}{gain}"
        if paying[-1].is_dense
        else f"{mark}from {paying[0].ratio:.0%}: {gain} at {paying[-1].ratio:.0%}"
    )
