"""What was learned of layers from those measured: of a layer's choices from its others, and of layers never measured.

A predictor tells what a layer takes from what it does; what was measured of the layer corrects that, the more the
nearer the choices are. Intervals are conformal: as wide as was needed, in cross-validation over whole layers, to hold
nine in ten (Vovk, Cross-conformal predictors, 2015), every layer counting alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hwsparse.latency.field import Field
from hwsparse.latency.predictor import Example, Predictor, misses
from hwsparse.plan import Choice
from hwsparse.work import Work

CONFIDENCE = 0.9
# Of a layer's choices so many are taken as known, where intervals are tried out.
TRIED = (0, 1, 2, 4, 8, 16)
# As a logarithm: an interval that reaches a thousandfold each way says that nothing is known.
WIDEST = math.log(1e3)
# Shares that are summed up may miss the level that they reach by so much.
ROUNDING = 1e-9
# What a kernel, the expected one if None, does for a layer of a signature; None: no kernel serves it.
Describe = Callable[[str, Choice, str | None], Work | None]


@dataclass(frozen=True, slots=True)
class Known:
    """What was measured of a layer."""

    choice: Choice
    seconds: float
    kernel: str | None


@dataclass(frozen=True, slots=True)
class Guess:
    """A time that was not measured, and its 90 % interval."""

    seconds: float
    interval_s: tuple[float, float]
    in_domain: bool


class Foreknowledge(Protocol):
    """What tells a cost model of layers and choices that were not measured: `Learned`, or an `Estimator`."""

    @property
    def imported(self) -> bool:
        """Whether it rests on measurements that others took."""

    @property
    def basis(self) -> str:
        """Whence it knows, for a report: goes on after "layers measured, or "."""

    def guess(self, signature: str, choice: Choice, known: Sequence[Known]) -> Guess | None:
        """A layer's time under a choice, with what was measured of the layer; None: no kernel serves it."""

    def wanted(self, signature: str, choices: Sequence[Choice], known: Sequence[Known], within: float) -> list[Choice]:
        """Of a layer's choices those to measure, for what is known of all others to be within so much, relative."""


@dataclass(frozen=True, slots=True)
class Learned:
    """A predictor of layers, and the field of what it is off by over a layer's choices."""

    predictor: Predictor
    field: Field
    describe: Describe
    widths: Mapping[tuple[bool, int], float]  # see `_widths`
    imported: bool = False  # from measurements that others took

    @property
    def basis(self) -> str:
        """As `Foreknowledge.basis`."""
        return f"predicted from {'imported measurements of ' * self.imported}others"

    @classmethod
    def fit(cls, layers: Mapping[str, Sequence[Known]], describe: Describe, *, imported: bool = False) -> Learned:
        """Learns from what was measured of layers, by signature.

        Raises:
            MeasureError: they are too few.
        """
        examples = [
            Example(signature, work, known.seconds)
            for signature, points in layers.items()
            for known in points
            if (work := describe(signature, known.choice, known.kernel)) is not None
        ]
        missed = misses(examples)
        groups: dict[tuple[str, str], list[int]] = {}
        for at, example in enumerate(examples):
            groups.setdefault((example.layer, example.work.family), []).append(at)
        places = {name: np.array([examples[at].work.place for at in rows]) for name, rows in groups.items()}
        deviations = {name: np.array([missed[at].deviation for at in rows]) for name, rows in groups.items()}
        covered = [name for name, rows in groups.items() if all(missed[at].covered for at in rows)]
        field = Field.fit([(places[name], deviations[name]) for name in covered or groups])
        found = [(places[name], deviations[name], name in covered) for name in groups]
        return cls(Predictor(examples), field, describe, _widths(field, found), imported)

    def guess(self, signature: str, choice: Choice, known: Sequence[Known]) -> Guess | None:
        """A layer's time under a choice; None: no kernel serves it.

        Args:
            known: what was measured of the layer; may be nothing.
        """
        work = self.describe(signature, choice, kernel_of(choice, known))
        if work is None:
            return None
        near = self._near(signature, work.family, known)
        covered = self.predictor.covers(work)
        (likely_s,) = self.predictor.seconds([work])
        (mean,), (spread,) = self.field.estimate(
            np.array([work.place]), _places(near), self._deviations(near), vague=not covered
        )
        seconds = float(likely_s * math.exp(mean))
        width = self._width(spread, covered, len(near))
        interval_s = seconds * math.exp(-width), seconds * math.exp(width)
        return Guess(seconds, interval_s, width < WIDEST and (covered or bool(near)))

    def wanted(self, signature: str, choices: Sequence[Choice], known: Sequence[Known], within: float) -> list[Choice]:
        """Of a layer's choices those to measure, for the intervals of all others to be narrower: dense always.

        One after the other is taken that least is known of. What its time will be is not known: the more the layer
        turns out to be uneven by it, the less surely it tells the others, and then more are wanted the next time.

        Args:
            known: what was measured of the layer already.
            within: how far, relative, intervals may reach from the likeliest time.
        """
        families: dict[str, list[tuple[Choice, Work]]] = {}
        measured = {each.choice for each in known}
        for choice in choices:
            work = self.describe(signature, choice, kernel_of(choice, known))
            if work is not None and choice not in measured:
                families.setdefault(work.family, []).append((choice, work))
        found: list[Choice] = []
        for family, group in families.items():
            near = self._near(signature, family, known)
            places = np.array([work.place for work, _ in near] + [work.place for _, work in group])
            covered = all(self.predictor.covers(work) for _, work in group)
            uneven = self.field.unevenness(_places(near), self._deviations(near), vague=not covered)
            at = [each for each in range(len(places)) if each < len(near) or group[each - len(near)][0].is_dense]
            while len(at) < len(places) and self._widest(places, at, covered, uneven) > math.log1p(within):
                at.append(self.field.most_telling(places, at, vague=not covered))
            found += [group[each - len(near)][0] for each in at[len(near) :]]
        return found

    def _width(self, spread: float, covered: bool, known: int) -> float:
        """Half of an interval, as a logarithm, where so many choices are known; finite, whatever was learned."""
        told = [count for (of, count), width in self.widths.items() if of == covered and count <= known]
        return min(WIDEST, self.widths[covered, max(told)] * spread) if told else WIDEST

    def _widest(self, places: np.ndarray, known: Sequence[int], covered: bool, uneven: float) -> float:
        """The width of the widest interval of a group of places, as a logarithm."""
        spreads = uneven * self.field.spreads(places, places[list(known)], vague=not covered)
        spreads[list(known)] = 0
        return self._width(float(spreads.max()), covered, len(known))

    def _deviations(self, near: Sequence[tuple[Work, float]]) -> np.ndarray:
        """How far off the predictor is where it is known, as logarithms (count,)."""
        likely = self.predictor.seconds([work for work, _ in near]) if near else ()
        return np.array([math.log(taken_s / likely_s) for (_, taken_s), likely_s in zip(near, likely, strict=True)])

    def _near(self, signature: str, family: str, known: Iterable[Known]) -> list[tuple[Work, float]]:
        """What was measured of a layer with kernels of a family: work and seconds."""
        found = ((self.describe(signature, each.choice, each.kernel), each.seconds) for each in known)
        return [(work, seconds) for work, seconds in found if work is not None and work.family == family]


def _places(near: Sequence[tuple[Work, float]]) -> np.ndarray:
    """(count, coordinates)"""
    return np.array([work.place for work, _ in near])


def kernel_of(choice: Choice, known: Sequence[Known]) -> str | None:
    """The kernel that a choice would be compiled with: that of the nearest measured ratio of its pattern."""
    alike = [each for each in known if (each.choice.pattern, each.choice.dtype) == (choice.pattern, choice.dtype)]
    nearest = min(alike, key=lambda each: abs(each.choice.ratio - choice.ratio), default=None)
    return None if nearest is None else nearest.kernel


def _widths(field: Field, groups: Sequence[tuple[np.ndarray, np.ndarray, bool]]) -> dict[tuple[bool, int], float]:
    """Half of intervals' widths, in a field's standard deviations, that hold as many truths as they should.

    By whether layers are in the domain, and by how many of their choices are known; of others than are given, too few
    were seen to tell.

    Args:
        groups: places, how far off the predictor was there, and whether they are in its domain.
    """
    found = {}
    for covered in (True, False):
        for count in TRIED:
            scores = [
                _scores(field, places, deviations, count, covered)
                for places, deviations, own in groups
                if own == covered and count < len(places)
            ]
            if (width := conformal(scores)) < math.inf:
                found[covered, count] = width
    return found


def _scores(field: Field, places: np.ndarray, deviations: np.ndarray, count: int, covered: bool) -> list[float]:
    """How far off the field is where it is not known, in its own standard deviations, with `count` places known."""
    known: list[int] = []
    for _ in range(count):
        known.append(field.most_telling(places, known, vague=not covered))
    others = [at for at in range(len(places)) if at not in known]
    means, spreads = field.estimate(places[others], places[known], deviations[known], vague=not covered)
    return [float(score) for score in np.abs(means - deviations[others]) / spreads]


def conformal(groups: Sequence[Sequence[float]]) -> float:
    """The error that so many of a new group's stay below as `CONFIDENCE` says; infinite, if too few were seen to tell.

    Errors of a group go together, so that groups count alike, however many errors they have (Dunn, Wasserman and
    Ramdas, Distribution-Free Prediction Sets for Two-Layer Hierarchical Models, 2022, pooled distributions).
    """
    errors = np.array([error for group in groups for error in group])
    shares = np.array([1 / len(group) for group in groups for _ in group])
    order = np.argsort(errors)
    # A new error is as likely as any to be the largest.
    level = CONFIDENCE * (1 + 1 / max(len(errors), 1))
    at = int(np.searchsorted(np.cumsum(shares[order]) / max(len(groups), 1), level - ROUNDING))
    return math.inf if at >= len(errors) else float(errors[order][at])
