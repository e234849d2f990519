"""The drain: sums leave the array in the order of the outputs, a channel a cycle at most, and the vector unit has work.

It takes so many operations for each channel, and does as many in a cycle as it has lanes; the next channel leaves when
it has less than a cycle's work left. Which row has a channel's sums, the set's table says; a channel without weights is
in none, and all zeros.
"""

from __future__ import annotations

from amaranth.hdl import Array, Elaboratable, Module, Mux, Signal
from amaranth.lib.memory import Memory

from hwsparse.accelerator.machine import Accelerator


class Drain(Elaboratable):
    """`begin` is the first of the cycles that it takes, `done` the last; the table holds the units of all sets."""

    def __init__(self, accelerator: Accelerator, table_units: int) -> None:
        self._machine, self._table_units = accelerator, table_units
        rows = accelerator.rows
        self.group_bits = rows.bit_length()
        self.share_shift = Signal(4)
        self.table_write, self.table_at = Signal(), Signal(range(table_units))
        self.table_group = Signal(self.group_bits)  # all ones: none
        self.begin, self.done = Signal(), Signal()
        self.base = Signal(range(table_units))  # where the set's units are
        self.channels = Signal(range(rows * accelerator.accumulators + 1))
        self.work = Signal(24)  # operations of the vector unit for each channel
        self.out, self.absent = Signal(), Signal()
        self.out_row, self.out_slot = Signal(range(rows + 1)), Signal(range(accelerator.accumulators + 1))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.table = table = Memory(shape=self.group_bits, depth=self._table_units, init=[])
        write, read = table.write_port(), table.read_port(domain="comb")
        unit, member = Signal.like(self.base), Signal(range(self._machine.rows + 1))
        sent, backlog = Signal.like(self.channels), Signal(len(self.work) + 1)
        counts = Array([Signal.like(self.out_slot, name=f"count_{row}") for row in range(self._machine.rows)])
        busy, after = Signal(), Signal.like(backlog)
        lanes = self._machine.vector_lanes
        m.d.comb += [
            write.addr.eq(self.table_at), write.data.eq(self.table_group), write.en.eq(self.table_write),
            read.addr.eq(self.base + unit), self.absent.eq(read.data.all()),
            self.out.eq((self.begin | busy) & (sent != self.channels) & (backlog < lanes)),
            self.out_row.eq((read.data << self.share_shift) + member), self.out_slot.eq(counts[read.data]),
            after.eq(backlog + Mux(self.out, self.work, 0)),
            self.done.eq((self.begin | busy) & (sent + self.out == self.channels) & (after <= lanes)),
        ]  # fmt: skip
        m.d.sync += backlog.eq(Mux(after > lanes, after - lanes, 0))
        with m.If(self.done):
            m.d.sync += [busy.eq(0), sent.eq(0), unit.eq(0), member.eq(0), *(count.eq(0) for count in counts)]
        with m.Else():
            with m.If(self.begin):
                m.d.sync += busy.eq(1)
            with m.If(self.out):
                m.d.sync += [sent.eq(sent + 1), member.eq(member + 1)]
                with m.If(member + 1 == 1 << self.share_shift):
                    m.d.sync += [unit.eq(unit + 1), member.eq(0)]
                    with m.If(~self.absent):
                        m.d.sync += counts[read.data].eq(counts[read.data] + 1)
        return m
