"""A case, as every runtime gets it: a directory with a model, inputs, and onnxruntime's answers to them.

    model.onnx   the network, dense or pruned
    case.npz     in/NAME, out/NAME: one call, in the model's order; calibration/NAME: more inputs, stacked

Knows no runtime: `Peer` is what they have in common, and what `hwsparse.latency.worker` asks of them.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

MODEL, CASE = "model.onnx", "case.npz"


def write_case(
    directory: Path,
    proto: bytes,
    inputs: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    calibration: Sequence[Mapping[str, np.ndarray]],
) -> None:
    """Makes an existing directory a case."""
    (directory / MODEL).write_bytes(proto)
    arrays = {f"in/{name}": value for name, value in inputs.items()}
    arrays |= {f"out/{name}": value for name, value in expected.items()}
    arrays |= {f"calibration/{name}": np.stack([sample[name] for sample in calibration]) for name in inputs}
    np.savez(directory / CASE, **arrays)  # type: ignore[arg-type]  # its keywords are arrays' names


class Peer(ABC):
    """A runtime that has loaded a case's model."""

    def __init__(self, directory: Path) -> None:
        """Reads the case's arrays."""
        with np.load(directory / CASE) as case:
            self.inputs = _part(case, "in/")
            self.expected = _part(case, "out/")
            self.calibration = _part(case, "calibration/")

    @abstractmethod
    def run(self) -> Sequence[np.ndarray]:
        """Outputs for the case's inputs, in the model's order."""

    def check(self) -> float:
        """Largest difference from onnxruntime's answers, relative to their largest value; infinite for NaN."""
        pairs = zip(self.run(), self.expected.values(), strict=True)
        return max(_relative_error(value, reference) for value, reference in pairs)

    def time(self, repeats: int, number: int = 1) -> tuple[float, ...]:
        """Seconds a call takes, `repeats` times, each the mean of `number` calls back to back."""
        self.run()  # others had the caches since the last turn
        samples = []
        for _ in range(repeats):
            start = time.perf_counter()
            for _ in range(number):
                self.run()
            samples.append((time.perf_counter() - start) / number)
        return tuple(samples)


def _part(case: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): case[name] for name in case if name.startswith(prefix)}


def _relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """As `hwsparse.codegen.relative_error`, which other environments do not have."""
    difference = float(np.max(np.abs(value.astype(np.float64) - reference), initial=0.0))
    scale = float(np.max(np.abs(reference), initial=0.0))
    return difference / max(scale, 1e-30) if np.isfinite(difference) else float("inf")
