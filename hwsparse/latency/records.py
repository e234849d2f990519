"""Measurements and failures, kept in one SQLite file so that nothing is measured twice.

Rows are only ever added; of several measurements of one workload the latest counts. Whatever was made
on another device or by another toolchain is kept, and never given out.

Knows nothing of how measurements are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast, final

from sqlalchemy import Index, insert, inspect, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from hwsparse import strictjson
from hwsparse.errors import HwsparseError, MeasureError
from hwsparse.latency.fingerprint import Device, Toolchain
from hwsparse.latency.measurement import MeasureFailure, Measurement, RunSettings, Source, Stage
from hwsparse.latency.workload import Workload
from hwsparse.plan import parse_choice
from hwsparse.sqlitefile import sqlite_engine, translated

VERSION = 2


class _Base(DeclarativeBase):
    pass


class _Version(_Base):
    __tablename__ = "hwsparse_records"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]


class _Row:
    """What rows of both kinds say: of what workload, on what device, by what toolchain, when."""

    id: Mapped[int] = mapped_column(primary_key=True)
    workload: Mapped[str]
    signature: Mapped[str]
    choice: Mapped[str]
    target: Mapped[str]
    threads: Mapped[int]
    kernel_version: Mapped[str]
    device: Mapped[str]
    device_digest: Mapped[str]
    toolchain: Mapped[str]
    taken_at: Mapped[str]  # ISO 8601, UTC


class _MeasurementRow(_Row, _Base):
    __tablename__ = "measurements"
    __table_args__ = (Index("measurements_of_target", "target", "threads", "device_digest", "toolchain"),)
    settings: Mapped[str]
    samples: Mapped[str]
    source: Mapped[str]
    kernel: Mapped[str | None]


class _FailureRow(_Row, _Base):
    __tablename__ = "failures"
    stage: Mapped[str]
    reason: Mapped[str]


R = TypeVar("R", _MeasurementRow, _FailureRow)


@dataclass(frozen=True, slots=True)
class _Samples:
    samples_s: tuple[float, ...]


@final
class Records:
    """The records file, as one device and toolchain see it; a context manager."""

    def __init__(self, path: Path, device: Device, toolchain: Toolchain) -> None:
        """Opens the file, or makes it.

        Raises:
            MeasureError: it cannot be opened or made, is no records file, or one of another version.
        """
        self.path = path
        self.device = device
        self.toolchain = toolchain
        self._engine = sqlite_engine(path)
        try:
            with self._said("cannot be opened"):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._prepare()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._engine.dispose()

    def table(self, target_name: str, threads: int) -> dict[Workload, Measurement]:
        """The latest measurement of every workload on a target, made on this device by this toolchain.

        Raises:
            MeasureError: the file cannot be read, or a row is malformed.
        """
        rows = self._rows(_MeasurementRow, target_name, threads)
        return {workload: self._measurement(workload, row) for workload, row in rows.items()}

    def failures(self, target_name: str, threads: int) -> dict[Workload, MeasureFailure]:
        """The latest failure of every workload on a target that ever failed, here and with this toolchain.

        Raises:
            MeasureError: the file cannot be read, or a row is malformed.
        """
        rows = self._rows(_FailureRow, target_name, threads)
        return {workload: self._failure(workload, row) for workload, row in rows.items()}

    def add(self, workload: Workload, measurement: Measurement) -> None:
        """Keeps a measurement; it is on disk when this returns.

        Raises:
            MeasureError: it cannot be written, or was made on another device or by another toolchain.
        """
        if measurement.key != workload.key:
            raise MeasureError(f"a measurement of {measurement.key} is none of {workload.key}")
        if (measurement.device.digest, measurement.toolchain) != (self.device.digest, self.toolchain):
            raise MeasureError(f"{workload.key} was measured on another device or with another toolchain")
        self._write(
            _MeasurementRow(
                **self._columns(workload, measurement.taken_at),
                settings=strictjson.dumps(measurement.settings),
                samples=strictjson.dumps(_Samples(measurement.samples_s)),
                source=measurement.source,
                kernel=measurement.kernel,
            )
        )

    def add_failure(self, workload: Workload, failure: MeasureFailure, taken_at: datetime) -> None:
        """Keeps a failure; it is on disk when this returns.

        Raises:
            MeasureError: it cannot be written.
        """
        columns = self._columns(workload, taken_at)
        self._write(_FailureRow(**columns, stage=failure.stage, reason=failure.reason))

    def _prepare(self) -> None:
        """Makes the tables of a new file, brings those of an older one up to date; refuses a file that is not ours."""
        with self._engine.begin() as connection:
            tables = inspect(connection).get_table_names()
            if not tables:
                _Base.metadata.create_all(connection)
                connection.execute(insert(_Version).values(id=1, version=VERSION))
            elif _Version.__tablename__ not in tables:
                raise MeasureError(f"records {self.path}: a database, but not of measurements; name another file")
            version = connection.scalar(select(_Version.version))
            if version == 1:  # did not say which kernel was timed
                connection.execute(text("ALTER TABLE measurements ADD COLUMN kernel VARCHAR"))
                connection.execute(update(_Version).values(version=VERSION))
            elif version != VERSION:
                known = f"this hwsparse knows version {VERSION}"
                raise MeasureError(f"records {self.path}: of version {version}; {known}; name another file")

    def _columns(self, workload: Workload, taken_at: datetime) -> dict[str, Any]:
        return {
            "workload": workload.key,
            "signature": workload.signature,
            "choice": str(workload.choice),
            "target": workload.target_name,
            "threads": workload.threads,
            "kernel_version": self.toolchain.kernels,
            "device": strictjson.dumps(self.device),
            "device_digest": self.device.digest,
            "toolchain": strictjson.dumps(self.toolchain),
            "taken_at": taken_at.astimezone(timezone.utc).isoformat(),
        }

    def _write(self, row: _Row) -> None:
        with self._said("cannot be written"), Session(self._engine) as session, session.begin():
            session.add(row)

    def _rows(self, kind: type[R], target_name: str, threads: int) -> dict[Workload, R]:
        """The latest row of every workload."""
        query = select(kind).where(
            kind.target == target_name,
            kind.threads == threads,
            kind.device_digest == self.device.digest,
            kind.toolchain == strictjson.dumps(self.toolchain),
        )
        with self._said("cannot be read"), Session(self._engine) as session:
            return {self._workload(row): row for row in session.scalars(query.order_by(kind.id))}

    def _workload(self, row: _MeasurementRow | _FailureRow) -> Workload:
        with self._decoding(row):
            workload = Workload(row.signature, parse_choice(row.choice), row.target, row.threads)
            if workload.key != row.workload:
                raise MeasureError(f"{row.workload!r} is not the key of its columns")
            return workload

    def _measurement(self, workload: Workload, row: _MeasurementRow) -> Measurement:
        with self._decoding(row):
            return Measurement(
                key=workload.key,
                samples_s=strictjson.loads(_Samples, row.samples, "samples").samples_s,
                source=cast(Source, row.source),
                settings=strictjson.loads(RunSettings, row.settings, "settings"),
                device=strictjson.loads(Device, row.device, "device"),
                toolchain=strictjson.loads(Toolchain, row.toolchain, "toolchain"),
                taken_at=datetime.fromisoformat(row.taken_at),
                kernel=row.kernel,
            )

    def _failure(self, workload: Workload, row: _FailureRow) -> MeasureFailure:
        with self._decoding(row):
            return MeasureFailure(workload.key, cast(Stage, row.stage), row.reason)

    @contextmanager
    def _decoding(self, row: _MeasurementRow | _FailureRow) -> Iterator[None]:
        """Says which row is malformed."""
        try:
            yield
        except (HwsparseError, ValueError, TypeError) as error:
            where = f"records {self.path}: row {row.id} of {row.__tablename__}"
            raise MeasureError(f"{where} is malformed: {error}") from None

    def _said(self, what: str) -> AbstractContextManager[None]:
        return translated(f"records {self.path}: {what}", MeasureError)
