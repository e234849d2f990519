"""`python -m benchmarks.models NAME --out NAME.onnx`: writes a published network as an ONNX file.

With a sentence encoder goes its tokenizer.json, beside the file. ResNet-56 is made of --data, and comes with
images.npz, 1200 of CIFAR-10's test images.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from benchmarks.tasks import data_option
from hwsparse.data import write_npz
from hwsparse.errors import HwsparseError
from hwsparse.model import Model


def efficientnet_lite0(out: Path, data: Path | None) -> Model:
    """The network; how its images are prepared is said on the command line that uses it."""
    from benchmarks.models.efficientnet_lite0 import efficientnet_lite0

    print("images for it: --image 224,mean=127,std=128")
    return efficientnet_lite0()


def minilm(out: Path, data: Path | None) -> Model:
    """The network for 128 tokens; its tokenizer is written too."""
    from benchmarks.models.minilm import minilm, package_directory

    tokenizer = out.with_name("tokenizer.json")
    model = minilm()
    shutil.copyfile(package_directory() / "tokenizer.json", tokenizer)
    print(f"sentence pairs for it: --tokenizer {tokenizer}")
    return model


def resnet56(out: Path, data: Path | None) -> Model:
    """The network that searches are shown on; the images that they have are written too."""
    from benchmarks.search import resnet56

    images = out.with_name("images.npz")
    model, dataset, _ = resnet56(data, 0)
    write_npz(dataset, images)
    print(f"images for it: --data {images}")
    return model


MODELS = {"efficientnet-lite0": efficientnet_lite0, "minilm": minilm, "resnet56": resnet56}


def main() -> int:
    """Writes what the command line asks for; the exit status is 1 when it could not be done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument("name", choices=sorted(MODELS))
    parser.add_argument("--out", type=Path, help="the ONNX file; by default NAME.onnx")
    data_option(parser)
    arguments = parser.parse_args()
    out = arguments.out or Path(f"{arguments.name}.onnx")
    try:
        out.write_bytes(MODELS[arguments.name](out, arguments.data).proto)
    except (HwsparseError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
