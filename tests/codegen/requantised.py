"""What kernels do to sums before they store them as bytes, in numpy's float32, operation by operation.

Code for CPUs that multiply and add in one instruction rounds once where others do twice: both are reckoned here.
"""

from __future__ import annotations

import json

import numpy as np

from hwsparse.plan import Layer
from hwsparse.target import Target

FLOAT = np.float32


def fuses(target: Target) -> bool:
    """Whether code for a target multiplies and adds in one: of those in tests such as name their CPU do."""
    return "mcpu" in json.loads(target.tvm_target)


def multiply_add(left: np.ndarray, right: np.ndarray, added: np.ndarray, fused: bool) -> np.ndarray:
    """left * right + added, float32: rounded once if `fused`, else after each.

    Once: the product is exact in float64; its sum is rounded to odd there (Boldo and Melquiond, Emulation of FMA and
    Correctly Rounded Sums: Proved Algorithms Using Rounding to Odd, IEEE Transactions on Computers 57, 2008), by the
    error that Knuth's two-sum tells, so that rounding it again to float32 is as if it had been exact.
    """
    if not fused:
        return np.asarray(left * right + added, FLOAT)
    product, other = left.astype(np.float64) * right.astype(np.float64), added.astype(np.float64)
    total = np.asarray(product + other)
    moved = total - product
    error = (product - (total - moved)) + (other - moved)
    even = total.view(np.int64) & 1 == 0
    odd = np.where((error != 0) & even, np.nextafter(total, np.copysign(np.inf, error)), total)
    return odd.astype(FLOAT)


def stored_bytes(values: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Of values that are in the output's bytes already: clipped as `terms` say, and the nearest of them."""
    return np.rint(np.minimum(np.maximum(values, terms[1]), terms[2])).astype(np.uint8)


def requantised(
    sums: np.ndarray,
    told: tuple[np.ndarray, np.ndarray, np.ndarray],
    added: np.ndarray | None,
    rows: tuple[int, ...],
    fused: bool,
) -> np.ndarray:
    """What becomes of whole sums that are made bytes at once.

    Args:
        sums: as kernels count them, before what `folding.folded` adds to them.
        told: scales, terms and biases, as `folding.folded` gives them.
        added: the residual, as it is given.
        rows: the shape in which scales and biases of rows lie along the output's.
    """
    scales, terms, biases = told
    values = multiply_add(sums.astype(FLOAT), scales.reshape(rows), biases.reshape(rows), fused)
    if added is not None:
        values = multiply_add(added.astype(FLOAT), terms[0], values, fused)
    return stored_bytes(values, terms)


def depthwise_sums(layer: Layer, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, fused: bool) -> np.ndarray:
    """What a depthwise kernel of floats sums, from the bias on, tap by tap: columns first, then rows of each.

    Args:
        weight: (rows, kernel's taps), as the kernel is given it.
    """
    window = layer.window
    assert window is not None
    one_axis = len(window.strides) == 1
    height, width = (1, *layer.weight_shape[2:])[-2:]
    strides, dilations = (1, *window.strides)[-2:], (1, *window.dilations)[-2:]
    pads = ((0, 0), *window.pads)[-2:]
    pictures = np.pad(x.reshape(*x.shape[:2], 1, -1) if one_axis else x, ((0, 0), (0, 0), *pads))
    pictures = np.repeat(pictures, layer.outputs // x.shape[1], axis=1)
    out = (layer.output_shape[0], layer.outputs, *(1, *layer.output_shape[2:])[-2:])
    total = np.broadcast_to(bias.reshape(1, -1, 1, 1), out).astype(FLOAT)
    for column in range(width):
        for row in range(height):
            down, right = row * dilations[0], column * dilations[1]
            seen = pictures[:, :, down:, right:][:, :, :: strides[0], :: strides[1]][:, :, : out[2], : out[3]]
            factor = weight[:, row * width + column].reshape(1, -1, 1, 1)
            total = multiply_add(seen, np.broadcast_to(factor, out), total, fused)
    return total.reshape(layer.output_shape)
