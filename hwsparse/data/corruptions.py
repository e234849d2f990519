"""Common corruptions: what a network meets outside of its data set, applied to samples before they become its input.

Of images after Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019: their constants for ImageNet-C, and for CIFAR-10-C where images are small
(github.com/hendrycks/robustness, make_imagenet_c.py and make_cifar_c.py). Of text: `typos.py`.

A sample is always corrupted the same way, whichever samples are read with it: chance depends on the seed and on the
sample alone, and not on the severity.

Knows neither files nor networks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from hwsparse.data.typos import typos
from hwsparse.errors import DataError

SEVERITIES = 5
# The middle one: what a single figure is of.
SEVERITY = 3
# Images whose short side is below this get the constants of CIFAR-10-C, which is 32 pixels wide; ImageNet-C is 224.
SMALL = 64

# (pixels (height, width, channels) from 0 to 1, severity, chance) -> the same, to be clipped
PixelCorruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
# (text, severity, chance) -> text
TextCorruption = Callable[[str, int, np.random.Generator], str]


@dataclass(frozen=True, slots=True)
class Corruption:
    """One corruption, how severe, and the seed of its chance."""

    name: str
    severity: int = SEVERITY  # 1 to 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in (*PIXELS, *TEXTS):
            raise DataError(f"corruption {self.name!r} is not one of {', '.join((*PIXELS, *TEXTS))}")
        if not 1 <= self.severity <= SEVERITIES:
            raise DataError(f"severity {self.severity} is not 1 to {SEVERITIES}")
        if self.seed < 0:
            raise DataError(f"seed: not negative, as {self.seed} is")

    def __str__(self) -> str:
        return f"{self.name} {self.severity}"

    def of_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """An image after the corruption: (height, width, channels) uint8.

        Raises:
            DataError: it is no corruption of images.
        """
        if self.name not in PIXELS:
            raise DataError(f"{self.name} is no corruption of images: {', '.join(PIXELS)} are")
        found = PIXELS[self.name](pixels / 255, self.severity, self._chance(pixels.tobytes()))
        return np.asarray(np.rint(found.clip(0, 1) * 255), np.uint8)

    def of_text(self, text: str) -> str:
        """A text after the corruption.

        Raises:
            DataError: it is no corruption of text.
        """
        if self.name not in TEXTS:
            raise DataError(f"{self.name} is no corruption of text: {', '.join(TEXTS)} are")
        return TEXTS[self.name](text, self.severity, self._chance(text.encode()))

    def _chance(self, sample: bytes) -> np.random.Generator:
        digest = hashlib.sha256(self.name.encode() + b"\0" + sample).digest()
        return np.random.default_rng([self.seed, int.from_bytes(digest[:8], "big")])


def gaussian_noise(pixels: np.ndarray, severity: int, chance: np.random.Generator) -> np.ndarray:
    """As in low light: noise of one deviation everywhere."""
    deviation = _constant(pixels, severity, (0.08, 0.12, 0.18, 0.26, 0.38), (0.04, 0.06, 0.08, 0.09, 0.10))
    return pixels + deviation * chance.standard_normal(pixels.shape)


def shot_noise(pixels: np.ndarray, severity: int, chance: np.random.Generator) -> np.ndarray:
    """As of light itself: so many photons, at most, make up a pixel."""
    photons = _constant(pixels, severity, (60, 25, 12, 5, 3), (500, 250, 100, 75, 50))
    return chance.poisson(pixels * photons) / photons


def gaussian_blur(pixels: np.ndarray, severity: int, chance: np.random.Generator) -> np.ndarray:
    """Each pixel becomes a mean of those around it; beyond its edge an image goes on as it ends."""
    deviation = _constant(pixels, severity, (1, 2, 3, 4, 6), (0.4, 0.6, 0.7, 0.8, 1))
    reach = int(4 * deviation + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        padded = np.pad(pixels, [(reach, reach) if each == axis else (0, 0) for each in range(3)], mode="edge")
        pixels = sliding_window_view(padded, kernel.size, axis) @ kernel
    return pixels


def contrast(pixels: np.ndarray, severity: int, chance: np.random.Generator) -> np.ndarray:
    """Everything comes nearer to the image's mean colour."""
    share = _constant(pixels, severity, (0.4, 0.3, 0.2, 0.1, 0.05), (0.75, 0.5, 0.4, 0.3, 0.15))
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    return np.asarray((pixels - mean) * share + mean)


def _constant(pixels: np.ndarray, severity: int, large: tuple[float, ...], small: tuple[float, ...]) -> float:
    """The published constant of a severity, for images of this size."""
    return (small if min(pixels.shape[:2]) < SMALL else large)[severity - 1]


PIXELS: dict[str, PixelCorruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "gaussian_blur": gaussian_blur,
    "contrast": contrast,
}
TEXTS: dict[str, TextCorruption] = {"typos": typos}
