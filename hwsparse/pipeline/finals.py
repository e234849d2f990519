"""From candidates to artifacts: build the best plans, time them beside dense and onnxruntime, judge, package."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from hwsparse import compiler
from hwsparse.artifact import replace_artifact
from hwsparse.compiler import Figures, Refusal
from hwsparse.errors import StudyError
from hwsparse.latency import CostModel, Footprint, Latency, Measurement
from hwsparse.latency.contender import write_onnxruntime_contender
from hwsparse.latency.sent import Compiled
from hwsparse.model import Model
from hwsparse.pipeline.bench import Bench, Place, Steps
from hwsparse.pipeline.building import NetworkOrder
from hwsparse.pipeline.goal import shown_drop
from hwsparse.pipeline.judges import Judges
from hwsparse.pipeline.outcome import Baselines, Entrant, Finalist, Limits, Weights
from hwsparse.plan import Choice, Plan
from hwsparse.report.front import ROUNDING
from hwsparse.search import Candidate, SearchSpace, pareto_front, pick_finalists
from hwsparse.sparsify import QualityReport
from hwsparse.target import Target

DENSE, ONNXRUNTIME, UNIFORM, SMALL_DENSE = "dense", "onnxruntime", "uniform", "small dense"
ROUNDED = f"{DENSE} "  # and a type

B = TypeVar("B", bound=Place, covariant=True)


def rounded_plans(space: SearchSpace) -> dict[str, Plan]:
    """What layers' types give without a zero: for each type the plan with every layer dense in it that can be.

    By label, as "dense int8". A layer is left as it is where that type is no faster, but for an accelerator's own.
    """
    found = {f"{ROUNDED}{choice.dtype}": space.uniformly(choice) for choice in space.uniform if choice.is_dense}
    return {label: plan for label, plan in found.items() if plan.choices}


def finalist_plans(
    candidates: Sequence[Candidate], count: int, max_drop: float, rounded: Collection[Plan] = ()
) -> dict[str, Plan]:
    """Plans to build, by label: the fastest that is safe and the best of the front; the best uniform one beside.

    Args:
        rounded: plans that are built in any case, as `rounded_plans` has them; finalists are others.

    Raises:
        StudyError: the dense model is not among the candidates.
    """
    dense = next((candidate for candidate in candidates if not candidate.plan.choices), None)
    if dense is None:
        raise StudyError("the study has no result for the dense model; search in another output directory")
    others = [candidate for candidate in candidates if candidate.plan not in rounded]
    sparse = [candidate for candidate in others if candidate.plan.choices]
    safe = [candidate for candidate in sparse if dense.quality - candidate.sure_quality <= max_drop + ROUNDING]
    picked = pick_finalists(
        [candidate for candidate in pareto_front(others) if candidate.plan.choices],
        count,
        musts=pareto_front(safe)[:1],
        min_quality=dense.quality - shown_drop(max_drop),
    )
    plans = {f"search {number}": candidate.plan for number, candidate in enumerate(picked, 1)}
    for uniform in pareto_front([candidate for candidate in safe if candidate.kind == "uniform"])[:1]:
        if uniform.plan not in plans.values():
            plans[UNIFORM] = uniform.plan
    return plans


@dataclass(frozen=True, slots=True)
class Workshop(Generic[B]):
    """Where finalists are made: all that building, timing and judging them takes.

    `weights` gives the pruned weights of any plan; `judges` is None without data: nothing is judged. `inputs` is one
    real sample, with the batch axis: outputs on it must be onnxruntime's. Libraries go below `scratch`. `worth` tells
    what the choosing data find of a plan's weights, where whoever gives these has asked. What layers should take is
    enough to ship them only `by_estimates`, where there is no device.
    """

    model: Model
    target: Target
    weights: Weights
    costs: CostModel
    bench: B
    judges: Judges | None
    inputs: Mapping[str, np.ndarray]
    scratch: Path
    seed: int
    worth: Callable[[Plan], QualityReport] | None = None
    by_estimates: bool = False

    def chosen_by(self, plan: Plan) -> QualityReport | None:
        """What the choosing data find of a plan as it is built; None: there are none."""
        if self.judges is None:
            return None
        return self.worth(plan) if self.worth else self.judges.choosing.evaluate(self.weights(plan))


@dataclass(frozen=True, slots=True)
class Built:
    """A plan as it will ship, and its library: not timed beside the others yet."""

    asked: Plan
    plan: Plan
    refused: Mapping[str, Refusal]
    library: Compiled
    chosen_by: QualityReport | None


def build_finalists(shop: Workshop[Place], plans: Mapping[str, Plan], on_step: Steps) -> dict[str, Built]:
    """Builds plans by their labels, and the dense model, called DENSE, after them.

    Raises:
        CompileError, StorageError, ExecutionError: as `build_networks`.
        MeasureError: a layer that a plan makes sparse was not timed.
    """
    model, found = shop.model, dict[str, Built]()
    asked = {**plans, DENSE: Plan(model.digest)}
    settled = {
        label: compiler.settle(
            model, plan, shop.target, shop.costs,
            by_estimates=shop.by_estimates, baseline=held_to(label, shop.target),
        )
        for label, plan in asked.items()
    }  # fmt: skip
    shipped = dict.fromkeys(plan for plan, _ in settled.values())

    def orders() -> Iterator[NetworkOrder]:
        for plan in shipped:
            directory = shop.scratch / plan.digest[:16]
            directory.mkdir()
            yield NetworkOrder(model, plan, shop.weights(plan), shop.costs.kernels(model, plan), directory)

    libraries: dict[Plan, Compiled] = {}
    on_step(0, len(shipped))
    for order, library in shop.bench.build(shop.inputs, orders()):
        libraries[order.plan] = library
        on_step(len(libraries), len(shipped))
    for label, (plan, refused) in settled.items():
        found[label] = Built(asked[label], plan, refused, libraries[plan], shop.chosen_by(plan))
    return found


def time_side_by_side(
    shop: Workshop[Bench], built: Mapping[str, Built], besides: Mapping[str, Compiled]
) -> dict[str, Measurement]:
    """Times all that was built, other libraries, and the dense model in onnxruntime, called ONNXRUNTIME, in turns.

    Where a network runs on a board, or on what is simulated, there is no onnxruntime, and it is left out.

    Raises:
        MeasureError: a network was not timed.
    """
    libraries = {label: each.library for label, each in built.items()} | dict(besides)
    directories = {label: library.directory for label, library in libraries.items()}
    if shop.target.runner == "local":
        directories[ONNXRUNTIME] = shop.scratch / ONNXRUNTIME
        directories[ONNXRUNTIME].mkdir()
        write_onnxruntime_contender(shop.model, directories[ONNXRUNTIME])
    return shop.bench.time_networks(directories)


def weigh(shop: Workshop[Bench], built: Mapping[str, Built]) -> dict[str, Footprint]:
    """Bytes of everything that was built."""
    return shop.bench.weigh_networks({label: each.library.directory for label, each in built.items()})


def package_finalists(
    shop: Workshop[Place],
    built: Mapping[str, Built],
    times: Mapping[str, Latency],
    weighed: Mapping[str, Footprint],
    artifacts: Path,
) -> tuple[Baselines, tuple[Finalist, ...]]:
    """Judges what was built on held-out data, and packages it.

    Args:
        times: of all of them, and of onnxruntime where it runs, from one run; or estimates.
        weighed: what `weigh` gives of them.
        artifacts: a directory that receives one artifact per plan; it takes the place of an older one of the plan.

    Returns:
        The baselines, and a finalist per plan, in the order of the plans.

    Raises:
        ArtifactError: an artifact cannot be written.
    """
    judges, theirs = shop.judges, times.get(ONNXRUNTIME)
    onnxruntime = theirs if isinstance(theirs, Measurement) else None  # nothing is estimated of it
    baselines = Baselines(
        times[DENSE],
        onnxruntime,
        judges.reporting.evaluate({}) if judges else None,
        judges.robustness({}) if judges else None,
        weighed[DENSE],
    )
    finalists = []
    for label, each in built.items():
        if label == DENSE:
            continue
        quality = judges.reporting.evaluate(shop.weights(each.plan)) if judges else None
        figures = Figures(times[label], times[DENSE], onnxruntime, quality, baselines.quality)
        package = partial(
            compiler.package, shop.model, each.plan, each.refused, each.library, shop.target, shop.costs, figures,
            now=shop.bench.clock(),
        )  # fmt: skip
        # Named by the plan asked for: two of them may ship as the same plan, each with its own proof.
        artifact = replace_artifact(artifacts / each.asked.digest[:16], package)
        robustness = judges.robustness(shop.weights(each.plan)) if judges else None
        finalist = Finalist(
            label, each.asked, each.plan, each.refused, times[label], each.chosen_by, quality, artifact,
            robustness, weighed[label],
        )  # fmt: skip
        finalists.append(finalist)
    return baselines, tuple(finalists)


@dataclass(frozen=True, slots=True)
class Hopeful:
    """What is to be a finalist, as timed before all are timed side by side."""

    label: str
    latency: Latency
    chosen_by: QualityReport | None
    footprint: Footprint


E = TypeVar("E", bound=Entrant)


def pick_winner(finalists: Sequence[E], dense: Latency, limits: Limits) -> E | None:
    """The fastest finalist that is faster than dense beyond noise and within the limits; None: there is none."""
    eligible = [each for each in finalists if limits.refusal(each, dense) is None]
    return min(eligible, key=lambda finalist: finalist.latency.median_s, default=None)


def held_to(label: str, target: Target) -> Choice | None:
    """What a plan's layers keep, whether or not it pays: where it is what an accelerator does without zeros."""
    return target.own_dense if label.startswith(ROUNDED) else None


def is_baseline(label: str) -> bool:
    """Whether a finalist is there for the others to be held to."""
    return label == UNIFORM or label.startswith(ROUNDED)


def subject_of(finalists: Sequence[E], winner: E | None) -> E | None:
    """Whom a comparison is about: the winner, or else the fastest that the search found; None: there is no finalist."""
    searched = [finalist for finalist in finalists if not is_baseline(finalist.label)]
    return winner or min(searched, key=lambda finalist: finalist.latency.median_s, default=None)
