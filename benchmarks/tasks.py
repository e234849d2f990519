"""Real tasks: a trained network, samples to prune it with and others to judge it on.

Data come from a directory, `--data` or $HWSPARSE_DATA, except Magika's: those are files of this Python installation.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hwsparse.data import Corruption, Dataset, read_image_csv, read_text_pairs
from hwsparse.data.corruptions import PIXELS, TEXTS
from hwsparse.data.magika_files import load_config, magika_directory, read_installed_files
from hwsparse.errors import DataError, InputError
from hwsparse.model import Model, import_onnx, import_torch

# Of data without parts of their own, this share prunes.
CALIBRATION = 1 / 3
IMAGES, PAIRS, TRAIN_PAIRS = 500, 600, 200
CIFAR_SIDE = 32
CIFAR_MEAN, CIFAR_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Task:
    """`calibration` and `held_out` have no sample in common.

    `corrupted` reads the held-out samples once more under one corruption after the other; None where they come as
    arrays, which cannot be corrupted.
    """

    model: Model
    calibration: Dataset
    held_out: Dataset
    corrupted: Callable[[], Iterator[Dataset]] | None = None


def data_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option that names the directory of task data."""
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("HWSPARSE_DATA"),
        help="directory of task data: imagenet1k/, nlp/, cifar10/, kws/; by default $HWSPARSE_DATA",
    )


def given(data: Path | None) -> Path:
    """The directory of task data.

    Raises:
        InputError: none was named.
    """
    if data is None:
        raise InputError("no task data: give --data DIR or set HWSPARSE_DATA")
    return Path(data)


def magika(data: Path | None, seed: int) -> tuple[Model, Dataset]:
    """Magika, and files of this Python installation."""
    source = magika_directory()
    model = import_onnx(source / "model.onnx", name="magika")
    return model, read_installed_files(load_config(source), seed=seed, per_label=40).for_model(model)


def efficientnet_lite0(data: Path | None, seed: int) -> tuple[Model, Dataset]:
    """EfficientNet-Lite0, and ImageNet samples."""
    from benchmarks.models.efficientnet_lite0 import efficientnet_lite0

    model = efficientnet_lite0()
    return model, read_imagenet(given(data), seed).for_model(model)


def read_imagenet(data: Path, seed: int, corruption: Corruption | None = None) -> Dataset:
    """ImageNet samples, prepared as EfficientNet-Lite0 was trained."""
    from benchmarks.models.efficientnet_lite0 import PREPROCESS

    labels = data / "imagenet1k" / "labels.csv"
    return read_image_csv(labels, PREPROCESS, limit=IMAGES, seed=seed, corruption=corruption)


def imagenet(data: Path | None, seed: int) -> Task:
    """EfficientNet-Lite0: pruned with a share of the ImageNet samples, judged on the others."""
    model, dataset = efficientnet_lite0(data, seed)

    first, second = dataset.parted(CALIBRATION, seed)
    held_out = dataset.subset(second)

    def read(corruption: Corruption) -> Dataset:
        return read_imagenet(given(data), seed, corruption).subset(second)

    return Task(model, dataset.subset(first), held_out, under(PIXELS, seed, held_out, read))


def minilm(data: Path | None, seed: int, part: str = "dev", pairs: int = PAIRS) -> tuple[Model, Dataset]:
    """MiniLM-L6, and sentence pairs of a part of STS-B."""
    from benchmarks.models.minilm import minilm

    model = minilm()
    return model, read_stsb(given(data), seed, part, pairs).for_model(model)


def read_stsb(data: Path, seed: int, part: str, pairs: int, corruption: Corruption | None = None) -> Dataset:
    """Sentence pairs of a part of STS-B, as tokens of MiniLM-L6."""
    from benchmarks.models.minilm import package_directory

    tokenizer = package_directory() / "tokenizer.json"
    return read_text_pairs(data / "nlp" / f"stsb-{part}.csv", tokenizer, limit=pairs, seed=seed, corruption=corruption)


def stsb(data: Path | None, seed: int) -> Task:
    """MiniLM-L6: pruned with pairs of the training part, judged on the development part."""
    (model, train), (_, dev) = minilm(data, seed, "train", TRAIN_PAIRS), minilm(data, seed)

    def read(corruption: Corruption) -> Dataset:
        return read_stsb(given(data), seed, "dev", PAIRS, corruption)

    return Task(model, train, dev, under(TEXTS, seed, dev, read))


def under(
    names: Iterable[str], seed: int, held_out: Dataset, read: Callable[[Corruption], Dataset]
) -> Callable[[], Iterator[Dataset]]:
    """What gives held-out samples under each of the corruptions of these names, `read` once more for each."""
    return lambda: (held_out.under(str(each), read(each).inputs) for each in (Corruption(n, seed=seed) for n in names))


def ds_cnn(data: Path | None, seed: int) -> tuple[Model, Dataset]:
    """DS-CNN, and the keywords of MLPerf Tiny."""
    source = given(data) / "kws"
    model = import_onnx(source / "dscnn.onnx", name="ds-cnn")
    inputs, labels = _array(source / "inputs.npy"), _array(source / "labels.npy")
    return model, Dataset("kws", {"input": inputs[:, None]}, labels.astype(np.int64)).for_model(model)


def cifar10(layers: int) -> Callable[[Path | None, int], Task]:
    """The ResNet of so many layers on CIFAR-10: pruned with training images, judged on test images."""

    def task(data: Path | None, seed: int) -> Task:
        from benchmarks.models.resnet_cifar import resnet_cifar

        source = given(data) / "cifar10"
        module = resnet_cifar(layers, source / f"resnet{layers}.safetensors")
        model = import_torch(module, (torch.zeros(1, 3, CIFAR_SIDE, CIFAR_SIDE),), name=f"resnet-{layers}")
        # A file holds 50 images of every class.
        train = read_cifar(source, "train", files=2).for_model(model)
        test = read_cifar(source, "test_a").for_model(model)

        def read(corruption: Corruption) -> Dataset:
            return read_cifar(source, "test_a", corruption=corruption)

        return Task(model, train, test, under(PIXELS, seed, test, read))

    return task


def read_cifar(source: Path, part: str, files: int | None = None, corruption: Corruption | None = None) -> Dataset:
    """CIFAR-10 images, normalised: each file holds 500 of them, one below the other.

    Raises:
        DataError: there are none.
    """
    paths = sorted(source.glob(f"{part}_[0-9]*.webp"))[:files]
    if not paths:
        raise DataError(f"{source}: no images {part}_00.webp")
    pixels = np.concatenate([np.asarray(Image.open(path)).reshape(-1, CIFAR_SIDE, CIFAR_SIDE, 3) for path in paths])
    if corruption is not None:
        pixels = np.stack([corruption.of_pixels(image) for image in pixels])
    images = ((pixels / 255 - CIFAR_MEAN) / CIFAR_DEVIATION).transpose(0, 3, 1, 2).astype(np.float32)
    labels = _array(source / f"{part}_labels.npy")[: len(images)].astype(np.int64)
    return Dataset(f"cifar10 {part}", {"image": images}, labels)


def split(load: Callable[[Path | None, int], tuple[Model, Dataset]]) -> Callable[[Path | None, int], Task]:
    """The task of a network whose data have no parts of their own."""

    def task(data: Path | None, seed: int) -> Task:
        model, dataset = load(data, seed)
        return Task(model, *dataset.split(CALIBRATION, seed))

    return task


def _array(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


TASKS: dict[str, tuple[Callable[[Path | None, int], Task], ...]] = {
    "magika": (split(magika),),
    "imagenet": (imagenet,),
    "stsb": (stsb,),
    "kws": (split(ds_cnn),),
    "cifar10": (cifar10(20), cifar10(56)),
}
