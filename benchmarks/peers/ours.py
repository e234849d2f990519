"""hwsparse's compiled library of a case's network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers.case import Peer
from hwsparse.codegen import Library


def library_directory(case: Path, threads: int) -> Path:
    """Where a case keeps the library that was compiled for so many threads."""
    return case / f"library-{threads}"


class Ours(Peer):
    """Compiled ahead; whether it is sparse is the case's matter."""

    def __init__(self, directory: Path, threads: int) -> None:
        super().__init__(directory)
        self._library = Library.load(library_directory(directory, threads), threads)

    @classmethod
    def load(cls, directory: Path, threads: int) -> Ours:
        return cls(directory, threads)

    def run(self) -> Sequence[np.ndarray]:
        outputs = self._library.run(self.inputs)
        return [outputs[name] for name in self.expected]

    def time(self, repeats: int, number: int = 1) -> tuple[float, ...]:
        """By TVM's own clock, which makes an untimed call first."""
        return self._library.time(repeats, number, self.inputs)
