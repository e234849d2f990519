"""DeepSparse, the sparse CPU runtime; discontinued in 2025, 1.8 is the version that is tried here.

Needs the package deepsparse in the interpreter that runs it, and onnxruntime, which comes with that.
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
from benchmarks.peers.integers import layer_inputs, to_integers
from benchmarks.peers.opset13 import to_opset13
from benchmarks.peers.ranges import seen_ranges

# Of the operations; what DeepSparse has no kernels for runs in the onnxruntime within it.
LEAST_SUPPORTED = 0.5


class DeepSparse(Peer):
    """An engine for one call at a time, on a file in the opset that it optimises."""

    def __init__(self, directory: Path, threads: int) -> None:
        super().__init__(directory)
        self._inputs = list(self.inputs.values())
        proto = self.prepare(to_opset13(onnx.load(directory / MODEL)), threads)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / MODEL
            path.write_bytes(proto.SerializeToString())
            self._engine = deepsparse.Engine(str(path), batch_size=len(self._inputs[0]), num_cores=threads)
        if (supported := self._engine.fraction_of_supported_ops) < LEAST_SUPPORTED:
            raise RuntimeError(f"DeepSparse has kernels for {supported:.0%} of this network, onnxruntime runs the rest")

    @classmethod
    def load(cls, directory: Path, threads: int) -> DeepSparse:
        return cls(directory, threads)

    def prepare(self, proto: onnx.ModelProto, threads: int) -> onnx.ModelProto:
        """What is done to the network before the engine has it."""
        return proto

    def run(self) -> Sequence[np.ndarray]:
        outputs: Sequence[np.ndarray] = self._engine.run(self._inputs, val_inp=False)
        return outputs


class Int8(DeepSparse):
    """Quantised after training on the case's calibration inputs; the zeros of the weights stay.

    Without VNNI the engine emulates products of bytes, less exactly and faster where NM_FAST_VNNI_EMULATION is set.
    """

    def prepare(self, proto: onnx.ModelProto, threads: int) -> onnx.ModelProto:
        return to_integers(proto, seen_ranges(proto, layer_inputs(proto), self.calibration, threads))
