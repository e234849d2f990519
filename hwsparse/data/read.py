"""The reader is picked by what lies at the path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hwsparse.data.corruptions import PIXELS, TEXTS, Corruption
from hwsparse.data.dataset import Dataset
from hwsparse.data.images import COLUMNS as IMAGE_COLUMNS
from hwsparse.data.images import ImagePreprocess, csv_samples, folder_samples
from hwsparse.data.npz import npz_samples
from hwsparse.data.samples import Samples
from hwsparse.data.table import header
from hwsparse.data.text_pairs import COLUMNS as PAIR_COLUMNS
from hwsparse.data.text_pairs import INPUTS as TEXT_INPUTS
from hwsparse.data.text_pairs import SENTENCES, TOKENS, pair_samples
from hwsparse.errors import DataError

if TYPE_CHECKING:
    from hwsparse.model import Model


def read_dataset(
    path: Path,
    *,
    model: Model | None = None,
    preprocess: ImagePreprocess | None = None,
    tokenizer: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    metric: str | None = None,
) -> Dataset:
    """Reads a data set: samples, judged by a metric.

    Args:
        metric: what to judge by, if not by what data of this kind are by default.
        model: as below; and whose answers are the labels where there are none.

    Raises:
        DataError: as below, or the metric does not fit.
    """
    found = read_samples(
        path, model=model, preprocess=preprocess, tokenizer=tokenizer, limit=limit, seed=seed, metric=metric
    )
    return found.judged(metric, model)


def read_samples(
    path: Path,
    *,
    model: Model | None = None,
    preprocess: ImagePreprocess | None = None,
    tokenizer: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    metric: str | None = None,
) -> Samples:
    """Reads samples, and labels where there are any; what they are judged by may be settled later.

    Args:
        path: a `.npz` file; a CSV of images (file,class_index) or of sentence pairs (sentence1,sentence2,score); or
            a directory with a `labels.csv` or with one subdirectory of images per class. Of each, what makes the
            labels may be left out: the array, the last column, the subdirectories.
        model: whose inputs sentence pairs become, by default 128 tokens and their mask.
        preprocess: how images are prepared; needed for images, and for nothing else.
        tokenizer: a `tokenizer.json`; needed for sentence pairs, and for nothing else.
        limit: take only that many samples or pairs, drawn by `seed`.
        metric: what they will be judged by, which tells how many rows of arrays a label speaks of.

    Raises:
        DataError: nothing of this kind is there, something needed was not given, something was given that this kind
            does not need, or the reader found a fault.
    """
    if path.suffix == ".npz" and not path.is_dir():
        _require_none(path, "arrays", preprocess, tokenizer)
        whole = npz_samples(path)
        return whole if limit is None else whole.drawn(limit, seed, metric)
    return _samples(path, model, preprocess, tokenizer, limit, seed, None)


def read_corrupted(
    dataset: Dataset,
    path: Path,
    *,
    model: Model | None = None,
    preprocess: ImagePreprocess | None = None,
    tokenizer: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Iterator[Dataset]:
    """A data set under every corruption of its kind, one after the other: the same samples, with the same labels.

    Labels that are a model's own answers stay those to the samples as they are.

    Args:
        dataset: what `read_dataset` read with these same arguments.

    Raises:
        DataError: the data are arrays, which it is too late to corrupt.
    """
    if preprocess is None and tokenizer is None:
        raise DataError(
            f"{path} holds arrays: only images and text can be corrupted, before they become arrays; leave out "
            "--robustness"
        )
    corruptions = [Corruption(name, seed=seed) for name in (TEXTS if preprocess is None else PIXELS)]
    return (
        dataset.under(str(each), _samples(path, model, preprocess, tokenizer, limit, seed, each).inputs)
        for each in corruptions
    )


def _samples(
    path: Path,
    model: Model | None,
    preprocess: ImagePreprocess | None,
    tokenizer: Path | None,
    limit: int | None,
    seed: int,
    corruption: Corruption | None,
) -> Samples:
    """Samples of any kind but arrays."""
    if path.is_dir():
        if not any(path.iterdir()):
            raise DataError(f"{path} is empty; images, or a labels.csv, belong there")
        prepared = _for_images(path, preprocess, tokenizer)
        if (table := path / "labels.csv").is_file():
            return csv_samples(table, prepared, limit, seed, corruption=corruption)
        return folder_samples(path, prepared, limit, seed, corruption=corruption)
    if path.suffix != ".csv":
        what = "is not a .npz file, a .csv file or a directory" if path.exists() else "does not exist"
        raise DataError(f"data set {path} {what}")
    columns = header(path)
    if set(SENTENCES) <= set(columns):
        _require_none(path, "sentence pairs", preprocess, None)
        if tokenizer is None:
            raise DataError(f"{path} holds sentence pairs: give the network's tokenizer.json (--tokenizer)")
        inputs, tokens = _text_inputs(path, model) if model else (TEXT_INPUTS, TOKENS)
        return pair_samples(path, tokenizer, tokens, inputs, limit, seed, corruption)
    if IMAGE_COLUMNS[0] in columns:
        return csv_samples(path, _for_images(path, preprocess, tokenizer), limit, seed, corruption=corruption)
    raise DataError(
        f"{path} has columns {','.join(columns)[:200]}; use {','.join(IMAGE_COLUMNS)} for images "
        f"or {','.join(PAIR_COLUMNS)} for sentence pairs"
    )


def _for_images(path: Path, preprocess: ImagePreprocess | None, tokenizer: Path | None) -> ImagePreprocess:
    _require_none(path, "images", None, tokenizer)
    if preprocess is None:
        raise DataError(f"{path} holds images: say how they are prepared (--image SIZE,mean=M,std=S)")
    return preprocess


def _require_none(path: Path, holds: str, preprocess: ImagePreprocess | None, tokenizer: Path | None) -> None:
    """Refuses what does not apply to data of this kind, rather than ignore it."""
    given = {"the preparation of images (--image)": preprocess, "a tokenizer (--tokenizer)": tokenizer}
    if extra := [what for what, value in given.items() if value is not None]:
        raise DataError(f"{path} holds {holds}: {' and '.join(extra)} cannot apply to it; leave that out")


def _text_inputs(path: Path, model: Model) -> tuple[dict[str, str], int]:
    """The inputs of a model of sentences, as name and type, and how many tokens it takes."""
    tokens = {spec.shape[1:] for spec in model.inputs}
    if len(tokens) != 1 or len(shape := tokens.pop()) != 1:
        takes = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in model.inputs)
        raise DataError(f"{path} holds sentence pairs, but model {model.name!r} takes {takes}, not (1, tokens)")
    return {spec.name: spec.dtype for spec in model.inputs}, shape[0]
