"""Artifacts kept by digest, one archive each, in a local directory or behind any fsspec URL.

One object per artifact, because that is what every kind of storage can write all at once: an artifact is
in the store whole or not at all, and two writers of the same artifact write the same bytes.

Knows neither torch nor tvm, nor what artifacts are for.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from fsspec import AbstractFileSystem  # type: ignore[import-untyped]
from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from hwsparse.artifact import Artifact, Manifest, archive_size, pack, read_manifest, unpack
from hwsparse.artifact.directory import read_chunks
from hwsparse.artifact.manifest import DIGEST
from hwsparse.errors import ArtifactError

_SUFFIX = ".tar"


class ArtifactStore:
    """Artifacts by digest. Safe to use from many threads and processes at once."""

    def __init__(self, location: str | Path) -> None:
        """Opens the store at a directory's path or an fsspec URL; the directory is made if need be.

        Raises:
            ArtifactError: a URL of a kind that is not installed, or a place that cannot be written to.
        """
        self.location = str(location)
        self._files: AbstractFileSystem
        try:
            self._files, self._root = url_to_fs(self.location)
            self._files.makedirs(self._root, exist_ok=True)
        except (ValueError, ImportError, OSError) as error:
            raise ArtifactError(f"{self.location}: cannot be an artifact store: {error}") from None

    def put(self, artifact: Artifact) -> str:
        """Keeps a copy of an artifact, if it is not there yet; gives its digest.

        Raises:
            ArtifactError: the artifact changed since it was loaded, or the store cannot be written to.
        """
        path = self._path(artifact.digest)
        with self._translated(artifact.digest):
            if self._files.exists(path) and self._files.size(path) == archive_size(artifact.manifest):
                return artifact.digest
            scratch = f"{self._root}/.{artifact.digest}.{secrets.token_hex(6)}.tmp"
            try:
                with self._files.open(scratch, "wb") as file:
                    for chunk in pack(artifact):
                        file.write(chunk)
                    _flush_to_disk(file)
                self._files.mv(scratch, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    self._files.rm_file(scratch)
                raise
        return artifact.digest

    def get(self, digest: str, directory: Path) -> Artifact:
        """Copies an artifact to `directory`, where nothing may be yet, and verifies it.

        Raises:
            ArtifactError: no such artifact, it is not what its digest says, or something is in the way.
        """
        return unpack(self.read(digest), directory, digest=digest)

    def read(self, digest: str) -> Iterator[bytes]:
        """The archive of an artifact, in chunks, as it is stored: what reads it verifies it.

        Raises:
            ArtifactError: no such artifact, or it cannot be read.
        """
        with self._open(digest) as file:
            yield from read_chunks(file)

    def manifest(self, digest: str) -> Manifest:
        """The manifest of an artifact, without reading its files.

        Raises:
            ArtifactError: no such artifact, or its manifest is not what its digest says.
        """
        with self._open(digest) as file:
            return read_manifest(read_chunks(file), digest)

    def size(self, digest: str) -> int:
        """Bytes of an artifact's archive, as stored.

        Raises:
            ArtifactError: no such artifact.
        """
        with self._reading(digest):
            return int(self._files.size(self._path(digest)))

    def list(self) -> tuple[str, ...]:
        """Every digest in the store, sorted.

        Raises:
            ArtifactError: the store cannot be read.
        """
        with self._translated("artifacts"):
            self._files.invalidate_cache(self._root)  # another process may have written since
            names = (str(path).rpartition("/")[2] for path in self._files.ls(self._root, detail=False))
            found = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
            return tuple(sorted(digest for digest in found if DIGEST.fullmatch(digest)))

    def __contains__(self, digest: str) -> bool:
        with self._translated(digest):
            return bool(DIGEST.fullmatch(digest)) and bool(self._files.exists(self._path(digest)))

    def _path(self, digest: str) -> str:
        if not DIGEST.fullmatch(digest):
            raise ArtifactError(f"{digest!r} is not an artifact's digest (64 hex digits)")
        return f"{self._root}/{digest}{_SUFFIX}"

    @contextlib.contextmanager
    def _open(self, digest: str) -> Iterator[BinaryIO]:
        with self._reading(digest), self._files.open(self._path(digest), "rb") as file:
            yield cast(BinaryIO, file)

    @contextlib.contextmanager
    def _reading(self, digest: str) -> Iterator[None]:
        with self._translated(digest):
            try:
                yield
            except FileNotFoundError:
                raise ArtifactError(f"{self.location}: no artifact {digest}") from None

    @contextlib.contextmanager
    def _translated(self, digest: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ArtifactError(f"{self.location}: {digest}: {error.strerror or error}") from None


def _flush_to_disk(file: object) -> None:
    """For local files: what is renamed into place must survive a power cut; other stores see to that."""
    if hasattr(file, "fileno"):
        with contextlib.suppress(OSError, AttributeError):
            os.fsync(file.fileno())
