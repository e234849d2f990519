"""The command `bundle`: all that a device needs to run an artifact, in a folder."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from hwsparse.errors import InputError


def bundle(
    artifact: Path = typer.Argument(help="Directory of the artifact."),
    out: Path = typer.Option(Path("bundle"), help="The folder to write; nothing may be there yet."),
    wheels: Path | None = typer.Option(
        None, help="Folder with wheels of apache-tvm and apache-tvm-ffi for the device; else they are downloaded."
    ),
    build: bool = typer.Option(
        False, help="Compile the C++ program for the device too; takes some minutes the first time."
    ),
) -> None:
    """Gathers what a device needs to run an artifact without hwsparse: the network, TVM's runtime, two programs.

    The programs, run.py and run.cc, run it on arrays from a file, and are there to copy from. The runtime is of the
    kind of machine that the artifact was compiled for, x86-64 or aarch64 with Linux; for Android none is packaged.
    """
    from hwsparse.artifact import Artifact
    from hwsparse.deploy import bundle as write

    if wheels is not None and not wheels.is_dir():
        raise InputError(f"--wheels {wheels}: not a folder")
    write(Artifact.load(artifact).directory, out, wheels, build)
    Console().print(escape(f"{out} is ready: copy it to the device; README.txt tells how to run it"))
