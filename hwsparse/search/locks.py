"""Who works on a study: turns that one process has at a time, and signs of life that no clock tells.

A process holds its sign, a number that it drew, for as long as it has the study open; whatever ends the process lets go
of it, of a host that is cut off within a minute. So another one knows which trials nobody runs any more, whatever the
clocks of both say.

Knows no study's content.
"""

from __future__ import annotations

import fcntl
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Protocol

import sqlalchemy
from sqlalchemy.exc import DBAPIError, OperationalError

from hwsparse.errors import StudyError

TURN_S = 300.0  # a turn takes a fraction of a second, with the slowest of samplers some
POLL_S = 0.005
SIGN_BITS = 62
TURN_KEY = 0x6877737061727365 >> 2  # "hwsparse": of all studies in a database
# When a server comes back nobody has a sign yet: so long after it was reached anew, all count as alive.
GRACE_S = 5.0


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
            StudyError: another process has the turn for minutes.
        """
        ...

    def keeps_turn(self) -> bool:
        """Whether the turn that was begun is still this process's: a server may have gone away meanwhile."""
        ...

    def renew(self) -> None:
        """Sees that the sign is still held."""
        ...

    def alive(self, sign: int) -> bool:
        """Whether the process of this sign still has the study open."""
        ...


class FileLocks:
    """By a file beside an SQLite file: its first byte is the turn, and each sign a byte far behind the file's end.

    Locks are a process's: one that opens a file twice, and closes it once, has none any more.
    """

    def __init__(self, path: Path, stack: ExitStack) -> None:
        """Until the stack is closed.

        Raises:
            StudyError: the file cannot be made, or not locked.
        """
        self._path, self.sign = path, _drawn()
        try:
            whole = path.resolve()  # one lock, by whatever name the file goes
            self._file: TextIOWrapper = stack.enter_context(whole.with_name(whole.name + ".lock").open("a"))
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

    def keeps_turn(self) -> bool:
        return True

    def renew(self) -> None:
        pass  # only the process's end lets go of it

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
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise StudyError(f"{self._path}: files cannot be locked there: {error.strerror}") from None
        return True


class PostgresLocks:
    """By advisory locks of a PostgreSQL server, which it lets go of when a connection ends.

    https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
    """

    def __init__(self, engine: sqlalchemy.Engine, where: str, stack: ExitStack) -> None:
        """Until the stack is closed; by an engine that keeps no connections.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the server cannot be reached.
        """
        self._engine, self._where, self.sign = engine, where, _drawn()
        self._connection: sqlalchemy.Connection | None = None
        self._turn_of: sqlalchemy.Connection | None = None
        self._reached = 0.0
        stack.callback(self._close)
        self._connected()

    @contextmanager
    def turn(self) -> Iterator[None]:
        end = time.monotonic() + TURN_S
        while not self._had(TURN_KEY):
            if time.monotonic() > end:
                raise _kept_waiting(self._where)
            time.sleep(POLL_S)
        self._turn_of = self._connection
        try:
            yield
        finally:
            if self.keeps_turn():  # a connection that was lost has no locks
                with suppress(DBAPIError):
                    self._let_go(TURN_KEY)
            self._turn_of = None

    def keeps_turn(self) -> bool:
        if self._turn_of is None or self._turn_of is not self._connection:
            return False
        try:
            self._connection.execute(sqlalchemy.text("SELECT 1"))
        except DBAPIError:
            self._close()
            return False
        return True

    def renew(self) -> None:
        try:
            self._connected().execute(sqlalchemy.text("SELECT 1"))
        except DBAPIError:
            self._close()  # until the next time

    def alive(self, sign: int) -> bool:
        connection = self._connected()
        if sign == self.sign or time.monotonic() - self._reached < GRACE_S:
            return True
        if not self._had(sign):
            return True
        if connection is self._connection:
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
        """The connection that holds the sign, made anew where it was lost.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the server cannot be reached, or holds the sign for the lost one yet.
        """
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._reached = time.monotonic()
            if not self._had(self.sign):
                self._close()
                raise OperationalError("sign", {}, ConnectionError("the lost connection holds the sign of life yet"))
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
        f"{where}: other processes have had the study to themselves for {TURN_S:.0f} s; if one of them hangs, end it"
    )
