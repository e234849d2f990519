"""A CPU core, as a model of it needs to know it: how many instructions, multiply-adds and loads it does in a cycle.

Knows no layers, no targets and no times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hwsparse import stricttoml
from hwsparse.errors import TargetError

# Field: least and most. The upper ends are beyond any core: they catch a slip of the unit.
_RANGES: dict[str, tuple[float, float]] = {
    "clock_hz": (1e6, 1e11),
    "issue_width": (1, 64),
    "fma_pipes": (0.125, 64),
    "fma_latency_cycles": (1, 100),
    "load_pipes": (0.125, 64),
    "last_level_bytes": (0, 10**12),
    "float16_rate": (1, 16),
    "int8_rate": (1, 64),
}


@dataclass(frozen=True, slots=True)
class Core:
    """One core. Of vector instructions those of 128 bits are counted: an FMA of 4 floats, a load of 16 bytes."""

    name: str
    clock_hz: float
    issue_width: int  # instructions that it takes on in a cycle
    in_order: bool  # a load that waits holds up the multiply-adds behind it
    fma_pipes: float  # multiply-adds of vectors in a cycle
    fma_latency_cycles: int  # from a sum to the next one into the same register
    load_pipes: float  # loads of vectors in a cycle
    last_level_bytes: int  # of the last cache before memory; 0: none is known of
    float16_rate: float = 1.0  # multiply-adds of float16 for one of float32
    int8_rate: float = 1.0  # of int8 for one of float32: 4 with dotprod, 8 with i8mm

    def __post_init__(self) -> None:
        if not (self.name and self.name.isprintable()):
            raise TargetError("a core's name is one line of printable text")
        for field, (least, most) in _RANGES.items():
            if not least <= getattr(self, field) <= most:  # false for NaN too
                raise TargetError(f"[core] {field} must be {least:g} to {most:g}, not {getattr(self, field)}")


_KINDS: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}


def read_core(table: Mapping[str, Any]) -> Core:
    """A [core] table; `format_core` writes it.

    Raises:
        InputError: not exactly a core: says the key and what is allowed.
    """
    kinds = {field.name: _KINDS[str(field.type)] for field in fields(Core)}
    stricttoml.only(table, kinds, "[core] ")
    optional = ("float16_rate", "int8_rate")
    return Core(
        **{
            key: stricttoml.value(table, key, kind, "[core] ")
            for key, kind in kinds.items()
            if key in table or key not in optional
        }
    )


def format_core(core: Core) -> list[str]:
    """The lines of a [core] table."""
    return [f"{key} = {stricttoml.dumps(value)}" for key, value in asdict(core).items()]
