"""The arbiter of one copy of the inputs.

Of each bank the lowest row that asks has its way, and whoever asks for the same input with it.
"""

from __future__ import annotations

from amaranth.hdl import Array, Elaboratable, Module, Signal


class BankArbiter(Elaboratable):
    """Grants in the cycle of the request; `addresses` are what the banks read then."""

    def __init__(self, rows: int, banks: int, k_bits: int) -> None:
        self.bank_bits = (banks - 1).bit_length()
        self.asks = [Signal(name=f"asks_{row}") for row in range(rows)]
        self.wants = [Signal(k_bits, name=f"wants_{row}") for row in range(rows)]
        self.grants = [Signal(name=f"grants_{row}") for row in range(rows)]
        self.addresses = [Signal(k_bits, name=f"address_{bank}") for bank in range(banks)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for bank, address in enumerate(self.addresses):
            for asks, wants in reversed(list(zip(self.asks, self.wants, strict=True))):  # what is said last counts
                with m.If(asks & (wants[: self.bank_bits] == bank)):
                    m.d.comb += address.eq(wants >> self.bank_bits)
        chosen = Array(self.addresses)
        for asks, wants, grants in zip(self.asks, self.wants, self.grants, strict=True):
            m.d.comb += grants.eq(asks & (chosen[wants[: self.bank_bits]] == wants >> self.bank_bits))
        return m
