"""How far a job is: a bar per stage on a terminal, lines elsewhere, of a search one for each tenth of it."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hwsparse.cli import interrupt
from hwsparse.report import words
from hwsparse.report.front import ROUNDING
from hwsparse.search import Candidate, pareto_front
from hwsparse.search.pareto import hypervolume

# Of a search, so many lines are printed where there is no terminal.
SEARCH, LINES = "search", 10
WIDE = 120  # a terminal that has room for all that can be told


class StageProgress:
    """Shows stages as `pipeline.OnProgress` reports them; a context manager."""

    def __init__(
        self,
        console: Console,
        max_drop: float | None = None,
        quiet: bool = False,
        max_latency_s: float | None = None,
    ) -> None:
        """Shows nothing yet.

        Args:
            console: where to.
            max_drop: of what a search has found, the fastest plan is named that loses no more.
            quiet: nothing is shown at all.
            max_latency_s: of the plan that is named; None: as long as it takes.
        """
        self._console, self._max_drop, self._quiet = console, max_drop, quiet
        self._max_latency_s = max_latency_s
        self._bars = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=30 if console.width >= WIDE else 12),
            MofNCompleteColumn(),
            *([TimeElapsedColumn()] if console.width >= WIDE else []),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._stage, self._task, self._started, self._lines = "", TaskID(0), 0.0, 0

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
            self._stage, self._started, self._lines = stage, time.monotonic(), 0
            self._task = self._bars.add_task(stage, total=total, note="")
        note = search_note(known, self._max_drop, self._max_latency_s) if known else ""
        self._bars.update(self._task, completed=done, total=total, note=note)
        if stage == SEARCH and note and done * LINES >= (self._lines + 1) * total and done < total:
            self._lines = done * LINES // total
            left_s = (time.monotonic() - self._started) / done * (total - done)
            self._print(f"{stage}: {done} of {total}, {note}, about {left_s:.0f} s left")

    def _finish(self) -> None:
        if not self._stage:
            return
        self._bars.update(self._task, completed=self._bars.tasks[self._task].total)
        self._print(f"{self._stage}: done in {time.monotonic() - self._started:.1f} s")

    def _print(self, line: str) -> None:
        if not self._quiet and not self._console.is_terminal:
            self._console.print(line, highlight=False, soft_wrap=True)


def search_note(known: tuple[Candidate, ...], max_drop: float | None, max_latency_s: float | None = None) -> str:
    """How good the front is by now: its size, its hypervolume, and the fastest plan within the budget, if there is one.

    The hypervolume is in shares of the rectangle between nothing and the dense model.
    """
    front = pareto_front(known)
    parts = [f"front of {len(front)}"]
    dense = next((candidate for candidate in known if not candidate.plan.choices), None)
    if dense is None or max_drop is None:
        return f"{parts[0]}, fastest {words.milliseconds(front[0].latency_s)}"
    if dense.quality > 0:
        area = hypervolume(known, (dense.latency_s, 0.0)) / (dense.latency_s * dense.quality)
        parts.append(f"hypervolume {area:.3f}")
    good = [candidate for candidate in front if candidate.quality >= dense.quality - max_drop - ROUNDING]
    fastest = min(good, key=lambda candidate: candidate.latency_s, default=dense)
    budget, fits = f"within {max_drop:g}", max_latency_s is None or fastest.latency_s <= max_latency_s
    if max_latency_s is not None:
        budget += f" and {words.milliseconds(max_latency_s)}"
    if fits:
        speed = words.ratio(dense.latency_s / fastest.latency_s)
        parts.append(f"{budget}: {words.milliseconds(fastest.latency_s)}, {speed}")
    else:
        parts.append(f"nothing yet {budget}")
    return ", ".join(parts)
