"""What kernels of bytes are given beside their weights: scales, bias and bounds, as few numbers as they can be.

    value = (sum + offset) * scale + bias - residual.scale * residual.zero + residual.scale * byte
    byte  = value / output.scale + output.zero, within bounds

Where sums become bytes at once, all of that is one scale and one bias for each row.

Knows nothing of TVM; arrays in, arrays out.
"""

from __future__ import annotations

import numpy as np

from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.quantise import MOST_VALUE, Scale


def folded(
    epilogue: Epilogue,
    offset: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    added: Scale | None,
    stored: Scale | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scales (rows,), terms (3,) and biases (rows,), float32, as `Ends` has them.

    Args:
        offset: what sums of each row are to be moved by, int32; `scale` what they are multiplied by then.
        added: of the residual's bytes, if it is bytes; `stored` of the output's.
    """
    wide, moved = scale.astype(np.float64), bias.astype(np.float64)
    factor = 1.0
    if added is not None:
        factor = added.scale
        moved = moved - added.scale * added.zero
    if stored is None:
        terms = [factor, 0.0, 0.0]
    elif epilogue.at_once:
        inverse = float(stored.inverse)
        moved = (moved + offset * wide) * inverse + stored.zero
        wide = wide * inverse
        bounds = (bound * inverse + stored.zero for bound in (epilogue.low, epilogue.high))
        low, high = (min(max(bound, 0.0), float(MOST_VALUE)) for bound in bounds)
        terms = [factor * inverse, low, high]
    else:
        terms = [factor, float(stored.inverse), float(stored.zero)]
    return wide.astype(np.float32), np.array(terms, np.float32), moved.astype(np.float32)


def folded_floats(
    epilogue: Epilogue, weight: np.ndarray, bias: np.ndarray, stored: Scale
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (rows, inputs), terms (3,) and biases (rows,) of a kernel that sums floats, and stores them as bytes."""
    rows = len(weight)
    scales, terms, moved = folded(epilogue, np.zeros(rows, np.int32), np.ones(rows, np.float32), bias, None, stored)
    return weight * scales[:, None], terms, moved
