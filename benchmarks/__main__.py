"""`python -m benchmarks NAME [options]`: runs one benchmark; `--list` names them.

Each prints a table and, as its last line, `key=value` pairs; `--json FILE` keeps everything: raw samples,
machine, versions, seed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import quickstart
from hwsparse.compiler import toolchain
from hwsparse.errors import HwsparseError
from hwsparse.latency import Device
from hwsparse.strictjson import encode

# A benchmark gives the figures of its last line, and details for the JSON file.
Benchmark = Callable[[argparse.Namespace], tuple[dict[str, float], object]]
BENCHMARKS: dict[str, tuple[Benchmark, str]] = {
    "quickstart": (quickstart.run, "whole path on Magika, EfficientNet-Lite0 and MiniLM, against onnxruntime"),
}


def main() -> int:
    """Runs what the command line asks for; the exit status is 1 when it could not be done."""
    arguments = _arguments()
    if arguments.list or arguments.name is None:
        for name, (_, what) in BENCHMARKS.items():
            print(f"{name:<12} {what}")
        return 0
    try:
        figures, details = BENCHMARKS[arguments.name][0](arguments)
    except HwsparseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.json is not None:
        body = {
            "benchmark": arguments.name,
            "figures": figures,
            "details": details,
            "device": encode(Device.probe()),
            "toolchain": dict(toolchain()),
            "seed": arguments.seed,
        }
        arguments.json.write_text(json.dumps(body, indent=1, allow_nan=False))
    print(" ".join(f"{key}={value:.6g}" for key, value in figures.items()))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=sorted(BENCHMARKS))
    parser.add_argument("--list", action="store_true", help="names of the benchmarks")
    parser.add_argument("--threads", type=int, help="threads of every runtime; by default the target's")
    parser.add_argument("--json", type=Path, help="file for raw samples, machine, versions and seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=40, help="plans that a search tries")
    parser.add_argument("--models", nargs="*", help="only these models")
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("HWSPARSE_DATA"),
        help="directory of task data: imagenet1k/ (images and labels.csv), nlp/stsb-dev.csv; by default $HWSPARSE_DATA",
    )
    parser.add_argument("--work", type=Path, default=Path("hwsparse-benchmarks"), help="directory for what is kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
