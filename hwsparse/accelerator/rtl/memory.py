"""What memory brings to the hardware description, load by load, in the order and at the pace that a machine's would.

Loads and stores come in one order. A load's first byte comes a latency after it was asked for, or when memory has
done what was before; then so many bytes come in every cycle, for as long as what came before is taken. Of a cycle's
bytes a part may be left over: they add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from hwsparse.accelerator.machine import Accelerator
from hwsparse.accelerator.order import Order
from hwsparse.accelerator.program import Program
from hwsparse.accelerator.schedule import Schedule
from hwsparse.accelerator.stream import section_bytes


@dataclass(frozen=True, slots=True)
class Slot:
    """Where on the chip a section's words are: its number, and the half in which they begin where they begin one."""

    number: int
    half: int
    fresh: bool


@dataclass(slots=True, eq=False)
class Section:
    """The words of a pass as they come, each with how many bytes have come by its end."""

    slot: Slot
    lengths: list[int]  # words of each group of rows
    words: list[int]  # index, whether it is the last of its channel, values: as the array takes them
    word_bytes: Fraction
    ends: list[Fraction]  # bytes
    size: int  # bytes, what comes before the words and after them included
    opened: bool = False


@dataclass(slots=True, eq=False)
class Load:
    """What comes before a pass: pieces of sections, inputs, and residuals, which the vector unit keeps."""

    pieces: list[tuple[Section, int, int]]  # words from one to before another
    ends: list[Fraction]  # of each piece, in bytes since the first came
    starts: list[Fraction]
    weights: Fraction  # bytes
    inputs: int
    residual: int
    columns: np.ndarray  # (inputs, positions); none where they are there already
    half: int
    word: int  # the next of the piece's section
    came: Fraction = Fraction(0)  # bytes
    used: Fraction = Fraction(0)  # of them what was taken
    piece: int = 0
    sent: int = 0  # inputs

    @property
    def bytes(self) -> Fraction:
        return self.weights + self.inputs + self.residual

    @property
    def heads(self) -> Fraction:
        """Bytes up to the next word: what is before it waits for no row."""
        if self.piece == len(self.pieces):
            return self.weights
        section, _, end = self.pieces[self.piece]
        if self.word == end:
            return self.ends[self.piece]
        return self.starts[self.piece] + section.ends[self.word] - section.word_bytes

    @property
    def grain(self) -> Fraction:
        """Bytes that are taken together, at most: of a word, or of an input of all positions."""
        words = (section.word_bytes for section, _, _ in self.pieces)
        return max([Fraction(self.inputs, max(len(self.columns), 1)), *words])

    @property
    def nothing(self) -> bool:
        return not self.bytes and not len(self.columns)


def slots(program: Program, work: Schedule) -> list[Slot]:
    """Where the words of each pass are."""
    chunks, found, half = len(program.tiling.chunks), list[Slot](), 1
    for number, tile, chunk, own in zip(work.sets, work.tiles, work.chunks, work.own, strict=True):
        if program.tiling.order == "positions" and work.stay[number]:
            found.append(Slot(int(number * chunks + chunk), 0, bool(number == chunk == 0)))
            continue
        begins = bool(tile == chunk == 0) if work.stay[number] else bool(own)
        half ^= begins
        found.append(Slot(int(half * chunks + chunk), int(half), begins))
    return found


def loads(accelerator: Accelerator, program: Program, work: Schedule, columns: np.ndarray) -> Iterator[Load]:
    """What comes before each pass of a layer.

    Args:
        columns: (inputs, positions) of whole tiles.
    """
    places, tile = slots(program, work), accelerator.tile_positions
    half, kept, cut = 1, dict[tuple[int, int], Section](), Fraction(0)
    for at, (number, chunk) in enumerate(zip(work.sets.tolist(), work.chunks.tolist(), strict=True)):
        pieces, total = list[tuple[Section, int, int, Fraction, Fraction]](), Fraction(0)
        if work.own[at]:
            section = read_section(accelerator, program, number, chunk, places[at])
            pieces.append((section, 0, len(section.words), Fraction(0), Fraction(section.size)))
            total += section.size
        if work.ahead[at]:
            own = int(total)
            size, offset = int(work.weights[at]) - own, Fraction(0)
            first = Fraction(0) if (at == 0 or not work.ahead[at - 1] or work.sets[at - 1] != number) else cut
            for later in range(len(program.tiling.chunks)):
                if (key := (number + 1, later)) not in kept:
                    place = next(p for p, s, c in zip(places, work.sets, work.chunks, strict=True) if (s, c) == key)
                    kept[key] = read_section(accelerator, program, *key, place)
                section = kept[key]
                begin, end = first - offset, first + size - offset
                some = [n for n, e in enumerate(section.ends) if max(begin, Fraction(0)) < e <= end]
                if some or (not section.words and begin <= 0 < end):
                    low, high = (some[0], some[-1] + 1) if some else (0, 0)
                    pieces.append((section, low, high, own - begin, Fraction(own + size)))
                offset += section.size
            cut = first + size
            total += size
        mine = np.zeros((0, tile), np.int8)
        if work.fetches[at]:
            half ^= 1
            start, end = program.tiling.chunks[chunk]
            first_position = int(work.tiles[at]) * tile
            mine = columns[start:end, first_position : first_position + tile]
        yield Load(
            [(section, low, high) for section, low, high, _, _ in pieces],
            [end for *_, end in pieces], [start for *_, start, _ in pieces],
            total, int(work.inputs[at]), int(work.residual[at]), mine, half, pieces[0][1] if pieces else 0,
        )  # fmt: skip


def read_section(accelerator: Accelerator, program: Program, number: int, chunk: int, slot: Slot) -> Section:
    """The words of a pass, beat after beat, as the loader unpacks them."""
    form, sizes = program.form, section_bytes(accelerator, program)
    counts = program.counts.reshape(-1, program.tiling.set_units)
    at = number * len(program.tiling.chunks) + chunk
    first = int(counts[:at].sum())
    entries = program.entries(accelerator.rows // form.share)[number, chunk]
    order = Order.of(program.set_groups()[number], entries)
    ids = order.by_unit(counts[at])[order.beats()]
    last_of_unit = set((np.cumsum(counts[at])[counts[at] > 0] - 1).tolist())
    steps = np.arange(entries.max(initial=0))[:, None]
    beat = np.nonzero(steps < entries)[0]
    words = list[int]()
    for step in range(len(steps)):
        mine = ids[beat == step]
        for place in range(form.span):
            for entry in mine:
                last = int(entry) in last_of_unit and place == form.span - 1
                values = int.from_bytes(program.values[first + entry, place].astype(np.int8).tobytes(), "little")
                skip = int(program.skips[first + entry]) if place == 0 else 0
                words.append(skip | last << accelerator.run_bits | values << accelerator.run_bits + 1)
    bits = Fraction(form.index_bits(accelerator.run_bits) + 8 * form.share * form.span, form.span)
    size = int(sizes[number, chunk])
    before = size - -(-int(bits * len(words)) // 8)
    ends = [before + (place + 1) * bits / 8 for place in range(len(words))]
    return Section(slot, (entries * form.span).tolist(), words, bits / 8, ends, size)
