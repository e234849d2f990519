"""Every distinct layer of the benchmarks' networks on its own, dense and sparse, against what this machine can do.

Where several kernels serve a layer, all are timed and the fastest counts.

Speed is effective: 2 flops for each multiply-add of the dense layer, whether a zero spares it or not. The share of the
limit counts those alone that zeros do not spare. The limit is measured in the same run: one multiply-add for every
vector loaded from L1; kernels that share what they load may pass it, as far as the peak of multiply-adds from
registers. Means over layers are geometric. With `--dtype` layers that are as sparse are timed in another type as well.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.limits import build_limit
from benchmarks.networks import NETWORKS, distinct_layers, sparse_choice
from hwsparse.codegen import KERNEL_VERSION, build_layer, kernels_for, refusal
from hwsparse.errors import InputError, MeasureError
from hwsparse.latency import LocalRunner, Measurement, Outcome, RunSettings, Toolchain
from hwsparse.pipeline import DTYPES
from hwsparse.plan import Choice, Layer
from hwsparse.sparsify import applicable
from hwsparse.target import Target, load_target

LOADER = "benchmarks.limits:Measured"
LIMIT, PEAK = "limit, a load from L1 each", "peak, from registers"
DENSE = Choice()
WIDTH = 156  # of the table in a file or pipe: a layer's signature is long


def options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this benchmark asks for."""
    parser.add_argument("--models", nargs="+", choices=sorted(NETWORKS), default=sorted(NETWORKS))
    parser.add_argument("--pattern", help="of the sparse layers: unstructured, block4x1, ...; without it dense only")
    parser.add_argument("--sparsity", type=float, help="their share of zeros, between 0 and 1")
    parser.add_argument("--dtype", choices=DTYPES, default=DENSE.dtype, help="of the sparse layers, beside float32")
    parser.add_argument("--target", default="x86-local", help="that this machine runs: x86-local, x86-avx2, ...")


def run(arguments: argparse.Namespace) -> tuple[dict[str, float], object]:
    """Builds, times and compares."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if (arguments.pattern is None) != (arguments.sparsity is None):
        raise InputError("--pattern and --sparsity go together")
    target = load_target(arguments.target)
    if arguments.threads:
        target = target.with_threads(arguments.threads)
    target.require_timing()
    choices = [DENSE]
    if arguments.pattern is not None:
        choices.append(sparse_choice(arguments.pattern, arguments.sparsity))
        if arguments.dtype != DENSE.dtype:
            choices.append(replace(choices[-1], dtype=arguments.dtype))
        target.require(choices[-1])
    elif arguments.dtype != DENSE.dtype:
        raise InputError("--dtype is of the sparse layers: give --pattern and --sparsity")
    layers = distinct_layers([NETWORKS[name].build(1) for name in arguments.models])
    wanted = [
        _Wanted(layer, choice, kernels_for(layer, choice, target))
        for choice in choices
        for layer in layers
        if _can_be(layer, choice)
    ]
    with tempfile.TemporaryDirectory(prefix="hwsparse-kernels-") as scratch:
        flops, directories = _build(wanted, target, arguments.seed, Path(scratch), console)
        toolchain = Toolchain.of(target, KERNEL_VERSION)
        settings = RunSettings(threads=target.threads, tolerance=1e-4)
        with LocalRunner(toolchain, lambda: datetime.now(timezone.utc), loader=LOADER) as runner:
            outcomes = runner.run_many(directories, settings)
    taken = {key: _measured(outcome) for key, outcome in outcomes.items()}
    speeds = {key: flops[key] / measurement.median_s for key, measurement in taken.items()}
    fastest = {each: max(each.keys, key=lambda key: speeds[key]) for each in wanted}
    console.print(_table(fastest, taken, speeds, f"{target.name}, threads: {target.threads}"))
    figures = {"limit_gflops": speeds[LIMIT] / 1e9, "peak_gflops": speeds[PEAK] / 1e9}
    for prefix, choice in zip(("", "sparse_", "typed_"), choices, strict=False):
        reached = [speeds[key] for each, key in fastest.items() if each.choice == choice]
        mean = statistics.geometric_mean(reached) if reached else math.nan
        share = mean * (1 - choice.ratio) / speeds[LIMIT]
        figures |= {f"{prefix}gflops_mean": mean / 1e9, f"{prefix}share_of_limit_mean": share}
    if len(choices) == 3:
        figures["typed_over_sparse"] = _gained(choices[2], choices[1], fastest, speeds)
    return figures, {key: {"flops": flops[key], "samples_s": taken[key].samples_s} for key in speeds}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A layer under a choice, and the kernels that serve it."""

    layer: Layer
    choice: Choice
    kernels: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(f"{self.layer.signature} {self.choice} {kernel}" for kernel in self.kernels)


def _gained(better: Choice, plain: Choice, fastest: Mapping[_Wanted, str], speeds: Mapping[str, float]) -> float:
    """How many times as fast layers are under a choice as under another, in the mean of those that can be both."""
    reached = {(each.layer.signature, each.choice): speeds[key] for each, key in fastest.items()}
    ratios = [
        speed / reached[signature, plain]
        for (signature, choice), speed in reached.items()
        if choice == better and (signature, plain) in reached
    ]
    return statistics.geometric_mean(ratios) if ratios else math.nan


def _can_be(layer: Layer, choice: Choice) -> bool:
    return applicable(layer, choice.pattern) is None and refusal(layer, choice) is None


def _build(
    wanted: Iterable[_Wanted], target: Target, seed: int, scratch: Path, console: Console
) -> tuple[dict[str, int], dict[str, Path]]:
    """Compiles layers and limits: by key, the flops of a call and where the library is."""
    flops, directories = {}, {}
    for loads, key in ((True, LIMIT), (False, PEAK)):
        directories[key] = scratch / f"limit-{loads}"
        directories[key].mkdir()
        flops[key] = build_limit(target, directories[key], loads=loads)
    for each in track(list(wanted), "compiling", console=console):
        for key, kernel in zip(each.keys, each.kernels, strict=True):
            directory = scratch / str(len(directories))
            directory.mkdir()
            build_layer(each.layer, each.choice, target, directory, kernel, seed)
            flops[key], directories[key] = 2 * each.layer.macs, directory
    return flops, directories


def _measured(outcome: Outcome) -> Measurement:
    """A measurement.

    Raises:
        MeasureError: there is none.
    """
    if not isinstance(outcome, Measurement):
        raise MeasureError(f"{outcome.key} could not be timed ({outcome.stage}): {outcome.reason}")
    return outcome


def _table(
    fastest: Mapping[_Wanted, str], taken: Mapping[str, Measurement], speeds: Mapping[str, float], title: str
) -> Table:
    table = Table("layer", "", "kernel", "median us", "minimum us", "effective GFLOP/s", "of limit", title=title)
    rows = [(LIMIT, "", "", LIMIT, 1.0), (PEAK, "", "", PEAK, 1.0)]
    for each, key in fastest.items():
        kernel = each.kernels[each.keys.index(key)]
        rows.append((each.layer.signature, str(each.choice), kernel, key, 1 - each.choice.ratio))
    for name, choice, kernel, key, kept in rows:
        samples = taken[key].samples_s
        times = (f"{seconds * 1e6:.4g}" for seconds in (taken[key].median_s, min(samples)))
        speed, share = f"{speeds[key] / 1e9:.1f}", f"{speeds[key] * kept / speeds[LIMIT]:.0%}"
        table.add_row(name, choice, kernel, *times, speed, share)
    return table
