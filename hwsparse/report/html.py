"""A front as one HTML file that needs nothing else: no network, no other file.

Takes the reader's light or dark colours. Whatever comes from outside is escaped.

Knows the page; the picture on it is made elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

import plotly.io

from hwsparse.artifact.manifest import LayerProof
from hwsparse.plan import Choice, parse_choice
from hwsparse.report import words
from hwsparse.report.figure import front_figure
from hwsparse.report.files import write_whole
from hwsparse.report.front import FrontPoint, FrontReport
from hwsparse.report.terms import terms
from hwsparse.report.view import headline, view

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1e293b; --faint: #5b6b82; --line: #e2e8f0;
  --soft: #f6f8fb; --good: #0b7a3e; }
@media (prefers-color-scheme: dark) { :root { --paper: #0f1623; --ink: #e6ebf3; --faint: #9fb0c8;
  --line: #2a3648; --soft: #172133; --good: #4ade80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { margin: 0; font-size: 1.7rem; } h2 { margin: 40px 0 8px; font-size: 1.15rem; }
.headline { margin: 6px 0 2px; font-size: 1.1rem; } .faint, figcaption { color: var(--faint); font-size: .9rem; }
figure { margin: 20px 0 0; } #front { height: 600px; }
#front text { fill: var(--ink) !important; } #front .hoverlayer text { fill: #f1f5f9 !important; }
.card { margin: 28px 0 0; padding: 4px 18px 12px; background: var(--soft); border-radius: 8px; font-size: .92rem; }
.card h2 { margin: 12px 0 8px; } dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; }
dt { color: var(--faint); font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 10px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--faint); font-weight: 600; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
td small { display: block; color: var(--faint); }
tr.winner td { background: var(--soft); font-weight: 600; } .mark { color: var(--good); }
.predicted { font-style: italic; color: var(--faint); } code { font-size: .9em; overflow-wrap: anywhere; }
@media print { #front .modebar { display: none; } main { padding: 0; } }
"""
_ROBUST = "; robustness is the mean quality on the same samples, corrupted"


def front_html(report: FrontReport, path: Path) -> None:
    """Writes the front as a page: the picture, the table of points, the winner's layers.

    Raises:
        HwsparseError: the file cannot be written.
    """
    write_whole(path, _page(report).encode("utf-8", errors="replace"))


def _page(report: FrontReport) -> str:
    picture = plotly.io.to_html(
        front_figure(report),
        full_html=False,
        include_plotlyjs=True,
        div_id="front",
        default_height="600px",
        config={"displaylogo": False, "responsive": True},
    )
    about = " · ".join(filter(None, [report.model, report.device, report.dataset]))
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report.title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(report.title)}</h1>
<p class="headline">{escape(headline(report))}</p>
<p class="faint">{escape(about)}</p>
{_winner_line(report)}
<figure>{picture}<figcaption>{escape(view(report).legend)}</figcaption></figure>
{_comparison_card(report)}
{_points_section(report)}
{_layers_section(report)}
{f'<h2>Notes</h2><ul class="faint">{notes}</ul>' if notes else ""}
</main>
</body>
</html>
"""


def _winner_line(report: FrontReport) -> str:
    winner = report.winning_point
    if winner is None or winner.artifact is None:
        return ""
    directory, digest = escape(winner.artifact.directory), winner.artifact.digest
    return f"<p>Winner: {escape(winner.label)}, in <code>{directory}</code>, digest <code>{digest}</code></p>"


def _comparison_card(report: FrontReport) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in terms(report))
    return f'<section class="card"><h2>Comparison</h2><dl>{rows}</dl></section>'


def _points_section(report: FrontReport) -> str:
    front = {id(point) for point in report.front(*report.sources)}
    head = _head(
        ("", False),
        ("Plan", False),
        ("Latency", True),
        ("Source", False),
        ("FLOPs", True),
        ("Parameters", True),
        ("Files", True),
        ("Memory", True),
        ("Speed-up", True),
        (words.metric_name(report.metric), True),
        ("Change", True),
        *[("Robustness", True)] * report.judges_robustness,
    )
    rows = "".join(_point_row(report, point, id(point) in front) for point in report.shortlist)
    return f"""<h2>Points</h2>
<p class="faint">● on the front, ★ the winner. Below each plan the category of its method and its artifact, below each
figure its 95 % interval. FLOPs, two for each multiply-add with a weight, and parameters are those that are left;
products of activations, as of attention, are not counted. Files are what is deployed, and memory is the most that it
takes while it runs, but for the runtime; where latency is predicted, so are they. Speed-up and change are against our
own dense model; the interval of a change is that of the difference, sample by
sample{_ROBUST if report.judges_robustness else ""}.</p>
<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>"""


def _point_row(report: FrontReport, point: FrontPoint, on_front: bool) -> str:
    metric, is_winner = report.metric, point is report.winning_point
    mark = "★" if is_winner else "●" if on_front else ""
    summary = "<br>".join(escape(text) for text in (words.plan_summary(point.plan), words.category(point)) if text)
    if point.artifact is not None:
        summary += f'<br><code title="{point.artifact.digest}">{escape(point.artifact.directory)}</code>'
    latency = _figure(words.milliseconds(point.latency_s), words.latency_interval(point))
    quality = _figure(words.quality(metric, point.quality), words.quality_interval(metric, point))
    change = _figure(words.quality_change(report, point), words.drop_interval(metric, point))
    robust = f'<td class="number">{words.robustness(report, point)}</td>' if report.judges_robustness else ""
    return f"""<tr{' class="winner"' if is_winner else ""}><td class="mark">{mark}</td>
<td>{escape(point.label)}<small>{summary}</small></td>
<td class="number">{latency}</td><td class="{point.latency_source}">{point.latency_source}</td>
<td class="number">{words.flops(point)}</td><td class="number">{words.parameters(point)}</td>
<td class="number">{words.files(point)}</td><td class="number">{words.memory(point)}</td>
<td class="number">{words.speedup(report, point)}</td><td class="number">{quality}</td>
<td class="number">{change}</td>{robust}</tr>
"""


def _layers_section(report: FrontReport) -> str:
    if not report.layers:
        return ""
    head = _head(
        ("Layer", False),
        ("Pattern", False),
        ("Zeros", True),
        ("Kernel", False),
        ("Dense", True),
        ("Sparse", True),
        ("Speed-up", True),
        ("Refused", False),
    )
    rows = "".join(map(_layer_row, report.layers))
    whose = f" of {escape(report.winner)}" if report.winner else ""
    return f"""<h2>Layers{whose}</h2>
<p class="faint">Times of each layer alone, with the kernel that ships. A choice that does not pay on the
device is refused, and the layer stays dense.</p>
<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>"""


def _pattern(choice: Choice) -> str:
    return str(choice.pattern) if choice.dtype == "float32" else f"{choice.pattern}, {choice.dtype}"


def _layer_row(layer: LayerProof) -> str:
    shipped = parse_choice(layer.shipped)
    refused = "" if layer.refused is None else f"{escape(layer.asked)}: {escape(layer.refused)}"
    both = layer.dense_s is not None and layer.sparse_s is not None and not shipped.is_plain
    gain = words.ratio(layer.dense_s / layer.sparse_s) if both and layer.dense_s and layer.sparse_s else ""
    return f"""<tr><td><code>{escape(layer.name)}</code></td><td>{escape(_pattern(shipped))}</td>
<td class="number">{f"{shipped.ratio:.0%}" if shipped.ratio else ""}</td><td><code>{escape(layer.kernel)}</code></td>
<td class="number">{_time(layer.dense_s)}</td><td class="number">{_time(layer.sparse_s)}</td>
<td class="number">{gain}</td><td>{refused}</td></tr>
"""


def _head(*columns: tuple[str, bool]) -> str:
    cells: Iterable[str] = (
        f'<th scope="col"{" class=number" if number else ""}>{escape(name)}</th>' for name, number in columns
    )
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def _figure(value: str, interval: str) -> str:
    return f"{value}<small>{interval}</small>"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else words.milliseconds(seconds)
