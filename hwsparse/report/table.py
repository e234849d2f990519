"""A front as a table for the terminal.

Knows rich; figures and words come from elsewhere.
"""

from __future__ import annotations

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hwsparse.report import words
from hwsparse.report.front import FrontPoint, FrontReport

_SOURCE_STYLES = {"measured": "green", "simulated": "cyan", "predicted": "dim italic"}


def front_table(report: FrontReport) -> Table:
    """The points worth a line, from the fastest to the slowest; fits 80 columns.

    A dot marks the front among our own points, a ring what no point of its kind beats beyond the noise, a star the
    winner, whose artifact is named under the table, and a diamond the front's knee, if another point has won.
    Below a plan stands the category of its method, below a figure its 95 % interval, and below a latency how it is
    known; FLOPs and, below them, parameters are those that are left; speed-up and change are against our own dense
    model.
    """
    winner = report.winning_point
    key = "● front  ◆ its knee  ○ not beaten beyond the noise\n★ winner"
    if winner is not None and winner.artifact is not None:
        key += f": {winner.artifact.directory}"
    table = Table(
        title=escape(report.title),
        caption=escape(f"{report.model} · {report.device} · {report.dataset}\n{key}"),
        box=box.SIMPLE_HEAD,
        leading=1,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    table.add_column("Plan", overflow="fold")
    judged, metric = report.judges_robustness, words.short_metric_name(report.metric)
    for header in ("Latency", "FLOPs\npar.", "Speed", metric, "Change", *["Robust"] * judged):
        table.add_column(header, justify="right", no_wrap=True)
    front = {id(point) for point in report.front(*report.sources)}
    knee, unbeaten = report.knee, {id(point) for point in report.unbeaten}
    for point in report.shortlist:
        marks = {"★": point is winner, "◆": point is knee, "●": id(point) in front, "○": id(point) in unbeaten}
        mark = next((mark for mark, holds in marks.items() if holds), " ")
        summary = words.plan_summary(point.plan)
        table.add_row(
            Text(mark, style="green" if point is winner else "blue"),
            _lines(point.label, "" if summary in point.label else summary, _category(point)),
            _latency(point),
            _lines(words.flops(point), words.parameters(point)),
            Text(words.speedup(report, point)),
            _lines(words.quality(report.metric, point.quality), words.quality_interval(report.metric, point)),
            Text(words.quality_change(report, point)),
            *[Text(words.robustness(report, point))] * judged,
            style="bold" if point is winner else "",
        )
    return table


def _category(point: FrontPoint) -> str:
    category = words.short_category(point)
    return "" if category == "dense" else category  # the label and the plan say so


def _latency(point: FrontPoint) -> Text:
    text = _lines(words.milliseconds(point.latency_s), words.latency_interval(point))
    return text.append("\n" + point.latency_source, style=f"not bold {_SOURCE_STYLES[point.latency_source]}")


def _lines(figure: str, *remarks: str) -> Text:
    text = Text(figure)
    for remark in filter(None, remarks):
        text.append("\n" + remark, style="not bold dim")
    return text
