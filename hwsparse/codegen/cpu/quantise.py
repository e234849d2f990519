"""What layers read, from floats to bytes.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

import functools
import math

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.quantise import MOST_VALUE

# Values of one task: enough to repay a thread's start.
CHUNK = 1 << 14


@functools.cache
def quantise(shape: tuple[int, ...], lanes: int) -> tirx.PrimFunc:
    """The kernel as a PrimFunc of values, what they are multiplied by (1,), their zero (1,), and bytes."""
    size = math.prod(shape)
    chunk = min(CHUNK, -(-size // lanes) * lanes)
    tasks = -(-size // chunk)

    def byte(value, inverse, zero, width):
        low, high = tirx.const(0.0, "float32"), tirx.const(float(MOST_VALUE), "float32")
        moved = T.nearbyint(value * inverse) + zero
        return tirx.Cast(f"uint8x{width}" if width > 1 else "uint8", T.min(T.max(moved, low), high))

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
                for lane in T.vectorized(lanes):
                    out_flat[start + i * lanes + lane] = byte(x_flat[start + i * lanes + lane], inverse[0], zero[0], 1)
            for i in range(count % lanes):
                place: T.let = start + count // lanes * lanes + i
                out_flat[place] = byte(x_flat[place], inverse[0], zero[0], 1)

    return kernel
