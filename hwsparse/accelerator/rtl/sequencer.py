"""The sequencer: when each pass of a layer begins, when its sums leave, and what is asked of memory, and when.

A pass begins when its load is there, the one before is over, and the accumulators that it is to fill are empty. Sums of
a set and tile leave when they are complete, those before have left, and half the output buffer is free. Memory is asked
for the loads of the first two passes at once, and for that of another, and then for the store, whenever one is over.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Elaboratable, Module, Signal
from amaranth.lib.memory import Memory


class Sequencer(Elaboratable):
    """Knows of each pass only whether it completes a set and tile."""

    def __init__(self, most_passes: int) -> None:
        self._most = most_passes
        count = range(most_passes + 1)
        self.write, self.write_at, self.write_ends = Signal(), Signal(range(most_passes)), Signal()
        self.passes = Signal(count)
        self.go = Signal()
        self.loaded, self.stored = Signal(), Signal()  # memory: in the last cycle of each
        self.pass_done, self.drain_done = Signal(), Signal()  # the array, the drain: likewise
        self.start, self.drain = Signal(), Signal()  # they begin
        self.number, self.drained = (
            Signal(count),
            Signal(count),
        )  # of the pass, of the set and tile: the next or current
        self.asks_load, self.asks_store = Signal(), Signal()  # beside pass_done
        self.over = Signal()  # all is stored

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.ends = memory = Memory(shape=1, depth=self._most, init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        m.d.comb += [write.addr.eq(self.write_at), write.data.eq(self.write_ends), write.en.eq(self.write)]
        m.d.comb += read.addr.eq(self.number)
        loads, complete, stores = (Signal.like(self.number, name=name) for name in ("loads", "complete", "stores"))
        running, draining, live = Signal(), Signal(), Signal()
        accumulators_free = complete <= self.drained + 1
        m.d.comb += [
            self.start.eq(live & ~running & (self.number != self.passes) & (loads > self.number) & accumulators_free),
            self.drain.eq(live & ~draining & (self.drained != complete) & (self.drained <= stores + 1)),
            self.asks_load.eq(self.pass_done & (self.number + 2 < self.passes)),
            self.asks_store.eq(self.pass_done & read.data),
            self.over.eq(live & (self.number == self.passes) & (stores == complete)),
        ]
        counters = Cat(self.number, self.drained, loads, complete, stores, running, draining)
        with m.If(self.go):
            m.d.sync += [live.eq(1), counters.eq(0)]
        with m.Else():
            m.d.sync += [loads.eq(loads + self.loaded), stores.eq(stores + self.stored)]
            with m.If(self.pass_done):
                m.d.sync += [running.eq(0), self.number.eq(self.number + 1), complete.eq(complete + read.data)]
            with m.Elif(self.start):
                m.d.sync += running.eq(1)
            with m.If(self.drain_done):
                m.d.sync += [draining.eq(0), self.drained.eq(self.drained + 1)]
            with m.Elif(self.drain):
                m.d.sync += draining.eq(1)
        return m
