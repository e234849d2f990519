"""What was learned of layers from those measured: between the measured ratios of one, and of layers never measured.

A curve's own measurements correct the prediction around them: the factor by which it is off at the measured ratios is
carried over, along a line, to those between them.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hwsparse.latency.predictor import Example, Predictor, conformal
from hwsparse.plan import Choice
from hwsparse.work import Work

# Of the layers, one part after the other is left out to tell how far guesses between measured ratios are off.
PARTS = 5
# What a kernel, the expected one if None, does for a layer of a signature; None: no kernel serves it.
Describe = Callable[[str, Choice, str | None], Work | None]


@dataclass(frozen=True, slots=True)
class Known:
    """A measured point of a curve."""

    choice: Choice
    seconds: float
    kernel: str | None


@dataclass(frozen=True, slots=True)
class Guess:
    """A time that was not measured, and its 90 % interval."""

    seconds: float
    interval_s: tuple[float, float]
    in_domain: bool


@dataclass(frozen=True, slots=True)
class Learned:
    """A predictor of layers, and how far it is off between measured ratios of a curve."""

    predictor: Predictor
    describe: Describe
    spread: float  # logarithm of the factor

    @classmethod
    def fit(cls, curves: Sequence[tuple[str, Sequence[Known]]], describe: Describe) -> Learned:
        """Learns from curves: a layer's signature, and what was measured of it under one pattern, by rising ratio.

        Raises:
            MeasureError: they are of too few layers.
        """
        examples = [
            Example(signature, work, known.seconds)
            for signature, points in curves
            for known in points
            if (work := describe(signature, known.choice, known.kernel)) is not None
        ]
        predictor, errors = Predictor.fit(examples), list[float]()
        layers = sorted({signature for signature, _ in curves})
        for part in range(PARTS):
            left_out = set(layers[part::PARTS])
            known = [example for example in examples if example.layer not in left_out]
            learned = cls(Predictor(known), describe, math.inf)
            errors += [
                abs(math.log(guess.seconds / points[at].seconds))
                for signature, points in curves
                if signature in left_out
                for at in range(1, len(points) - 1)
                if (guess := learned.guess(signature, points[at].choice, [*points[:at], *points[at + 1 :]])) is not None
            ]
        return cls(predictor, describe, conformal(errors))

    def guess(self, signature: str, choice: Choice, known: Sequence[Known]) -> Guess | None:
        """A layer's time under a choice; None: no kernel serves it.

        Args:
            known: what was measured of the layer under the choice's pattern, by rising ratio; may be nothing.
        """
        ratios = [each.choice.ratio for each in known]
        above = bisect.bisect_left(ratios, choice.ratio)
        nearest = min(known, key=lambda each: abs(each.choice.ratio - choice.ratio), default=None)
        kernel = nearest.kernel if nearest is not None else None
        work = self.describe(signature, choice, kernel)
        if work is None:
            return None
        factors = [math.log(each.seconds / self._seconds(signature, each, kernel)) for each in known]
        factor = float(np.interp(choice.ratio, ratios, factors)) if known else 0.0
        between = 0 < above < len(known)
        seconds = self.predictor.seconds(work) * math.exp(factor)
        spread = self.spread if between else self.predictor.spread
        return Guess(
            seconds,
            (seconds * math.exp(-spread), seconds * math.exp(spread)),
            between or self.predictor.covers(work),
        )

    def _seconds(self, signature: str, known: Known, kernel: str | None) -> float:
        """What is predicted of a measured point, by its own kernel if that is known."""
        work = self.describe(signature, known.choice, known.kernel or kernel)
        return known.seconds if work is None else self.predictor.seconds(work)
