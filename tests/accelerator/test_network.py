"""Networks: a pipeline goes at its slowest stage's pace, and is refused where weights or rows do not suffice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwsparse.accelerator import Accelerator, Geometry, Product, VectorWork, compile_layer, time_network, time_pipeline
from hwsparse.errors import PlanError, UnsupportedError
from hwsparse.pattern import Dense
from hwsparse.plan import Window

MACHINE = Accelerator(
    clock_hz=2e8, dtype="int8", rows=16, columns=4, lanes=1, accumulators=16, run_bits=4, distributor="balanced",
    input_banks=4, input_copies=8, weights_bytes=1 << 16, inputs_bytes=1 << 16, outputs_bytes=1 << 14,
    dram_bytes_per_cycle=16.0, dram_latency_cycles=10, vector_lanes=16,
)  # fmt: skip


def dense(name: str, outputs: int, channels: int, positions: int = 40) -> Product:
    geometry = Geometry(1, channels, (positions,), (1,), Window((1,), ((0, 0),), (1,)))
    shape = (outputs, channels)
    return Product(name, np.ones(shape, np.int8), np.ones(shape, bool), geometry, Dense())


def test_the_slowest_stage_sets_the_pace() -> None:
    layers = [dense("small", 16, 16), dense("large", 48, 64), dense("middle", 32, 32)]
    found = time_pipeline(MACHINE, layers)
    assert sum(found.rows) == MACHINE.rows and all(rows % MACHINE.rows_per_copy == 0 for rows in found.rows)
    assert found.rows[1] == max(found.rows)
    assert found.interval_cycles == max(layer.cycles for layer in found.layers)
    assert found.latency_cycles > sum(layer.cycles for layer in found.layers)
    assert all(layer.traffic.total == 0 and layer.parts.dram == 0 for layer in found.layers)
    assert found.interval_s(MACHINE) == found.interval_cycles / 2e8 < found.latency_s(MACHINE)


def test_memory_can_set_the_pace_too() -> None:
    slow = replace(MACHINE, dram_bytes_per_cycle=1 / 64)
    layers = [dense("first", 16, 16), dense("last", 16, 16)]
    assert time_pipeline(slow, layers).interval_cycles == (16 * 40 + 16 * 40) * 64


def test_weights_that_do_not_fit_and_too_many_layers_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="'wide' has more weights than its share of 65536 bytes holds"):
        time_pipeline(MACHINE, [dense("narrow", 16, 16), dense("wide", 200, 900)])
    with pytest.raises(UnsupportedError, match=r"a pipeline of 9 layers .* the accelerator has 8"):
        time_pipeline(MACHINE, [dense("layer", 16, 16)] * 9)


def test_layer_by_layer_takes_the_sum() -> None:
    programs = [compile_layer(MACHINE, dense("one", 16, 16)), compile_layer(MACHINE, dense("two", 48, 64))]
    pool = VectorWork("pool", 160, 4, 640)
    found = time_network(MACHINE, [programs[0], pool, programs[1], programs[0]])
    assert [layer.name for layer in found.layers] == ["one", "pool", "two", "one"]
    assert found.latency_cycles == sum(layer.cycles for layer in found.layers)
    assert found.layers[0] == found.layers[3]


def test_work_of_no_size_is_refused() -> None:
    with pytest.raises(PlanError, match="'pool': outputs, operations and inputs are 1 at least"):
        VectorWork("pool", 0, 1, 1)
