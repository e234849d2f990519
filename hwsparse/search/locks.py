"""Who works on a study: turns that one process has at a time, and signs of life that no clock tells.

A process holds its sign, a number that it drew, for as long as it has the study open; whatever ends the process lets go
of it. So another one knows at once which trials nobody runs any more, whatever the clocks of both say.

Knows no study's content.
"""

from __future__ import annotations

import fcntl
import hashlib
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Protocol

import sqlalchemy
from sqlalchemy.exc import DBAPIError

from hwsparse.errors import StudyError

TURN_S = 60.0  # a turn takes a fraction of a second
POLL_S = 0.005
SIGN_BITS = 62


class Locks(Protocol):
    """Of one study, for one process."""

    @property
    def sign(self) -> int:
        """The process's own sign of life."""
        ...

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The study's trials are added to by no other process.

        Raises:
            StudyError: another process has the turn for a minute.
        """
        ...

    def alive(self, sign: int) -> bool:
        """Whether the process of this sign still has the study open."""
        ...


class FileLocks:
    """By a file beside an SQLite file: its first byte is the turn, and each sign a byte far behind the file's end."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        """Until the stack is closed.

        Raises:
            StudyError: the file cannot be made.
        """
        self._path, self.sign = path, _drawn()
        try:
            self._file: TextIOWrapper = stack.enter_context(path.with_name(path.name + ".lock").open("a"))
        except OSError as error:
            raise StudyError(f"{path}: a study cannot be kept there: {error.strerror}") from None
        self._had(self.sign)

    @contextmanager
    def turn(self) -> Iterator[None]:
        end = time.monotonic() + TURN_S
        while not self._had(0):
            if time.monotonic() > end:
                raise _kept_waiting(str(self._path))
            time.sleep(POLL_S)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, 0)

    def alive(self, sign: int) -> bool:
        # A process's own locks never stand in its own way: they cannot be asked for.
        if sign == self.sign:
            return True
        if not self._had(sign):
            return True
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, sign)
        return False

    def _had(self, byte: int) -> bool:
        # lockf, not flock: a forked worker that outlives its parent must not keep the lock.
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError:
            return False
        return True


class PostgresLocks:
    """By advisory locks of a PostgreSQL server, which it lets go of when a connection ends.

    https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
    """

    def __init__(self, engine: sqlalchemy.Engine, study: str, where: str, stack: ExitStack) -> None:
        """For the study of this name, until the stack is closed; by an engine that keeps no connections.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the server cannot be reached.
        """
        self._engine, self._where, self.sign = engine, where, _drawn()
        digest = hashlib.sha256(study.encode()).digest()
        self._turn = int.from_bytes(digest[:8], "big") >> (64 - SIGN_BITS)
        self._connection: sqlalchemy.Connection | None = None
        stack.callback(self._close)
        self._connected()

    @contextmanager
    def turn(self) -> Iterator[None]:
        end = time.monotonic() + TURN_S
        while not self._had(self._turn):
            if time.monotonic() > end:
                raise _kept_waiting(self._where)
            time.sleep(POLL_S)
        try:
            yield
        finally:
            with suppress(DBAPIError):  # a connection that was lost has no locks
                self._let_go(self._turn)

    def alive(self, sign: int) -> bool:
        if sign == self.sign:
            return True
        if not self._had(sign):
            return True
        self._let_go(sign)
        return False

    def _had(self, key: int) -> bool:
        return bool(self._asked("pg_try_advisory_lock", key))

    def _let_go(self, key: int) -> None:
        self._asked("pg_advisory_unlock", key)

    def _asked(self, function: str, key: int) -> object:
        try:
            return self._connected().execute(sqlalchemy.text(f"SELECT {function}(:key)"), {"key": key}).scalar()
        except DBAPIError:
            self._close()
            raise

    def _connected(self) -> sqlalchemy.Connection:
        """The connection that holds the sign, made anew where it was lost."""
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._had(self.sign)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(DBAPIError):  # it may be lost
                self._connection.close()
            self._connection = None


def _drawn() -> int:
    return secrets.randbelow((1 << SIGN_BITS) - 1) + 1


def _kept_waiting(where: str) -> StudyError:
    return StudyError(
        f"{where}: another process has had the study to itself for {TURN_S:.0f} s; end it, or wait until it goes on"
    )
