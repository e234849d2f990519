"""Help that teaches: every command says what it does, and every option what it is for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from tests.cli.test_cli import run


def commands(group: TyperGroup, path: str = "") -> Iterator[tuple[str, TyperGroup | TyperCommand]]:
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{path} {name}".strip())
        elif isinstance(command, TyperCommand) and not command.hidden:
            yield f"{path} {name}".strip(), command


# hwsparse.cli.main is the function
EVERY = dict(commands(typer.main.get_command(importlib.import_module("hwsparse.cli.main").app)))  # type: ignore[arg-type]


def plain(text: str) -> str:
    """As it is read: what is code is shown in another colour."""
    return " ".join(text.replace("`", "").split())


@pytest.mark.parametrize("path", EVERY)
def test_help_teaches(path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    code, out, _ = run(monkeypatch, capsys, *path.split(), "--help")
    assert code == 0
    said, command = " ".join(out.split()), EVERY[path]
    what = (command.help or "").split("\n\n")[0].strip()
    assert len(what.split()) >= 4 and what.endswith(".")
    assert plain(what) in said
    for parameter in command.params:
        sentence = getattr(parameter, "help", None) or ""
        assert len(sentence.split()) >= 2, f"{parameter.name} is not explained"
        assert plain(sentence) in said


def test_every_command_is_looked_at() -> None:
    assert set(EVERY) >= {"", "quickstart", "optimize", "request", "download", "serve", "targets", "targets probe"}
