"""Whether fewer bits and zeros together beat either of them alone: fronts of each, timed and judged side by side.

Two searches of as many trials, one of float32 layers and one of int8 layers too, as `optimize` runs them; their
finalists, and the dense network in int8, are built with corrected weights, timed in turns in one run, and judged on the
same held-out samples, so that differences in quality are sample by sample, with 95 % bootstrap intervals.

A network with zeros in bytes dominates another where it is faster beyond the noise and at least as good on the samples
that there are; whether that is beyond doubt, or what is worse is within it, is told apart. `--state DIR` keeps what was
measured, pruned and tried, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.floors import points
from benchmarks.search import TASKS
from benchmarks.tasks import data_option
from hwsparse import compiler
from hwsparse.cli.progress import StageProgress
from hwsparse.errors import InputError
from hwsparse.execution import open_workers
from hwsparse.latency import Measurement
from hwsparse.pipeline import Goal, Workspace
from hwsparse.pipeline.bench import open_bench
from hwsparse.pipeline.candidates import find_candidates
from hwsparse.pipeline.compilation import layer_database
from hwsparse.pipeline.corrected import CorrectedWeights
from hwsparse.pipeline.exploration import explore
from hwsparse.pipeline.finals import (
    DENSE,
    ONNXRUNTIME,
    Workshop,
    build_finalists,
    finalist_plans,
    rounded_plans,
    time_side_by_side,
)
from hwsparse.pipeline.goal import SHOWN_DROPS
from hwsparse.pipeline.judges import appoint_judges
from hwsparse.pipeline.outcome import faster
from hwsparse.pipeline.survey import choices_of
from hwsparse.pipeline.thrift import measure_plans
from hwsparse.plan import Choice, Plan
from hwsparse.report import words
from hwsparse.search.database import Place, StudyIdentity, opened_study
from hwsparse.sparsify import Evaluator
from hwsparse.target import Target, load_target

FLOAT, BYTES = Choice().dtype, "int8"
SEARCHES = {FLOAT: (FLOAT,), f"{BYTES} too": (FLOAT, BYTES)}
PATTERNS = ("unstructured", "block4x1", "block8x1", "block4x4", "block8x4")
RATIOS = (0.5, 0.6, 0.7, 0.8, 0.9)
MAX_DROP, FINALISTS = 0.05, 8

Family = Literal["dense", "sparse", "dense int8", "sparse int8"]
RIVALS: tuple[Family, ...] = ("dense int8", "sparse")
# Faster beyond the noise, and: better beyond doubt; at least as good; not worse beyond doubt. Or not.
Standing = Literal["surely", "yes", "perhaps", "no"]


@dataclass(frozen=True, slots=True)
class Row:
    """A network that was built; `values` are its quality on all held-out samples and then on every resample of them."""

    label: str
    plan: Plan
    latency: Measurement
    values: np.ndarray

    @property
    def family(self) -> Family:
        """What its layers have: zeros, bytes, or both."""
        chosen = [choice for _, choice in self.plan.choices]
        zeros = any(not choice.is_dense for choice in chosen)
        if any(choice.dtype == BYTES for choice in chosen):
            return "sparse int8" if zeros else "dense int8"
        return "sparse" if zeros else "dense"

    def gains_over(self, other: Row) -> tuple[float, float, float]:
        """Points of quality, and their 95 % interval, sample by sample."""
        return points(self.values - other.values)

    def standing(self, other: Row) -> Standing:
        """How it compares with another that it may dominate."""
        value, low, high = self.gains_over(other)
        if not faster(self.latency, other.latency) or high < 0:
            return "no"
        return "surely" if low > 0 else "yes" if value >= 0 else "perhaps"


def options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this benchmark asks for."""
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--trials", type=int, default=60, help="plans that each search tries")
    parser.add_argument("--patterns", nargs="+", default=PATTERNS, help="of either type, those that it has")
    parser.add_argument("--ratios", nargs="+", type=float, default=RATIOS)
    parser.add_argument(
        "--max-drop",
        type=float,
        default=MAX_DROP,
        help=f"that a winner may have; finalists {SHOWN_DROPS} times as much",
    )
    parser.add_argument("--state", type=Path, default=Path("hwsparse-precision"), help="directory for what is kept")
    data_option(parser)


def run(arguments: argparse.Namespace) -> tuple[dict[str, float], object]:
    """Searches every task by both types; gives the figures of the task where bytes and zeros gain least."""
    console = Console()
    target = load_target("x86-local").with_threads(arguments.threads or 1)
    figures, details = [], {}
    for name in arguments.tasks:
        console.rule(name)
        rows = _rows(name, target, arguments, console)
        console.print(front_table(name, rows))
        for line in dominations(rows):
            console.print(line, highlight=False)
        figures.append(dominated(rows))
        details[name] = [_details(row, rows) for row in rows]
    # Of a task where there is none, none is the least.
    return {key: float(np.min([each[key] for each in figures])) for key in figures[0]}, details


def _details(row: Row, rows: Sequence[Row]) -> dict[str, object]:
    return {
        "label": row.label,
        "family": row.family,
        "plan": row.plan.to_json(),
        "samples_s": row.latency.samples_s,
        "quality": points(row.values),
        "against": {
            other.label: {"gained": row.gains_over(other), "dominates": row.standing(other)}
            for other in rows
            if other is not row
        },
    }


def _rows(name: str, target: Target, arguments: argparse.Namespace, console: Console) -> list[Row]:
    """All that was built of a task: dense, dense in int8, and what both searches found."""
    model, dataset, more = TASKS[name](arguments.data, arguments.seed)
    judges = appoint_judges(model, dataset, target, arguments.seed)
    judge = judges.reporting if more is None else Evaluator(model, more, "held-out", target.cores, arguments.seed)
    goal = Goal(arguments.trials, arguments.seed, arguments.max_drop, finalists=FINALISTS)
    workspace = Workspace(arguments.state / name, arguments.state / "records.sqlite")
    workspace.directory.mkdir(parents=True, exist_ok=True)
    plans: dict[str, Plan] = {}
    with ExitStack() as stack:
        progress = stack.enter_context(StageProgress(console))
        workers = stack.enter_context(open_workers())
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hwsparse-")))
        bench = stack.enter_context(
            open_bench(target, workspace.records, partial(datetime.now, timezone.utc), workers=workers)
        )
        database = layer_database(workspace, model, judges, target, arguments.seed, workers)

        def on_stage(stage: str, done: int, total: int) -> None:
            progress(stage, done, total, ())

        for number, (searched, dtypes) in enumerate(SEARCHES.items()):
            patterns = _patterns(target, arguments.patterns, dtypes)
            choices = choices_of(target, patterns, arguments.ratios, dtypes)
            texts = tuple(sorted(map(str, choices)))
            place = Place(workspace.directory / f"study-{hashlib.sha256(repr(texts).encode()).hexdigest()[:12]}.sqlite")
            fixed = judges.choosing.dataset.digest, target.name, "", target.threads
            identity = StudyIdentity(model.digest, *fixed, "precision", texts)
            here = scratch / str(number)
            here.mkdir()
            with opened_study(place, name, identity) as study:
                settled = None if study.beginning is None else study.beginning.choices
                explored = explore(model, database, choices, settled, bench, judges.sample, here, goal.within, on_stage)
                candidates = find_candidates(model, judges, database, explored, target, goal, study, workers, on_stage)
            rounded = rounded_plans(explored.space)
            own = finalist_plans(candidates, FINALISTS, goal.max_drop, rounded.values())
            plans |= {f"{searched}: {label}": plan for label, plan in own.items()} | rounded
        costs = measure_plans(bench, model, plans.values(), explored.costs, partial(on_stage, "finalists' layers"))
        weights = CorrectedWeights(database, model, judges, target.cores, arguments.seed)
        weights.begin((compiler.settle(model, plan, target, costs)[0] for plan in plans.values()), workers)
        shop = Workshop(model, target, weights, costs, bench, judges, judges.sample, scratch, arguments.seed)
        built = build_finalists(shop, plans, partial(on_stage, "finalists"))
        times = time_side_by_side(shop, built, {})
        rows = [
            Row(label, each.plan, times[label], judge.resampled(weights(each.plan))) for label, each in built.items()
        ]
        return [*rows, Row(ONNXRUNTIME, Plan(model.digest), times[ONNXRUNTIME], judge.resampled({}))]


def _patterns(target: Target, asked: Sequence[str], dtypes: Collection[str]) -> list[str]:
    """Of the patterns those that the target has in one of the types.

    Raises:
        InputError: it has none of them, or one in no type.
    """
    known = {text for text, _ in target.supported}
    if unknown := [text for text in asked if text not in known]:
        raise InputError(f"target {target.name} has no pattern {unknown[0]}; it has {', '.join(sorted(known))}")
    supported = {text for text, dtype in target.supported if dtype in dtypes}
    if not (found := [text for text in asked if text in supported]):
        raise InputError(f"target {target.name} has none of {', '.join(asked)} in {' or '.join(dtypes)}")
    return found


def dominated(rows: Sequence[Row]) -> dict[str, float]:
    """How many times as fast as dense int8, and as sparse float32, a network is that dominates them; at most.

    `..._surely` counts networks alone that are better beyond doubt, `..._perhaps` those too that are worse within it;
    nan where there is none.
    """

    def most(family: Family, *standings: Standing) -> float:
        ours, others = ([row for row in rows if row.family == each] for each in ("sparse int8", family))
        found = [ratio(other, one) for one in ours for other in others if one.standing(other) in standings]
        return max(found, default=math.nan)

    return {
        "over_dense_int8": most("dense int8", "surely", "yes"),
        "over_dense_int8_perhaps": most("dense int8", "surely", "yes", "perhaps"),
        "over_sparse_float32": most("sparse", "surely", "yes"),
        "over_sparse_float32_surely": most("sparse", "surely"),
    }


def dominations(rows: Sequence[Row]) -> Iterator[str]:
    """A sentence for each network that dominates dense int8 or sparse float32, perhaps."""
    for row in rows:
        if row.family != "sparse int8":
            continue
        for standing, how in (("surely", "better"), ("yes", "as good"), ("perhaps", "perhaps as good")):
            beaten = [each for each in rows if each.family in RIVALS and row.standing(each) == standing]
            if beaten:
                told = ", ".join(f"{each.label} {ratio(each, row):.2f}x" for each in beaten)
                yield f"{row.label} is faster, and {how}: {told}"


def ratio(slow: Row, fast: Row) -> float:
    """How many times as fast."""
    return slow.latency.median_s / fast.latency.median_s


def front_table(name: str, rows: Iterable[Row]) -> Table:
    """A row for each network, from the slowest to the fastest, with what it loses against dense and gains over int8."""
    rows = sorted(rows, key=lambda row: -row.latency.median_s)
    by_label = {row.label: row for row in rows}
    dense, external, rounded = (by_label.get(label) for label in (DENSE, ONNXRUNTIME, f"{DENSE} {BYTES}"))
    title = f"{name}: built, corrected, timed in turns; points lost on held-out samples; 95 % intervals"
    table = Table(
        "network", "layers", "ms", "ort/ ours", "lost", f"gained over {DENSE} {BYTES}", title=title, padding=0
    )
    for row in rows:
        lost = _told(dense.gains_over(row)) if dense is not None else ""
        gained = _told(row.gains_over(rounded)) if rounded is not None and row is not rounded else ""
        speedup = f"{ratio(external, row):.2f}" if external is not None else ""
        table.add_row(
            row.label, words.plan_summary(row.plan), f"{1e3 * row.latency.median_s:.3g}", speedup, lost, gained
        )  # fmt: skip
    return table


def _told(figures: tuple[float, float, float]) -> str:
    return "{:.1f} ({:.1f} to {:.1f})".format(*figures)
