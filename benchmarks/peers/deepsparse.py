"""DeepSparse, the sparse CPU runtime; discontinued in 2025, its last version is 1.8.

Needs the package deepsparse in the interpreter that runs it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

# Asked when it is imported: it would report to its makers.
os.environ["NM_DISABLE_ANALYTICS"] = "True"
import deepsparse

from benchmarks.peers.case import MODEL, Peer
from benchmarks.peers.opset13 import to_opset13


class DeepSparse(Peer):
    """An engine for one call at a time, on a file in the opset that it optimises."""

    def __init__(self, directory: Path, threads: int) -> None:
        super().__init__(directory)
        self._inputs = list(self.inputs.values())
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / MODEL
            path.write_bytes(to_opset13(onnx.load(directory / MODEL)).SerializeToString())
            self._engine = deepsparse.Engine(str(path), batch_size=len(self._inputs[0]), num_cores=threads)

    @classmethod
    def load(cls, directory: Path, threads: int) -> DeepSparse:
        return cls(directory, threads)

    def run(self) -> Sequence[np.ndarray]:
        outputs: Sequence[np.ndarray] = self._engine.run(self._inputs, val_inp=False)
        return outputs
