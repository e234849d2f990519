"""Every distinct layer of the benchmarks' networks on its own, dense and sparse, against what this machine can do.

Speed is effective: 2 flops for each multiply-add of the dense layer, whether a zero spares it or not. The share of the
limit counts those alone that zeros do not spare. The limit is measured in the same run: one multiply-add for every
vector loaded from L1; kernels that share what they load may pass it, as far as the peak of multiply-adds from
registers. Means over layers are geometric.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.limits import build_limit
from benchmarks.networks import NETWORKS, distinct_layers, sparse_choice
from hwsparse.codegen import KERNEL_VERSION, build_layer, refusal
from hwsparse.errors import InputError, MeasureError
from hwsparse.latency import LocalRunner, Measurement, Outcome, RunSettings, Toolchain
from hwsparse.plan import Choice, Layer
from hwsparse.sparsify import applicable
from hwsparse.target import Target, load_target

LOADER = "benchmarks.limits:Measured"
LIMIT, PEAK = "limit, a load from L1 each", "peak, from registers"
DENSE = Choice()
WIDTH = 132  # of the table in a file or pipe: a layer's signature is long


def options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this benchmark asks for."""
    parser.add_argument("--models", nargs="+", choices=sorted(NETWORKS), default=sorted(NETWORKS))
    parser.add_argument("--pattern", help="of the sparse layers: unstructured, block4x1, ...; without it dense only")
    parser.add_argument("--sparsity", type=float, help="their share of zeros, between 0 and 1")


def run(arguments: argparse.Namespace) -> tuple[dict[str, float], object]:
    """Builds, times and compares."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if (arguments.pattern is None) != (arguments.sparsity is None):
        raise InputError("--pattern and --sparsity go together")
    target = load_target("x86-local")
    if arguments.threads:
        target = target.with_threads(arguments.threads)
    target.require_timing()
    choices = [DENSE]
    if arguments.pattern is not None:
        choices.append(sparse_choice(arguments.pattern, arguments.sparsity))
        target.require(choices[-1])
    layers = distinct_layers([NETWORKS[name].build(1) for name in arguments.models])
    wanted = [(layer, choice) for choice in choices for layer in layers if _can_be(layer, choice)]
    with tempfile.TemporaryDirectory(prefix="hwsparse-kernels-") as scratch:
        flops, directories = _build(wanted, target, arguments.seed, Path(scratch), console)
        toolchain = Toolchain.of(target, KERNEL_VERSION)
        settings = RunSettings(threads=target.threads, tolerance=1e-4)
        with LocalRunner(toolchain, lambda: datetime.now(timezone.utc), loader=LOADER) as runner:
            outcomes = runner.run_many(directories, settings)
    speeds = {key: flops[key] / _measured(outcome).median_s for key, outcome in outcomes.items()}
    console.print(_table(wanted, outcomes, speeds, f"{target.name}, threads: {target.threads}"))
    figures = {"limit_gflops": speeds[LIMIT] / 1e9, "peak_gflops": speeds[PEAK] / 1e9}
    for prefix, choice in zip(("", "sparse_"), choices, strict=False):
        reached = [speeds[_key(layer, of)] for layer, of in wanted if of == choice]
        mean = statistics.geometric_mean(reached) if reached else math.nan
        share = mean * (1 - choice.ratio) / speeds[LIMIT]
        figures |= {f"{prefix}gflops_mean": mean / 1e9, f"{prefix}share_of_limit_mean": share}
    return figures, {key: {"flops": flops[key], "samples_s": _measured(outcomes[key]).samples_s} for key in speeds}


def _can_be(layer: Layer, choice: Choice) -> bool:
    return applicable(layer, choice.pattern) is None and refusal(layer, choice) is None


def _build(
    wanted: Iterable[tuple[Layer, Choice]], target: Target, seed: int, scratch: Path, console: Console
) -> tuple[dict[str, int], dict[str, Path]]:
    """Compiles layers and limits: by key, the flops of a call and where the library is."""
    flops, directories = {}, {}
    for loads, key in ((True, LIMIT), (False, PEAK)):
        directories[key] = scratch / f"limit-{loads}"
        directories[key].mkdir()
        flops[key] = build_limit(target, directories[key], loads=loads)
    for number, (layer, choice) in enumerate(track(list(wanted), "compiling", console=console)):
        key, directory = _key(layer, choice), scratch / str(number)
        directory.mkdir()
        build_layer(layer, choice, target, directory, seed=seed)
        flops[key], directories[key] = 2 * layer.macs, directory
    return flops, directories


def _key(layer: Layer, choice: Choice) -> str:
    return f"{layer.signature} {choice}"


def _measured(outcome: Outcome) -> Measurement:
    """A measurement.

    Raises:
        MeasureError: there is none.
    """
    if not isinstance(outcome, Measurement):
        raise MeasureError(f"{outcome.key} could not be timed ({outcome.stage}): {outcome.reason}")
    return outcome


def _table(
    wanted: Iterable[tuple[Layer, Choice]], outcomes: Mapping[str, Outcome], speeds: Mapping[str, float], title: str
) -> Table:
    table = Table("layer", "", "median us", "minimum us", "effective GFLOP/s", "of limit", title=title)
    rows = [(LIMIT, "", LIMIT, 1.0), (PEAK, "", PEAK, 1.0)]
    rows += [(layer.signature, str(choice), _key(layer, choice), 1 - choice.ratio) for layer, choice in wanted]
    for name, choice, key, kept in rows:
        taken = _measured(outcomes[key])
        times = (f"{seconds * 1e6:.4g}" for seconds in (taken.median_s, min(taken.samples_s)))
        table.add_row(name, choice, *times, f"{speeds[key] / 1e9:.1f}", f"{speeds[key] * kept / speeds[LIMIT]:.0%}")
    return table
