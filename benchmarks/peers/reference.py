"""A product of matrices that never changes: what the machine does to it, it does to the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers.case import Peer

SIZE = 640


class Reference(Peer):
    """numpy's product of two square matrices; has nothing of the case but the interface."""

    def __init__(self) -> None:
        self._matrices = np.random.default_rng(0).standard_normal((2, SIZE, SIZE)).astype(np.float32)

    @classmethod
    def load(cls, directory: Path, threads: int) -> Reference:
        return cls()

    def run(self) -> Sequence[np.ndarray]:
        return [self._matrices[0] @ self._matrices[1]]

    def check(self) -> float:
        return 0.0
