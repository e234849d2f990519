"""How long a layer takes on a core, from what it does: instructions, and bytes that no cache holds.

A core takes on so many instructions a cycle, and does so many multiply-adds of vectors; what takes longer sets the
pace, and where both take about as long they are in each other's way. In order they add up. Beside multiply-adds there
are loads, each with what it needs around it: `load_slots` instructions, the same on all cores. What the last cache does
not hold comes from memory. Threads get in each other's way, and take time to wake.

All of it is six figures that are fitted to published times (`core_fit`), and what a core is known to do in a cycle.
Knows no layers, kernels or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwsparse.core import Core

PRODUCT, DEPTHWISE, WINOGRAD, ELEMENTWISE = 0, 1, 2, 3
# How sharply the slower of two limits sets the pace: the exponent of a norm.
SHARPNESS = 4


@dataclass(frozen=True, slots=True)
class Counts:
    """What one call of a layer does, on all threads together; instructions are of vectors of 128 bits."""

    kind: int  # PRODUCT, DEPTHWISE, WINOGRAD, or ELEMENTWISE, of which all instructions are counted as multiply-adds
    multiply_adds: float
    loads: float  # of products: of activations and of weights
    bytes: float  # read and written once
    accumulators: float  # sums that are under way side by side


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer runs."""

    core: Core
    bandwidth_bytes_per_s: float
    threads: int


@dataclass(frozen=True, slots=True)
class Coefficients:
    """What is the same on all cores."""

    load_slots: float  # instructions that come with a load of a product, it itself included
    depthwise_slots: float  # instructions that come with a multiply-add of a depthwise layer
    winograd_slots: float  # and with one of Winograd's method, its transformations included
    memory: float  # by how much longer memory takes than its bandwidth says
    call_s: float  # of a call, for each thread
    thread_loss: float  # by how much of its time each further thread slows all down


@dataclass(frozen=True, slots=True)
class Batch:
    """Many layers as columns of numbers: (layers,) each."""

    counts: np.ndarray  # (layers, 5): the fields of `Counts`
    core: np.ndarray  # (layers, 7): clock, width, whether in order, pipes, latency, load pipes, bytes of the last cache
    bandwidth: np.ndarray
    threads: np.ndarray

    @classmethod
    def of(cls, asked: list[tuple[Counts, Place]]) -> Batch:
        counts = [(each.kind, each.multiply_adds, each.loads, each.bytes, each.accumulators) for each, _ in asked]
        cores = [place.core for _, place in asked]
        return cls(
            np.array(counts, float).reshape(-1, 5),
            np.array([
                (c.clock_hz, c.issue_width, c.in_order, c.fma_pipes, c.fma_latency_cycles, c.load_pipes,
                 c.last_level_bytes)
                for c in cores
            ], float).reshape(-1, 7),
            np.array([place.bandwidth_bytes_per_s for _, place in asked], float),
            np.array([place.threads for _, place in asked], float),
        )  # fmt: skip


def seconds(batch: Batch, known: Coefficients) -> np.ndarray:
    """(layers,): what each takes."""
    kind, fma, loads, moved, accumulators = batch.counts.T
    clock, width, in_order, pipes, latency, load_pipes, last = batch.core.T
    around = (known.load_slots * loads, known.depthwise_slots * fma, known.winograd_slots * fma, np.zeros_like(fma))
    slots = np.choose(kind.astype(int), around)
    busy = fma * np.maximum(1 / pipes, latency / accumulators)
    limits = (busy, (fma + slots) / width, loads / load_pipes)
    overlapped = sum((each**SHARPNESS for each in limits), np.zeros_like(fma)) ** (1 / SHARPNESS)
    cycles = np.where(in_order > 0, busy + slots / width, overlapped)
    missed = np.maximum(0.0, moved - last)
    alone = cycles / batch.threads * (1 + known.thread_loss * (batch.threads - 1))
    result: Any = alone / clock + known.memory * missed / batch.bandwidth + known.call_s * batch.threads
    return np.asarray(result)
