"""A compiled library on disk and in memory: load, run, check, time.

Three files: library.so (code), weights.safetensors (parameters), library.json (what goes in and out,
which kernel serves which layer). Needs TVM's runtime only; knows nothing of models or plans.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from tvm import relax

from hwsparse.errors import ArtifactError, InputError, one_line
from hwsparse.model import TensorSpec
from hwsparse.probe import last_cache_bytes

# Otherwise TVM pins whichever thread loads a library to the machine's first CPU, and all that it starts later.
os.environ.setdefault("TVM_BIND_THREADS", "0")

LIBRARY, WEIGHTS, DESCRIPTION, REFERENCE = (
    "library.so",
    "weights.safetensors",
    "library.json",
    "reference.safetensors",
)


EVICT = "hwsparse.evict"


@tvm_ffi.register_global_func(EVICT)  # type: ignore[untyped-decorator]
def evict(warm: tvm.runtime.Tensor, *others: tvm.runtime.Tensor) -> None:
    """Streams as much memory through the caches as drives out all that they hold; then reads `warm`."""
    # What is read alone is not kept everywhere: caches that take in what others drive out need more than their size.
    buffer = _filler()
    buffer += 1
    np.from_dlpack(warm).sum()


@functools.cache
def _filler() -> np.ndarray:
    return np.zeros(2 * last_cache_bytes(), np.uint8)


class Library:
    """A loaded library; `kernels` names the kernel of each layer."""

    def __init__(self, directory: Path, threads: int) -> None:
        """Loads a library from its directory; use `Library.load`."""
        try:
            description = json.loads((directory / DESCRIPTION).read_text())
            self.inputs = tuple(_spec(item) for item in description["inputs"])
            self.outputs = tuple(_spec(item) for item in description["outputs"])
            self.kernels: dict[str, str] = description["kernels"]
            parameters = [_tensor(directory / WEIGHTS, name) for name in description["parameters"]]
            module = tvm.runtime.load_module(str(directory / LIBRARY))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(f"{directory} is not a compiled library: {one_line(error)}") from None
        tvm.get_global_func("runtime.config_threadpool")(1, threads)
        self.directory = directory
        self._machine = relax.VirtualMachine(module, tvm.cpu())
        self._parameters = parameters

    @classmethod
    def load(cls, directory: Path, threads: int) -> Library:
        """Loads library.so, weights.safetensors and library.json from `directory`.

        Loading runs code: verify an artifact that came from elsewhere first (`Artifact.load`).

        Raises:
            ArtifactError: the files are missing or are not a library.
        """
        return cls(directory, threads)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference: arrays by input name, of exactly the shapes and dtypes of `self.inputs`.

        Raises:
            InputError: an input is missing, unknown, or of another shape or dtype.
        """
        result = self._machine["main"](*self._tensors(inputs), *self._parameters)
        results = result if len(self.outputs) > 1 else [result]
        return {spec.name: value.numpy() for spec, value in zip(self.outputs, results, strict=True)}

    def time(
        self,
        repeats: int,
        number: int = 1,
        inputs: Mapping[str, np.ndarray] | None = None,
        *,
        cold: bool = False,
    ) -> tuple[float, ...]:
        """Seconds a call takes, `repeats` times, each the mean of `number` calls back to back.

        Args:
            inputs: without them, integers are zeros and floats standard normal.
            cold: before each of `repeats` single calls, all but the first input leaves the caches.
        """
        if inputs is None:
            inputs = random_inputs(self.inputs)
        if cold:
            call = self._machine.module.time_evaluator("main", tvm.cpu(), number=1, repeat=repeats, f_preproc=EVICT)
            return tuple(call(*self._tensors(inputs), *self._parameters).results)
        self._machine.set_input("main", *self._tensors(inputs), *self._parameters)
        evaluate = self._machine.time_evaluator("invoke_stateful", tvm.cpu(), number=number, repeat=repeats)
        return tuple(evaluate("main").results)

    def check(self) -> float | None:
        """Largest error against the reference outputs stored at build, relative to their largest value.

        None when none were stored.
        """
        if not (self.directory / REFERENCE).exists():
            return None
        stored = load_file(self.directory / REFERENCE)
        outputs = self.run({spec.name: stored[f"in/{spec.name}"] for spec in self.inputs})
        return max(relative_error(outputs[spec.name], stored[f"out/{spec.name}"]) for spec in self.outputs)

    def _tensors(self, inputs: Mapping[str, np.ndarray]) -> list[Any]:
        if set(inputs) != {spec.name for spec in self.inputs}:
            wanted = ", ".join(spec.name for spec in self.inputs)
            raise InputError(f"inputs are {wanted}; got {', '.join(sorted(inputs)) or 'none'}")
        for spec in self.inputs:
            array = inputs[spec.name]
            if array.shape != spec.shape or array.dtype != spec.dtype:
                raise InputError(f"input {spec.name!r} is {spec.dtype} {spec.shape}; got {array.dtype} {array.shape}")
        return [tvm.runtime.tensor(np.ascontiguousarray(inputs[spec.name])) for spec in self.inputs]


def random_inputs(specs: tuple[TensorSpec, ...], seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs for timing and checking: floats standard normal, integers zero."""
    rng = np.random.default_rng(seed)
    return {
        spec.name: rng.standard_normal(spec.shape).astype(spec.dtype)
        if np.issubdtype(np.dtype(spec.dtype), np.floating)
        else np.zeros(spec.shape, spec.dtype)
        for spec in specs
    }


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference, relative to the reference's largest value; infinite for NaN."""
    difference = float(np.max(np.abs(value.astype(np.float64) - reference), initial=0.0))
    scale = float(np.max(np.abs(reference), initial=0.0))
    return difference / max(scale, 1e-30) if np.isfinite(difference) else float("inf")


def _tensor(path: Path, name: str) -> Any:
    """One tensor of a file, which is let go of at once: held open for all, it would be in memory beside them."""
    with safe_open(path, framework="numpy") as file:
        return tvm.runtime.tensor(file.get_tensor(name))


def _spec(item: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(str(item["name"]), tuple(int(size) for size in item["shape"]), str(item["dtype"]))
