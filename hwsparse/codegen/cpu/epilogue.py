"""What a kernel does to its sums before it stores them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from hwsparse.codegen.cpu import vector_math

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "erf": vector_math.erf,
    "gelu": vector_math.gelu,
    "gelu_tanh": vector_math.gelu_tanh,
    "hard_swish": vector_math.hard_swish,
    "sigmoid": vector_math.sigmoid,
    "silu": vector_math.silu,
    "tanh": vector_math.tanh,
}


@dataclass(frozen=True, slots=True)
class Epilogue:
    """Bias is always added; then, if asked, a residual tensor of the output's shape, an activation, a clip.

    A residual `in_place` is what the output's buffer holds at first. Of kernels that read bytes the residual may be
    `added` as bytes, and the output `stored` as such. Where it is, and there is no function, sums become bytes at once.
    """

    residual: bool = False
    low: float = -math.inf
    high: float = math.inf
    function: str = ""  # one of ACTIVATIONS
    in_place: bool = False
    added: str = "float32"
    stored: str = "float32"

    def __post_init__(self) -> None:
        if self.in_place and not self.residual:
            raise ValueError("without a residual there is none in place")

    @property
    def at_once(self) -> bool:
        """Whether sums are scaled to the output's bytes, with bias, bounds and all."""
        return self.stored == "uint8" and not self.function

    def activation(self) -> Callable[[Any], Any]:
        """The activation and the clip as one function on TIR expressions."""
        function = ACTIVATIONS.get(self.function, lambda value: value)

        def activation(value: Any) -> Any:
            value = function(value)
            if self.low > -math.inf:
                value = tirx.max(value, tirx.const(self.low, "float32"))
            if self.high < math.inf:
                value = tirx.min(value, tirx.const(self.high, "float32"))
            return value

        return activation

    def __str__(self) -> str:
        clip = "" if (self.low, self.high) == (-math.inf, math.inf) else f"clip{self.low:g}_{self.high:g}"
        add = ("add_in_place" if self.in_place else "add") if self.residual else ""
        added = "of_bytes" if self.added == "uint8" else ""
        stored = "as_bytes" if self.stored == "uint8" else ""
        return "_".join(part for part in ("bias", add, added, self.function, clip, stored) if part)
