"""The whole accelerator: rows, the copies of the inputs with their banks, the distributor, the drain, the sequencer.

A pass begins with `start` and ends with `done`: as many cycles, both counted, as the timing model says. What is not
here: memory, which brings words and inputs and takes outputs; who unpacks words from their bits and inputs from the
map; and what the vector unit does with sums, whose time is.
"""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.back import rtlil
from amaranth.hdl import Array, Cat, Elaboratable, Module, Mux, Signal
from amaranth.lib.memory import Memory

from hwsparse.accelerator.machine import Accelerator
from hwsparse.accelerator.rtl.arbiter import BankArbiter
from hwsparse.accelerator.rtl.distributor import Distributor
from hwsparse.accelerator.rtl.drain import Drain
from hwsparse.accelerator.rtl.row import SUM_BITS, Row
from hwsparse.accelerator.rtl.sequencer import Sequencer
from hwsparse.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class Limits:
    """What tables hold of a layer: units of channels, sections of words that are on the chip at once, passes."""

    units: int = 4096
    sections: int = 64
    passes: int = 4096


class ElementArray(Elaboratable):
    """An int8 accelerator's; made by `element_array`."""

    def __init__(self, accelerator: Accelerator, limits: Limits) -> None:
        self.accelerator = accelerator
        tile, bits, rows, banks = (
            accelerator.tile_positions, accelerator.run_bits, accelerator.rows, accelerator.input_banks,
        )  # fmt: skip
        self.k_bits = accelerator.chunk_inputs.bit_length()
        self.distributor, self.drain = Distributor(accelerator), Drain(accelerator, limits.units)
        self.sequencer = Sequencer(limits.passes)
        self.rows = [Row(accelerator, self.k_bits, limits.sections) for _ in range(rows)]
        # The format.
        self.share_shift = Signal(4)
        self.grouped, self.span_shift = Signal(), Signal(3)
        self.n, self.m = Signal(bits + 1), Signal(bits + 1)
        # Loading: words, each of as many values as rows share it, and inputs, one k of all positions for each bank.
        self.words_half, self.fresh, self.load_slot = Signal(), Signal(), Signal(range(limits.sections))
        self.words = [Signal(bits + 1 + 8 * rows, name=f"word_{lane}") for lane in range(rows)]  # skip, last, values
        self.inputs_half, self.input_k = Signal(), Signal(self.k_bits)  # of the first of them
        self.input_count = Signal(range(banks + 1))
        self.input_data = [Signal(8 * tile, name=f"input_{lane}") for lane in range(banks)]
        # A pass.
        self.run_slot, self.run_inputs_half = Signal(range(limits.sections)), Signal()
        self.sum_half, self.first_chunk = Signal(), Signal()
        self.start, self.done = self.sequencer.start, Signal()
        self.sums = Signal(SUM_BITS * tile)  # of the channel that leaves
        self.drain_half = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.distributor, m.submodules.drain = self.distributor, self.drain
        m.submodules.sequencer = self.sequencer
        m.d.comb += [
            self.distributor.share_shift.eq(self.share_shift), self.drain.share_shift.eq(self.share_shift),
            self.distributor.half.eq(self.words_half),
            self.sequencer.pass_done.eq(self.done),
            self.drain.begin.eq(self.sequencer.drain), self.sequencer.drain_done.eq(self.drain.done),
        ]  # fmt: skip
        for number, row in enumerate(self.rows):
            m.submodules[f"row_{number}"] = row
            self._connect(m, number, row)
        for copy in range(self.accelerator.input_copies):
            self._copy(m, copy)
        # The start goes down the pipeline as a word does, so that a pass without words ends as any other.
        running, starting = Signal(), Signal(2)
        m.d.sync += starting.eq(Cat(self.start, starting[0]))
        idle = Cat(*(row.idle for row in self.rows)).all() & ~starting.any()
        m.d.comb += self.done.eq(running & idle)
        with m.If(self.start):
            m.d.sync += running.eq(1)
        with m.Elif(self.done):
            m.d.sync += running.eq(0)
        of_row = Array([row.sums for row in self.rows])[self.drain.out_row]
        m.d.comb += self.sums.eq(Mux(self.drain.absent, 0, of_row))
        return m

    def _connect(self, m: Module, number: int, row: Row) -> None:
        distributor, decoder, bits = self.distributor, row.decoder, self.accelerator.run_bits
        member = number & ((1 << self.share_shift) - 1).as_unsigned()
        word = Signal(bits + 1 + 8 * self.accelerator.rows, name=f"word_of_{number}")
        m.d.comb += word.eq(Array(self.words)[distributor.lanes[number]])
        value = word[bits + 1 :].word_select(member, 8)
        m.d.comb += [
            row.write.eq(distributor.writes[number]), row.word.eq(Cat(value, word[: bits + 1])),
            row.opens.eq(distributor.opens), row.fresh.eq(self.fresh), row.load_half.eq(self.words_half),
            row.load_slot.eq(self.load_slot), row.run_slot.eq(self.run_slot),
            row.start.eq(self.start), row.sum_half.eq(self.sum_half),
            row.first_chunk.eq(self.first_chunk),
            row.drain_slot.eq(self.drain.out_slot), row.drain_half.eq(self.drain_half),
            decoder.grouped.eq(self.grouped), decoder.span_shift.eq(self.span_shift),
            decoder.n.eq(self.n), decoder.m.eq(self.m),
        ]  # fmt: skip

    def _copy(self, m: Module, copy: int) -> None:
        """One copy of the inputs, for the rows that it serves."""
        machine = self.accelerator
        rows = self.rows[copy * machine.rows_per_copy : (copy + 1) * machine.rows_per_copy]
        arbiter = BankArbiter(len(rows), machine.input_banks, self.k_bits)
        m.submodules[f"arbiter_{copy}"] = arbiter
        depth = -(-machine.chunk_inputs // machine.input_banks)
        shift = arbiter.bank_bits
        read, data = [], Array(self.input_data)
        for bank in range(machine.input_banks):
            memory = Memory(shape=8 * machine.tile_positions, depth=2 * depth, init=[])
            m.submodules[f"inputs_{copy}_{bank}"] = memory
            out, into = memory.read_port(), memory.write_port()
            lane = Signal(max(shift, 1), name=f"lane_{copy}_{bank}")  # which of those that come is this bank's
            m.d.comb += lane.eq((bank - self.input_k)[:shift] if shift else 0)
            m.d.comb += [
                into.addr.eq(((self.input_k + lane) >> shift) + self.inputs_half * depth), into.data.eq(data[lane]),
                into.en.eq(lane < self.input_count),
                out.addr.eq(arbiter.addresses[bank] + self.run_inputs_half * depth),
            ]  # fmt: skip
            read.append(out.data)
        for number, row in enumerate(rows):
            bank = Signal(max(shift, 1), name=f"bank_{copy}_{number}")
            m.d.sync += bank.eq(row.wants[:shift])
            m.d.comb += [
                arbiter.asks[number].eq(row.asks), arbiter.wants[number].eq(row.wants),
                row.granted.eq(arbiter.grants[number]), row.inputs.eq(Array(read)[bank]),
            ]  # fmt: skip


def element_array(accelerator: Accelerator, limits: Limits = Limits()) -> ElementArray:
    """The array of an accelerator, with tables for as much as `limits` says.

    Raises:
        UnsupportedError: it is of floats.
    """
    if accelerator.dtype != "int8":
        raise UnsupportedError(f"the hardware description is of int8 arrays, not of {accelerator.dtype}")
    return ElementArray(accelerator, limits)


def rtlil_text(accelerator: Accelerator) -> str:
    """The description in RTLIL, which Yosys reads (`read_rtlil`), synthesises and writes as Verilog."""
    array = element_array(accelerator)
    d, drain, s = array.distributor, array.drain, array.sequencer
    ports = [
        array.share_shift, array.grouped, array.span_shift, array.n, array.m,
        array.words_half, array.fresh, array.load_slot, *array.words, d.opens, d.offered, d.taken, *d.lengths,
        array.inputs_half, array.input_k, array.input_count, *array.input_data,
        array.run_slot, array.run_inputs_half, array.sum_half, array.first_chunk, array.done,
        drain.table_write, drain.table_at, drain.table_group, drain.base, drain.channels, drain.work, drain.out,
        drain.done, array.drain_half, array.sums,
        s.write, s.write_at, s.write_ends, s.passes, s.go, s.loaded, s.stored, s.start, s.drain, s.number, s.drained,
        s.asks_load, s.asks_store, s.over,
    ]  # fmt: skip
    return str(rtlil.convert(array, name="hwsparse_array", ports=ports))
