"""Figures and plans in words, the same in every table and picture.

Knows no markup: whoever writes HTML or terminal codes escapes what comes from here.
"""

from __future__ import annotations

from itertools import groupby

from hwsparse.metric import METRICS
from hwsparse.plan import Choice, Plan
from hwsparse.report.front import TIMED, FrontPoint, FrontReport

TIMES, DASH, MINUS = "\u00d7", "\u2013", "\u2212"  # as typeset: escaped, since they look like ASCII in code


def metric_name(metric: str) -> str:
    """As on an axis: `Top-1 accuracy`; a metric without a name of its own goes by what it is called."""
    return METRICS[metric].title if metric in METRICS else metric


def short_metric_name(metric: str) -> str:
    """As over a column: `Top-1`."""
    return METRICS[metric].short if metric in METRICS else metric


def latency_axis(report: FrontReport) -> str:
    """As on an axis; it says so where nothing was timed."""
    timed = any(point.latency_source in TIMED for point in report.points)
    return f"{'Latency' if timed else 'Predicted latency'} of one inference (ms)"


def milliseconds(seconds: float) -> str:
    """Three figures, as in `4.81 ms`; enough to tell fast layers apart, too few to feign precision."""
    return f"{_three_figures(seconds * 1e3)} ms"


def latency_interval(point: FrontPoint) -> str:
    """In milliseconds, which go without saying below a latency."""
    low, high = point.latency_interval_s
    return f"{_three_figures(low * 1e3)}{DASH}{_three_figures(high * 1e3)}"


def quality(metric: str, value: float) -> str:
    """In percent where the metric is a share, as in `96.2 %`; else with four decimals."""
    return f"{value * 100:.1f} %" if _in_percent(metric) else _four_decimals(value)


def axis_quality(metric: str, value: float) -> str:
    """As short as a tick's label may be."""
    return f"{value * 100:g} %" if _in_percent(metric) else f"{value:g}"


def quality_interval(metric: str, point: FrontPoint) -> str:
    """In the unit of `quality`, which goes without saying below one."""
    low, high = point.quality_interval
    return (
        f"{low * 100:.1f}{DASH}{high * 100:.1f}" if _in_percent(metric) else DASH.join(map(_four_decimals, (low, high)))
    )


def change(metric: str, difference: float) -> str:
    """A difference of quality with its sign, in percentage points or as it is."""
    text = f"{difference * 100:+.1f} pts" if _in_percent(metric) else f"{difference:+.4f}"
    if float(text.split()[0]) == 0:
        return f"±{text[1:]}"
    return text.replace("-", MINUS)


def robustness(report: FrontReport, point: FrontPoint) -> str:
    """The quality on corrupted samples; empty where it was not judged."""
    return "" if point.robustness is None else quality(report.metric, point.robustness)


def speedup(report: FrontReport, point: FrontPoint) -> str:
    """Against our dense model, as in `2.31x`; empty where there is none to compare with."""
    dense = report.dense_beside(point)
    return "" if dense is None else ratio(dense.latency_s / point.latency_s)


def ratio(value: float) -> str:
    """How many times as fast, with two decimals."""
    return f"{value:.2f}{TIMES}"


def quality_change(report: FrontReport, point: FrontPoint) -> str:
    """Against our dense model, as `change` says it; empty where there is none to compare with."""
    dense = report.dense_beside(point)
    return "" if dense is None else change(report.metric, point.quality - dense.quality)


def drop_interval(metric: str, point: FrontPoint) -> str:
    """Below a change, in its unit: what was gained or lost against dense on the same samples; empty if not known."""
    if point.drop_interval is None or point.kind == "dense":
        return ""
    low, high = (change(metric, -drop).removesuffix(" pts") for drop in reversed(point.drop_interval))
    return f"{low} to {high}"


def point_in_words(report: FrontReport, point: FrontPoint) -> str:
    """As in `search 1: 4.81 ms (measured), 2.31x as fast as dense; Top-1 91.2 %, -0.4 pts on held-out data`."""
    speed, lost = speedup(report, point), quality_change(report, point)
    fast = f", {speed} as fast as dense" if speed else ""
    on = f" on {point.split} data" if point.split else ""
    return (
        f"{point.label}: {milliseconds(point.latency_s)} ({point.latency_source}){fast}; "
        f"{short_metric_name(report.metric)} {quality(report.metric, point.quality)}{f', {lost}' if lost else ''}{on}"
    )


def flops(point: FrontPoint) -> str:
    """Two for each multiply-add that is left, as in `84.2 M`; empty if not known."""
    return "" if point.macs is None else count(2 * point.macs)


def parameters(point: FrontPoint) -> str:
    """Those that are not zero; empty if not known."""
    return "" if point.parameters is None else count(point.parameters)


def files(point: FrontPoint) -> str:
    """The bytes of what is deployed, as in `1.21 MB`; empty if not known."""
    return "" if point.file_bytes is None else byte_count(point.file_bytes)


def memory(point: FrontPoint) -> str:
    """The most memory that it takes, as in `4.5 MB`; empty if not known."""
    return "" if point.memory_bytes is None else byte_count(point.memory_bytes)


def sizes(point: FrontPoint) -> str:
    """As in `84.2 M FLOPs, 180 k parameters`; empty if not known."""
    figures = (flops(point), "FLOPs"), (parameters(point), "parameters")
    return ", ".join(f"{figure} {what}" for figure, what in figures if figure)


def byte_count(number: float) -> str:
    """As in `1.21 MB`."""
    return f"{count(round(number))}B"


def count(number: int) -> str:
    """Three figures, as in `1.21 M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            return f"{_three_figures(max(number / size, 1.0))} {unit}"
    return str(number)


def category(point: FrontPoint) -> str:
    """As in `after training, structured, dense-to-sparse, static`; empty if not known."""
    when, comma, rest = short_category(point).partition(",")
    return f"{when} training{comma}{rest}" if comma else when


def short_category(point: FrontPoint) -> str:
    """As in `after, structured, dense-to-sparse, static`, or `dense`; empty if not known."""
    method = point.method
    if method is None:
        return ""
    parts = (method.when, point.structure, method.start, method.mask)
    return "dense" if method.when == "never" else ", ".join(part for part in parts if part is not None)


def plan_summary(plan: Plan | None) -> str:
    """What a plan does, pattern by pattern: `block4x1@0.7-0.9 x5, 2:4`."""
    if plan is None:
        return ""

    def kind(choice: Choice) -> tuple[str, str]:
        return str(choice.pattern), choice.dtype

    choices = sorted((choice for _, choice in plan.choices), key=lambda choice: (kind(choice), choice.ratio))
    parts = []
    for _, group in groupby(choices, key=kind):
        same = list(group)
        first, slash, dtype = str(same[0]).partition("/")
        text = str(same[0]) if same[0] == same[-1] else f"{first}{DASH}{same[-1].ratio:g}{slash}{dtype}"
        parts.append(text if len(same) == 1 else f"{text} {TIMES}{len(same)}")
    return ", ".join(parts) or "dense"


def _in_percent(metric: str) -> bool:
    return metric in METRICS and METRICS[metric].percent


def _four_decimals(value: float) -> str:
    return f"{value:.4f}".replace("-", MINUS)


def _three_figures(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    decimals = 1 if value >= 10 else 2 if value >= 1 else 3 if value >= 0.1 else 4
    return f"{value:.{decimals}f}"
