"""`hwsparse calibrate`: what every choice costs each layer of a model on a device."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hwsparse.cli import options
from hwsparse.cli.progress import StageProgress
from hwsparse.errors import InputError, MeasureError
from hwsparse.latency import Address, CalibrationReport, CostModel, Workload
from hwsparse.plan import Choice, Layer

if TYPE_CHECKING:
    from hwsparse.model import Model
    from hwsparse.target import Target

# Ratios from 0 to nearly all: curves jump, so that between two of them nothing is certain.
RATIOS = [0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
# More than this, and whoever reads the figures should know.
WORTH_SAYING = 0.05


def calibrate(
    model: Path = options.MODEL,
    target: str = options.TARGET,
    pattern: list[str] = typer.Option([], help="Only these patterns, as unstructured or block4x1; may be repeated."),
    ratio: list[float] = typer.Option(RATIOS, help="Shares of zeros to measure; may be repeated."),
    cold: bool = typer.Option(
        False, "--cold", help="Empty the caches before every call: what a layer takes whose weights come from memory."
    ),
    threads: int | None = options.THREADS,
    shape: list[str] = options.SHAPE,
    tracker: str | None = typer.Option(None, help="HOST:PORT where boards of the device are registered."),
    priority: int = typer.Option(1, help="Before others who wait for a board: the higher, the earlier."),
    records: Path = options.RECORDS,
) -> None:
    """Measures what every pattern and ratio of zeros costs each layer of a model on a device.

    Prints, for each layer shape and pattern, from which ratio on it is faster than dense, and how much faster at the
    highest. A search measures what it needs by itself; this measures all, to be looked at, shared (`hwsparse
    records export`), or used by searches to come. Stopped in the middle, the same command goes on where it was.
    """
    from hwsparse.model import import_onnx
    from hwsparse.pipeline.calibration import calibrate_model

    device = options.device(target, threads)
    board = Address.parse(tracker, device.name, priority) if tracker else None
    device.require_timing(board=board is not None)
    if not all(0 < each < 1 for each in ratio):
        raise InputError(f"--ratio: shares of zeros lie between 0 and 1, not {ratio}")
    network = import_onnx(model, shapes=options.shapes(shape))
    console = Console()
    with StageProgress(console) as progress:
        report = calibrate_model(
            network,
            device,
            records,
            patterns=pattern,
            ratios=sorted(set(ratio)),
            cache="cold" if cold else "warm",
            board=board,
            on_step=lambda done, total: progress("layers", done, total, ()),
        )
    for workload, failure in report.failures.items():
        console.print(escape(f"not measured: {workload.key} ({failure.stage}): {failure.reason}"))
    if report.table:
        console.print(_table(network, device, report, CostModel.fit(report.table)))
    console.print(f"{report.measured} measured now, {len(report.table) - report.measured} were on record: {records}")
    if report.drift > WORTH_SAYING:
        console.print(f"The clock was up to {report.drift:.0%} slower at times; figures are corrected for it.")
    if report.cpu_share < 1 - WORTH_SAYING:
        console.print(
            f"Other processes took up to {1 - report.cpu_share:.0%} of the CPU: figures are surer without them."
        )
    if report.failures:
        raise MeasureError(
            f"{len(report.failures)} could not be measured, for the reasons above; the same command tries them again"
        )


def _table(model: Model, target: Target, report: CalibrationReport, costs: CostModel) -> Table:
    """A row for every layer shape, a column for every pattern."""
    patterns = list(dict.fromkeys(str(workload.choice.pattern) for workload in report.table if workload.choice.ratio))
    alike: dict[str, list[Layer]] = defaultdict(list)
    for layer in model.layers:
        alike[layer.signature].append(layer)
    table = Table("layers", "shape", "dense", *patterns, title=escape(f"{model.name} on {target.name}"))
    for layers in alike.values():
        layer = layers[0]
        dense_workload = Workload.of(layer, Choice(), target)
        dense = costs.predict(dense_workload).latency_s if dense_workload in report.table else None
        cells = [_pays(layer, pattern, target, report, costs, dense) for pattern in patterns]
        shape = f"{'x'.join(map(str, layer.weight_shape))} on {'x'.join(map(str, layer.input_shape))}"
        table.add_row(str(len(layers)), shape, "-" if dense is None else f"{1e3 * dense:.3g} ms", *cells)
    return table


def _pays(
    layer: Layer, pattern: str, target: Target, report: CalibrationReport, costs: CostModel, dense_s: float | None
) -> str:
    """From which ratio on a pattern is faster, and by how much at most."""
    measured = sorted(
        (workload.choice for workload in report.table if workload.signature == layer.signature),
        key=lambda choice: choice.ratio,
    )
    curve = [choice for choice in measured if str(choice.pattern) == pattern]
    paying = [] if dense_s is None else [choice for choice in curve if costs.pays(layer, choice, target)]
    if not curve or dense_s is None:
        return "-"
    if not paying:
        return "never"
    last = costs.predict(Workload.of(layer, paying[-1], target)).latency_s
    return f"from {paying[0].ratio:.0%}: {dense_s / last:.2g}x at {paying[-1].ratio:.0%}"
