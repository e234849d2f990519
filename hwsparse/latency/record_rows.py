"""The tables that measurements, failures and whole networks are kept in, and how they become values and rows again.

Knows nothing of who may use them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import Engine, Index, insert, inspect, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from hwsparse import strictjson
from hwsparse.errors import HwsparseError, MeasureError
from hwsparse.latency.fingerprint import Device, Toolchain
from hwsparse.latency.footprint import Footprint
from hwsparse.latency.measurement import Cache, MeasureFailure, Measurement, RunSettings, Source, Stage
from hwsparse.latency.workload import Workload
from hwsparse.plan import parse_choice

VERSION = 8
# What a measurement is known by, and its samples: two with all of that in common are one. The first four are those
# that tables are asked for by.
KNOWN_BY = ("target", "threads", "device_digest", "toolchain", "workload", "taken_at")


# What brings the tables of each older version to the next one.
UPDATES = (
    # Did not say which kernel was timed.
    ("ALTER TABLE measurements ADD COLUMN kernel VARCHAR",),
    # Knew no reference kernel and no cold caches, and took as many samples as it was told.
    (
        "ALTER TABLE measurements ADD COLUMN reference_s FLOAT",
        "ALTER TABLE measurements ADD COLUMN cpu_share FLOAT NOT NULL DEFAULT 1",
        "ALTER TABLE measurements ADD COLUMN cache VARCHAR NOT NULL DEFAULT 'warm'",
        "ALTER TABLE measurements ADD COLUMN imported BOOLEAN NOT NULL DEFAULT 0",
        "UPDATE measurements SET settings = "
        "json_set(settings, '$.precision', NULL, '$.stretch', 1, '$.cache', 'warm') WHERE json_valid(settings)",
    ),
    # Did not say who sets the clock, so that they may be of another device.
    tuple(
        f"UPDATE {table} SET device = json_set(device, '$.clock', 'unknown') WHERE json_valid(device)"
        for table in ("measurements", "failures")
    ),
    # Did not find a measurement by what it is known by.
    (
        "DROP INDEX IF EXISTS measurements_of_target",
        f"CREATE INDEX measurements_known_by ON measurements ({', '.join(KNOWN_BY)})",
    ),
    # Did not say of failures in what state the caches were.
    ("ALTER TABLE failures ADD COLUMN cache VARCHAR NOT NULL DEFAULT 'warm'",),
    # Knew no boards that run on some of their CPUs only.
    tuple(
        f"UPDATE {table} SET device = json_set(device, '$.used', '') WHERE json_valid(device)"
        for table in ("measurements", "failures")
    ),
    # Kept no whole networks: their table is made with all that are missing.
    (),
)


class _Base(DeclarativeBase):
    pass


class _Version(_Base):
    __tablename__ = "hwsparse_records"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]


class _Placed:
    """What all rows say: for what target, on what device, by what toolchain, with which caches, when."""

    __tablename__: str
    id: Mapped[int] = mapped_column(primary_key=True)
    target: Mapped[str]
    threads: Mapped[int]
    kernel_version: Mapped[str]
    device: Mapped[str]
    device_digest: Mapped[str]
    toolchain: Mapped[str]
    cache: Mapped[str]
    taken_at: Mapped[str]  # ISO 8601, UTC


class Row(_Placed):
    """Of what workload it is."""

    workload: Mapped[str]
    signature: Mapped[str]
    choice: Mapped[str]


class _Timed:
    """What came of timing it."""

    settings: Mapped[str]
    samples: Mapped[str]
    source: Mapped[str]
    kernel: Mapped[str | None]
    reference_s: Mapped[float | None]
    cpu_share: Mapped[float]
    imported: Mapped[bool]


class MeasurementRow(Row, _Timed, _Base):
    __tablename__ = "measurements"
    __table_args__ = (Index("measurements_known_by", *KNOWN_BY),)


class FailureRow(Row, _Base):
    __tablename__ = "failures"
    stage: Mapped[str]
    reason: Mapped[str]


class NetworkRow(_Placed, _Timed, _Base):
    """A whole network, timed and weighed."""

    __tablename__ = "networks"
    __table_args__ = (Index("networks_known_by", "network", "target", "threads", "device_digest", "toolchain"),)
    network: Mapped[str]
    file_bytes: Mapped[float]
    memory_bytes: Mapped[float | None]


R = TypeVar("R", MeasurementRow, FailureRow)


@dataclass(frozen=True, slots=True)
class _Samples:
    samples_s: tuple[float, ...]


def prepare(engine: Engine, path: Path) -> None:
    """Makes the tables of a new file, brings those of an older one up to date.

    Raises:
        MeasureError: the file is not ours, or of a later version.
    """
    with engine.begin() as connection:
        tables = inspect(connection).get_table_names()
        if not tables:
            _Base.metadata.create_all(connection)
            connection.execute(insert(_Version).values(id=1, version=VERSION))
        elif _Version.__tablename__ not in tables:
            raise MeasureError(f"records {path}: a database, but not of measurements; name another file")
        version = connection.scalar(select(_Version.version))
        if not isinstance(version, int) or not 1 <= version <= VERSION:
            known = f"this hwsparse knows version {VERSION}"
            raise MeasureError(f"records {path}: of version {version}; {known}; name another file")
        for statement in (each for step in UPDATES[version - 1 :] for each in step):
            connection.execute(text(statement))
        if version < VERSION:
            _Base.metadata.create_all(connection)
            connection.execute(update(_Version).values(version=VERSION))


def measurement_row(workload: Workload, taken: Measurement) -> MeasurementRow:
    """The row of a measurement, not in any file yet."""
    return MeasurementRow(**_known_by(workload), **_taken(workload.target_name, workload.threads, taken))


def failure_row(
    workload: Workload, failure: MeasureFailure, cache: Cache, device: Device, toolchain: Toolchain, taken_at: datetime
) -> FailureRow:
    """The row of a failure, not in any file yet."""
    placed = _placed(workload.target_name, workload.threads, cache, device, toolchain, taken_at)
    return FailureRow(**_known_by(workload), **placed, stage=failure.stage, reason=failure.reason)


def network_row(target: str, threads: int, taken: Measurement, footprint: Footprint) -> NetworkRow:
    """The row of a whole network, known by the measurement's key; not in any file yet."""
    return NetworkRow(**_taken(target, threads, taken), network=taken.key, **asdict(footprint))


def workload_of(row: Row, path: Path) -> Workload:
    """What a row is of; `path` is for the error.

    Raises:
        MeasureError: the row is malformed.
    """
    with decoding(_where(row, path)):
        workload = Workload(row.signature, parse_choice(row.choice), row.target, row.threads)
        if workload.key != row.workload:
            raise MeasureError(f"{row.workload!r} is not the key of its columns")
        return workload


def measurement_of(row: MeasurementRow | NetworkRow, path: Path) -> Measurement:
    """The measurement of a row; `path` is for the error.

    Raises:
        MeasureError: the row is malformed.
    """
    with decoding(_where(row, path)):
        return Measurement(
            key=row.workload if isinstance(row, MeasurementRow) else row.network,
            samples_s=strictjson.loads(_Samples, row.samples, "samples").samples_s,
            source=cast(Source, row.source),
            settings=strictjson.loads(RunSettings, row.settings, "settings"),
            device=strictjson.loads(Device, row.device, "device"),
            toolchain=strictjson.loads(Toolchain, row.toolchain, "toolchain"),
            taken_at=datetime.fromisoformat(row.taken_at),
            kernel=row.kernel,
            reference_s=row.reference_s,
            cpu_share=row.cpu_share,
            imported=row.imported,
        )


def failure_of(row: FailureRow, path: Path) -> tuple[MeasureFailure, Device, Toolchain, datetime]:
    """The failure of a row, on what, by what and when; `path` is for the error.

    Raises:
        MeasureError: the row is malformed.
    """
    with decoding(_where(row, path)):
        return (
            MeasureFailure(row.workload, cast(Stage, row.stage), row.reason),
            strictjson.loads(Device, row.device, "device"),
            strictjson.loads(Toolchain, row.toolchain, "toolchain"),
            datetime.fromisoformat(row.taken_at),
        )


@contextmanager
def decoding(where: str) -> Iterator[None]:
    """Says which rows are malformed.

    Raises:
        MeasureError: what is done within shows that they are.
    """
    try:
        yield
    except (HwsparseError, ValueError, TypeError, OverflowError) as error:
        way_out = "`hwsparse records prune --damaged` removes what cannot be read"
        raise MeasureError(f"{where} is malformed: {error}; {way_out}") from None


def _where(row: _Placed, path: Path) -> str:
    return f"records {path}: row {row.id} of {row.__tablename__}"


def _known_by(workload: Workload) -> dict[str, Any]:
    return {"workload": workload.key, "signature": workload.signature, "choice": str(workload.choice)}


def _taken(target: str, threads: int, taken: Measurement) -> dict[str, Any]:
    return {
        **_placed(target, threads, taken.settings.cache, taken.device, taken.toolchain, taken.taken_at),
        "settings": strictjson.dumps(taken.settings),
        "samples": strictjson.dumps(_Samples(taken.samples_s)),
        "source": taken.source,
        "kernel": taken.kernel,
        "reference_s": taken.reference_s,
        "cpu_share": taken.cpu_share,
        "imported": taken.imported,
    }


def _placed(
    target: str, threads: int, cache: Cache, device: Device, toolchain: Toolchain, taken_at: datetime
) -> dict[str, Any]:
    return {
        "target": target,
        "threads": threads,
        "kernel_version": toolchain.kernels,
        "device": strictjson.dumps(device),
        "device_digest": device.digest,
        "toolchain": strictjson.dumps(toolchain),
        "cache": cache,
        "taken_at": taken_at.astimezone(timezone.utc).isoformat(),
    }
