"""A compiled library on disk and in memory: load, run, check, time.

Three files: library.so (code), weights.safetensors (parameters), library.json (what goes in and out,
which kernel serves which layer). Needs TVM's runtime only; knows nothing of models or plans.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from tvm import relax

from hwsparse.accelerator import read_accelerator
from hwsparse.artifact.manifest import ARRAY
from hwsparse.codegen.fpga.calls import Accelerated, standing_by
from hwsparse.elf import read_shared_library
from hwsparse.errors import ArtifactError, InputError, one_line
from hwsparse.model import TensorSpec
from hwsparse.probe import last_cache_bytes, machine

# Otherwise TVM pins whichever thread loads a library to the machine's first CPU, and all that it starts later.
os.environ.setdefault("TVM_BIND_THREADS", "0")

LIBRARY, WEIGHTS, DESCRIPTION, REFERENCE = (
    "library.so",
    "weights.safetensors",
    "library.json",
    "reference.safetensors",
)
# What a runtime says to code that another version of TVM compiled.
OTHER_TVM = ("version ==", "Cannot find ffi::Function", "undefined symbol: TVM")
_HELP = "install the same apache-tvm on both sides, or compile it anew"

EVICT = "hwsparse.evict"


@tvm_ffi.register_global_func(EVICT)  # type: ignore[untyped-decorator]  # TVM has no types
def evict(*_: object) -> None:
    """Streams as much memory through the caches of every core that we may use as drives out all that they hold."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    if len(cpus) < 2:
        _stream()
        return
    try:
        for cpu in cpus:
            os.sched_setaffinity(0, {cpu})
            _stream()
    finally:
        os.sched_setaffinity(0, cpus)


def _stream() -> None:
    # What is read alone is not kept everywhere: caches that take in what others drive out need more than their size.
    buffer = _filler()
    buffer += 1


@functools.cache
def _filler() -> np.ndarray:
    return np.zeros(2 * last_cache_bytes(), np.uint8)


class Library:
    """A loaded library; `kernels` names the kernel of each layer, `accelerated` what runs on an accelerator, if any."""

    def __init__(self, directory: Path, threads: int, session: Any = None, *, host_alone: bool = False) -> None:
        """Loads a library from its directory; use `Library.load`."""
        self._session = session
        self._device = tvm.cpu() if session is None else session.cpu()
        if session is None:
            _require_loadable(directory)
        made_by = ""
        try:
            description = json.loads((directory / DESCRIPTION).read_text())
            self.inputs = tuple(_spec(item) for item in description["inputs"])
            self.outputs = tuple(_spec(item) for item in description["outputs"])
            self.kernels: dict[str, str] = description["kernels"]
            made_by = str(description.get("tvm", ""))
            parameters = [_tensor(directory / WEIGHTS, name, self._device) for name in description["parameters"]]
            self.accelerated = None if host_alone else _accelerated(description, parameters)
            module = _module(directory / LIBRARY, session)
            find = tvm.get_global_func if session is None else session.get_function
            find("runtime.config_threadpool")(1, threads)
            with standing_by() if host_alone else nullcontext():  # what code calls is looked up here
                self._machine = relax.VirtualMachine(module, self._device)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
            raise ArtifactError(_trouble(directory, error, made_by, session)) from None
        self.directory = directory
        self._parameters = parameters

    @classmethod
    def load(cls, directory: Path, threads: int, session: Any = None, *, host_alone: bool = False) -> Library:
        """Loads library.so, weights.safetensors and library.json from `directory`.

        Loading runs code: verify an artifact that came from elsewhere first (`Artifact.load`).

        Args:
            session: TVM's, with another device, to load and run it there.
            host_alone: without what runs on an accelerator, to be timed: its outputs are anything.

        Raises:
            ArtifactError: the files are missing or are not a library.
        """
        return cls(directory, threads, session, host_alone=host_alone)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference: arrays by input name, of exactly the shapes and dtypes of `self.inputs`.

        Raises:
            InputError: an input is missing, unknown, or of another shape or dtype.
        """
        tensors = (*self._tensors(inputs), *self._parameters)
        if self._session is None:
            result = self._machine["main"](*tensors)
        else:  # what it returns would not come over the wire
            self._machine.set_input("main", *tensors)
            self._machine.invoke_stateful("main")
            result = self._machine.get_outputs("main")
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
            cold: each of `repeats` single calls finds nothing in the caches.
        """
        if inputs is None:
            inputs = random_inputs(self.inputs)
        self._machine.set_input("main", *self._tensors(inputs), *self._parameters)
        number, before = (1, EVICT) if cold else (number, "")
        evaluate = self._machine.time_evaluator(
            "invoke_stateful", self._device, number=number, repeat=repeats, f_preproc=before
        )
        return tuple(evaluate("main").results)

    def check(self) -> float | None:
        """Largest error against the reference outputs stored at build, relative to their largest value.

        None when none were stored.
        """
        if not (self.directory / REFERENCE).exists():
            return None
        stored = load_file(self.directory / REFERENCE)
        return reference_error(self.run({spec.name: stored[f"in/{spec.name}"] for spec in self.inputs}), stored)

    def _tensors(self, inputs: Mapping[str, np.ndarray]) -> list[Any]:
        if set(inputs) != {spec.name for spec in self.inputs}:
            wanted = ", ".join(spec.name for spec in self.inputs)
            raise InputError(f"inputs are {wanted}; got {', '.join(sorted(inputs)) or 'none'}")
        for spec in self.inputs:
            array = inputs[spec.name]
            if array.shape != spec.shape or array.dtype != spec.dtype:
                raise InputError(f"input {spec.name!r} is {spec.dtype} {spec.shape}; got {array.dtype} {array.shape}")
        arrays = (np.ascontiguousarray(inputs[spec.name]) for spec in self.inputs)
        return [tvm.runtime.tensor(array, self._device) for array in arrays]


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


def output_error(value: np.ndarray, reference: np.ndarray) -> float:
    """The relative error of an output; bytes may be one apart, for sums can lie on either side of a half."""
    if value.dtype == np.uint8:
        near = np.clip(value, np.maximum(reference, 1) - 1, np.minimum(reference, 254) + 1)
        return relative_error(value.astype(np.float64) - near + reference, reference)
    return relative_error(value, reference)


def reference_error(outputs: Mapping[str, np.ndarray], stored: Mapping[str, np.ndarray]) -> float:
    """The largest relative error of outputs, by name, beyond what the reference says that their sums may be off."""
    return max(
        max(0.0, output_error(value, stored[f"out/{name}"]) - float(stored.get(f"off/{name}", 0.0)))
        for name, value in outputs.items()
    )


def _require_loadable(directory: Path) -> None:
    """Refuses code of another machine's, of which the system's loader says that there is no such file.

    Raises:
        ArtifactError: so it is.
    """
    try:
        found = read_shared_library(directory / LIBRARY)
    except ArtifactError:  # what else is wrong is told by whoever loads it
        return
    made_for, here = _kind(found.machine, found.of_android), _kind(machine(), hasattr(sys, "getandroidapilevel"))
    if found.machine != machine() or (found.of_android and made_for != here):
        raise ArtifactError(
            f"{directory} is compiled for {made_for}, and this machine is {here}: `hwsparse bundle` gathers what such "
            "a device needs to run it; to run it here, compile it for a target of this machine's"
        )


def _kind(machine: str, android: bool) -> str:
    return f"{machine} with Android" if android else machine


def _trouble(directory: Path, error: Exception, made_by: str, session: Any) -> str:
    """Why a library cannot be loaded, and what may help."""
    said = one_line(error)
    if session is not None:
        if "cannot open shared object" in said or "wrong ELF" in said:
            return (
                f"the board cannot load what was compiled for it: {said}; is it of the architecture and the system "
                "that its target's mtriple names?"
            )
        if any(sign in said for sign in OTHER_TVM):
            return f"the board runs another TVM than {made_by}, by which {directory} was compiled: {said}; {_HELP}"
    elif made_by and (made_by != tvm.__version__ or any(sign in said for sign in OTHER_TVM)):
        return f"{directory} was compiled by TVM {made_by}, and this is {tvm.__version__}: {said}; {_HELP}"
    return f"{directory} is not a compiled library: {said}"


def _tensor(path: Path, name: str, device: Any) -> Any:
    """One tensor of a file, which is let go of at once: held open for all, it would be in memory beside them."""
    with safe_open(path, framework="numpy") as file:
        return tvm.runtime.tensor(file.get_tensor(name), device)


def _accelerated(description: Mapping[str, Any], parameters: list[Any]) -> Accelerated | None:
    """What runs on an accelerator; None: the library has none.

    Raises:
        ArtifactError: a command stream is cut off, damaged, or another machine's.
    """
    if "accelerator" not in description:
        return None
    places = {name: place for place, name in enumerate(description["parameters"])}
    layers = [layer for layer, kernel in description["kernels"].items() if kernel == ARRAY]
    streams = {layer: parameters[places[f"{layer}/0"]].numpy() for layer in layers}
    machine = read_accelerator(description["accelerator"])
    return Accelerated(
        machine, streams, has_host=bool(description["host"]), pipelined=bool(description["pipelined"])
    )  # fmt: skip


def _module(path: Path, session: Any) -> Any:
    if session is None:
        return tvm.runtime.load_module(str(path))
    name = f"{secrets.token_hex(8)}.so"
    session.upload(str(path), name)
    try:
        return session.load_module(name)
    finally:  # it stays loaded, and the board's room is small
        session.remove(name)


def _spec(item: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(str(item["name"]), tuple(int(size) for size in item["shape"]), str(item["dtype"]))
