"""onnxruntime with all its optimisations: what users have today, and the referee of everybody's outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime import quantization

from benchmarks.peers.case import MODEL, Peer


class Onnxruntime(Peer):
    """A session in float32."""

    file = MODEL

    def __init__(self, directory: Path, threads: int) -> None:
        super().__init__(directory)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(directory / self.file), options, providers=["CPUExecutionProvider"]
        )

    @classmethod
    def load(cls, directory: Path, threads: int) -> Onnxruntime:
        return cls(directory, threads)

    def run(self) -> Sequence[np.ndarray]:
        outputs: Sequence[np.ndarray] = self._session.run(None, self.inputs)
        return outputs


class Int8(Onnxruntime):
    """A session of the network as onnxruntime's own tool quantises it: statically, weights by channel."""

    file = "model-int8.onnx"

    def __init__(self, directory: Path, threads: int) -> None:
        if not (directory / self.file).exists():
            Peer.__init__(self, directory)
            quantization.quantize_static(
                directory / MODEL, directory / self.file, _Samples(self.calibration), per_channel=True
            )
        super().__init__(directory, threads)


class _Samples(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, calibration: dict[str, np.ndarray]) -> None:
        count = len(next(iter(calibration.values())))
        feeds = ({name: values[at] for name, values in calibration.items()} for at in range(count))
        self._feeds: Iterator[dict[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)
