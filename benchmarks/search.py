"""Who finds the better front with as many trials: our sampler, Optuna's, dynamic programming, allocations.

Of every task the layers are timed here and pruned once; then each method tries `--trials` plans, once for each seed.
Latency is that which layers' measured times tell, quality that on samples which choose, in one shot: as a search sees
them, but for the plans that a search with a limit to what may be lost gives up early. Ours begins as searches do, with
uniform plans and the surrogate's. Optuna's begin with nothing, or, as `tpe started` and the like, with the same plans
as ours. What is compared is the area that a front beats, up to the dense network's latency and a quality of nothing,
in shares of the whole (hypervolume), after so many trials.

Then, of the first seed, each method's best plan that should be twice, and three times, as fast as dense is built, timed
beside the dense network, and judged on held-out samples, each beside ours on the same ones.

`--state DIR` keeps what was pruned and tried, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import cast, get_args

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import spdy
from benchmarks.tasks import cifar10, data_option, efficientnet_lite0, minilm
from hwsparse import compiler
from hwsparse.data import Dataset
from hwsparse.latency import CostModel, Measurement
from hwsparse.model import Model
from hwsparse.pattern import Unstructured
from hwsparse.pipeline import exploration
from hwsparse.pipeline.bench import Bench, open_bench
from hwsparse.pipeline.compilation import Workspace, layer_database
from hwsparse.pipeline.judges import Judges, appoint_judges
from hwsparse.pipeline.survey import choices_of, survey
from hwsparse.plan import Choice, Plan
from hwsparse.search import Offer, SearchSpace, build_space, uniform_plans
from hwsparse.search.additive import Additive
from hwsparse.search.database import Place, StudyIdentity, opened_study
from hwsparse.search.evaluation import evaluated_here
from hwsparse.search.pareto import hypervolume
from hwsparse.search.samplers import SamplerName
from hwsparse.search.study import SearchSettings, run_search
from hwsparse.search.trials import is_answered
from hwsparse.sparsify import Evaluator, LayerDatabase
from hwsparse.sparsify.allocation import erdos_renyi_kernel
from hwsparse.sparsify.quality import resampled_interval
from hwsparse.target import Target, load_target

PATTERNS = ("unstructured", "block4x1", "block8x1", "2:4")
RATIOS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
OURS = "front"
STOCK = ("random", "tpe", "nsga2", "gp")
STARTED = {f"{sampler} started": sampler for sampler in STOCK}  # with the plans that searches begin with
SPDY, SURROGATE, UNIFORM, ERK = "spdy", "surrogate", "uniform", "erk"
METHODS = (OURS, *STOCK, *STARTED, SPDY, SURROGATE, UNIFORM, ERK)
LEAST_OVER_STOCK, MOST_OVERHEAD_MS = 0.10, 50.0
EARLY = 25
SPEEDUPS = (2.0, 3.0)
ANCHORS = 3  # plans from dense to the sparsest, beside dense
ERK_RATIOS = np.linspace(0.3, 0.98, 25)


@dataclass(frozen=True, slots=True)
class Tried:
    """A plan that a method tried: the how manieth, and what it is worth."""

    trial: int
    plan: Plan
    latency_s: float
    quality: float


# A network, the data that a search has, few enough for hundreds of trials, and more that judge what is built.
Load = Callable[[Path | None, int], tuple[Model, Dataset, Dataset | None]]


def resnet56(data: Path | None, seed: int) -> tuple[Model, Dataset, Dataset]:
    """ResNet-56 and test images of CIFAR-10: it was trained on the others."""
    task = cifar10(56)(data, seed)
    return task.model, task.held_out.subset(range(1200)), task.held_out.subset(range(1200, 4000))


def images(data: Path | None, seed: int) -> tuple[Model, Dataset, None]:
    """EfficientNet-Lite0 and all the ImageNet images that there are."""
    return *efficientnet_lite0(data, seed), None


def sentences(data: Path | None, seed: int) -> tuple[Model, Dataset, Dataset]:
    """MiniLM-L6 and pairs of STS-B's development part; more are of its test part."""
    _, more = minilm(data, seed, "test")
    return *minilm(data, seed, pairs=240), more


TASKS: dict[str, Load] = {"resnet56": resnet56, "efficientnet-lite0": images, "minilm": sentences}


def options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this benchmark asks for."""
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--state", type=Path, default=Path("hwsparse-search"), help="directory for what is kept")
    parser.add_argument("--records", type=Path, help="file of measurements; by default in --state")
    parser.add_argument("--no-builds", action="store_true", help="leave out what is built and timed in the end")
    parser.add_argument("--plot", type=Path, help="picture to draw, as search.png")
    data_option(parser)


def run(arguments: argparse.Namespace) -> tuple[dict[str, float], object]:
    """Searches every task by every method."""
    console, target = Console(), load_target("x86-local")
    target = target.with_threads(arguments.threads or 1)
    arguments.state.mkdir(parents=True, exist_ok=True)
    curves: dict[str, dict[str, np.ndarray]] = {}
    details: dict[str, object] = {}
    for name in arguments.tasks:
        with ExitStack() as stack:
            progress = stack.enter_context(Progress(console=console, transient=True))
            task = _prepared(name, target, arguments, stack, progress)
            found = {
                method: [task.tried(method, seed) for seed in range(arguments.seeds)] for method in arguments.methods
            }
            curves[name] = {method: np.stack([task.curve(each) for each in runs]) for method, runs in found.items()}
            console.print(_curve_table(name, curves[name]))
            built: dict[str, dict[str, float]] = {}
            if not arguments.no_builds:
                built = task.built({method: runs[0] for method, runs in found.items()})
                console.print(_built_table(name, built))
        kept = {method: runs.tolist() for method, runs in curves[name].items()}
        details[name] = {"hypervolumes": kept, "built": built}
    if arguments.plot is not None:
        _draw(curves, arguments.plot)
    overhead, last_overhead = overhead_ms()
    figures = _figures(curves) | {"overhead_ms": overhead, "overhead_last_quarter_ms": last_overhead}
    console.print(_floors(figures))
    return figures, details


@dataclass(frozen=True, slots=True)
class _Value:
    """A quality as a search takes it, of which nobody here reads more than the value."""

    value: float

    @property
    def interval(self) -> tuple[float, float]:
        return self.value, self.value

    @property
    def drop_error(self) -> float:
        return 0.0


@dataclass(frozen=True, slots=True)
class _Task:
    """A network whose layers are timed and pruned."""

    name: str
    model: Model
    judges: Judges
    more: Evaluator  # who judges what is built
    space: SearchSpace
    ours: SearchSpace  # with the uniform plans that `optimize` tries
    whole: SearchSpace  # with what another choice beats, too
    database: LayerDatabase
    costs: CostModel
    bench: Bench
    state: Path
    trials: int
    progress: Progress
    known: dict[str, float]  # qualities, by plan

    def quality(self, plan: Plan) -> _Value:
        """On the samples that choose; kept."""
        text = plan.to_json()
        if text not in self.known:
            value = self.judges.choosing.evaluate(self.database.weights(plan)).value
            with open(self.state / f"{self.name}.jsonl", "a") as file:
                file.write(json.dumps([text, value]) + "\n")
            self.known[text] = value
        return _Value(self.known[text])

    def latency_s(self, plan: Plan) -> float:
        """The sum of the layers' times."""
        return self.costs.compose(self.model, plan).latency_s

    def tried(self, method: str, seed: int) -> list[Tried]:
        """What a method tried."""
        bar = self.progress.add_task(f"{self.name}: {method}, seed {seed}", total=self.trials)
        sampler = STARTED.get(method, method)
        if sampler in get_args(SamplerName):
            identity = StudyIdentity(self.model.digest, "", self.bench.target.name, "", 1, method, (str(seed),))
            settings = SearchSettings(self.trials, seed, cast(SamplerName, sampler))
            if method in STOCK:  # from the first trial on
                settings = replace(settings, seed_share=0.0)
            place = Place(self.state / f"{self.name}-{method}-{seed}.sqlite")
            with opened_study(place, self.name, identity) as study:
                evaluate = evaluated_here(lambda plan, at_least: self.quality(plan))
                space = self.space if method in STOCK else self.ours
                candidates = run_search(
                    study, space, evaluate, partial(self.costs.compose, self.model), settings,
                    on_trial=lambda trial: self.progress.update(bar, completed=trial.done),
                )  # fmt: skip
                # A trial that was interrupted has a number too.
                places = {trial.number: place for place, trial in enumerate(filter(is_answered, study.trials()))}
            return [Tried(places[each.trial or 0], each.plan, each.latency_s, each.quality) for each in candidates]
        plans = self._plans(method, seed)
        found = []
        for number, plan in enumerate(plans):
            found.append(Tried(number, plan, self.latency_s(plan), self.quality(plan).value))
            self.progress.update(bar, completed=number + 1, total=len(plans))
        return found

    def _plans(self, method: str, seed: int) -> Sequence[Plan]:
        additive = Additive(self.space)
        if method == SPDY:
            rows, _ = spdy.search(additive, lambda row: self.quality(additive.plan(row)).value, self.trials, seed)
            return [additive.plan(row) for row in rows]
        if method == SURROGATE:
            front = additive.front()
            spread = np.linspace(0, len(front) - 1, min(self.trials, len(front))).round().astype(int)
            # From coarse to fine, so that fewer trials see the whole range too.
            order = np.argsort(np.argsort([_turn(number) for number in range(len(spread))]))
            return [additive.plan(front[at]) for at in spread[order]]
        if method == UNIFORM:
            return [Plan(self.model.digest), *uniform_plans(self.whole)]
        return [Plan(self.model.digest), *map(self._erk, ERK_RATIOS)]

    def _erk(self, ratio: float) -> Plan:
        """Unstructured zeros shared out by layers' shapes, each layer at the nearest ratio that it has."""
        free = {layer.layer: [each.choice for each in layer.options] for layer in self.whole.free}
        wanted = erdos_renyi_kernel([layer for layer in self.model.layers if layer.name in free], ratio)
        chosen = {}
        for name, choices in free.items():
            alike = [each for each in choices if each.is_dense or isinstance(each.pattern, Unstructured)]
            chosen[name] = min(alike, key=lambda choice: abs(choice.ratio - wanted[name]))
        return Plan.of(self.model.digest, chosen)

    def curve(self, tried: Sequence[Tried]) -> np.ndarray:
        """After each trial the share (trials,) that is beaten of dense latency times dense quality."""
        dense = Plan(self.model.digest)
        reference = self.latency_s(dense), 0.0
        whole = reference[0] * self.quality(dense).value
        areas = [hypervolume([each for each in tried if each.trial <= n], reference) for n in range(self.trials)]
        return np.array(areas) / whole

    def built(self, runs: Mapping[str, Sequence[Tried]]) -> dict[str, dict[str, float]]:
        """Each method's best plans that should be so many times as fast as dense, built, timed and judged.

        How fast they should be is told as a search tells it: with what lies between layers, fitted to a few plans that
        were built before.
        """
        dense, additive = Plan(self.model.digest), Additive(self.space)
        front = additive.front()
        anchors = [dense, *(additive.plan(front[len(front) * share // ANCHORS - 1]) for share in range(1, ANCHORS + 1))]
        times = self._timed(anchors)
        costs = self.costs.fit_network(self.model, [(plan, times[plan.digest]) for plan in dict.fromkeys(anchors)])
        picked: dict[tuple[str, float], Plan] = {}
        for method, tried in runs.items():
            for speedup in SPEEDUPS:
                most_s = times[dense.digest].median_s / speedup
                if fast := [each for each in tried if costs.predict_model(self.model, each.plan).latency_s <= most_s]:
                    picked[method, speedup] = max(fast, key=lambda each: each.quality).plan
        times = self._timed([dense, *picked.values()])
        # On the same resamples, so that what is told of two plans is told of pairs.
        worth = {plan: self.more.resampled(self.database.weights(plan)) for plan in {dense, *picked.values()}}
        found = {}
        for (method, speedup), plan in picked.items():
            row = {"speedup": times[dense.digest].median_s / times[plan.digest].median_s}
            row |= _told("lost", worth[dense] - worth[plan])
            if ours := picked.get((OURS, speedup)):
                row |= _told("behind", worth[ours] - worth[plan])
            found[f"{method} {speedup:g}x"] = row
        return found

    def _timed(self, plans: Iterable[Plan]) -> dict[str, Measurement]:
        """Plans built and timed in turns, by their digests."""
        with tempfile.TemporaryDirectory(prefix="hwsparse-") as scratch:
            directories = {}
            for plan in dict.fromkeys(plans):
                directory = Path(scratch, plan.digest[:16])
                directory.mkdir()
                compiler.build(
                    self.model, plan, self.database.weights(plan), self.bench.target,
                    self.costs.kernels(self.model, plan), self.judges.sample, directory,
                )  # fmt: skip
                directories[plan.digest] = directory
            return self.bench.time_networks(directories)


def _told(what: str, differences: np.ndarray) -> dict[str, float]:
    """A difference, and its interval of 95 %."""
    low, high = resampled_interval(differences)
    return {what: float(differences[0]), f"{what}_low": low, f"{what}_high": high}


def _prepared(name: str, target: Target, arguments: argparse.Namespace, stack: ExitStack, progress: Progress) -> _Task:
    """A task with its layers timed and pruned, as a search does it."""
    model, dataset, more = TASKS[name](arguments.data, arguments.seed)
    judges = appoint_judges(model, dataset, target, arguments.seed)
    judge = judges.reporting if more is None else Evaluator(model, more, "held-out", target.cores, arguments.seed)
    records = arguments.records or arguments.state / "records.sqlite"
    bench = stack.enter_context(open_bench(target, records, partial(datetime.now, timezone.utc)))
    database = layer_database(Workspace(arguments.state / name, records), model, judges, target, arguments.seed)
    bar = progress.add_task(name)

    def on_stage(stage: str, done: int, total: int) -> None:
        progress.update(bar, description=f"{name}: {stage}", completed=done, total=total)

    offers, costs = survey(model, database, target, choices_of(target, PATTERNS, RATIOS), None, bench, on_stage)
    choices = choices_of(target, PATTERNS, RATIOS)
    shipped = [choice for choice in choices if str(choice) in exploration.UNIFORM]
    space, ours, whole = (build_space(model.digest, offers, uniform=each) for each in ((), shipped, choices))
    kept = arguments.state / f"{name}.jsonl"
    known = dict(json.loads(line) for line in kept.read_text().splitlines()) if kept.exists() else {}
    return _Task(
        name, model, judges, judge, space, ours, whole, database, costs, bench, arguments.state, arguments.trials,
        progress, known,
    )  # fmt: skip


def _turn(number: int) -> float:
    """Where a number comes in van der Corput's order, in which every beginning is spread over the whole."""
    place, share = 0.0, 0.5
    while number:
        place, share, number = place + share * (number & 1), share / 2, number >> 1
    return place


def overhead_ms(layers: int = 60, options: int = 40, trials: int = 100) -> tuple[float, float]:
    """What a trial takes beside its evaluation, in a space of so many layers and options.

    Returns:
        The mean, and that of the last quarter, which know the most trials.
    """
    rng = np.random.default_rng(0)
    model = "0" * 64
    offers = {}
    for layer in range(layers):
        ratios = np.sort(rng.uniform(0.3, 0.99, options - 1)).round(4)
        offers[f"layer{layer}"] = [Offer(Choice(), 1.0, (1.0, 1.0), 0.0)] + [
            Offer(Choice(Unstructured(), ratio), 1.1 - ratio, (1.1 - ratio,) * 2, rng.uniform(0.5, 1.5) * ratio**2)
            for ratio in dict.fromkeys(map(float, ratios))
        ]
    space = build_space(model, offers)
    additive = Additive(space)

    def latency(plan: Plan) -> _Latency:
        return _Latency(float(additive.latencies(additive.row(texts(plan))[None])[0]))

    def texts(plan: Plan) -> dict[str, str]:
        return {name: str(choice) for name, choice in plan.choices}

    def quality(plan: Plan) -> _Value:
        return _Value(math.exp(-float(additive.errors(additive.row(texts(plan))[None]).sum()) / 10))

    identity = StudyIdentity(model, "", "", "", 1, "", ())
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="hwsparse-"))
        study = stack.enter_context(opened_study(Place(Path(scratch, "study.sqlite")), "overhead", identity))
        ends = [time.perf_counter()]
        run_search(
            study, space, evaluated_here(lambda plan, at_least: quality(plan)), latency, SearchSettings(trials),
            on_trial=lambda trial: ends.append(time.perf_counter()),
        )  # fmt: skip
        last = max(trials // 4, 1)
        return 1e3 * (ends[-1] - ends[0]) / trials, 1e3 * (ends[-1] - ends[-1 - last]) / last


@dataclass(frozen=True, slots=True)
class _Latency:
    latency_s: float
    source: str = "predicted"

    @property
    def interval_s(self) -> tuple[float, float]:
        return self.latency_s, self.latency_s


def _figures(curves: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Of the task where ours is ahead by least; nan where what it is compared with was not tried."""

    def ahead(of: Callable[[Mapping[str, np.ndarray]], float | None]) -> float:
        found = [value for methods in curves.values() if OURS in methods and (value := of(methods)) is not None]
        return min(found, default=math.nan)

    def last(runs: np.ndarray) -> float:
        return float(runs[:, -1].mean())

    def over_stock(methods: Mapping[str, np.ndarray], at: int = -1, stock: Iterable[str] = STOCK) -> float | None:
        found = [last(methods[each]) for each in stock if each in methods]
        return float(methods[OURS][:, at].mean()) / max(found) - 1 if found else None

    def over(other: str, methods: Mapping[str, np.ndarray]) -> float | None:
        return last(methods[OURS]) / last(methods[other]) - 1 if other in methods else None

    early = min(EARLY, *(runs.shape[1] for methods in curves.values() for runs in methods.values()))
    return {
        "over_stock": ahead(over_stock),
        f"over_stock_after_{EARLY}": ahead(partial(over_stock, at=early - 1)),
        "over_started": ahead(partial(over_stock, stock=STARTED)),
        "over_spdy": ahead(partial(over, SPDY)),
        "over_surrogate": ahead(partial(over, SURROGATE)),
    }


def _curve_table(name: str, methods: Mapping[str, np.ndarray]) -> Table:
    trials = next(iter(methods.values())).shape[1]
    marks = [mark for mark in (10, 25, 50, 100) if mark <= trials]
    title = (
        f"{name}: hypervolume after so many trials, in shares of the whole; mean and deviation where seeds are several"
    )
    table = Table("method", *map(str, marks), title=title)
    for method, runs in sorted(methods.items(), key=lambda item: -float(item[1][:, -1].mean())):
        found = [runs[:, mark - 1] for mark in marks]
        spreads = [f" ± {statistics.stdev(each):.4f}" if len(each) > 1 else "" for each in found]
        table.add_row(method, *(f"{each.mean():.4f}{spread}" for each, spread in zip(found, spreads, strict=True)))
    return table


def _built_table(name: str, built: Mapping[str, Mapping[str, float]]) -> Table:
    columns = "method, asked", "speed-up measured", "points lost, held out", "points behind ours"
    table = Table(*columns, title=f"{name}: built, seed 0")
    for what, row in built.items():
        told = [
            f"{100 * row[key]:.1f} ({100 * row[f'{key}_low']:.1f} to {100 * row[f'{key}_high']:.1f})"
            for key in ("lost", "behind")
            if key in row
        ]
        table.add_row(what, f"{row['speedup']:.2f}x", *told)
    return table


def _floors(figures: Mapping[str, float]) -> Table:
    table = Table("", "", "holds", title="floors, by the task where ours is ahead by least")
    for what, key, least in (
        (f"over Optuna's best, at least {LEAST_OVER_STOCK:.0%}", "over_stock", LEAST_OVER_STOCK),
        (f"after {EARLY} trials over theirs after all", f"over_stock_after_{EARLY}", 0.0),
        ("over dynamic programming", "over_spdy", 0.0),
    ):
        held = "not tried" if math.isnan(figures[key]) else "yes" if figures[key] >= least else "[bold red]NO"
        table.add_row(what, f"{figures[key]:.1%}", held)
    overhead = figures["overhead_ms"]
    held = "yes" if overhead <= MOST_OVERHEAD_MS else "[bold red]NO"
    table.add_row(f"a trial's overhead, at most {MOST_OVERHEAD_MS:g} ms", f"{overhead:.0f} ms", held)
    return table


def _draw(curves: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> None:
    """Hypervolume over trials, a picture for each task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(6 * len(curves), 4.5), squeeze=False)
    for axis, (name, methods) in zip(axes[0], curves.items(), strict=True):
        for method, runs in methods.items():
            trials = np.arange(1, runs.shape[1] + 1)
            (line,) = axis.plot(trials, runs.mean(0), label=method, linewidth=2.5 if method == OURS else 1.2)
            axis.fill_between(trials, runs.min(0), runs.max(0), color=line.get_color(), alpha=0.15)
        axis.set(title=name, xlabel="trials", ylabel="hypervolume, share of the whole")
        axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
