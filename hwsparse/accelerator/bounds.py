"""What no schedule can beat: a layer's multiply-adds, bytes and outputs over the rates at which they are done.

Knows a layer and a machine, and nothing of how the machine goes about it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hwsparse.accelerator.geometry import touched_elements
from hwsparse.accelerator.layer import Product
from hwsparse.accelerator.machine import Accelerator


@dataclass(frozen=True, slots=True)
class Bounds:
    """Least cycles, by what takes them."""

    compute: int
    dram: int
    vector: int

    @property
    def cycles(self) -> int:
        return max(self.compute, self.dram, self.vector)


def lower_bounds(accelerator: Accelerator, product: Product) -> Bounds:
    """Kept weights by positions over all multiply-adds; each weight, input and output once; every output finished."""
    size = accelerator.element_bytes
    outputs = product.outputs * product.positions
    moved = outputs * ((product.output_bytes or size) + product.residual_bytes)
    if product.kept:
        moved += (product.kept + touched_elements(product.geometry)) * size
    return Bounds(
        math.ceil(product.kept * product.positions / accelerator.macs_per_cycle),
        math.ceil(moved / accelerator.dram_bytes_per_cycle),
        math.ceil(outputs * product.operations / accelerator.vector_lanes),
    )
