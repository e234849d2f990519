"""From a plan to an artifact: refuse what does not pay, build, check against onnxruntime, package.

    settle(...)   the plan that ships: a layer whose sparse kernel is not faster stays dense
    build(...)    its library, with onnxruntime's answers on real inputs beside it for checking; checked(...) alone, of
                  what was compiled elsewhere
    package(...)  library, weights and manifest as one artifact

Timing whole networks is the business of `latency`; figures come in as arguments.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from safetensors.numpy import save_file

from hwsparse.artifact import (
    Artifact,
    LatencyFigure,
    LayerProof,
    Manifest,
    ModelInfo,
    QualityFigure,
    TargetInfo,
    TensorInfo,
    write_artifact,
)
from hwsparse.codegen import (
    KERNEL_VERSION,
    RUN_ERROR,
    Library,
    compile_model,
    plain_kernel,
    refusal,
    relative_error,
)
from hwsparse.codegen.exact import float64_answers
from hwsparse.codegen.library import DESCRIPTION, LIBRARY, REFERENCE, WEIGHTS
from hwsparse.errors import CompileError, MeasureError
from hwsparse.latency import CostModel, Estimate, Latency, Measurement, Workload
from hwsparse.latency.sent import Compiled, Sent
from hwsparse.model import Model
from hwsparse.plan import Choice, Layer, Plan
from hwsparse.quantise import split_weights
from hwsparse.sparsify import QualityReport, pruned_proto
from hwsparse.target import Target

# Largest difference to onnxruntime on the same weights, relative to the largest output.
TOLERANCE = 1e-4
# Sums in another order round otherwise: of two right programs either may be so many times as far from the exact result.
CHANCE = 2
TIPPED = 0.1
# Weights are disturbed by some sixteen roundings of a float32, so many times: a sum of hundreds is known as well.
DISTURBED, DISTURBANCES = 1e-6, 8
# Where runs are summed in float16, by so much that sums are as far off as those are: evenly spread, weights are off by
# a root of 3 less.
SUMMED = math.sqrt(3) * RUN_ERROR
PLAIN = "plain"
# What a compiled library, given by its directory, answers to inputs where its target is, by name.
Answer = Callable[[Path, Mapping[str, np.ndarray]], dict[str, np.ndarray]]
TOOLS = ("hwsparse", "apache-tvm", "onnx", "onnxruntime", "torch", "numpy")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a layer does not get what was asked for it."""

    asked: Choice
    reason: str


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of a candidate and of the dense model, in one run and on the same data, or predicted."""

    latency: Latency
    dense_latency: Latency
    onnxruntime_latency: Measurement | None  # None: it does not run where the target is
    quality: QualityReport | None
    dense_quality: QualityReport | None


def settle(
    model: Model,
    plan: Plan,
    target: Target,
    costs: CostModel,
    *,
    by_estimates: bool = False,
    baseline: Choice | None = None,
) -> tuple[Plan, dict[str, Refusal]]:
    """The plan that ships, and why layers were left dense, by name.

    A layer whose times, sparse and dense, are not both measured stays dense: what is predicted does not ship, but for
    a device that is not there, `by_estimates`.

    Args:
        baseline: a choice that layers keep whether or not it pays, of a plan that others are held to.

    Raises:
        MeasureError: nothing was measured of a layer under its choice's pattern, nor learned.
    """
    choices, refused = {}, {}
    for name, choice in plan.choices:
        layer = model.layer(name)
        reason = refusal(layer, choice)
        if reason is None and choice != baseline:
            reason = _not_faster(layer, choice, target, costs, by_estimates)
        if reason is None:
            choices[name] = choice
        else:
            refused[name] = Refusal(choice, reason)
    return Plan.of(model.digest, choices), refused


def _not_faster(layer: Layer, choice: Choice, target: Target, costs: CostModel, by_estimates: bool) -> str | None:
    known = dict(zip((Choice(), choice), costs.compared(layer, choice, target), strict=True))
    if not by_estimates and any(took.source == "predicted" for took in known.values()):
        return f"could not be measured on {target.name}"
    if costs.pays(layer, choice, target):
        return None
    times = []
    for each, took in known.items():
        low, high = (1e3 * bound for bound in took.interval_s)
        times.append(f"{each} {took.latency_s * 1e3:.4g} ms ({low:.4g} to {high:.4g})")
    return f"not faster on {target.name} beyond noise: {', '.join(times)}"


def build(
    model: Model,
    plan: Plan,
    weights: Mapping[str, np.ndarray],
    target: Target,
    kernels: Mapping[str, str],
    inputs: Mapping[str, np.ndarray],
    directory: Path,
    answer: Answer | None = None,
) -> Compiled:
    """Builds a settled plan into `directory` and checks it: `compile_model`, then `checked`, with their errors.

    Args:
        kernels: by layer name, those that were measured (`CostModel.kernels`).
    """
    compile_model(model, plan, weights, target, directory, kernels)
    return checked(model, plan, weights, target, inputs, directory, answer)


def checked(
    model: Model,
    plan: Plan,
    weights: Mapping[str, np.ndarray],
    target: Target,
    inputs: Mapping[str, np.ndarray],
    directory: Path,
    answer: Answer | None = None,
) -> Compiled:
    """Runs what a settled plan was compiled to and checks it against onnxruntime on the same weights.

    A network that makes too much of the rounding of fast kernels is built again, of plain ones, further down in
    `directory`: a library that is loaded must not be written over.

    Args:
        weights: canonical pruned weights of the plan's layers, and constants by their names.
        inputs: one real sample per model input, with the batch axis.
        answer: runs it where the target is; None: that is here.

    Raises:
        CompileError: its outputs are wrong, or it does not compile of plain kernels.
        MeasureError: it does not run where the target is.
    """

    def attempt(built: Path) -> tuple[Compiled, dict[str, np.ndarray], str | None]:
        library: Compiled
        if answer is None:
            library = here = Library.load(built, target.threads)
            outputs = here.run(inputs)
        else:
            library, outputs = Sent.read(built), answer(built, inputs)
        return library, outputs, _difference(model, weights, inputs, outputs)

    library, outputs, wrong = attempt(directory)
    if wrong is not None:
        layers = {layer.name: layer for layer in model.layers}
        plain = {
            name: plain_kernel(layers[name], plan.choice(name), target, kernel)
            for name, kernel in library.kernels.items()
        }
        if plain != library.kernels:
            (directory / PLAIN).mkdir()
            compile_model(model, plan, weights, target, directory / PLAIN, plain)
            library, outputs, wrong = attempt(directory / PLAIN)
    if wrong is not None:
        raise CompileError(f"{model.name} compiled for {target.name}: {wrong}")
    # What was found right here is what a process that times the library must get too.
    reference = {f"in/{name}": np.ascontiguousarray(value) for name, value in inputs.items()}
    reference |= {f"out/{name}": np.ascontiguousarray(value) for name, value in outputs.items()}
    save_file(reference, library.directory / REFERENCE)
    return library


def _difference(
    model: Model,
    weights: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
) -> str | None:
    """How outputs differ from onnxruntime's; where rounding alone can explain a difference, float64 decides.

    A network can be so sensitive that two correct float32 programs differ by more than `TOLERANCE` (a
    pruned layer norm over nearly constant channels does it). Then ours must be as near to the float64
    result as onnxruntime's is, but for chance. Where layers read bytes, bfloat16 or float16, a sum near the middle of
    two becomes one here and the other there, and in a deep network one such byte moves the answers. What comes of it
    must be less than half of what comes of rounding what is read at all, or no more, but for chance, than comes of
    weights that are off by what float32 rounds away, or sums of float16; and less than `TIPPED` of the largest value.
    """
    expected = onnxruntime_answers(model, weights, inputs)
    apart = {name: relative_error(outputs[name], value) for name, value in expected.items()}
    if max(apart.values()) <= TOLERANCE:
        return None
    if split_weights(weights).rounds:
        most = _tipping_may_do(model, weights, inputs, expected, apart)
        for name, difference in apart.items():
            if not difference <= most[name]:
                return (
                    f"output {name!r} differs from onnxruntime's on the same rounded values by {difference:.2g} of its "
                    f"largest value; {most[name]:.2g} could come of rounding"
                )
        return None
    exact = float64_answers(pruned_proto(model, weights), inputs)
    for name, value in exact.items():
        error, allowed = relative_error(outputs[name], value), relative_error(expected[name], value)
        if error > max(TOLERANCE, CHANCE * allowed):
            return (
                f"output {name!r} differs from the float64 result by {error:.2g} of its largest value, "
                f"onnxruntime's by {allowed:.2g}"
            )
    return None


def _tipping_may_do(
    model: Model,
    weights: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    apart: Mapping[str, float],
) -> dict[str, float]:
    """By how much two right programs of a rounded network may differ, by output; what is dearer to tell, if need be."""
    told = split_weights(weights)
    floats = onnxruntime_answers(model, told.plain, inputs)

    def bounded(share: float) -> float:
        return max(TOLERANCE, min(TIPPED, share))

    allowed = {name: bounded(relative_error(floats[name], value) / 2) for name, value in expected.items()}
    if all(apart[name] <= most for name, most in allowed.items()) or max(apart.values()) > TIPPED:
        return allowed
    rng, proto = np.random.default_rng(0), pruned_proto(model, weights)
    off = {layer.weight: SUMMED if told.reads.get(layer.name) == "float16" else DISTURBED for layer in model.layers}
    for _ in range(DISTURBANCES):
        disturbed = onnx.load_from_string(proto)
        for tensor in disturbed.graph.initializer:
            if tensor.name in off:
                value = numpy_helper.to_array(tensor)
                moved = value * (1 + off[tensor.name] * rng.uniform(-1, 1, value.shape))
                tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))
        for name, value in _answers(disturbed.SerializeToString(), inputs).items():
            allowed[name] = max(allowed[name], bounded(CHANCE * relative_error(value, expected[name])))
    return allowed


def onnxruntime_answers(
    model: Model, weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """onnxruntime's outputs by name, on the model with these weights."""
    return _answers(pruned_proto(model, weights), inputs)


def _answers(proto: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
    return dict(zip((port.name for port in session.get_outputs()), session.run(None, dict(inputs)), strict=True))


def package(
    model: Model,
    plan: Plan,
    refused: Mapping[str, Refusal],
    library: Compiled,
    target: Target,
    costs: CostModel,
    figures: Figures,
    directory: Path,
    now: datetime,
) -> Artifact:
    """Writes the artifact of a built plan to `directory`, where nothing may be yet.

    Raises:
        ArtifactError: the directory is taken or cannot be written.
    """
    measured = {**library.kernels, **costs.kernels(model, plan)}
    proofs = tuple(
        _proof(layer, plan, refused, library.kernels[layer.name], measured[layer.name], target, costs)
        for layer in model.layers
    )
    theirs = figures.onnxruntime_latency
    manifest = Manifest(
        model=ModelInfo(model.name, model.digest),
        plan=plan,
        target=TargetInfo(target.name, target.tvm_target, target.threads),
        inputs=tuple(TensorInfo(spec.name, spec.shape, spec.dtype) for spec in model.inputs),
        outputs=tuple(TensorInfo(spec.name, spec.shape, spec.dtype) for spec in model.outputs),
        latency=latency_figure(figures.latency),
        dense_latency=latency_figure(figures.dense_latency),
        onnxruntime_latency=None if theirs is None else latency_figure(theirs),
        quality=quality_figure(figures.quality),
        dense_quality=quality_figure(figures.dense_quality),
        layers=proofs,
        toolchain=toolchain(),
        created_at=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    files = {name: library.directory / name for name in (LIBRARY, WEIGHTS, DESCRIPTION)}
    return write_artifact(directory, files, manifest)


def _proof(
    layer: Layer,
    plan: Plan,
    refused: Mapping[str, Refusal],
    kernel: str,
    measured_kernel: str,
    target: Target,
    costs: CostModel,
) -> LayerProof:
    shipped = plan.choice(layer.name)
    asked, reason = shipped, None
    if layer.name in refused:
        asked, reason = refused[layer.name].asked, refused[layer.name].reason
    times = {
        choice: _known_s(costs, Workload.of(layer, choice, target))
        for choice in (Choice(), asked)
        # What was measured of another kernel than the one that ships is no proof of it.
        if choice != shipped or kernel == measured_kernel
    }
    return LayerProof(
        name=layer.name,
        asked=str(asked),
        shipped=str(shipped),
        kernel=kernel,
        dense_s=times.get(Choice()),
        sparse_s=None if asked.is_plain else times.get(asked),
        refused=reason,
    )


def _known_s(costs: CostModel, workload: Workload) -> float | None:
    """What a layer costs; None where that was not measured, as for a choice that has no kernel."""
    try:
        known = costs.predict(workload)
    except MeasureError:
        return None
    return None if known.source == "predicted" else known.latency_s


def latency_figure(latency: Latency) -> LatencyFigure:
    """A measurement, or what stands for one, as a manifest states it."""
    if isinstance(latency, Estimate):
        return LatencyFigure(latency.median_s, latency.interval_s, latency.source, 0)
    measurement = latency
    return LatencyFigure(measurement.median_s, measurement.interval_s, measurement.source, len(measurement.samples_s))


def quality_figure(report: QualityReport | None) -> QualityFigure | None:
    """A quality report as a manifest states it."""
    if report is None:
        return None
    return QualityFigure(
        report.metric,
        report.value,
        report.interval,
        report.drop,
        report.drop_interval,
        report.samples,
        report.dataset,
        report.split,
    )


def toolchain() -> tuple[tuple[str, str], ...]:
    """Names and versions of what made an artifact."""
    versions = [(name, metadata.version(name)) for name in TOOLS]
    return (*versions, ("kernels", KERNEL_VERSION), ("python", platform.python_version()))
