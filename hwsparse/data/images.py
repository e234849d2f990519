"""Labelled images become a data set: a folder per class, or a CSV of file and class index.

Knows nothing of any network but how its pixels are to be prepared.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from PIL import Image

from hwsparse.data.dataset import Dataset
from hwsparse.data.npz import MAX_DATA_BYTES
from hwsparse.data.table import choose, read_rows
from hwsparse.errors import DataError

MAX_PIXELS = 100_000_000
# Decoders that are pure image formats; PIL's others include one that starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
COLUMNS = ("file", "class_index")


@dataclass(frozen=True, slots=True)
class ImagePreprocess:
    """How an image becomes a network's input: resize, centre crop, (pixel * scale - mean) / std.

    `resize` scales the short side to that many pixels first (bicubic); None takes the file as it is. One mean
    and one std per channel: three for RGB, one for grey.
    """

    size: tuple[int, int]  # height, width
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = 1.0
    resize: int | None = None
    layout: str = "NCHW"  # or NHWC

    def __post_init__(self) -> None:
        if len(self.size) != 2 or not all(1 <= side <= 8192 for side in self.size):
            raise DataError(f"image size {self.size} is not a height and a width of 1 to 8192")
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise DataError("mean and std need one number per channel: three each for RGB, one each for grey")
        if not all(math.isfinite(x) for x in (*self.mean, *self.std, self.scale)) or 0 in (
            *self.std,
            self.scale,
        ):
            raise DataError("mean, std and scale must be finite, std and scale not 0")
        if self.layout not in ("NCHW", "NHWC"):
            raise DataError(f"layout {self.layout!r} is not NCHW or NHWC")
        if self.resize is not None and not 1 <= self.resize <= 8192:
            raise DataError(f"resize {self.resize} is not 1 to 8192")

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Shape of one prepared image."""
        height, width = self.size
        channels = len(self.mean)
        return (channels, height, width) if self.layout == "NCHW" else (height, width, channels)

    def apply(self, image: Image.Image) -> np.ndarray:
        """One image as float32 of `sample_shape`.

        Raises:
            DataError: the image is smaller than the crop.
        """
        image = image.convert("RGB" if len(self.mean) == 3 else "L")
        if self.resize is not None:
            short = min(image.size)
            width, height = (max(self.resize, round(side * self.resize / short)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        (width, height), (rows, cols) = image.size, self.size
        if width < cols or height < rows:
            raise DataError(
                f"{width}x{height} pixels are fewer than the crop of {cols}x{rows}; give a resize of the short side"
            )
        left, top = (width - cols) // 2, (height - rows) // 2
        pixels = np.asarray(image.crop((left, top, left + cols, top + rows)), np.float32).reshape(rows, cols, -1)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        result = (pixels * np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(result.transpose(2, 0, 1)) if self.layout == "NCHW" else result


def read_image_folder(
    directory: Path,
    preprocess: ImagePreprocess,
    *,
    limit: int | None = None,
    seed: int = 0,
    input_name: str = "x",
) -> Dataset:
    """Reads one subdirectory per class; class indices follow the sorted names.

    Args:
        directory: its subdirectories hold the images. Hidden files and other file types are passed over.
        preprocess: how pixels are prepared.
        limit: take only that many images, drawn by `seed`.
        input_name: what the input is to be called.

    Raises:
        DataError: no class, no image, or an image that cannot be decoded; names the file.
    """
    try:
        classes = sorted(item for item in directory.iterdir() if item.is_dir() and not item.name.startswith("."))
        files = [
            (file, index)
            for index, folder in enumerate(classes)
            for file in sorted(folder.iterdir())
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        ]
    except OSError as error:
        raise DataError(f"cannot read {directory}: {error.strerror}") from None
    if not files:
        raise DataError(f"{directory} has no images in subdirectories named after classes: the data set is empty")
    return _read(directory.name, files, preprocess, limit, seed, input_name)


def read_image_csv(
    path: Path,
    preprocess: ImagePreprocess,
    *,
    limit: int | None = None,
    seed: int = 0,
    input_name: str = "x",
) -> Dataset:
    """Reads a CSV with the columns file and class_index; files are relative to the CSV and stay below it.

    Arguments and errors as in `read_image_folder`.

    Raises:
        DataError: also for a path that leads out of the directory, links included, or is named twice.
    """
    files: dict[Path, int] = {}
    for line, row in read_rows(path, COLUMNS):
        where = f"{path} line {line}"
        file = _inside(path.parent, row["file"], where)
        if not (row["class_index"].isascii() and row["class_index"].isdigit()) or len(row["class_index"]) > 9:
            raise DataError(f"{where}: class_index {row['class_index']!r} is not an integer from 0 on")
        if file in files:
            raise DataError(f"{where}: {row['file']!r} is named twice")
        files[file] = int(row["class_index"])
    name = path.stem if path.stem != "labels" else path.resolve().parent.name
    return _read(name, list(files.items()), preprocess, limit, seed, input_name)


def _inside(directory: Path, entry: str, where: str) -> Path:
    posix, windows = PurePosixPath(entry), PureWindowsPath(entry)
    if not entry or "\0" in entry or posix.is_absolute() or windows.anchor or ".." in posix.parts + windows.parts:
        raise DataError(f"{where}: file {entry!r} must be a path below the CSV's directory")
    path = directory / entry
    try:
        if not path.resolve().is_relative_to(directory.resolve()):
            raise DataError(f"{where}: file {entry!r} leads out of the CSV's directory")
    except (OSError, RuntimeError):
        raise DataError(f"{where}: file {entry!r} is a link that leads nowhere") from None
    return path


def _read(
    name: str,
    files: Sequence[tuple[Path, int]],
    preprocess: ImagePreprocess,
    limit: int | None,
    seed: int,
    input_name: str,
) -> Dataset:
    chosen = [files[i] for i in choose(len(files), limit, seed)]
    if len(chosen) * math.prod(preprocess.sample_shape) * 4 > MAX_DATA_BYTES:
        raise DataError(f"{len(chosen)} images take more than {MAX_DATA_BYTES} bytes; give a limit on samples")
    images = np.empty((len(chosen), *preprocess.sample_shape), np.float32)
    for row, (file, _) in enumerate(chosen):
        images[row] = _decode(file, preprocess)
    return Dataset(name, {input_name: images}, np.array([label for _, label in chosen], np.int64), "top1")


def _decode(path: Path, preprocess: ImagePreprocess) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, and of sizes that are judged below
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(f"{image.width}x{image.height} pixels; the limit is {MAX_PIXELS}")
                return preprocess.apply(image)
    except DataError as error:
        raise DataError(f"image {path}: {error}") from None
    except Image.DecompressionBombError:
        raise DataError(f"image {path}: more pixels than the limit of {MAX_PIXELS}") from None
    except FileNotFoundError:
        raise DataError(f"image {path} is missing") from None
    except Exception as error:  # decoders raise SyntaxError, struct.error, EOFError and more on damaged files
        raise DataError(f"image {path} cannot be decoded: {' '.join(str(error).split())}") from None
