"""`python -m benchmarks NAME [options]`: runs one benchmark; `--list` names them.

Each prints a table and, as its last line, `key=value` pairs; `--json FILE` keeps everything: raw samples,
machine, versions, seed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import (
    arm,
    cluster,
    database,
    estimates,
    fpga,
    kernels,
    latency,
    precision,
    quality,
    quickstart,
    search,
    tuning,
    x86,
)
from hwsparse.compiler import toolchain
from hwsparse.errors import HwsparseError, InputError
from hwsparse.latency import Device
from hwsparse.report.files import write_whole
from hwsparse.strictjson import encode


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`run` gives the figures of the last line, and details for the JSON file; `options` adds what it can be asked."""

    what: str
    run: Callable[[argparse.Namespace], tuple[dict[str, float], object]]
    options: Callable[[argparse.ArgumentParser], None]


BENCHMARKS = {
    "quickstart": Benchmark(
        "whole path on Magika, EfficientNet-Lite0 and MiniLM, against onnxruntime", quickstart.run, quickstart.options
    ),
    "x86": Benchmark("a sparse network against onnxruntime, OpenVINO and DeepSparse", x86.run, x86.options),
    "quality": Benchmark("what pruning methods cost in quality on real tasks", quality.run, quality.options),
    "database": Benchmark(
        "what a network's layers, pruned in every way, take to make and to keep", database.run, database.options
    ),
    "tuning": Benchmark("what training under a mask recovers, on CIFAR-10", tuning.run, tuning.options),
    "latency": Benchmark("how far predicted latencies of layers and networks are off", latency.run, latency.options),
    "estimates": Benchmark(
        "how far estimates for Arm cores are off, without a device", estimates.run, estimates.options
    ),
    "search": Benchmark("who finds the better front with as many trials", search.run, search.options),
    "precision": Benchmark(
        "whether int8 and zeros together beat either alone, by fronts of both", precision.run, precision.options
    ),
    "cluster": Benchmark(
        "what a Ray cluster gains, and what a worker that is killed costs", cluster.run, cluster.options
    ),
    "arm": Benchmark("whether code for Arm computes what it should, under emulation", arm.run, arm.options),
    "fpga": Benchmark(
        "simulated accelerators: against their hardware description, and what sparsity gains", fpga.run, fpga.options
    ),
    "kernels": Benchmark(
        "every layer shape of the networks, against this machine's limit", kernels.run, kernels.options
    ),
}


def main() -> int:
    """Runs what the command line asks for; the exit status is 1 when it could not be done."""
    arguments = _arguments()
    if arguments.list or arguments.name is None:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:<12} {benchmark.what}")
        return 0
    try:
        if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
            raise InputError(f"--json {arguments.json}: there is no directory {arguments.json.parent}")
        figures, details = BENCHMARKS[arguments.name].run(arguments)
        if arguments.json is not None:
            write_whole(arguments.json, _body(arguments, figures, details).encode())
    except HwsparseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(" ".join(f"{key}={value:.6g}" for key, value in figures.items()))
    return 0


def _body(arguments: argparse.Namespace, figures: Mapping[str, float], details: object) -> str:
    body = {
        "benchmark": arguments.name,
        "figures": {key: value if math.isfinite(value) else None for key, value in figures.items()},
        "details": details,
        "device": encode(Device.probe()),
        "toolchain": dict(toolchain()),
        "seed": arguments.seed,
    }
    return json.dumps(body, indent=1, allow_nan=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--list", action="store_true", help="names of the benchmarks")
    commands = parser.add_subparsers(dest="name", metavar="NAME")
    for name, benchmark in BENCHMARKS.items():
        description = sys.modules[benchmark.run.__module__].__doc__
        command = commands.add_parser(name, help=benchmark.what, description=description)
        command.add_argument("--threads", type=int, help="threads of every runtime; by default the target's")
        command.add_argument("--json", type=Path, help="file for raw samples, machine, versions and seed")
        command.add_argument("--seed", type=int, default=0)
        benchmark.options(command)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
