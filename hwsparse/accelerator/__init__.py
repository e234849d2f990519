"""A simulated sparse accelerator: what it is, what it computes, and what that takes to the cycle.

A layer goes in as a `Product` of numbers, is compiled to a `Program` (`compile_layer`), which a command stream of bytes
holds (`write_stream`, `read_stream`); `run_program` computes what the array does, `time_network` tells cycles and what
bound them. The array itself, as a hardware description, is in `hwsparse.accelerator.rtl`, which needs Amaranth.

Knows neither TVM nor torch, no models and no targets.
"""

from __future__ import annotations

from hwsparse.accelerator.bounds import Bounds, lower_bounds
from hwsparse.accelerator.energy import Energy, estimate_energy
from hwsparse.accelerator.functional import Unpacked, product_of, run_program
from hwsparse.accelerator.geometry import Geometry
from hwsparse.accelerator.layer import Product, lay_out
from hwsparse.accelerator.machine import Accelerator, format_accelerator, read_accelerator
from hwsparse.accelerator.network import Run, VectorWork, time_network, time_pipeline
from hwsparse.accelerator.program import Program, compile_layer
from hwsparse.accelerator.stream import read_stream, write_stream
from hwsparse.accelerator.timing import Parts, Timing, Traffic

# Cycles that were counted by another version are not used: raise it when they change.
COUNTING_VERSION = 1

__all__ = [
    "COUNTING_VERSION",
    "Accelerator",
    "Bounds",
    "Energy",
    "Geometry",
    "Parts",
    "Product",
    "Program",
    "Run",
    "Timing",
    "Traffic",
    "Unpacked",
    "VectorWork",
    "compile_layer",
    "estimate_energy",
    "format_accelerator",
    "lay_out",
    "lower_bounds",
    "product_of",
    "read_accelerator",
    "read_stream",
    "run_program",
    "time_network",
    "time_pipeline",
    "write_stream",
]
