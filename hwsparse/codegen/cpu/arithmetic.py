"""What the kernels over packed row groups multiply and add: floats, float16, or words of two bfloat16 or four bytes.

    floats   sum += weight * value, in float32
    halves   sum += weight * value, in float16, over runs of entries, whose sums are then added to others in float32;
             values are rounded to it as they are copied
    pairs    sum += w0 * v0 + w1 * v1, in float32, of bfloat16; values are rounded to it as they are copied
    bytes    sum += w0 * v0 + w1 * v1 + w2 * v2 + w3 * v3, in int32, of signed weights and unsigned values

The inputs of a word are at one kernel position, so that a layer of words is one of floats with half or a fourth of the
channels: what copies floats copies words. Sums of bytes are exact, whatever multiplies them:

    vpdpbusd   x86 with AVX-512 VNNI or AVX-VNNI: all of it at once
    vpmaddwd   x86 with AVX2: sums of two products of 16 bits, once of a word's even bytes and once of its odd ones.
               Values are taken apart once for all rows that share them, weights when they are packed.
    usdot      Arm with i8mm: all of it at once
    sdot       Arm with dotprod: of signed bytes, which values become as they are copied: they count 128 less

vpmaddubsw multiplies bytes as they are, but cuts sums of two products off at 16 bits. Weights that may pass that could
be halved and listed twice; of the blocks that pruning leaves a third to a half would have to be.

Halves are multiplied twice as fast as floats by Arm's instructions for them (FEAT_FP16). Summed in float16 throughout,
as mobile runtimes do, sums lose the more the longer they are: of 576 inputs 0.3 % of what they are in the mean, of 4608
1 %. Of runs of 64 it is 0.12 % however many there are (0.08 % of 32, 0.16 % of 128), where rounding what is multiplied
makes 0.03 %. To add a run to the others is two conversions and two additions for each vector of sums, four to eight
times what a multiply-add takes: of 64 a sixteenth to an eighth of the time, of 32 twice that. Sums in float32
throughout (FMLAL) are no faster than floats. A run whose sum passes 65504 is infinite; what layers read ends there.

Pairs are rounded and multiplied by AVX-512's instructions for bfloat16, to which numbers below 2**-126 are zeros, or
else as floats, which is slower than floats are. TVM takes bfloat16 for 16-bit integers, which LLVM's intrinsics are not
of: so they are called from LLVM's own language, in functions that the kernel's module takes in.

Knows nothing of layers, nor of what bytes stand for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.words import INPUTS_OF_WORD, WORD
from hwsparse.quantise import MOST_FLOAT16

# What multiplies and adds words of bytes, the best first: in vectors of how many bits at most, with which CPU flags.
DOTS = (
    ("vpdpbusd", 512, frozenset({"avx512_vnni", "avx512vl"})),
    ("vpdpbusd", 256, frozenset({"avx_vnni"})),
    ("vpmaddwd", 512, frozenset({"avx512bw"})),
    ("vpmaddwd", 256, frozenset({"avx2"})),
    ("usdot", 128, frozenset({"i8mm"})),
    ("sdot", 128, frozenset({"asimddp"})),
)
# Entries of a run of float16, and how far off sums of runs are, of their root mean square, if each step of a walk is
# off by a half of the last place or less; in the mean it is three quarters of that.
RUN = 64
RUN_ERROR = 2.0**-11 * math.sqrt(RUN / 6)
# Multiply-adds whose weight is any lane of a vector, at no cost: Arm's, of floats and of words of bytes.
BY_LANE, BY_LANE_DOTS, WEIGHT_LANES = "asimd", frozenset({"usdot", "sdot"}), 4
BFLOAT16 = frozenset({"avx512_bf16", "avx512vl"})
# Lanes of vectors that there are instructions for.
_WIDTHS = (4, 8, 16)
_PAIRS = """
declare <{n} x float> @llvm.x86.avx512bf16.dpbf16ps.{bits}(<{n} x float>, <{m} x bfloat>, <{m} x bfloat>)
define linkonce_odr <{n} x float> @hwsparse_add_pairs_{n}(<{n} x float> %sum, <{n} x i32> %a, <{n} x i32> %b) {{
  %x = bitcast <{n} x i32> %a to <{m} x bfloat>
  %y = bitcast <{n} x i32> %b to <{m} x bfloat>
  %r = call <{n} x float> @llvm.x86.avx512bf16.dpbf16ps.{bits}(<{n} x float> %sum, <{m} x bfloat> %x, <{m} x bfloat> %y)
  ret <{n} x float> %r
}}
define linkonce_odr <{n} x i32> @hwsparse_bfloat16_{n}(<{n} x float> %a) {{
  %x = fptrunc <{n} x float> %a to <{n} x bfloat>
  %y = bitcast <{n} x bfloat> %x to <{n} x i16>
  %r = zext <{n} x i16> %y to <{n} x i32>
  ret <{n} x i32> %r
}}
"""
_VPMADDWD = {128: "llvm.x86.sse2.pmadd.wd", 256: "llvm.x86.avx2.pmadd.wd", 512: "llvm.x86.avx512.pmaddw.d.512"}


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How weights and values of a type are multiplied and summed up.

    `of` is the type of weights as choices have it, `dot` names the instruction, which may take weights from lanes of a
    vector of them.
    """

    of: str
    dot: str = ""
    by_lane: bool = False

    @property
    def is_bytes(self) -> bool:
        return self.of == "int8"

    @property
    def dtype(self) -> str:
        """That of panels and weights."""
        return self.of if self.of in ("float32", "float16") else "int32"

    @property
    def summed(self) -> str:
        """That of sums."""
        return "int32" if self.is_bytes else "float32"

    @property
    def narrower(self) -> int:
        """How many of `dtype` take the room of one of `summed`."""
        return 2 if self.of == "float16" else 1

    @property
    def run(self) -> int:
        """Entries that are summed in `dtype` before they are added to the sums; 0: all are, in that of sums."""
        return RUN if self.of == "float16" else 0

    @property
    def source(self) -> str:
        """That of what layers read."""
        return "uint8" if self.is_bytes else "float32"

    @property
    def rounds(self) -> bool:
        """Whether what layers read is rounded on the way to words; of bytes it is words as it lies."""
        return self.of in ("float16", "bfloat16")

    @property
    def inputs_of_word(self) -> int:
        return INPUTS_OF_WORD[self.of]

    @property
    def code(self) -> str:
        """Functions in LLVM's language that kernels need."""
        if self.dot != "vdpbf16ps":
            return ""
        return "".join(_PAIRS.format(n=lanes, m=2 * lanes, bits=32 * lanes) for lanes in _WIDTHS)

    @property
    def parts(self) -> int:
        """Words that each word of weights is packed as: two are its halves, as `halves_of` has them."""
        return 2 if self.dot == "vpmaddwd" else 1

    @property
    def less(self) -> int:
        """By how much less than they are values count in sums."""
        return 128 if self.dot == "sdot" else 0

    def entries_together(self, shared_rows: int) -> int:
        """Entries of lists whose weights fill whole vectors that they are taken from; none if they are not."""
        return WEIGHT_LANES // math.gcd(WEIGHT_LANES, shared_rows) if self.by_lane else 0

    @property
    def zero(self) -> Any:
        """Of sums."""
        return tirx.const(0, self.summed)

    def multiply_add(self, total: Any, weights: Sequence[Any], values: Any, lanes: int) -> Any:
        """The new sums, of vectors; of weights there are as many as `parts`, values are as `multiplied` gives them."""
        if self.of == "float32":
            return total + weights[0] * values
        if self.of == "float16":
            return T.call_llvm_pure_intrin(_of("float16", lanes), "llvm.fma", values, weights[0], total)
        bits = 32 * lanes
        match self.dot:
            case "vdpbf16ps":
                return T.call_pure_extern(f"float32x{lanes}", f"hwsparse_add_pairs_{lanes}", total, values, weights[0])
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
                return _dot("llvm.aarch64.neon.sdot.v4i32.v16i8", total, values, weights[0], lanes)
        if not self.is_bytes:
            for left, right in zip(_floats(values, lanes), _floats(weights[0], lanes), strict=True):
                total = total + left * right
            return total
        for byte in range(WORD):
            value = (values >> T.Broadcast(T.int32(8 * byte), lanes)) & T.Broadcast(T.int32(255), lanes)
            # A signed byte: up to the top, and down again.
            raised = weights[0] << T.Broadcast(T.int32(24 - 8 * byte), lanes)
            total = total + value * (raised >> T.Broadcast(T.int32(24), lanes))
        return total

    def word_of(self, parts: Sequence[Any], lanes: int) -> Any:
        """Words of inputs as they are `multiplied`, in vectors of `lanes`: the first of each, the second, and so on."""
        if self.of == "float16":
            return _float16(parts[0], lanes)
        if self.is_bytes:
            parts = [tirx.Cast(_of("int32", lanes), part) for part in parts]
        elif self.dot == "vdpbf16ps" and lanes in _WIDTHS:
            name, words = f"hwsparse_bfloat16_{lanes}", f"int32x{lanes}"
            parts = [T.call_pure_extern(words, name, part) for part in parts]
        else:
            parts = [_bfloat16(part, lanes) for part in parts]
        bits = 32 // len(parts)
        shifted = [part << _whole(bits * at, lanes) for at, part in enumerate(parts)]
        while len(shifted) > 1:
            shifted = [shifted[at] | shifted[at + 1] for at in range(0, len(shifted), 2)]
        return self.multiplied(shifted[0], lanes)

    def multiplied(self, words: Any, lanes: int) -> Any:
        """Words of what is read, as they are multiplied: each byte by `less` less than it is."""
        return words ^ _whole(-0x7F7F7F80, lanes) if self.less else words  # 0x80808080: every highest bit


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


def _floats(words: Any, lanes: int) -> tuple[Any, Any]:
    """The two bfloat16 of words, as floats."""
    bits = words << _whole(16, lanes), words & _whole(-0x10000, lanes)
    return T.reinterpret(_of("float32", lanes), bits[0]), T.reinterpret(_of("float32", lanes), bits[1])


def _float16(values: Any, lanes: int) -> Any:
    """The nearest float16 of floats; beyond the last of them, it; of what is no number, none."""
    dtype, most = _of("float32", lanes), tirx.const(MOST_FLOAT16, "float32")
    most = T.Broadcast(most, lanes) if lanes > 1 else most
    below = T.call_llvm_pure_intrin(dtype, "llvm.minimum", values, most)
    return tirx.Cast(_of("float16", lanes), T.call_llvm_pure_intrin(dtype, "llvm.maximum", below, -most))


def _bfloat16(values: Any, lanes: int) -> Any:
    """The nearest bfloat16 of floats, of two the one whose last bit is 0, as integers."""
    bits = T.reinterpret(_of("int32", lanes), values)
    near = bits + _whole(0x7FFF, lanes) + ((bits >> _whole(16, lanes)) & _whole(1, lanes))
    # What is no number stays none: rounded up, its bits might be a number's. (TVM takes a value to equal itself.)
    is_number = (bits & _whole(0x7FFFFFFF, lanes)) <= _whole(0x7F800000, lanes)
    kept = tirx.Select(is_number, near, bits | _whole(1 << 22, lanes))
    return (kept >> _whole(16, lanes)) & _whole(0xFFFF, lanes)


def _whole(number: int, lanes: int) -> Any:
    return T.Broadcast(T.int32(number), lanes) if lanes > 1 else T.int32(number)


def _of(dtype: str, lanes: int) -> str:
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


FLOATS = Arithmetic("float32")


def arithmetic_on(of: str, isa: tuple[str, ...], vector_bits: int) -> Arithmetic:
    """How weights of a type are multiplied with these CPU flags, in vectors of so many bits and narrower ones."""
    flags = set(isa)
    if of == "float16":
        return Arithmetic(of)
    if of == "bfloat16":
        return Arithmetic(of, "vdpbf16ps" if flags >= BFLOAT16 else "")
    if of == "int8":
        found = next((dot for dot, most_bits, needed in DOTS if vector_bits <= most_bits and needed <= flags), "")
        return Arithmetic(of, found, found in BY_LANE_DOTS)
    return Arithmetic(of, by_lane=BY_LANE in flags)
