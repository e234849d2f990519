"""Whole channels and heads removed from a network in one shot: which of them go, and what fitting the rest gains.

Channels that depend on each other go together, through residuals, concatenations and depthwise convolutions; of each
family the same share is kept. By magnitude those go whose weights are least in the layers that read them; by structured
OBS those that these layers miss least.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from benchmarks.floors import LEAST_RATIO, SURE_RATIO, Floor, points
from benchmarks.tasks import Task
from hwsparse.errors import DataError
from hwsparse.model import Model
from hwsparse.model.coupling import couple
from hwsparse.sparsify import Evaluator, Narrower, Size, Sizes
from hwsparse.sparsify.correction import SAMPLES
from hwsparse.sparsify.narrow import families

KEPT = (0.9, 0.8, 0.7, 0.5, 0.3)
MAGNITUDE, OBS = "magnitude", "structured OBS"
MAGNITUDE_FITTED, OBS_FITTED = "magnitude, fitted", "structured OBS, fitted"


@dataclass(frozen=True, slots=True, eq=False)
class Removed:
    """A network of which that share of channels and heads is kept; its metric as that of a `Pruned` one."""

    method: str
    kept: float
    values: np.ndarray
    size: Size


def remove(
    task: Task, evaluator: Evaluator, kept: Sequence[float], threads: int, seed: int, console: Console
) -> Iterator[Removed]:
    """The network narrowed to each share in every way; shares that keep as many channels as one before are left out.

    Yields nothing if no channel of it can be removed.
    """
    model = task.model
    if not kept or not families(model, couple(model)):
        return
    for fitted, plain, by_magnitude in ((MAGNITUDE_FITTED, MAGNITUDE, True), (OBS_FITTED, OBS, False)):
        narrower = Narrower(
            model, task.calibration, samples=SAMPLES, threads=threads, seed=seed, by_magnitude=by_magnitude
        )
        seen = {_shape(model)}
        for share in kept:
            cut = narrower.cut(model, share)
            if _shape(cut) not in seen:
                seen.add(_shape(cut))
                for method, narrow in ((plain, cut), (fitted, narrower.narrow(share))):
                    try:
                        values = evaluator.beside(narrow).resampled({})
                    except DataError as error:  # onnxruntime cannot run it, or its answers are not finite
                        console.print(f"{model.name}, {method}, {share:.0%} kept is left out: {error}")
                        continue
                    yield Removed(method, share, values, Sizes(narrow).of_weights({}))


def removal_floors(found: Sequence[Removed]) -> Iterator[Floor]:
    """What structured OBS gains over magnitude: with what is fitted, and told beside, where magnitude is fitted too."""
    values = {(each.method, each.kept): each.values for each in found}
    for plain, asked in ((MAGNITUDE, True), (MAGNITUDE_FITTED, False)):
        for kept in dict.fromkeys(each.kept for each in found):
            if not {(OBS_FITTED, kept), (plain, kept)} <= values.keys():
                continue
            gain = points(values[OBS_FITTED, kept] - values[plain, kept])
            ratio = 1 - kept
            holds = (gain[1] if ratio >= SURE_RATIO else gain[0]) > 0 if asked and ratio >= LEAST_RATIO else None
            yield Floor(f"{OBS_FITTED} over {plain}", f"{kept:.0%} of channels", gain, holds)


def removal_table(task: Task, dense: np.ndarray, found: Sequence[Removed]) -> Table:
    """Points lost, a row for each share of channels and a column for each way."""
    methods = list(dict.fromkeys(each.method for each in found))
    title = f"{task.model.name}: points of {task.held_out.metric} lost where whole channels and heads are removed"
    table = Table(Column("kept", overflow="fold"), "FLOPs, parameters", *methods, title=title)
    whole = Sizes(task.model).of_weights({})
    for kept in dict.fromkeys(each.kept for each in found):
        own = {each.method: each for each in found if each.kept == kept}
        size = next(iter(own.values())).size
        told = {each.method: "{:.1f} ({:.1f} to {:.1f})".format(*points(dense - each.values)) for each in own.values()}
        left = f"{size.macs / whole.macs:.0%}, {size.parameters / whole.parameters:.0%}"
        table.add_row(f"{kept:.0%}", left, *(told.get(method, "") for method in methods))
    return table


def _shape(model: Model) -> tuple[tuple[int, ...], ...]:
    return tuple(layer.weight_shape for layer in model.layers)
