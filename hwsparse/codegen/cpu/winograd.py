"""Dense convolution with fewer multiplications: Winograd's minimal filtering.

F(m x m, r x r), as in Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308: m * m
outputs of an r x r kernel g over a t x t patch d of the input, t = m + r - 1, cost t * t multiplications,

    outputs = A' [ sum over channels of (G g G') * (B' d B) ] A

instead of m * m * r * r; patches lie m apart. A convolution of stride s is one of stride 1 over the s * s phases of
the input as channels of their own, with ceil(k / s) taps.

The t * t places of a transformed patch are products of their own: (rows, channels) by (channels, patches), over a panel
of transformed patches, with the micro-kernel and lists of the shared-index kernel. Input lines are cut into phases
by what lies between two patches, so that vectors run along patches.

Here is the arithmetic; `winograd_kernel` has the kernel.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.polynomial import polynomial

from hwsparse.codegen.cpu.geometry import FLOAT_BYTES, Geometry, Tiling, choose_variant, offset_type, tiling_of
from hwsparse.codegen.cpu.packing import pack_rows
from hwsparse.target import Target

# Of the kernels' names.
PREFIX = "winograd_"
# Rows of a micro-kernel.
SHARED = 4
# Where polynomials of so many coefficients are evaluated, besides at infinity: of the small numbers tried, those that
# round off least. (Of 5 coefficients, as in F(4 x 4, 2 x 2) over the phases of a 3 x 3 kernel of stride 2, too little
# is saved.)
POINTS = {4: (0, 1, -1), 6: (0, 1, -1, 0.5, -2), 7: (0, 1, -1, 2, -2, 0.5)}

# Measured on Zen 4: how many times fewer multiplications pay for the transformations, and how many times as large as L2
# the transformed weights may be.
LEAST_SAVING = 1.5
MOST_WEIGHTS = 8


@dataclass(frozen=True, slots=True)
class Scheme:
    """F(outputs x outputs, taps x taps) over the phases of a strided convolution."""

    outputs: int
    taps: int
    stride: int

    def __str__(self) -> str:
        return f"{PREFIX}f{self.outputs}x{self.taps}"

    @property
    def side(self) -> int:
        """Of a patch."""
        return self.outputs + self.taps - 1

    @property
    def step(self) -> int:
        """Input pixels from one patch to the next."""
        return self.outputs * self.stride

    def patches(self, geometry: Geometry) -> tuple[int, int]:
        """How many there are in height and width."""
        return -(-geometry.out_h // self.outputs), -(-geometry.out_w // self.outputs)

    def channels(self, geometry: Geometry) -> int:
        """Of the input, each phase counted."""
        return geometry.channels * self.stride**2


def schemes(geometry: Geometry, target: Target) -> tuple[Scheme, ...]:
    """Those that compute the layer with clearly fewer multiplications and patches enough to fill a vector."""
    g = geometry
    if g.tokens or g.groups > 1 or (g.dilation_h, g.dilation_w) != (1, 1):
        return ()
    if (g.kernel_h, g.stride_h) != (g.kernel_w, g.stride_w):
        return ()
    found = (Scheme(outputs, -(-g.kernel_h // g.stride_h), g.stride_h) for outputs in (4, 2))
    return tuple(
        scheme
        for scheme in found
        if scheme.side in POINTS
        and (scheme.outputs * g.kernel_h) ** 2 >= LEAST_SAVING * (scheme.side * g.stride_h) ** 2
        and math.prod(scheme.patches(g)) >= target.vector_bits // 32
    )


def pays(geometry: Geometry, scheme: Scheme, target: Target) -> bool:
    """Whether the scheme is likely to be faster than the direct product: its weights, which are larger, are near."""
    weights = scheme.side**2 * scheme.channels(geometry) * geometry.rows
    return weights * FLOAT_BYTES <= MOST_WEIGHTS * target.l2_bytes


@functools.cache
def matrices(scheme: Scheme) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A', G and B', by Toom and Cook's construction from the points and infinity.

    A product of polynomials is interpolated from its values at the points; a correlation is the transpose of that.
    """
    m, r, t = scheme.outputs, scheme.taps, scheme.side
    points = POINTS[t]
    outputs, kernel, patch = np.zeros((m, t)), np.zeros((t, r)), np.zeros((t, t))
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        outputs[:, i] = float(point) ** np.arange(m)
        kernel[i] = float(point) ** np.arange(r) / np.prod([point - other for other in others])
        patch[i, :-1] = polynomial.polyfromroots(others)
    outputs[-1, -1] = kernel[-1, -1] = 1
    patch[-1] = polynomial.polyfromroots(points)
    return outputs, kernel, patch


def tiling_for(geometry: Geometry, scheme: Scheme, target: Target) -> Tiling:
    """The tiling of patches instead of positions; sums of all places of a few rows stay in L1."""
    height, width = scheme.patches(geometry)
    patches = replace(geometry, out_h=height, out_w=width, kernel_h=1, kernel_w=1)
    vector_bytes = scheme.side**2 * SHARED * target.vector_bits // 8
    variant = choose_variant(patches, SHARED, target, max(1, target.l1d_bytes // vector_bytes))
    return tiling_of(patches, SHARED, variant, target)


def pack_transformed(weight: np.ndarray, geometry: Geometry, scheme: Scheme, tiling: Tiling) -> tuple[np.ndarray, ...]:
    """The lists over transformed kernels, place by place; `weight` is (rows, channels, k, k) float32."""
    rows, channels, k, _ = weight.shape
    s, r = scheme.stride, scheme.taps
    room = s * r - k
    phases = np.pad(weight.astype(np.float64), ((0, 0), (0, 0), (0, room), (0, room)))
    phases = phases.reshape(rows, channels, r, s, r, s).transpose(0, 1, 3, 5, 2, 4).reshape(rows, -1, r, r)
    _, kernel, _ = matrices(scheme)
    transformed = np.einsum("ia,rcab,jb->rijc", kernel, phases, kernel)
    columns = np.arange(scheme.side**2 * phases.shape[1])
    flat = replace(geometry, channels=len(columns), kernel_h=1, kernel_w=1)
    offsets = columns * panel_pitch(tiling)
    return pack_rows(
        transformed.astype(np.float32),
        flat,
        SHARED,
        tiling.chunks,
        phases.shape[1],
        offsets.astype(offset_type(len(columns) * panel_pitch(tiling))),
    ).arrays()


def panel_pitch(tiling: Tiling) -> int:
    """Floats of a panel line: a tile, and what is written past its end."""
    return tiling.panel.pitch + tiling.lanes
