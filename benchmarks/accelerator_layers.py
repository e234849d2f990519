"""Small machines and layers at random, for checks of the accelerator's models against its hardware description.

Buffers are small on purpose, so that layers are cut into sets, chunks and tiles. Knows no networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwsparse.accelerator import Accelerator, Geometry, Product
from hwsparse.accelerator.machine import HOST_BYTES
from hwsparse.pattern import NM, Block, Channel, Dense, Pattern, Unstructured
from hwsparse.plan import Choice, Window
from hwsparse.sparsify import make_mask

PATTERNS: Sequence[Pattern] = (
    Unstructured(), Unstructured(), Dense(), NM(2, 4), NM(1, 4, 2), NM(2, 8), Block(2), Block(4), Block(2, 4),
    Block(1, 4), Channel(2),
)  # fmt: skip
RATIOS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A layer and inputs for it."""

    product: Product
    inputs: np.ndarray
    choice: Choice


def draw_machine(random: np.random.Generator, dtype: str = "int8") -> Accelerator:
    """A machine of some elements, with conflicts or without, for which a dozen channels are many."""
    rows = int(random.choice([2, 4, 8]))
    copies = int(random.choice([size for size in (1, 2, 4, 8) if rows % size == 0]))
    columns, lanes = int(random.integers(1, 3)), int(random.integers(1, 3))
    accumulators, run_bits = int(random.integers(1, 4)), int(random.integers(2, 5))
    size, tile = {"int8": 1, "float16": 2, "float32": 4}[dtype], columns * lanes
    row_words, chunk = int(random.integers(20, 60)), int(random.integers(18, 60))
    return Accelerator(
        clock_hz=2e8,
        dtype=dtype,
        rows=rows,
        columns=columns,
        lanes=lanes,
        accumulators=accumulators,
        run_bits=run_bits,
        distributor=str(random.choice(["static", "balanced"])),
        input_banks=int(random.choice([1, 2, 4, 8])),
        input_copies=copies,
        weights_bytes=-(-2 * rows * (8 * size + run_bits + 1) * row_words // 8),
        inputs_bytes=2 * copies * tile * size * chunk,
        outputs_bytes=2 * rows * tile * max(HOST_BYTES, size * int(random.integers(1, accumulators + 1))),
        dram_bytes_per_cycle=float(random.choice([0.5, 1.7, 4.0, 32.0])),
        dram_latency_cycles=int(random.integers(0, 40)),
        vector_lanes=int(random.integers(1, 5)),
    )


def draw_layer(random: np.random.Generator, dtype: str = "int8", *, most_size: int = 5) -> Drawn:
    """A convolution or a product of some channels, in some pattern, at some ratio of zeros."""
    pattern = PATTERNS[int(random.integers(len(PATTERNS)))]
    channels, outputs = 8 * int(random.integers(1, 3)), int(random.integers(4, 25))
    if isinstance(pattern, Dense | Unstructured | Channel):
        channels -= int(random.integers(0, 8))
    kernel = tuple(int(random.choice([1, 1, 2, 3])) for _ in range(2))
    sizes = tuple(int(random.integers(kern, most_size + 1)) for kern in kernel)
    window = Window(
        tuple(int(random.integers(1, 3)) for _ in range(2)),
        tuple((int(random.integers(0, kern)), int(random.integers(0, kern))) for kern in kernel),
        (1, 1),
    )
    match pattern:
        case Dense():
            ratio = 0.0
        case NM():
            ratio = pattern.ratio
        case _:
            ratio = float(random.choice(RATIOS))
    choice = Choice(pattern, ratio, dtype)
    shape = (outputs, channels, *kernel)
    mask = make_mask(random.random(shape), choice)
    weight, inputs = _draw(random, shape, dtype), _draw(random, (1, channels, *sizes), dtype)
    flat, kept = (np.ascontiguousarray(np.moveaxis(each, 1, -1).reshape(outputs, -1)) for each in (weight, mask))
    geometry = Geometry(1, channels, sizes, kernel, window)
    sizes = weight.itemsize, HOST_BYTES
    residual_bytes = int(random.integers(2)) and int(random.choice(sizes))
    pad = int(random.integers(-128, 128)) if dtype == "int8" else 0
    product = Product("drawn", flat, kept, geometry, pattern, int(random.choice(sizes)), residual_bytes, pad)
    return Drawn(product, inputs, choice)


def _draw(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == "int8":
        return random.integers(-128, 128, shape).astype(np.int8)
    return random.standard_normal(shape).astype(dtype)


def reference_sums(product: Product, inputs: np.ndarray) -> np.ndarray:
    """(outputs, positions) in numpy's int64 or float64, by the weights and their mask."""
    wide = np.int64 if inputs.dtype == np.int8 else np.float64
    kept = np.where(product.mask, product.weight, 0).astype(wide)
    found: np.ndarray = kept @ product.geometry.columns(inputs, product.pad).astype(wide)
    return found
