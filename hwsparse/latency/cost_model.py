"""What any layer under any choice costs on one target, and any network: measured if it was, else predicted.

Latency is not monotone in sparsity: between two measured ratios the truth may lie anywhere near both, and beyond the
last one nothing is known, nor of layers that were not measured, until the model has learned from what was (`learn`).
Knows nothing of how measurements are made or kept.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from hwsparse.errors import MeasureError, PlanError
from hwsparse.latency.drift import at_usual_clock, usual_reference
from hwsparse.latency.learned import Describe, Foreknowledge, Known, Learned, kernel_of
from hwsparse.latency.measurement import Measurement
from hwsparse.latency.network import Residual, fit_residual
from hwsparse.latency.workload import Curve, Workload, curve_of
from hwsparse.pattern import parse_pattern
from hwsparse.plan import Choice, Layer, Plan
from hwsparse.target import Target

if TYPE_CHECKING:  # importing it would bring onnxruntime into the process that times libraries
    from hwsparse.model import Model


_PLAIN = Choice()
Origin = Literal["measured", "simulated", "imported", "predicted"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A latency and where it comes from; outside the domain the interval may not hold the truth."""

    latency_s: float
    interval_s: tuple[float, float]  # 95 % where measured; where learned, 90 %
    in_domain: bool
    source: Origin


@dataclass(frozen=True, slots=True)
class _Point:
    """A measured ratio of a curve."""

    ratio: float
    latency_s: float
    interval_s: tuple[float, float]
    source: Origin
    kernel: str | None


@dataclass(frozen=True, slots=True)
class CostModel:
    """Latencies on one target; made by `fit`, completed by `learn` and `fit_network`."""

    target_name: str
    threads: int
    _curves: Mapping[Curve, tuple[_Point, ...]]
    _known: Mapping[str, tuple[Known, ...]]  # the same, by layer signature
    _reference_s: float | None = None  # what the reference kernel usually took
    residuals: Mapping[str, Residual] = field(default_factory=lambda: MappingProxyType({}))  # by model digest
    learned: Foreknowledge | None = None
    pipelined: bool = False

    @classmethod
    def fit(
        cls, table: Mapping[Workload, Measurement], learned: Foreknowledge | None = None, *, pipelined: bool = False
    ) -> CostModel:
        """A model of everything in a table of measurements: of quiet times, as they are at the device's usual clock.

        Args:
            learned: from measurements on the same target, as another cost model learned it, or an estimator of it.
            pipelined: whether a network's pace is that of its slowest layer, and not of all together.

        Raises:
            MeasureError: the table is empty, of more than one target, or mixes measured with simulated.
        """
        targets = {(workload.target_name, workload.threads) for workload in table}
        if len(targets) != 1:
            raise MeasureError(
                f"a cost model needs measurements on one target; these are on {sorted(targets) or 'none'}"
            )
        if len({(taken.source, taken.imported, taken.settings.cache) for taken in table.values()}) != 1:
            raise MeasureError(
                "measured, simulated and imported latencies, or those with warm and cold caches, cannot be compared; "
                "fit a cost model to one kind"
            )
        reference_s = usual_reference(table.values())
        curves: dict[Curve, list[_Point]] = {}
        for workload, taken in table.items():
            curves.setdefault(workload.curve, []).append(
                _Point(workload.choice.ratio, *at_usual_clock(taken, reference_s), _origin(taken), taken.kernel)
            )
        ((target_name, threads),) = targets
        ordered = {name: tuple(sorted(points, key=lambda point: point.ratio)) for name, points in curves.items()}
        return cls(
            target_name, threads, MappingProxyType(ordered), _by_signature(ordered), reference_s, learned=learned,
            pipelined=pipelined,
        )  # fmt: skip

    @classmethod
    def unmeasured(cls, target: Target, learned: Foreknowledge) -> CostModel:
        """A model of a target on which nothing was measured yet: all that it tells is predicted."""
        empty: Mapping[Curve, tuple[_Point, ...]] = MappingProxyType({})
        return cls(
            target.name, target.threads, empty, MappingProxyType({}), learned=learned, pipelined=target.pipelined
        )

    def learn(self, describe: Describe) -> CostModel:
        """This cost model, able to predict what was not measured.

        Raises:
            MeasureError: too few layers were measured.
        """
        imported = any(point.source == "imported" for points in self._curves.values() for point in points)
        return replace(self, learned=Learned.fit(self._known, describe, imported=imported))

    def known(self, signature: str) -> tuple[Known, ...]:
        """What was measured of a layer."""
        return self._known.get(signature, ())

    def knows(self, layer: Layer, choice: Choice) -> bool:
        """Whether anything was measured of the layer under the choice's pattern."""
        return curve_of(layer.signature, choice) in self._curves

    def kernels(self, model: Model, plan: Plan) -> dict[str, str]:
        """The kernels to compile a plan with, by layer name: those that were measured, at the nearest ratio.

        A layer that was not measured under its choice's pattern, or of which no kernel is known, is left out.
        """
        found = {}
        for layer in model.layers:
            choice = plan.choice(layer.name)
            kernel = kernel_of(choice, self.known(layer.signature))
            if kernel is not None:
                found[layer.name] = kernel
        return found

    def predict(self, workload: Workload) -> Prediction:
        """A layer's latency: its measurement, or what was learned from others.

        Where nothing was learned: a line between the measured ratios on either side; out of the measured range the
        nearest measurement, and not in the domain.

        Raises:
            MeasureError: another target, or nothing was measured of this layer and pattern, nor learned.
        """
        if (workload.target_name, workload.threads) != (self.target_name, self.threads):
            model = f"{self.target_name} with {self.threads} threads"
            raise MeasureError(f"{workload.key}: this cost model is of {model}; calibrate for that target")
        choice = workload.choice
        points = self._curves.get(workload.curve, ())
        exact = next((point for point in points if point.ratio == choice.ratio), None)
        if exact is not None:
            return Prediction(exact.latency_s, exact.interval_s, True, exact.source)
        if self.learned is not None:
            return self._guess(self.learned, workload)
        if not points:
            what = f"{workload.signature} as {choice.pattern} ({choice.dtype})"
            raise MeasureError(f"{what} was never measured on {self.target_name}; calibrate with it")
        above = bisect.bisect_left(points, choice.ratio, key=lambda point: point.ratio)
        if above in (0, len(points)):
            nearest = points[0] if above == 0 else points[-1]
            return Prediction(nearest.latency_s, nearest.interval_s, False, "predicted")
        return _between(points[above - 1], points[above], choice.ratio)

    def _guess(self, learned: Foreknowledge, workload: Workload) -> Prediction:
        guess = learned.guess(workload.signature, workload.choice, self.known(workload.signature))
        if guess is None:
            raise MeasureError(f"{workload.key}: no kernel serves it")
        return Prediction(guess.seconds, guess.interval_s, guess.in_domain, "predicted")

    def pays(self, layer: Layer, choice: Choice, target: Target, plain: Choice = _PLAIN) -> bool:
        """Whether the choice is faster than dense beyond noise: the intervals do not touch.

        Args:
            plain: what dense is: another of its forms than the model's own, if one is named.

        Raises:
            MeasureError: another target, or the layer was not measured, dense or under the choice's pattern.
        """
        dense, sparse = self.compared(layer, choice, target, plain)
        return sparse.in_domain and sparse.interval_s[1] < dense.interval_s[0]

    def compared(
        self, layer: Layer, choice: Choice, target: Target, plain: Choice = _PLAIN
    ) -> tuple[Prediction, Prediction]:
        """A layer, dense and under a choice, with intervals that tell which is faster.

        Where nothing was measured of the layer, what is off for one is off for the other: then the choice's interval
        holds if the dense layer takes exactly what is predicted of it.

        Raises:
            MeasureError: another target, or nothing is known of the layer, dense or under the choice's pattern.
        """
        dense, sparse = (self.predict(Workload.of(layer, each, target)) for each in (plain, choice))
        if choice == plain or self.learned is None or self.known(layer.signature):
            return dense, sparse
        told = self.learned.guess(layer.signature, choice, (Known(plain, dense.latency_s, None),))
        if told is None:
            raise MeasureError(f"{layer.name!r} as {choice}: no kernel serves it")
        exact = (dense.latency_s, dense.latency_s)
        return replace(dense, interval_s=exact), Prediction(told.seconds, told.interval_s, told.in_domain, "predicted")

    def at_usual_clock(self, taken: Measurement) -> float:
        """The quiet time of a measurement, in seconds, as it would be at the device's usual clock."""
        return at_usual_clock(taken, self._reference_s)[0]

    def fit_network(self, model: Model, measured: Iterable[tuple[Plan, Measurement]]) -> CostModel:
        """This cost model, with what lies between a network's layers fitted to plans measured end to end.

        At least 3 plans, from dense to the sparsest, let it tell how far off its predictions are.

        Raises:
            MeasureError: no plan was measured, or a layer of one was not.
            PlanError: a plan is of another model.
        """
        pairs = [(self.compose(model, plan).latency_s, self.at_usual_clock(taken)) for plan, taken in measured]
        return replace(self, residuals=MappingProxyType({**self.residuals, model.digest: fit_residual(pairs)}))

    def compose(self, model: Model, plan: Plan) -> Prediction:
        """The time of a network's prunable layers, each alone: their sum; of a pipeline, the slowest stage's.

        Raises:
            MeasureError: nothing was measured of a layer under its choice's pattern, or no layer is prunable.
            PlanError: the plan is of another model, or names a layer that the model lacks.
        """
        if plan.model_digest != model.digest:
            raise PlanError(f"the plan is of another model than {model.name}")
        choices = dict(plan.choices)
        if unknown := choices.keys() - {layer.name for layer in model.layers}:
            raise PlanError(f"model {model.name} has no prunable layer {min(unknown)!r}, which the plan names")
        if not model.layers:
            raise MeasureError(f"model {model.name} has no prunable layers, so nothing to predict its latency from")
        asked = ((layer.signature, choices.get(layer.name, Choice())) for layer in model.layers)
        parts = [self.predict(Workload(*each, self.target_name, self.threads)) for each in asked]
        together = max if self.pipelined else sum
        return Prediction(
            latency_s=together(part.latency_s for part in parts),
            interval_s=(
                together(part.interval_s[0] for part in parts),
                together(part.interval_s[1] for part in parts),
            ),
            in_domain=all(part.in_domain for part in parts),
            source="predicted",
        )

    def predict_model(self, model: Model, plan: Plan) -> Prediction:
        """A whole network's latency; until `fit_network` saw the model: its layers', out of the domain.

        Of a pipeline it is the time from one sample to the next.

        Raises:
            MeasureError: nothing was measured of a layer under its choice's pattern, or no layer is prunable.
            PlanError: the plan is of another model, or names a layer that the model lacks.
        """
        layers = self.compose(model, plan)
        residual = self.residuals.get(model.digest)
        if residual is None:
            return replace(layers, in_domain=False)
        return Prediction(
            latency_s=residual.apply(layers.latency_s),
            interval_s=residual.apply_interval(layers.latency_s, layers.interval_s),
            in_domain=layers.in_domain and residual.covers(layers.latency_s),
            source="predicted",
        )


def _by_signature(curves: Mapping[Curve, Sequence[_Point]]) -> Mapping[str, tuple[Known, ...]]:
    """What was measured of each layer: made once, for it is asked for at every prediction."""
    found: dict[str, list[Known]] = {}
    for (signature, name, dtype), points in curves.items():
        pattern = parse_pattern(name)
        known = (Known(Choice(pattern, point.ratio, dtype), point.latency_s, point.kernel) for point in points)
        found.setdefault(signature, []).extend(known)
    return MappingProxyType({signature: tuple(known) for signature, known in found.items()})


def _between(left: _Point, right: _Point, ratio: float) -> Prediction:
    """On the line from one measured ratio to the next; the interval spans both, because curves jump."""
    share = (ratio - left.ratio) / (right.ratio - left.ratio)
    return Prediction(
        latency_s=(1 - share) * left.latency_s + share * right.latency_s,
        interval_s=(
            min(left.interval_s[0], right.interval_s[0]),
            max(left.interval_s[1], right.interval_s[1]),
        ),
        in_domain=True,
        source="predicted",
    )


def _origin(taken: Measurement) -> Origin:
    return "imported" if taken.imported else taken.source
