from __future__ import annotations

from dataclasses import replace

import pytest

from hwsparse.latency.presence import Needs, Presence
from hwsparse.target import load_target
from tests.latency.examples import DEVICE, TOOLCHAIN

PI = Presence(
    replace(DEVICE, machine="aarch64", used="0-3 at 2400 MHz"), (0, 1, 2, 3), ("asimd", "asimddp"), "0.27.0", "0.1.0",
    "a", 0, "",
)  # fmt: skip
NEEDS = Needs("arm-x", "aarch64", ("asimd",), 4, "0.27.0.post1")


def test_code_for_a_target_needs_what_the_target_says() -> None:
    target = load_target("arm-cortex-a76")
    assert Needs.of(target, TOOLCHAIN) == Needs(target.name, "aarch64", target.isa, 4, TOOLCHAIN.tvm)


def test_a_board_with_all_of_it_will_do_whatever_its_wheel_was_built_anew_for() -> None:
    assert NEEDS.unmet(PI) is None
    assert NEEDS.unmet(replace(PI, device=replace(PI.device, machine="arm64"))) is None


@pytest.mark.parametrize(
    ("board", "said"),
    [
        (replace(PI, device=DEVICE), "is an x86_64, and target arm-x is code for aarch64: register it under"),
        (
            replace(PI, flags=("fp",)),
            "lacks asimd, which code for target arm-x uses: describe it by a target of its own",
        ),
        (
            replace(PI, cpus=(2, 3)),
            "runs code on its CPUs 2-3 only, and target arm-x takes 4 threads: give --threads 2",
        ),
        (replace(PI, tvm="0.26.1"), "runs code by TVM 0.26.1, and code is made by TVM 0.27.0.post1 here: install the"),
        (replace(PI, tvm="0.27.1"), "runs code by TVM 0.27.1"),
    ],
)
def test_what_a_board_lacks_is_said_with_what_to_do(board: Presence, said: str) -> None:
    assert said in (NEEDS.unmet(board) or "")


def test_how_a_session_ended_is_told_by_the_next_one() -> None:
    assert PI.how_ended(PI) == ""
    crashed = replace(PI, crashes=1, last_crash="killed by SIGSEGV")
    assert crashed.how_ended(PI) == "its process on the board was killed by SIGSEGV"
    assert crashed.how_ended(crashed) == ""  # of long ago
    assert replace(crashed, boot="b").how_ended(PI).startswith("the board started anew")
