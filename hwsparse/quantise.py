"""Floats as bytes and back: of weights, each row by a scale of its own, and of what a layer reads, by one for all.

    value = scale * (byte - zero)

Weights are signed bytes about zero, from -127 to 127; values unsigned ones, about any zero (Jacob et al., Quantization
and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018, section 2.1).

Knows arrays only: no layers, models or devices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hwsparse.errors import DataError

MOST_WEIGHT, MOST_VALUE = 127, 255


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


def rounded(weight: np.ndarray) -> np.ndarray:
    """A weight as its bytes stand for it; what is rounded already stays as it is, but for the last digit."""
    signed, scales = weight_bytes(weight)
    return np.asarray(signed * scales.reshape(-1, *[1] * (weight.ndim - 1)))


def is_rounded(weight: np.ndarray) -> bool:
    """Whether bytes stand for a weight as it is, but for the last digits."""
    return np.allclose(rounded(weight), weight, rtol=1e-5, atol=0)


_RANGE = "range of "


def range_name(tensor: str) -> str:
    """What the range of a tensor is called among weights: an array of its two ends, (2,) float32."""
    return _RANGE + tensor


def split_ranges(weights: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, Scale]]:
    """Weights without ranges, and what bytes stand for in the tensors that have one, by name.

    Raises:
        DataError: a range is not two numbers, or bytes cannot stand for it.
    """
    plain, scales = {}, {}
    for name, values in weights.items():
        if not name.startswith(_RANGE):
            plain[name] = values
        elif values.shape != (2,):
            raise DataError(f"{name}: an array of shape {values.shape}, and not of the two ends of a range")
        else:
            scales[name.removeprefix(_RANGE)] = Scale.of(float(values[0]), float(values[1]))
    return plain, scales
