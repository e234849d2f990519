"""Images become a data set: a folder per class, or a CSV of file and class index; without labels a folder, or a CSV
of files.

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

from hwsparse.data.corruptions import Corruption
from hwsparse.data.dataset import Dataset
from hwsparse.data.npz import MAX_DATA_BYTES
from hwsparse.data.samples import Samples
from hwsparse.data.table import choose, header, read_rows
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

    def apply(self, image: Image.Image, corruption: Corruption | None = None) -> np.ndarray:
        """One image as float32 of `sample_shape`, with its cropped pixels corrupted where that is wanted.

        Raises:
            DataError: the image is smaller than the crop, or the corruption is none of images.
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
        pixels = np.asarray(image.crop((left, top, left + cols, top + rows))).reshape(rows, cols, -1)
        if corruption is not None:
            pixels = corruption.of_pixels(pixels)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        result = (pixels.astype(np.float32) * np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(result.transpose(2, 0, 1)) if self.layout == "NCHW" else result


def read_image_folder(
    directory: Path,
    preprocess: ImagePreprocess,
    *,
    limit: int | None = None,
    seed: int = 0,
    input_name: str = "x",
    corruption: Corruption | None = None,
) -> Dataset:
    """Reads one subdirectory per class; class indices follow the sorted names.

    Args:
        directory: its subdirectories hold the images. Hidden files and other file types are passed over.
        preprocess: how pixels are prepared.
        limit: take only that many images, drawn by `seed`.
        input_name: what the input is to be called.
        corruption: done to every image before its pixels are scaled.

    Raises:
        DataError: no class, no image, or an image that cannot be decoded; names the file.
    """
    return folder_samples(directory, preprocess, limit, seed, input_name, corruption).judged()


def read_image_csv(
    path: Path,
    preprocess: ImagePreprocess,
    *,
    limit: int | None = None,
    seed: int = 0,
    input_name: str = "x",
    corruption: Corruption | None = None,
) -> Dataset:
    """Reads a CSV with the columns file and class_index; files are relative to the CSV and stay below it.

    Arguments and errors as in `read_image_folder`.

    Raises:
        DataError: also for a path that leads out of the directory, links included, or is named twice.
    """
    return csv_samples(path, preprocess, limit, seed, input_name, corruption).judged()


def folder_samples(
    directory: Path,
    preprocess: ImagePreprocess,
    limit: int | None = None,
    seed: int = 0,
    input_name: str = "x",
    corruption: Corruption | None = None,
) -> Samples:
    """As `read_image_folder`; where no subdirectory has images, those of the directory itself, without labels."""
    try:
        classes = sorted(item for item in directory.iterdir() if item.is_dir() and not item.name.startswith("."))
        files: list[tuple[Path, int | None]] = [
            (file, index) for index, folder in enumerate(classes) for file in _images_in(folder)
        ]
        files = files or [(file, None) for file in _images_in(directory)]
    except OSError as error:
        raise DataError(f"cannot read {directory}: {error.strerror}") from None
    if not files:
        raise DataError(
            f"{directory} has no images, neither in subdirectories named after classes nor of its own: the data set is "
            "empty"
        )
    return _read(directory.name, files, preprocess, limit, seed, input_name, corruption)


def csv_samples(
    path: Path,
    preprocess: ImagePreprocess,
    limit: int | None = None,
    seed: int = 0,
    input_name: str = "x",
    corruption: Corruption | None = None,
) -> Samples:
    """As `read_image_csv`; without labels where file is the only column."""
    files: dict[Path, int | None] = {}
    labelled = header(path) != COLUMNS[:1]
    for line, row in read_rows(path, COLUMNS if labelled else COLUMNS[:1]):
        where = f"{path} line {line}"
        file = _inside(path.parent, row["file"], where)
        if file in files:
            raise DataError(f"{where}: {row['file']!r} is named twice")
        files[file] = _class_index(row["class_index"], where) if labelled else None
    name = path.stem if path.stem != "labels" else path.resolve().parent.name
    return _read(name, list(files.items()), preprocess, limit, seed, input_name, corruption)


def _images_in(folder: Path) -> list[Path]:
    return [
        file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    ]


def _class_index(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise DataError(f"{where}: class_index {text!r} is not an integer from 0 on")
    return int(text)


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
    files: Sequence[tuple[Path, int | None]],
    preprocess: ImagePreprocess,
    limit: int | None,
    seed: int,
    input_name: str,
    corruption: Corruption | None,
) -> Samples:
    chosen = [files[i] for i in choose(len(files), limit, seed)]
    if len(chosen) * math.prod(preprocess.sample_shape) * 4 > MAX_DATA_BYTES:
        raise DataError(f"{len(chosen)} images take more than {MAX_DATA_BYTES} bytes; give a limit on samples")
    images = np.empty((len(chosen), *preprocess.sample_shape), np.float32)
    for row, (file, _) in enumerate(chosen):
        images[row] = _decode(file, preprocess, corruption)
    labels = [label for _, label in chosen if label is not None]
    return Samples(name, {input_name: images}, np.array(labels, np.int64) if labels else None, ("classes",))


def _decode(path: Path, preprocess: ImagePreprocess, corruption: Corruption | None) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, and of sizes that are judged below
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(f"{image.width}x{image.height} pixels; the limit is {MAX_PIXELS}")
                return preprocess.apply(image, corruption)
    except DataError as error:
        raise DataError(f"image {path}: {error}") from None
    except Image.DecompressionBombError:
        raise DataError(f"image {path}: more pixels than the limit of {MAX_PIXELS}") from None
    except FileNotFoundError:
        raise DataError(f"image {path} is missing") from None
    except Exception as error:  # decoders raise SyntaxError, struct.error, EOFError and more on damaged files
        raise DataError(f"image {path} cannot be decoded: {' '.join(str(error).split())}") from None
