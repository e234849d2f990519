"""onnxruntime with all its optimisations: what users have today, and the referee of everybody's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.peers.case import MODEL, Peer


class Onnxruntime(Peer):
    """A session in float32."""

    def __init__(self, directory: Path, threads: int) -> None:
        super().__init__(directory)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(directory / MODEL), options, providers=["CPUExecutionProvider"]
        )

    @classmethod
    def load(cls, directory: Path, threads: int) -> Onnxruntime:
        return cls(directory, threads)

    def run(self) -> Sequence[np.ndarray]:
        outputs: Sequence[np.ndarray] = self._session.run(None, self.inputs)
        return outputs
