"""What an accelerator's layers reach of what its array and its memory could do, as a table and a picture.

The roofline: S. Williams, A. Waterman, D. Patterson, "Roofline: An Insightful Visual Performance Model for Multicore
Architectures", CACM 52(4), 2009. Operations are those of kept weights; a hollow point counts zeros too, as a dense
array would have to do them.

Knows rich and matplotlib, and draws without a display; counts come from elsewhere.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich import box
from rich.markup import escape
from rich.table import Table

from hwsparse.accelerator import Accelerator, Energy, Timing, estimate_energy
from hwsparse.report.files import write_whole
from hwsparse.report.plot import DPI, FAINT_INK, GRID, INCHES, INK, clipped

COLOURS = {
    "compute": "#2f6fde", "edge": "#7aa7f0", "decode": "#8b5cf6", "imbalance": "#d97706", "conflicts": "#dc2626",
    "fill": "#0d9488", "dram": "#64748b", "vector": "#be185d",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LayerRun:
    """A layer on the accelerator: what it takes, and the multiply-adds that a dense one would have."""

    choice: str
    rows: int  # of the array, that work on it
    timing: Timing
    bound_by: str  # the part of its cycles that is largest
    busy: float  # the share of what its rows could multiply that is of kept weights
    energy: Energy
    dense_macs: int

    @classmethod
    def of(cls, accelerator: Accelerator, choice: str, rows: int, timing: Timing, dense_macs: int) -> LayerRun:
        """What a layer takes on some rows of an accelerator."""
        busy = timing.utilisation(accelerator) * accelerator.rows / rows
        return cls(
            choice, rows, timing, timing.parts.bound_by, busy, estimate_energy(accelerator, timing), dense_macs
        )  # fmt: skip

    @property
    def intensity(self) -> float:
        """Operations for each byte that goes over the memory's pins."""
        return 2 * self.timing.macs / max(self.timing.traffic.total, 1)

    def reached(self, accelerator: Accelerator, macs: int) -> float:
        """Operations a second, if it has so many multiply-adds."""
        return 2 * macs * accelerator.clock_hz / self.timing.cycles


@dataclass(frozen=True, slots=True)
class NetworkRun:
    """A network's layers on an accelerator, one at least, and the kernels of those of its host."""

    title: str
    accelerator: Accelerator
    layers: tuple[LayerRun, ...]
    on_host: tuple[tuple[str, str], ...]  # layer, kernel
    pipelined: bool
    latency_cycles: int  # of one sample
    interval_cycles: int  # from one sample to the next

    @property
    def timings(self) -> tuple[Timing, ...]:
        return tuple(layer.timing for layer in self.layers)

    @property
    def seconds(self) -> float:
        """Of one sample."""
        return self.latency_cycles / self.accelerator.clock_hz

    @property
    def energy_j(self) -> tuple[float, float]:
        """From the least to the most that is told of DRAM."""
        found = [layer.energy.total_j for layer in self.layers]
        return sum(least for least, _ in found), sum(most for _, most in found)


def run_table(run: NetworkRun) -> Table:
    """A row for each layer: cycles, what most of them went to, how busy the array is, bytes; fits 80 columns."""
    machine = run.accelerator
    low, high = (1e3 * each for each in run.energy_j)
    caption = f"energy, by published figures of single operations: {low:.3g} to {high:.3g} mJ"
    if run.pipelined:
        pace = f"a pipeline: a sample every {run.interval_cycles:,} cycles, "
        caption = f"{pace}{1e3 * run.interval_cycles / machine.clock_hz:.3f} ms\n{caption}"
    table = Table(
        title=escape(run.title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=caption
    )  # fmt: skip
    for header, width in (("Layer", 12), ("Choice", 16)):
        table.add_column(header, overflow="ellipsis", no_wrap=True, max_width=width)
    for header, width in (("Cycles", 9), ("ms", 6), ("Bound by", 13), ("Busy", 4), ("MB", 5)):
        table.add_column(header, justify="right", no_wrap=True, min_width=width)
    for layer in run.layers:
        timing, choice = layer.timing, layer.choice.removesuffix(f"/{machine.dtype}")
        share = getattr(timing.parts, layer.bound_by) / timing.cycles
        table.add_row(
            escape(timing.name), choice, f"{timing.cycles:,}", f"{1e3 * timing.cycles / machine.clock_hz:.3f}",
            f"{layer.bound_by} {share:.0%}", f"{layer.busy:.0%}",
            f"{timing.traffic.total / 1e6:.2f}",
        )  # fmt: skip
    for name, kernel in run.on_host:
        table.add_row(escape(name), f"host: {kernel}", *["-"] * 5, style="dim")
    macs, moved = (sum(each) for each in zip(*((t.macs, t.traffic.total) for t in run.timings), strict=True))
    table.add_section()
    table.add_row(
        "accelerator", "", f"{run.latency_cycles:,}", f"{1e3 * run.seconds:.3f}", "",
        f"{macs / (machine.macs_per_cycle * run.interval_cycles):.0%}", f"{moved / 1e6:.2f}", style="bold",
    )  # fmt: skip
    return table


def roofline_png(run: NetworkRun, path: Path) -> None:
    """Draws a network's layers under the accelerator's roofs as a PNG of 1800 x 1080 pixels.

    Raises:
        HwsparseError: the file cannot be written.
    """
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 10, "text.parse_math": False}):
        figure = Figure(figsize=INCHES, dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.082, 0.13, 0.74, 0.66))
        layers = [layer for layer in run.layers if layer.timing.macs]
        _roofs(axes, run.accelerator, layers)
        _layers(axes, run.accelerator, layers)
        figure.text(0.02, 0.945, clipped(run.title, 70), color=INK, fontsize=15, fontweight="bold")
        told = f"{1e3 * run.seconds:.3f} ms on the accelerator, {len(run.layers)} layers"
        if run.on_host:
            told += f"; {len(run.on_host)} on its host, not drawn"
        figure.text(0.02, 0.894, told, color=INK, fontsize=11)
        below = "full: operations of kept weights; hollow: as many as the dense layer has; larger: more of the time"
        figure.text(0.02, 0.853, below, color=FAINT_INK, fontsize=9)
        content = io.BytesIO()
        figure.savefig(content, format="png")
    write_whole(path, content.getvalue())


def _roofs(axes: Axes, accelerator: Accelerator, layers: Sequence[LayerRun]) -> None:
    peak, rate = accelerator.peak_flops / 1e9, accelerator.bandwidth_bytes_per_s / 1e9
    found = [layer.intensity for layer in layers] + [peak / rate]
    left, right = min(found) / 2, max(found) * 2
    axes.plot([left, peak / rate, right], [left * rate, peak, peak], color=INK, linewidth=1.6, zorder=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlim(left, right)
    axes.set_xlabel("operations for each byte of memory", color=INK)
    axes.set_ylabel("thousand million operations a second", color=INK)
    axes.annotate(
        f"{peak:,.4g}: every multiply-add in every cycle", (right, peak), xytext=(-6, 5), ha="right",
        textcoords="offset points", color=INK, fontsize=9,
    )  # fmt: skip
    axes.annotate(
        f"memory: {rate:,.4g} GB/s", (left, left * rate), xytext=(8, -2), va="top", textcoords="offset points",
        color=INK, fontsize=9,
    )  # fmt: skip
    axes.grid(color=GRID, linewidth=0.8, which="major")
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT_INK, length=0, pad=6, which="both")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#cbd5e1")


def _layers(axes: Axes, accelerator: Accelerator, layers: Sequence[LayerRun]) -> None:
    total = sum(layer.timing.cycles for layer in layers)
    bounds = dict.fromkeys(layer.bound_by for layer in layers)
    for bound in bounds:
        mine = [layer for layer in layers if layer.bound_by == bound]
        x = [layer.intensity for layer in mine]
        kept = [layer.reached(accelerator, layer.timing.macs) / 1e9 for layer in mine]
        whole = [layer.reached(accelerator, layer.dense_macs) / 1e9 for layer in mine]
        sizes = [18 + 400 * layer.timing.cycles / total for layer in mine]
        axes.scatter(x, kept, s=sizes, color=COLOURS[bound], alpha=0.8, linewidths=0, zorder=5, label=bound)
        axes.scatter(x, whole, s=sizes, facecolors="none", edgecolors=COLOURS[bound], linewidths=0.9, zorder=4)
        axes.vlines(x, kept, whole, color=COLOURS[bound], linewidth=0.7, alpha=0.35, zorder=2)
    if bounds:
        axes.legend(
            title="bound by", loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9, frameon=False, labelcolor=INK,
            markerscale=0.8,
        )  # fmt: skip
