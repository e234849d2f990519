"""What compiled code calls for the layers of a simulated accelerator: its command streams are run, bit by bit right.

The array's sums become what the layer gives in the vector unit, which computes as the host's kernels of bytes do
(`hwsparse.codegen.folding` says what from). Streams are read, and refused if anything is wrong with them, where a
library is loaded; code that is called names them by what they hold.

Knows nothing of Relax and models, and of times only whom to ask.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import tvm_ffi
from scipy.special import erf, expit

from hwsparse.accelerator import (
    Accelerator,
    Program,
    Run,
    Unpacked,
    product_of,
    read_stream,
    time_network,
    time_pipeline,
)
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.errors import ArtifactError
from hwsparse.quantise import MOST_VALUE

FUNCTION = "hwsparse.accelerator.layer"


@dataclass(frozen=True, slots=True)
class Call:
    """In the place of a PrimFunc: the packed function is called, and told `facts` after all arrays but the last."""

    facts: str
    name: str = FUNCTION


def call_for(epilogue: Epilogue, tokens: bool) -> Call:
    """The call for a layer: what it is to know of it beside its arrays; `tokens` if channels come last."""
    return Call(json.dumps({"tokens": tokens, **asdict(epilogue)}))


_READY: WeakValueDictionary[bytes, Unpacked] = WeakValueDictionary()


class Accelerated:
    """What of a library runs on an accelerator; as long as there is this, its streams can be called."""

    def __init__(
        self, accelerator: Accelerator, streams: Mapping[str, np.ndarray], *, has_host: bool, pipelined: bool
    ) -> None:
        """Reads a stream (bytes,) for each layer, by name.

        Args:
            has_host: whether anything is left to the host.
            pipelined: whether layers work side by side on the array.

        Raises:
            ArtifactError: one is cut off, damaged, or another machine's.
        """
        self.accelerator, self.has_host, self.pipelined = accelerator, has_host, pipelined
        self.programs: dict[str, Program] = {}
        self._ready = []
        for layer, stream in streams.items():
            try:
                self.programs[layer] = read_stream(accelerator, stream.tobytes())
            except ArtifactError as error:
                raise ArtifactError(f"layer {layer!r}: {error}") from None
            if (stated := self.programs[layer].name) != layer:
                raise ArtifactError(f"layer {layer!r}: the command stream is of layer {stated!r}; write it anew")
            key = _key(stream)
            unpacked = _READY.get(key) or Unpacked.of(self.programs[layer])
            _READY[key] = unpacked
            self._ready.append(unpacked)

    def timed(self) -> Run:
        """What the layers take, in their order.

        Raises:
            UnsupportedError: they are more than a pipeline has room for.
        """
        programs = list(self.programs.values())
        if self.pipelined:
            return time_pipeline(self.accelerator, [product_of(program) for program in programs])
        return time_network(self.accelerator, programs)


def _key(stream: np.ndarray) -> bytes:
    return hashlib.blake2b(stream.tobytes(), digest_size=16).digest()


@tvm_ffi.register_global_func(FUNCTION)  # type: ignore[untyped-decorator]  # TVM has no types
def run_layer(*arguments: Any) -> None:
    """Runs a layer: what it reads, its stream, biases, the residual if any, its facts, the output.

    Of bytes offsets, scales and terms come before biases.
    """
    *tensors, text, out = arguments
    _run_layer([np.from_dlpack(each) for each in tensors], json.loads(text), np.from_dlpack(out))


@contextmanager
def standing_by() -> Iterator[None]:
    """Code that is loaded meanwhile calls in the accelerator's place what does nothing, and takes next to no time."""
    tvm_ffi.register_global_func(FUNCTION, tvm_ffi.get_global_func("ffi.Array"), override=True)
    try:
        yield
    finally:
        tvm_ffi.register_global_func(FUNCTION, run_layer, override=True)


def _run_layer(arrays: list[np.ndarray], facts: dict[str, Any], out: np.ndarray) -> None:
    x, stream, *more = arrays
    tokens = facts.pop("tokens")
    epilogue = Epilogue(**facts)
    unpacked = _READY.get(_key(stream))
    if unpacked is None:
        raise ArtifactError("a command stream is called that no loaded library holds; load it as a `Library`")
    geometry, of_bytes = unpacked.geometry, unpacked.dtype == "int8"
    read = (x ^ 0x80).view(np.int8) if of_bytes else x.astype(unpacked.dtype)  # bytes less 128
    shape = (geometry.batch, geometry.channels, *geometry.sizes)
    read = read.reshape(-1, geometry.channels).T.reshape(shape) if tokens else read.reshape(shape)
    sums = unpacked.run(np.ascontiguousarray(read))
    if of_bytes:
        offset, scale, terms, bias, *added = more
        sums = sums if epilogue.at_once else sums + offset[:, None]
    else:
        bias, *added = more
        scale, terms = np.ones(len(sums), np.float32), np.ones(3, np.float32)
    residual = None
    if added:
        whole = added[0].reshape(out.shape)
        residual = whole.reshape(-1, len(sums)).T if tokens else np.moveaxis(whole, 1, 0).reshape(len(sums), -1)
    values = finished(sums, scale, terms, bias, residual, epilogue)
    if tokens:
        out[...] = values.T.reshape(out.shape)
    else:
        out[...] = np.moveaxis(values.reshape(len(values), out.shape[0], *out.shape[2:]), 0, 1)


def finished(
    sums: np.ndarray,
    scale: np.ndarray,
    terms: np.ndarray,
    bias: np.ndarray,
    residual: np.ndarray | None,
    epilogue: Epilogue,
) -> np.ndarray:
    """(outputs, positions): what the vector unit makes of the array's sums, float32 or bytes.

    Args:
        sums: (outputs, positions) int32, moved already unless they become bytes at once; or float32.
        scale, bias: (outputs,); `terms` (3,): see `hwsparse.codegen.folding`.
        residual: (outputs, positions), float32 or bytes.
    """
    values = _multiplied(sums, scale[:, None], bias[:, None])
    if residual is not None:
        factor = terms[0] if epilogue.added == "uint8" or epilogue.at_once else np.float32(1)
        values = _multiplied(residual, factor, values)
    if epilogue.at_once:
        return _bytes(values, terms[1], terms[2])
    if epilogue.function:
        values = FUNCTIONS[epilogue.function](values.astype(np.float64)).astype(np.float32)
    values = np.asarray(np.clip(values, np.float32(epilogue.low), np.float32(epilogue.high)))
    return _bytes(_multiplied(values, terms[1], terms[2]), 0, MOST_VALUE) if epilogue.stored == "uint8" else values


def _multiplied(values: np.ndarray, by: Any, plus: Any) -> np.ndarray:
    """Multiplied and added in one step, rounded once, as the host's code does."""
    return np.asarray((values.astype(np.float64) * by + plus).astype(np.float32))


def _bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The nearest bytes of values within bounds."""
    return np.asarray(np.rint(np.clip(values, low, high)).astype(np.uint8))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "erf": erf,
    "gelu": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "gelu_tanh": _gelu_tanh,
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "sigmoid": expit,
    "silu": lambda x: x * expit(x),
    "tanh": np.tanh,
}
