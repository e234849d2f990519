"""A front as a table for other programs: CSV, a row for each point.

Knows no files.
"""

from __future__ import annotations

import csv
import io

from hwsparse.report import words
from hwsparse.report.front import FrontPoint, FrontReport

COLUMNS = (
    "label", "kind", "on_front", "winner", "knee", "latency_ms", "latency_low_ms", "latency_high_ms", "latency_source",
    "speedup", "metric", "quality", "quality_low", "quality_high", "split", "lost_low", "lost_high", "robustness",
    "macs", "parameters", "file_bytes", "memory_bytes", "category", "artifact", "plan",
)  # fmt: skip
ON_FRONT, WITHIN_NOISE = "yes", "within noise"


def front_csv(report: FrontReport) -> str:
    """Every point of a report, from the fastest to the slowest; what is not known is empty.

    `on_front` is `yes` for the front among points whose latency is known alike, and `within noise` for those that no
    point is better than beyond the intervals.
    """
    out = io.StringIO()
    writer = csv.writer(out)  # by RFC 4180: lines end in CR LF, and what holds one of the two is quoted
    writer.writerow(COLUMNS)
    strict = {id(point) for source in report.sources for point in report.front(source)}
    loose = {id(point) for point in report.unbeaten}
    for point in sorted(report.points, key=lambda point: (point.latency_s, -point.quality)):
        on_front = ON_FRONT if id(point) in strict else WITHIN_NOISE if id(point) in loose else ""
        writer.writerow(_row(report, point, on_front))
    return out.getvalue()


def _row(report: FrontReport, point: FrontPoint, on_front: str) -> tuple[object, ...]:
    low_s, high_s = point.latency_interval_s
    dense = report.dense_beside(point)
    return (
        point.label, point.kind, on_front,
        "yes" if point is report.winning_point else "", "yes" if point is report.knee else "",
        1e3 * point.latency_s, 1e3 * low_s, 1e3 * high_s, point.latency_source,
        "" if dense is None else dense.latency_s / point.latency_s,
        report.metric, point.quality, *point.quality_interval, point.split, *(point.drop_interval or ("", "")),
        point.robustness, point.macs, point.parameters, point.file_bytes, point.memory_bytes, words.category(point),
        point.artifact.directory if point.artifact else "", point.plan.to_json() if point.plan else "",
    )  # fmt: skip
