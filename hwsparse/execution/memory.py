"""Memory, as Linux tells of it: what this process holds, and what programs may still take."""

from __future__ import annotations

import re
from pathlib import Path

PROC = Path("/proc")


def held_memory(proc: Path = PROC) -> tuple[int, int]:
    """Bytes that this process holds, and the most that it held since that was last asked.

    Raises:
        OSError: this system does not tell.
    """
    try:
        with open(proc / "self/status") as status:
            sizes = {
                name: text.split()[0] for name, _, text in (line.partition(":") for line in status) if text.split()
            }
        with open(proc / "self/clear_refs", "w") as forget:
            forget.write("5")
        return int(sizes["VmRSS"]) << 10, int(sizes["VmHWM"]) << 10
    except (OSError, KeyError, ValueError) as error:
        raise OSError(f"this system does not tell how much memory a process holds ({error})") from None


def available_memory(proc: Path = PROC) -> int | None:
    """Bytes that programs may still take without swapping; None: this system does not tell."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", (proc / "meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) << 10 if found else None
