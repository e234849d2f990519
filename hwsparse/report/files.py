"""Writing a report's files whole or not at all.

Knows nothing of what is in them.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from hwsparse.errors import HwsparseError


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that whoever looks sees the old one or the new one, never a part.

    Raises:
        HwsparseError: it cannot be written.
    """
    try:
        handle, scratch = tempfile.mkstemp(prefix=f".{path.name[:50]}.", dir=path.parent)
    except OSError as error:
        raise HwsparseError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(scratch, 0o666 & ~umask)  # mkstemp's files are for their owner only
        os.replace(scratch, path)
    except OSError as error:
        raise HwsparseError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):  # gone if it was moved to its place
            os.unlink(scratch)
