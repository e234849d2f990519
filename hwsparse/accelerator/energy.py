"""What a layer's work would take in energy: an estimate from published figures of single operations.

M. Horowitz, "Computing's Energy Problem (and what we can do about it)", ISSCC 2014, 45 nm at 0.9 V: additions,
products, 64 bits of a cache of 8 KB, 32 KB and 1 MB, and 64 bits of DRAM, 1.3 to 2.6 nJ. A memory is counted as the
smallest of those that holds it, beyond 1 MB as 1 MB. Accumulators, control, wires, clock and leakage are left out,
which the figures do not cover: what is told compares layers and choices, and is no chip's. Knows no times.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwsparse.accelerator.machine import Accelerator
from hwsparse.accelerator.timing import Timing

# Picojoules of a product and an addition to its sum: of int8 in int32, of floats in float32.
_MULTIPLY_PJ = {"int8": 0.2, "float16": 1.1, "float32": 3.7}
_ADD_PJ = {"int8": 0.1, "float16": 0.9, "float32": 0.9}
# Of 64 bits, by the bytes that hold them.
_MEMORY_PJ = ((8 << 10, 10.0), (32 << 10, 20.0), (1 << 20, 100.0))
_DRAM_PJ = (1300.0, 2600.0)
_ACCESS_BITS = 64


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules; of DRAM from the least to the most that is told of it."""

    arithmetic_j: float
    on_chip_j: float
    dram_j: tuple[float, float]

    @property
    def total_j(self) -> tuple[float, float]:
        there = self.arithmetic_j + self.on_chip_j
        return there + self.dram_j[0], there + self.dram_j[1]


def estimate_energy(accelerator: Accelerator, timing: Timing) -> Energy:
    """Of every word its fetch, its input's read and a multiply-add in all columns; of every byte its transfer."""
    tile, bits = accelerator.tile_positions, 8 * accelerator.element_bytes
    operations = timing.words * tile
    arithmetic = operations * (_MULTIPLY_PJ[accelerator.dtype] + _ADD_PJ[accelerator.dtype])
    weight = accelerator.word_bits / _ACCESS_BITS * _access_pj(accelerator.weights_bytes / accelerator.rows)
    banks = accelerator.input_copies * accelerator.input_banks
    read = tile * bits / _ACCESS_BITS * _access_pj(accelerator.inputs_bytes / banks)
    # What comes from memory is written to the chip once, and what leaves it read once.
    moved = timing.traffic.total * 8 / _ACCESS_BITS * _access_pj(accelerator.outputs_bytes)
    dram = [timing.traffic.total * 8 / _ACCESS_BITS * each * 1e-12 for each in _DRAM_PJ]
    on_chip = timing.words * (weight + read) + moved
    return Energy(arithmetic * 1e-12, on_chip * 1e-12, (dram[0], dram[1]))


def _access_pj(size_bytes: float) -> float:
    """Picojoules of 64 bits of a memory."""
    return next((each for most, each in _MEMORY_PJ if size_bytes <= most), _MEMORY_PJ[-1][1])
