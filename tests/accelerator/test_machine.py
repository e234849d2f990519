"""Accelerators: what is written reads back, and what cannot be built is refused with what to do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accelerator_layers import draw_machine
from hwsparse import stricttoml
from hwsparse.accelerator import Accelerator, format_accelerator, read_accelerator
from hwsparse.errors import InputError, TargetError
from hwsparse.target import format_target as text_of
from hwsparse.target import load_target, parse_target

SHIPPED = ("fpga-edge", "fpga-sim", "fpga-s4")


def shipped(name: str) -> Accelerator:
    found = load_target(name).accelerator
    assert found is not None
    return found


@given(st.integers(0, 2**32), st.sampled_from(["int8", "float16", "float32"]))
def test_what_is_written_reads_back(seed: int, dtype: str) -> None:
    machine = draw_machine(np.random.default_rng(seed), dtype)
    assert read_accelerator(stricttoml.loads("\n".join(format_accelerator(machine)))) == machine


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_reads_back_and_agrees_with_its_hardware(name: str) -> None:
    target = load_target(name)
    assert target.kind == "fpga" and target.accelerator is not None
    assert parse_target(text_of(target), "here") == target
    assert target.peak_flops == 2 * target.accelerator.macs_per_cycle * target.accelerator.clock_hz


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clock_hz": 0.0}, r"\[accelerator\] clock_hz must be 1e\+06 to 1e\+10, not 0"),
        ({"clock_hz": 200.0}, "clock_hz must be"),  # in MHz
        ({"clock_hz": float("nan")}, "clock_hz must be .* not nan"),
        ({"dram_bytes_per_cycle": 0.0}, "dram_bytes_per_cycle must be"),
        ({"dram_bytes_per_cycle": 19.2e9}, "dram_bytes_per_cycle must be"),  # a second's
        ({"rows": 0}, "rows must be 1 to 1024"),
        ({"run_bits": 9}, "run_bits must be 1 to 8"),
        ({"dtype": "int4"}, r"dtype 'int4' is unknown; did you mean int8\? allowed: int8, float16, float32"),
        ({"distributor": "balance"}, r"distributor 'balance' is unknown; did you mean balanced\?"),
        ({"input_banks": 12}, "input_banks must be a power of two, not 12"),
        ({"input_copies": 5}, "input_copies must divide the 16 rows, not 5"),
        (
            {"inputs_bytes": 1024},
            "inputs_bytes must be 2048 at least, for 16 inputs of a tile of 16 positions, not 1024",
        ),
        ({"weights_bytes": 100}, r"weights_bytes must be 832 at least, for 16 inputs of a tile .* not 100"),
        (
            {"outputs_bytes": 256},
            "outputs_bytes must be 2048 at least, for a tile of 16 positions by 16 rows .* not 256",
        ),
        ({"lanes": 1024}, "inputs_bytes must be"),  # a tile that fits no buffer
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(TargetError, match=said) as caught:
        replace(shipped("fpga-sim"), **{"run_bits": 4} | changes)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_least_that_is_asked_for_is_enough_and_a_byte_less_is_not() -> None:
    least = {"inputs_bytes": 2048, "weights_bytes": 832, "outputs_bytes": 2048}
    machine = replace(shipped("fpga-sim"), run_bits=4, **least)  # type: ignore[arg-type]
    for name, size in least.items():
        assert getattr(machine, name) == size
        with pytest.raises(TargetError, match=f"{name} must be {size} at least"):
            replace(machine, **{name: size - 1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rows = 16", "rosw = 16", r"\[accelerator\] unknown key 'rosw'; did you mean rows\?"),
        ("rows = 16", "", r"\[accelerator\] rows is missing"),
        ("rows = 16", "rows = 16.0", r"\[accelerator\] rows must be of type integer"),
        ("rows = 16", "rows = 32", r"peak_flops must be 2.048e\+11, as \[accelerator\] makes it, not 1.024e\+11"),
        ("dram_bytes_per_cycle = 96.0", "dram_bytes_per_cycle = 48", "bandwidth_bytes_per_s must be 9.6e"),
        ('dtype = "int8"', 'dtype = "float16"', r"\[supported\] names other types than float16"),
        (
            'float32 = ["dense"]',
            'float32 = ["2:4"]',
            r"types than int8, .* and dense float32, which its host runs",
        ),
        ("vector_bits = 256", "vector_bits = 64", "the host of an accelerator is a CPU, which has vector_registers 16"),
        ("vector_bits = 256", "", "the host of an accelerator is a CPU, which has vector_registers 16 or 32"),
        ('runner = "simulator"', 'runner = "local"', r"the runner simulator and an \[accelerator\], .* go together"),
        ('kind = "fpga"', 'kind = "gpu"', r"a gpu has no \[accelerator\]"),
    ],
)
def test_a_fault_of_the_descriptor_is_named(old: str, new: str, said: str) -> None:
    text = text_of(load_target("fpga-sim"))
    assert old in text
    with pytest.raises(TargetError, match=rf"^here: .*{said}"):
        parse_target(text.replace(old, new), "here")


def test_a_table_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"\[accelerator\] clock_hz must be of type finite number"):
        read_accelerator({"clock_hz": "fast"})
