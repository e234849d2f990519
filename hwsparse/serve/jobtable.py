"""The jobs there are and where each one stands, in a database.

Knows neither processes nor what a job does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from hwsparse.errors import ServiceError
from hwsparse.serve.operation import JobError, JobKind, Operation, OperationState

_METADATA = sql.MetaData()
_JOBS = sql.Table(
    "jobs",
    _METADATA,
    sql.Column("number", sql.Integer, primary_key=True),  # grows with every job: the order of the queue
    sql.Column("name", sql.String(64), nullable=False, unique=True),
    sql.Column("kind", sql.String(16), nullable=False),
    sql.Column("state", sql.String(16), nullable=False, index=True),
    sql.Column("target", sql.Text, nullable=False),
    sql.Column("model_sha256", sql.String(64), nullable=False),
    sql.Column("request_id", sql.String(100), unique=True),  # NULL: the caller gave none
    sql.Column("request_digest", sql.String(64), nullable=False),
    sql.Column("created_at", sql.Float, nullable=False),
    sql.Column("started_at", sql.Float),
    sql.Column("finished_at", sql.Float),
    sql.Column("error_kind", sql.Text),
    sql.Column("error_message", sql.Text),
    sql.Column("artifacts", sql.Text),  # digests, separated by spaces
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job and what only the server needs of it."""

    number: int
    request_digest: str
    operation: Operation  # without its progress, which is not in the database


class JobTable:
    """Rows of jobs. Every method raises ServiceError when the database cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = sql.create_engine(f"sqlite:///{path}")
        with self._connection() as connection:
            _METADATA.create_all(connection)

    def close(self) -> None:
        """Lets go of the database."""
        self._engine.dispose()

    def add(self, operation: Operation, request_digest: str) -> None:
        """Adds a job at the end of the queue."""
        values = _values(operation)
        with self._connection() as connection:
            connection.execute(_JOBS.insert().values(request_digest=request_digest, **values))

    def update(self, operation: Operation) -> None:
        """Writes where a job stands now."""
        changed = _JOBS.update().where(_JOBS.c.name == operation.name).values(**_values(operation))
        with self._connection() as connection:
            connection.execute(changed)

    def find(self, name: str) -> JobRow | None:
        """The job of this name."""
        return self._one(_JOBS.c.name == name)

    def find_request(self, request_id: str) -> JobRow | None:
        """The job that was asked for with this request id."""
        return self._one(_JOBS.c.request_id == request_id)

    def oldest_queued(self) -> JobRow | None:
        """The job whose turn it is."""
        return self._one(_JOBS.c.state == OperationState.QUEUED.value)

    def in_state(self, state: OperationState) -> tuple[JobRow, ...]:
        """Every job in this state, oldest first."""
        return self._rows(_JOBS.select().where(_JOBS.c.state == state.value).order_by(_JOBS.c.number))

    def page(self, size: int, before: int | None) -> tuple[JobRow, ...]:
        """The newest jobs, or the newest of those numbered below `before`."""
        rows = _JOBS.select().order_by(_JOBS.c.number.desc()).limit(size)
        return self._rows(rows if before is None else rows.where(_JOBS.c.number < before))

    def _one(self, condition: sql.ColumnElement[bool]) -> JobRow | None:
        rows = self._rows(_JOBS.select().where(condition).order_by(_JOBS.c.number).limit(1))
        return rows[0] if rows else None

    def _rows(self, query: sql.Select[Any]) -> tuple[JobRow, ...]:
        with self._connection() as connection:
            return tuple(_row(row) for row in connection.execute(query).mappings())

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sql.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise ServiceError(f"{self._path.name}: the table of jobs cannot be used: {cause}") from None


def _values(operation: Operation) -> dict[str, Any]:
    error = operation.error
    return {
        "name": operation.name,
        "kind": operation.kind,
        "state": operation.state.value,
        "target": operation.target,
        "model_sha256": operation.model_sha256,
        "request_id": operation.request_id or None,
        "created_at": operation.created_at,
        "started_at": operation.started_at,
        "finished_at": operation.finished_at,
        "error_kind": error.kind if error else None,
        "error_message": error.message if error else None,
        "artifacts": " ".join(operation.artifacts),
    }


def _row(row: sql.RowMapping) -> JobRow:
    operation = Operation(
        name=row["name"],
        kind=cast(JobKind, row["kind"]),
        state=OperationState(row["state"]),
        target=row["target"],
        model_sha256=row["model_sha256"],
        request_id=row["request_id"] or "",
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        error=JobError(row["error_kind"], row["error_message"]) if row["error_kind"] else None,
        artifacts=tuple((row["artifacts"] or "").split()),
    )
    return JobRow(row["number"], row["request_digest"], operation)
