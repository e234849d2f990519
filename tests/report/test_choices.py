"""What layers' choices take and harm: kept, read again, and shown."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from hwsparse.errors import InputError
from hwsparse.report.choices import FILE, LayerChoice, LayerChoices, choices_table, read_choices, write_choices

FOUND = LayerChoices(
    "net",
    "x86-avx2",
    (
        LayerChoice("conv", "dense", 2e-3, "measured", 0.0, 0.0),
        LayerChoice("conv", "unstructured@0.9", 5e-4, "measured", 0.04, -0.0123),
        LayerChoice("conv", "unstructured@0.5", 1e-3, "predicted", 0.001, 0.5),
        LayerChoice("conv", "block4x1@0.9", 6e-4, "measured", 0.2, 1.0, "unstructured@0.9 is no slower"),
        LayerChoice("[red]head", "dense", 2e-5, "measured", 0.0, 0.0),
        LayerChoice("[red]head", "channel@0.5", 1e-5, "measured", 0.5, None),
        LayerChoice("[red]head", "2:4", refused="only 0.1% of the dense layers' time"),
    ),
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_choices(FOUND, tmp_path)
    assert read_choices(tmp_path) == FOUND
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_table_has_what_can_be_had_from_the_slowest_to_the_fastest() -> None:
    console = Console(width=120, file=io.StringIO())
    with console.capture() as captured:
        console.print(choices_table(FOUND))
    lines = [line.split() for line in captured.get().replace("\u00d7", "x").splitlines() if line.strip()]
    assert lines[3:10] == [
        ["conv", "dense", "2.00", "ms", "1.00x", "0.00%", "+0.0000"],
        ["unstructured@0.5", "~1.00", "ms", "2.00x", "0.10%", "+0.5000"],
        ["unstructured@0.9", "0.500", "ms", "4.00x", "4.00%", "-0.0123"],
        ["1", "refused"],
        ["[red]head", "dense", "0.0200", "ms", "1.00x", "0.00%", "+0.0000"],
        ["channel@0.5", "0.0100", "ms", "2.00x", "50.00%", "not", "finite"],
        ["1", "refused"],
    ]


@pytest.mark.parametrize("figure", ["latency_s", "error"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_what_is_no_figure_is_refused(figure: str, value: float) -> None:
    with pytest.raises(InputError, match="conv as 2:4"):
        LayerChoice("conv", "2:4", **{figure: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"layers\.json: cannot be read: No such file or directory; `hwsparse optimize` writes it"),
        ("{}", r"layers\.json"),
        ('{"model": "m", "device": "d", "choices": [], "format": 9}', "has the format 9; this hwsparse reads 1"),
    ],
)
def test_another_file_is_refused(text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match=said):
        read_choices(tmp_path)
