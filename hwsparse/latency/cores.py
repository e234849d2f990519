"""CPUs of one machine that are not alike, as Linux tells of them: which are big or little, and how fast they may be.

`cpu_capacity` is what a CPU can do in relation to the fastest one, which has 1024, at its highest clock (Linux,
Documentation/devicetree/bindings/cpu/cpu-capacity.txt); where the system knows none, the highest clock tells.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from hwsparse.errors import InputError

SYS = Path("/sys")
CPUS = "devices/system/cpu"
KINDS = ("big", "little")


def parse_cores(text: str, allowed: Collection[int], sys: Path = SYS) -> tuple[int, ...]:
    """The CPUs that a text names: 4-7, 0,2-3, big (of the fastest kind there is) or little (of the slowest).

    Args:
        allowed: numbers of those that this process may use.

    Raises:
        InputError: it names none, or one that cannot be used; or all CPUs are alike.
    """
    text = text.strip()
    if text in KINDS:
        return _kind(text, allowed, sys)
    if not re.fullmatch(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", text):
        raise InputError(f"--cores {text!r}: give numbers as 4-7 or 0,2,3, or {' or '.join(KINDS)}")
    named = set[int]()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            raise InputError(f"--cores {text!r}: {part} runs backwards")
        named.update(range(int(first), int(last or first) + 1))
    if unknown := sorted(named - set(allowed)):
        raise InputError(f"--cores {text!r}: this process may use {shown(allowed)}, not {shown(unknown)}")
    return tuple(sorted(named))


def usable_cpus() -> frozenset[int]:
    """Numbers of the CPUs that this process may use now."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def shown(cpus: Iterable[int]) -> str:
    """Numbers as the system writes them: 0-3,6."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def used_cpus(cpus: Collection[int], sys: Path = SYS) -> str:
    """CPUs with the highest clocks that they may have now, as in 4-7 at 2400 MHz; these go where none is told."""
    clocks = sorted({clock_hz(cpu, "scaling_max_freq", sys) for cpu in cpus} - {0}, reverse=True)
    return shown(cpus) + (f" at {'/'.join(f'{clock / 1e6:.0f}' for clock in clocks)} MHz" if clocks else "")


def clock_hz(cpu: int, name: str, sys: Path = SYS) -> int:
    """One of a CPU's clocks, by its name in /sys: scaling_cur_freq, scaling_max_freq, cpuinfo_max_freq; 0: untold."""
    return 1000 * _number(sys / CPUS / f"cpu{cpu}/cpufreq/{name}")


def _kind(name: str, allowed: Collection[int], sys: Path) -> tuple[int, ...]:
    rank = {cpu: _number(sys / CPUS / f"cpu{cpu}/cpu_capacity") for cpu in allowed}
    if not all(rank.values()):
        rank = {cpu: clock_hz(cpu, "cpuinfo_max_freq", sys) for cpu in allowed}
    if not all(rank.values()):
        raise InputError(f"--cores {name}: this system does not tell which CPUs are {name}; name them by number")
    if len(set(rank.values())) == 1:
        raise InputError(f"--cores {name}: all of {shown(allowed)} are alike; name them by number")
    wanted = max(rank.values()) if name == "big" else min(rank.values())
    return tuple(sorted(cpu for cpu, has in rank.items() if has == wanted))


def _number(path: Path) -> int:
    """A whole number above 0 that the system tells; 0: none."""
    try:
        return max(0, int(path.read_text()))
    except (OSError, ValueError):
        return 0
