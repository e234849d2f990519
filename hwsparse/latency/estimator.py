"""What a layer would take on a core that nobody timed: predicted from what its kernel does, never measured.

Stands where a cost model has what it learned from measurements, until there are any (`CostModel.unmeasured`): what was
measured of a layer counts before what is estimated of it. Intervals are as wide as the core model was off on devices,
with runtimes and of networks that it was not fitted to (`core_fit.published`).

Knows of kernels what code generation says that they do (`Work`), and of the device its [core].
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from hwsparse.errors import MeasureError, UnsupportedError
from hwsparse.latency.core_fit import Widths, published
from hwsparse.latency.core_model import DEPTHWISE, PRODUCT, WINOGRAD, Batch, Coefficients, Counts, Place, seconds
from hwsparse.latency.learned import Describe, Guess, Known
from hwsparse.plan import Choice
from hwsparse.target import Target
from hwsparse.work import Work

LANES = 4  # floats of a vector of 128 bits
# Kernels whose arithmetic published times tell of, by the last words of their family.
_BYTES, _PAIRS, _HALVES = " of bytes", " of pairs", " of halves"
# Products of bytes for one of a float, where there are dot products of four at once.
DOT_PRODUCTS = 4.0
# Products of a vector of float16 for one of floats, and the instructions that add the sums of a run to others: two
# conversions and two additions.
HALVES, ADDING_SLOTS = 2.0, 4.0


@dataclass(frozen=True, slots=True)
class Estimator:
    """Estimates for one target; made by `of`."""

    target_name: str
    place: Place
    coefficients: Coefficients
    widths: Widths
    describe: Describe
    imported: bool = False  # as of what was learned: it rests on no measurement that was brought in
    basis: str = "estimated by a core model from published times of other devices"

    @classmethod
    def of(cls, target: Target, describe: Describe) -> Estimator:
        """For a target with a [core].

        Args:
            describe: what kernels do for layers on the target.

        Raises:
            UnsupportedError: the target's descriptor has no [core], or its vectors have other than 128 bits.
            InputError: the published times that come with hwsparse are missing or malformed.
        """
        if target.core is None or target.vector_bits != 128:
            raise UnsupportedError(
                f"target {target.name}: nothing can be estimated without a [core] of 128-bit vectors in its descriptor"
            )
        fitted, widths = published()
        place = Place(target.core, target.bandwidth_bytes_per_s, target.threads)
        return cls(target.name, place, fitted.coefficients, widths, describe)

    def guess(self, signature: str, choice: Choice, known: Sequence[Known]) -> Guess | None:
        """A layer's time under a choice, by the kernel expected to be fastest; None: no kernel serves it.

        Args:
            known: what was measured of the layer: the estimate is off by as much, but for what choices differ in.
        """
        work = self.describe(signature, choice, None)
        if work is None:
            return None
        off, width = self._off(signature, known), self.widths.dense if choice.is_dense else self.widths.sparse
        if off is not None:
            width = self.widths.gain
        taken_s = self._seconds(work) * math.exp(off or 0.0)
        interval_s = taken_s * math.exp(-width), taken_s * math.exp(width)
        return Guess(taken_s, interval_s, self._is_known(work))

    def _seconds(self, work: Work) -> float:
        counts = counts_of(work, self.place.threads, self.place.core.float16_rate)
        return float(seconds(Batch.of([(counts, self.place)]), self.coefficients)[0])

    def _off(self, signature: str, known: Sequence[Known]) -> float | None:
        """By how much what was measured of a layer is more than estimates of it, as a logarithm; None: nothing was."""
        works = [(self.describe(signature, each.choice, each.kernel), each.seconds) for each in known]
        ratios = [math.log(taken_s / self._seconds(work)) for work, taken_s in works if work is not None]
        return statistics.fmean(ratios) if ratios else None

    def gain(self, signature: str, choice: Choice) -> tuple[float, tuple[float, float]]:
        """By how much a choice is faster than the plain layer, and the 90 % interval of that.

        It is narrower than what both times' intervals say: what the model is off on a device is much the same for both.

        Raises:
            MeasureError: no kernel serves one of them.
        """
        plain, other = (self.guess(signature, each, ()) for each in (Choice(), choice))
        if plain is None or other is None:
            raise MeasureError(f"{signature} as {choice}: no kernel serves it")
        gain = plain.seconds / other.seconds
        return gain, (gain * math.exp(-self.widths.gain), gain * math.exp(self.widths.gain))

    def wanted(self, signature: str, choices: Sequence[Choice], known: Sequence[Known], within: float) -> list[Choice]:
        """Of a layer's choices those to measure where there is a device to: all that were not."""
        measured = {each.choice for each in known}
        return [choice for choice in choices if choice not in measured]

    def _is_known(self, work: Work) -> bool:
        """Whether kernels of its kind were published of: not of pairs; of others where cores have instructions."""
        if work.family.endswith(_PAIRS):
            return False
        if work.family.endswith(_HALVES):
            return self.place.core.float16_rate >= HALVES
        return not work.family.endswith(_BYTES) or self.place.core.int8_rate >= DOT_PRODUCTS


def counts_of(work: Work, threads: int, float16_rate: float = HALVES) -> Counts:
    """What a kernel does, on all threads together, as if each had as much to do as the busiest.

    Vectors of float16 hold twice as many, so that they count as one of floats where they are multiplied twice as fast.

    `Work` counts tile by tile on the busiest thread, and what is not in tiles on all of them.
    """
    family = re.sub(f"({_BYTES}|{_PAIRS}|{_HALVES})$", "", work.family)
    parts, traits = work.parts, work.traits
    moved = parts["input bytes"] + parts["output bytes"] + work.stored_bytes
    multiply_adds = parts["multiply-adds"]
    if work.family.endswith(_HALVES):
        multiply_adds = multiply_adds * HALVES / float16_rate + ADDING_SLOTS * parts.get("sums of runs", 0.0)
    rows, vectors = traits.get("shared rows", 1.0), traits.get("vectors", 1.0)
    if family == "winograd":  # counted by floats
        return Counts(WINOGRAD, multiply_adds / LANES, 0.0, moved, math.inf)
    if family == "depthwise":
        return Counts(DEPTHWISE, multiply_adds, 0.0, moved, math.inf)
    if family == "few positions":  # a vector of weights is loaded once, what it is multiplied by for each position
        positions = traits["positions"]
        return Counts(PRODUCT, multiply_adds, multiply_adds * (1 + 1 / positions), moved, positions)
    return Counts(PRODUCT, multiply_adds * threads, parts["loads"] * threads, moved, rows * vectors)
