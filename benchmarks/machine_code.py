"""What a compiler made of kernels: their innermost loops, and how LLVM's model of a core would run them.

`llvm-mca` (of Debian's package llvm, say) is asked; no device is needed. Knows text and counts, no kernels.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from hwsparse.errors import InputError

MULTIPLY_ADD = re.compile(r"\s(fmla|fmadd|bfdot|bfmmla|[su]*dot|[us]*mmla)\s")
LABEL = re.compile(r"^(\.L\w+):")
BRANCH = re.compile(r"^\s+(?:b\.\w+|cbn?z|tbn?z)\s.*?(\.L\w+)$")
FUNCTION = re.compile(r"^[A-Za-z_][\w.$]*:")
FRAMED = re.compile(r"^\s+(?:mov\s+x29, sp|add\s+x29, sp, )")
# What is on the stack; x29 is any register where a function does not make it point there.
STACK, STACK_OF_FRAMED = re.compile(r"\[sp\b"), re.compile(r"\[(sp|x29)\b")
MCA_NAMES = ("llvm-mca", *(f"llvm-mca-{version}" for version in range(30, 15, -1)))
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Loop:
    """An innermost loop that multiplies and adds."""

    label: str
    lines: tuple[str, ...]
    framed: bool = False  # its function keeps in x29 where on the stack it is

    @property
    def multiply_adds(self) -> int:
        return sum(bool(MULTIPLY_ADD.search(line)) for line in self.lines)

    @property
    def spills(self) -> int:
        """Instructions that touch the stack: what did not fit into registers."""
        stack = STACK_OF_FRAMED if self.framed else STACK
        return sum(bool(stack.search(line)) for line in self.lines)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A turn of a loop on a modelled core, in cycles."""

    core: str
    multiply_adds: float  # that the multiply-adds keep the pipes that do them
    busiest: float  # that all instructions keep the busiest pipes
    port: str  # these
    throughput: float  # at best, with what can be issued in a cycle

    @property
    def share(self) -> float:
        """Of the busiest pipes' time, what multiply-adds need: one where nothing else holds them up."""
        return self.multiply_adds / self.busiest


def loops(assembly: str) -> Iterator[Loop]:
    """Innermost loops of a text of AArch64 assembly that multiply and add, in their order."""
    lines = [line.split("//")[0].rstrip() for line in assembly.splitlines()]
    places = {found[1]: at for at, line in enumerate(lines) if (found := LABEL.match(line))}
    backward = [
        (places[found[1]], at)
        for at, line in enumerate(lines)
        if (found := BRANCH.match(line)) and places.get(found[1], at) < at
    ]
    for first, last in backward:
        if any((first, last) != other and first <= other[0] and other[1] <= last for other in backward):
            continue
        body = tuple(line for line in lines[first + 1 : last + 1] if re.match(r"\s+[a-z]", line))
        loop = Loop(lines[first].rstrip(":"), body, _framed(lines[:first]))
        if loop.multiply_adds:
            yield loop


def _framed(lines: list[str]) -> bool:
    """Whether the function that lines are the beginning of, after others, makes x29 point into the stack."""
    for line in reversed(lines):
        if FRAMED.match(line):
            return True
        if FUNCTION.match(line):
            return False
    return False


def busiest_loop(assembly: str) -> Loop:
    """The innermost loop with the most multiply-adds in a turn, and the most of its instructions: that of whole tiles.

    Raises:
        InputError: there is none.
    """
    found = max(loops(assembly), key=lambda loop: loop.multiply_adds**2 / len(loop.lines), default=None)
    if found is None:
        raise InputError("the code has no loop that multiplies and adds")
    return found


def find_mca() -> str | None:
    """The llvm-mca to ask, the newest that is called by its version; None: there is none."""
    return next(filter(None, map(shutil.which, (*MCA_NAMES[1:], MCA_NAMES[0]))), None)


def schedule(loop: Loop, core: str, mca: str) -> Schedule:
    """How a modelled core runs a loop.

    Args:
        core: as LLVM calls it.

    Raises:
        InputError: llvm-mca fails, or knows no such core.
    """
    # A loop's end is a branch to a label that must be there.
    text = "\n".join((f"{loop.label}:", *loop.lines)) + "\n"
    asked = [mca, "-mtriple=aarch64-linux-gnu", f"-mcpu={core}", "-mattr=+dotprod,+i8mm,+bf16,+fullfp16", "-json"]
    try:
        done = subprocess.run(asked, input=text, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        told = json.loads(done.stdout)
        region, names = told["CodeRegions"][0], told["TargetInfo"]["Resources"]
        return _schedule(region, [name.split(".")[0] for name in names], core)
    except (OSError, subprocess.SubprocessError, ValueError, LookupError) as error:
        raise InputError(f"{mca} cannot tell how {core} runs {loop.label}: {error}") from None


def _schedule(region: dict[str, object], names: list[str], core: str) -> Schedule:
    lines, usage = region["Instructions"], region["ResourcePressureView"]
    assert isinstance(lines, list) and isinstance(usage, dict)
    summary = region["SummaryView"]
    assert isinstance(summary, dict)
    adding = {at for at, line in enumerate(lines) if MULTIPLY_ADD.search(f" {line} ".replace("\t", " "))}
    units = {port: re.sub(r"\d*$", "", name) for port, name in enumerate(names)}  # of several pipes that do the same
    pipes = Counter(units.values())
    all_of: dict[str, float] = dict.fromkeys(pipes, 0.0)
    of_adding = dict(all_of)
    for each in usage["ResourcePressureInfo"]:
        at, unit, used = each["InstructionIndex"], units[each["ResourceIndex"]], float(each["ResourceUsage"])
        if at < len(lines):
            all_of[unit] += used / pipes[unit]
            if at in adding:
                of_adding[unit] += used / pipes[unit]
    busiest = max(all_of, key=lambda unit: all_of[unit])
    return Schedule(core, max(of_adding.values()), all_of[busiest], busiest, float(summary["BlockRThroughput"]))
