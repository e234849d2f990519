"""What the array takes for each pass of a layer, whatever surrounds it: its slowest row, contention, and running empty.

A row reads a word a cycle, more slowly where it has to wait for its inputs; the pass is over when the last row is,
and the pipeline behind it. It is the same on every tile of positions. Exact: the hardware description takes as many
cycles.

Knows neither memory nor the vector unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hwsparse.accelerator.arbitration import contended_cycles
from hwsparse.accelerator.distribution import ABSENT
from hwsparse.accelerator.machine import FILL_CYCLES, Accelerator
from hwsparse.accelerator.program import Program


@dataclass(frozen=True, slots=True, eq=False)
class Passes:
    """(sets, chunks) of one layer: what the array does in each pass, on any tile."""

    cycles: np.ndarray  # fill included
    kept: np.ndarray  # words of kept weights, all groups of rows together
    words: np.ndarray  # all words
    longest: np.ndarray  # words of the row with most
    weights: int  # that are kept, zeros within blocks and groups among them


def time_passes(accelerator: Accelerator, programs: Sequence[Program]) -> list[Passes]:
    """Passes of several layers; those whose rows contend for inputs are stepped together."""
    words = [program.words() for program in programs]
    arbitrated = _arbitrate(accelerator, programs)
    found = []
    for number, (program, mine) in enumerate(zip(programs, words, strict=True)):
        longest = mine.max(axis=2, initial=0)
        busy = np.maximum(longest, arbitrated.get(number, 0))
        by_unit = _kept_words(accelerator, program)
        kept = by_unit.sum(axis=2)
        beyond = program.units * program.form.share - program.outputs  # rows of the last block
        last = int(by_unit[-1, :, (program.units - 1) % program.tiling.set_units].sum())
        weights = int(kept.sum()) * program.form.share - beyond * last
        found.append(Passes(busy + FILL_CYCLES, kept, mine.sum(axis=2), longest, weights))
    return found


def _kept_words(accelerator: Accelerator, program: Program) -> np.ndarray:
    """(sets, chunks, set_units) words but padding: of runs, zeros after a full run or as a channel's only entry."""
    counts = program.counts.astype(np.int64)
    if program.form.kind == "runs":
        each = program.counts.reshape(-1)
        nothing = ~program.values.any(axis=(1, 2))
        full = program.skips == (1 << accelerator.run_bits) - 1
        padding = nothing & (full | (np.repeat(each, each) == 1))
        of = np.repeat(np.arange(counts.size), each)
        counts -= np.bincount(of[padding], minlength=counts.size).reshape(counts.shape)
    return counts * program.form.span


def pass_streams(program: Program) -> list[list[np.ndarray]]:
    """For each set and chunk, for each group of rows: the inputs that it reads, in order, counted from the chunk's."""
    form = program.form
    places = program.places()
    inputs = (places[:, None] * form.span + np.arange(form.span)).reshape(-1)
    flat = program.counts.reshape(-1, program.tiling.set_units)
    sizes = flat.sum(axis=1, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    chunks = len(program.tiling.chunks)
    found = []
    for number, (start, counts) in enumerate(zip(starts, flat, strict=True)):
        owner = program.set_groups()[number // chunks]
        of = np.repeat(owner, counts)
        mine = inputs[start * form.span : (start + sizes[number]) * form.span].reshape(-1, form.span)
        groups = np.unique(owner[owner != ABSENT])
        by_group = {int(group): mine[of == group].reshape(-1) for group in groups}
        found.append([by_group.get(group, np.zeros(0, np.int64)) for group in range(int(groups.max(initial=-1)) + 1)])
    return found


def _arbitrate(accelerator: Accelerator, programs: Sequence[Program]) -> dict[int, np.ndarray]:
    """(sets, chunks) cycles of the busiest copy of the layers in which rows contend."""
    if accelerator.rows_per_copy == 1:
        return {}
    streams: list[list[np.ndarray]] = []
    owners: list[int] = []
    shapes: dict[int, tuple[int, int]] = {}
    for number, program in enumerate(programs):
        requesters = accelerator.rows_per_copy // program.form.share
        if requesters <= 1 or program.form.kind == "dense":  # all rows of a copy ask for the same
            continue
        shapes[number] = program.counts.shape[:2]
        for groups in pass_streams(program):
            copies = [groups[at : at + requesters] for at in range(0, max(len(groups), 1), requesters)]
            # A row that is alone at its copy never waits; copies beyond the last group have nothing to do.
            streams += copies
            owners += [len(copies)]
    cycles = contended_cycles(streams, accelerator.input_banks)
    edges = np.cumsum([0, *owners])
    by_pass = [int(cycles[a:b].max(initial=0)) for a, b in pairwise(edges.tolist())]
    found, at = {}, 0
    for number, shape in shapes.items():
        count = shape[0] * shape[1]
        found[number] = np.array(by_pass[at : at + count], np.int64).reshape(shape)
        at += count
    return found
