"""The distributor: which row each word goes to that comes from memory.

Words come beat after beat, and a beat has one for every group of rows that has words left, the lowest group first: as
many as come in a cycle go to as many rows, each of which takes one. How many each group has, a section's head says.
Sections of the two halves of the weight memory may come by turns.
"""

from __future__ import annotations

from amaranth.hdl import Array, Const, Elaboratable, Module, Mux, Signal, Value

from hwsparse.accelerator.machine import Accelerator


class Distributor(Elaboratable):
    """Of what is `offered` it takes the first `taken`, in the same cycle; `opens` begins another section."""

    def __init__(self, accelerator: Accelerator) -> None:
        rows = accelerator.rows
        self.share_shift = Signal(4)
        self.half, self.opens = Signal(), Signal()
        self.lengths = [Signal(range(accelerator.row_words + 1), name=f"length_{group}") for group in range(rows)]
        self.offered, self.taken = Signal(range(rows + 1)), Signal(range(rows + 1))
        self.writes = [Signal(name=f"writes_{row}") for row in range(rows)]
        self.lanes = [Signal(range(rows), name=f"lane_{row}") for row in range(rows)]  # whose word it is

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = len(self.writes)
        registers = [
            Array([Signal.like(length, name=f"left_{half}_{group}") for half in range(2)])
            for group, length in enumerate(self.lengths)
        ]
        left = [Mux(self.opens, length, own[self.half]) for length, own in zip(self.lengths, registers, strict=True)]
        turn_kept = Array([Signal(range(count), name=f"turn_{half}") for half in range(2)])[self.half]
        turn = Signal(range(count))
        m.d.comb += turn.eq(Mux(self.opens, 0, turn_kept))
        active = [Signal(name=f"active_{group}") for group in range(count)]
        m.d.comb += [signal.eq(words != 0) for signal, words in zip(active, left, strict=True)]
        before: list[Value] = [Const(0, self.taken.shape())]  # active groups below each
        for signal in active:
            below = Signal.like(self.taken)
            m.d.comb += below.eq(before[-1] + signal)
            before.append(below)
        total = before.pop()
        at_turn = Signal.like(self.taken)
        m.d.comb += at_turn.eq(Array(before)[turn])
        m.d.comb += self.taken.eq(Mux(self.offered < total, self.offered, total))
        ranks = [Signal.like(self.taken, name=f"rank_{group}") for group in range(count)]
        accepts = [Signal(name=f"accepts_{group}") for group in range(count)]
        for group, (rank, below) in enumerate(zip(ranks, before, strict=True)):
            m.d.comb += rank.eq(below - at_turn + Mux(turn > group, total, 0))
            m.d.comb += accepts[group].eq(active[group] & (rank < self.taken))
            m.d.sync += registers[group][self.half].eq(left[group] - accepts[group])
            with m.If(active[group] & (rank == self.taken)):
                m.d.sync += turn_kept.eq(group)
        with m.If(self.taken == total):  # all have had theirs: from where it began
            m.d.sync += turn_kept.eq(turn)
        accepted, ranked = Array(accepts), Array(ranks)
        for row, (writes, lane) in enumerate(zip(self.writes, self.lanes, strict=True)):
            group = Signal(range(count), name=f"group_{row}")
            m.d.comb += group.eq(row >> self.share_shift)
            m.d.comb += [writes.eq(accepted[group]), lane.eq(ranked[group])]
        return m
