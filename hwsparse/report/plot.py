"""A front as a picture, for documents.

Knows matplotlib, and draws without a display.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hwsparse.report import words
from hwsparse.report.files import write_whole
from hwsparse.report.front import FrontPoint, FrontReport
from hwsparse.report.view import OURS, STYLES, TRIAL_COLOUR, WINNER, Group, View, headline, view

INK, FAINT_INK, GRID = "#1e293b", "#64748b", "#e6eaf0"
_DASHES = (0, (4, 3))
INCHES, DPI = (9.0, 5.4), 200
NAME_SHARE = 0.36  # of the width that a name takes


def front_png(report: FrontReport, path: Path) -> None:
    """Draws the front with its baselines and intervals as a PNG of 1800 x 1080 pixels.

    Raises:
        HwsparseError: the file cannot be written.
    """
    # Nothing from outside is read as a formula: "$" in a name is a "$".
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 10, "text.parse_math": False}):
        figure = Figure(figsize=INCHES, dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.082, 0.19, 0.7, 0.58))  # the legend is to its right
        shown = view(report)
        _frame(axes, report, shown)
        _lines(axes, shown)
        for group in shown.groups:
            _points(axes, group)
        if shown.winner is not None:
            _winner(axes, report, shown.winner)
        _name_baselines(axes, shown)
        _titles(figure, report, shown)
        _legend(axes, shown)
        content = io.BytesIO()
        with warnings.catch_warnings():  # a name in a script that the font lacks is drawn as boxes
            warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
            figure.savefig(content, format="png")
    write_whole(path, content.getvalue())


def _frame(axes: Axes, report: FrontReport, shown: View) -> None:
    axes.set_xlim(*shown.x_range)
    axes.set_ylim(*shown.y_range)
    axes.set_xlabel(words.latency_axis(report), color=INK, labelpad=5)
    name = words.metric_name(report.metric)
    axes.annotate(name, (0, 1), xytext=(-40, 9), textcoords="offset points", xycoords="axes fraction", color=INK)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.axis_quality(report.metric, value)))
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT_INK, length=0, pad=6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#cbd5e1")


def _lines(axes: Axes, shown: View) -> None:
    if shown.predicted_front:
        x, y = _stairs(shown.predicted_front, shown)
        axes.plot(x, y, drawstyle="steps-post", color=TRIAL_COLOUR, linewidth=1.2, linestyle=_DASHES, zorder=2)
    if shown.front:
        x, y = _stairs(shown.front, shown)
        axes.fill_between(x, y, shown.y_range[0], step="post", color=OURS.colour, alpha=0.06, linewidth=0, zorder=1)
        axes.plot(x, y, drawstyle="steps-post", color=OURS.colour, linewidth=2.0, zorder=3)


def _stairs(front: Sequence[FrontPoint], shown: View) -> tuple[list[float], list[float]]:
    """The best quality within each latency: up from the bottom, and on to the right edge."""
    x = [front[0].latency_s * 1e3, *(point.latency_s * 1e3 for point in front), shown.x_range[1]]
    y = [shown.y_range[0], *(point.quality for point in front), front[-1].quality]
    return x, y


def _points(axes: Axes, group: Group) -> None:
    x = [point.latency_s * 1e3 for point in group.points]
    y = [point.quality for point in group.points]
    style = group.style
    if group.tried:
        axes.scatter(x, y, s=17, facecolors="none", edgecolors=TRIAL_COLOUR, linewidths=0.9, alpha=0.75, zorder=2)
    elif group.timed:
        _intervals(axes, group.points, style.colour)
        axes.plot(
            x, y, style.matplotlib_marker, color=style.colour, markersize=style.size,
            markeredgecolor="white", markeredgewidth=1.1, zorder=6,
        )  # fmt: skip
    else:
        axes.plot(
            x, y, style.matplotlib_marker, markerfacecolor="white", markeredgecolor=style.colour,
            markersize=style.size - 2, markeredgewidth=1.3, zorder=4,
        )  # fmt: skip


def _intervals(axes: Axes, points: Sequence[FrontPoint], colour: str) -> None:
    for point in points:
        x, y = point.latency_s * 1e3, point.quality
        low, high = point.latency_interval_s
        axes.plot([low * 1e3, high * 1e3], [y, y], color=colour, linewidth=1.2, alpha=0.55, zorder=5)
        axes.plot([x, x], point.quality_interval, color=colour, linewidth=1.2, alpha=0.55, zorder=5)


def _winner(axes: Axes, report: FrontReport, winner: FrontPoint) -> None:
    _intervals(axes, [winner], WINNER.colour)
    axes.plot(
        [winner.latency_s * 1e3], [winner.quality], WINNER.matplotlib_marker, color=WINNER.colour,
        markersize=WINNER.size, markeredgecolor="white", markeredgewidth=1.2, zorder=8,
    )  # fmt: skip
    text = " · ".join(filter(None, [words.speedup(report, winner), words.quality_change(report, winner)]))
    _name(axes, winner, winner.quality, _with_sizes(text, winner), WINNER.colour, (-12, 12))


def _name_baselines(axes: Axes, shown: View) -> None:
    for group in shown.groups:
        if not group.timed or group.style not in (STYLES["dense"], STYLES["small-dense"], STYLES["external"]):
            continue
        for point in group.points:
            # The two that are dense are often close: one name goes below the front, the other above it.
            text = f"{clipped(point.label, 30)} {words.milliseconds(point.latency_s)}"
            if group.style is not STYLES["external"]:
                _name(axes, point, point.quality, _with_sizes(text, point), group.style.colour, (-10, -7))
            else:
                _name(axes, point, point.quality_interval[1], text, group.style.colour, (14, 5))


def _with_sizes(text: str, point: FrontPoint) -> str:
    return "\n".join(filter(None, [clipped(text, 40), words.sizes(point).replace("parameters", "par.")]))


def _name(axes: Axes, point: FrontPoint, y: float, text: str, colour: str, offset: tuple[float, float]) -> None:
    """Writes beside a point: to its left, where there is room."""
    start, end = axes.get_xlim()
    left = point.latency_s * 1e3 > start + NAME_SHARE * (end - start)
    axes.annotate(
        text, (point.latency_s * 1e3, y), xytext=(offset[0] if left else abs(offset[0]), offset[1]),
        textcoords="offset points", ha="right" if left else "left", va="bottom" if offset[1] > 0 else "top",
        color=colour, fontsize=9.5, fontweight="bold", zorder=9,
        bbox={"boxstyle": "round,pad=0.18", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
    )  # fmt: skip


def _titles(figure: Figure, report: FrontReport, shown: View) -> None:
    figure.text(0.02, 0.945, clipped(report.title, 70), color=INK, fontsize=15, fontweight="bold")
    figure.text(0.02, 0.894, clipped(headline(report), 100), color=INK, fontsize=11)
    about = " · ".join(filter(None, [report.model, report.device, report.dataset]))
    figure.text(0.02, 0.853, clipped(about, 130), color=FAINT_INK, fontsize=9)
    below = [shown.legend, *textwrap.wrap(shown.categories, 130, max_lines=2, placeholder=" …")]
    figure.text(0.02, 0.088, "\n".join(below), color=FAINT_INK, fontsize=8.5, va="top")


def _legend(axes: Axes, shown: View) -> None:
    entries: dict[str, Line2D] = {}
    if shown.winner is not None:
        entries["winner"] = Line2D(
            [], [], linestyle="none", marker=WINNER.matplotlib_marker, color=WINNER.colour, markersize=10
        )
    for group in reversed(shown.groups):  # timed before predicted: one entry for a shape
        entries.setdefault(clipped(group.name, 24), _key(group))
    if shown.front:
        entries["front"] = Line2D([], [], color=OURS.colour, linewidth=2.0)
    if shown.predicted_front:
        entries["front, predicted"] = Line2D([], [], color=TRIAL_COLOUR, linewidth=1.2, linestyle=_DASHES)
    axes.legend(
        list(entries.values()), list(entries), loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8.5,
        labelcolor=INK, frameon=False, handlelength=1.9, borderaxespad=0.6,
    )  # fmt: skip


def _key(group: Group) -> Line2D:
    style = group.style
    colour = TRIAL_COLOUR if group.tried else style.colour
    return Line2D(
        [], [], linestyle="none", marker=style.matplotlib_marker, color=colour,
        markerfacecolor=colour if group.timed else "none", markersize=5 if group.tried else style.size - 1.5,
    )  # fmt: skip


def clipped(text: str, length: int) -> str:
    """One line that fits: names from outside may be of any length."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
