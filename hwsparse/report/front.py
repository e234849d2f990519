"""What a search has to show, as one value: the points, the baselines, and the winner's layers.

The pictures and tables are made from it, and it is kept as JSON so that a front can be looked at again.

Knows no drawing package and no study, and opens no artifact: it names them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from hwsparse import strictjson
from hwsparse.artifact.manifest import DIGEST, LayerProof
from hwsparse.errors import InputError
from hwsparse.plan import Plan
from hwsparse.report.comparison import Budget, Comparison, Method, Structure, structure
from hwsparse.report.files import write_whole
from hwsparse.search.candidate import HALF_95, Candidate, Source
from hwsparse.search.pareto import knee_point, pareto_front, unbeaten

FORMAT = 3  # of the JSON; raised when an older reader would be misled
MAX_FILE_BYTES = 256 << 20

# dense-rounded: no zeros, layers of another type; small-dense: the same architecture with fewer channels; external: the
# dense model in a runtime that is not ours
PointKind = Literal["dense", "dense-rounded", "small-dense", "uniform", "surrogate", "search", "external"]
ROUNDING = 1e-9  # 0.92 - 0.90 is a little more than 0.02
TIMED: tuple[Source, ...] = ("measured", "simulated")


@dataclass(frozen=True, slots=True)
class ArtifactPlace:
    """A point's artifact: its digest, and its directory as seen from where the report lies.

    Raises:
        InputError: the digest is none, or the directory does not lie below.
    """

    digest: str
    directory: str  # "artifacts/3f9a..."

    def __post_init__(self) -> None:
        path = PurePosixPath(self.directory)
        below = path.parts and not path.is_absolute() and ".." not in path.parts
        if not DIGEST.fullmatch(self.digest) or not below or str(path) != self.directory:
            raise InputError(f"{self.directory!r} with the digest {self.digest!r} is no artifact's place")


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """One plan, or one baseline, with what it costs and what it is worth; intervals are 95 %, if predicted 90 %.

    `split` is the part of the data that quality was measured on: qualities on different parts do not
    compare to the last digit. A plan that was predicted and then measured is two points. `drop_interval` is of what
    was lost against our dense model, sample by sample: much narrower than the two qualities' own. Bytes are measured
    where latency is, and predicted where it is.
    """

    label: str
    kind: PointKind
    latency_s: float
    latency_interval_s: tuple[float, float]
    latency_source: Source
    quality: float
    quality_interval: tuple[float, float]
    split: str = "calibration"
    plan: Plan | None = None  # None: not ours, or not known
    artifact: ArtifactPlace | None = None  # None: not built
    # None from here on: not known.
    robustness: float | None = None  # the mean quality on corrupted samples
    drop_interval: tuple[float, float] | None = None
    macs: int | None = None  # multiply-adds with weights that are not zero; FLOPs are twice as many
    parameters: int | None = None  # those that are not zero
    file_bytes: int | None = None  # of what is deployed, but for the runtime
    memory_bytes: int | None = None  # at most, while it runs, beyond the runtime's own
    method: Method | None = None
    budget: Budget | None = None

    def __post_init__(self) -> None:
        drops = self.drop_interval or (0.0, 0.0)
        qualities = (self.quality, *self.quality_interval, self.robustness or 0.0, *drops)
        figures = (self.latency_s, *self.latency_interval_s, *qualities)
        if not all(math.isfinite(figure) for figure in figures) or self.latency_s <= 0:
            raise InputError(f"point {self.label!r}: latency and quality must be finite, and latency above 0")
        for low, high in (self.latency_interval_s, self.quality_interval, drops):
            if low > high:
                raise InputError(f"point {self.label!r}: the interval {low} to {high} is upside down")
        counts = (self.macs, self.parameters, self.file_bytes, self.memory_bytes)
        if any(count is not None and count < 0 for count in counts):
            raise InputError(f"point {self.label!r}: multiply-adds, parameters and bytes are not negative")

    @property
    def loss_interval(self) -> tuple[float, float]:
        """Of what is lost against the dense model; where that was not worked out, that of the quality."""
        return self.drop_interval if self.drop_interval is not None else self.quality_interval

    @property
    def drop_error(self) -> float:
        """The standard error of what is lost; 0 where that was not worked out, and of the dense model itself."""
        if self.drop_interval is None or self.kind == "dense":
            return 0.0
        low, high = self.drop_interval
        return (high - low) / (2 * HALF_95)

    @property
    def structure(self) -> Structure | None:
        """What its zeros are; None: not known."""
        if self.plan is not None:
            return structure(self.plan)
        if self.kind == "small-dense":  # whole channels of the dense model are gone
            return "structured"
        return "dense" if self.kind == "external" else None

    @property
    def removed(self) -> bool:
        """Whether weights were removed, so that what is left was fitted by a budget: not so of dense models."""
        return self.kind not in ("dense", "external") and (self.method is None or self.method.when != "never")

    @classmethod
    def of(
        cls,
        candidate: Candidate,
        *,
        split: str = "calibration",
        label: str | None = None,
        dense: Candidate | None = None,
    ) -> FrontPoint:
        """The point of a candidate, labelled by its trial if not otherwise; what it loses is told against the dense."""
        drop = None if dense is None else dense.quality - candidate.quality
        low, high = candidate.loss_interval
        if label is None:
            label = "dense" if candidate.kind == "dense" else f"trial {candidate.trial}"
        return cls(
            label=label,
            kind=candidate.kind,
            latency_s=candidate.latency_s,
            latency_interval_s=candidate.latency_interval_s,
            latency_source=candidate.latency_source,
            quality=candidate.quality,
            quality_interval=candidate.quality_interval,
            split=split,
            plan=candidate.plan,
            drop_interval=None if drop is None else (drop + low, drop + high),
        )


@dataclass(frozen=True, slots=True)
class FrontReport:
    """A front with everything that is shown beside it.

    `layers` are those of the point labelled `winner`. Texts may hold anything: whoever draws them escapes
    them.
    """

    title: str
    model: str
    device: str
    dataset: str
    metric: str  # "top1" | "spearman" | ...: more is better
    points: tuple[FrontPoint, ...]
    winner: str | None = None
    layers: tuple[LayerProof, ...] = ()
    notes: tuple[str, ...] = ()
    comparison: Comparison | None = None  # None: not known

    def __post_init__(self) -> None:
        if not self.points:
            raise InputError("there is no result to show: a front needs at least one point")
        if self.winner is not None and all(point.label != self.winner for point in self.points):
            raise InputError(f"the winner {self.winner!r} is none of the points")

    @property
    def sources(self) -> tuple[Source, ...]:
        """Of the latencies that the front rests on: predictions only where nothing was timed."""
        return TIMED if any(p.latency_source in TIMED and is_sparse(p) for p in self.points) else ("predicted",)

    def front(self, *sources: Source) -> tuple[FrontPoint, ...]:
        """The front among our own points with these sources, from the fastest to the best."""
        return pareto_front([p for p in self._own if p.latency_source in sources])

    @property
    def _own(self) -> list[FrontPoint]:
        """Our own points, or of those that are predicted the ones judged like what was built, if that is too."""
        own = [p for p in self.points if p.kind != "external"]
        judged = {p.split for p in own if p.artifact is not None and p.latency_source == "predicted"}
        return [p for p in own if not judged or p.latency_source != "predicted" or p.split in judged]

    @property
    def unbeaten(self) -> tuple[FrontPoint, ...]:
        """The front among our own points, and what is not beaten beyond the noise, of each source by itself."""
        own = self._own
        return tuple(p for source in self.sources for p in unbeaten([p for p in own if p.latency_source == source]))

    @property
    def knee(self) -> FrontPoint | None:
        """Of the front: past it, quality falls faster for each second gained; None: there are no points of ours."""
        front = self.front(*self.sources)
        return knee_point(front) if front else None

    @property
    def shortlist(self) -> tuple[FrontPoint, ...]:
        """What a table shows, from the fastest to the slowest: the front, and every baseline and timed point."""
        chosen = {id(point): point for point in self.front(*self.sources)}
        for point in self.points:
            timed = point.latency_source in TIMED
            beside = point.kind in ("dense", "uniform") or point.artifact is not None
            if timed or (self.sources == ("predicted",) and beside and any(point is own for own in self._own)):
                chosen[id(point)] = point
        return tuple(sorted(chosen.values(), key=lambda point: (point.latency_s, -point.quality)))

    @property
    def judges_robustness(self) -> bool:
        """Whether any point was judged on corrupted samples too."""
        return any(point.robustness is not None for point in self.points)

    @property
    def winning_point(self) -> FrontPoint | None:
        """The winner, as timed if it was."""
        named = [point for point in self.points if point.label == self.winner]
        return min(named, key=lambda point: point.latency_source not in TIMED, default=None)

    @property
    def subject(self) -> FrontPoint | None:
        """What a comparison is about: the winner, or else the fastest sparse point, timed if any was."""
        sparse = [point for point in self.points if is_sparse(point) and point.latency_source in self.sources]
        return self.winning_point or min(sparse, key=lambda point: point.latency_s, default=None)

    def dense_beside(self, point: FrontPoint) -> FrontPoint | None:
        """The dense model of ours that `point` compares with: both timed or both predicted, on the same data.

        Where there is none the nearest to that.
        """

        def unlike(dense: FrontPoint) -> tuple[bool, bool]:
            timed = (dense.latency_source in TIMED) == (point.latency_source in TIMED)
            return not timed, dense.split != point.split

        return min((p for p in self.points if p.kind == "dense"), key=unlike, default=None)

    def serving(self, max_drop: float | None, max_latency_s: float | None) -> FrontPoint:
        """The fastest of our own points that loses at most so much; without a limit to that, the best in that time.

        Points that were timed, if any sparse one was; what is lost is told against the dense model beside them, with
        one standard error of it, as winners are chosen: of many points, the best looking are those that were lucky.

        Raises:
            InputError: there is no such point: it says what can be had.
        """
        own = [point for point in self.points if point.kind != "external"]
        timed = [point for point in own if point.latency_source in TIMED]
        own = timed if any(map(is_sparse, timed)) else self._own

        def lost(point: FrontPoint) -> float:
            dense = self.dense_beside(point)
            return math.inf if dense is None else dense.quality - point.quality + point.drop_error

        good = [point for point in own if max_drop is None or lost(point) <= max_drop + ROUNDING]
        fast = [point for point in good if max_latency_s is None or point.latency_s <= max_latency_s]
        if fast and max_drop is None:
            return max(fast, key=lambda point: (point.quality, -point.latency_s))
        if fast:
            return min(fast, key=lambda point: (point.latency_s, -point.quality))
        if good:
            quickest = min(point.latency_s for point in good)
            raise InputError(f"no such point takes less than {1e3 * quickest:.4g} ms")
        least = min(map(lost, own), default=math.inf)
        surely = f"no point loses less than {least:.4g}, with one standard error of it"
        raise InputError(surely if math.isfinite(least) else "there is no dense model")

    @property
    def text(self) -> str:
        """Canonical JSON: equal reports give equal texts.

        Raises:
            InputError: a field does not hold what it declares.
        """
        return strictjson.canonical({"format": FORMAT, **strictjson.encode(self)}) + "\n"


def is_sparse(point: FrontPoint) -> bool:
    """Whether the point is one that was searched for, not a baseline."""
    return point.kind in ("search", "surrogate")


def parse_report(text: str | bytes, where: str = "report") -> FrontReport:
    """Reads what `FrontReport.text` gave.

    Raises:
        InputError: not such a text.
    """
    data = strictjson.parse(text, where)
    if not isinstance(data, dict) or "points" not in data:
        raise InputError(f"{where}: not the report of a front")
    if (found := data.pop("format", None)) != FORMAT:
        raise InputError(f"{where}: has the format {found!r}; this hwsparse reads {FORMAT}")
    return strictjson.decode(FrontReport, data, where)


def write_report(report: FrontReport, path: Path) -> None:
    """Keeps a report as JSON.

    Raises:
        HwsparseError: the file cannot be written.
    """
    write_whole(path, report.text.encode())


def read_report(path: Path) -> FrontReport:
    """Reads a file that `write_report` wrote.

    Raises:
        InputError: there is no such file, or it is no report.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_report(text, str(path))
