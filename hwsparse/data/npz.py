"""Arrays in a `.npz` file become a data set. No pickle is ever loaded; sizes are checked before anything is read."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from hwsparse.data.dataset import Dataset
from hwsparse.data.samples import Samples
from hwsparse.errors import DataError, StorageError
from hwsparse.metric import METRICS, Kind

MAX_DATA_BYTES = 8 * 2**30
_LABELS = ("labels", "y")
_METRIC = "metric"  # an array of one text; an input of that name holds numbers


def write_npz(dataset: Dataset, path: Path) -> None:
    """Writes what `read_npz` reads; a file that was there stays whole until the new one is.

    Raises:
        DataError: an input has the name that labels, or the metric, have.
        StorageError: the file cannot be written.
    """
    if clash := [name for name in (*_LABELS, _METRIC) if name in dataset.inputs]:
        means = "the metric" if clash[0] == _METRIC else "labels"
        raise DataError(
            f"data set {dataset.name!r} has an input called {clash[0]!r}, which in a .npz file means {means}"
        )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            judged_by = {_LABELS[0]: dataset.labels, _METRIC: np.array(dataset.metric)}
            for name, array in (*dataset.inputs.items(), *judged_by.items()):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    npy.write_array(file, array, allow_pickle=False)
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def read_npz(path: Path) -> Dataset:
    """Reads one array per model input, named as the model names it (or a single `x`), and `labels` (or `y`).

    Integer labels are class indices (top1); labels that are not integers are similarities of pairs
    (spearman), and the inputs have two rows for each. An array `metric` that holds one text says it otherwise.

    Raises:
        DataError: not such a file, too large, without labels, or its arrays do not go together.
    """
    return npz_samples(path).judged()


def npz_samples(path: Path) -> Samples:
    """As `read_npz`; samples without labels may be of either kind."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_headers(archive, path)
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        EOFError,
        NotImplementedError,  # zipfile's, of a compression or encryption that it does not know
        RuntimeError,
        KeyError,
    ) as error:
        raise DataError(f"{path} is not a sound .npz file: {' '.join(str(error).split())}") from None
    names = [name for name in _LABELS if name in arrays]
    if len(names) > 1:
        raise DataError(f"{path} needs one array called labels or y; it has both")
    labels = arrays.pop(names[0]) if names else None
    metric = None
    if _METRIC in arrays and arrays[_METRIC].dtype.kind == "U":
        if arrays[_METRIC].ndim != 0:
            raise DataError(f"{path}: the array metric holds one text, without an axis")
        metric = str(arrays.pop(_METRIC))[:80]
    kinds: tuple[Kind, ...] = ("classes", "pairs")
    if metric in METRICS:
        kinds = (METRICS[metric].kind,)
    elif labels is not None and labels.dtype.kind == "f":
        kinds = ("pairs",)
    return Samples(path.stem, arrays, labels, kinds, metric)


def _check_headers(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuses an archive that would unpack to more than it may, judged by the arrays' own headers."""
    total_bytes = 0
    names = [info.filename for info in archive.infolist()]
    if len(set(names)) != len(names):
        raise DataError(f"{path} holds two arrays of one name")
    for info in archive.infolist():
        if not info.filename.endswith(".npy"):
            raise DataError(f"{path} holds {info.filename!r}, which is not an array")
        with archive.open(info) as file:
            version = npy.read_magic(file)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read_header(file)
            header_bytes = file.tell()
        if dtype.hasobject:
            raise DataError(f"{path}: array {info.filename[:-4]!r} holds Python objects; store numbers")
        size_bytes = math.prod(shape) * dtype.itemsize
        total_bytes += size_bytes
        if total_bytes > MAX_DATA_BYTES:
            raise DataError(f"{path} unpacks to more than {MAX_DATA_BYTES} bytes")
        if size_bytes + header_bytes != info.file_size:
            raise DataError(f"{path}: array {info.filename[:-4]!r} has not the size that its header says")
