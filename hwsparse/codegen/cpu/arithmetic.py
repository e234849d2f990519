"""What the kernels over packed row groups multiply and add: floats, or words of four bytes each.

    floats   sum += weight * value, in float32
    bytes    sum += w0 * v0 + w1 * v1 + w2 * v2 + w3 * v3, in int32, of signed weights and unsigned values

Four inputs at one kernel position make a word, so that a layer of bytes is one of floats with a fourth of the channels:
what copies floats copies words. Sums of bytes are exact, whatever multiplies them:

    vpdpbusd   x86 with AVX-512 VNNI or AVX-VNNI: all of it at once
    vpmaddwd   x86 with AVX2: sums of two products of 16 bits, once of a word's even bytes and once of its odd ones.
               Values are taken apart once for all rows that share them, weights when they are packed.
    usdot      Arm with i8mm: all of it at once
    sdot       Arm with dotprod: of signed bytes, which values are once they count 128 less

vpmaddubsw multiplies bytes as they are, but cuts sums of two products off at 16 bits. Weights that may pass that can be
halved and listed twice, but of those that pruning leaves half pass it: measured on Zen 4, as fast as vpmaddwd at best.

Knows nothing of layers, nor of what bytes stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.words import WORD

# What multiplies and adds words of bytes, the best first: in vectors of how many bits at most, with which CPU flags.
DOTS = (
    ("vpdpbusd", 512, frozenset({"avx512_vnni", "avx512vl"})),
    ("vpdpbusd", 256, frozenset({"avx_vnni"})),
    ("vpmaddwd", 512, frozenset({"avx512bw"})),
    ("vpmaddwd", 256, frozenset({"avx2"})),
    ("usdot", 128, frozenset({"i8mm"})),
    ("sdot", 128, frozenset({"asimddp"})),
)
_VPMADDWD = {128: "llvm.x86.sse2.pmadd.wd", 256: "llvm.x86.avx2.pmadd.wd", 512: "llvm.x86.avx512.pmaddw.d.512"}


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
    def parts(self) -> int:
        """Words that each word of weights is packed as: two are its halves, as `halves_of` has them."""
        return 2 if self.dot == "vpmaddwd" else 1

    @property
    def less(self) -> int:
        """By how much less than they are values count in sums."""
        return 128 if self.dot == "sdot" else 0

    @property
    def zero(self) -> Any:
        return tirx.const(0, self.dtype)

    def multiply_add(self, total: Any, weights: Sequence[Any], values: Any, lanes: int) -> Any:
        """The new sums, of vectors; of weights there are as many as `parts`."""
        if not self.is_bytes:
            return total + weights[0] * values
        bits = 32 * lanes
        match self.dot:
            case "vpdpbusd":
                return _dot(f"llvm.x86.avx512.vpdpbusd.{bits}", total, values, weights[0], lanes)
            case "vpmaddwd":
                even, odd = (
                    T.call_llvm_pure_intrin(f"int32x{lanes}", _VPMADDWD[bits], *(_pairs(each, lanes) for each in both))
                    for both in zip(_halves(values, lanes), weights, strict=True)
                )
                return total + (even + odd)
            case "usdot":
                return _dot("llvm.aarch64.neon.usdot.v4i32.v16i8", total, values, weights[0], lanes)
            case "sdot":
                signed = values ^ T.Broadcast(T.int32(-0x7F7F7F80), lanes)  # 0x80808080: every highest bit
                return _dot("llvm.aarch64.neon.sdot.v4i32.v16i8", total, signed, weights[0], lanes)
        for byte in range(WORD):
            value = (values >> T.Broadcast(T.int32(8 * byte), lanes)) & T.Broadcast(T.int32(255), lanes)
            # A signed byte: up to the top, and down again.
            raised = weights[0] << T.Broadcast(T.int32(24 - 8 * byte), lanes)
            total = total + value * (raised >> T.Broadcast(T.int32(24), lanes))
        return total


def _dot(name: str, total: Any, left: Any, right: Any, lanes: int) -> Any:
    """Sums, and four products of bytes more in each, by an LLVM intrinsic."""
    operands = (T.reinterpret(f"int8x{lanes * WORD}", each) for each in (left, right))
    return T.call_llvm_pure_intrin(f"int32x{lanes}", name, total, *operands)


def _halves(values: Any, lanes: int) -> tuple[Any, Any]:
    """The even and the odd bytes of words, as two numbers of 16 bits in each word."""
    mask = T.Broadcast(T.int32(0x00FF00FF), lanes)
    return values & mask, (values >> T.Broadcast(T.int32(8), lanes)) & mask


def _pairs(words: Any, lanes: int) -> Any:
    return T.reinterpret(f"int16x{2 * lanes}", words)


def word_of(parts: Sequence[Any], lanes: int) -> Any:
    """Words of four bytes each, in vectors of `lanes`: the first bytes, the second ones, and so on."""
    dtype = f"int32x{lanes}" if lanes > 1 else "int32"
    shifted = [
        tirx.Cast(dtype, part) << (T.Broadcast(T.int32(8 * at), lanes) if lanes > 1 else T.int32(8 * at))
        for at, part in enumerate(parts)
    ]
    return (shifted[0] | shifted[1]) | (shifted[2] | shifted[3])


FLOATS = Arithmetic("float32", "float32")


def bytes_on(isa: tuple[str, ...], vector_bits: int) -> Arithmetic:
    """How bytes are multiplied and added with these CPU flags, in vectors of so many bits and narrower ones."""
    flags = set(isa)
    found = (dot for dot, most_bits, needed in DOTS if vector_bits <= most_bits and needed <= flags)
    return Arithmetic("int32", "uint8", next(found, ""))
