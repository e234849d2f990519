"""The accelerator as a descriptor tells of it: an array, its buffers, its memory and its vector unit.

    rows x columns elements of `lanes` multiply-adds. A row works on output channels of its own, a column and its
    lanes on positions: a tile is columns x lanes positions. An element keeps the sums of up to `accumulators`
    channels, twice, so that the vector unit can empty one half while the other is being filled.

    Each row reads a stream of entries (zeros skipped, value, last of its channel), one a cycle. All columns see the
    same weights, so that time depends on weights only. Inputs lie in `input_copies` copies, each for rows / copies
    rows, each of `input_banks` banks (bank = k mod banks), one read a cycle and bank; rows of one copy that ask for
    the same input share the read, others wait, the lowest row first.

    Weights, inputs and outputs have two halves each: one is used while the other is loaded or stored.

Compressed columns with run lengths: S. Han et al., "EIE: Efficient Inference Engine on Compressed Deep Neural Network",
ISCA 2016. Knows no layers, no targets and no times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hwsparse import stricttoml
from hwsparse.errors import TargetError

DISTRIBUTORS = ("static", "balanced")
ELEMENT_BYTES = {"int8": 1, "float16": 2, "float32": 4}
# Of what leaves for the host, or comes from there, where it is not of the machine's type: float32.
HOST_BYTES = 4
# From the start of a pass to its end without work: a word is fetched, its input read, multiplied and added. The RTL's.
FILL_CYCLES = 4

# Field: least and most. The upper ends are beyond any such machine: they catch a slip of the unit.
_RANGES: dict[str, tuple[float, float]] = {
    "clock_hz": (1e6, 1e10),
    "rows": (1, 1024),
    "columns": (1, 1024),
    "lanes": (1, 1024),
    "accumulators": (1, 1024),
    "run_bits": (1, 8),
    "input_banks": (1, 1024),
    "input_copies": (1, 1024),
    "weights_bytes": (1, 10**10),
    "inputs_bytes": (1, 10**10),
    "outputs_bytes": (1, 10**10),
    "dram_bytes_per_cycle": (1 / 64, 2.0**16),
    "dram_latency_cycles": (0, 10**5),
    "vector_lanes": (1, 2**16),
}


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One machine; on-chip sizes count both halves of a buffer and, of inputs, every copy."""

    clock_hz: float
    dtype: str  # one of ELEMENT_BYTES; int8 adds up in int32, floats in float32
    rows: int
    columns: int
    lanes: int
    accumulators: int  # channels whose sums an element keeps
    run_bits: int  # of an entry that say how many zeros it skips, or where in its N:M group it is
    distributor: str  # one of DISTRIBUTORS: which row gets which channels
    input_banks: int  # a power of two
    input_copies: int  # as many as rows: no row ever waits
    weights_bytes: int
    inputs_bytes: int
    outputs_bytes: int
    dram_bytes_per_cycle: float
    dram_latency_cycles: int
    vector_lanes: int  # outputs that bias, activation and requantisation finish in a cycle

    def __post_init__(self) -> None:
        for field, (least, most) in _RANGES.items():
            if not least <= getattr(self, field) <= most:  # false for NaN too
                raise TargetError(f"[accelerator] {field} must be {least:g} to {most:g}, not {getattr(self, field):g}")
        for field, names in (("dtype", tuple(ELEMENT_BYTES)), ("distributor", DISTRIBUTORS)):
            if (given := getattr(self, field)) not in names:
                raise TargetError(f"[accelerator] {field} {given!r} is unknown; {stricttoml.known(given, names)}")
        if self.input_banks & (self.input_banks - 1):
            raise TargetError(f"[accelerator] input_banks must be a power of two, not {self.input_banks}")
        if self.rows % self.input_copies:
            raise TargetError(f"[accelerator] input_copies must divide the {self.rows} rows, not {self.input_copies}")
        self._check_buffers()

    def _check_buffers(self) -> None:
        """Each half of a buffer holds the least that a pass needs: one group of inputs, one channel a row."""
        least = 1 << self.run_bits
        needs = (
            ("inputs_bytes", self.chunk_inputs, 2 * self.input_copies * self.tile_positions * self.element_bytes),
            ("weights_bytes", self.row_words, -(-2 * self.rows * self.word_bits // 8)),
        )
        for field, holds, unit in needs:
            if holds < least:
                raise TargetError(
                    f"[accelerator] {field} must be {least * unit} at least, for {least} inputs of a tile of "
                    f"{self.tile_positions} positions, not {getattr(self, field)}"
                )
        tile = 2 * self.rows * self.tile_positions * HOST_BYTES
        if self.outputs_bytes < tile:
            raise TargetError(
                f"[accelerator] outputs_bytes must be {tile} at least, for a tile of {self.tile_positions} positions "
                f"by {self.rows} rows in float32, as the host may want them, not {self.outputs_bytes}"
            )

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.dtype]

    @property
    def tile_positions(self) -> int:
        return self.columns * self.lanes

    @property
    def macs_per_cycle(self) -> int:
        return self.rows * self.tile_positions

    @property
    def rows_per_copy(self) -> int:
        return self.rows // self.input_copies

    @property
    def word_bits(self) -> int:
        """Of an entry on the chip, where every format has the same width: skip, last, value."""
        return self.run_bits + 1 + 8 * self.element_bytes

    @property
    def row_words(self) -> int:
        """Entries that half a row's weight memory holds."""
        return self.weights_bytes * 8 // (2 * self.rows * self.word_bits)

    @property
    def chunk_inputs(self) -> int:
        """Inputs of each position that half an input buffer holds."""
        return self.inputs_bytes // (2 * self.input_copies * self.tile_positions * self.element_bytes)

    def tile_channels(self, output_bytes: int) -> int:
        """Channels of a tile that half the output buffer holds, so many bytes an output."""
        return self.outputs_bytes // (2 * self.tile_positions * output_bytes)

    @property
    def peak_flops(self) -> float:
        return 2.0 * self.macs_per_cycle * self.clock_hz

    @property
    def bandwidth_bytes_per_s(self) -> float:
        return self.dram_bytes_per_cycle * self.clock_hz


_KINDS: dict[str, type] = {"str": str, "int": int, "float": float}


def read_accelerator(table: Mapping[str, Any]) -> Accelerator:
    """An [accelerator] table; `format_accelerator` writes it.

    Raises:
        InputError: not exactly an accelerator, or one that cannot be built: says the key and what is allowed.
    """
    kinds = {field.name: _KINDS[str(field.type)] for field in fields(Accelerator)}
    stricttoml.only(table, kinds, "[accelerator] ")
    return Accelerator(**{key: stricttoml.value(table, key, kind, "[accelerator] ") for key, kind in kinds.items()})


def format_accelerator(accelerator: Accelerator) -> list[str]:
    """The lines of an [accelerator] table."""
    return [f"{key} = {stricttoml.dumps(value)}" for key, value in asdict(accelerator).items()]
