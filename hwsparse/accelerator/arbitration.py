"""Rows that ask one copy of the inputs for different inputs of one bank wait: counted cycle by cycle.

In every cycle each row asks for the input of its entry. Of a bank the lowest row that asks has its way, and whoever
asks for the same input with it; the others ask again. Passes have nothing to do with one another, so that those of a
whole network are stepped side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Requesters that are done are taken out when they are so many of those that are left.
_STALE = 0.2


def contended_cycles(streams: Sequence[Sequence[np.ndarray]], banks: int) -> np.ndarray:
    """Cycles until the last of those that share a copy has read all its inputs, for each copy.

    Args:
        streams: for each copy, its requesters' inputs in order, the lowest row first.
    """
    owners = np.repeat(np.arange(len(streams)), [len(rows) for rows in streams])
    rows = [row for copy in streams for row in copy]
    lengths = np.array([len(row) for row in rows], np.int64)
    found = np.zeros(len(streams), np.int64)
    if not lengths.sum():
        return found
    flat = np.concatenate([np.asarray(row, np.int32) for row in rows])
    at = np.cumsum(lengths) - lengths
    end = at + lengths
    keep = lengths > 0
    at, end, owner = at[keep], end[keep], owners[keep]
    return _step(flat, at, end, owner, banks, found)


def _step(
    flat: np.ndarray, at: np.ndarray, end: np.ndarray, owner: np.ndarray, banks: int, found: np.ndarray
) -> np.ndarray:
    bank = (flat & (banks - 1)).astype(np.int32)
    base = (owner * banks).astype(np.int32)
    winner = np.zeros(len(found) * banks, np.int32)
    cycle, done = 0, 0
    flat_end = len(flat)
    while len(at):
        # Who is done points beyond its inputs and must ask for nothing.
        live = at < end if done else None
        place = np.minimum(at, flat_end - 1) if done else at
        wanted, slot = flat[place], base + bank[place]
        if live is None:
            winner[slot[::-1]] = wanted[::-1]  # of equal slots the last write stays: the lowest row's
            granted = winner[slot] == wanted
        else:
            asking = np.flatnonzero(live)
            slot, wanted = slot[asking], wanted[asking]
            winner[slot[::-1]] = wanted[::-1]
            granted = np.zeros(len(at), bool)
            granted[asking] = winner[slot] == wanted
        at = at + granted
        cycle += 1
        finished = at == end
        count = int(np.count_nonzero(finished))
        if count > done:
            fresh = finished & granted
            np.maximum.at(found, owner[fresh], cycle)
            done = count
            if done > _STALE * len(at) or done == len(at):
                left = ~finished
                at, end, owner, base, done = at[left], end[left], owner[left], base[left], 0
    return found
