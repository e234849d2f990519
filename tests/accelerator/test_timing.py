"""Cycles: never below any bound, the sum of their parts, and those of three machines played cycle by cycle."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accelerator_layers import draw_layer, draw_machine
from hwsparse.accelerator import (
    Accelerator,
    Geometry,
    Product,
    Program,
    Timing,
    VectorWork,
    compile_layer,
    lower_bounds,
    time_network,
)
from hwsparse.accelerator.machine import FILL_CYCLES
from hwsparse.accelerator.passes import time_passes
from hwsparse.accelerator.schedule import schedule
from hwsparse.accelerator.timing import _Cycles, _in_cycles, _overlap, _traffic
from hwsparse.pattern import Dense, Unstructured
from hwsparse.plan import Window


def timed(machine: Accelerator, program: Program) -> Timing:
    (found,) = time_network(machine, [program]).layers
    return found


@given(st.integers(0, 2**32))
def test_no_lower_bound_is_beaten_and_the_parts_are_the_whole(seed: int) -> None:
    random = np.random.default_rng(seed)
    machine, product = draw_machine(random), draw_layer(random).product
    found = timed(machine, compile_layer(machine, product))
    bounds = lower_bounds(machine, product)
    assert found.cycles >= bounds.cycles > 0
    assert found.parts.total == pytest.approx(found.cycles, rel=1e-12)
    parts = {name: getattr(found.parts, name) for name in type(found.parts).__slots__}
    assert min(parts.values()) >= -1e-9 and found.parts.bound_by == max(parts, key=lambda name: parts[name])
    assert 0 <= found.utilisation(machine) <= 1
    if machine.rows_per_copy == 1:
        assert found.parts.conflicts == 0


@given(st.integers(0, 2**32))
def test_what_is_computed_is_the_kept_weights(seed: int) -> None:
    random = np.random.default_rng(seed)
    machine, product = draw_machine(random), draw_layer(random).product
    product = replace(product, weight=np.where(product.weight == 0, 1, product.weight).astype(np.int8))
    program = compile_layer(machine, product)
    kept = np.count_nonzero(product.mask)
    if program.form.kind == "dense":  # channels that are kept are sent whole
        kept = product.mask.any(axis=1).sum() * product.inputs
    if program.form.span == 1 and program.form.kind != "groups":
        assert timed(machine, program).macs == kept * product.positions


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 40), st.integers(0, 9), st.integers(0, 20), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 12),
)
def test_the_recurrence_is_three_machines_side_by_side(
    passes: list[tuple[int, int, int, int, bool]], latency: int
) -> None:
    compute, loads, vector, stores, ends = (np.array(each) for each in zip(*passes, strict=True))
    ends[-1] = True
    vector, stores = np.where(ends, vector, 0), np.where(ends, stores, 0)
    schedule = _Cycles(compute, loads, vector, stores, ends)
    cycles, waits_dram, waits_vector = _overlap(latency, schedule)
    assert cycles == played(schedule, latency)
    assert cycles == waits_dram + waits_vector + compute.sum()


def played(schedule: _Cycles, latency: int) -> int:
    """Memory, array and vector unit, each looked at in every cycle."""
    count = len(schedule.compute)
    sets = np.cumsum(schedule.ends) - schedule.ends  # which set and tile a pass is of
    requests = deque(("load", at) for at in range(min(2, count)))
    loaded = [bool(size == 0) for size in schedule.loads]
    computed: dict[int, int] = {}
    emptied: dict[int, int] = {}
    stored: dict[int, int] = {}
    finish: dict[str, tuple[int, int]] = {}  # machine: what it does, until when
    now, started, vectored = 0, 0, 0
    while len(stored) < int(schedule.ends.sum()):
        moved = True
        while moved:
            moved = False
            for who, done in (("memory", None), ("array", computed), ("vector", emptied)):
                if who in finish and finish[who][1] <= now:
                    what, _ = finish.pop(who)
                    moved = True
                    if done is not None:
                        done[what] = now
                        if who == "array":
                            requests += [("load", what + 2)] if what + 2 < count else []
                            requests += [("store", what)] if schedule.ends[what] else []
                    else:
                        kind, at = requests.popleft()
                        if kind == "load":
                            loaded[at] = True
                        else:
                            stored[int(sets[at])] = now
            if "memory" not in finish and requests:
                kind, at = requests[0]
                if kind == "load" and schedule.loads[at] == 0:
                    requests.popleft()
                    moved = True
                elif kind == "load" and now >= (computed[at - 2] if at >= 2 else 0) + latency:
                    finish["memory"] = (at, now + int(schedule.loads[at]))
                    moved = True
                elif kind == "store" and int(sets[at]) in emptied:
                    finish["memory"] = (at, now + int(schedule.stores[at]))
                    moved = True
            may = "array" not in finish and started < count and loaded[started]
            if may and (int(sets[started]) < 2 or int(sets[started]) - 2 in emptied):
                finish["array"] = (started, now + int(schedule.compute[started]))
                started, moved = started + 1, True
            drain = vectored
            ready = [at for at in range(count) if schedule.ends[at] and sets[at] == drain and at in computed]
            if "vector" not in finish and ready and (drain < 2 or drain - 2 in stored):
                finish["vector"] = (drain, now + int(schedule.vector[ready[0]]))
                vectored, moved = vectored + 1, True
        if len(stored) < int(schedule.ends.sum()):
            now += 1
    return now


@given(st.integers(0, 2**32))
def test_memory_takes_its_bytes_and_more_only_where_something_else_is_slower(seed: int) -> None:
    random = np.random.default_rng(seed)
    machine, product = draw_machine(random), draw_layer(random).product
    program = compile_layer(machine, product)
    (passes,) = time_passes(machine, [program])
    work = schedule(machine, program)
    traffic, tiles = _traffic(work), -(-product.positions // machine.tile_positions)
    loaded = traffic.total - traffic.outputs
    cycles = _in_cycles(machine, program, passes, work)
    assert cycles.compute.sum() == tiles * passes.cycles.sum()
    assert cycles.loads.sum() >= loaded / machine.dram_bytes_per_cycle - 1e-6
    assert 0 <= cycles.stores.sum() - traffic.outputs / machine.dram_bytes_per_cycle <= work.ends.sum()
    slow = replace(machine, dram_bytes_per_cycle=1 / 8, input_banks=1024)
    assert 8 * loaded <= _in_cycles(slow, program, passes, work).loads.sum() <= 8 * loaded + len(cycles.loads)
    fast = replace(machine, dram_bytes_per_cycle=2.0**16, input_banks=1024)
    if work.own.all():  # then the fullest row tells how long it takes
        longest = program.words().max(axis=2)[work.sets, work.chunks]
        assert (np.abs(_in_cycles(fast, program, passes, work).loads - longest) <= 2).all()


def dense(outputs: int, channels: int, positions: int) -> Product:
    geometry = Geometry(1, channels, (positions,), (1,), Window((1,), ((0, 0),), (1,)))
    shape = (outputs, channels)
    return Product("dense", np.ones(shape, np.int8), np.ones(shape, bool), geometry, Dense())


def roomy(machine: Accelerator) -> Accelerator:
    return replace(
        machine, rows=4, input_copies=1, columns=2, lanes=1, accumulators=2, weights_bytes=1 << 16,
        inputs_bytes=1 << 16, outputs_bytes=1 << 12, dram_bytes_per_cycle=1024.0, dram_latency_cycles=0,
        vector_lanes=64,
    )  # fmt: skip


def test_a_dense_layer_takes_what_can_be_counted_by_hand() -> None:
    machine = roomy(draw_machine(np.random.default_rng(0)))
    found = timed(machine, compile_layer(machine, dense(16, 10, 6)))
    # Two sets of 8 channels on 3 tiles; a row does 2 channels of 10 inputs, then runs empty.
    assert found.parts.compute == 2 * 3 * 20 and found.parts.fill == 2 * 3 * FILL_CYCLES
    assert found.parts.conflicts == found.parts.imbalance == found.parts.decode == found.parts.edge == 0
    assert found.macs == 16 * 10 * 6


def test_half_a_tile_costs_a_whole_one() -> None:
    machine = roomy(draw_machine(np.random.default_rng(0)))
    found = timed(machine, compile_layer(machine, dense(8, 10, 5)))
    assert found.parts.compute == 50 and found.parts.edge == 10


def test_rows_with_unequal_channels_wait_for_the_longest() -> None:
    machine = roomy(draw_machine(np.random.default_rng(0)))
    product = dense(4, 10, 2)
    mask = product.mask.copy()
    mask[1:, 4:] = False
    found = timed(machine, compile_layer(machine, replace(product, mask=mask, pattern=Unstructured())))
    assert found.parts.compute == (10 + 3 * 4) / 4 and found.parts.imbalance == 10 - found.parts.compute


def test_layers_side_by_side_take_what_each_takes_alone() -> None:
    random = np.random.default_rng(5)
    machine = replace(draw_machine(random), rows=8, input_copies=2, outputs_bytes=1 << 12)
    machine = replace(machine, weights_bytes=1 << 14, inputs_bytes=1 << 14)
    programs = [compile_layer(machine, draw_layer(random).product) for _ in range(6)]
    together = time_network(machine, programs)
    assert together.layers == tuple(timed(machine, program) for program in programs)
    assert together.latency_cycles == together.interval_cycles == sum(layer.cycles for layer in together.layers)


def test_the_vector_unit_alone_is_as_fast_as_it_or_memory_is() -> None:
    machine = replace(draw_machine(np.random.default_rng(0)), vector_lanes=4, dram_bytes_per_cycle=32.0)
    (found,) = time_network(machine, [VectorWork("pool", 400, 9, 1600)]).layers
    assert found.cycles >= 900 and found.parts.total == found.cycles
    slow = replace(machine, dram_bytes_per_cycle=1.0)
    (found,) = time_network(slow, [VectorWork("pool", 400, 1, 1600)]).layers
    assert found.cycles >= 2000 and found.parts.bound_by == "dram"
