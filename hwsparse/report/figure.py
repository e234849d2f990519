"""A front as a Plotly figure: hover shows the plan.

Knows Plotly. Plotly reads a subset of HTML in every text: what comes from outside is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from hwsparse.report import words
from hwsparse.report.front import FrontPoint, FrontReport
from hwsparse.report.view import OURS, TRIAL_COLOUR, WINNER, Group, View, view

HOVER_LAYERS = 16  # more would not fit a screen
_FILL = "rgba(47, 111, 222, 0.07)"
_GRID = "rgba(128, 144, 170, 0.22)"  # seen on white and on near-black


def front_figure(report: FrontReport) -> go.Figure:
    """The front with its baselines and intervals; text and grid take the page's colours."""
    shown = view(report)
    figure = go.Figure(layout=_layout(report, shown))
    if shown.predicted_front:
        line = {"color": TRIAL_COLOUR, "width": 1.5, "dash": "dash", "shape": "hv"}
        figure.add_trace(_line("front, predicted", shown.predicted_front, shown, line))
    if shown.front:
        line = {"color": OURS.colour, "width": 2.5, "shape": "hv"}
        figure.add_trace(_line("front", shown.front, shown, line, fill="tozeroy", fillcolor=_FILL))
    for group in shown.groups:
        figure.add_trace(_points(report, group))
    if shown.winner is not None:
        name, source = "winner", shown.winner.latency_source
        figure.add_trace(_points(report, Group(name, WINNER, (shown.winner,), source)))
    return figure


def hover_text(report: FrontReport, point: FrontPoint) -> str:
    """What is known of a point, line by line, as Plotly's HTML."""
    metric = report.metric
    gain, loss = words.speedup(report, point), words.quality_change(report, point)
    lines = [
        f"<b>{_safe(point.label)}</b>",
        f"{words.milliseconds(point.latency_s)} ({words.latency_interval(point)}), {point.latency_source}",
        f"{_safe(words.metric_name(metric))} {words.quality(metric, point.quality)} "
        f"({words.quality_interval(metric, point)})" + (f", {_safe(point.split)}" if point.split else ""),
    ]
    if gain and point.kind != "dense":
        interval = words.drop_interval(metric, point)
        lines.append(f"{gain} as fast as dense, {loss}" + (f" ({interval})" if interval else ""))
    lines += filter(None, [words.sizes(point), words.category(point)])
    if point.plan is not None:
        choices = point.plan.choices
        lines += [f"{_safe(name)}: {choice}" for name, choice in choices[:HOVER_LAYERS]]
        if len(choices) > HOVER_LAYERS:
            lines.append(f"… and {len(choices) - HOVER_LAYERS} layers more")
        lines += [] if choices else ["every layer dense"]
    return "<br>".join(lines)


def _points(report: FrontReport, group: Group) -> go.Scatter:
    style, points = group.style, group.points
    hollow = not group.timed
    look: dict[str, Any] = {
        "symbol": style.plotly_symbol + ("-open" if hollow else ""),
        "size": 6 if group.tried else style.size + (2 if group.timed else 0),
        "color": TRIAL_COLOUR if group.tried else style.colour,
        "opacity": 0.75 if group.tried else 1,
        "line": {"width": 1.2 if hollow else 0.5},
    }
    errors = {}
    if group.timed:
        errors = {
            "error_x": _errors(style.colour, [(p.latency_s * 1e3, *_ms(p.latency_interval_s)) for p in points]),
            "error_y": _errors(style.colour, [(p.quality, *p.quality_interval) for p in points]),
        }
    name = group.name if group.tried or group.source in ("measured",) else f"{group.name}, {group.source}"
    return go.Scatter(
        x=[point.latency_s * 1e3 for point in points],
        y=[point.quality for point in points],
        mode="markers",
        name=_safe(name),
        marker=look,
        hovertext=[hover_text(report, point) for point in points],
        hoverinfo="text",
        **errors,
    )


def _errors(colour: str, figures: Iterable[tuple[float, float, float]]) -> dict[str, Any]:
    rows = list(figures)
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, high - value) for value, _, high in rows],
        "arrayminus": [max(0.0, value - low) for value, low, _ in rows],
        "color": colour,
        "thickness": 1.2,
        "width": 0,
    }


def _line(name: str, front: Sequence[FrontPoint], shown: View, line: dict[str, Any], **fill: str) -> go.Scatter:
    return go.Scatter(
        x=[front[0].latency_s * 1e3, *(point.latency_s * 1e3 for point in front), shown.x_range[1]],
        y=[shown.y_range[0], *(point.quality for point in front), front[-1].quality],
        mode="lines",
        name=name,
        line=line,
        hoverinfo="skip",
        **fill,
    )


def _layout(report: FrontReport, shown: View) -> dict[str, Any]:
    axis = {"gridcolor": _GRID, "zeroline": False, "linecolor": _GRID, "ticks": ""}
    percent = words.axis_quality(report.metric, 1.0).endswith("%")
    return {
        "template": "none",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 14},
        "margin": {"l": 72, "r": 16, "t": 12, "b": 56},
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "#0f172a", "bordercolor": "#475569", "align": "left"},
        "legend": {"orientation": "h", "y": -0.16, "yanchor": "top", "bgcolor": "rgba(0,0,0,0)"},
        "xaxis": {**axis, "title": {"text": words.latency_axis(report)}, "range": list(shown.x_range)},
        "yaxis": {
            **axis,
            "title": {"text": _safe(words.metric_name(report.metric))},
            "range": list(shown.y_range),
            "tickformat": ".3~p" if percent else "",
        },
    }


def _ms(interval: tuple[float, float]) -> tuple[float, float]:
    return interval[0] * 1e3, interval[1] * 1e3


def _safe(text: str) -> str:
    return escape(text, quote=False)
