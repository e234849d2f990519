"""What pruning without tuning costs in quality: methods, patterns and ratios, from one trained network, in one run.

All layers get the same choice, but for the first and the last, which stay dense. Weights are fitted on calibration
samples; quality is that on held-out samples, with 95 % bootstrap intervals, and differences between methods are of the
same samples. Magnitude is also corrected as what ships is: what the correction gains is told apart from what better
masks gain. Of a task with several networks the last line tells the worst.

`--allocations` shares the zeros of unstructured pruning out in other ways too, as many over all these layers together:
by their shapes, by one threshold for all magnitudes, by what each layer harms on calibration samples. Floors and the
last line are of the same choice for all. What FLOPs and parameters are left stands beside, as shares of the dense
network's. With `--robustness`, what is lost on the same held-out samples under corruption stands beside: the mean over
noise, blur and less contrast, or typos.

With `--dtypes int8`, or bfloat16, all layers that can be are of that type, and those of them pruned that a choice is
for; none of them in one more row, rounded to the nearest, or corrected.

Whole channels and heads are removed from all layers that share them: `--kept` says how many stay (`removal`).
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from benchmarks.floors import (
    BASELINE,
    BEST,
    CORRECTED,
    DIRECT,
    FAIR,
    REGROUPED,
    Values,
    floor_table,
    floors,
    points,
    shares_rows,
)
from benchmarks.networks import dense_plan
from benchmarks.removal import KEPT, OBS_FITTED, Removed, removal_floors, removal_table, remove
from benchmarks.tasks import TASKS, Task, data_option
from hwsparse.codegen import refusal
from hwsparse.errors import DataError, InputError
from hwsparse.model import Model
from hwsparse.pattern import NM, Unstructured, parse_pattern
from hwsparse.pipeline import DTYPES
from hwsparse.plan import Choice, Layer, Plan, parse_choice
from hwsparse.sparsify import (
    PRUNERS,
    Evaluator,
    LayerDatabase,
    Size,
    Sizes,
    applicable,
    apply_plan,
    collect_statistics,
    correct,
    layer_database,
)
from hwsparse.sparsify.allocation import Curve, erdos_renyi_kernel, global_magnitude, least_harm, uniform
from hwsparse.sparsify.apply import reads_of
from hwsparse.sparsify.correction import SAMPLES
from hwsparse.sparsify.quality import mean_resampled
from hwsparse.sparsify.ranges import ranges_for, ranges_on, rounded_weights

PATTERNS = ("unstructured", "block4x1", "block8x1", "2:4", "1:4", "2:4x8")
RATIOS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
METHODS = ("magnitude", "wanda", "sparsegpt", "alps", "regroup", FAIR, DIRECT, CORRECTED)
# What is pruned before the network is corrected as a whole.
FIRST = {FAIR: BASELINE, DIRECT: BEST, CORRECTED: REGROUPED}
THREADS = 2
FLOAT = Choice().dtype
UNIFORM = "uniform"
ALLOCATIONS = (UNIFORM, "erk", "global-magnitude", "least-harm")


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """A network after pruning: its metric on all held-out samples, then on every resample of them.

    `corrupted` is the same of the mean over corruptions; None if that was not asked for.
    """

    method: str
    choice: Choice
    values: np.ndarray
    size: Size
    allocation: str = UNIFORM
    corrupted: np.ndarray | None = None

    @property
    def pruned(self) -> str:
        """What was done, whatever the method."""
        return str(self.choice) if self.allocation == UNIFORM else f"{self.choice}, {self.allocation}"


def options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this benchmark asks for."""
    parser.add_argument("--task", choices=sorted(TASKS), required=True)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=(*PRUNERS, *FIRST))
    parser.add_argument("--patterns", nargs="*", default=PATTERNS)
    parser.add_argument("--ratios", nargs="*", type=float, default=RATIOS)
    parser.add_argument("--dtypes", nargs="*", default=(FLOAT,), choices=DTYPES, help="of weights and values")
    parser.add_argument("--allocations", nargs="*", default=(UNIFORM,), choices=ALLOCATIONS)
    parser.add_argument("--kept", nargs="*", type=float, default=KEPT, help="shares of channels and heads that stay")
    parser.add_argument("--robustness", action="store_true", help="also what is lost on corrupted images or text")
    data_option(parser)


def run(arguments: argparse.Namespace) -> tuple[dict[str, float], object]:
    """Prunes each of the task's networks in every way."""
    if not all(0 < share <= 1 for share in arguments.kept):
        raise InputError("--kept: a share of channels is more than 0 and at most 1")
    console = Console()
    choices = _choices(arguments.patterns, arguments.ratios, arguments.dtypes)
    figures: list[dict[str, float]] = []
    details: dict[str, dict[str, object]] = {}
    for make in TASKS[arguments.task]:
        task = make(arguments.data, arguments.seed)
        evaluator = Evaluator(task.model, task.held_out, "held-out", arguments.threads or THREADS, arguments.seed)
        corrupted = _corrupted(task, arguments) if arguments.robustness else ()
        dense = evaluator.resampled({})
        dense_corrupted = mean_resampled(corrupted, {}) if corrupted else None
        found = list(_prune(task, evaluator, corrupted, choices, arguments, console))
        alike = {(each.method, each.choice): each.values for each in found if each.allocation == UNIFORM}
        removed = list(remove(task, evaluator, arguments.kept, arguments.threads or THREADS, arguments.seed, console))
        held = [*floors(dense, alike), *removal_floors(removed)]
        if found:
            console.print(_table(task, dense, found, dense_corrupted))
        if removed:
            console.print(removal_table(task, dense, removed))
        elif arguments.kept:
            console.print(f"{task.model.name}: no channel can be removed, or none at these shares")
        console.print(floor_table(task.model.name, held))
        figures.append(
            _figures(dense, alike)
            | _figures_of_removal(dense, removed)
            | {"floors_missed": float(sum(each.holds is False for each in held))}
        )
        details[task.model.name] = {
            "metric": task.held_out.metric,
            "samples": len(task.held_out),
            "checkpoint": task.model.digest,
            "fitted_on": min(SAMPLES, task.calibration.rows),
            "sizes": {each.pruned: asdict(each.size) for each in found},
            "dense": [figure / 100 for figure in points(dense)],
            "dropped": [
                [each.method, each.pruned, *(figure / 100 for figure in points(dense - each.values))] for each in found
            ],
            "removed": [
                [each.method, each.kept, *(figure / 100 for figure in points(dense - each.values)), asdict(each.size)]
                for each in removed
            ],
            "floors": [[each.what, str(each.choice), *each.points, each.holds] for each in held],
        }
        if dense_corrupted is not None:
            details[task.model.name]["corruptions"] = [each.dataset.name for each in corrupted]
            details[task.model.name]["dense_corrupted"] = [figure / 100 for figure in points(dense_corrupted)]
            details[task.model.name]["dropped_corrupted"] = [
                [each.method, each.pruned, *(figure / 100 for figure in points(dense_corrupted - each.corrupted))]
                for each in found
                if each.corrupted is not None
            ]
    return {key: worst([figure[key] for figure in figures]) for key, worst in FIGURES.items()}, details


def _choices(patterns: Sequence[str], ratios: Sequence[float], dtypes: Sequence[str]) -> list[Choice]:
    parsed = [parse_pattern(text) for text in patterns]
    return [
        choice
        for dtype in dtypes
        for choice in (
            *([] if dtype == FLOAT else [Choice(dtype=dtype)]),
            *(
                Choice(pattern, ratio, dtype)
                for pattern in parsed
                for ratio in ([pattern.ratio] if isinstance(pattern, NM) else ratios)
            ),
        )
    ]


def _corrupted(task: Task, arguments: argparse.Namespace) -> tuple[Evaluator, ...]:
    """Who judges on the held-out samples under each corruption.

    Raises:
        InputError: the task's samples cannot be corrupted.
    """
    if task.corrupted is None:
        raise InputError(f"task {arguments.task}: its samples are neither images nor text; leave out --robustness")
    threads = arguments.threads or THREADS
    return tuple(Evaluator(task.model, each, "held-out", threads, arguments.seed) for each in task.corrupted())


def _prune(
    task: Task,
    evaluator: Evaluator,
    corrupted: Sequence[Evaluator],
    choices: Sequence[Choice],
    arguments: argparse.Namespace,
    console: Console,
) -> Iterator[Pruned]:
    """The network pruned by every method to every choice that one of its layers can have."""
    model = task.model
    layers, threads = model.layers[1:-1], arguments.threads or THREADS
    statistics = collect_statistics(
        model,
        task.calibration,
        layers,
        max_samples=SAMPLES,
        threads=threads,
        seed=arguments.seed,
    )
    harm = cache(lambda: _harm(task, layers, threads, arguments.seed))
    ranges = cache(lambda: ranges_on(model, task.calibration))
    plans = [
        (choice, allocation, plan)
        for choice in choices
        if (fitting := [layer for layer in layers if _fits(layer, choice)])
        for allocation, plan in _plans(task, fitting, choice, arguments.allocations, harm)
    ]
    ways = [(method, *each) for each in plans for method in arguments.methods if _is_own(method, each[0])]
    sizes = Sizes(model)
    for method, choice, allocation, plan in track(ways, model.name, console=console, transient=True):
        weights = apply_plan(model, plan, PRUNERS[FIRST.get(method, method)], statistics)
        if choice.dtype != FLOAT:
            plan = _wholly(model, plan, choice.dtype)
            weights |= reads_of(plan) | (ranges_for(model, plan, ranges()) if plan.in_bytes else {})
        if method in FIRST:
            weights = correct(model, weights, task.calibration, plan=plan, threads=threads, seed=arguments.seed)
        else:
            weights = rounded_weights(model, plan, weights)
        try:
            values = evaluator.resampled(weights)
            robust = mean_resampled(corrupted, weights) if corrupted else None
        except DataError as error:  # onnxruntime cannot run it, or its answers are not finite
            console.print(f"{model.name}, {method}, {choice}, {allocation} is left out: {error}")
            continue
        yield Pruned(method, choice, values, sizes.of_weights(weights), allocation, robust)


def _fits(layer: Layer, choice: Choice) -> bool:
    serves = choice.dtype == FLOAT or refusal(layer, choice) is None
    return serves and applicable(layer, choice.pattern) is None


def _is_own(method: str, choice: Choice) -> bool:
    """Whether a method makes of a choice what no other does."""
    if choice.is_dense:
        return method in (BASELINE, CORRECTED)
    return method != DIRECT or shares_rows(choice)


def _wholly(model: Model, plan: Plan, dtype: str) -> Plan:
    """The plan with all layers that it does not name dense in a type, as far as there are kernels for it."""
    return Plan.of(model.digest, {**dict(dense_plan(model, dtype).choices), **dict(plan.choices)})


def _plans(
    task: Task,
    layers: Sequence[Layer],
    choice: Choice,
    allocations: Sequence[str],
    harm: Callable[[], dict[str, Curve]],
) -> Iterator[tuple[str, Plan]]:
    """The plans that have a choice's share of zeros in some layers together, by allocation."""
    model = task.model
    for allocation in allocations:
        if allocation == UNIFORM:
            ratios = uniform(layers, choice.ratio)
        elif not isinstance(choice.pattern, Unstructured):
            continue
        elif allocation == "erk":
            ratios = erdos_renyi_kernel(layers, choice.ratio)
        elif allocation == "global-magnitude":
            ratios = global_magnitude(layers, choice.ratio, model.weight)
        else:
            ratios = least_harm(layers, choice.ratio, harm())
        chosen = {name: Choice(choice.pattern, ratio, choice.dtype) for name, ratio in ratios.items() if ratio > 0}
        yield allocation, Plan.of(model.digest, chosen)


def _harm(task: Task, layers: Sequence[Layer], threads: int, seed: int) -> dict[str, Curve]:
    """How far a layer pruned alone moves the answers, by ratio of zeros and name."""
    choices = [Choice(Unstructured(), ratio) for ratio in layer_database.RATIOS]
    wanted = {layer.name: choices for layer in layers if applicable(layer, Unstructured()) is None}
    with tempfile.TemporaryDirectory(prefix="hwsparse-") as directory:
        database = LayerDatabase(
            Path(directory), task.model, task.calibration, pruner=BEST, samples=SAMPLES, threads=threads, seed=seed
        )
        database.build(wanted)
        entries = database.entries()
    return {name: {choice.ratio: entries[name, choice].harm.divergence for choice in choices} for name in wanted}


def _table(task: Task, dense: np.ndarray, found: Sequence[Pruned], dense_corrupted: np.ndarray | None) -> Table:
    """Points lost, a row for each choice and a column for each method, with another for what corruption costs it."""
    methods = list(dict.fromkeys(each.method for each in found))
    metric, samples = task.held_out.metric, len(task.held_out)
    title = f"{task.model.name}: points of {metric} lost of {100 * dense[0]:.1f}; {samples} held-out samples"
    columns = {method: _cells(dense, {each.pruned: each.values for each in found if each.method == method})
               for method in methods}  # fmt: skip
    if dense_corrupted is not None:
        title += f"; of {100 * dense_corrupted[0]:.1f} where they are corrupted"
        for method in methods:
            values = {each.pruned: each.corrupted for each in found if each.method == method}
            columns[f"{method}, corrupted"] = _cells(dense_corrupted, values)
    order = [name for method in methods for name in (method, f"{method}, corrupted") if name in columns]
    whole = Sizes(task.model).of_weights({})
    left = {each.pruned: f"{each.size.macs / whole.macs:.0%}, {each.size.parameters / whole.parameters:.0%}"
            for each in found}  # fmt: skip
    caption = (
        f"pruned after training, dense-to-sparse, static masks; every row from checkpoint {task.model.digest[:12]}, "
        f"fitted on {min(SAMPLES, task.calibration.rows)} samples, without training"
    )
    table = Table(Column(overflow="fold"), "FLOPs, parameters", *order, title=title, caption=caption)
    for pruned in left:
        table.add_row(pruned, left[pruned], *(columns[name].get(pruned, "") for name in order))
    return table


def _cells(dense: np.ndarray, values: Mapping[str, np.ndarray | None]) -> dict[str, str]:
    return {
        pruned: "{:.1f} ({:.1f} to {:.1f})".format(*points(dense - each))
        for pruned, each in values.items()
        if each is not None
    }


def _figures(dense: np.ndarray, values: Values) -> dict[str, float]:
    """In points; nan of what was not tried."""

    def drop(text: str) -> float:
        pruned = values.get((CORRECTED, parse_choice(text)))
        return math.nan if pruned is None else 100 * float(dense[0] - pruned[0])

    def gains(better: str, plain: str, choices: Iterable[Choice]) -> list[float]:
        tried = [choice for choice in choices if {(better, choice), (plain, choice)} <= values.keys()]
        return [100 * float(values[better, choice][0] - values[plain, choice][0]) for choice in tried]

    choices = list(dict.fromkeys(choice for _, choice in values))
    at = {ratio: gains(BEST, BASELINE, [each for each in choices if each.ratio == ratio]) for ratio in (0.7, 0.9)}
    regrouped = gains(REGROUPED, BEST, filter(shares_rows, choices))
    return {
        "drop_unstructured_50": drop("unstructured@0.5"),
        "drop_nm_24": drop("2:4"),
        "drop_dense_int8": drop("dense/int8"),
        # The least over the patterns.
        "obs_minus_magnitude_70": min(at[0.7], default=math.nan),
        "obs_minus_magnitude_90": min(at[0.9], default=math.nan),
        "regroup_minus_direct": sum(regrouped) / len(regrouped) if regrouped else math.nan,
        "seeds": 1.0,
    }


def _figures_of_removal(dense: np.ndarray, removed: Sequence[Removed]) -> dict[str, float]:
    """In points; nan of what was not tried."""
    drops = {each.kept: 100 * float(dense[0] - each.values[0]) for each in removed if each.method == OBS_FITTED}
    gains = [floor.points[0] for floor in removal_floors(removed) if floor.holds is not None]
    return {
        "drop_channels_80": drops.get(0.8, math.nan),
        # The least over the shares of which it is asked.
        "channels_obs_minus_magnitude": min(gains, default=math.nan),
    }


# How the figures of several networks become one.
FIGURES: dict[str, Callable[[Sequence[float]], float]] = {
    "drop_unstructured_50": max,
    "drop_nm_24": max,
    "drop_dense_int8": max,
    "obs_minus_magnitude_70": min,
    "obs_minus_magnitude_90": min,
    "regroup_minus_direct": min,
    "drop_channels_80": max,
    "channels_obs_minus_magnitude": min,
    "seeds": min,
    "floors_missed": sum,
}
