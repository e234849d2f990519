"""What the kernels over packed row groups multiply and add: floats, or words of four bytes each.

    floats   sum += weight * value, in float32
    bytes    sum += w0 * v0 + w1 * v1 + w2 * v2 + w3 * v3, in int32, of signed weights and unsigned values

Four inputs at one kernel position make a word, so that a layer of bytes is one of floats with a fourth of the channels:
what copies floats copies words.

Knows nothing of layers, nor of what bytes stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.words import WORD

# What multiplies and adds words of bytes at once, by the CPU flags that it takes.
VNNI = frozenset({"avx512_vnni", "avx512vl"})


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How weights and values of a type are multiplied and summed up.

    `dtype` is that of panels, weights and sums, `source` that of what layers read; `dot` names the instruction.
    """

    dtype: str
    source: str
    dot: str = ""

    @property
    def is_bytes(self) -> bool:
        return self.source == "uint8"

    @property
    def zero(self) -> Any:
        return tirx.const(0, self.dtype)

    def multiply_add(self, total: Any, weights: Any, values: Any, lanes: int) -> Any:
        """The new sums, of three vectors."""
        if not self.is_bytes:
            return total + weights * values
        if self.dot == "vpdpbusd":
            operands = (T.reinterpret(f"int8x{lanes * WORD}", each) for each in (values, weights))
            name = f"llvm.x86.avx512.vpdpbusd.{lanes * 32}"
            return T.call_llvm_pure_intrin(f"int32x{lanes}", name, total, *operands)
        for byte in range(WORD):
            value = (values >> T.Broadcast(T.int32(8 * byte), lanes)) & T.Broadcast(T.int32(255), lanes)
            # A signed byte: up to the top, and down again.
            raised = weights << T.Broadcast(T.int32(24 - 8 * byte), lanes)
            total = total + value * (raised >> T.Broadcast(T.int32(24), lanes))
        return total


def word_of(parts: Sequence[Any], lanes: int) -> Any:
    """Words of four bytes each, in vectors of `lanes`: the first bytes, the second ones, and so on."""
    dtype = f"int32x{lanes}" if lanes > 1 else "int32"
    shifted = [
        tirx.Cast(dtype, part) << (T.Broadcast(T.int32(8 * at), lanes) if lanes > 1 else T.int32(8 * at))
        for at, part in enumerate(parts)
    ]
    return (shifted[0] | shifted[1]) | (shifted[2] | shifted[3])


FLOATS = Arithmetic("float32", "float32")


def bytes_on(isa: tuple[str, ...]) -> Arithmetic:
    """How bytes are multiplied and added with these CPU flags."""
    return Arithmetic("int32", "uint8", "vpdpbusd" if VNNI <= set(isa) else "")
