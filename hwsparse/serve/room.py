"""How much the server's directory may hold, all together: uploads, jobs and artifacts.

Knows not what the files are.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from hwsparse.errors import FullError


class Room:
    """A directory that may hold so many bytes. Safe to use from many threads."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._lock = threading.Lock()

    def require(self, size_bytes: int) -> None:
        """Refuses what would be too much.

        Raises:
            FullError: the directory would hold more than it may.
        """
        held = _size(self._directory)
        if held + size_bytes > self._max_bytes:
            raise FullError(
                f"the server may keep {self._max_bytes} bytes and has {held}: no room for more; "
                "its operator can remove some or allow more"
            )

    def claim(self, path: Path, size_bytes: int) -> None:
        """Makes a file of that size, to be filled: files on their way count as if they had come.

        Raises:
            FullError: the directory would hold more than it may.
        """
        with self._lock:
            self.require(size_bytes)
            with open(path, "xb") as file:
                file.truncate(size_bytes)


def _size(directory: Path) -> int:
    """Bytes of all files under a directory; those that vanish meanwhile do not count."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return total
