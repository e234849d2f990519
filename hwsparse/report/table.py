"""A front as a table for the terminal.

Knows rich; figures and words come from elsewhere.
"""

from __future__ import annotations

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hwsparse.report import words
from hwsparse.report.front import FrontReport

_SOURCE_STYLES = {"measured": "green", "simulated": "cyan", "predicted": "dim italic"}


def front_table(report: FrontReport) -> Table:
    """The points worth a line, from the fastest to the slowest; fits 80 columns.

    A dot marks the front among our own points, a star the winner, whose artifact is named under the table.
    Below a figure stands its 95 % interval; the source says how the latency is known; speed-up and change are
    against our own dense model.
    """
    winner = report.winning_point
    key = "● front  ★ winner"
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
    table.add_column("Latency", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    judged = report.judges_robustness
    headers = ["Speed-up", words.short_metric_name(report.metric), "Change", *["Robust"] * judged]
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    front = {id(point) for point in report.front(*report.sources)}
    for point in report.shortlist:
        mark = "★" if point is winner else "●" if id(point) in front else " "
        summary = words.plan_summary(point.plan)
        table.add_row(
            Text(mark, style="green" if point is winner else "blue"),
            _two_lines(point.label, "" if summary in point.label else summary),
            _two_lines(words.milliseconds(point.latency_s), words.latency_interval(point)),
            Text(point.latency_source, style=_SOURCE_STYLES[point.latency_source]),
            Text(words.speedup(report, point)),
            _two_lines(words.quality(report.metric, point.quality), words.quality_interval(report.metric, point)),
            Text(words.quality_change(report, point)),
            *[Text(words.robustness(report, point))] * judged,
            style="bold" if point is winner else "",
        )
    return table


def _two_lines(figure: str, remark: str) -> Text:
    text = Text(figure)
    if remark:
        text.append("\n" + remark, style="not bold dim")
    return text
