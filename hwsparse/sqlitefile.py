"""SQLite files that several processes use at once, and whose errors are one line about the file.

Knows no tables.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from hwsparse.errors import HwsparseError

BUSY_TIMEOUT_S, BUSY_WAIT_S = 30.0, 0.01


def sqlite_engine(path: Path, *, keep_open: bool = True) -> Engine:
    """SQLite that waits for other writers, and whose transactions are real ones.

    Args:
        path: of the file.
        keep_open: hold connections between transactions, until the engine is disposed of.
    """
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_TIMEOUT_S},
        poolclass=None if keep_open else NullPool,
    )

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # sqlite3 would commit behind SQLAlchemy's back
        _log_writes_ahead(connection)

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # Locks first, so that a transaction that has read never finds itself unable to write.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _log_writes_ahead(connection: sqlite3.Connection) -> None:
    """Sets the journal's mode, which SQLite waits for nobody to do: others that open a new file may be at it."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(BUSY_WAIT_S)


@contextmanager
def translated(what: str, kind: type[HwsparseError]) -> Iterator[None]:
    """Turns errors of SQLite and the system into one line, of this kind, that begins with `what`."""
    try:
        yield
    except DBAPIError as error:
        raise kind(f"{what}: {error.orig}") from None
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise kind(f"{what}: {error}") from None
