"""How a layer is cut to the buffers, and in which order the pieces come: what moves fewest bytes, or hides them best.

Output channels are cut into sets (what the accumulators and the output buffer hold), inputs into chunks (what the
input buffer holds of a tile), positions into tiles. A pass is one chunk of one set on one tile; sums stay until its
last chunk.

    "sets"       for each set, for each tile, for each chunk: a set's weights stay if half the weight memory holds them
    "positions"  for each tile, for each set, for each chunk: all weights stay if the weight memory holds them

Inputs stay from pass to pass where tile and chunk are the same. Knows sizes only: what a schedule takes to the cycle is
`timing`'s to tell, and whether the fullest row holds its share, `program`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hwsparse.accelerator.format import Format
from hwsparse.accelerator.geometry import Geometry, fetched_cells
from hwsparse.accelerator.machine import FILL_CYCLES, Accelerator

ORDERS = ("sets", "positions")
# Rows of unstructured weights are not all as long as their mean.
_SLACK = 1.15


@dataclass(frozen=True, slots=True)
class Tiling:
    """`chunks` are (first input, the one after the last)."""

    order: str  # one of ORDERS
    set_units: int  # units of channels in a set; the last set may have fewer
    chunks: tuple[tuple[int, int], ...]

    def sets(self, units: int) -> int:
        return -(-units // self.set_units)


@dataclass(frozen=True, slots=True)
class Size:
    """What a layer's weights come to, before they are cut."""

    outputs: int
    units: int
    entries: int  # of indices, padding included
    output_bytes: int  # of an output in memory


def chunks(geometry: Geometry, most: int, step: int) -> tuple[tuple[int, int], ...]:
    """Chunks of at most so many inputs: some whole kernel positions each, or a part of the channels of one."""
    channels, places = geometry.channels, math.prod(geometry.kernel)
    if channels <= most:
        count = -(-places // (most // channels))
        edges = [round(at * places / count) * channels for at in range(count + 1)]
        return tuple(pairwise(edges))
    parts = -(-channels // (most // step * step))
    length = -(-channels // (parts * step)) * step
    starts = range(0, channels, length)
    return tuple((at * channels + k, at * channels + min(k + length, channels)) for at in range(places) for k in starts)


def input_bytes(geometry: Geometry, tile: int, spans: tuple[tuple[int, int], ...], element_bytes: int) -> np.ndarray:
    """(tiles, chunks): bytes to fetch; each cell that a tile's windows read comes once, with the chunk's channels."""
    channels = geometry.channels
    places = tuple((start // channels, -(-end // channels)) for start, end in spans)
    widths = [channels if (end - start) % channels == 0 else end - start for start, end in spans]
    return fetched_cells(geometry, tile, places) * (np.array(widths, np.int64) * element_bytes)


def tilings(accelerator: Accelerator, geometry: Geometry, form: Format, size: Size) -> list[Tiling]:
    """Every sensible tiling, the one that should be fastest first; of equal ones that which moves fewer bytes."""
    ranked = sorted(_candidates(accelerator, geometry, form, size), key=lambda item: item[0])
    return [tiling for _, tiling in ranked]


def _candidates(
    accelerator: Accelerator, geometry: Geometry, form: Format, size: Size
) -> Iterator[tuple[tuple[float, ...], Tiling]]:
    groups = accelerator.rows // form.share
    most = min(accelerator.chunk_inputs, geometry.inputs)
    # As much as the inputs' half holds and less, as a row's half holds of one channel, and the least there must be.
    lengths = (*_halves(most)[:3], *_halves(min(most, accelerator.row_words))[:2], min(most, 1 << accelerator.run_bits))
    most_units = min(groups * accelerator.accumulators, accelerator.tile_channels(size.output_bytes) // form.share)
    slots = _halves(min(most_units // groups, -(-size.units // groups)))
    for cut in dict.fromkeys(chunks(geometry, max(length, form.step), form.step) for length in lengths):
        inputs = int(input_bytes(geometry, accelerator.tile_positions, cut, accelerator.element_bytes).sum())
        for slot in slots:
            for order in ORDERS:
                tiling = Tiling(order, slot * groups, cut)
                yield _cost(accelerator, geometry, form, size, tiling, inputs), tiling


def _halves(most: int) -> list[int]:
    """From the most down to 1 by halves."""
    found = [most]
    while found[-1] > 1:
        found.append(found[-1] // 2)
    return found


def _cost(
    accelerator: Accelerator, geometry: Geometry, form: Format, size: Size, tiling: Tiling, inputs: int
) -> tuple[float, ...]:
    """Whether it should not fit, cycles by what is slowest, then those of memory."""
    groups = accelerator.rows // form.share
    tiles = -(-geometry.positions // accelerator.tile_positions)
    sets, parts = tiling.sets(size.units), len(tiling.chunks)
    words = max(size.entries * form.span / groups, 1.0)  # of a row
    if form.kind == "dense":  # all channels are as long
        words = -(-size.units // groups) * geometry.inputs
    slack = 1.0 if form.kind == "dense" else _SLACK
    bits = form.index_bits(accelerator.run_bits) + 8 * accelerator.element_bytes * form.share * form.span
    weights = size.entries * bits / 8
    a_set = words * min(1.0, tiling.set_units / size.units)
    if tiling.order == "sets":
        stay = a_set * slack <= accelerator.row_words or sets * parts == 1
        times, input_times = 1 if stay or parts == 1 else tiles, 1 if tiles * parts == 1 else sets
    else:
        stay = words * slack <= 2 * accelerator.row_words or sets * parts == 1
        times, input_times = 1 if stay else tiles, 1 if parts == 1 else sets
    outputs = geometry.positions * size.outputs * size.output_bytes
    rate = accelerator.dram_bytes_per_cycle
    # A row takes a word a cycle, and a bank an input, whatever memory brings.
    loads = times * max(weights / rate, words) + outputs / rate
    loads += input_times * max(inputs / rate, tiles * geometry.inputs / accelerator.input_banks)
    longest = max(end - start for start, end in tiling.chunks) / geometry.inputs
    full = a_set * longest * slack > accelerator.row_words
    passes = tiles * sets * parts
    compute, moved = words / (sets * parts) + FILL_CYCLES, loads / passes
    # Of two halves of a buffer each is loaded, after a latency, when the pass that used it is over.
    period = max(compute, moved, (compute + moved + accelerator.dram_latency_cycles) / 2)
    # The first load and the last pass have nothing beside them, nor has what leaves of the last set.
    leaving = (
        min(tiling.set_units, size.units) * form.share * max(1.0, accelerator.tile_positions / accelerator.vector_lanes)
    )
    return float(full), passes * period + min(compute, moved) + leaving, loads, sets * parts
