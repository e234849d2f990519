"""Measurements and failures, kept in one SQLite file so that nothing is measured twice.

Of several measurements of one workload the latest counts. Whatever was made on another device or by another
toolchain is kept, and not given out as this one's; nor is what was imported, unless it is asked for.

Knows nothing of how measurements are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TypeVar, cast, final

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from hwsparse import strictjson
from hwsparse.errors import MeasureError
from hwsparse.latency.fingerprint import Device, Toolchain
from hwsparse.latency.measurement import Cache, MeasureFailure, Measurement, Source
from hwsparse.latency.record_rows import (
    FailureRow,
    MeasurementRow,
    failure_of,
    failure_row,
    measurement_of,
    measurement_row,
    prepare,
    workload_of,
)
from hwsparse.latency.workload import Workload
from hwsparse.sqlitefile import sqlite_engine, translated

R = TypeVar("R", MeasurementRow, FailureRow)
CHUNK = 500  # rows in memory at a time


class RecordsFile:
    """A records file as it is, whoever made what is in it; a context manager."""

    def __init__(self, path: Path) -> None:
        """Opens the file, or makes it.

        Raises:
            MeasureError: it cannot be opened or made, is no records file, or one of another version.
        """
        self.path = path
        self._engine = sqlite_engine(path)
        try:
            with self._said("cannot be opened"):
                path.parent.mkdir(parents=True, exist_ok=True)
                prepare(self._engine, path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RecordsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._engine.dispose()

    def groups(self) -> tuple[RecordGroup, ...]:
        """What there is, by target, device, toolchain and source.

        Raises:
            MeasureError: the file cannot be read, or a row is malformed.
        """
        row = MeasurementRow
        columns = (row.target, row.threads, row.source, row.imported, row.cache, row.device, row.toolchain)
        found = (func.count(), func.count(row.workload.distinct()), func.min(row.taken_at), func.max(row.taken_at))
        query = select(*columns, *found).group_by(*columns).order_by(*columns)
        with self._said("cannot be read"), Session(self._engine) as session:
            return tuple(
                RecordGroup(
                    target, threads, cast(Source, source), imported, cast(Cache, cache),
                    strictjson.loads(Device, device, f"records {self.path}"),
                    strictjson.loads(Toolchain, toolchain, f"records {self.path}"),
                    measurements, workloads, datetime.fromisoformat(first), datetime.fromisoformat(last),
                )
                for target, threads, source, imported, cache, device, toolchain, measurements, workloads, first, last
                in session.execute(query)
            )  # fmt: skip

    def every(self, target_name: str | None = None) -> Iterator[tuple[Workload, Measurement]]:
        """All measurements, in the order in which they came; of one target, if it is named.

        Raises:
            MeasureError: the file cannot be read, or a row is malformed.
        """
        query = select(MeasurementRow).order_by(MeasurementRow.id)
        if target_name is not None:
            query = query.where(MeasurementRow.target == target_name)
        with self._said("cannot be read"), Session(self._engine) as session:
            for row in session.scalars(query.execution_options(yield_per=CHUNK)):
                yield workload_of(row, self.path), measurement_of(row, self.path)

    def take_in(self, measurements: Iterable[tuple[Workload, Measurement]]) -> int:
        """Adds what others measured, all or nothing, as imported; gives how many were not there yet.

        Raises:
            MeasureError: the file cannot be written.
        """
        row, added = MeasurementRow, 0
        with self._said("cannot be written"), Session(self._engine) as session, session.begin():
            for workload, taken in measurements:
                fresh = measurement_row(workload, replace(taken, imported=True))
                same = (row.workload == fresh.workload, row.taken_at == fresh.taken_at, row.samples == fresh.samples)
                if session.scalar(select(row.id).where(*same).limit(1)) is None:
                    session.add(fresh)
                    session.flush()
                    added += 1
        return added

    def remove(self, *, unless: Callable[[RecordGroup], bool]) -> int:
        """Removes the measurements of all groups but those of which `unless` says true; gives how many there were.

        Raises:
            MeasureError: the file cannot be read or written.
        """
        row, gone = MeasurementRow, 0
        for group in self.groups():
            if unless(group):
                continue
            query = delete(row).where(
                row.target == group.target_name,
                row.threads == group.threads,
                row.source == group.source,
                row.imported == group.imported,
                row.cache == group.cache,
                row.device == strictjson.dumps(group.device),
                row.toolchain == strictjson.dumps(group.toolchain),
            )
            with self._said("cannot be written"), Session(self._engine) as session, session.begin():
                session.execute(query)
            gone += group.measurements
        return gone

    def _said(self, what: str) -> AbstractContextManager[None]:
        return translated(f"records {self.path}: {what}", MeasureError)


@dataclass(frozen=True, slots=True)
class RecordGroup:
    """Measurements that can be compared with each other, and when they were taken."""

    target_name: str
    threads: int
    source: Source
    imported: bool
    cache: Cache
    device: Device
    toolchain: Toolchain
    measurements: int
    workloads: int
    first: datetime
    last: datetime


@final
class Records(RecordsFile):
    """A records file as one device and toolchain see it: others' measurements are not given out."""

    def __init__(self, path: Path, device: Device, toolchain: Toolchain) -> None:
        """Opens the file, or makes it.

        Raises:
            MeasureError: it cannot be opened or made, is no records file, or one of another version.
        """
        super().__init__(path)
        self.device = device
        self.toolchain = toolchain

    def __enter__(self) -> Records:
        return self

    def table(
        self, target_name: str, threads: int, cache: Cache = "warm", *, imported: bool = False
    ) -> dict[Workload, Measurement]:
        """The latest measurement of every workload on a target: of those made here, or of those `imported`.

        Raises:
            MeasureError: the file cannot be read, or a row is malformed.
        """
        row = MeasurementRow
        query = self._query(row, target_name, threads).where(row.cache == cache, row.imported == imported)
        return {workload: measurement_of(each, self.path) for workload, each in self._latest(query).items()}

    def failures(self, target_name: str, threads: int) -> dict[Workload, MeasureFailure]:
        """The latest failure of every workload on a target that ever failed.

        Raises:
            MeasureError: the file cannot be read, or a row is malformed.
        """
        rows = self._latest(self._query(FailureRow, target_name, threads))
        return {workload: failure_of(row, self.path) for workload, row in rows.items()}

    def add(self, workload: Workload, measurement: Measurement) -> None:
        """Keeps a measurement; it is on disk when this returns.

        Raises:
            MeasureError: it cannot be written, or was made on another device or by another toolchain.
        """
        if measurement.key != workload.key:
            raise MeasureError(f"a measurement of {measurement.key} is none of {workload.key}")
        if (measurement.device.digest, measurement.toolchain) != (self.device.digest, self.toolchain):
            raise MeasureError(f"{workload.key} was measured on another device or with another toolchain")
        self._write(measurement_row(workload, measurement))

    def add_failure(self, workload: Workload, failure: MeasureFailure, taken_at: datetime) -> None:
        """Keeps a failure; it is on disk when this returns.

        Raises:
            MeasureError: it cannot be written.
        """
        self._write(failure_row(workload, failure, self.device, self.toolchain, taken_at))

    def _write(self, row: MeasurementRow | FailureRow) -> None:
        with self._said("cannot be written"), Session(self._engine) as session, session.begin():
            session.add(row)

    def _query(self, kind: type[R], target_name: str, threads: int) -> Select[R]:
        """Rows of a target, made on this device by this toolchain, the latest last."""
        return (
            select(kind)
            .where(
                kind.target == target_name,
                kind.threads == threads,
                kind.device_digest == self.device.digest,
                kind.toolchain == strictjson.dumps(self.toolchain),
            )
            .order_by(kind.id)
        )

    def _latest(self, query: Select[R]) -> dict[Workload, R]:
        """The latest row of every workload."""
        with self._said("cannot be read"), Session(self._engine) as session:
            return {workload_of(row, self.path): row for row in session.scalars(query)}
