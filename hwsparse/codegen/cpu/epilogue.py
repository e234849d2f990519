"""What a kernel does to its sums before it stores them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx


@dataclass(frozen=True, slots=True)
class Epilogue:
    """Bias is always added; then, if asked, a residual tensor of the output's shape; then a clip."""

    residual: bool = False
    low: float = -math.inf
    high: float = math.inf

    def activation(self) -> Callable[[Any], Any]:
        """The clip as a function on TIR expressions."""

        def clip(value: Any) -> Any:
            if self.low > -math.inf:
                value = tirx.max(value, tirx.const(self.low, "float32"))
            if self.high < math.inf:
                value = tirx.min(value, tirx.const(self.high, "float32"))
            return value

        return clip

    def __str__(self) -> str:
        clip = "" if (self.low, self.high) == (-math.inf, math.inf) else f"clip{self.low:g}_{self.high:g}"
        return "_".join(part for part in ("bias", "add" if self.residual else "", clip) if part)
