"""What a picture of a front shows, whatever draws it: groups of points, lines, and the stretch of the axes.

A shape says what a point is, and whether it is filled how its latency is known: so both can be read without
colour. Knows no drawing package.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwsparse.report import words
from hwsparse.report.front import TIMED, FrontPoint, FrontReport, is_sparse
from hwsparse.search.candidate import Source
from hwsparse.search.pareto import knee_point, pareto_front


@dataclass(frozen=True, slots=True)
class Style:
    """How a family of points looks; the colours keep their contrast on white and on near-black."""

    name: str
    colour: str
    matplotlib_marker: str
    plotly_symbol: str
    size: float


OURS = Style("finalists of the search", "#2f6fde", "o", "circle", 8)
STYLES = {
    "dense": Style("dense", "#64748b", "s", "square", 9),
    "dense-rounded": Style("dense, of another type", "#7c5cd6", "P", "cross", 9),
    "small-dense": Style("small dense", "#0d9488", "v", "triangle-down", 9),
    "uniform": Style("uniform sparsity", "#e08a00", "^", "triangle-up", 9),
    "external": Style("another runtime", "#b5309c", "D", "diamond", 8),
}
WINNER = Style("winner", "#12a150", "*", "star", 17)
TRIAL_COLOUR = "#8fa3bf"
HIDDEN = ("uniform", "small-dense", "dense-rounded")  # baselines that stay below the picture where they have collapsed


@dataclass(frozen=True, slots=True)
class Group:
    """Points that look alike; hollow where the latency is predicted."""

    name: str
    style: Style
    points: tuple[FrontPoint, ...]
    source: Source

    @property
    def timed(self) -> bool:
        """Whether the latencies were measured or simulated, and not predicted."""
        return self.source in TIMED

    @property
    def tried(self) -> bool:
        """Whether these are the many trials of the search, which stay in the background."""
        return self.style is OURS and not self.timed and all(point.artifact is None for point in self.points)


@dataclass(frozen=True, slots=True)
class View:
    """Everything to draw, in drawing order: background first. Latency in milliseconds on the x axis."""

    groups: tuple[Group, ...]
    front: tuple[FrontPoint, ...]  # of timed points; empty if nothing was timed
    predicted_front: tuple[FrontPoint, ...]
    winner: FrontPoint | None
    x_range: tuple[float, float]
    y_range: tuple[float, float]  # as quality is stored
    legend: str  # what hollow and filled mean, and what is not in the picture
    categories: str  # of the methods, by group; empty if none is known


def view(report: FrontReport) -> View:
    """What to draw of a report, and where to look: around the baselines and the useful part of the front."""
    winner = report.winning_point
    groups = [group for source in ("predicted", *TIMED) for group in _groups(report, source, winner)]
    timed = report.front(*TIMED)
    y_range = _y_range(report)
    shown = [point for point in report.points if point.quality >= y_range[0]]
    fastest = min(point.latency_s for point in shown)
    slowest = max(point.latency_s for point in shown)
    width = slowest - fastest or slowest
    return View(
        groups=tuple(sorted(groups, key=lambda group: (group.timed, not group.tried))),
        front=timed if any(is_sparse(point) for point in timed) else (),
        predicted_front=report.front("predicted"),
        winner=winner,
        x_range=(max(0.0, fastest - 0.08 * width) * 1e3, (slowest + 0.08 * width) * 1e3),
        y_range=y_range,
        legend=_legend(groups, winner, len(report.points) - len(shown)),
        categories=_categories(groups, winner),
    )


def _groups(report: FrontReport, source: Source, winner: FrontPoint | None) -> list[Group]:
    # Of dense models that which is judged like what was built.
    dense_timed = any(point.kind == "dense" and point.latency_source in TIMED for point in report.points)
    built = [point for point in report.points if point.artifact is not None and point.latency_source == "predicted"]
    judged = {point.split for point in built}
    families: dict[str, list[FrontPoint]] = {}
    for point in report.points:
        superseded = (
            point.kind == "dense"
            and source == "predicted"
            and (dense_timed or (bool(built) and point.split not in judged))
        )
        if point.latency_source == source and point is not winner and not superseded:
            ours = "built" if any(point is each for each in built) else "ours"
            families.setdefault(ours if is_sparse(point) else point.kind, []).append(point)
    found = []
    for kind, points in families.items():
        style = STYLES.get(kind, OURS)
        if kind == "external":
            name = ", ".join(dict.fromkeys(point.label for point in points))
        else:
            name = "trials of the search" if kind == "ours" and source == "predicted" else style.name
        found.append(Group(name, style, tuple(points), source))
    return found


def _legend(groups: list[Group], winner: FrontPoint | None, hidden: int) -> str:
    def on(timed: bool) -> str:
        points = [point for group in groups if group.timed == timed for point in group.points]
        if winner is not None and timed:
            points.append(winner)
        splits = "/".join(dict.fromkeys(point.split for point in points if point.split))
        return f" on {splits} data" if splits else ""

    parts = []
    if timed := dict.fromkeys(group.source for group in groups if group.timed):
        parts.append(f"Filled: {' or '.join(timed)}{on(True)}, 95 % intervals.")
    if any(not group.timed for group in groups):
        parts.append(f"Hollow: latency predicted, quality{on(False)}.")
    if hidden:
        parts.append(f"{hidden} worse {'point lies' if hidden == 1 else 'points lie'} below.")
    return "  ".join(parts)


def _categories(groups: list[Group], winner: FrontPoint | None) -> str:
    named: dict[str, dict[str, None]] = {}
    everything = [(group.name, group.points) for group in groups if group.timed]
    if winner is not None:
        everything.insert(0, ("winner", (winner,)))
    for name, points in everything:
        for category in filter(None, map(words.category, points)):
            if category != "dense":
                named.setdefault(category, {})[name] = None
    return "  ".join(f"{', '.join(names)}: {category}." for category, names in named.items())


def _y_range(report: FrontReport) -> tuple[float, float]:
    """Collapsed models would squeeze everything worth seeing into a line: they stay below the picture."""
    everything = [point.quality for point in report.points]
    focus = [point for point in report.points if point.latency_source in TIMED and point.kind not in HIDDEN]
    if not any(is_sparse(point) for point in focus):
        knee = knee_point(pareto_front(report.points))
        focus += [point for point in report.front("predicted") if point.quality >= knee.quality]
        focus += [point for point in report.points if point.kind == "dense"]
    top = max([*everything, *(point.quality_interval[1] for point in focus)])
    low = min(point.quality_interval[0] for point in focus)
    depth = max(top - low, 0.02 * abs(top), 1e-6)
    floor = max(low - 0.75 * depth, min(low, *everything) - 0.1 * depth)
    return floor, top + 0.15 * depth


def headline(report: FrontReport) -> str:
    """The result in one line, for the top of a picture."""
    winner = report.winning_point
    if winner is None:
        return "Predictions only: nothing was timed yet" if report.sources == ("predicted",) else "No plan met the goal"
    parts = []
    if (dense := report.dense_beside(winner)) is not None:
        parts.append(f"{words.speedup(report, winner)} as fast as dense")
    for other in report.points:
        if other.kind == "external" and winner.latency_source in TIMED:
            parts.append(f"{words.ratio(other.latency_s / winner.latency_s)} as fast as {other.label}")
    known = "" if winner.latency_source in TIMED else f", {winner.latency_source}"
    parts.append(f"{words.milliseconds(winner.latency_s)}{known}")
    if dense is not None:
        parts.append(f"{words.metric_name(report.metric)} {words.quality_change(report, winner)}")
    return " · ".join(parts)
