"""Measurements and failures, kept in one SQLite file so that nothing is measured twice.

Of several measurements of one workload the latest counts. Whatever was made on another device or by another
toolchain is kept, and not given out as this one's; nor is what was imported, unless it is asked for.

Knows nothing of how measurements are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, final

from sqlalchemy import ColumnElement, Select, delete, exists, func, select
from sqlalchemy.orm import Session

from hwsparse import strictjson
from hwsparse.errors import MeasureError
from hwsparse.latency.fingerprint import Device, Toolchain
from hwsparse.latency.measurement import Cache, MeasureFailure, Measurement, Source
from hwsparse.latency.record_rows import (
    KNOWN_BY,
    FailureRow,
    MeasurementRow,
    NetworkRow,
    decoding,
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
CHUNK = 500  # rows that are read or written at a time


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
        with self._said("cannot be read"), Session(self._engine) as session:
            return tuple(group for _, group in self._groups(session))

    def _groups(self, session: Session) -> list[tuple[dict[str, Any], RecordGroup]]:
        """Groups, each with the columns that are the same for all its rows."""
        row, found = MeasurementRow, []
        names = ("target", "threads", "source", "imported", "cache", "device", "toolchain")
        columns = [getattr(row, name) for name in names]
        counts = (func.count(), func.count(row.workload.distinct()), func.min(row.taken_at), func.max(row.taken_at))
        for *values, measurements, workloads, first, last in session.execute(
            select(*columns, *counts).group_by(*columns).order_by(*columns)
        ):
            common = dict(zip(names, values, strict=True))
            with decoding(f"records {self.path}: rows of {common['target']}"):
                group = RecordGroup(
                    common["target"], common["threads"], common["source"], common["imported"], common["cache"],
                    strictjson.loads(Device, common["device"], "device"),
                    strictjson.loads(Toolchain, common["toolchain"], "toolchain"),
                    measurements, workloads, datetime.fromisoformat(first), datetime.fromisoformat(last),
                )  # fmt: skip
            found.append((common, group))
        return found

    def every(self, target_name: str | None = None) -> Iterator[tuple[Workload, Measurement]]:
        """All measurements, in the order in which they came; of one target, if it is named.

        Others may write meanwhile: rows are read some at a time.

        Raises:
            MeasureError: the file cannot be read, or a row is malformed.
        """
        row, last = MeasurementRow, 0
        while True:
            query = select(row).where(row.id > last).order_by(row.id).limit(CHUNK)
            if target_name is not None:
                query = query.where(row.target == target_name)
            with self._said("cannot be read"), Session(self._engine) as session:
                rows = session.scalars(query).all()
            if not rows:
                return
            for each in rows:
                yield workload_of(each, self.path), measurement_of(each, self.path)
            last = rows[-1].id

    def failures(self, target_name: str | None = None) -> tuple[KeptFailure, ...]:
        """The latest failure of every workload that ever failed, by device and toolchain; of a target, if one is named.

        Raises:
            MeasureError: the file cannot be read, or a row is malformed.
        """
        row, one = FailureRow, (FailureRow.workload, FailureRow.device_digest, FailureRow.toolchain, FailureRow.cache)
        query = select(row, _measured_since()).where(row.id.in_(select(func.max(row.id)).group_by(*one)))
        if target_name is not None:
            query = query.where(row.target == target_name)
        with self._said("cannot be read"), Session(self._engine) as session:
            found = session.execute(query.order_by(row.id)).all()
        return tuple(
            KeptFailure(workload_of(each, self.path), *failure_of(each, self.path), since) for each, since in found
        )

    def take_in(self, measurements: Iterable[tuple[Workload, Measurement]]) -> int:
        """Adds what others measured, as imported; gives how many were not there yet.

        What is there already, by `KNOWN_BY` and its samples, is not added again. Others may write meanwhile: some are
        added at a time, those all or nothing, and while the next are taken from `measurements` the file is free. What
        was added stays when that fails or is interrupted; to take in the same once more adds the rest.

        Raises:
            MeasureError: the file cannot be written.
        """
        left, added = iter(measurements), 0
        while some := list(islice(left, CHUNK)):
            with self._said("cannot be written"), Session(self._engine) as session, session.begin():
                added += sum(
                    _add_new(session, measurement_row(of, replace(taken, imported=True))) for of, taken in some
                )
        return added

    def remove(self, *, unless: Callable[[RecordGroup], bool]) -> int:
        """Removes the measurements of all groups but those of which `unless` says true; gives how many there were.

        Failures and whole networks go with the last measurement that was made beside them; those beside which nothing
        ever was, where no measurement is kept.

        Raises:
            MeasureError: the file cannot be read or written.
        """
        row, gone = MeasurementRow, 0
        besides: tuple[type[FailureRow | NetworkRow], ...] = (FailureRow, NetworkRow)
        with self._said("cannot be written"), Session(self._engine) as session, session.begin():
            groups = self._groups(session)
            for common, group in groups:
                if not unless(group):
                    same = [getattr(row, name) == value for name, value in common.items()]
                    session.execute(delete(row).where(*same))
                    for other in besides:
                        beside = (
                            other.target == common["target"],
                            other.threads == common["threads"],
                            other.device_digest == group.device.digest,
                            other.toolchain == common["toolchain"],
                        )
                        session.execute(delete(other).where(*beside, ~_beside_measurements(other)))
                    gone += group.measurements
            if gone and gone == sum(group.measurements for _, group in groups):
                for other in besides:
                    session.execute(delete(other))
        return gone

    def remove_damaged(self) -> int:
        """Removes what cannot be read, row by row, and nothing else; gives how many rows there were.

        Raises:
            MeasureError: the file cannot be read or written.
        """
        with self._said("cannot be written"), Session(self._engine) as session, session.begin():
            ways = (
                (MeasurementRow, (workload_of, measurement_of)),
                (FailureRow, (workload_of, failure_of)),
                (NetworkRow, (measurement_of,)),
            )
            return sum(self._remove_damaged(session, kind, *read) for kind, read in ways)

    def _remove_damaged(self, session: Session, kind: Any, *read: Callable[[Any, Path], object]) -> int:
        """Removes the rows of a kind that one of the readers cannot read."""
        damaged = []
        for row in session.scalars(select(kind).execution_options(yield_per=CHUNK)):
            try:
                for reads in read:
                    reads(row, self.path)
            except MeasureError:
                damaged.append(row.id)
        for some in damaged:
            session.execute(delete(kind).where(kind.id == some))
        return len(damaged)

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


@dataclass(frozen=True, slots=True)
class KeptFailure:
    """Why a workload could not be measured, where, when, and whether it was measured there since."""

    workload: Workload
    failure: MeasureFailure
    device: Device
    toolchain: Toolchain
    taken_at: datetime
    measured_since: bool


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
        self,
        target_name: str,
        threads: int,
        cache: Cache = "warm",
        *,
        signatures: Collection[str] | None = None,
        source: Source = "measured",
        imported: bool = False,
    ) -> dict[Workload, Measurement]:
        """The latest measurement of every workload on a target: of those made here, or of those `imported`.

        Args:
            signatures: of the layers that are asked for; all if None.

        Raises:
            MeasureError: the file cannot be read, or a row is malformed.
        """
        row = MeasurementRow
        kind = (row.source == source, row.cache == cache, row.imported == imported)
        query = self._query(row, target_name, threads).where(*kind)
        if signatures is not None:
            query = query.where(row.signature.in_(signatures))
        return {workload: measurement_of(each, self.path) for workload, each in self._latest(query).items()}

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

    def add_failure(
        self, workload: Workload, failure: MeasureFailure, taken_at: datetime, cache: Cache = "warm"
    ) -> None:
        """Keeps a failure; it is on disk when this returns.

        Raises:
            MeasureError: it cannot be written.
        """
        self._write(failure_row(workload, failure, cache, self.device, self.toolchain, taken_at))

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


def _add_new(session: Session, row: MeasurementRow) -> bool:
    """Adds a row to a transaction; says whether it was not there yet."""
    same = (getattr(MeasurementRow, name) == getattr(row, name) for name in (*KNOWN_BY, "samples"))
    if session.scalar(select(MeasurementRow.id).where(*same).limit(1)) is not None:
        return False
    session.add(row)
    session.flush()
    return True


def _measured_since() -> ColumnElement[bool]:
    """Of failures: whether the workload was measured later, by us, on the same device in the same way."""
    names = ("target", "threads", "device_digest", "toolchain", "cache", "workload")
    same = (getattr(MeasurementRow, name) == getattr(FailureRow, name) for name in names)
    own = MeasurementRow.imported.is_(False)
    return exists().where(*same, own, MeasurementRow.taken_at > FailureRow.taken_at)


def _beside_measurements(kind: type[FailureRow | NetworkRow]) -> ColumnElement[bool]:
    """Of rows: whether anything was measured, and kept, on the same device by the same toolchain."""
    names = ("target", "threads", "device_digest", "toolchain")
    return exists().where(*(getattr(MeasurementRow, name) == getattr(kind, name) for name in names))
