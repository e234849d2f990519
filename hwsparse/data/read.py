"""The reader is picked by what lies at the path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hwsparse.data.dataset import Dataset
from hwsparse.data.images import COLUMNS as IMAGE_COLUMNS
from hwsparse.data.images import ImagePreprocess, read_image_csv, read_image_folder
from hwsparse.data.npz import read_npz
from hwsparse.data.table import choose, header
from hwsparse.data.text_pairs import COLUMNS as PAIR_COLUMNS
from hwsparse.data.text_pairs import INPUTS as TEXT_INPUTS
from hwsparse.data.text_pairs import TOKENS, read_text_pairs
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
) -> Dataset:
    """Reads a data set.

    Args:
        path: a `.npz` file; a CSV of images (file,class_index) or of sentence pairs (sentence1,sentence2,score); or
            a directory with a `labels.csv` or with one subdirectory of images per class.
        model: whose inputs sentence pairs become; by default 128 tokens and their mask.
        preprocess: how images are prepared; needed for images, and for nothing else.
        tokenizer: a `tokenizer.json`; needed for sentence pairs, and for nothing else.
        limit: take only that many samples or pairs, drawn by `seed`.

    Raises:
        DataError: nothing of this kind is there, something needed was not given, something was given that this kind
            does not need, or the reader found a fault.
    """
    if path.is_dir():
        prepared = _for_images(path, preprocess, tokenizer)
        table = path / "labels.csv"
        if table.is_file():
            return read_image_csv(table, prepared, limit=limit, seed=seed)
        return read_image_folder(path, prepared, limit=limit, seed=seed)
    if path.suffix == ".npz":
        _require_none(path, "arrays", preprocess, tokenizer)
        whole = read_npz(path)
        return whole if limit is None else whole.subset(choose(len(whole), limit, seed))
    if path.suffix != ".csv":
        what = "is not a .npz file, a .csv file or a directory" if path.exists() else "does not exist"
        raise DataError(f"data set {path} {what}")
    columns = header(path)
    if set(PAIR_COLUMNS) <= set(columns):
        _require_none(path, "sentence pairs", preprocess, None)
        if tokenizer is None:
            raise DataError(f"{path} holds sentence pairs: give the network's tokenizer.json (--tokenizer)")
        inputs, tokens = _text_inputs(path, model) if model else (TEXT_INPUTS, TOKENS)
        return read_text_pairs(path, tokenizer, inputs=inputs, max_tokens=tokens, limit=limit, seed=seed)
    if set(IMAGE_COLUMNS) <= set(columns):
        return read_image_csv(path, _for_images(path, preprocess, tokenizer), limit=limit, seed=seed)
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
