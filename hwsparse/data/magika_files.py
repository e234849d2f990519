"""Real files of the Python installation at hand, as a data set for Magika, Google's file-type network.

A file's label is what its extension says. Only extensions are used that stand for one content type, whatever the
network answers: `.h` only where CPython keeps its C headers, `.txt` only for licence texts, `.so` only where it is
ELF. Files that tests keep because they are malformed are left out, and so is bytecode, because running Python adds
to it. Features are made as the `magika` package makes them: the first and last bytes, white space stripped, with the
sizes that the network's configuration gives.

Knows nothing of ONNX or runtimes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwsparse.data.dataset import Dataset
from hwsparse.errors import DataError

_BY_EXTENSION = {
    ".bat": "batch", ".c": "c", ".cc": "cpp", ".cmake": "cmake", ".cpp": "cpp", ".css": "css", ".csv": "csv",
    ".exe": "pebin", ".f90": "fortran", ".gif": "gif", ".gz": "gzip", ".hpp": "cpp", ".htm": "html", ".html": "html",
    ".ini": "ini", ".jpg": "jpeg", ".js": "javascript", ".json": "json", ".m4": "m4", ".md": "markdown", ".npy": "npy",
    ".npz": "npz", ".onnx": "onnx", ".pdf": "pdf", ".pem": "pem", ".png": "png", ".proto": "proto",
    ".ps1": "powershell", ".py": "python", ".pyi": "python", ".rst": "rst",
    ".s": "asm", ".sh": "shell", ".svg": "svg", ".toml": "toml", ".ts": "typescript", ".ttf": "ttf", ".wav": "wav",
    ".xml": "xml", ".yaml": "yaml", ".yml": "yaml", ".zig": "zig", ".zip": "zip",
}  # fmt: skip
_LICENCES = ("license", "licence", "copying", "notice", "authors")
_MALFORMED = ("invalid", "bad")


@dataclass(frozen=True, slots=True)
class MagikaConfig:
    """How the network's input is made, and what its outputs mean."""

    beg_size: int
    end_size: int
    block_size: int
    padding_token: int
    min_file_size: int
    labels: tuple[str, ...]  # by output index


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """A file, and what type of file it is."""

    path: Path
    label: str


def magika_directory() -> Path:
    """Where the installed `magika` package keeps `model.onnx` and its configuration.

    Raises:
        DataError: the package is not installed, or keeps no model.
    """
    spec = importlib.util.find_spec("magika")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("Magika is not installed: pip install magika")
    models = Path(spec.submodule_search_locations[0]) / "models"
    found = sorted(path.parent for path in models.glob("standard_*/model.onnx"))
    if not found:
        raise DataError(f"the magika package has no standard model in {models}")
    return found[-1]


def load_config(directory: Path) -> MagikaConfig:
    """Reads `config.min.json`.

    Raises:
        DataError: unreadable, or made for features of another kind.
    """
    path = directory / "config.min.json"
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body["version_major"] != 3 or body["mid_size"] != 0 or body["use_inputs_at_offsets"]:
            raise DataError(f"{path} describes features of a kind that is not known here")
        return MagikaConfig(
            beg_size=int(body["beg_size"]),
            end_size=int(body["end_size"]),
            block_size=int(body["block_size"]),
            padding_token=int(body["padding_token"]),
            min_file_size=int(body["min_file_size_for_dl"]),
            labels=tuple(body["target_labels_space"]),
        )
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not Magika's configuration: {error!r}") from None


def extract_features(path: Path, config: MagikaConfig) -> np.ndarray | None:
    """The network's input for one file, (beg_size + end_size,) int32; None where too few bytes are left to judge."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(config.block_size).lstrip()[: config.beg_size]
        file.seek(max(0, size - config.block_size))
        tail = file.read(config.block_size).rstrip()
        tail = tail[max(0, len(tail) - config.end_size) :]
    if size < config.min_file_size or len(head) < config.min_file_size:
        return None
    features = np.full(config.beg_size + config.end_size, config.padding_token, np.int32)
    features[: len(head)] = np.frombuffer(head, np.uint8)
    features[len(features) - len(tail) :] = np.frombuffer(tail, np.uint8)
    return features


def find_files(labels: tuple[str, ...]) -> tuple[LabelledFile, ...]:
    """Every file of this installation whose name says which of `labels` it is, in a fixed order."""
    include = Path(sysconfig.get_path("include")).resolve()
    roots = [include, *(Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "purelib", "platlib"))]
    found: dict[str, str] = {}
    for root in dict.fromkeys(roots):
        for path in _walk(root):
            label = "c" if root == include and path.endswith(".h") else label_of(path)
            if label in labels and path not in found and not os.path.islink(path):
                found[path] = label
    return tuple(LabelledFile(Path(path), label) for path, label in found.items())


def label_of(path: str) -> str | None:
    """The content type that a file's name promises; None if it promises none."""
    *_, grandparent, parent, name = ("", "", *path.lower().split(os.sep))
    stem, suffix = os.path.splitext(name)
    if any(part.startswith(_MALFORMED) for part in (grandparent, parent, name)):
        return None
    if suffix in ("", ".txt") and stem.split("-")[0].split(".")[0] in _LICENCES:
        return "txt"
    if suffix == ".so":
        return "elf" if sys.platform == "linux" else None
    return _BY_EXTENSION.get(suffix)


def read_installed_files(
    config: MagikaConfig,
    *,
    seed: int = 0,
    per_label: int = 32,
    min_per_label: int = 8,
    input_name: str = "bytes",
) -> Dataset:
    """Draws files of this installation, balanced over their types.

    Args:
        config: of the network.
        seed: which files are drawn; the same installation and seed give the same files.
        per_label: at most that many files of a type.
        min_per_label: types with fewer are left out.
        input_name: what the network calls its input.

    Returns:
        A data set with features (n, beg_size + end_size) int32 and the output index as label, no two samples alike.

    Raises:
        DataError: the installation holds no two types with enough files.
    """
    drawn = draw_files(find_files(config.labels), config, seed=seed, per_label=per_label, min_per_label=min_per_label)
    if len({item.label for item, _ in drawn}) < 2:
        raise DataError("the Python installation holds too few files of known type to measure Magika on")
    features = np.stack([array for _, array in drawn])
    labels = np.array([config.labels.index(item.label) for item, _ in drawn], np.int64)
    return Dataset("python-installation", {input_name: features}, labels, "top1")


def draw_files(
    files: tuple[LabelledFile, ...], config: MagikaConfig, *, seed: int, per_label: int, min_per_label: int
) -> list[tuple[LabelledFile, np.ndarray]]:
    """A balanced draw of files with their features; files that the network could not tell apart are taken once."""
    by_label: dict[str, list[Path]] = defaultdict(list)
    for item in files:
        by_label[item.label].append(item.path)
    seen: set[bytes] = set()
    drawn: list[tuple[LabelledFile, np.ndarray]] = []
    for label in sorted(by_label):
        fresh: dict[bytes, tuple[LabelledFile, np.ndarray]] = {}
        for path in sorted(by_label[label], key=lambda path: _rank(path, seed)):
            if len(fresh) == per_label:
                break
            try:
                features = extract_features(path, config)
            except OSError:  # another user's file, or one that was just removed: not ours to use
                continue
            if features is not None and (key := features.tobytes()) not in seen:
                fresh.setdefault(key, (LabelledFile(path, label), features))
        if len(fresh) >= min_per_label:
            drawn += fresh.values()
            seen |= fresh.keys()
    return drawn


def _rank(path: Path, seed: int) -> bytes:
    """Random order that depends on the end of the path only, so that it is the same wherever Python is installed."""
    return hashlib.sha256(f"{seed}/{'/'.join(path.parts[-4:])}".encode(errors="surrogateescape")).digest()


def _walk(root: Path) -> Iterator[str]:
    """Files below `root`; packages inside the standard library's folder belong to another environment."""
    for directory, folders, names in os.walk(root):
        outside = ("site-packages", "dist-packages") if directory == str(root) else ()
        folders[:] = sorted(name for name in folders if name not in outside and name != "__pycache__")
        yield from (os.path.join(directory, name) for name in sorted(names))
