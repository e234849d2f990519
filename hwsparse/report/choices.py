"""What each layer's choices take and harm: all that a search went by, kept to be read.

Knows neither devices nor how layers are pruned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from hwsparse import strictjson
from hwsparse.errors import InputError
from hwsparse.report import words
from hwsparse.report.files import write_whole

FILE = "layers.json"  # beside a front's
FORMAT = 1


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """A choice of a layer, of which nothing else is pruned.

    Figures are None where they are not known. `refused` says why a search could not have it; None: it could.
    """

    layer: str
    choice: str
    latency_s: float | None = None
    source: str | None = None  # of the latency: measured, predicted, ...
    error: float | None = None  # the squared change of the layer's output, relative to its square
    harm: float | None = None  # by how much the network's loss grows, on a few samples; None too if it is infinite
    refused: str | None = None

    def __post_init__(self) -> None:
        for figure in (self.latency_s, self.error, self.harm):
            if figure is not None and not math.isfinite(figure):
                raise InputError(f"{self.layer} as {self.choice}: {figure} is no figure")
        if any(figure is not None and figure < 0 for figure in (self.latency_s, self.error)):
            raise InputError(f"{self.layer} as {self.choice}: a time and an error are 0 or more")


@dataclass(frozen=True, slots=True)
class LayerChoices:
    """Those of all layers of a model on a device: of each layer dense first."""

    model: str
    device: str
    choices: tuple[LayerChoice, ...]
    format: int = FORMAT


def write_choices(found: LayerChoices, directory: Path) -> None:
    """Keeps them beside a front.

    Raises:
        HwsparseError: the file cannot be written.
    """
    write_whole(directory / FILE, (strictjson.dumps(found, indent=1) + "\n").encode())


def read_choices(directory: Path) -> LayerChoices:
    """What `write_choices` wrote.

    Raises:
        InputError: there is no such file, or it is another.
    """
    path = directory / FILE
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; `hwsparse optimize` writes it") from None
    found = strictjson.loads(LayerChoices, text, str(path))
    if found.format != FORMAT:
        raise InputError(f"{path}: has the format {found.format}; this hwsparse reads {FORMAT}")
    return found


def choices_table(found: LayerChoices) -> Table:
    """By layer what a search could have, from the slowest to the fastest; of the others the number."""
    table = Table(
        title=escape(f"{found.model} on {found.device}: each layer pruned alone"),
        caption="error: of the layer's output, squared; harm: what the loss grows by, on some samples that fit weights",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("Layer", overflow="fold")
    for header in ("Choice", "Time", "Speed", "Error", "Harm"):
        table.add_column(header, justify="left" if header == "Choice" else "right", no_wrap=True)
    for layer in dict.fromkeys(each.layer for each in found.choices):
        own = [each for each in found.choices if each.layer == layer]
        had = sorted((each for each in own if each.refused is None), key=lambda each: -(each.latency_s or math.inf))
        for each in had:
            table.add_row(escape(layer) if each is had[0] else "", *_cells(each, had))
        if refused := len(own) - len(had):
            table.add_row("", f"{refused} refused", style="dim")
    return table


def _cells(choice: LayerChoice, beside: Sequence[LayerChoice]) -> tuple[str, ...]:
    dense_s = next((each.latency_s for each in beside if each.choice == "dense"), None)
    mark = "" if choice.source == "measured" else "~"
    latency = "" if choice.latency_s is None else mark + words.milliseconds(choice.latency_s)
    speed = words.ratio(dense_s / choice.latency_s) if dense_s and choice.latency_s else ""
    error = "" if choice.error is None else f"{choice.error:.2%}"
    harm = "not finite" if choice.harm is None else f"{choice.harm:+.4f}"
    return choice.choice, latency, speed, error, harm
