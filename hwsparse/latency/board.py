"""A device that is reached over the network, by TVM's RPC, as it is seen from here; `onboard.py` is what runs on it.

A tracker knows which boards there are, under which key, and gives each to one user at a time, by priority. Whoever
reaches a board can run any code on it: boards and trackers belong into networks of their own.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsparse.errors import ArtifactError, InputError, MeasureError, NoRoomError, one_line
from hwsparse.probe import machine

if TYPE_CHECKING:
    from hwsparse.codegen import Library

LIBRARY = "library.so"
# Machines by their numbers in files' headers (System V Application Binary Interface, "ELF Header", e_machine).
ELF, ELF_MACHINES = b"\x7fELF", {40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
LOADER = "hwsparse.latency.board:Board"
# What a board answers questions by: presence, heat, held (memory, by the session's process) or room (memory, left).
ASK = "hwsparse.ask"
# A board is one user's for so long at most: then it is free again, even if a kernel hangs there. TVM's word for it.
SESSION_S, EXPIRED = 600.0, "RPCSessionTimeoutError"
# How often to look whether a board has come (back); ports that a board may listen on.
LOOK_EVERY_S, CONNECT_S = 1.0, 5.0
# How long to wait for a tracker that cannot be reached: it may be starting again, and needs no more.
TRACKER_S = 10.0


@dataclass(frozen=True, slots=True)
class Address:
    """A tracker, and the key under which boards of one kind are registered there; several users go by priority."""

    host: str
    port: int
    key: str
    priority: int = 1
    wait_s: float = 120.0  # for a board that is in use, away or starting
    session_s: float = SESSION_S

    @classmethod
    def parse(cls, tracker: str, key: str, priority: int = 1) -> Address:
        """Reads a tracker's HOST:PORT.

        Raises:
            InputError: it is none.
        """
        host, colon, port = tracker.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise InputError(f"tracker {tracker!r}: give it as HOST:PORT")
        return cls(host, int(port), key, priority)


class Board:
    """What a timing process loads libraries by: they go to the board, and are run there."""

    def __init__(self, held_s: float = 0.0, **address: Any) -> None:
        """Waits for a board to be free, and takes it until this process ends, or until the session's time is over.

        Args:
            held_s: how long a lost session of ours may hold the board yet: one that is in use is waited for as long.

        Raises:
            MeasureError: no tracker, or no board within the time.
        """
        self.address = Address(**address)
        self._session = _request(self.address, held_s)

    def load(self, directory: Path, threads: int) -> Remote:
        """Loads a library on the board.

        Raises:
            NoRoomError: the board has less memory left than the library's files take.
            ArtifactError: it is no library, or one that the board's system cannot load.
            MeasureError: it is code for another machine.
        """
        from hwsparse.codegen import Library

        with self.watched():
            found, wanted = elf_machine(directory / LIBRARY), machine(self.describe()["device"]["machine"])
            if found is not None and found != wanted:
                raise MeasureError(f"it is code for {found}, and board {self.address.key!r} is of {wanted}")
            needed, left = sum(path.stat().st_size for path in directory.glob("*")), self._ask("room")
            if left is not None and left < needed:
                raise NoRoomError(
                    f"board {self.address.key!r} has {left / 1e6:.0f} MB of memory left, and this takes "
                    f"{needed / 1e6:.0f} MB at least: end what else runs there, or build it smaller"
                )
            try:
                return Remote(self, Library.load(directory, threads, self._session))
            except ArtifactError as error:
                if missing := re.search(r"GLIBC_[\d.]+", str(error)):
                    raise ArtifactError(
                        f"board {self.address.key!r} has a C library older than code needs ({missing[0]} is missing): "
                        "bring its system up to date"
                    ) from None
                raise

    def describe(self) -> dict[str, Any]:
        """What the board tells of itself: its `Presence`, as JSON data.

        Raises:
            MeasureError: it is no board of this hwsparse.
        """
        try:
            return dict(self._ask("presence"))
        except Exception as error:
            if "no function" in str(error) or isinstance(error, ValueError | TypeError):
                raise MeasureError(
                    f"what is registered as {self.address.key!r} does not run `hwsparse device serve` of this version: "
                    "install the same hwsparse there, and start it again"
                ) from None
            raise

    def heat(self) -> dict[str, Any]:
        """How hot the board is: its `Heat`, as JSON data."""
        with self.watched():
            return dict(self._ask("heat"))

    def held_memory(self) -> tuple[int, int]:
        """Bytes that the session's process holds there, and the most that it held since this was last asked."""
        with self.watched():
            held, most = self._ask("held")
        return int(held), int(most)

    def _ask(self, question: str) -> Any:
        return json.loads(self._session.get_function(ASK)(question))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Ends this process when something fails because the session is over: perhaps no library is to blame."""
        try:
            yield
        except Exception as error:
            if EXPIRED in str(error) or not self._answers():
                sys.exit(f"the session with board {self.address.key!r} is over: {one_line(error)}")
            raise

    def _answers(self) -> bool:
        try:
            self.describe()
        except Exception:
            return False
        return True


class Remote:
    """A library on a board."""

    elsewhere = True  # what this process gets of its CPU says nothing of the board's

    def __init__(self, board: Board, library: Library) -> None:
        self._board, self._library = board, library

    def check(self) -> float | None:
        with self._board.watched():
            return self._library.check()

    def answer(self, inputs: Path, outputs: Path) -> None:
        """Runs it on inputs in one file of tensors, and writes what it gives into another."""
        from safetensors.numpy import load_file, save_file

        with self._board.watched():
            save_file(self._library.run(load_file(inputs)), outputs)

    def time(self, repeats: int, number: int = 1, *, cold: bool = False) -> tuple[float, ...]:
        with self._board.watched():
            return self._library.time(repeats, number, cold=cold)


def _request(address: Address, held_s: float) -> Any:
    from tvm import rpc

    began, busy_s = time.monotonic(), max(address.wait_s, held_s)
    where = f"the tracker at {address.host}:{address.port}"
    while True:
        patience_s = address.wait_s
        try:
            # By itself it would try for a minute.
            socket.create_connection((address.host, address.port), CONNECT_S).close()
            tracker = rpc.connect_tracker(address.host, address.port)
            known = {server["key"].partition(":")[2] for server in tracker.summary()["server_info"]}
            trouble = (
                f"{where} knows no board {address.key!r}; "
                + (f"there are {', '.join(sorted(known))}" if known else "there are none")
                + f"; `hwsparse device serve --key {address.key}` on a board registers it"
            )
            if address.key in known:
                tracker._sock.settimeout(busy_s)  # it answers when a board is free
                return tracker.request(address.key, address.priority, address.session_s, max_retry=1)
        except OSError as error:
            trouble = f"{where} cannot be reached: {one_line(error)}; `hwsparse device tracker` starts one"
            patience_s = min(patience_s, TRACKER_S)
        except RuntimeError as error:  # a board may vanish just then
            trouble = f"a board of {where} cannot be reached: {one_line(error)}"
            if "timed out" in trouble:
                trouble = f"every board {address.key!r} of {where} was in use for {busy_s:.0f} s"
        if time.monotonic() > began + patience_s:
            raise MeasureError(trouble)
        time.sleep(LOOK_EVERY_S)


def elf_machine(path: Path) -> str | None:
    """What machine a shared library's code is for; None: it is no such file, or of a machine that has no name here."""
    try:
        with path.open("rb") as file:
            header = file.read(20)
    except OSError:
        return None
    if len(header) < 20 or header[:4] != ELF:
        return None
    return ELF_MACHINES.get(int.from_bytes(header[18:20], "little"))
