"""`hwsparse front`: a front that was found before, shown, asked, and written for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape

from hwsparse.cli.options import bounds
from hwsparse.errors import InputError, StorageError
from hwsparse.report import FrontReport, read_report, words, write_report
from hwsparse.report.choices import FILE as CHOICES
from hwsparse.report.choices import choices_table, read_choices, write_choices
from hwsparse.report.export import front_csv
from hwsparse.report.files import write_whole
from hwsparse.report.table import front_table
from hwsparse.report.terms import terms

if TYPE_CHECKING:
    from hwsparse.pipeline import Outcome


def front(
    report: Path = typer.Argument(help="A front.json that `optimize`, `tune` or `quickstart` wrote."),
    max_drop: float | None = typer.Option(
        None,
        help="Name the fastest point that loses at most this much of the dense model's quality, with a standard error.",
    ),
    max_latency_ms: float | None = typer.Option(None, help="Name the best point that takes at most this long."),
    knee: bool = typer.Option(False, "--knee", help="Name the point past which quality falls faster than time."),
    csv: Path | None = typer.Option(None, help="Write every point as a row of this CSV file."),
    layers: bool = typer.Option(
        False, "--layers", help="Show instead what each layer's choices take and harm, as a search found."
    ),
) -> None:
    """Shows a Pareto front that was found before.

    With --max-drop, --max-latency-ms or both, it names the point that serves best within them; with --knee the one
    where the front bends.
    """
    bounds(max_latency_ms, None, None, None)
    if max_drop is not None and not max_drop >= 0:
        raise InputError(f"--max-drop: {max_drop} is no loss; 0 is the least")
    found = read_report(report)
    if csv is not None:
        write_whole(csv, front_csv(found).encode())
    console = Console()
    if layers:
        console.print(choices_table(read_choices(report.parent)))
        return
    if max_drop is None and max_latency_ms is None and not knee:
        show_front(found, console)
        return
    if knee and (max_drop, max_latency_ms) != (None, None):
        raise InputError("--knee: goes with no limits")
    point = found.knee if knee else found.serving(max_drop, None if max_latency_ms is None else max_latency_ms / 1e3)
    if point is None:
        raise InputError(f"{report}: there is no front")
    console.print(escape(words.point_in_words(found, point)), highlight=False)
    if point.artifact is not None:
        console.print(escape(f"artifact {report.parent / point.artifact.directory}"), highlight=False)
    elif point.plan is not None:
        console.print("Not built: `hwsparse compile --plan` builds it from this plan.")
        console.print(escape(point.plan.to_json()), highlight=False, soft_wrap=True)


def present(outcome: Outcome, dataset: str, directory: Path, console: Console, quiet: bool = False) -> None:
    """Writes the front that a job found on a data set into a directory, and prints it unless it is to be quiet.

    What layers' choices take and harm is written beside it; if the job did not ask, none of another job is left there.

    Raises:
        StorageError: it cannot be written to.
    """
    from hwsparse.pipeline import front_report

    report = front_report(outcome, dataset)
    write_front(report, directory)
    if outcome.choices is not None:
        write_choices(outcome.choices, directory)
    else:
        (directory / CHOICES).unlink(missing_ok=True)
    if not quiet:
        show_front(report, console)
    console.print(escape(f"Pictures: {directory / 'front.html'}, {directory / 'front.png'}"))


def write_front(report: FrontReport, directory: Path) -> None:
    """Writes front.json, front.html and front.png into a directory that need not be there.

    Raises:
        StorageError: it cannot be written to.
    """
    from hwsparse.report.html import front_html
    from hwsparse.report.plot import front_png

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{directory}: cannot be written: {error.strerror}") from None
    write_report(report, directory / "front.json")
    front_html(report, directory / "front.html")
    front_png(report, directory / "front.png")


def show_front(report: FrontReport, console: Console) -> None:
    """Prints a front as a table, with the terms of its comparison and its notes."""
    console.print(front_table(report))
    for name, text in terms(report):
        console.print(f"[bold]{name}:[/] {escape(text)}", style="dim", highlight=False)
    for note in report.notes:
        console.print(escape(note), style="dim")
