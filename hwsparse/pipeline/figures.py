"""An outcome as the report of a front: predicted trials, and what was timed and judged on held-out data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hwsparse.artifact.manifest import noise_note
from hwsparse.compiler import latency_figure
from hwsparse.latency import Estimate, Footprint, Latency, stored_bytes
from hwsparse.latency.load import load_note
from hwsparse.pipeline.finals import DENSE, ONNXRUNTIME, ROUNDED, SMALL_DENSE, UNIFORM
from hwsparse.pipeline.outcome import Finalist, Outcome, Recovery, Rivals, SmallDense
from hwsparse.pipeline.places import place_notes
from hwsparse.pipeline.thrift import describe
from hwsparse.plan import Plan
from hwsparse.report import ArtifactPlace, Budget, Ceiling, Comparison, FrontPoint, FrontReport, Method, words
from hwsparse.report.front import PointKind
from hwsparse.search import Candidate
from hwsparse.sparsify import QualityReport, Robustness, Size, Sizes
from hwsparse.sparsify.ranges import coarse_notes

AS_TRAINED = Method("as it was trained", "never", "dense")
TRIED = Method("ALPS, rows regrouped", "after", "dense-to-sparse")
BUILT = Method("ALPS, rows regrouped, corrected as a whole", "after", "dense-to-sparse")
AS_ROUNDED = Method("rounded, corrected as a whole", "never", "dense")
TUNED = Method("ALPS, rows regrouped, corrected, then trained under the mask", "after", "dense-to-sparse")
GROWN = Method("gradual magnitude pruning", "during", "dense-to-sparse", "dynamic")
NOTHING = Budget(0)
TRIED_ON = "calibration"  # the part of the data that trials are judged on
# With fewer samples than this to fit weights on, a report says so.
FEW = 32


def front_report(outcome: Outcome, dataset: str) -> FrontReport:
    """Everything that the pictures and tables of an outcome show.

    Raises:
        InputError: the outcome has no quality to show: it was compiled without data.
    """
    model, target, baselines = outcome.model, outcome.target, outcome.baselines
    sizes, budget = Sizes(model), Budget(outcome.fitted_on)
    _, spent = _terms(outcome)
    weigh = _scales(outcome)
    tried_dense = next((candidate for candidate in outcome.candidates if not candidate.plan.choices), None)
    points = [
        _predicted(candidate, tried_dense, sizes, budget, weigh(candidate.plan)) for candidate in outcome.candidates
    ]
    if baselines.quality is not None:
        dense = _Row(sizes.of_weights({}), AS_TRAINED, NOTHING, Plan(model.digest), footprint=baselines.footprint)
        points.append(_point(DENSE, "dense", baselines.dense, baselines.quality, dense))
        dense = replace(dense, plan=None, footprint=None)
        if baselines.onnxruntime is not None:
            points.append(_point(ONNXRUNTIME, "external", baselines.onnxruntime, baselines.quality, dense))
    rivals = outcome.rivals
    if rivals is not None and isinstance(rivals.small_dense, SmallDense):
        small = rivals.small_dense
        how = f"{small.keep:.0%} of the channels, fitted{', then trained' if small.trained else ''}"
        row = _Row(Sizes(small.model).of_weights({}), Method(how, "after", "dense-to-sparse"), spent)
        points.append(_point(SMALL_DENSE, "small-dense", small.latency, small.quality, row))
    for finalist in outcome.finalists:
        if finalist.quality is not None:
            directory = finalist.artifact.directory.relative_to(outcome.directory).as_posix()
            terms = _finalist_terms(finalist, outcome)
            kind = _kind(finalist.label)
            place = ArtifactPlace(finalist.artifact.digest, directory)
            size = sizes.of_weights(outcome.weights(finalist.plan))
            row = _Row(size, *terms, finalist.plan, place, finalist.footprint)
            points.append(_point(finalist.label, kind, finalist.latency, finalist.quality, row))
    winner = outcome.winner
    return FrontReport(
        title=f"{model.name} on {target.name}",
        model=model.name,
        device=f"{target.name}, {target.threads} thread{'s' if target.threads > 1 else ''}",
        dataset=dataset,
        metric=baselines.quality.metric if baselines.quality is not None else "",
        points=tuple(_with_robustness(point, outcome) for point in points),
        winner=winner.label if winner is not None else None,
        layers=winner.artifact.manifest.layers if winner is not None else (),
        notes=(*_notes(outcome), *robustness_notes(outcome), *coarseness_notes(outcome)),
        comparison=Comparison(model.digest, (outcome.seed,), _ceiling(rivals)),
    )


def _kind(label: str) -> PointKind:
    """What a finalist is in the comparison."""
    if label.startswith(ROUNDED):
        return "dense-rounded"
    return "uniform" if label == UNIFORM else "search"


def _finalist_terms(finalist: Finalist, outcome: Outcome) -> tuple[Method, Budget]:
    """How a finalist's weights came to be; of what was trained its zeros make no difference."""
    if not finalist.plan.choices:
        return AS_TRAINED, NOTHING
    method, spent = _terms(outcome)
    pruned = any(not choice.is_dense for _, choice in finalist.plan.choices)
    return (method if pruned or outcome.recovery is not None else AS_ROUNDED), spent


def _terms(outcome: Outcome) -> tuple[Method, Budget]:
    """How what was built came to its weights, and what that took: a training counts that made it no better, too."""
    if (recovery := outcome.recovery) is None:
        return BUILT, Budget(outcome.fitted_on)
    trained = GROWN if recovery.settings.gradual else TUNED
    return trained if recovery.taken else BUILT, Budget(recovery.samples, recovery.settings.epochs)


@dataclass(frozen=True, slots=True)
class _Row:
    """What a point says of itself beside latency and quality."""

    size: Size
    method: Method
    budget: Budget
    plan: Plan | None = None
    artifact: ArtifactPlace | None = None
    footprint: Footprint | None = None


def _scales(outcome: Outcome) -> Callable[[Plan], Footprint | None]:
    """What tells how large a plan's files and memory are predicted to be."""
    model, footprints, tell = outcome.model, outcome.footprints, describe(outcome.target)
    if footprints is None:
        return lambda plan: None
    return lambda plan: footprints.predict(stored_bytes(model, plan, outcome.costs.kernels(model, plan), tell))


def _weighed(point: FrontPoint, footprint: Footprint | None) -> FrontPoint:
    if footprint is None:
        return point
    memory = None if footprint.memory_bytes is None else round(footprint.memory_bytes)
    return replace(point, file_bytes=round(footprint.file_bytes), memory_bytes=memory)


def _predicted(
    candidate: Candidate, dense: Candidate | None, sizes: Sizes, budget: Budget, footprint: Footprint | None
) -> FrontPoint:
    size = sizes.of_plan(candidate.plan)
    method, spent = (TRIED, budget) if candidate.plan.choices else (AS_TRAINED, NOTHING)
    point = _weighed(FrontPoint.of(candidate, dense=dense), footprint)
    return replace(point, macs=size.macs, parameters=size.parameters, method=method, budget=spent)


def _point(label: str, kind: PointKind, latency: Latency, quality: QualityReport, row: _Row) -> FrontPoint:
    point = FrontPoint(
        label=label,
        kind=kind,
        latency_s=latency.median_s,
        latency_interval_s=latency.interval_s,
        latency_source=latency.source,
        quality=quality.value,
        quality_interval=quality.interval,
        split=quality.split,
        plan=row.plan,
        artifact=row.artifact,
        drop_interval=quality.drop_interval,
        macs=row.size.macs,
        parameters=row.size.parameters,
        method=row.method,
        budget=row.budget,
    )
    return _weighed(point, row.footprint)


def _robustness(outcome: Outcome) -> dict[str, Robustness]:
    """By label, of everything that was judged under corruption; onnxruntime's answers are the dense model's."""
    dense = outcome.baselines.robustness
    found = {DENSE: dense, ONNXRUNTIME: dense} | {each.label: each.robustness for each in outcome.finalists}
    if outcome.rivals is not None and isinstance(outcome.rivals.small_dense, SmallDense):
        found[SMALL_DENSE] = outcome.rivals.small_dense.robustness
    return {label: robustness for label, robustness in found.items() if robustness is not None}


def _with_robustness(point: FrontPoint, outcome: Outcome) -> FrontPoint:
    # A trial is not judged under corruption, whatever it is called.
    robustness = _robustness(outcome).get(point.label) if point.split != TRIED_ON else None
    return point if robustness is None else replace(point, robustness=robustness.value)


def robustness_notes(outcome: Outcome) -> tuple[str, ...]:
    """What everything that was judged under corruption is worth there; nothing if nothing was."""
    found = _robustness(outcome)
    if not found:
        return ()
    corruptions = ", ".join(next(iter(found.values())).corruptions)
    metric = outcome.baselines.quality.metric if outcome.baselines.quality is not None else ""
    told = (
        f"{label} {words.quality(metric, each.value)} "
        f"({' to '.join(words.quality(metric, bound) for bound in each.interval)})"
        for label, each in found.items()
        if label != ONNXRUNTIME
    )
    return (
        f"Robustness: the mean quality over {corruptions}, numbers being severities of 5; same held-out samples. "
        f"With 95 % intervals: {', '.join(told)}.",
    )


def coarseness_notes(outcome: Outcome) -> tuple[str, ...]:
    """Which int8 layers of finalists read what bytes can hardly tell apart, each once."""
    plans = [each.plan for each in outcome.finalists if each.plan.in_bytes]
    found = (note for plan in plans for note in coarse_notes(outcome.model, plan, outcome.weights(plan)))
    return tuple(dict.fromkeys(found))


def _ceiling(rivals: Rivals | None) -> Ceiling | None:
    if rivals is None or isinstance(rivals.ceiling, str):
        return None
    return Ceiling(rivals.of, rivals.ceiling.value, rivals.ceiling.interval)


def _missing(rivals: Rivals | None) -> tuple[str, ...]:
    """Why a rival is not there."""
    found = () if rivals is None else (("small dense baseline", rivals.small_dense), ("ceiling", rivals.ceiling))
    return tuple(f"There is no {name}: {why}." for name, why in found if isinstance(why, str))


def _residual_note(outcome: Outcome) -> tuple[str, ...]:
    """What lies between layers, as it was fitted to whole networks; nothing if none was measured."""
    residual = outcome.costs.residuals.get(outcome.model.digest)
    if residual is None:
        return ()
    rest = "" if residual.spread is None else f"; of others, 95 % should lie within {residual.spread:.1%} of that"
    return (
        f"A whole network was found to take {residual.scale:.3g} of its layers' time alone, and "
        f"{1e3 * residual.offset:.3g} ms{rest}.",
    )


def _noise_notes(outcome: Outcome) -> tuple[str, ...]:
    """That times are uncertain, and that other work ran; nothing of what is not so."""
    baselines, rivals = outcome.baselines, outcome.rivals
    timed = [baselines.dense, *(finalist.latency for finalist in outcome.finalists)]
    if baselines.onnxruntime is not None:
        timed.append(baselines.onnxruntime)
    if rivals is not None and isinstance(rivals.small_dense, SmallDense):
        timed.append(rivals.small_dense.latency)
    return tuple(filter(None, (noise_note(map(latency_figure, timed)), load_note(outcome.cpu_share))))


def _notes(outcome: Outcome) -> tuple[str, ...]:
    estimated = isinstance(outcome.baselines.dense, Estimate)
    timed = (
        f"{'latency predicted like theirs' if estimated else 'timed in turns in one run'}, quality on held-out data."
    )
    if outcome.recovery is not None:
        notes = [f"All of it {timed}", _recovery_note(outcome.recovery), *_rivals_note(outcome)]
    else:
        layers = "measured layers"
        if (learned := outcome.costs.learned) is not None:
            layers = f"layers measured or {learned.basis}"
        notes = [
            f"Trials: latency predicted from {layers}, quality on calibration data. Finalists and baselines: {timed}",
            "Pruned after training, in one shot: mask and weights of each layer found together (ALPS, rows regrouped) "
            "for the dense layer's output on calibration data; of what was built, each layer fitted again to what it "
            "reads then. Nothing was trained end to end.",
            *_residual_note(outcome),
        ]
    notes += [*place_notes(outcome), *_noise_notes(outcome), *_missing(outcome.rivals)]
    if outcome.fitted_on < FEW:
        notes.append(f"Weights were fitted on {outcome.fitted_on} samples only: with more, plans lose less.")
    if outcome.winner is None:
        notes.append(
            f"No plan was faster than the dense model on {outcome.target.name} within the goal: nothing is gained."
        )
    if outcome.space is not None and not outcome.space.free:
        notes.append("There was nothing to choose: no choice that was looked at makes its layer surely faster.")
    dense = outcome.baselines.dense
    name, fastest = ("dense", dense) if outcome.winner is None else ("the winner", outcome.winner.latency)
    for finalist in outcome.finalists:
        reason = outcome.limits.refusal(finalist, dense)
        if reason is not None and finalist.latency.median_s < fastest.median_s:
            notes.append(f"{finalist.label}, faster than {name}, {reason}.")
    return tuple(notes)


def _recovery_note(recovery: Recovery) -> str:
    settings, before = recovery.settings, recovery.one_shot
    how = "zeros grew on the way" if settings.gradual else "pruned in one shot, then trained under its mask"
    kept = f"the weights of epoch {recovery.best.number} kept" if recovery.taken else "which made it no better"
    low, high = (words.quality(before.metric, bound) for bound in before.drop_interval)
    return (
        f"Trained for {recovery.epochs[-1].number} epochs with the dense network as teacher ({how}), {kept}, by "
        f"validation data; seed {settings.seed}. In one shot the plan lost {words.quality(before.metric, before.drop)} "
        f"({low} to {high}) on the same held-out data."
    )


def _rivals_note(outcome: Outcome) -> tuple[str, ...]:
    """What else was trained."""
    recovery, rivals = outcome.recovery, outcome.rivals
    if recovery is None or rivals is None:
        return ()
    small = "small dense network, under a fixed mask" if recovery.settings.gradual else "small dense network"
    found = ((small, rivals.small_dense), ("unstructured ceiling", rivals.ceiling))
    trained = [f"the {name}" for name, rival in found if not isinstance(rival, str)]
    return (f"By the same settings were trained: {', '.join(trained)}.",) if trained else ()
