"""A layer compiled for the machine: its tiling, which rows do what, and every row's entries.

A program is what a command stream holds, decoded: the simulators work on it and never on masks. Knows no times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwsparse.accelerator.distribution import ABSENT, distribute
from hwsparse.accelerator.format import Format, format_for, joined
from hwsparse.accelerator.geometry import Geometry
from hwsparse.accelerator.layer import Product, vector_operations
from hwsparse.accelerator.machine import Accelerator
from hwsparse.accelerator.tiling import Size, Tiling, tilings
from hwsparse.errors import UnsupportedError


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Entries lie in the order of sets, their chunks, the units of a set."""

    name: str
    dtype: str
    outputs: int
    output_bytes: int  # of an output in memory
    residual_bytes: int  # of an element of what the vector unit adds; 0: nothing
    geometry: Geometry
    pad: int  # what windows read beyond the map's edge
    form: Format
    tiling: Tiling
    groups: np.ndarray  # (units,) the group of rows that does a unit; ABSENT where it has no weights
    counts: np.ndarray  # (sets, chunks, set_units) entries; 0 of absent units and beyond the last
    skips: np.ndarray  # (entries,) uint8: what the index says; 0 where there is none
    values: np.ndarray  # (entries, span, share)

    @property
    def operations(self) -> int:
        """Passes of the vector unit over every output."""
        return vector_operations(self.residual_bytes)

    @property
    def units(self) -> int:
        return len(self.groups)

    @property
    def sets(self) -> int:
        return self.tiling.sets(self.units)

    def set_groups(self) -> np.ndarray:
        """(sets, set_units): groups of a set's units, ABSENT beyond the last."""
        padded = np.full(self.sets * self.tiling.set_units, ABSENT, np.int32)
        padded[: self.units] = self.groups
        return padded.reshape(self.sets, -1)

    def set_channels(self) -> np.ndarray:
        """(sets,) output channels of each set."""
        edges = np.minimum(np.arange(self.sets + 1) * self.tiling.set_units * self.form.share, self.outputs)
        return np.diff(edges)

    def places(self) -> np.ndarray:
        """(entries,) where in its chunk each entry is, in spans of inputs."""
        return decode_places(self.form, self.counts.reshape(-1), self.skips)

    def entries(self, groups: int) -> np.ndarray:
        """(sets, chunks, groups) entries of each group of rows in a pass, of so many groups."""
        found = np.zeros((self.sets, len(self.tiling.chunks), groups), np.int64)
        for at, row in enumerate(self.set_groups()):
            there = row != ABSENT
            for chunk, counts in enumerate(self.counts[at]):
                found[at, chunk] = np.bincount(row[there], counts[there], groups)
        return found

    def words(self) -> np.ndarray:
        """(sets, chunks, groups) words that a row of each group reads in a pass; of groups that have any."""
        return self.entries(int(self.groups.max(initial=0)) + 1) * self.form.span


def decode_places(form: Format, counts: np.ndarray, skips: np.ndarray) -> np.ndarray:
    """(entries,) places of entries, unit after unit, by the rule of their format."""
    starts: np.ndarray = np.cumsum(counts) - counts
    within: np.ndarray = np.arange(len(skips)) - np.repeat(starts, counts)
    if form.kind == "dense":
        return within
    if form.kind == "groups":
        return np.asarray(within // form.n * form.m + skips)
    steps: np.ndarray = np.cumsum(skips.astype(np.int64) + 1)
    before = np.concatenate([[0], steps])[starts[counts > 0]]
    return np.asarray(steps - np.repeat(before, counts[counts > 0]) - 1)


def compile_layer(accelerator: Accelerator, product: Product) -> Program:
    """The fastest tiling that fits the buffers, and its entries.

    Raises:
        UnsupportedError: weights of another type than the machine's, or no tiling fits.
    """
    if product.weight.dtype.name != accelerator.dtype:
        raise UnsupportedError(
            f"layer {product.name!r} has weights of {product.weight.dtype}; the accelerator is of {accelerator.dtype}"
        )
    form = format_for(accelerator, product)
    kept = joined(product.mask, form.share, form.span)
    loads = entry_counts(form, kept, accelerator.run_bits)
    size = Size(product.outputs, len(kept), int(loads.sum()), product.output_bytes or accelerator.element_bytes)
    for tiling in tilings(accelerator, product.geometry, form, size):
        program = encode(accelerator, product, form, tiling, kept, loads)
        if int(program.words().max(initial=0)) <= accelerator.row_words:
            return program
    raise UnsupportedError(
        f"layer {product.name!r}: no row's weight memory holds a chunk of one channel; weights_bytes is too small"
    )


def entry_counts(form: Format, kept: np.ndarray, run_bits: int) -> np.ndarray:
    """(units,) entries of each unit were its inputs not cut; 0 where nothing is kept."""
    present = kept.any(axis=1)
    if form.kind == "dense":
        return np.where(present, kept.shape[1], 0)
    if form.kind == "groups":
        return np.where(present, kept.shape[1] // form.m * form.n, 0)
    unit, _, gap = _gaps(kept)
    return np.bincount(unit, (gap >> run_bits) + 1, len(kept)).astype(np.int64)


def encode(
    accelerator: Accelerator, product: Product, form: Format, tiling: Tiling, kept: np.ndarray, loads: np.ndarray
) -> Program:
    """A layer's entries under a tiling, whether or not they fit.

    Args:
        kept: (units, places) of the format.
        loads: (units,) what distributes them.
    """
    units, width = len(kept), tiling.set_units
    values = _by_entry(product, form, units)
    rows, room = accelerator.rows // form.share, accelerator.accumulators
    starts = range(0, units, width)
    groups = np.concatenate([distribute(loads[at : at + width], rows, room, accelerator.distributor) for at in starts])
    counts = np.zeros((len(starts), len(tiling.chunks), width), np.int32)
    skips, entries = [], []
    for number, first in enumerate(starts):
        there = groups[first : first + width] != ABSENT
        for chunk, (start, end) in enumerate(tiling.chunks):
            places = slice(start // form.span, end // form.span)
            part = kept[first : first + width, places]
            unit, place, skip, real = _entries(form, part, there, accelerator.run_bits)
            counts[number, chunk, : len(part)] = np.bincount(unit, minlength=len(part))
            found = values[first + unit, places.start + place]
            found[~real] = 0
            skips.append(skip)
            entries.append(found)
    return Program(
        product.name, accelerator.dtype, product.outputs, product.output_bytes or accelerator.element_bytes,
        product.residual_bytes, product.geometry, product.pad, form, tiling, groups, counts,
        np.concatenate(skips), np.concatenate(entries),
    )  # fmt: skip


def _by_entry(product: Product, form: Format, units: int) -> np.ndarray:
    """(units, places, span, share) weights, zero outside the mask."""
    padded = np.zeros((units * form.share, product.inputs), product.weight.dtype)
    np.copyto(padded[: product.outputs], product.weight, where=product.mask)
    return padded.reshape(units, form.share, -1, form.span).transpose(0, 2, 3, 1)


def _entries(
    form: Format, kept: np.ndarray, there: np.ndarray, run_bits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of a pass: unit, place (of padding that of what comes after), index and whether it holds weights, by entry."""
    if form.kind == "runs":
        return _runs(kept, there, run_bits)
    if form.kind == "dense":
        unit, place = np.nonzero(np.broadcast_to(there[:, None], kept.shape))
        index = np.zeros(len(unit), np.uint8)
    else:
        parts = kept.reshape(len(kept), -1, form.m)
        chosen = np.sort(np.argsort(~parts, axis=2, kind="stable")[..., : form.n], axis=2)[there]
        unit = np.repeat(np.flatnonzero(there), chosen.shape[1] * form.n)
        place = (chosen + np.arange(chosen.shape[1])[:, None] * form.m).reshape(-1)
        index = chosen.reshape(-1).astype(np.uint8)
    return unit, place, index, np.ones(len(unit), bool)


def _gaps(kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of everything kept its unit, its place, and the zeros before it."""
    unit, place = np.nonzero(kept)
    before = np.full(len(place), -1)
    same = unit[1:] == unit[:-1]
    before[1:][same] = place[:-1][same]
    return unit, place, place - before - 1


def _runs(kept: np.ndarray, there: np.ndarray, run_bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    empty = there & ~kept.any(axis=1)
    held = kept.copy()
    held[empty, 0] = True  # an entry of zero: the row goes on to its next channel
    unit, place, gap = _gaps(held)
    reach = 1 << run_bits  # places that an entry of padding goes on by
    of = np.repeat(np.arange(len(unit)), gap // reach + 1)
    last = np.ones(len(of), bool)
    last[:-1] = of[1:] != of[:-1]
    skip = np.where(last, (gap % reach)[of], reach - 1).astype(np.uint8)
    return unit[of], place[of], skip, last & ~empty[unit[of]]
