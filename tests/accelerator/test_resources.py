"""Resources: blocks counted by hand, the small machine on its part, and within a tenth of what a synthesis counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.accelerator_layers import draw_machine
from hwsparse.accelerator import Accelerator
from hwsparse.accelerator.resources import PARTS, Resources, block_count, estimate_resources
from hwsparse.errors import UnsupportedError
from hwsparse.target import load_target

# Of the description of `fpga-edge`, by Yosys' synth_xilinx: 21,934 LUTs of logic and 8,224 of memory, 64 blocks and
# 112 halves.
SYNTHESISED = Resources(128, 120, 30_158)


def edge() -> Accelerator:
    machine = load_target("fpga-edge").accelerator
    assert machine is not None
    return machine


@pytest.mark.parametrize(
    ("depth", "width", "blocks"),
    [(512, 72, 1), (512, 73, 2), (513, 72, 2), (1024, 36, 1), (8192, 13, 4), (1, 1, 1), (65536, 1, 2), (512, 128, 2)],
)
def test_blocks_are_counted_by_their_shapes(depth: int, width: int, blocks: int) -> None:
    assert block_count(depth, width) == blocks


def test_the_small_machine_fits_its_part_as_synthesis_says_too() -> None:
    found = estimate_resources(edge())
    assert found.fit(PARTS["XC7Z020"]) and SYNTHESISED.fit(PARTS["XC7Z020"])
    assert found.dsp == SYNTHESISED.dsp
    assert found.luts == pytest.approx(SYNTHESISED.luts, rel=0.1)
    assert found.bram36 == pytest.approx(SYNTHESISED.bram36, rel=0.1)


def test_twice_the_rows_take_twice_the_multipliers_and_do_not_fit() -> None:
    wide = estimate_resources(replace(edge(), rows=32, outputs_bytes=16384))
    assert wide.dsp == 256 and not wide.fit(PARTS["XC7Z020"])


def test_arithmetic_of_floats_is_not_made_up() -> None:
    with pytest.raises(UnsupportedError, match="known of int8 arrays only, not of float16"):
        estimate_resources(draw_machine(np.random.default_rng(0), "float16"))
