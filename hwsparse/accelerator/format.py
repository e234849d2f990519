"""How weights are written for the machine: which rows share an index, and what an index says.

    dense    every weight, no index
    groups   n of every m inputs, each with its place in the group (N:M)
    runs     kept weights, each with the zeros skipped before it (unstructured, blocks); a longer gap than an index can
             say costs entries of zero, and so does a channel without weights where the others of its pass have some

`share` adjacent rows have one index (blocks of outputs, N:MxR), `span` consecutive inputs too (blocks of inputs).
What the machine cannot have as the pattern says it, it has in smaller blocks or as runs: zeros are never in the way
of a right result. Sizes of shares and spans are powers of two: the hardware shifts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwsparse.accelerator.layer import Product
from hwsparse.accelerator.machine import Accelerator
from hwsparse.pattern import NM, Block, Channel, Dense, Unstructured

KINDS = ("dense", "runs", "groups")


@dataclass(frozen=True, slots=True)
class Format:
    """`n` and `m` are of groups, 1 otherwise."""

    kind: str  # one of KINDS
    share: int = 1
    span: int = 1
    n: int = 1
    m: int = 1

    @property
    def step(self) -> int:
        """Inputs that no chunk may part."""
        return self.m if self.kind == "groups" else self.span

    def index_bits(self, run_bits: int) -> int:
        """Bits of an index in memory: a place in a group, or a run and whether it is the channel's last."""
        if self.kind == "dense":
            return 0
        return (self.m - 1).bit_length() if self.kind == "groups" else run_bits + 1


def format_for(accelerator: Accelerator, product: Product) -> Format:
    """The format that a layer's pattern has on a machine."""
    match product.pattern:
        case Dense() | Channel():
            return Format("dense")
        case Unstructured():
            return Format("runs")
        case Block(rows, cols):
            # A span may not reach over the channels' end into the next kernel position.
            return Format("runs", _share(accelerator, rows), _power(cols, product.geometry.channels))
        case NM(n, m, shared):
            share = _share(accelerator, shared)
            if m <= 1 << accelerator.run_bits and _fits_groups(product, n, m, share):
                return Format("groups", share, 1, n, m)
            return Format("runs", share)


def _share(accelerator: Accelerator, rows: int) -> int:
    """The most rows that share a choice and can have one index: all of one copy of the inputs, or whole copies."""
    share = _power(rows, accelerator.rows)
    copy = accelerator.rows_per_copy
    return share if share % copy == 0 else _power(share, copy)


def _power(first: int, second: int) -> int:
    """The largest power of two that divides both."""
    both = first | second
    return both & -both


def _fits_groups(product: Product, n: int, m: int, share: int) -> bool:
    if product.geometry.channels % m:
        return False
    shared = joined(product.mask, share, 1)
    return bool((np.count_nonzero(shared.reshape(len(shared), -1, m), axis=2) <= n).all())


def joined(mask: np.ndarray, share: int, span: int) -> np.ndarray:
    """(units, places): whether anything of `share` rows by `span` inputs is kept; the last unit may be short."""
    starts = np.arange(0, mask.shape[0], share)
    rows: np.ndarray = np.logical_or.reduceat(mask, starts, axis=0) if share > 1 else mask
    spans: np.ndarray = rows.reshape(len(rows), -1, span)
    return np.asarray(spans.any(axis=2))
