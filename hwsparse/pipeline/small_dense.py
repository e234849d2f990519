"""The small dense baseline: the same model narrowed until it is as fast as the sparse network that it is held to.

Latency is not smooth in the share of channels that is kept: a few shares are built, unfitted, and timed beside that
network; the nearest of them is fitted, and its layers get the kernels that are fastest, as every layer does.
A share that a training was begun with is kept as long as it will do: by other timings another would be the nearest, and
would have to be trained from the start.
Liu, Sun, Zhou, Huang, Darrell, "Rethinking the Value of Network Pruning", ICLR 2019, say why it must be there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hwsparse import compiler, strictjson
from hwsparse.errors import CompileError, DataError, InputError, MeasureError, ModelError, TuningError
from hwsparse.latency import CostModel, Measurement
from hwsparse.latency.sent import Compiled
from hwsparse.model import Model
from hwsparse.pipeline.bench import ROUGH_PATIENCE_S, Bench, Steps
from hwsparse.pipeline.building import NetworkOrder
from hwsparse.pipeline.finals import DENSE, SMALL_DENSE, Built, Workshop
from hwsparse.pipeline.judges import Judges
from hwsparse.pipeline.outcome import faster
from hwsparse.plan import Plan
from hwsparse.report.audit import SAME_LATENCY
from hwsparse.report.files import write_whole
from hwsparse.sparsify import Narrower, narrowed_shape

ROUNDS = 3  # of shares that are built and timed: two, then one at a time
NEAR = 0.03  # of the latency that is wanted: near enough
SMALLEST = 0.02
STEPS = ROUNDS + 4

Aim = Callable[[Mapping[str, Measurement]], str | None]  # times by label -> the label of the network to be as fast as
# What narrows, the share it keeps, the fitted network -> that after training; itself if that made it no better.
Trainer = Callable[[Narrower, float, Model], Model]


@dataclass(frozen=True, slots=True)
class Lessons:
    """How a narrower network is trained, and the file that tells with which share that was begun."""

    train: Trainer
    begun: Path


@dataclass(frozen=True, slots=True)
class _Begun:
    """What is in that file."""

    keep: float

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise InputError(f"{self.keep} is no share of channels")


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A narrower network, fitted and perhaps trained, and its library."""

    model: Model
    keep: float
    trained: bool
    library: Compiled


def narrow_to(
    shop: Workshop[Bench],
    judges: Judges,
    built: Mapping[str, Built],
    aim: Aim,
    on_step: Steps,
    lessons: Lessons | None = None,
) -> Narrowed | str:
    """The network narrowed to the latency of one that was built; why not, where it cannot be.

    Args:
        lessons: the training that it gets; None: none.

    Raises:
        HwsparseError: the share cannot be written down.
    """
    directories = {label: each.library.directory for label, each in built.items()}
    times = shop.bench.time_networks(directories, ROUGH_PATIENCE_S)
    on_step(1, STEPS)
    label = aim(times)
    if label is None or not faster(times[label], times[DENSE]):
        return "no finalist is faster than the dense model"
    try:
        begun = _begun(lessons.begun) if lessons is not None else None
        share = _share(shop, built[label].library, times[DENSE].median_s / times[label].median_s, begun, on_step)
        if share is None:
            return f"no narrower network comes nearer to the latency of {label} than the dense one"
        return _fitted(shop, judges, share, on_step, lessons)
    except (ModelError, CompileError, MeasureError, TuningError, DataError) as error:
        return str(error)


def first_shares(dense: float) -> list[float]:
    """The shares to try first for a latency of 1, of a network that takes `dense`: the right one lies between them.

    Work goes with the square of the share where what layers read is narrower as well, and with the share where it
    is not; time with work, more or less.
    """
    return [max(share, SMALLEST) for share in (dense**-0.5, 1 / dense)]


def next_share(tried: Mapping[float, float]) -> float:
    """The share of channels to try next for a latency of 1.

    Work goes with the square of the share, and time with work, more or less: on a line in squares between the nearest
    that was faster and the nearest above it that was slower. As long as none was faster, on the line of the two that
    were nearest; of one alone, on that to nothing at all.

    Args:
        tried: latencies by share, in that of the network to be as fast as; that of 1 is above 1.
    """
    low = max((share for share, latency in tried.items() if latency < 1), default=0.0)
    high, *above = sorted(share for share, latency in tried.items() if latency >= 1 and share > low)
    if not low and above and tried[above[0]] > tried[high]:
        low = above[0]
    start, end = tried.get(low, 0.0), tried[high]
    square = low**2 + (1 - start) / (end - start) * (high**2 - low**2)
    return float(max(square, SMALLEST**2) ** 0.5)


def _begun(path: Path) -> float | None:
    """The share that a training was begun with; None: there was none.

    Raises:
        TuningError: the file is damaged.
    """
    try:
        return strictjson.loads(_Begun, path.read_bytes(), str(path)).keep
    except FileNotFoundError:
        return None
    except (OSError, InputError) as error:
        raise TuningError(f"{path}: does not tell a share of channels: remove it ({error})") from None


def _share(shop: Workshop[Bench], library: Compiled, dense: float, begun: float | None, on_step: Steps) -> float | None:
    """The share whose network takes about as long as a library, of those tried; None: that of the dense model.

    Args:
        begun: a share that is taken if its network is still as fast as a fair comparison asks for.
    """
    tried, shapes, share = {1.0: dense}, {_shape(shop.model)}, begun
    for number in range(ROUNDS):
        shares = [share] if share is not None else first_shares(dense)
        narrow = {_shape(each): (share, each) for share in shares for each in [narrowed_shape(shop.model, share)]}
        if not (new := narrow.keys() - shapes):
            break
        shapes |= new
        tried |= _timed(shop, library, dict(narrow[shape] for shape in new))
        on_step(2 + number, STEPS)
        if begun in tried and abs(tried[begun] - 1) <= SAME_LATENCY:
            return begun
        if min(abs(each - 1) for each in tried.values()) <= NEAR:
            break
        share = next_share(tried)
    nearest = min(tried, key=lambda share: abs(tried[share] - 1))
    return nearest if nearest < 1 else None


def _timed(shop: Workshop[Bench], library: Compiled, narrow: Mapping[float, Model]) -> dict[float, float]:
    """Networks of these shares, built side by side: the latency of each, in that of a library."""
    labels, orders = {}, []
    for share, model in narrow.items():
        labels[share] = f"{SMALL_DENSE} {share}"
        directory = shop.scratch / labels[share]
        directory.mkdir()
        orders.append(NetworkOrder(model, Plan(model.digest), {}, {}, directory))
    built = shop.bench.build(shop.inputs, orders)
    directories = {order.directory.name: probe.directory for order, probe in built} | {"sparse": library.directory}
    times = shop.bench.time_networks(directories, ROUGH_PATIENCE_S)
    return {share: times[label].median_s / times["sparse"].median_s for share, label in labels.items()}


def _fitted(shop: Workshop[Bench], judges: Judges, share: float, on_step: Steps, lessons: Lessons | None) -> Narrowed:
    def tick(step: int) -> Steps:
        return lambda done, total: on_step(step, STEPS)

    narrower = Narrower(
        shop.model, judges.fitting, threads=shop.target.host_cores, seed=shop.seed, progress=tick(STEPS - 3)
    )  # fmt: skip
    fitted = narrower.narrow(share, tick(STEPS - 2))
    model = fitted
    if lessons is not None:
        write_whole(lessons.begun, strictjson.dumps(_Begun(share)).encode())
        model = lessons.train(narrower, share, fitted)
    costs = CostModel.fit(shop.bench.calibrate(model, {}, tick(STEPS - 1)).table)
    library = _built(shop, model, costs.kernels(model, Plan(model.digest)), "narrow")
    on_step(STEPS, STEPS)
    return Narrowed(model, share, model is not fitted, library)


def _built(shop: Workshop[Bench], model: Model, kernels: Mapping[str, str], name: str) -> Compiled:
    directory = shop.scratch / name
    directory.mkdir()
    return compiler.build(
        model, Plan(model.digest), {}, shop.target, kernels, shop.inputs, directory, shop.bench.answer
    )


def _shape(model: Model) -> tuple[tuple[int, ...], ...]:
    return tuple(layer.weight_shape for layer in model.layers)
