"""An artifact as a directory: written whole or not at all, verified byte by byte when loaded.

Knows nothing of what the files hold.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hwsparse.artifact.manifest import (
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    normalized,
    parse_manifest,
)
from hwsparse.errors import ArtifactError, InputError

MANIFEST = "manifest.json"
REQUIRED = ("library.json", "library.so", "weights.safetensors")
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Artifact:
    """A directory whose every byte was found to be what its manifest says."""

    directory: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """The artifact's identity, which stands for every byte of it."""
        return self.manifest.digest

    @classmethod
    def load(cls, directory: Path) -> Artifact:
        """Opens an artifact and verifies it.

        Raises:
            ArtifactError: no artifact there, a file is missing, unknown, changed or not a plain file.
        """
        try:
            with _open_plain(directory / MANIFEST) as file:
                manifest = parse_manifest(file.read(MAX_MANIFEST_BYTES + 1), str(directory / MANIFEST))
            require_complete(manifest, directory)
            with os.scandir(directory) as found:
                names = {entry.name for entry in found}
            known = {entry.name for entry in manifest.files}
            for name in sorted(names - known - {MANIFEST}):
                raise ArtifactError(f"{directory / name}: not part of the artifact; remove it")
            for entry in manifest.files:
                _verify(directory, entry)
        except OSError as error:
            raise unreadable(error, directory) from None
        return cls(directory, manifest)


def write_artifact(directory: Path, files: Mapping[str, Path | bytes], manifest: Manifest) -> Artifact:
    """Writes an artifact; `directory` appears with everything in it, or not at all.

    Args:
        directory: a path where nothing is, or an empty directory.
        files: what goes in, by name: library.so, library.json, weights.safetensors and any others.
        manifest: what to say about it; its `files` are filled in here.

    Raises:
        ArtifactError: something is in the way, a file cannot be read or written, a name is not allowed.
    """
    with fresh_directory(directory) as scratch:
        entries = []
        for name in sorted(files):
            FileEntry(name, "0" * 64, 0)  # the name is checked before a file of that name is made
            entries.append(FileEntry(name, *_write(scratch / name, files[name])))
        manifest = normalized(dataclasses.replace(manifest, files=tuple(entries)))
        require_complete(manifest, directory)
        _write(scratch / MANIFEST, manifest.text.encode())
    return Artifact(directory, manifest)


def replace_artifact(directory: Path, write: Callable[[Path], Artifact]) -> Artifact:
    """Writes an artifact where an older one may be, which stays as it is until the new one is whole.

    Args:
        write: writes the artifact to the path it is given, beside `directory`.

    Raises:
        ArtifactError: it cannot be moved to its place; and whatever `write` raises.
    """
    fresh, old = _beside(directory), _beside(directory)
    try:
        artifact = write(fresh)
        with contextlib.suppress(FileNotFoundError):
            os.rename(directory, old)
        try:
            os.rename(fresh, directory)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.rename(old, directory)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except (ArtifactError, OSError) as error:
        raise _renamed(error, fresh, directory) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return dataclasses.replace(artifact, directory=directory)


def require_complete(manifest: Manifest, where: Path) -> None:
    """Refuses a manifest without the files that every artifact has."""
    known = {entry.name for entry in manifest.files}
    for name in REQUIRED:
        if name not in known:
            raise ArtifactError(f"{where}: not an artifact: {name} is not among its files")


@contextlib.contextmanager
def fresh_directory(directory: Path) -> Iterator[Path]:
    """A directory beside `directory`, which takes its name when the block ends well and vanishes when not.

    Raises:
        ArtifactError: `directory` is there and not empty, or the disk refused.
    """
    scratch = _beside(directory)
    try:
        _require_vacant(directory)
        directory.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir()
        yield scratch
        os.rename(scratch, directory)
    except (ArtifactError, OSError) as error:
        raise _renamed(error, scratch, directory) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def require_writable(directory: Path) -> None:
    """Refuses a place where no artifact could be written, and leaves nothing there.

    Raises:
        InputError: `directory` is there and not empty, or cannot be made.
    """
    try:
        _require_vacant(directory)
        above = next(parent for parent in directory.absolute().parents if parent.exists())
        os.rmdir(tempfile.mkdtemp(prefix=".", dir=above))
    except ArtifactError as error:
        raise InputError(str(error)) from None
    except OSError as error:
        raise InputError(f"{directory}: cannot be written: {error.strerror or error}") from None


def _beside(directory: Path) -> Path:
    return directory.parent / f".{directory.name}.{secrets.token_hex(6)}.tmp"


def _require_vacant(directory: Path) -> None:
    vacant = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
    if directory.is_symlink() or not vacant:
        raise ArtifactError(f"{directory}: something is there already; choose another place or remove it")


def unreadable(error: OSError, where: Path) -> ArtifactError:
    """What to tell a user when the file system refused."""
    name = error.filename if isinstance(error.filename, str) else str(where)
    return ArtifactError(f"{name}: {error.strerror or error}")


def _renamed(error: ArtifactError | OSError, scratch: Path, directory: Path) -> ArtifactError:
    """The error of a directory on its way: no user knows its scratch name."""
    told = unreadable(error, directory) if isinstance(error, OSError) else error
    return ArtifactError(str(told).replace(str(scratch), str(directory)))


def _write(path: Path, source: Path | bytes) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with contextlib.ExitStack() as stack:
        if isinstance(source, bytes):
            chunks: Iterator[bytes] = iter((source,))
        else:
            chunks = read_chunks(stack.enter_context(open(source, "rb")))
        file = stack.enter_context(open(path, "xb"))
        for chunk in chunks:
            digest.update(chunk)
            size += file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), size


def read_chunks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a file, in chunks of at most 1 MiB."""
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _verify(directory: Path, entry: FileEntry) -> None:
    path, digest, size = directory / entry.name, hashlib.sha256(), 0
    with _open_plain(path) as file:
        for chunk in read_chunks(file):
            digest.update(chunk)
            size += len(chunk)
            if size > entry.size:
                break
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise ArtifactError(f"{path}: changed since the artifact was written")


def _open_plain(path: Path) -> BinaryIO:
    # O_NONBLOCK: opening a pipe that someone put there must not wait for a writer.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        if path.is_symlink():
            raise ArtifactError(f"{path}: a symbolic link; an artifact has plain files only") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactError(f"{path}: not a plain file")
    return os.fdopen(descriptor, "rb")
