"""What every choice costs and harms, layer by layer: the figures that a search space is drawn up from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from hwsparse.codegen import refusal
from hwsparse.errors import MeasureError, UnsupportedError
from hwsparse.latency import CalibrationReport, CostModel, Workload, layer_settings
from hwsparse.model import Model
from hwsparse.pattern import NM, Dense, parse_pattern
from hwsparse.pipeline.bench import Bench
from hwsparse.pipeline.thrift import measure_layers
from hwsparse.plan import Choice, Layer
from hwsparse.quantise import beyond
from hwsparse.search import Offer, SettledChoices, unpaid
from hwsparse.sparsify import LayerDatabase, applicable
from hwsparse.target import Target

# A layer with less of the dense layers' time than this cannot repay being measured.
MIN_SHARE = 0.01

OnStage = Callable[[str, int, int], None]  # stage, steps done, steps in all


def choices_of(
    target: Target, patterns: Sequence[str], ratios: Sequence[float], dtypes: Sequence[str] = ("float32",)
) -> tuple[Choice, ...]:
    """Every choice but the plain one that the target supports: all patterns, or those named, at every ratio, by type.

    Where another type than float32 is asked for, dense layers of it are among them, whatever patterns are named.

    Raises:
        UnsupportedError: a pattern or type is named that the target does not support.
    """
    for dtype in dtypes:
        target.require_type(dtype)
    of_type = {dtype: [parse_pattern(text) for text, other in target.supported if other == dtype] for dtype in dtypes}
    known = [pattern for supported in of_type.values() for pattern in supported if not isinstance(pattern, Dense)]
    named = [parse_pattern(text) for text in patterns]
    if unknown := [pattern for pattern in named if pattern not in known]:
        have = ", ".join(dict.fromkeys(map(str, known))) or "nothing"
        raise UnsupportedError(
            f"target {target.name} cannot prune to {unknown[0]}; in {' and '.join(of_type)} it has {have}"
        )
    choices: list[Choice] = []
    for dtype, supported in of_type.items():
        for pattern in supported:
            if isinstance(pattern, Dense):
                choices.extend([] if dtype == "float32" else [Choice(pattern, dtype=dtype)])
            elif not named or pattern in named:
                at = (pattern.ratio,) if isinstance(pattern, NM) else ratios
                choices.extend(Choice(pattern, ratio, dtype) for ratio in at)
    return tuple(choices)


def survey(
    model: Model,
    database: LayerDatabase,
    target: Target,
    choices: Sequence[Choice],
    settled: SettledChoices | None,
    bench: Bench,
    on_stage: OnStage,
    within: float | None = None,
) -> tuple[dict[str, list[Offer]], CostModel]:
    """Measures the layers on the device, and prunes them, as far as that makes them faster, to see what it harms.

    Args:
        database: receives every layer as every choice that pays, and as all that are settled.
        choices: what every layer is to be measured with, where it is large enough to repay it.
        settled: of a study that goes on; its choices are measured instead.
        on_stage: called with the stage, steps done and steps in all.
        within: how surely, relative, choices may be predicted from others instead of being measured.

    Returns:
        Offers by layer name, dense first, for `build_space`, and what layers cost, measured or predicted.

    Raises:
        MeasureError: a dense layer could not be measured.
    """
    dense = bench.calibrate(model, {}, lambda done, total: on_stage("dense layers", done, total))
    dense_s = _dense_times(model, target, dense)
    refused = _refused(model, dense_s, choices, settled, target.own_dense)
    wanted = {
        name: [choice for choice, reason in reasons.items() if reason is None] for name, reasons in refused.items()
    }
    times = measure_layers(
        bench,
        model,
        {name: asked for name, asked in wanted.items() if asked},
        within,
        lambda done, total: on_stage("sparse layers", done, total),
        layer_settings(target),
    )
    costs = times.costs
    offers = {
        layer.name: [
            _offer(layer, choice, reason, target, times.report, costs)
            for choice, reason in ({Choice(): None} | refused[layer.name]).items()
        ]
        for layer in model.layers
    }
    if settled is None:
        offers = {
            name: [dense, *(each if each.choice == target.own_dense else _if_paid(each, dense) for each in rest)]
            for name, (dense, *rest) in offers.items()
        }
    return with_errors(offers, database, on_stage), costs


def estimated_offers(
    model: Model, target: Target, choices: Sequence[Choice], settled: SettledChoices | None, costs: CostModel
) -> dict[str, list[Offer]]:
    """Offers as `survey` gives them, of a device that is not there: as if no choice harmed anything.

    What pays is told by what the choice gains, not by either time: that is known far better.

    Args:
        choices: what every layer may become, where it is large enough; `settled` those of a study that goes on.

    Raises:
        MeasureError: the costs are of another target.
    """

    def offered(layer: Layer, choice: Choice, reason: str | None, dense: Offer) -> Offer:
        if reason is not None:
            return Offer(choice, refused=reason)
        beside, known = costs.compared(layer, choice, target)
        if not known.in_domain:
            return Offer(choice, refused="nothing like it was published, to estimate its time from")
        offer = Offer(choice, known.latency_s, known.interval_s, error=0.0)
        return _if_paid(offer, replace(dense, interval_s=beside.interval_s)) if settled is None else offer

    plain = {layer.name: costs.predict(Workload.of(layer, Choice(), target)) for layer in model.layers}
    refused = _refused(model, {name: known.latency_s for name, known in plain.items()}, choices, settled)
    offers = {}
    for layer in model.layers:
        # All its choices were told to pay, or not: here the dense layer's time has no interval any more.
        dense = Offer(Choice(), plain[layer.name].latency_s, (plain[layer.name].latency_s,) * 2, error=0.0)
        offers[layer.name] = [
            dense, *(offered(layer, choice, reason, dense) for choice, reason in refused[layer.name].items())
        ]  # fmt: skip
    return offers


def _refused(
    model: Model,
    dense_s: Mapping[str, float],
    choices: Sequence[Choice],
    settled: SettledChoices | None,
    baseline: Choice | None = None,
) -> dict[str, dict[Choice, str | None]]:
    """By layer name the choices to look at, each with why the layer cannot have it; None: it can.

    Args:
        baseline: what layers of any size can have.
    """
    total_s = sum(dense_s.values())
    small = {name: time / total_s for name, time in dense_s.items() if time < MIN_SHARE * total_s}
    asked = dict.fromkeys(dense_s, choices)
    if settled is not None:
        small, asked = {}, {name: settled.sparse(name) for name in dense_s}
    return {
        layer.name: {
            choice: _refusal(model, layer, choice, {} if choice == baseline else small) for choice in asked[layer.name]
        }
        for layer in model.layers
    }


def with_errors(offers: dict[str, list[Offer]], database: LayerDatabase, on_stage: OnStage) -> dict[str, list[Offer]]:
    """The offers with what each does to its layer's output: layers are pruned to find out."""
    wanted = {
        name: [each.choice for each in offered if each.refused is None and not each.choice.is_plain]
        for name, offered in offers.items()
    }
    database.build(wanted, on_stage)
    entries = database.entries()
    return {
        name: [
            replace(each, error=entries[name, each.choice].output_error) if each.choice in wanted[name] else each
            for each in offered
        ]
        for name, offered in offers.items()
    }


def _dense_times(model: Model, target: Target, report: CalibrationReport) -> dict[str, float]:
    """Seconds that the dense layers take, by name.

    Raises:
        MeasureError: one of them could not be measured.
    """
    workloads = {layer.name: Workload.of(layer, Choice(), target) for layer in model.layers}
    for name, workload in workloads.items():
        if failure := report.failures.get(workload):
            raise MeasureError(f"layer {name!r}, dense, could not be measured ({failure.stage}): {failure.reason}")
    costs = CostModel.fit(report.table)
    return {name: costs.predict(workload).latency_s for name, workload in workloads.items()}


def _refusal(model: Model, layer: Layer, choice: Choice, small: dict[str, float]) -> str | None:
    if layer.name in small:
        return f"only {small[layer.name]:.1%} of the dense layers' time"
    reason = applicable(layer, choice.pattern) or refusal(layer, choice)
    if reason is None and choice.dtype == "float16":
        return beyond(model.weight(layer.name), choice.dtype)
    return reason


def _offer(
    layer: Layer, choice: Choice, reason: str | None, target: Target, report: CalibrationReport, costs: CostModel
) -> Offer:
    """What is known of a choice's time, as if it harmed nothing."""
    if reason is not None:
        return Offer(choice, refused=reason)
    workload = Workload.of(layer, choice, target)
    if failure := report.failures.get(workload):
        return Offer(choice, refused=f"could not be measured ({failure.stage}): {failure.reason}")
    known = costs.predict(workload)
    if not known.in_domain:
        return Offer(choice, refused="nothing like it was measured, to tell its time from")
    return Offer(choice, known.latency_s, known.interval_s, error=0.0)


def _if_paid(offer: Offer, dense: Offer) -> Offer:
    reason = unpaid(offer, dense)
    return offer if reason is None else Offer(offer.choice, refused=reason)
