"""`hwsparse targets`: what devices there are, what one is, what this machine is."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hwsparse.accelerator.resources import estimate_resources
from hwsparse.errors import StorageError, TargetError, UnsupportedError
from hwsparse.probe import probe_hardware
from hwsparse.target import PATH_VARIABLE, Target, format_target, load_target, target_names

app = typer.Typer(
    rich_markup_mode="markdown",
    help=f"Devices: list them, show one, describe this machine.\n\n"
    f"A device is a TOML file. Those that ship with hwsparse are known by name, and so are yours in the "
    f"directories that ${PATH_VARIABLE} names; anywhere else, give the path.",
    invoke_without_command=True,
)


@app.callback()
def list_(context: typer.Context) -> None:
    """Lists the devices, what they support and whether code for them can be timed here."""
    if context.invoked_subcommand is not None:
        return
    table = Table("device", "kind", "timed", "threads", "what it can run", title="Targets", title_justify="left")
    broken: list[TargetError] = []
    for name in target_names():
        try:
            target = load_target(name)
        except TargetError as error:
            broken.append(error)
            continue
        table.add_row(escape(target.name), target.kind, _timed(target), str(target.threads), _supported(target))
    Console().print(table)
    if broken:
        raise TargetError("; ".join(map(str, broken)))


@app.command()
def show(name: str = typer.Argument(help="A device's name, or the path of its descriptor.")) -> None:
    """Prints a device's descriptor, with probed values filled in; of an accelerator what it takes of an FPGA, too."""
    target = load_target(name)
    print(format_target(target), end="")
    if target.accelerator is not None and target.accelerator.dtype == "int8":
        takes = estimate_resources(target.accelerator)
        print(
            f"\n# Of an FPGA of AMD's 7 series the array takes {takes.dsp:,} DSP slices, {takes.bram36:,} blocks of "
            f"36 Kb of RAM\n# and {takes.luts:,} LUTs, estimated by the formulas of hwsparse.accelerator.resources."
        )


@app.command()
def probe(
    name: str | None = typer.Option(None, help="What to call it; by default as --out says, else my-machine."),
    out: Path | None = typer.Option(None, help="Where to write, DIRECTORY/NAME.toml; by default NAME.toml here."),
    force: bool = typer.Option(False, "--force", help="Write over a file that is there."),
) -> None:
    """Writes a descriptor of this machine, measured now, to be edited or taken to another machine.

    Run nothing else meanwhile.
    """
    name = name or (out.stem if out else "my-machine")
    path = out or Path(f"{name}.toml")
    if path.name != f"{name}.toml":  # it could not be read back
        raise TargetError(f"{path}: a descriptor's file is called NAME.toml, and the name is {name!r}")
    if path.exists() and not force:
        raise TargetError(f"{path} is there already; --force writes over it")
    probe_hardware(again=True)  # what is known may have been measured beside other work
    target = replace(load_target("x86-local"), name=name, description=f"probed as {name}")
    text = "# Probed by `hwsparse targets probe`; peak and bandwidth are measured.\n" + format_target(target)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        scratch.write_text(text, "utf-8")
        os.replace(scratch, path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()
    Console().print(escape(f"wrote {path}"))


def _timed(target: Target) -> str:
    try:
        target.require_timing()
    except UnsupportedError:
        return f"not here ({target.runner})"
    return "simulated here" if target.runner == "simulator" else "here"


def _supported(target: Target) -> str:
    by_dtype: dict[str, list[str]] = {}
    for pattern, dtype in target.supported:
        by_dtype.setdefault(dtype, []).append(pattern)
    return "; ".join(f"{dtype}: {', '.join(patterns)}" for dtype, patterns in by_dtype.items())
