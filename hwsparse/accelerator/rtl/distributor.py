"""The distributor: which row a channel's words go to, and which row its sums come from, by the table of the stream.

Words come unit after unit, one a cycle, for all rows that share an index; sums leave in the same order, a channel a
cycle. A unit without weights takes a cycle and nothing else.
"""

from __future__ import annotations

from amaranth.hdl import Array, Elaboratable, Module, Signal
from amaranth.lib.memory import Memory

from hwsparse.accelerator.machine import Accelerator


class Distributor(Elaboratable):
    """The table has `units` entries: a group of rows each, or all ones for none."""

    def __init__(self, accelerator: Accelerator) -> None:
        rows, self._units_most = accelerator.rows, accelerator.rows * accelerator.accumulators
        self._rows, self._slots = rows, accelerator.accumulators
        unit_bits = self._units_most.bit_length()
        self.group_bits = rows.bit_length()
        self.share_shift, self.units = Signal(4), Signal(unit_bits)
        self.table_write, self.table_at, self.table_group = Signal(), Signal(unit_bits), Signal(self.group_bits)
        # Words in.
        self.begin, self.valid, self.last, self.ready = Signal(), Signal(), Signal(), Signal()
        self.writes = [Signal(name=f"writes_{row}") for row in range(rows)]
        # Sums out.
        self.drain, self.out, self.done = Signal(), Signal(), Signal()
        self.out_unit, self.out_member = Signal(unit_bits), Signal(range(rows + 1))
        self.out_row, self.out_slot = Signal(range(rows + 1)), Signal(range(accelerator.accumulators + 1))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        table = Memory(shape=self.group_bits, depth=self._units_most, init=[])
        m.submodules.table = table
        write, read = table.write_port(), table.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(self.table_at), write.data.eq(self.table_group), write.en.eq(self.table_write),
        ]  # fmt: skip
        unit, member = Signal.like(self.units), Signal.like(self.out_member)
        absent, within, draining = Signal(), Signal(), Signal()
        counts = Array([Signal.like(self.out_slot, name=f"count_{row}") for row in range(self._rows)])
        m.d.comb += [read.addr.eq(unit), absent.eq(read.data.all()), within.eq(unit != self.units)]
        m.d.comb += self.ready.eq(within & ~absent & ~draining)
        for row, writes in enumerate(self.writes):
            m.d.comb += writes.eq(self.valid & self.ready & (row >> self.share_shift == read.data))
        share_last = member + 1 == 1 << self.share_shift
        m.d.comb += [
            self.out.eq(draining & within & ~absent), self.out_unit.eq(unit), self.out_member.eq(member),
            self.out_row.eq((read.data << self.share_shift) + member), self.out_slot.eq(counts[read.data]),
            self.done.eq(draining & ~within),
        ]  # fmt: skip
        with m.If(self.begin | self.drain):
            m.d.sync += [unit.eq(0), member.eq(0), draining.eq(self.drain), *(count.eq(0) for count in counts)]
        with m.Elif(self.done):
            m.d.sync += draining.eq(0)
        with m.Elif(within & absent):
            m.d.sync += unit.eq(unit + 1)
        with m.Elif(draining & within):
            m.d.sync += member.eq(member + 1)
            with m.If(share_last):
                m.d.sync += [unit.eq(unit + 1), member.eq(0), counts[read.data].eq(counts[read.data] + 1)]
        with m.Elif(self.valid & self.ready & self.last):
            m.d.sync += unit.eq(unit + 1)
        return m
