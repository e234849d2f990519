"""A device that is reached over the network, by TVM's RPC: seen from here (`Board`), and on the device (`serve_board`).

A tracker knows which boards there are, under which key, and gives each to one user at a time, by priority. Whoever
reaches a board can run any code on it: boards and trackers belong into networks of their own.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsparse import strictjson
from hwsparse.errors import InputError, MeasureError, one_line
from hwsparse.latency.fingerprint import Device

if TYPE_CHECKING:
    from hwsparse.codegen import Library

LOADER = "hwsparse.latency.board:Board"
DESCRIBE = "hwsparse.device"
# A board is one user's for so long at most: then it is free again, even if a kernel hangs there. TVM's word for it.
SESSION_S, EXPIRED = 600.0, "RPCSessionTimeoutError"
# How often to look whether a board has come (back); ports that a board may listen on.
LOOK_EVERY_S, CONNECT_S = 1.0, 5.0
# How long to wait for a tracker that cannot be reached: it may be starting again, and needs no more.
TRACKER_S = 10.0
PORTS = range(9091, 9200)


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
        """Loads a library on the board."""
        from hwsparse.codegen import Library

        with self.watched():
            return Remote(self, Library.load(directory, threads, self._session))

    def describe(self) -> dict[str, Any]:
        """The board's `Device`, as JSON data."""
        return dict(json.loads(self._session.get_function(DESCRIBE)()))

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
            trouble = f"{where} knows no board {address.key!r}; " + (
                f"there are {', '.join(sorted(known))}" if known else "there are none"
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


def serve_board(tracker: Address, host: str, say: Callable[[str], None]) -> None:
    """Offers this machine as a board, for ever: sessions one after the other, each in a process of its own.

    Args:
        host: that this machine listens on, and is reached by.
        say: told in a line what happens.
    """
    from hwsparse.codegen import Library  # noqa: F401  (what it registers, sessions find; it imports TVM without torch)

    # What is registered here is there in the processes of sessions only if they are copies of this one.
    multiprocessing.set_start_method("fork", force=True)
    import tvm_ffi
    from tvm.rpc.server import PopenRPCServerState

    tvm_ffi.register_global_func(DESCRIBE, lambda: strictjson.dumps(Device.probe()), override=True)
    home = os.getcwd()
    while True:
        server = PopenRPCServerState(
            host, PORTS.start, PORTS.stop, tracker_addr=(tracker.host, tracker.port), key=tracker.key,
            custom_addr=host, silent=True,
        )  # fmt: skip
        say(f"board {tracker.key!r} listens on {host}:{server.port}")
        # Ends when a session crashed, as kernels may, or the tracker cannot be found.
        server.thread.join()
        server.sock.close()
        os.chdir(home)  # a session that crashed leaves this process in its directory, which is gone
        say("a session ended badly, or the tracker is away: starting again")
        time.sleep(LOOK_EVERY_S)
