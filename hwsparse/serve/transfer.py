"""Files on their way between client and server, at the client's end.

Knows neither addresses nor what the files hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc

from hwsparse.artifact.directory import read_chunks
from hwsparse.errors import ArtifactError, InputError
from hwsparse.serve.uploads import Announcement
from hwsparse.serve.v1 import artifacts_pb2

A = TypeVar("A")

OnBytes = Callable[[int, int], None]  # told the bytes that have gone, and the bytes there are


def announce(path: Path) -> Announcement:
    """What to tell a server about a file before sending it.

    Raises:
        InputError: it cannot be read, or is empty.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "rb") as file:
            for chunk in read_chunks(file):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    name = re.sub(r"[^A-Za-z0-9._-]", "_", path.stem).lstrip("._-")[:100]
    return Announcement(name or "file", digest.hexdigest(), size)


def outgoing(path: Path, announced: Announcement, progress: OnBytes | None) -> Iterator[bytes]:
    """A file's bytes, in chunks."""
    sent = 0
    with open(path, "rb") as file:
        for chunk in read_chunks(file):
            yield chunk
            sent += len(chunk)
            if progress:
                progress(sent, announced.size_bytes)


def incoming(parts: Iterable[artifacts_pb2.DownloadArtifactResponse], progress: OnBytes | None) -> Iterator[bytes]:
    """The bytes of a download; its end comes only when all were there and are those that were sent.

    Raises:
        ArtifactError: cut off, changed on the way, or not a download.
    """
    digest, received, size, trailer = hashlib.sha256(), 0, None, None
    for part in parts:
        if size is None:
            if not part.HasField("header"):
                raise ArtifactError("the download does not begin with a header")
            size = part.header.size_bytes
        elif trailer is not None or part.HasField("header"):
            raise ArtifactError("the download goes on after its end")
        elif part.HasField("trailer"):
            trailer = part.trailer
        else:
            digest.update(part.chunk)
            received += len(part.chunk)
            yield part.chunk
            if progress:
                progress(received, size)
    if trailer is None or received != size:
        raise ArtifactError(f"the download was cut off after {received} bytes; try again")
    if trailer.sha256 != digest.hexdigest():
        raise ArtifactError("the download was changed on its way; try again")


@contextlib.contextmanager
def ended(call: grpc.CallIterator[A]) -> Iterator[Iterable[A]]:
    """A stream that is ended with the block, whether or not it was read to its end."""
    try:
        yield call
    finally:
        call.cancel()  # type: ignore[no-untyped-call]
