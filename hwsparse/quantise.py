"""Floats as bytes and back: of weights, each row by a scale of its own, and of what a layer reads, by one for all.

Also floats as bfloat16, which are the upper halves of them, and as float16, which need no scale either.

    value = scale * (byte - zero)

Weights are signed bytes about zero, from -127 to 127; values unsigned ones, about any zero (Jacob et al., Quantization
and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018, section 2.1).

Knows arrays only: no layers, models or devices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hwsparse.errors import DataError

MOST_WEIGHT, MOST_VALUE = 127, 255
MOST_FLOAT16 = 65504.0


@dataclass(frozen=True, slots=True)
class Scale:
    """What a tensor's bytes stand for: scale * (byte - zero)."""

    scale: float
    zero: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0 and 0 <= self.zero <= MOST_VALUE):
            raise DataError(f"bytes cannot stand for values by the scale {self.scale} and the zero {self.zero}")

    @classmethod
    def of(cls, low: float, high: float) -> Scale:
        """That of values from `low` to `high`, and of 0, which is a byte too: padding is exact then.

        Raises:
            DataError: an end is not finite, or they are too far apart for float32.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        exact = (high - low) / MOST_VALUE
        if not exact <= float(np.finfo(np.float32).max):
            raise DataError(f"bytes cannot stand for values from {low} to {high}")
        step = np.float32(exact)
        if step < np.finfo(np.float32).tiny:  # where nothing but zeros was seen, any will do
            return cls(1.0, 0)
        return cls(float(step), min(max(round(-low / float(step)), 0), MOST_VALUE))

    @property
    def inverse(self) -> np.float32:
        """What values are multiplied by to become bytes: dividing them takes several times as long."""
        return np.float32(1 / self.scale)

    def bytes_of(self, values: np.ndarray) -> np.ndarray:
        """The nearest bytes, uint8; of values beyond all bytes the last ones."""
        moved = np.rint(values.astype(np.float32) * self.inverse) + self.zero
        return np.asarray(np.clip(moved, 0, MOST_VALUE).astype(np.uint8))


def weight_bytes(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A weight (rows, ...) as int8 of its shape, and each row's scale (rows,) float32; that of zeros alone is 1."""
    flat = weight.reshape(len(weight), -1).astype(np.float32)
    largest = np.abs(flat).max(axis=1, initial=0)
    scales = (largest / np.float32(MOST_WEIGHT)).astype(np.float32)
    scales = np.where(scales >= np.finfo(np.float32).tiny, scales, np.float32(1))
    rounded = np.clip(np.rint(flat / scales[:, None]), -MOST_WEIGHT, MOST_WEIGHT)
    return rounded.astype(np.int8).reshape(weight.shape), scales


def rounded(weight: np.ndarray, dtype: str = "int8") -> np.ndarray:
    """A weight as it is in a type: as its bytes stand for it, as float16 or bfloat16, or as it was.

    What is rounded already stays as it is, but for the last digit of what bytes stand for.
    """
    if dtype == "float16":
        return np.asarray(float16_of(weight).astype(np.float32))
    if dtype == "bfloat16":
        return (bfloat16_bits(weight).astype(np.uint32) << 16).view(np.float32)
    if dtype != "int8":
        return weight
    signed, scales = weight_bytes(weight)
    return np.asarray(signed * scales.reshape(-1, *[1] * (weight.ndim - 1)))


def is_rounded(weight: np.ndarray) -> bool:
    """Whether bytes stand for a weight as it is, but for the last digits."""
    return np.allclose(rounded(weight), weight, rtol=1e-5, atol=0)


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Finite float32 as the nearest bfloat16, of two the one whose last bit is 0: uint16 of their shape; of -0, 0."""
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)
    near = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.asarray(np.where(near == 0x8000, 0, near).astype(np.uint16))


def float16_of(values: np.ndarray) -> np.ndarray:
    """The nearest float16 of floats, of two the one whose last bit is 0; beyond the last of them it; of -0, 0."""
    within = np.clip(values.astype(np.float32) + np.float32(0), -MOST_FLOAT16, MOST_FLOAT16)
    near = within.astype(np.float16)
    return np.asarray(np.where(near == 0, np.float16(0), near))


def beyond(weight: np.ndarray, dtype: str) -> str | None:
    """Why a weight cannot be of a type, which does not reach as far; None: it can."""
    most = float(np.abs(weight).max(initial=0)) if dtype == "float16" else 0.0
    return f"a weight of {most:g} lies beyond {MOST_FLOAT16:g}, the last float16" if most > MOST_FLOAT16 else None


# No name in a model holds a zero character: `model.read` refuses such.
_RANGE = "\0range of "
# What says among weights in what type of floats a layer reads its inputs.
_READS = {dtype: f"\0{dtype} read by " for dtype in ("bfloat16", "float16")}


def range_name(tensor: str) -> str:
    """What the range of a tensor is called among weights: an array of its two ends, (2,) float32."""
    return _RANGE + tensor


def read_name(layer: str, dtype: str) -> str:
    """What says among weights that a layer reads bfloat16 or float16: the name of an array of no values."""
    return _READS[dtype] + layer


def without_reads(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights without what says which layers read bfloat16 or float16."""
    return {name: values for name, values in weights.items() if _read_by(name) is None}


def _read_by(name: str) -> tuple[str, str] | None:
    """Of a name that says what a layer reads: the layer, and the type."""
    found = (dtype for dtype, prefix in _READS.items() if name.startswith(prefix))
    dtype = next(found, None)
    return None if dtype is None else (name.removeprefix(_READS[dtype]), dtype)


class Split(NamedTuple):
    """Weights, what bytes stand for in tensors, by name, and by layer the type that it reads: bfloat16 or float16."""

    plain: dict[str, np.ndarray]
    scales: dict[str, Scale]
    reads: dict[str, str]

    @property
    def rounds(self) -> bool:
        """Whether a layer reads anything else than floats."""
        return bool(self.scales or self.reads)


def split_weights(weights: Mapping[str, np.ndarray]) -> Split:
    """Weights apart from what is said among them of what layers read.

    Raises:
        DataError: a range is not two numbers, or bytes cannot stand for it.
    """
    plain, scales, reads = {}, {}, {}
    for name, values in weights.items():
        if (read := _read_by(name)) is not None:
            reads[read[0]] = read[1]
        elif not name.startswith(_RANGE):
            plain[name] = values
        elif values.shape != (2,):
            tensor = name.removeprefix(_RANGE)
            raise DataError(
                f"range of {tensor!r}: an array of shape {values.shape}, and not of the two ends of a range"
            )
        else:
            scales[name.removeprefix(_RANGE)] = Scale.of(float(values[0]), float(values[1]))
    return Split(plain, scales, reads)
