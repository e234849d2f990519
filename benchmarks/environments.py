"""Runtimes that live in Python environments of their own, which the user names.

Knows what they are called and where they are; their classes are in `benchmarks.peers`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks.turns import Contender, versions
from hwsparse.errors import MeasureError
from hwsparse.latency import MeasureFailure
from hwsparse.latency.process import Interpreter

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Runtime:
    """One way to run a network: a class of `benchmarks.peers`, on the dense case or the sparse one."""

    name: str
    loader: str  # module:class
    case: str
    tolerance: float  # of the outputs' largest relative error


@dataclass(frozen=True, slots=True)
class Environment:
    """What a Python of the user's is to have, and the environment variable that may name it."""

    variable: str
    packages: tuple[str, ...]
    runtimes: tuple[Runtime, ...]


FLOAT32 = 1e-4
# bfloat16 and int8 are not held to float32: further off than this is another network.
LOSSY = 1.0
ENVIRONMENTS: Mapping[str, Environment] = MappingProxyType(
    {
        "openvino": Environment(
            "HWSPARSE_OPENVINO",
            ("openvino", "nncf"),
            (
                Runtime("openvino f32", "benchmarks.peers.openvino:Float32", "dense", FLOAT32),
                Runtime("openvino bf16", "benchmarks.peers.openvino:BFloat16", "dense", LOSSY),
                Runtime("openvino int8", "benchmarks.peers.openvino:Int8", "dense", LOSSY),
            ),
        ),
        "deepsparse": Environment(
            "HWSPARSE_DEEPSPARSE",
            ("deepsparse",),
            (
                Runtime("deepsparse", "benchmarks.peers.deepsparse:DeepSparse", "sparse", FLOAT32),
                Runtime("deepsparse int8", "benchmarks.peers.deepsparse:Int8", "sparse", LOSSY),
            ),
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Peers:
    """Who can take part, who cannot and why, and the versions of what was found."""

    contenders: tuple[Contender, ...]
    absent: tuple[MeasureFailure, ...]
    versions: Mapping[str, str]


def options(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each environment's Python."""
    for name, environment in ENVIRONMENTS.items():
        parser.add_argument(
            f"--{name}",
            metavar="PYTHON",
            default=os.environ.get(environment.variable),
            help=f"a Python that has {' and '.join(environment.packages)}; by default ${environment.variable}",
        )


def find_peers(pythons: Mapping[str, str | None], cases: Path, threads: int) -> Peers:
    """Looks into every environment.

    Args:
        pythons: interpreters by the environments' names; None where the user has none.
        cases: the directory with both cases.
    """
    contenders: list[Contender] = []
    absent: list[MeasureFailure] = []
    found: dict[str, str] = {}
    for name, environment in ENVIRONMENTS.items():
        python = pythons.get(name)
        try:
            if not python:
                raise MeasureError(f"no Python is named for it: give --{name} PYTHON or set {environment.variable}")
            found |= versions(python, environment.packages)
        except MeasureError as error:
            absent += (MeasureFailure(runtime.name, "load", str(error)) for runtime in environment.runtimes)
            continue
        interpreter = Interpreter(python, (str(ROOT),))
        contenders += (
            Contender(runtime.name, runtime.loader, cases / runtime.case, threads, runtime.tolerance, interpreter)
            for runtime in environment.runtimes
        )
    return Peers(tuple(contenders), tuple(absent), found)
