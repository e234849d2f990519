"""How far predicted latencies are off: of layers never measured, of whole networks, of the same thing once more.

    layers     every distinct layer of the networks is measured under every pattern and ratio; each is predicted from
               measurements of other layers alone (in ten parts, and once more network by network), and the same with so
               few of its own that the rest is to be known within `--within`
    second     a network of the family, ResNet-34, measured no further than that, then in full
    networks   random plans are built, timed end to end and weighed; some fit what lies between layers, the others are
               predicted: latency, bytes of files and of memory
    repeats    some layers are measured anew, in fresh processes, again and again

What is measured is kept in `--records FILE` and not measured again, but for repeats and whole networks. With
`--plot FILE` predicted is drawn against measured.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy.stats import spearmanr

from benchmarks.models.resnet import resnet34
from benchmarks.networks import NETWORKS
from benchmarks.repeats import repeats
from hwsparse import compiler
from hwsparse.codegen import random_inputs
from hwsparse.latency import (
    CalibrationReport,
    CostModel,
    Footprints,
    Measurement,
    Workload,
    layer_settings,
    stored_bytes,
)
from hwsparse.latency.learned import Describe
from hwsparse.model import Model
from hwsparse.pipeline.bench import Bench, Steps, open_bench
from hwsparse.pipeline.survey import choices_of
from hwsparse.pipeline.thrift import LOOKS, describe, every_option, measure_layers
from hwsparse.plan import Choice, Plan
from hwsparse.probe import ALLOWED_CPUS
from hwsparse.sparsify import apply_plan
from hwsparse.target import Target, load_target

RATIOS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
FOLDS = 10
# Of the random plans, those that what lies between layers is fitted to.
FITTED = 8
PARTS = ("layers", "second", "networks", "repeats")
ACROSS = 3  # pictures in a row
AIDED = ", some of their own measured"


@dataclass(frozen=True, slots=True)
class Pair:
    """A prediction, and what was measured of the same thing afterwards or apart from it; of bytes without interval."""

    what: str
    predicted_s: float
    interval_s: tuple[float, float] | None
    in_domain: bool
    measured_s: float

    @property
    def error(self) -> float:
        """Relative."""
        return self.predicted_s / self.measured_s - 1

    @property
    def covered(self) -> bool:
        return self.interval_s is not None and self.interval_s[0] <= self.measured_s <= self.interval_s[1]


def options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this benchmark asks for."""
    parser.add_argument("--target", default="x86-local")
    parser.add_argument("--models", nargs="+", choices=sorted(NETWORKS), default=sorted(NETWORKS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--within", type=float, default=0.08, help="how surely layers are to be predicted, relative")
    parser.add_argument("--plans", type=int, default=40, help="random plans of each network that are predicted")
    parser.add_argument("--repeats", type=int, default=5, help="separate runs of the same workloads")
    parser.add_argument("--records", type=Path, help="file of measurements to go on with; by default none")
    parser.add_argument("--plot", type=Path, help="picture to draw, as latency.png")


def run(arguments: argparse.Namespace) -> tuple[dict[str, float], object]:
    """Measures, predicts and compares."""
    console, target = Console(), load_target(arguments.target)
    target = target.with_threads(arguments.threads or 1)
    networks = {name: NETWORKS[name].build(1) for name in arguments.models}
    figures = dict.fromkeys(KEYS, math.nan)
    pairs: dict[str, list[Pair]] = {}
    sizes: dict[str, list[Pair]] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hwsparse-")))
        records = arguments.records or scratch / "records.sqlite"
        bench = stack.enter_context(open_bench(target, records, partial(datetime.now, timezone.utc)))
        progress = stack.enter_context(Progress(console=console, transient=True))
        table: dict[str, Mapping[Workload, Measurement]] = {}
        for name, model in networks.items():
            began = time.monotonic()
            report = _measured(model, bench, progress, console)
            table[name], took = report.table, time.monotonic() - began
            console.print(f"{name}: {len(report.table)} workloads, {report.measured} of them now, in {took:.0f} s")
            if name == "resnet50" and report.measured == len(report.table):
                figures["table_s"] = took
        if "layers" in arguments.parts:
            pairs |= _layers(table, describe(target), arguments.within)
            alone, aided = pairs["layers"], pairs[f"layers{AIDED}"]
            figures |= _layer_figures("layer", aided)
            figures |= _layer_figures("alone", alone)
            figures["layer_share"] = 1 - len(aided) / len(alone)
        if "second" in arguments.parts:
            second = resnet34()
            pairs[second.name], more = _second(second, bench, arguments.within, progress, console)
            figures |= more
        if "networks" in arguments.parts:
            for name, model in networks.items():
                costs = CostModel.fit(table[name])
                plans = _built(model, costs, bench, arguments.plans, arguments.seed, scratch, progress)
                pairs[name] = _networks(model, costs, bench, plans)
                sizes |= {f"{what} of {name}": found for what, found in _weighed(model, costs, bench, plans).items()}
                # At once: the next network takes a quarter of an hour.
                console.print(_table({each: found for each, found in (pairs | sizes).items() if name in each}))
            figures |= _network_figures([pairs[name] for name in networks])
            for what in ("files", "memory"):
                figures[f"{what}_median_err"] = max(_median_error(sizes[f"{what} of {name}"]) for name in networks)
        if "repeats" in arguments.parts:
            figures |= repeats(table, target, arguments.repeats, arguments.seed, scratch, progress, console)
    console.print(_table(pairs | sizes))
    console.print(_verdicts(figures))
    if arguments.plot is not None and pairs:
        _draw(pairs, arguments.plot)
    return figures, {name: [_told(pair) for pair in found] for name, found in (pairs | sizes).items()}


KEYS = (
    "layer_rmspe", "layer_within10", "layer_coverage90", "layer_share", "alone_rmspe", "alone_within10",
    "alone_coverage90", "second_rmspe", "second_within10", "second_coverage90", "second_s", "second_share",
    "model_median_err", "model_within10", "model_rank_corr", "files_median_err", "memory_median_err", "repeat_spread",
    "repeat_coverage95", "table_s",
)  # fmt: skip
# What a figure is to be: at least, and at most.
FLOORS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "layer_rmspe": (0, 6),
        "layer_within10": (95, 100),
        "layer_coverage90": (85, 95),
        "alone_rmspe": (0, 6),
        "alone_within10": (95, 100),
        "alone_coverage90": (85, 95),
        "second_rmspe": (0, 6),
        "second_within10": (95, 100),
        "second_coverage90": (85, 95),
        "second_s": (0, 0.3 * 720),
        "model_median_err": (0, 4),
        "model_within10": (95, 100),
        "model_rank_corr": (0.98, 1),
        "repeat_spread": (0, 0.03),
        "table_s": (0, 720),
    }
)


def _measured(model: Model, bench: Bench, progress: Progress, console: Console) -> CalibrationReport:
    """Every distinct layer, dense and in every way that it can be pruned."""
    report = bench.calibrate(
        model, every_option(model, _choices(bench.target)), _bar(progress, f"{model.name}: layers")
    )
    for failure in report.failures.values():
        console.print(f"not measured: {failure.key} ({failure.stage}): {failure.reason}")
    return report


def _bar(progress: Progress, title: str) -> Steps:
    task = progress.add_task(title)
    return lambda done, total: progress.update(task, completed=done, total=total)


def _tenths(every: Mapping[Workload, Measurement]) -> list[set[str]]:
    """All layers' signatures in ten parts, drawn at random."""
    signatures = sorted({workload.signature for workload in every})
    np.random.default_rng(0).shuffle(signatures)
    return [set(signatures[part::FOLDS]) for part in range(FOLDS)]


def _layers(
    table: Mapping[str, Mapping[Workload, Measurement]], describe: Describe, within: float
) -> dict[str, list[Pair]]:
    """Layers in tenths, and network by network, predicted from others; the same with some of their own measured."""
    every = {workload: taken for each in table.values() for workload, taken in each.items()}
    parts = {"layers": _tenths(every)}
    if len(table) > 1:
        parts |= {f"layers of {name}": [{each.signature for each in own}] for name, own in table.items()}
    found = {}
    for name, left_out in parts.items():
        found[name], found[f"{name}{AIDED}"] = _predicted(every, left_out, describe, within)
    return found


def _predicted(
    every: Mapping[Workload, Measurement], parts: Sequence[set[str]], describe: Describe, within: float
) -> tuple[list[Pair], list[Pair]]:
    """Layers of each part, by signature, predicted from all others; the same with some of their own measured."""
    truth, alone, aided = CostModel.fit(every), list[Pair](), list[Pair]()
    for part in parts:
        known = {workload: taken for workload, taken in every.items() if workload.signature not in part}
        costs = CostModel.fit(known).learn(describe)
        assert costs.learned is not None
        left_out: dict[str, dict[Choice, Workload]] = {}
        for workload in every:
            if workload.signature in part:
                left_out.setdefault(workload.signature, {})[workload.choice] = workload
        own, better = dict[Workload, Measurement](), costs
        for _ in range(LOOKS):
            own |= {
                ways[choice]: every[ways[choice]]
                for signature, ways in left_out.items()
                for choice in costs.learned.wanted(signature, list(ways), better.known(signature), within)
            }
            better = CostModel.fit(known | own, costs.learned)
        for workload in (each for ways in left_out.values() for each in ways.values()):
            alone.append(_pair(workload, costs, truth))
            if workload not in own:
                aided.append(_pair(workload, better, truth))
    return alone, aided


def _pair(workload: Workload, costs: CostModel, truth: CostModel) -> Pair:
    guess = costs.predict(workload)
    return Pair(workload.key, guess.latency_s, guess.interval_s, guess.in_domain, truth.predict(workload).latency_s)


def _second(
    model: Model, bench: Bench, within: float, progress: Progress, console: Console
) -> tuple[list[Pair], dict[str, float]]:
    """Another network: what it takes to measure what the others do not tell, and how far off the rest is."""
    began = time.monotonic()
    times = measure_layers(
        bench,
        model,
        every_option(model, _choices(bench.target)),
        within,
        _bar(progress, f"{model.name}: some layers"),
        layer_settings(bench.target),
    )
    took, costs = time.monotonic() - began, times.costs
    every = _measured(model, bench, progress, console).table
    truth = CostModel.fit(every)
    pairs = [_pair(workload, costs, truth) for workload in every if workload not in times.table]
    fresh = times.report.measured
    console.print(
        f"{model.name}: {fresh} workloads measured in {took:.0f} s tell the other {len(pairs)}; "
        f"{len(every) - len(pairs) - fresh} were on record"
    )
    if not (pairs and fresh):
        return pairs, {}
    return pairs, _layer_figures("second", pairs) | {"second_s": took, "second_share": fresh / (fresh + len(pairs))}


def _built(
    model: Model, costs: CostModel, bench: Bench, count: int, seed: int, scratch: Path, progress: Progress
) -> dict[Plan, Path]:
    """Libraries of the dense network and of random plans, built side by side, by their plans."""
    rng = np.random.default_rng(seed)
    plans = [
        Plan(model.digest),
        *(_random_plan(model, costs, _choices(bench.target), rng) for _ in range(FITTED + count - 1)),
    ]
    directories = {plan: scratch / plan.digest[:16] for plan in plans}
    task = progress.add_task(f"{model.name}: whole networks", total=len(directories))
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(ALLOWED_CPUS), spawned, initializer=_hold, initargs=(model,)) as pool:
        built = [
            pool.submit(_build, plan, bench.target, directory, costs.kernels(model, plan))
            for plan, directory in directories.items()
        ]
        for each in as_completed(built):
            each.result()
            progress.advance(task)
    return directories


_held: list[Model] = []  # by a process that builds: a model is large


def _hold(model: Model) -> None:
    _held.append(model)


def _build(plan: Plan, target: Target, directory: Path, kernels: Mapping[str, str]) -> None:
    (model,) = _held
    directory.mkdir()
    compiler.build(model, plan, apply_plan(model, plan), target, kernels, random_inputs(model.inputs, 0), directory)


def _networks(model: Model, costs: CostModel, bench: Bench, plans: Mapping[Plan, Path]) -> list[Pair]:
    """Some plans fit the network's residual, the others are predicted and measured."""
    times = bench.time_networks({plan.digest: directory for plan, directory in plans.items()})
    measured = [(plan, times[plan.digest]) for plan in plans]
    fitted = costs.fit_network(model, measured[:FITTED])
    pairs = []
    for plan, taken in measured[FITTED:]:
        guess = fitted.predict_model(model, plan)
        truth = fitted.at_usual_clock(taken)
        pairs.append(Pair(plan.digest[:16], guess.latency_s, guess.interval_s, guess.in_domain, truth))
    return pairs


def _weighed(model: Model, costs: CostModel, bench: Bench, plans: Mapping[Plan, Path]) -> dict[str, list[Pair]]:
    """The same plans fit what files and memory take beyond layers, and are predicted, in bytes."""
    weighed = bench.weigh_networks({plan.digest: directory for plan, directory in plans.items()})
    tell = describe(bench.target)
    stored = [stored_bytes(model, plan, costs.kernels(model, plan), tell) for plan in plans]
    found = list(zip(plans, stored, (weighed[plan.digest] for plan in plans), strict=True))
    footprints = Footprints.fit((stored, footprint) for _, stored, footprint in found[:FITTED])
    pairs: dict[str, list[Pair]] = {"files": [], "memory": []}
    for plan, layers, truth in found[FITTED:]:
        guess = footprints.predict(layers)
        for what, one, other in (
            ("files", guess.file_bytes, truth.file_bytes),
            ("memory", guess.memory_bytes, truth.memory_bytes),
        ):
            if one is not None and other is not None:
                pairs[what].append(Pair(plan.digest[:16], one, None, True, other))
    return pairs


def _random_plan(model: Model, costs: CostModel, every: Sequence[Choice], rng: np.random.Generator) -> Plan:
    """A fifth of the layers dense, every other one pruned in one of the ways that it was measured in."""
    choices = {}
    for layer in model.layers:
        known = [choice for choice in every if costs.knows(layer, choice)]
        if known and rng.random() > 0.2:
            choices[layer.name] = known[rng.integers(len(known))]
    return Plan.of(model.digest, choices)


def _choices(target: Target) -> tuple[Choice, ...]:
    """All of the target's patterns: N:M as they are, the others at every ratio."""
    return choices_of(target, (), RATIOS)


def _layer_figures(name: str, pairs: Sequence[Pair]) -> dict[str, float]:
    if not pairs:  # everything was measured
        return {}
    errors = np.array([pair.error for pair in pairs])
    return {
        f"{name}_rmspe": 100 * float(np.sqrt((errors**2).mean())),
        f"{name}_within10": 100 * float((np.abs(errors) <= 0.1).mean()),
        f"{name}_coverage90": 100 * statistics.mean(pair.covered for pair in pairs),
    }


def _network_figures(networks: Sequence[Sequence[Pair]]) -> dict[str, float]:
    """Of the network that is predicted worst."""
    errors = [np.abs([pair.error for pair in pairs]) for pairs in networks]
    return {
        "model_median_err": max(map(_median_error, networks)),
        "model_within10": 100 * min(float((each <= 0.1).mean()) for each in errors),
        "model_rank_corr": min(_rank_correlation(pairs) for pairs in networks),
    }


def _median_error(pairs: Sequence[Pair]) -> float:
    """In percent."""
    return 100 * float(np.median([abs(pair.error) for pair in pairs]))


def _rank_correlation(pairs: Sequence[Pair]) -> float:
    """Spearman's."""
    return float(spearmanr([pair.predicted_s for pair in pairs], [pair.measured_s for pair in pairs]).statistic)


def _table(pairs: Mapping[str, Sequence[Pair]]) -> Table:
    table = Table("", "predictions", "in domain", "RMSPE", "median error", "within 10 %", "in the interval", "rank")
    for name, found in pairs.items():
        inside = [pair for pair in found if pair.in_domain]
        for title, some in ((name, found), ("  in domain", inside if len(inside) < len(found) else [])):
            if len(some) < 2:
                continue
            errors = np.array([pair.error for pair in some])
            table.add_row(
                title,
                str(len(some)),
                f"{statistics.mean(pair.in_domain for pair in some):.0%}",
                f"{np.sqrt((errors**2).mean()):.1%}",
                f"{np.median(np.abs(errors)):.1%}",
                f"{(np.abs(errors) <= 0.1).mean():.1%}",
                "" if some[0].interval_s is None else f"{statistics.mean(pair.covered for pair in some):.1%}",
                f"{_rank_correlation(some):.4f}",
            )
    return table


def _verdicts(figures: Mapping[str, float]) -> Table:
    """Of what was asked for."""
    table = Table("", "figure", "is to be", "holds")
    for name, (least, most) in FLOORS.items():
        if math.isnan(figure := figures[name]):
            table.add_row(name, "not measured", f"{least:g} to {most:g}", "")
        else:
            table.add_row(name, f"{figure:.4g}", f"{least:g} to {most:g}", "yes" if least <= figure <= most else "NO")
    return table


def _draw(pairs: Mapping[str, Sequence[Pair]], path: Path) -> None:
    from matplotlib import pyplot

    columns = min(ACROSS, len(pairs))
    rows = -(-len(pairs) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(5 * columns, 5 * rows), squeeze=False)
    for axis in axes.flat[len(pairs) :]:
        axis.set_axis_off()
    for (name, found), axis in zip(pairs.items(), axes.flat, strict=False):
        measured, predicted = (
            [1e3 * getattr(pair, which) for pair in found] for which in ("measured_s", "predicted_s")
        )
        ends = [min(measured), max(measured)]
        axis.plot(measured, predicted, ".", alpha=0.5)
        axis.plot(ends, ends, "k-", linewidth=0.8)
        if ends[1] > 5 * ends[0]:
            axis.set(xscale="log", yscale="log")
        axis.fill_between(ends, [0.9 * end for end in ends], [1.1 * end for end in ends], alpha=0.15)
        axis.set(title=name, xlabel="measured, ms", ylabel="predicted, ms")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _told(pair: Pair) -> dict[str, object]:
    return {
        "what": pair.what,
        "predicted_s": pair.predicted_s,
        "interval_s": pair.interval_s,
        "in_domain": pair.in_domain,
        "measured_s": pair.measured_s,
    }
