"""Memory, as the hardware description sees it: what brings words and inputs, and takes outputs, byte by byte.

Loads and stores come in one order. A load's first byte comes a latency after it was asked for, or when memory has
done what was before; then so many bytes come in every cycle, as long as what came before was taken. A cycle's bytes
may be fractions: they add up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from hwsparse.accelerator.machine import Accelerator
from hwsparse.accelerator.order import Order
from hwsparse.accelerator.program import Program
from hwsparse.accelerator.schedule import Schedule
from hwsparse.accelerator.stream import section_bytes


@dataclass(frozen=True, slots=True)
class Slot:
    """Where on the chip a section's words are: its slot, and in which half they begin, if they begin one."""

    number: int
    half: int
    fresh: bool


@dataclass(slots=True)
class Section:
    """The words of a pass as they come, each with the bits that have come by its end."""

    slot: Slot
    lengths: list[int]  # words of each group of rows
    words: list[int]  # values, whether it is the last of its channel, index: as the array takes them
    ends: list[Fraction]  # bits
    opened: bool = False
    taken: int = 0


@dataclass(slots=True)
class Load:
    """What comes before a pass."""

    ready: int  # the cycle in which it may be asked for
    pieces: list[tuple[Section, int, Fraction]]  # words up to this one, and the bits that have come by then
    weights: Fraction  # bits
    inputs: Fraction
    residual: Fraction
    columns: np.ndarray  # (inputs, positions)
    half: int
    came: Fraction = Fraction(0)
    used: Fraction = Fraction(0)
    sent: int = 0

    @property
    def bits(self) -> Fraction:
        return self.weights + self.inputs + self.residual


def slots(program: Program, work: Schedule) -> list[Slot]:
    """Where the words of each pass are."""
    chunks, found, half = len(program.tiling.chunks), [], 1
    for number, tile, chunk, own in zip(work.sets, work.tiles, work.chunks, work.own, strict=True):
        if program.tiling.order == "positions" and work.stay[number]:
            found.append(Slot(int(number * chunks + chunk), 0, number == chunk == 0))
            continue
        begins = (tile == chunk == 0) if work.stay[number] else bool(own)
        half ^= int(begins)
        found.append(Slot(int(half * chunks + chunk), half, begins))
    return found


def halves(changes: np.ndarray) -> list[int]:
    """Which half of a buffer each pass has whose contents change with these."""
    return [int(each) for each in np.cumsum(changes) % 2]
