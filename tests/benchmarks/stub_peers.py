"""Runtimes that know the answer: what a peer may do right and wrong, without the peer."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers.case import Peer


class Honest(Peer):
    @classmethod
    def load(cls, directory: Path, threads: int) -> Honest:
        return cls(directory)

    def run(self) -> Sequence[np.ndarray]:
        return list(self.expected.values())


class Wrong(Honest):
    def run(self) -> Sequence[np.ndarray]:
        return [value * 1.01 for value in self.expected.values()]


class Crashing(Honest):
    def time(self, repeats: int, number: int = 1) -> tuple[float, ...]:
        print("no such instruction", file=sys.stderr, flush=True)
        os._exit(3)
