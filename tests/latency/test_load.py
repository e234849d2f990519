from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwsparse.latency import load
from hwsparse.latency.load import FULL_SHARE, Bystanders, load_note, taken_by_others


@pytest.mark.parametrize("share", [1.0, FULL_SHARE])
def test_a_cpu_of_ones_own_is_not_worth_a_word(share: float) -> None:
    assert (taken_by_others(share), load_note(share)) == ("", "")


def test_what_others_took_is_said() -> None:
    assert taken_by_others(0.5) == "other processes took 50% of the CPU"
    assert load_note(0.9).startswith("While some of it was timed, other processes took 10% of the CPU: ")


TICKS = os.sysconf("SC_CLK_TCK")


class System:
    """What /proc says of two CPUs and of process 7, and a clock, all of them ours to turn."""

    def __init__(self, proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.proc, self.now_s = proc, 100.0
        (proc / "7").mkdir()
        self.tell(busy_s=(1, 2), own_s=0.5)
        monkeypatch.setattr(load.time, "monotonic", lambda: self.now_s)

    def tell(self, busy_s: tuple[float, float], own_s: float, idle_s: float = 1000.0) -> None:
        """Of each CPU an eighth of what it was busy for goes to each of user, nice, and so on; all of 7's is user's."""
        lines = ["cpu  1 2 3 4 5 6 7 8 0 0"]
        for cpu, seconds in enumerate(busy_s):
            each, idle = round(seconds * TICKS / 5), round(idle_s * TICKS)
            steal = round(seconds * TICKS) - 4 * each
            lines.append(f"cpu{cpu} {each} {each} {each} {idle} 77 {each} 0 {steal} 0 0")
        (self.proc / "stat").write_text("\n".join([*lines, "intr 1 2 3"]) + "\n")
        half = round(own_s * TICKS / 2)
        told = f"7 (a name) of 1 (2) S 1 7 7 0 -1 0 1 2 3 4 {half} {round(own_s * TICKS) - half} 9 9 20 0 1\n"
        (self.proc / "7" / "stat").write_text(told)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    return System(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("busy_s", "own_s", "left"),
    [
        ((1, 2), 0.5, 1.0),  # nothing happens
        ((1, 12), 10.5, 1.0),  # one CPU is ours
        ((11, 12), 10.5, 0.5),  # another has the other
        ((6, 12), 10.5, 0.75),
        ((11, 12), 0.5, 0.0),
        ((1, 2), 10.5, 1.0),  # clocks are coarse
        ((99, 99), 0.5, 0.0),
    ],
)
def test_what_others_had_of_the_cpus_is_left_out(
    system: System, busy_s: tuple[float, float], own_s: float, left: float
) -> None:
    watch = Bystanders((0, 1), (7,), system.proc)
    system.tell(busy_s, own_s, idle_s=4321.0)
    system.now_s += 10
    assert watch.left_to_us() == pytest.approx(left, abs=0.01)


def test_cpus_that_we_may_not_use_do_not_count(system: System) -> None:
    watch = Bystanders((1,), (7,), system.proc)
    system.tell((11, 2), 0.5)
    system.now_s += 10
    assert watch.left_to_us() == 1.0


def test_too_short_a_time_tells_nothing(system: System) -> None:
    watch = Bystanders((0, 1), (7,), system.proc)
    system.tell((1.4, 2.4), 0.5)
    system.now_s += 0.4
    assert watch.left_to_us() == 1.0


@pytest.mark.parametrize("stat", ["", "cpu0 1 2\n", "cpu0 a b c d e f g h\ncpu1 1 1 1 1 1 1 1 1\n"])
def test_a_system_that_tells_something_else_tells_nothing(system: System, stat: str) -> None:
    watch = Bystanders((0, 1), (7,), system.proc)
    (system.proc / "stat").write_text(stat)
    system.now_s += 10
    assert watch.left_to_us() == 1.0
    assert Bystanders((0,), (8,), system.proc).left_to_us() == 1.0
    assert Bystanders((), (7,), system.proc).left_to_us() == 1.0
