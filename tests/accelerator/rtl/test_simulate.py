"""The hardware description computes what the models say, in exactly as many cycles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.accelerator_layers import PATTERNS, Drawn, draw_layer, draw_machine, reference_sums
from hwsparse.accelerator import Accelerator, Program, compile_layer, read_stream, run_program, write_stream
from hwsparse.accelerator.passes import time_passes
from hwsparse.accelerator.rtl import element_array, rtlil_text, run_layers
from hwsparse.accelerator.timing import time_layer
from hwsparse.errors import UnsupportedError

LAYERS = 5


def compiled(machine: Accelerator, drawn: Drawn) -> Program:
    return read_stream(machine, write_stream(machine, compile_layer(machine, drawn.product)))


@pytest.mark.parametrize("seed", range(4))
def test_results_and_cycles_are_the_models(seed: int) -> None:
    random = np.random.default_rng(seed)
    machine = draw_machine(random)
    layers = [draw_layer(random, most_size=3) for _ in range(LAYERS)]
    programs = [compiled(machine, drawn) for drawn in layers]
    found = run_layers(machine, [(program, drawn.inputs) for program, drawn in zip(programs, layers, strict=True)])
    for drawn, program, passes, run in zip(layers, programs, time_passes(machine, programs), found, strict=True):
        assert np.array_equal(run.sums, reference_sums(drawn.product, drawn.inputs)), drawn.choice
        assert np.array_equal(run.sums, run_program(program, drawn.inputs))
        assert (run.cycles == passes.cycles).all(), drawn.choice
        assert abs(run.total - time_layer(machine, program, passes).cycles) <= run.bound, drawn.choice


def test_rows_that_contend_take_longer_and_compute_the_same() -> None:
    random = np.random.default_rng(11)
    machine = replace(
        draw_machine(random), rows=4, columns=1, lanes=1, accumulators=2, input_copies=1, input_banks=1,
        outputs_bytes=64, inputs_bytes=256, weights_bytes=512,
    )  # fmt: skip
    drawn = next(each for each in iter(lambda: draw_layer(random, most_size=3), None) if each.choice.ratio == 0.5)
    cycles = []
    for copies in (1, 4):
        mine = replace(machine, input_copies=copies, inputs_bytes=256 * copies)
        program = compiled(mine, drawn)
        (run,) = run_layers(mine, [(program, drawn.inputs)])
        (passes,) = time_passes(mine, [program])
        assert (run.cycles == passes.cycles).all()
        assert np.array_equal(run.sums, reference_sums(drawn.product, drawn.inputs))
        cycles.append(run.cycles.sum())
    assert cycles[0] > cycles[1]


def test_a_layer_that_is_loaded_once_takes_what_the_model_says_but_for_its_loads() -> None:
    """Rows, memory and vector unit, each the slowest in turn; without latency a bound of 3 cycles is tight."""
    random = np.random.default_rng(3)
    machine = replace(
        draw_machine(random), rows=4, columns=2, lanes=1, accumulators=2, input_copies=2, input_banks=4,
        weights_bytes=1 << 11, inputs_bytes=1 << 10, outputs_bytes=1 << 10, dram_latency_cycles=0,
    )  # fmt: skip
    drawn = next(each for each in iter(lambda: draw_layer(random, most_size=3), None) if each.product.positions > 4)
    totals = []
    for changed in (
        {"dram_bytes_per_cycle": 1024.0, "vector_lanes": 64},
        {"dram_bytes_per_cycle": 0.5, "vector_lanes": 64},
        {"dram_bytes_per_cycle": 1024.0, "vector_lanes": 1},
    ):
        mine = replace(machine, **changed)
        program = compiled(mine, drawn)
        (run,), (passes,) = run_layers(mine, [(program, drawn.inputs)]), time_passes(mine, [program])
        assert np.array_equal(run.sums, reference_sums(drawn.product, drawn.inputs))
        assert abs(run.total - time_layer(mine, program, passes).cycles) <= run.bound
        totals.append(run.total)
    assert totals[0] < min(totals[1:])


def test_two_products_in_one_multiplier_come_apart_whatever_they_are() -> None:
    low, high = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
    for weight in range(-128, 128):
        both = ((high << 16) + low) * weight
        first = (both & 0xFFFF).astype(np.uint16).view(np.int16).astype(np.int64)
        second = ((both >> 16) + (first < 0)).astype(np.int64)
        assert np.array_equal(first, low * weight) and np.array_equal(second, high * weight)


def test_the_description_can_be_written_for_other_tools() -> None:
    machine = draw_machine(np.random.default_rng(0))
    text = rtlil_text(machine)
    assert "module \\hwsparse_array" in text and "wire width 1 input" in text


def test_only_bytes_have_a_description() -> None:
    with pytest.raises(UnsupportedError, match="is of int8 arrays, not of float32"):
        element_array(draw_machine(np.random.default_rng(0), "float32"))


def test_all_patterns_are_drawn() -> None:
    random = np.random.default_rng(0)
    drawn = {str(draw_layer(random).choice.pattern) for _ in range(100)}
    assert drawn == {str(pattern) for pattern in PATTERNS}
