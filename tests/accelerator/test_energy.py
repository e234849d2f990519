"""Energy by the published figures, counted by hand for a small layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.accelerator_layers import draw_layer, draw_machine
from hwsparse.accelerator import compile_layer, estimate_energy, time_network


@pytest.mark.parametrize(("dtype", "operation_pj"), [("int8", 0.3), ("float16", 2.0), ("float32", 4.6)])
def test_every_operation_and_byte_has_its_figure(dtype: str, operation_pj: float) -> None:
    random = np.random.default_rng(4)
    machine = draw_machine(random, dtype)
    (timing,) = time_network(machine, [compile_layer(machine, draw_layer(random, dtype).product)]).layers
    found = estimate_energy(machine, timing)
    assert found.arithmetic_j == pytest.approx(timing.words * machine.tile_positions * operation_pj * 1e-12)
    # These buffers are small: 10 pJ for 64 bits of each.
    bits = timing.words * (machine.word_bits + 8 * machine.element_bytes * machine.tile_positions)
    assert found.on_chip_j == pytest.approx((bits + 8 * timing.traffic.total) / 64 * 10e-12)
    low, high = found.dram_j
    assert low == pytest.approx(timing.traffic.total / 8 * 1.3e-9) and high == pytest.approx(2 * low)
    assert found.total_j == pytest.approx(
        (found.arithmetic_j + found.on_chip_j + low, found.arithmetic_j + found.on_chip_j + high)
    )


def test_larger_memories_take_more() -> None:
    random = np.random.default_rng(4)
    machine = draw_machine(random)
    (timing,) = time_network(machine, [compile_layer(machine, draw_layer(random).product)]).layers
    sizes = [
        estimate_energy(replace(machine, weights_bytes=size), timing).on_chip_j for size in (1 << 13, 1 << 17, 1 << 30)
    ]
    assert sizes[0] < sizes[1] < sizes[2]
