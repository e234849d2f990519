"""Options that several commands share, and how their texts become types."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hwsparse.errors import InputError, PlanError
from hwsparse.latency.board import Address
from hwsparse.metric import METRICS
from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.probe import cache_directory
from hwsparse.range_methods import DEFAULT_METHOD, METHODS
from hwsparse.search.bounds import Bounds
from hwsparse.target import Target, load_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwsparse.data import Dataset, Samples
    from hwsparse.model import Model

# A user without a home keeps measurements where the command runs.
CACHE = cache_directory() or Path("hwsparse-cache")

MODEL: Any = typer.Argument(help="An ONNX file.")
DATA: Any = typer.Option(
    help="Labelled data: a .npz (inputs by name, labels), a folder of images (one sub-folder per class, or a "
    "labels.csv), or a CSV of image files or sentence pairs. Without labels the dense model's own answers are taken."
)
TARGET: Any = typer.Option("x86-local", help="A device's name (see `hwsparse targets`), or a descriptor's path.")
OUT: Any = typer.Option(Path("hwsparse-out"), help="Directory for everything that is written.")
CHOICE: Any = typer.Option(
    None, help="One choice for every layer that can have it, as block4x1@0.9, 2:4 or block4x4@0.5/int8."
)
DTYPE: Any = typer.Option(
    [],
    help="Types of weights, and of what layers read, to choose from: float32, float16, bfloat16, int8; may be "
    "repeated. With others than float32, layers are rounded as they are pruned. By default float32, or what the "
    "device's accelerator is of.",
)
RANGES: Any = typer.Option(
    DEFAULT_METHOD,
    help="How the range of what int8 layers read is found on samples, where the model does not state it: "
    f"{', '.join(METHODS)}.",
)
MAX_LATENCY_MS: Any = typer.Option(None, help="The winner may take no longer.")
MIN_QUALITY: Any = typer.Option(
    None, help="The winner must be worth this on the samples that choose, whatever it lost."
)
MAX_FILE_MB: Any = typer.Option(None, help="The winner's files may have no more, in MB of 1,000,000 bytes.")
MAX_MEMORY_MB: Any = typer.Option(None, help="The winner may take no more memory while it runs, in MB.")
PLAN: Any = typer.Option(
    None,
    help="A file with a plan, instead of --choice: JSON with the model's digest and each pruned layer's choice, as "
    '{"model": "3f9a...", "choices": {"conv1": "block4x1@0.9"}}; `hwsparse inspect` tells digest and names.',
)
THREADS: Any = typer.Option(None, help="Threads that inference runs with; by default the device's own number.")
SEED: Any = typer.Option(0, help="Of everything random.")
SHAPE: Any = typer.Option([], help="An input's shape where the file leaves it open, as x=1,3,224,224; may be repeated.")
TOKENIZER: Any = typer.Option(None, help="The network's tokenizer.json, for sentence pairs.")
IMAGE: Any = typer.Option(
    None,
    help="How images are prepared: SIZE[,mean=M][,std=S][,scale=K][,resize=R], M and S one number or three with "
    "slashes, as 224,mean=127,std=128. A pixel becomes (pixel * K - M) / S.",
)
METRIC: Any = typer.Option(
    None,
    help=f"What quality is, if not what it is for such data by default: {', '.join(METRICS)}. More is better, always.",
)
ROBUSTNESS: Any = typer.Option(
    False,
    "--robustness",
    help="Judge what is built under corruptions too: noise, blur and less contrast for images, typos for text. They "
    "report, and choose nothing.",
)
WITHIN: Any = typer.Option(
    None,
    min=0.01,
    max=1.0,
    help="Measure only so many choices that all others can be predicted this surely: 0.1 for nine in ten within 10 %.",
)
LIMIT: Any = typer.Option(None, help="Use only so many samples, drawn by the seed.")
RAY: Any = typer.Option(
    None,
    metavar="ADDRESS",
    help="Have a Ray cluster prune layers, evaluate plans and build libraries: HOST:PORT, ray://HOST:PORT, auto (the "
    "one that runs here) or local (one started here); takes `pip install 'hwsparse[ray]'`. What is timed is timed by "
    "this host. Without it, processes of this machine do the work.",
)
TRACKER: Any = typer.Option(
    None, metavar="HOST:PORT", help="Where boards of the device are registered, for a target that is timed on boards."
)
PRIORITY: Any = typer.Option(1, help="Before others who wait for a board: the higher, the earlier.")
RECORDS: Any = typer.Option(CACHE / "records.sqlite", help="Where measurements are kept, so that none is made twice.")


def device(name: str, threads: int | None) -> Target:
    """The target asked for, with the threads asked for."""
    target = load_target(name)
    return target if threads is None else target.with_threads(threads)


def timed_device(name: str, threads: int | None) -> Target:
    """As `device`, of one that is timed from here.

    Raises:
        UnsupportedError: it is not.
    """
    target = device(name, threads)
    target.require_timing()
    return target


def timed_place(
    name: str, threads: int | None, tracker: str | None, priority: int, *, estimates: bool = False
) -> tuple[Target, Address | None]:
    """The target asked for, and where to find a board of it, if it is timed on boards.

    Args:
        estimates: serve too, where there is no tracker and the target can be estimated.

    Raises:
        InputError: the tracker's address is none.
        UnsupportedError: it cannot be timed so.
    """
    target = device(name, threads)
    board = Address.parse(tracker, target.name, priority) if tracker is not None else None
    if not (estimates and board is None and target.estimable):
        target.require_timing(board=board is not None)
    return target, board


def shapes(texts: list[str]) -> dict[str, tuple[int, ...]]:
    """Reads --shape options.

    Raises:
        InputError: not of the form NAME=1,3,224,224.
    """
    found = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        try:
            shape = tuple(int(size) for size in sizes.split(","))
        except ValueError:
            shape = ()
        if not name or not shape or min(shape) < 1:
            raise InputError(f"--shape {text!r}: give it as NAME=1,3,224,224")
        found[name] = shape
    return found


def dataset(
    path: Path,
    model: Model,
    tokenizer: Path | None,
    image: str | None,
    limit: int | None,
    seed: int,
    metric: str | None = None,
) -> Dataset:
    """Reads --data for a model as the other options say.

    Raises:
        InputError: the limit is below 1, or --image is malformed.
        DataError: the data cannot be read, do not fit the model, or an option does not apply to them.
    """
    return samples(path, model, tokenizer, image, limit, seed, metric).judged(metric, model).for_model(model)


def samples(
    path: Path,
    model: Model | None,
    tokenizer: Path | None,
    image: str | None,
    limit: int | None,
    seed: int,
    metric: str | None = None,
) -> Samples:
    """Reads --data as the other options say, for a model or before there is one; what judges them is settled later.

    Raises:
        InputError: the limit is below 1, or --image is malformed.
        DataError: the data cannot be read, or an option does not apply to them.
    """
    from hwsparse.data import read_samples

    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: at least 1 sample is needed")
    return read_samples(
        path, model=model, preprocess=_image(image), tokenizer=tokenizer, limit=limit, seed=seed, metric=metric
    )


def corrupted(
    known: Dataset,
    path: Path,
    model: Model | None,
    tokenizer: Path | None,
    image: str | None,
    limit: int | None,
    seed: int,
) -> Iterator[Dataset]:
    """What `dataset` read, or `samples`, under every corruption of its kind, one after the other.

    Raises:
        DataError: the data are arrays, which cannot be corrupted.
    """
    from hwsparse.data import read_corrupted

    return read_corrupted(
        known, path, model=model, preprocess=_image(image), tokenizer=tokenizer, limit=limit, seed=seed
    )


def _image(text: str | None) -> Any:
    from hwsparse.data import ImagePreprocess

    if text is None:
        return None
    size, *rest = text.split(",")
    given = dict(part.partition("=")[::2] for part in rest)
    if unknown := set(given) - {"mean", "std", "scale", "resize"}:
        raise InputError(f"--image {text!r}: {min(unknown)!r} is none of mean, std, scale, resize")
    try:
        return ImagePreprocess(
            size=(int(size), int(size)),
            mean=_three(given.get("mean", "0")),
            std=_three(given.get("std", "1")),
            scale=float(given.get("scale", "1")),
            resize=int(given["resize"]) if "resize" in given else None,
        )
    except ValueError:
        raise InputError(f"--image {text!r}: give it as 224,mean=127,std=128") from None


def _three(text: str) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in text.split("/"))
    return numbers * 3 if len(numbers) == 1 else numbers


def bounds(
    max_latency_ms: float | None, min_quality: float | None, max_file_mb: float | None, max_memory_mb: float | None
) -> Bounds:
    """What --max-latency-ms, --min-quality, --max-file-mb and --max-memory-mb ask for.

    Raises:
        InputError: one of them is no limit.
    """
    given = {"--max-latency-ms": max_latency_ms, "--max-file-mb": max_file_mb, "--max-memory-mb": max_memory_mb}
    for name, limit in given.items():
        if limit is not None and not 0 < limit < math.inf:
            raise InputError(f"{name}: a limit above 0, not {limit:g}")
    if min_quality is not None and not math.isfinite(min_quality):
        raise InputError(f"--min-quality: a number, not {min_quality:g}")
    seconds, file_bytes, memory_bytes = (
        None if limit is None else limit * unit for limit, unit in zip(given.values(), (1e-3, 1e6, 1e6), strict=True)
    )
    return Bounds(seconds, file_bytes, memory_bytes, min_quality)


def choice(text: str) -> Choice:
    """Reads --choice.

    Raises:
        PatternError, InputError: it is none, or would leave everything, or nothing, of every layer.
    """
    found = parse_choice(text)
    if not found.is_dense and not 0 < found.ratio < 1:
        raise InputError(f"--choice {text}: shares of zeros lie between 0 and 1, without these; or give dense")
    return found


def asked(text: str | None, path: Path | None) -> Choice | Plan:
    """What --choice or --plan asks for.

    Raises:
        InputError: both are given, or none, or not such a choice or plan.
    """
    if text is not None and path is None:
        return choice(text)
    if text is not None or path is None:
        raise InputError("give either --choice or --plan")
    try:
        return Plan.from_json(_text(path))
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None


def _text(path: Path) -> str:
    """A file's text.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
