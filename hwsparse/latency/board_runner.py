"""Times compiled libraries on a board: waits for one, sees that code can run there, lets it cool down between turns.

Knows directories that hold libraries, not what they compute.
"""

from __future__ import annotations

import logging
import math
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, final

from hwsparse import strictjson
from hwsparse.errors import InputError, MeasureError
from hwsparse.latency.board import LOADER, Address
from hwsparse.latency.fingerprint import Device, Toolchain
from hwsparse.latency.heat import Heat
from hwsparse.latency.measurement import MeasureFailure, RunSettings
from hwsparse.latency.presence import Needs, Presence
from hwsparse.latency.process import LostError, RefusedError, Worker
from hwsparse.latency.runner import Clock, ProcessRunner

if TYPE_CHECKING:
    import numpy as np

ASK_TIMEOUT_S = 30.0
# How long after its session's end a board is free again at most.
FREED_S = 10.0
# Where a library sits that answers, and is not timed.
ANSWER_SLOT = -2
# How often to look how hot a board is while it is timed: some have a hundred sensors to read.
HEAT_EVERY_S = 1.0
# How often to look whether a hot board has cooled down, and for how long at a time; one that has not by then is not
# waited for again until it has been seen to be cool.
COOL_EVERY_S, COOL_S = 2.0, 90.0

_log = logging.getLogger(__name__)


@final
class BoardRunner(ProcessRunner):
    """Times libraries on a board that is reached over the network.

    A board that vanishes is waited for, and so is one that a lost session of ours still holds. The library that was at
    it has a second chance, in a new session: a kernel that crashes or hangs takes its session down as well.
    """

    chances = 2

    def __init__(
        self,
        toolchain: Toolchain,
        clock: Clock,
        address: Address,
        reference: Path | None = None,
        needs: Needs | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Starts nothing yet; arguments are those of `ProcessRunner`, and

        Args:
            address: the board's.
            needs: what code asks for; without it, boards are not looked at before they run any.
            sleep: waits so many seconds, for a hot board to cool down.
        """
        super().__init__(toolchain, clock, reference, address.session_s)
        self.address = address
        self._needs, self._sleep = needs, sleep
        self._presence: Presence | None = None
        self._ended = ""  # what became of the session before, as far as the board told
        self._patient, self._looked = True, -math.inf  # at how hot it is, by the monotonic clock
        self._held_until = 0.0

    @property
    def device(self) -> Device:
        if self._presence is None:
            self._empty_worker(threads=1)
        assert self._presence is not None
        return self._presence.device

    def start(self, threads: int) -> Worker:
        held_s = max(0.0, self._held_until - time.monotonic())
        start_s = max(self.address.wait_s, held_s) + ASK_TIMEOUT_S
        told_where = asdict(self.address) | {"held_s": held_s}
        worker = Worker(LOADER, threads, pinned=False, options=told_where, start_s=start_s)
        try:
            told = worker.ask(ASK_TIMEOUT_S, do="describe")["presence"]
            self._meet(strictjson.decode(Presence, told, "the board's description of itself"))
        except (LostError, RefusedError, InputError) as error:
            worker.close()
            raise MeasureError(
                f"board {self.address.key!r} does not say what it is: {error}; the same hwsparse is to be installed "
                "there as here"
            ) from None
        except MeasureError:
            worker.close()
            raise
        return worker

    def _meet(self, now: Presence) -> None:
        """Looks at the board of a new session.

        Raises:
            MeasureError: it is another device than before, or code cannot run there.
        """
        board, before = f"board {self.address.key!r}", self._presence
        if before is not None and now.device.digest != before.device.digest:
            raise MeasureError(
                f"{board} is another device than before, {now.device.cpu or now.device.machine}, CPUs "
                f"{now.device.used}; boards under one key must be alike: give this one a key, and a target, of its own"
            )
        if self._needs is not None and (why := self._needs.unmet(now)):
            raise MeasureError(f"{board} {why}")
        self._looked, self._ended = -math.inf, now.how_ended(before) if before is not None else ""
        if self._ended:
            _log.warning("a session with %s was lost: %s; what was being timed is timed again", board, self._ended)
        self._presence = now

    def was_killed(self, loss: LostError, threads: int) -> bool:
        if loss.stage != "run":  # what hangs was not killed, and may hold the board
            return False
        self._empty_worker(threads)  # the board tells in the next session
        return signal.SIGKILL.name in self._ended

    def reason(self, loss: LostError) -> str:
        return f"{loss.reason}; the board tells: {self._ended}" if self._ended and loss.stage == "run" else loss.reason

    def rest(self, worker: Worker) -> float:
        began = time.monotonic()
        if began - self._looked < HEAT_EVERY_S:
            return 0.0
        self._looked, trouble = began, self._trouble(worker)
        if trouble is None:
            self._patient = True
            return 0.0
        if not self._patient:
            return 0.0
        _log.warning(
            "board %r is too hot to be timed (%s): waiting up to %.0f s for it to cool down",
            self.address.key, trouble, COOL_S,
        )  # fmt: skip
        for _ in range(int(COOL_S / COOL_EVERY_S)):
            self._sleep(COOL_EVERY_S)
            if (trouble := self._trouble(worker)) is None:
                return time.monotonic() - began
        self._patient = False
        _log.warning(
            "board %r has not cooled down (%s): timing goes on, and figures are corrected by what the reference kernel "
            "takes; a fan, or a lower clock, makes them surer",
            self.address.key, trouble,
        )  # fmt: skip
        return time.monotonic() - began

    def _trouble(self, worker: Worker) -> str | None:
        try:
            return strictjson.decode(Heat, worker.ask(ASK_TIMEOUT_S, do="heat")["heat"], "the board's heat").trouble
        except (RefusedError, InputError):  # a board that cannot tell is timed as it is
            return None

    def answers(
        self, directory: Path, inputs: Mapping[str, np.ndarray], settings: RunSettings
    ) -> dict[str, np.ndarray]:
        """What a library gives on inputs, by name.

        Raises:
            MeasureError: there is no board, or the library does not run there; in two sessions, where one was lost.
        """
        from safetensors.numpy import load_file, save_file

        with tempfile.TemporaryDirectory(prefix="hwsparse-answers-") as scratch:
            asked, given = Path(scratch) / "inputs", Path(scratch) / "outputs"
            save_file(dict(inputs), asked)
            for left in reversed(range(self.chances)):
                worker = self._empty_worker(settings.threads)
                try:
                    worker.ask(settings.timeout_s, do="load", slot=ANSWER_SLOT, directory=str(directory.absolute()))
                    worker.ask(
                        settings.timeout_s, do="answer", slot=ANSWER_SLOT, inputs=str(asked), outputs=str(given)
                    )  # fmt: skip
                    return dict(load_file(given))
                except RefusedError as refused:
                    raise MeasureError(f"board {self.address.key!r} cannot run a network: {refused}") from None
                except LostError as loss:
                    self._lose()
                    if not left:
                        raise MeasureError(
                            f"board {self.address.key!r} was lost twice while it ran a network ({loss.stage}): "
                            f"{self.reason(loss)}"
                        ) from None
        raise AssertionError("a runner has at least one chance")

    def _peak_memory(self, key: str, directory: Path, settings: RunSettings) -> int | MeasureFailure:
        self.close()  # a board has one session at a time
        return super()._peak_memory(key, directory, settings)

    def _lose(self) -> None:
        # Where nobody told the board that the session is over, or a kernel hangs, it goes on there.
        self._held_until = self._started + self._session_s + FREED_S
        super()._lose()
