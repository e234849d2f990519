"""Sparsity patterns: which weights of a layer must be kept or dropped together.

A weight is seen as a matrix: rows are output channels, columns are inputs (input channel by kernel
position). The text form of a pattern is the one used everywhere: files, command line, records.

    dense           every weight kept
    unstructured    each weight on its own
    block4x1        4 output channels by 1 input kept or dropped together
    block4x4        4 output channels by 4 consecutive input channels at one kernel position
    2:4             2 of every 4 consecutive inputs kept, per output channel
    2:4x8           the same, one choice shared by 8 consecutive output channels
    channel         whole output channels, a multiple of 8 of them kept (channel16: of 16)

Knows nothing of layers, devices or kernels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hwsparse.errors import PatternError


@dataclass(frozen=True, slots=True)
class Dense:
    """Every weight kept."""

    def __str__(self) -> str:
        return "dense"


@dataclass(frozen=True, slots=True)
class Unstructured:
    """Each weight kept or dropped on its own."""

    def __str__(self) -> str:
        return "unstructured"


@dataclass(frozen=True, slots=True)
class Block:
    """Blocks of `rows` output channels by `cols` input channels, at one kernel position, kept or dropped together."""

    rows: int
    cols: int = 1

    def __post_init__(self) -> None:
        if not (1 <= self.rows <= 64 and 1 <= self.cols <= 64 and self.rows * self.cols > 1):
            raise PatternError(
                f"block{self.rows}x{self.cols}: a block has 1 to 64 rows and columns and more than one weight"
            )

    def __str__(self) -> str:
        return f"block{self.rows}x{self.cols}"


@dataclass(frozen=True, slots=True)
class NM:
    """`n` of every `m` consecutive inputs kept; `shared` output channels make one choice."""

    n: int
    m: int
    shared: int = 1

    def __post_init__(self) -> None:
        if not (1 <= self.n < self.m <= 64 and 1 <= self.shared <= 64):
            raise PatternError(f"{self.n}:{self.m}x{self.shared}: N:M needs 1 <= N < M <= 64, shared by 1 to 64 rows")

    @property
    def ratio(self) -> float:
        """The only fraction of zeros this pattern can have."""
        return 1 - self.n / self.m

    def __str__(self) -> str:
        return f"{self.n}:{self.m}" + (f"x{self.shared}" if self.shared > 1 else "")


@dataclass(frozen=True, slots=True)
class Channel:
    """Whole output channels dropped; the number kept is a multiple of `multiple`."""

    multiple: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.multiple <= 256:
            raise PatternError(f"channel{self.multiple}: the multiple is 1 to 256")

    def kept(self, channels: int, ratio: float) -> int:
        """How many of some channels stay: the nearest multiple, at least one; all only if nothing is to go."""
        if ratio == 0:
            return channels
        wanted = round((1 - ratio) * channels / self.multiple) * self.multiple
        return max(min(wanted, channels - channels % self.multiple), self.multiple)

    def __str__(self) -> str:
        return "channel" if self.multiple == 8 else f"channel{self.multiple}"


Pattern = Dense | Unstructured | Block | NM | Channel


def parse_pattern(text: str) -> Pattern:
    """Reads a pattern from its text form.

    Raises:
        PatternError: `text` names no pattern.
    """
    if text == "dense":
        return Dense()
    if text == "unstructured":
        return Unstructured()
    if match := re.fullmatch(r"block(\d{1,3})x(\d{1,3})", text):
        return Block(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"(\d{1,3}):(\d{1,3})(?:x(\d{1,3}))?", text):
        return NM(int(match[1]), int(match[2]), int(match[3] or 1))
    if match := re.fullmatch(r"channel(\d{1,3})?", text):
        return Channel(int(match[1] or 8))
    raise PatternError(
        f"{text!r} is not a pattern; use dense, unstructured, blockRxC (block4x1), N:M (2:4), N:MxR (2:4x8) or channel"
    )
