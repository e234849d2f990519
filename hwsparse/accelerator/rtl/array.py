"""The whole array: rows, the copies of the inputs with their banks and arbiters, and the distributor.

A pass begins with `start` and ends with `done`: as many cycles, both counted, as the timing model says. What is
around it, memory, the vector unit and who starts passes, is not here.
"""

from __future__ import annotations

from amaranth.back import rtlil
from amaranth.hdl import Array, Cat, Elaboratable, Module, Signal
from amaranth.lib.memory import Memory

from hwsparse.accelerator.machine import Accelerator
from hwsparse.accelerator.rtl.arbiter import BankArbiter
from hwsparse.accelerator.rtl.distributor import Distributor
from hwsparse.accelerator.rtl.row import SUM_BITS, Row
from hwsparse.errors import UnsupportedError


class ElementArray(Elaboratable):
    """An int8 array of an accelerator's sizes; made by `element_array`."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        tile, bits = accelerator.tile_positions, accelerator.run_bits
        self.k_bits = accelerator.chunk_inputs.bit_length()
        self.distributor = Distributor(accelerator)
        self.rows = [Row(accelerator, self.k_bits) for _ in range(accelerator.rows)]
        # The format.
        self.grouped, self.span_shift = Signal(), Signal(3)
        self.n, self.m = Signal(bits + 1), Signal(bits + 1)
        # Loading: words (by way of the distributor) and inputs, one k of all positions a cycle.
        self.words_half, self.skip, self.values = Signal(), Signal(bits), Signal(8 * accelerator.rows)
        self.inputs_half = Signal()
        self.input_write, self.input_k, self.input_data = Signal(), Signal(self.k_bits), Signal(8 * tile)
        # A pass.
        self.start, self.run_words_half, self.run_inputs_half = Signal(), Signal(), Signal()
        self.sum_half = Signal()
        self.first_chunk, self.done = Signal(), Signal()
        self.sums = Signal(SUM_BITS * tile)  # of the channel that the distributor drains
        self.drain_half = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.distributor = self.distributor
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
        m.d.comb += self.sums.eq(Array([row.sums for row in self.rows])[self.distributor.out_row])
        return m

    def _connect(self, m: Module, number: int, row: Row) -> None:
        distributor, decoder = self.distributor, row.decoder
        member = number & ((1 << distributor.share_shift) - 1).as_unsigned()
        value = self.values.word_select(member, 8)
        m.d.comb += [
            row.write.eq(distributor.writes[number]), row.word.eq(Cat(value, self.skip, distributor.last)),
            row.clear.eq(distributor.begin), row.load_half.eq(self.words_half),
            row.start.eq(self.start), row.run_half.eq(self.run_words_half), row.sum_half.eq(self.sum_half),
            row.first_chunk.eq(self.first_chunk),
            row.drain_slot.eq(distributor.out_slot), row.drain_half.eq(self.drain_half),
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
        read = []
        for bank in range(machine.input_banks):
            memory = Memory(shape=8 * machine.tile_positions, depth=2 * depth, init=[])
            m.submodules[f"inputs_{copy}_{bank}"] = memory
            out, into = memory.read_port(), memory.write_port()
            mine = self.input_k[:shift] == bank
            m.d.comb += [
                into.addr.eq((self.input_k >> shift) + self.inputs_half * depth), into.data.eq(self.input_data),
                into.en.eq(self.input_write & mine),
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


def element_array(accelerator: Accelerator) -> ElementArray:
    """The array of an accelerator.

    Raises:
        UnsupportedError: it is of floats.
    """
    if accelerator.dtype != "int8":
        raise UnsupportedError(f"the hardware description is of int8 arrays, not of {accelerator.dtype}")
    return ElementArray(accelerator)


def rtlil_text(accelerator: Accelerator) -> str:
    """The description in RTLIL, which Yosys reads (`read_rtlil`), synthesises and writes as Verilog."""
    array = element_array(accelerator)
    d = array.distributor
    ports = [
        array.grouped, array.span_shift, array.n, array.m, d.share_shift, d.units,
        d.table_write, d.table_at, d.table_group,
        array.words_half, array.inputs_half, d.begin, d.valid, d.last, d.ready, array.skip, array.values,
        array.input_write, array.input_k, array.input_data,
        array.start, array.run_words_half, array.run_inputs_half, array.sum_half, array.first_chunk, array.done,
        d.drain, array.drain_half, d.out, d.out_unit, d.out_member, d.done, array.sums,
    ]  # fmt: skip
    return str(rtlil.convert(array, name="hwsparse_array", ports=ports))
