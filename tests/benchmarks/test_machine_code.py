"""Inner loops found in texts of assembly, and in what is really generated for Arm."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.estimates import LEAST_SHARE
from benchmarks.machine_code import Schedule, busiest_loop, find_mca, loops, schedule
from hwsparse.codegen import layer_assembly
from hwsparse.errors import InputError
from hwsparse.latency.reference_networks import convolution
from hwsparse.plan import parse_choice
from hwsparse.target import load_target

CODE = """
main:
	mov	x0, #4
.LBB0_1:
	ldr	q0, [x1]
.LBB0_2:                        // inner
	ldp	q1, q2, [x2], #32
	fmla	v3.4s, v1.4s, v0.s[0]
	fmla	v4.4s, v2.4s, v0.s[0]
	str	q3, [sp, #16]           // 16-byte Folded Spill
	subs	x3, x3, #1
	b.ne	.LBB0_2
	fmla	v5.4s, v1.4s, v0.s[1]
	subs	x0, x0, #1
	b.ne	.LBB0_1
.LBB0_3:
	ldr	q0, [x1], #16
	str	q0, [x4], #16
	cbnz	x5, .LBB0_3
.LBB0_4:
	sdot	v3.4s, v1.16b, v0.4b[0]
	cbz	x5, .LBB0_5
	b.lt	.LBB0_4
.LBB0_5:
	ret
"""


def test_innermost_loops_that_multiply_are_found() -> None:
    found = {loop.label: loop for loop in loops(CODE)}
    assert set(found) == {".LBB0_2", ".LBB0_4"}
    inner = found[".LBB0_2"]
    assert (inner.multiply_adds, inner.spills, len(inner.lines)) == (2, 1, 6)
    assert (found[".LBB0_4"].multiply_adds, found[".LBB0_4"].spills) == (1, 0)
    assert busiest_loop(CODE).label == ".LBB0_2"
    with pytest.raises(InputError, match="no loop"):
        busiest_loop("main:\n\tret\n")


@pytest.mark.parametrize(("frame", "spills"), [("mov x29, sp", 1), ("add x29, sp, #16", 1), ("add x29, x2, #16", 0)])
def test_x29_is_the_stack_where_a_function_makes_it_so(frame: str, spills: int) -> None:
    loop = ".LBB{0}_1:\n\tldr q1, [x29, #16]\n\tfmla v0.4s, v1.4s, v2.s[0]\n\tb.ne .LBB{0}_1\n\tret\n"
    code = "other:\n\tmov x29, sp\n" + loop.format(0) + f"main:\n\t{frame}\n" + loop.format(1)
    assert [each.spills for each in loops(code)] == [1, spills]


def told(core: str, mca: str | None) -> Schedule:
    assert mca is not None
    return schedule(busiest_loop(CODE), core, mca)


def test_llvm_tells_how_a_loop_runs() -> None:
    mca = find_mca()
    if mca is None:
        pytest.skip("no llvm-mca is installed (Debian: apt-get install llvm)")
    found = told("cortex-a57", mca)
    # Two multiply-adds on the one pipe that takes them: two cycles, of what the busiest is kept.
    assert found.multiply_adds == pytest.approx(2.0) and found.busiest >= found.multiply_adds
    assert found.share == pytest.approx(found.multiply_adds / found.busiest)


def test_what_llvm_mca_cannot_tell_is_said(tmp_path: Path) -> None:
    for name, body in (("fails", "exit 3"), ("raves", "echo '{}'"), ("mumbles", "echo hello")):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\ncat > /dev/null\n{body}\n")
        os.chmod(path, 0o755)
        with pytest.raises(InputError, match="cannot tell how cortex-a57 runs"):
            told("cortex-a57", str(path))
    with pytest.raises(InputError, match="cannot tell"):
        told("cortex-a57", f"{sys.executable}-missing")


@pytest.mark.parametrize(
    "text",
    ["dense", "block4x1@0.75", "block8x1@0.75", "block2x1@0.75", "unstructured@0.9", "2:4",
     "dense/int8", "block4x4@0.75/int8", "block8x4@0.75/int8", "block1x4@0.75/int8", "depthwise"],
)  # fmt: skip
def test_multiply_adds_for_arm_are_what_keeps_its_pipes_busy(text: str) -> None:
    depthwise = text == "depthwise"
    made = convolution(64, (28, 28), 64, (3, 3) if depthwise else (1, 1), depthwise=depthwise)
    layer, choice = replace(made, name="layer", weight="weight"), parse_choice("dense" if depthwise else text)
    loop = busiest_loop(layer_assembly(layer, choice, load_target("arm-cortex-a76")))
    assert loop.spills == 0
    assert loop.multiply_adds >= 0.5 * len(loop.lines)
    if mca := find_mca():
        assert schedule(loop, "neoverse-n1", mca).share >= LEAST_SHARE
