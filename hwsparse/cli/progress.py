"""How far a job is: a bar per stage on a terminal, a line per stage elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hwsparse.cli import interrupt
from hwsparse.search import Candidate, pareto_front


class StageProgress:
    """Shows stages as `pipeline.OnProgress` reports them; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._stage, self._task, self._started = "", TaskID(0), 0.0

    def __enter__(self) -> StageProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int, known: tuple[Candidate, ...]) -> None:
        """Shows that `done` of `total` steps of a stage are done.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        interrupt.check()
        if stage != self._stage:
            self._finish()
            self._stage, self._started = stage, time.monotonic()
            self._task = self._bars.add_task(stage, total=total, note="")
        self._bars.update(self._task, completed=done, total=total, note=_note(known))

    def _finish(self) -> None:
        if not self._stage:
            return
        self._bars.update(self._task, completed=self._bars.tasks[self._task].total)
        if not self._console.is_terminal:
            self._console.print(f"{self._stage}: done in {time.monotonic() - self._started:.1f} s")


def _note(known: tuple[Candidate, ...]) -> str:
    if not known:
        return ""
    front = pareto_front(known)
    return f"front of {len(front)}, fastest {front[0].latency_s * 1e3:.3g} ms"
