"""One row of elements: its words, its decoder, its multipliers and its accumulators.

A word is fetched, then asks for its input until that is granted, then is multiplied with it in all columns and lanes,
then added to the accumulators of its channel: each a cycle, one word behind the other.
"""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Elaboratable, Module, Mux, Signal, Value, signed
from amaranth.lib.memory import Memory

from hwsparse.accelerator.machine import Accelerator
from hwsparse.accelerator.rtl.decoder import Decoder

SUM_BITS = 32


class Row(Elaboratable):
    """Words come in by `write`, section after section; `start` begins a pass over one of them; sums come out.

    A section begins where another ended, or at the beginning of a half; where each is, the row remembers by a slot.
    """

    def __init__(self, accelerator: Accelerator, k_bits: int, slots: int) -> None:
        self._machine, self._slots = accelerator, slots
        tile, bits = accelerator.tile_positions, accelerator.run_bits
        self._word_bits = 9 + bits
        self._slot_bits = max((accelerator.accumulators - 1).bit_length(), 1)
        # Loading.
        self.write, self.word = Signal(), Signal(self._word_bits)
        self.opens, self.fresh, self.load_half = Signal(), Signal(), Signal()
        self.load_slot = Signal(range(slots))
        # A pass.
        self.start, self.sum_half = Signal(), Signal()
        self.run_slot = Signal(range(slots))
        self.first_chunk = Signal()
        self.asks, self.wants, self.granted = Signal(), Signal(k_bits), Signal()
        self.inputs = Signal(8 * tile)  # of what was granted a cycle before
        self.idle = Signal()
        # Sums of one channel.
        self.drain_slot, self.drain_half = Signal(self._slot_bits), Signal()
        self.sums = Signal(SUM_BITS * tile)
        self.decoder = Decoder(bits, k_bits)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.decoder = decoder = self.decoder
        head, take = self._fetch(m)
        value, skip, last = head[:8], head[8 : 8 + self._machine.run_bits], head[8 + self._machine.run_bits]
        m.d.comb += [
            decoder.skip.eq(skip),
            decoder.last.eq(last),
            decoder.take.eq(take),
            decoder.restart.eq(self.start),
        ]
        m.d.comb += self.wants.eq(decoder.k)
        slot = Signal(self._slot_bits)
        with m.If(self.start):
            m.d.sync += slot.eq(0)
        with m.Elif(take & last):
            m.d.sync += slot.eq(slot + 1)
        self._multiply_add(m, take, value, slot)
        return m

    def _fetch(self, m: Module) -> tuple[Signal, Signal]:
        """The word at the head, and whether it goes on in this cycle."""
        depth = self._machine.row_words
        memory = Memory(shape=self._word_bits, depth=2 * depth, init=[])
        starts, ends = (Memory(shape=range(2 * depth + 1), depth=self._slots, init=[]) for _ in range(2))
        m.submodules.words, m.submodules.starts, m.submodules.ends = memory, starts, ends
        port, read = memory.write_port(), memory.read_port()
        place = Signal(range(2 * depth + 1))
        filled = Array([Signal.like(place, name=f"filled_{half}") for half in range(2)])[self.load_half]
        m.d.comb += place.eq(Mux(self.opens & self.fresh, Mux(self.load_half, depth, 0), filled))
        m.d.comb += [port.addr.eq(place), port.data.eq(self.word), port.en.eq(self.write)]
        m.d.sync += filled.eq(place + self.write)
        for bound, changes, value in ((starts, self.opens, place), (ends, self.opens | self.write, place + self.write)):
            into = bound.write_port()
            m.d.comb += [into.addr.eq(self.load_slot), into.data.eq(value), into.en.eq(changes)]
        first, last = starts.read_port(domain="comb"), ends.read_port(domain="comb")
        m.d.comb += [first.addr.eq(self.run_slot), last.addr.eq(self.run_slot)]
        at, following, end, running = Signal.like(place), Signal.like(place), Signal.like(place), Signal()
        take = Signal()
        m.d.comb += self.asks.eq(running & ~self.start & (at != end))
        m.d.comb += take.eq(self.asks & self.granted)
        m.d.comb += following.eq(Mux(self.start, first.data, at + take))
        m.d.comb += read.addr.eq(following)
        m.d.sync += at.eq(following)
        with m.If(self.start):
            m.d.sync += [running.eq(1), end.eq(last.data)]
        return read.data, take

    def _multiply_add(self, m: Module, take: Signal, value: Signal, slot: Signal) -> None:
        tile = self._machine.tile_positions
        sums = Memory(shape=SUM_BITS * tile, depth=2 << self._slot_bits, init=[])
        m.submodules.sums = sums
        write, read = sums.write_port(), sums.read_port(domain="comb")
        # Read: the input comes out of its bank.
        reading, factor, into, opens = Signal(), Signal(8), Signal(self._slot_bits), Signal()
        m.d.sync += [reading.eq(take), factor.eq(value), into.eq(slot), opens.eq(self.decoder.first & self.first_chunk)]
        # Multiply.
        adding, place, opening = Signal(), Signal(self._slot_bits), Signal()
        m.d.sync += [adding.eq(reading), place.eq(into), opening.eq(opens)]
        products = self._products(m, factor)
        # Add.
        m.d.comb += [read.addr.eq(Cat(place, self.sum_half)), write.addr.eq(read.addr), write.en.eq(adding)]
        added = []
        for lane, product in enumerate(products):
            before = Mux(opening, Const(0, SUM_BITS), read.data.word_select(lane, SUM_BITS))
            added.append((before.as_signed() + product.as_signed())[:SUM_BITS])
        m.d.comb += write.data.eq(Cat(*added))
        m.d.comb += self.idle.eq(~self.asks & ~reading & ~adding)
        out = sums.read_port(domain="comb")
        m.d.comb += [out.addr.eq(Cat(self.drain_slot, self.drain_half)), self.sums.eq(out.data)]

    def _products(self, m: Module, factor: Signal) -> list[Value]:
        """16 bits for each position: two at a time in one multiplier of 25 by 8 bits, as they share the weight.

        (b 2^16 + a) w has a w in its lower half, and b w in its upper one, less 1 where a w is negative.
        Y. Fu et al., "Deep Learning with INT8 Optimization on Xilinx Devices", WP486, 2016.
        """
        found: list[Value] = []
        for lane in range(0, self._machine.tile_positions, 2):
            low = self.inputs.word_select(lane, 8).as_signed()
            both = Signal(33, name=f"products_{lane}")
            if lane + 1 == self._machine.tile_positions:
                m.d.sync += both.eq(low * factor.as_signed())
                found.append(both[:16])
                continue
            pair = Signal(signed(25), name=f"pair_{lane}")
            m.d.comb += pair.eq((self.inputs.word_select(lane + 1, 8).as_signed() << 16) + low)
            m.d.sync += both.eq(pair * factor.as_signed())
            found += [both[:16], (both[16:32] + both[15])[:16]]
        return found
