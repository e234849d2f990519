"""The core model's figures, fitted to published times, and how far off it is where it was not fitted.

Least squares of the logarithms of times, in which a runtime's times on a device weigh like the root of their number.
How good a runtime's kernels are is a factor of its own, drawn to one: what is left to the core model is what runtimes
have in common. Knows no target and no layer of ours.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hwsparse.errors import MeasureError
from hwsparse.latency.core_model import Batch, Coefficients, seconds
from hwsparse.latency.learned import conformal
from hwsparse.latency.reference import Sample, chip_of, convolutions, family_of, networks

# Where the search for figures begins: four instructions around a load, ten around a multiply-add of other kinds, memory
# as its bandwidth says, ten microseconds for a call, a tenth lost to each further thread.
START = Coefficients(4.0, 10.0, 4.0, 1.0, 1e-5, 0.1)
# How strongly a runtime's factor, as a logarithm, is drawn to none: as a sample is that is off as far, times this.
TOWARDS_NONE = 0.3


@dataclass(frozen=True, slots=True)
class Fit:
    """Figures, and the factor by which each runtime that was seen is slower than they say."""

    coefficients: Coefficients
    runtimes: Mapping[str, float]

    def predict(self, samples: Sequence[Sample], *, anonymous: bool = False) -> np.ndarray:
        """(samples,): seconds; `anonymous`: as if by a runtime that was never seen."""
        batch, owner = _batch(samples)
        factors = np.array([1.0 if anonymous else self.runtimes.get(each.runtime, 1.0) for each in samples])
        return np.asarray(_sums(batch, owner, len(samples), self.coefficients) * factors)


def fit(samples: Sequence[Sample]) -> Fit:
    """Fits figures to published times.

    Raises:
        MeasureError: there are none.
    """
    from scipy.optimize import least_squares  # takes a while to import

    if not samples:
        raise MeasureError("there are no published times to fit to")
    batch, owner = _batch(samples)
    runtimes = sorted({each.runtime for each in samples})
    of = np.array([runtimes.index(each.runtime) for each in samples])
    groups = Counter((each.runtime, each.device) for each in samples)
    weights = np.array([groups[each.runtime, each.device] ** -0.5 for each in samples])
    taken = np.log([each.seconds for each in samples])

    def off(figures: np.ndarray) -> np.ndarray:
        factors = figures[_COUNT:]
        predicted = np.log(_sums(batch, owner, len(samples), _coefficients(figures))) + factors[of]
        return np.concatenate([(predicted - taken) * weights, TOWARDS_NONE * factors])

    found = least_squares(off, np.concatenate([_START, np.zeros(len(runtimes))]), bounds=(-30, 10)).x
    factors = dict(zip(runtimes, np.exp(found[_COUNT:]), strict=True))
    return Fit(_coefficients(found), {name: float(factor) for name, factor in factors.items()})


def left_out(samples: Sequence[Sample], group: Callable[[Sample], object], *, anonymous: bool = False) -> np.ndarray:
    """(samples,): what each is predicted to take by a fit to those of other groups.

    Raises:
        MeasureError: all are of one group.
    """
    predicted = np.zeros(len(samples))
    for name in dict.fromkeys(map(group, samples)):
        own = [at for at, each in enumerate(samples) if group(each) == name]
        others = [each for each in samples if group(each) != name]
        predicted[own] = fit(others).predict([samples[at] for at in own], anonymous=anonymous)
    return predicted


@dataclass(frozen=True, slots=True)
class Widths:
    """By which factor, as a logarithm, the truth may lie to either side, in nine cases of ten."""

    dense: float
    sparse: float
    gain: float  # of a sparse layer's time to the dense one's, on one device with one runtime


@lru_cache(maxsize=1)
def published() -> tuple[Fit, Widths]:
    """The fit to all published float32 times, and what it is off on devices, by runtimes and of networks left out.

    Raises:
        InputError: a table is missing or malformed.
    """
    samples = [each for each in (*convolutions(), *networks()) if each.dtype == "float32"]
    dense, sparse = ([each for each in samples if (each.sparsity > 0) == wanted] for wanted in (False, True))
    # Of single layers there are times of several devices, of sparse ones those of networks on one: from device to
    # device they are taken to be off as dense layers are, and beside that as from network to network.
    predicted = left_out(dense, chip_of, anonymous=True)
    by_device: dict[object, list[float]] = {}
    for each, told_s in zip(dense, predicted, strict=True):
        if len(each.counts) > 1:
            continue  # in a network layers that are off either way make up for each other
        by_device.setdefault((each.runtime, each.device), []).append(abs(math.log(each.seconds / told_s)))
    of_dense = conformal(list(by_device.values()))
    told = _sparse_left_out(samples, sparse)
    gain = conformal([[abs(math.log(each.seconds / told_s))] for each, told_s in zip(sparse, told, strict=True)])
    return fit(samples), Widths(of_dense, math.hypot(of_dense, gain), gain)


def _sparse_left_out(samples: Sequence[Sample], sparse: Sequence[Sample]) -> np.ndarray:
    """(sparse,): sparse networks as predicted from all others, one family of them after the other left out."""
    found = {}
    for family in dict.fromkeys(map(family_of, sparse)):
        own = [each for each in sparse if family_of(each) == family]
        told = fit([each for each in samples if each not in own]).predict(own)
        found.update({id(each): told_s for each, told_s in zip(own, told, strict=True)})
    return np.array([found[id(each)] for each in sparse])


_FIELDS = ("load_slots", "depthwise_slots", "winograd_slots", "memory", "call_s", "thread_loss")
_START = np.log([getattr(START, name) for name in _FIELDS])
_COUNT = len(_FIELDS)


def _coefficients(figures: np.ndarray) -> Coefficients:
    return Coefficients(*map(float, np.exp(figures[:_COUNT])))


def _batch(samples: Sequence[Sample]) -> tuple[Batch, np.ndarray]:
    """All layers of all samples, and which sample each is of."""
    asked = [(counts, each.place) for each in samples for counts in each.counts]
    return Batch.of(asked), np.repeat(np.arange(len(samples)), [len(each.counts) for each in samples])


def _sums(batch: Batch, owner: np.ndarray, count: int, known: Coefficients) -> np.ndarray:
    return np.bincount(owner, seconds(batch, known), count)
