"""What layers read, from floats to bytes.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.entry import byte_of
from hwsparse.quantise import MOST_VALUE

# Values of one task: enough to repay a thread's start.
CHUNK = 1 << 14


@functools.cache
def quantise(shape: tuple[int, ...], lanes: int) -> tirx.PrimFunc:
    """The kernel as a PrimFunc of values, what they are multiplied by (1,), their zero (1,), and bytes."""
    size = math.prod(shape)
    chunk = min(CHUNK, -(-size // lanes) * lanes)
    tasks = -(-size // chunk)

    def store(out: Any, x: Any, inverse: Any, zero: Any, place: Any, width: int) -> None:
        places = T.Ramp(place, 1, width) if width > 1 else place
        moved = T.nearbyint(x[places] * inverse) + zero
        low, high = tirx.const(0.0, "float32"), tirx.const(float(MOST_VALUE), "float32")
        T.buffer_store(out, byte_of(T.min(T.max(moved, low), high), width), [places])

    @T.prim_func(s_tir=True)
    def kernel(
        x: T.Buffer(shape, "float32"),
        inverse: T.Buffer((1,), "float32"),
        zero: T.Buffer((1,), "float32"),
        out: T.Buffer(shape, "uint8"),
    ):
        T.func_attr({"tirx.noalias": True})
        x_flat = T.decl_buffer((size,), "float32", data=x.data)
        out_flat = T.decl_buffer((size,), "uint8", data=out.data)
        for task in T.parallel(tasks):
            start: T.let = task * chunk
            count: T.let = T.min(chunk, size - start)
            for i in range(count // lanes):
                store(out_flat, x_flat, inverse[0], zero[0], start + i * lanes, lanes)
            for i in range(count % lanes):
                store(out_flat, x_flat, inverse[0], zero[0], start + count // lanes * lanes + i, 1)

    return kernel
