"""A PostgreSQL server of a test's own, reached by a socket in its directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import sqlalchemy


def programs() -> Path | None:
    """Where the server's programs are; Debian has them off the path. None: it is not installed."""
    found = [Path(at).resolve().parent for at in (shutil.which("pg_ctl"),) if at is not None]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((at for at in found if (at / "initdb").exists() and (at / "pg_ctl").exists()), None)


@dataclass(frozen=True)
class Server:
    directory: Path
    programs: Path

    def start(self) -> None:
        self._run("pg_ctl", "start", "-w", "-l", "log", "-o", f"-c listen_addresses='' -k {self.directory}")

    def stop(self) -> None:
        """As a crash would: nobody is asked to leave."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate")

    def database(self, name: str) -> str:
        """The URL of a new, empty one."""
        with psycopg.connect(host=str(self.directory), user="hwsparse", dbname="postgres", autocommit=True) as there:
            there.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql://hwsparse:secret@/{name}?host={self.directory}"

    def make(self) -> None:
        self._run("initdb", "-A", "trust", "-U", "hwsparse", "--no-sync")

    def _run(self, program: str, *arguments: str) -> None:
        command = [self.programs / program, "-D", self.directory / "data", *arguments]
        # The server refuses to be root.
        user = "postgres" if os.geteuid() == 0 else None
        subprocess.run(command, cwd=self.directory, check=True, capture_output=True, user=user, timeout=60)


@contextmanager
def running_server(at: Path) -> Iterator[Server]:
    """A server by the programs there, for as long as the context lasts."""
    directory = Path(tempfile.mkdtemp(prefix="hwsparse-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(directory, "postgres")
    server = Server(directory, at)
    try:
        server.make()
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(directory)


def row_count(url: str, table: str) -> int:
    """Of one of a database's tables."""
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    try:
        with engine.connect() as connection:
            return int(connection.execute(sqlalchemy.text(f"SELECT count(*) FROM {table}")).scalar_one())
    finally:
        engine.dispose()
