"""A training on disk, whole or not at all: tensors as safetensors, everything else as JSON in the file's header.

Nothing is unpickled. A file tells what it is a training of; another training does not go on from it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hwsparse import strictjson
from hwsparse.errors import InputError, StorageError, TuningError, writing

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Epoch:
    """What came of an epoch: the mean loss of its batches, the quality on validation data, the ratio of zeros.

    Number 0 is what training starts from; it has no loss.
    """

    number: int
    loss: float | None
    quality: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Position:
    """Where a training is: `step` batches are done, `loss` is the sum over those of the epoch that is under way."""

    step: int
    loss: float
    epochs: tuple[Epoch, ...]

    def __post_init__(self) -> None:
        if self.step < 0:
            raise InputError(f"a training cannot have done {self.step} steps")


@dataclass(frozen=True, slots=True)
class _Header:
    format: int
    identity: tuple[tuple[str, str], ...]
    position: Position


def save_checkpoint(path: Path, identity: Mapping[str, str], position: Position, tensors: Mapping[str, Tensor]) -> None:
    """Writes a checkpoint.

    Raises:
        StorageError: it cannot be written.
    """
    header = _Header(FORMAT, tuple(sorted(identity.items())), position)
    # Copies: a module's tensors may share memory, as tied weights do, and safetensors has each on its own.
    stored = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    with (
        writing(path.with_name(f".{path.name}.tmp")),
        # A directory: safetensors writes to a file with a name of its own first.
        tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as scratch,
    ):
        whole = Path(scratch, path.name)
        save_file(stored, whole, {"hwsparse": strictjson.dumps(header)})
        os.replace(whole, path)


@contextmanager
def writing_checkpoints(directory: Path) -> Iterator[None]:
    """A directory that a training writes checkpoints to; without what others left that were killed while they did.

    As long as another training writes there, which of it is whose cannot be told, and all of it stays.

    Raises:
        StorageError: there is no such directory.
    """
    try:
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(f"{directory}: no directory for checkpoints: {error.strerror}") from None
    try:
        with suppress(OSError):  # another one is there, or nothing can be locked where it lies
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for scratch in directory.glob(".*.safetensors.*.tmp"):
                shutil.rmtree(scratch, ignore_errors=True)
        with suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_SH)
        yield
    finally:
        os.close(opened)


def load_checkpoint(path: Path, identity: Mapping[str, str]) -> tuple[Position, dict[str, Tensor]]:
    """Reads what `save_checkpoint` wrote for the same training.

    Raises:
        TuningError: the file is damaged, or of another training: the error names what differs.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = strictjson.loads(_Header, (file.metadata() or {}).get("hwsparse", ""), str(path))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (OSError, SafetensorError, InputError) as error:
        raise TuningError(f"{path}: no checkpoint of a training, or damaged: remove it ({error})") from None
    if header.format != FORMAT:
        raise TuningError(f"{path}: has the format {header.format}, this hwsparse writes {FORMAT}; remove it")
    found = dict(header.identity)
    for what, value in identity.items():
        if found.get(what) != value:
            raise TuningError(
                f"{path}: is of a training with {what} {found.get(what)}, not {value}; "
                "remove it, or write to another directory"
            )
    return header.position, tensors
