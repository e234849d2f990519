"""A row's decoder: which input the word at its head is of, from the words before it.

Runs skip zeros from the input before on, in spans of 2^span_shift inputs, of which the first word has the index.
Groups of m inputs have n words each, with a place in the group. Dense weights are runs that skip nothing.
"""

from __future__ import annotations

from amaranth.hdl import Elaboratable, Module, Mux, Signal


class Decoder(Elaboratable):
    """Tells `k` of the word at the head in the same cycle; goes on to the next when it is taken."""

    def __init__(self, run_bits: int, k_bits: int) -> None:
        self.skip, self.last = Signal(run_bits), Signal()
        self.take, self.restart = Signal(), Signal()
        self.grouped, self.span_shift = Signal(), Signal(3)
        self.n, self.m = Signal(run_bits + 1), Signal(run_bits + 1)
        self.k = Signal(k_bits)
        self.first = Signal(init=1)  # of its channel

    def elaborate(self, platform: object) -> Module:
        m = Module()
        base, phase, member = Signal.like(self.k), Signal(7), Signal.like(self.n)
        m.d.comb += self.k.eq(base + Mux(self.grouped, self.skip, Mux(phase == 0, self.skip << self.span_shift, 0)))
        with m.If(self.restart | (self.take & self.last)):
            m.d.sync += [base.eq(0), phase.eq(0), member.eq(0), self.first.eq(1)]
        with m.Elif(self.take):
            m.d.sync += self.first.eq(0)
            with m.If(~self.grouped):
                m.d.sync += [base.eq(self.k + 1), phase.eq((phase + 1) & ((1 << self.span_shift) - 1))]
            with m.Elif(member + 1 == self.n):
                m.d.sync += [base.eq(base + self.m), member.eq(0)]
            with m.Else():
                m.d.sync += member.eq(member + 1)
        return m
