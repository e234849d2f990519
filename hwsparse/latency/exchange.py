"""Measurements as text, a line of JSON each: to share a table, to keep one, to draw one up elsewhere.

A file from outside is read line by line, strictly, and with limits; nothing of it is trusted but its form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from hwsparse import strictjson
from hwsparse.errors import HwsparseError, InputError
from hwsparse.latency.fingerprint import Device, Toolchain
from hwsparse.latency.measurement import Measurement, RunSettings, Source
from hwsparse.latency.workload import Workload
from hwsparse.plan import parse_choice, parse_signature

FORMAT = 3
MAX_LINE_BYTES, MAX_LINES = 1 << 20, 100_000


@dataclass(frozen=True, slots=True)
class _Line:
    format: int
    signature: str
    choice: str
    target: str
    threads: int
    kernel: str | None
    source: Source
    samples_s: tuple[float, ...]
    reference_s: float | None
    cpu_share: float
    settings: RunSettings
    device: Device
    toolchain: Toolchain
    taken_at: str  # ISO 8601, with a time zone


def write_lines(measurements: Iterable[tuple[Workload, Measurement]], file: IO[bytes]) -> int:
    """Writes measurements, a line each; gives how many.

    Raises:
        OSError: the file cannot be written.
    """
    count = 0
    for workload, taken in measurements:
        line = _Line(
            FORMAT, workload.signature, str(workload.choice), workload.target_name, workload.threads, taken.kernel,
            taken.source, taken.samples_s, taken.reference_s, taken.cpu_share, taken.settings, taken.device,
            taken.toolchain, taken.taken_at.astimezone(timezone.utc).isoformat(),
        )  # fmt: skip
        file.write(strictjson.dumps(line).encode() + b"\n")
        count += 1
    return count


def read_lines(path: Path) -> Iterator[tuple[Workload, Measurement]]:
    """What `write_lines` wrote, line by line; empty lines are skipped.

    Raises:
        InputError: a line is not exactly such a measurement, or there are too many: says which and why.
    """
    try:
        with open(path, "rb") as file:
            for number in range(1, MAX_LINES + 2):
                line = file.readline(MAX_LINE_BYTES + 1)
                if not line:
                    return
                where = f"{path}, line {number}"
                if len(line) > MAX_LINE_BYTES or number > MAX_LINES:
                    limit = f"{MAX_LINE_BYTES} bytes a line, {MAX_LINES} lines a file"
                    raise InputError(f"{where}: more than measurements take: {limit}")
                if line.strip():
                    yield _measurement(strictjson.decode(_Line, _updated(strictjson.parse(line, where)), where), where)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def count_lines(path: Path) -> int:
    """How many measurements a file holds, each of them looked at: a file that passes can be read to its end.

    Raises:
        InputError: a line is no measurement, there are too many, or the file could not be read a second time.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is read twice, to check it and to take it in; give a file, and no pipe or directory")
    return sum(1 for _ in read_lines(path))


def _updated(data: object) -> object:
    """A line as it is written now: those of format 2 knew no boards that run on some of their CPUs only."""
    if not isinstance(data, dict) or data.get("format") != 2 or not isinstance(device := data.get("device"), dict):
        return data
    return data | {"format": FORMAT, "device": {"used": ""} | device}


def _measurement(line: _Line, where: str) -> tuple[Workload, Measurement]:
    told = (line.target, line.kernel or "", *map(str, astuple(line.device)), *astuple(line.toolchain))
    if not all(text.isprintable() for text in told):
        raise InputError(f"{where}: a name holds characters that cannot be printed")
    if line.format != FORMAT:
        raise InputError(f"{where}: has the format {line.format}; this hwsparse reads {FORMAT}")
    try:
        workload = Workload(line.signature, parse_choice(line.choice), line.target, line.threads)
        parse_signature(line.signature)
        taken_at = datetime.fromisoformat(line.taken_at)
        if taken_at.utcoffset() is not None:
            taken_at = taken_at.astimezone(timezone.utc)
        taken = Measurement(
            workload.key, line.samples_s, line.source, line.settings, line.device, line.toolchain, taken_at,
            line.kernel, line.reference_s, line.cpu_share,
        )  # fmt: skip
    except (HwsparseError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: {error}") from None
    if line.settings.threads != line.threads:
        raise InputError(f"{where}: measured with {line.settings.threads} threads, said to be of {line.threads}")
    return workload, taken
