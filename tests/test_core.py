"""A core's figures: read strictly, written back, and refused where they can be no core's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse import stricttoml
from hwsparse.core import Core, format_core, read_core
from hwsparse.errors import InputError, TargetError

CORE = Core("Cortex-A76", 2.4e9, 4, False, 2.0, 4, 2.0, 2 << 20, 2.0, 4.0)


@given(
    st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), min_size=1, max_size=20),
    st.floats(1e6, 1e11),
    st.integers(1, 64),
    st.booleans(),
    st.floats(0.125, 64),
)
def test_what_is_written_reads_back(name: str, clock_hz: float, width: int, in_order: bool, pipes: float) -> None:
    core = replace(CORE, name=name, clock_hz=clock_hz, issue_width=width, in_order=in_order, fma_pipes=pipes)
    assert read_core(stricttoml.loads("\n".join(format_core(core)))) == core


def test_rates_that_are_not_told_are_one() -> None:
    lines = [line for line in format_core(CORE) if not line.startswith(("float16_rate", "int8_rate"))]
    core = read_core(stricttoml.loads("\n".join(lines)))
    assert (core.float16_rate, core.int8_rate) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("issue_width = 4", "issue_widht = 4", r"\[core\] unknown key 'issue_widht'; did you mean issue_width\?"),
        ("issue_width = 4", "issue_width = 4.0", r"\[core\] issue_width must be of type integer"),
        ("issue_width = 4", "", r"\[core\] issue_width is missing"),
        ("in_order = false", "in_order = 0", r"\[core\] in_order must be of type truth value"),
        ("clock_hz = 2400000000.0", "clock_hz = 2.4", r"\[core\] clock_hz must be 1e\+06 to 1e\+11, not 2.4"),
        ("fma_pipes = 2.0", "fma_pipes = 0", r"\[core\] fma_pipes must be 0.125 to 64"),
        ('name = "Cortex-A76"', 'name = ""', "a core's name is one line"),
    ],
)
def test_a_fault_is_named_by_its_key(old: str, new: str, said: str) -> None:
    text = "\n".join(format_core(CORE))
    assert old in text
    with pytest.raises(InputError, match=said):
        read_core(stricttoml.loads(text.replace(old, new)))


def test_no_core_is_faster_than_any() -> None:
    with pytest.raises(TargetError, match="fma_latency_cycles"):
        replace(CORE, fma_latency_cycles=0)
