"""An artifact as one stream of bytes: a tar of the plainest kind, the manifest first.

Equal artifacts give equal archives, whoever packs them and when. Only what `pack` writes is read back,
header for header: there is nothing in an archive that could lead out of the directory it is unpacked to.

Knows nothing of networks and stores.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from hwsparse.artifact.directory import (
    CHUNK_BYTES,
    MANIFEST,
    Artifact,
    fresh_directory,
    read_chunks,
    require_complete,
    unreadable,
)
from hwsparse.artifact.manifest import MAX_MANIFEST_BYTES, FileEntry, Manifest, parse_manifest
from hwsparse.errors import ArtifactError

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)


def archive_size(manifest: Manifest) -> int:
    """Bytes of the archive of the artifact with this manifest."""
    sizes = [len(manifest.text), *(entry.size for entry in manifest.files)]
    return sum(_BLOCK + size + _padding(size) for size in sizes) + len(_END)


def pack(artifact: Artifact) -> Iterator[bytes]:
    """The artifact's archive, in chunks of at most 1 MiB.

    Raises:
        ArtifactError: a file cannot be read, or has changed since the artifact was loaded.
    """
    text = artifact.manifest.text.encode()
    yield _header(MANIFEST, len(text))
    for start in range(0, len(text), CHUNK_BYTES):
        yield text[start : start + CHUNK_BYTES]
    yield bytes(_padding(len(text)))
    for entry in artifact.manifest.files:
        yield _header(entry.name, entry.size)
        yield from _unchanged(artifact.directory / entry.name, entry)
        yield bytes(_padding(entry.size))
    yield _END


def unpack(
    chunks: Iterable[bytes], directory: Path, *, digest: str | None = None, max_bytes: int | None = None
) -> Artifact:
    """Writes the artifact whose archive this is; `directory` appears whole and verified, or not at all.

    The chunks are read to their end before `directory` appears, so that a source that finds itself broken
    can say so by raising.

    Args:
        digest: the only artifact to accept.
        max_bytes: the largest archive to accept.

    Raises:
        ArtifactError: not such an archive, not that artifact, too large, or something is in the way.
    """
    with fresh_directory(directory) as scratch:
        stream = _Stream(chunks)
        manifest = _manifest(stream, digest)
        require_complete(manifest, directory)
        if max_bytes is not None and archive_size(manifest) > max_bytes:
            raise ArtifactError(f"artifact {manifest.digest}: its archive is larger than {max_bytes} bytes")
        (scratch / MANIFEST).write_bytes(manifest.text.encode())
        for entry in manifest.files:
            if stream.exactly(_BLOCK) != _header(entry.name, entry.size):
                raise ArtifactError(f"the archive does not hold {entry.name} where it should")
            with open(scratch / entry.name, "xb") as file:
                for chunk in stream.take(entry.size):
                    file.write(chunk)
            stream.expect(bytes(_padding(entry.size)))
        stream.expect(_END)
        stream.expect_end()
        loaded = Artifact.load(scratch)
    return dataclasses.replace(loaded, directory=directory)


def read_manifest(chunks: Iterable[bytes], digest: str | None = None) -> Manifest:
    """The manifest of the archive that begins with `chunks`; reads no further than that.

    Raises:
        ArtifactError: not the beginning of an archive, or not of the artifact `digest`.
    """
    return _manifest(_Stream(chunks), digest)


class _Stream:
    """Chunks of any size, read in pieces of any other."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def take(self, size: int) -> Iterator[bytes]:
        while size:
            if not self._fill():
                raise ArtifactError("the archive ends too early")
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            yield piece

    def exactly(self, size: int) -> bytes:
        return b"".join(self.take(size))

    def expect(self, content: bytes) -> None:
        if self.exactly(len(content)) != content:
            raise ArtifactError("the archive holds something between its files")

    def expect_end(self) -> None:
        if self._fill():
            raise ArtifactError("the archive goes on after its end")

    def _fill(self) -> bool:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._rest = chunk
        return True


def _manifest(stream: _Stream, digest: str | None) -> Manifest:
    header = stream.exactly(_BLOCK)
    octal = header[124:135]  # where a tar header has its member's size
    size = int(octal, 8) if octal.isdigit() and not set(octal) & set(b"89") else -1
    if not 0 <= size <= MAX_MANIFEST_BYTES or header != _header(MANIFEST, size):
        raise ArtifactError("not an artifact's archive: it does not begin with a manifest")
    manifest = parse_manifest(stream.exactly(size))
    if digest is not None and manifest.digest != digest:
        raise ArtifactError(f"the archive holds the artifact {manifest.digest}, not {digest}")
    stream.expect(bytes(_padding(size)))
    return manifest


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _padding(size: int) -> int:
    return -size % _BLOCK


def _unchanged(path: Path, entry: FileEntry) -> Iterator[bytes]:
    digest, left = hashlib.sha256(), entry.size
    try:
        with open(path, "rb") as file:
            for chunk in read_chunks(file):
                digest.update(chunk)
                left -= len(chunk)
                if left < 0:
                    break
                yield chunk
    except OSError as error:
        raise unreadable(error, path) from None
    if left or digest.hexdigest() != entry.sha256:
        raise ArtifactError(f"{path}: changed since the artifact was loaded")
