"""The reader is picked by what lies at the path."""

from __future__ import annotations

from pathlib import Path

from hwsparse.data.dataset import Dataset
from hwsparse.data.images import COLUMNS as IMAGE_COLUMNS
from hwsparse.data.images import ImagePreprocess, read_image_csv, read_image_folder
from hwsparse.data.npz import read_npz
from hwsparse.data.table import header
from hwsparse.data.text_pairs import COLUMNS as PAIR_COLUMNS
from hwsparse.data.text_pairs import read_text_pairs
from hwsparse.errors import DataError


def read_dataset(
    path: Path,
    *,
    preprocess: ImagePreprocess | None = None,
    tokenizer: Path | None = None,
    max_tokens: int = 128,
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Reads a data set.

    Args:
        path: a `.npz` file; a CSV of images (file,class_index) or of sentence pairs (sentence1,sentence2,score); or
            a directory with a `labels.csv` or with one subdirectory of images per class.
        preprocess: how images are prepared; needed for images.
        tokenizer: a `tokenizer.json`; needed for sentence pairs.
        limit: take only that many images or pairs, drawn by `seed`.

    Raises:
        DataError: nothing of this kind is there, something needed was not given, or the reader found a fault.
    """
    if path.is_dir():
        table = path / "labels.csv"
        if table.is_file():
            return read_image_csv(table, _needed(preprocess, path), limit=limit, seed=seed)
        return read_image_folder(path, _needed(preprocess, path), limit=limit, seed=seed)
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix != ".csv":
        what = "is not a .npz file, a .csv file or a directory" if path.exists() else "does not exist"
        raise DataError(f"data set {path} {what}")
    columns = header(path)
    if set(PAIR_COLUMNS) <= set(columns):
        if tokenizer is None:
            raise DataError(f"{path} holds sentence pairs: give the network's tokenizer.json")
        return read_text_pairs(path, tokenizer, max_tokens=max_tokens, limit=limit, seed=seed)
    if set(IMAGE_COLUMNS) <= set(columns):
        return read_image_csv(path, _needed(preprocess, path), limit=limit, seed=seed)
    raise DataError(
        f"{path} has columns {','.join(columns)[:200]}; use {','.join(IMAGE_COLUMNS)} for images "
        f"or {','.join(PAIR_COLUMNS)} for sentence pairs"
    )


def _needed(preprocess: ImagePreprocess | None, path: Path) -> ImagePreprocess:
    if preprocess is None:
        raise DataError(f"{path} holds images: say how they are prepared (size, mean, std)")
    return preprocess
