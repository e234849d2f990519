"""The files that callers send, kept under their sha256, each once.

A file arrives under a scratch name and takes its place when its size and digest are those announced, so
that there is never a part of a file. Knows neither the protocol nor what the files hold.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hwsparse.errors import InputError, ServiceError, UnknownNameError
from hwsparse.serve.room import Room

SHA256 = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a caller says about a file before sending it."""

    name: str
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise InputError(f"{self.name[:120]!r} is no file name: use letters, digits, '.', '_' and '-'")
        if not SHA256.fullmatch(self.sha256):
            raise InputError(f"{self.sha256[:80]!r} is not a sha256 in hex")
        if self.size_bytes < 1:
            raise InputError(f"{self.name} is empty")


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that the server holds; `uploaded_at` is in seconds since 1970."""

    sha256: str
    name: str
    size_bytes: int
    uploaded_at: float
    path: Path


class Uploads:
    """Files of one kind. Safe to use from many threads; one server at a time."""

    def __init__(self, directory: Path, suffix: str, max_bytes: int, room: Room) -> None:
        self._directory = directory
        self._suffix = suffix
        self._max_bytes = max_bytes
        self._room = room
        self._scratch = directory / ".incoming"
        shutil.rmtree(self._scratch, ignore_errors=True)  # of a server that was killed
        self._scratch.mkdir(parents=True)

    def find(self, sha256: str) -> Upload | None:
        """The file with this digest, if it is here."""
        if not SHA256.fullmatch(sha256):
            return None
        for path in (self._directory / sha256).glob(f"*{self._suffix}"):
            found = path.stat()
            return Upload(sha256, path.name.removesuffix(self._suffix), found.st_size, found.st_mtime, path)
        return None

    def get(self, sha256: str, what: str) -> Upload:
        """The file with this digest; `what` is its kind in the error's text.

        Raises:
            UnknownNameError: it is not here.
        """
        upload = self.find(sha256)
        if upload is None:
            raise UnknownNameError(f"no {what} {sha256[:80]!r} on this server; upload it first")
        return upload

    def receive(self, announced: Announcement, chunks: Iterable[bytes]) -> Upload:
        """Keeps a file, unless it is here already: then the chunks are not read.

        Raises:
            InputError: too large, or not what was announced.
            ServiceError: the server has no room, or its disk is full.
        """
        if announced.size_bytes > self._max_bytes:
            raise InputError(
                f"{announced.name}: {announced.size_bytes} bytes; this server takes at most {self._max_bytes}"
            )
        if (known := self.find(announced.sha256)) is not None:
            return known
        try:
            with tempfile.TemporaryDirectory(dir=self._scratch, ignore_cleanup_errors=True) as scratch:
                whole = Path(scratch) / "file"
                whole.mkdir()
                path = whole / f"{announced.name}{self._suffix}"
                self._room.claim(path, announced.size_bytes)
                _save(path, announced, chunks)
                self._place(whole, self._directory / announced.sha256)
        except OSError as error:
            raise ServiceError(f"the server cannot keep {announced.name}: {error.strerror}") from None
        return self.get(announced.sha256, "upload")

    def _place(self, source: Path, destination: Path) -> None:
        try:
            os.rename(source, destination)
        except OSError:
            if not destination.is_dir():  # if it is, another caller has just sent the same file
                raise


def _save(path: Path, announced: Announcement, chunks: Iterable[bytes]) -> None:
    digest, size = hashlib.sha256(), 0
    with open(path, "r+b") as file:
        for chunk in chunks:
            size += len(chunk)
            if size > announced.size_bytes:
                raise InputError(f"{announced.name}: more bytes came than the {announced.size_bytes} announced")
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if size < announced.size_bytes:
        raise InputError(f"{announced.name}: {size} bytes came of the {announced.size_bytes} announced")
    if digest.hexdigest() != announced.sha256:
        raise InputError(f"{announced.name}: its sha256 is {digest.hexdigest()}, not the one announced")
