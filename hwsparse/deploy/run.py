"""Runs a compiled network on a device, with TVM's small runtime and nothing else of hwsparse.

    python run.py DIRECTORY INPUTS OUTPUTS [THREADS]

DIRECTORY holds library.so, weights.safetensors, library.json, and libtvm_runtime.so; INPUTS is a safetensors file with
an array for each input, by name; OUTPUTS is written in the same way. Needs PyPI's apache-tvm-ffi and numpy.

In a program of your own, keep a `Network` and call `run` as often as you like, from one thread.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

CPU, POOLED = 1, 2  # TVM's numbers of a kind of device, and of the allocator that keeps memory between calls
ALIGNMENT = 64  # what compiled code counts on
# Names of types as safetensors has them, and numpy's.
TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip


class Network:
    """A compiled network in memory."""

    def __init__(self, directory: Path, threads: int = 1) -> None:
        """Loads library.so, weights.safetensors and library.json."""
        # Otherwise TVM binds this thread to the first CPU.
        os.environ.setdefault("TVM_BIND_THREADS", "0")
        for name in ("library.so", "libtvm_runtime.so"):
            _require_own(directory / name)
        description = json.loads((directory / "library.json").read_text())
        self.inputs, self.outputs = description["inputs"], description["outputs"]
        weights = read_tensors(directory / "weights.safetensors")
        self._parameters = [_tensor(weights[name]) for name in description["parameters"]]
        try:
            # A second one in a process would end it.
            if tvm_ffi.get_global_func("runtime.config_threadpool", allow_missing=True) is None:
                ctypes.CDLL(str(directory / "libtvm_runtime.so"), ctypes.RTLD_GLOBAL)
            tvm_ffi.get_global_func("runtime.config_threadpool")(1, threads)
            machine = tvm_ffi.load_module(directory / "library.so")["vm_load_executable"]()
            machine["vm_initialization"](CPU, 0, POOLED)
            self._main = machine["main"]
        except (OSError, ValueError, AttributeError, RuntimeError) as error:
            raise RuntimeError(
                f"{str(error).strip()}; library.so was compiled by TVM {description.get('tvm')}: libtvm_runtime.so "
                "must be of that version, and apache-tvm-ffi of the one that it comes with"
            ) from None

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference: arrays by name, of exactly the shapes and types that library.json tells."""
        for port in self.inputs:
            if port["name"] not in inputs:
                raise ValueError(f"input {port['name']} is missing")
            given = inputs[port["name"]]
            if list(given.shape) != port["shape"] or given.dtype != port["dtype"]:
                raise ValueError(f"input {port['name']} is {port['dtype']} of shape {port['shape']}")
        tensors = [_tensor(inputs[port["name"]]) for port in self.inputs]
        found = self._main(*tensors, *self._parameters)
        results = [found] if len(self.outputs) == 1 else found
        return {port["name"]: np.from_dlpack(value) for port, value in zip(self.outputs, results, strict=True)}


def _require_own(path: Path) -> None:
    """Refuses code for another processor, of which the system's loader says that there is no such file."""
    with path.open("rb") as file:
        made_for = int.from_bytes(file.read(20)[18:], "little")
    here = {"x86_64": 62, "aarch64": 183}.get(platform.machine(), made_for)
    if made_for != here:
        raise ValueError(f"{path} is compiled for another processor than this machine's, {platform.machine()}")


def _tensor(array: np.ndarray) -> Any:
    """An array for TVM, at an address that compiled code may count on."""
    room = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    aligned = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    aligned[...] = array
    return tvm_ffi.from_dlpack(aligned)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """A safetensors file: the length of a JSON text in 8 bytes, the text, and after it the bytes of the arrays."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = (start + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(data[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes what `read_tensors` reads."""
    header, end, names = {}, 0, {numpy_name: name for name, numpy_name in TYPES.items()}
    for name, value in tensors.items():
        offsets = [end, end := end + value.nbytes]
        header[name] = {"dtype": names[value.dtype.str], "shape": list(value.shape), "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(value.tobytes() for value in tensors.values()))


def main(words: list[str]) -> int:
    """Runs what the command line asks for."""
    if len(words) not in (3, 4):
        print("usage: python run.py DIRECTORY INPUTS OUTPUTS [THREADS]", file=sys.stderr)
        return 2
    directory, given, wanted = map(Path, words[:3])
    try:
        network = Network(directory, int(words[3]) if len(words) > 3 else 1)
        write_tensors(wanted, network.run(read_tensors(given)))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        print("error:", *str(error).split(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
