"""What the array computes: a decoded program on inputs, sum by sum in the array's own order.

int8 adds up exactly in int32, and a sum that leaves it is found out, bounded beforehand where weights allow. Floats
are multiplied and added in float32, one product after the other in the order of a row's entries; of float16 the
products are exact there. Entries of padding add nothing. Knows no masks, no times and no vector unit: sums come out as
they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwsparse.accelerator.distribution import ABSENT
from hwsparse.accelerator.geometry import Geometry
from hwsparse.accelerator.layer import Product
from hwsparse.accelerator.program import Program
from hwsparse.errors import DataError, UnsupportedError
from hwsparse.pattern import NM, Block, Dense, Pattern, Unstructured

_INT32 = 2**31 - 1
_BLOCK = 1 << 22  # elements that a step of the exact order works on


def run_program(program: Program, inputs: np.ndarray) -> np.ndarray:
    """(outputs, positions) sums, int32 of int8, float32 of floats.

    Args:
        inputs: (batch, channels, *sizes) of the machine's type.

    Raises:
        DataError: inputs of another type or shape.
        UnsupportedError: a sum left int32.
    """
    return Unpacked.of(program).run(inputs)


def product_of(program: Program) -> Product:
    """The layer that a program is of; weights of zero that it keeps are told from others in dense rows alone."""
    form, weight = program.form, Unpacked.of(program).weight()
    mask = weight != 0
    if form.kind == "dense":
        mask[:] = np.repeat(program.groups != ABSENT, form.share)[: program.outputs, None]
        pattern: Pattern = Dense()
    elif form.kind == "groups":
        pattern = NM(form.n, form.m, form.share)
    else:
        pattern = Unstructured() if form.share * form.span == 1 else Block(form.share, form.span)
    return Product(
        program.name, weight, mask, program.geometry, pattern, program.output_bytes, program.residual_bytes, program.pad
    )


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Unpacked:
    """A program to be run over and over: its products in the array's order, channel after channel."""

    name: str
    dtype: str
    geometry: Geometry
    pad: int
    starts: np.ndarray  # (outputs + 1,) where a channel's products begin
    places: np.ndarray  # (products,) the input that each takes
    values: np.ndarray  # (products,) weights
    most: np.ndarray  # (outputs,) of int8, what a channel's sum, or a part of it, can come to

    @classmethod
    def of(cls, program: Program) -> Unpacked:
        """Of what a command stream holds."""
        form, tiling = program.form, program.tiling
        counts = program.counts
        sets, _, width = counts.shape
        unit = np.broadcast_to(np.arange(sets)[:, None, None] * width + np.arange(width), counts.shape).reshape(-1)
        start = np.broadcast_to(np.array([start for start, _ in tiling.chunks])[:, None], counts.shape).reshape(-1)
        per_entry = np.repeat(unit, counts.reshape(-1))
        first = np.repeat(start, counts.reshape(-1)) + program.places() * form.span
        order = np.argsort(per_entry, kind="stable")  # a set's chunks come one after the other
        per_entry, first, values = per_entry[order], first[order], program.values[order]
        places = np.repeat((first[:, None] + np.arange(form.span)).reshape(-1), form.share)
        of_share = np.broadcast_to(np.arange(form.share), values.shape)
        rows = (per_entry[:, None, None] * form.share + of_share).reshape(-1)
        flat = values.reshape(-1)
        kept = (flat != 0) & (rows < program.outputs)
        rows, places, flat = rows[kept], places[kept], flat[kept]
        order = np.argsort(rows, kind="stable")
        starts = np.searchsorted(rows[order], np.arange(program.outputs + 1))
        values = flat[order]
        if program.dtype == "int8":
            most = 128 * np.diff(np.concatenate([[0], np.cumsum(np.abs(values.astype(np.int64)))])[starts])
        else:
            most = np.zeros(program.outputs, np.int64)
        return cls(
            program.name, program.dtype, program.geometry, program.pad, starts, places[order].astype(np.int32), values,
            most,
        )  # fmt: skip

    @property
    def outputs(self) -> int:
        return len(self.starts) - 1

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """As `run_program`."""
        geometry = self.geometry
        wanted = (geometry.batch, geometry.channels, *geometry.sizes)
        if inputs.dtype.name != self.dtype or inputs.shape != wanted:
            raise DataError(f"the array reads {self.dtype} of {wanted}, not {inputs.dtype} of {inputs.shape}")
        columns = geometry.columns(inputs, self.pad)
        if self.dtype != "int8":
            return self._in_order(columns.astype(np.float32))
        self._check_sums(columns)
        sums = self.weight().astype(np.float64) @ columns.astype(np.float64)  # whole numbers below 2^53, all exact
        return np.asarray(sums).astype(np.int64).astype(np.int32)

    def weight(self) -> np.ndarray:
        """(outputs, inputs) weights, zero where there are none."""
        found = np.zeros((self.outputs, self.geometry.inputs), self.values.dtype)
        found[np.repeat(np.arange(self.outputs), np.diff(self.starts)), self.places] = self.values
        return found

    def _in_order(self, columns: np.ndarray) -> np.ndarray:
        """float32 sums, the products of a channel one after the other; all channels side by side."""
        found = np.zeros((self.outputs, columns.shape[1]), np.float32)
        lengths = np.diff(self.starts)
        by_length = np.argsort(-lengths, kind="stable")
        longest = lengths[by_length]
        values = self.values.astype(np.float32)
        for at in range(int(longest.max(initial=0))):
            busy = by_length[: int(np.searchsorted(-longest, -at, side="left"))]
            entry = self.starts[busy] + at
            found[busy] += values[entry, None] * columns[self.places[entry]]
        return found

    def _check_sums(self, columns: np.ndarray) -> None:
        step = max(1, _BLOCK // max(int(np.diff(self.starts).max(initial=1)), 1))
        for channel in np.flatnonzero(self.most > _INT32):
            mine = slice(self.starts[channel], self.starts[channel + 1])
            for at in range(0, columns.shape[1], step):
                read = columns[self.places[mine], at : at + step].astype(np.int64)
                sums = np.cumsum(self.values[mine, None].astype(np.int64) * read, axis=0)
                if sums.max() > _INT32 or sums.min() < -_INT32 - 1:
                    raise UnsupportedError(
                        f"layer {self.name!r}: the sum of output {channel} leaves int32; scale its weights down"
                    )
