"""Weights as words of four signed bytes each, or of two bfloat16, as the kernels that read such words want them.

Knows nothing of TVM; arrays in, arrays out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwsparse.codegen.cpu.geometry import Geometry
from hwsparse.errors import CompileError
from hwsparse.quantise import MOST_VALUE, MOST_WEIGHT
from hwsparse.target import Target

WORD = 4  # bytes
# Of so many inputs the sums of a row fit int32 whatever weights, values and zero are: see `offsets_of`.
MOST_INPUTS = np.iinfo(np.int32).max // (2 * MOST_WEIGHT * MOST_VALUE)
# Of so many, float32 holds every sum exactly, and what it is moved by.
MOST_TAPS = 2**24 // (2 * MOST_WEIGHT * MOST_VALUE)
# Inputs that make a word, by the type of weights.
INPUTS_OF_WORD = {"float32": 1, "float16": 1, "bfloat16": 2, "int8": 4}


def geometry_of_words(geometry: Geometry, dtype: str) -> Geometry:
    """The geometry whose channels are words of a layer's."""
    each = INPUTS_OF_WORD[dtype]
    return replace(geometry, channels=geometry.groups * -(-geometry.channels // geometry.groups // each))


def target_of_words(target: Target, dtype: str) -> Target:
    """A target as kernels see it, which lay their tiles out in vectors of floats: it holds twice as many float16."""
    if dtype != "float16":
        return target
    return replace(target, vector_bits=min(2 * target.vector_bits, 512), l1d_bytes=2 * target.l1d_bytes)


def words_of(weight: np.ndarray) -> np.ndarray:
    """Numbers (rows, inputs, *kernel) of 1 or 2 bytes as words of n = 4 or 2 inputs: (rows, inputs / n, *kernel) int32.

    Where inputs are no multiple of that, those that are not there weigh nothing.
    """
    each = WORD // weight.itemsize
    padded = np.pad(weight, [(0, 0), (0, -weight.shape[1] % each), *[(0, 0)] * (weight.ndim - 2)])
    split = padded.reshape(len(weight), -1, each, *weight.shape[2:])
    return np.asarray(np.ascontiguousarray(np.moveaxis(split, 2, -1)).view(np.int32)[..., 0])


def halves_of(words: np.ndarray) -> np.ndarray:
    """Words (entries, rows) as two each, of two numbers of 16 bits: (entries, 2 * rows) int32.

    First those of the even bytes of each row's word, then those of its odd ones.
    """
    split = words.view(np.int8).reshape(*words.shape, WORD).astype(np.int16)
    halves = np.concatenate([split[..., 0::2], split[..., 1::2]], axis=1)
    return np.asarray(halves.view(np.int32)[..., 0])


def offsets_of(weight: np.ndarray, zero: int) -> np.ndarray:
    """What is to be added to the sums of each row, for values' bytes to count from `zero`: (rows,) int32.

    Args:
        weight: signed bytes, canonical.

    Raises:
        CompileError: a sum may leave int32, whatever values are.
    """
    flat = weight.reshape(len(weight), -1).astype(np.int64)
    offsets = -zero * flat.sum(axis=1)
    largest = np.abs(flat).sum(axis=1) * MOST_VALUE + np.abs(offsets)
    if largest.max(initial=0) > np.iinfo(np.int32).max:
        raise CompileError(f"int8: sums of {flat.shape[1]} products of bytes may not fit int32; choose float32 instead")
    return np.asarray(offsets.astype(np.int32))
