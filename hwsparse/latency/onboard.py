"""What runs on a board: TVM's RPC server, and what sessions ask of the board beside running code.

Knows no targets and no measurements, and imports no torch: a board is small.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from hwsparse import strictjson
from hwsparse.errors import InputError, MeasureError, one_line
from hwsparse.execution.child import death
from hwsparse.execution.memory import available_memory, held_memory
from hwsparse.latency.board import ASK, Address
from hwsparse.latency.cores import shown, usable_cpus
from hwsparse.latency.heat import read_heat
from hwsparse.latency.presence import Presence

# Ports that a board may listen on, and how long to wait before it is started again.
PORTS = range(9091, 9200)
AGAIN_S = 1.0


@dataclass(slots=True)
class _Told:
    """What a board tells of itself, and remembers."""

    presence: Presence
    trouble: str = ""  # why the server ended the last time

    def answer(self, question: str) -> str:
        """To sessions, each of which knows what was known when it began."""
        if question == "presence":
            return strictjson.dumps(self.presence)
        if question == "heat":
            return strictjson.dumps(read_heat(self.presence.cpus))
        return json.dumps(available_memory() if question == "room" else held_memory())

    def remember(self, failure: threading.ExceptHookArgs) -> None:
        """Of a server that ended, why: a session's process crashed, or there is no tracker."""
        self.trouble = str(failure.exc_value)
        if crash := re.search(r"exited unsuccessfully with error code (-?\d+)", self.trouble):
            how = death(int(crash[1]))
            self.trouble = f"a session's process was {how}"
            self.presence = replace(self.presence, crashes=self.presence.crashes + 1, last_crash=how)


def serve_board(
    tracker: Address,
    host: str,
    say: Callable[[str], None],
    cpus: Collection[int] = frozenset(),
    port: int | None = None,
) -> None:
    """Offers this machine as a board, for ever: sessions one after the other, each in a process of its own.

    Args:
        host: that this machine listens on, and is reached by.
        say: told in a line what happens.
        cpus: that code may run on; by default those that this process may use.
        port: to listen on; by default the first one that is free of `PORTS`.

    Raises:
        InputError: this process cannot run on these CPUs.
        MeasureError: nothing can be listened to there.
    """
    used = _pinned(cpus)
    from hwsparse.codegen import Library  # noqa: F401  (what it registers, sessions find; it imports TVM without torch)

    # What is registered here is there in the processes of sessions only if they are copies of this one.
    multiprocessing.set_start_method("fork", force=True)
    import tvm_ffi
    from tvm.rpc.server import PopenRPCServerState

    told = _Told(Presence.here(used))
    tvm_ffi.register_global_func(ASK, told.answer, override=True)
    threading.excepthook = told.remember
    if slow := read_heat(used).trouble:
        say(f"this board does not run at its full clock now: {slow}")
    home, ports = os.getcwd(), (PORTS.start, PORTS.stop) if port is None else (port, port + 1)
    while True:
        try:
            server = PopenRPCServerState(
                host, *ports, tracker_addr=(tracker.host, tracker.port), key=tracker.key, custom_addr=host, silent=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise MeasureError(
                f"no board can listen on {host}, port {ports[0]}{'' if port else f' to {ports[1] - 1}'}: {error}; "
                "--host is an address of this machine"
            ) from None
        say(f"board {tracker.key!r} listens on {host}:{server.port}, and runs code on its CPUs {shown(used)}")
        # Ends when a session crashed, as kernels may, or the tracker cannot be found.
        server.thread.join()
        server.sock.close()
        os.chdir(home)  # a session that crashed leaves this process in its directory, which is gone
        say(f"{told.trouble or 'the server ended'}: starting again")
        time.sleep(AGAIN_S)


def _pinned(cpus: Collection[int]) -> tuple[int, ...]:
    """The CPUs that this process runs on from now on, with all that it starts.

    Raises:
        InputError: it cannot run on them.
    """
    if cpus:
        try:
            os.sched_setaffinity(0, cpus)
        except (OSError, AttributeError) as error:
            raise InputError(f"this process cannot run on CPUs {shown(cpus)}: {one_line(error)}") from None
    return tuple(sorted(usable_cpus()))
