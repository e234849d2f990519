"""What a plan may take, and must be worth, to be of use: the constraints of a search, as Optuna has them.

Knows neither how figures are predicted nor how they are measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Protocol

from hwsparse.errors import StudyError


class Size(Protocol):
    """Bytes of what is deployed, and the most memory that it takes while it runs; None: that is not known."""

    @property
    def file_bytes(self) -> float: ...
    @property
    def memory_bytes(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a plan's figures; None: there is none.

    Raises:
        StudyError: a limit is no number, or nothing can be below it.
    """

    max_latency_s: float | None = None
    max_file_bytes: float | None = None
    max_memory_bytes: float | None = None
    min_quality: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            limit = getattr(self, field.name)
            if limit is not None and (not math.isfinite(limit) or (field.name != "min_quality" and limit <= 0)):
                raise StudyError(f"{field.name.replace('_', ' ')}: {limit} is no limit")

    def excess(self, latency_s: float, size: Size | None) -> dict[str, float]:
        """By how much, relative, a plan exceeds each limit that can be told before it is evaluated; 0 or less: it fits.

        Args:
            size: None: bytes are not known, and have no limit.
        """
        figures = {
            "latency": (latency_s, self.max_latency_s),
            "file": (size.file_bytes if size else None, self.max_file_bytes),
            "memory": (size.memory_bytes if size else None, self.max_memory_bytes),
        }
        return {
            name: figure / limit - 1
            for name, (figure, limit) in figures.items()
            if figure is not None and limit is not None
        }

    def lack(self, quality: float) -> dict[str, float]:
        """By how much a plan falls short of the quality that it must have, as `excess` tells the others."""
        return {} if self.min_quality is None else {"quality": self.min_quality - quality}


UNBOUNDED = Bounds()
