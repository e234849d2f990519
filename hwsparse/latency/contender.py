"""What whole-network timing compares: a compiled library or onnxruntime, told apart by the directory.

Knows nothing of plans; a directory with model.onnx is a model for onnxruntime, any other a library, which is timed on
the simulated accelerator if it was compiled for one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

import onnxruntime

from hwsparse.codegen import Library, random_inputs
from hwsparse.errors import MeasureError
from hwsparse.latency.simulator import Simulated
from hwsparse.model import Model, TensorSpec

MODEL = "model.onnx"
LOADER = "hwsparse.latency.contender:Contender"


class Timed(Protocol):
    """What a worker can check and time."""

    def check(self) -> float | None: ...

    def time(self, repeats: int, number: int = 1) -> tuple[float, ...]: ...


class Contender:
    """Loads any of them; `load` is what a worker calls."""

    @staticmethod
    def load(directory: Path, threads: int) -> Timed:
        if (directory / MODEL).exists():
            return OnnxruntimeModel(directory / MODEL, threads)
        library = Library.load(directory, threads)
        return library if library.accelerated is None else Simulated(library, library.accelerated, threads)


class OnnxruntimeModel:
    """A model in onnxruntime with all its optimisations: the dense baseline that users have today."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        specs = []
        for port in self._session.get_inputs():
            dtype = _NUMPY_TYPES.get(port.type)
            if dtype is None:
                raise MeasureError(f"input {port.name!r}: cannot make values of type {port.type}")
            specs.append(TensorSpec(port.name, tuple(port.shape), dtype))
        self._inputs = random_inputs(tuple(specs))

    def check(self) -> float | None:
        """The reference itself: nothing to check."""
        return None

    def time(self, repeats: int, number: int = 1) -> tuple[float, ...]:
        """Seconds a call takes, `repeats` times, each the mean of `number` calls back to back."""
        samples = []
        for _ in range(repeats):
            start = time.perf_counter()
            for _ in range(number):
                self._session.run(None, self._inputs)
            samples.append((time.perf_counter() - start) / number)
        return tuple(samples)


_NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


def write_onnxruntime_contender(model: Model, directory: Path) -> None:
    """Makes an existing directory a contender that runs the model in onnxruntime."""
    (directory / MODEL).write_bytes(model.proto)
