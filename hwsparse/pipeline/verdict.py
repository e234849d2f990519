"""What was built beside what it is held to: timed in one run, judged on the same samples, and the winner of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hwsparse.errors import DataError
from hwsparse.latency import Footprint, Measurement
from hwsparse.pipeline.bench import Bench, Place, Steps, file_bytes
from hwsparse.pipeline.ceiling import find_ceiling
from hwsparse.pipeline.estimation import estimates
from hwsparse.pipeline.finals import (
    DENSE,
    SMALL_DENSE,
    Hopeful,
    Workshop,
    build_finalists,
    package_finalists,
    pick_winner,
    subject_of,
    time_side_by_side,
    weigh,
)
from hwsparse.pipeline.judges import Judges
from hwsparse.pipeline.outcome import Baselines, Finalist, Limits, Rivals, SmallDense
from hwsparse.pipeline.small_dense import Lessons, Narrowed, narrow_to
from hwsparse.plan import Plan
from hwsparse.sparsify import LayerDatabase


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who was built, what they are held to, and who won; `rivals` is None if nobody was built."""

    baselines: Baselines
    finalists: tuple[Finalist, ...]
    winner: Finalist | None
    rivals: Rivals | None


def reach_verdict(
    shop: Workshop[Bench],
    judges: Judges,
    plans: Mapping[str, Plan],
    limits: Limits,
    database: LayerDatabase,
    artifacts: Path,
    on_stage: Callable[[str, int, int], None],
    lessons: Lessons | None = None,
) -> Verdict:
    """Builds plans by label and what they are held to, times all of them in one run, packages, and picks the winner.

    Args:
        database: of pruned layers; the ceiling's are added to it.
        artifacts: a directory that receives one artifact per plan.
        lessons: give the small dense network the training that the plans' weights had; None: they had none.

    Raises:
        CompileError, MeasureError, ArtifactError: as `build_finalists`, `time_side_by_side`, `package_finalists`.
        HwsparseError: as `narrow_to`.
        DataError: onnxruntime cannot run a sample.
    """
    built = build_finalists(shop, plans, partial(on_stage, "finalists"))
    weighed = weigh(shop, built)

    def aim(times: Mapping[str, Measurement]) -> str | None:
        found = [Hopeful(label, times[label], built[label].chosen_by, weighed[label]) for label in plans]
        subject = subject_of(found, pick_winner(found, times[DENSE], limits))
        return subject.label if subject is not None else None

    narrowed = narrow_to(shop, judges, built, aim, partial(on_stage, SMALL_DENSE), lessons)
    besides = {} if isinstance(narrowed, str) else {SMALL_DENSE: narrowed.library}
    on_stage("side by side", 0, 1)
    times = time_side_by_side(shop, built, besides)
    packaged = package_finalists(shop, built, times, weighed, artifacts)
    on_stage("side by side", 1, 1)

    def small_dense() -> SmallDense | str:
        return narrowed if isinstance(narrowed, str) else _judged(narrowed, times[SMALL_DENSE], judges)

    return _decided(shop, judges, packaged, limits, database, small_dense, on_stage)


def estimated_verdict(
    shop: Workshop[Place],
    judges: Judges,
    plans: Mapping[str, Plan],
    limits: Limits,
    database: LayerDatabase,
    artifacts: Path,
    on_stage: Callable[[str, int, int], None],
) -> Verdict:
    """Builds plans by label, estimates them, packages, and picks the winner: what `reach_verdict` does on a device.

    Raises:
        CompileError, ArtifactError: as `build_finalists`, `package_finalists`.
        DataError: onnxruntime cannot run a sample.
    """
    packaged = package_estimated(shop, plans, artifacts, partial(on_stage, "finalists"))
    small = "nothing can be timed without a device, to make it as fast"
    return _decided(shop, judges, packaged, limits, database, lambda: small, on_stage)


def package_estimated(
    shop: Workshop[Place], plans: Mapping[str, Plan], artifacts: Path, on_step: Steps
) -> tuple[Baselines, tuple[Finalist, ...]]:
    """Builds plans by label, and the dense model, and packages them with what they should take, where nothing can run.

    Raises:
        CompileError, ArtifactError: as `build_finalists`, `package_finalists`.
    """
    built = build_finalists(shop, plans, on_step)
    weighed = {label: Footprint(file_bytes(each.library.directory), None) for label, each in built.items()}
    times = estimates(shop.model, {label: each.plan for label, each in built.items()}, shop.target, shop.costs)
    return package_finalists(shop, built, times, weighed, artifacts)


def _decided(
    shop: Workshop[Place],
    judges: Judges,
    packaged: tuple[Baselines, tuple[Finalist, ...]],
    limits: Limits,
    database: LayerDatabase,
    small_dense: Callable[[], SmallDense | str],
    on_stage: Callable[[str, int, int], None],
) -> Verdict:
    """Who won of what was packaged, and what that is held to: a small dense network, and the unstructured ceiling."""
    baselines, finalists = packaged
    winner = pick_winner(finalists, baselines.dense, limits)
    subject = subject_of(finalists, winner)
    if subject is None:
        return Verdict(baselines, finalists, winner, None)
    small = small_dense()
    ceiling = find_ceiling(subject.plan, database, shop.weights, judges, partial(on_stage, "ceiling"))
    return Verdict(baselines, finalists, winner, Rivals(subject.label, small, ceiling))


def _judged(narrowed: Narrowed, latency: Measurement, judges: Judges) -> SmallDense | str:
    """The small dense network with what it is worth; why not, if its answers are not finite."""
    model = narrowed.model
    try:
        quality, robustness = judges.reporting.evaluate_other(model), judges.robustness_of(model)
    except DataError as error:
        return str(error)
    return SmallDense(model, narrowed.keep, narrowed.trained, latency, quality, robustness)
