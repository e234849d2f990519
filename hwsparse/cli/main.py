"""The command `hwsparse`: its sub-commands, and how errors become one line and an exit code.

Exit codes: 0 done; 1 it could not be done; 2 the request is wrong; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import logging
import sys

import typer
from rich.console import Console

import hwsparse
from hwsparse.cli import targets
from hwsparse.cli.quickstart import quickstart
from hwsparse.cli.service import job, request, serve
from hwsparse.cli.work import compile_, front, inspect, optimize, verify
from hwsparse.errors import HwsparseError, InputError

app = typer.Typer(
    name="hwsparse",
    help="This model, faster, on that device, with proof.\n\n"
    "Start with `hwsparse quickstart`, or `hwsparse optimize model.onnx --data data.npz`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(targets.app, name="targets")
for command in (quickstart, inspect, optimize, compile_, front, verify, serve, request):
    app.command(name=command.__name__.rstrip("_"))(command)
app.command(hidden=True)(job)


def _version(asked: bool) -> None:
    if asked:
        print(f"hwsparse {hwsparse.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="The version."),
) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)


def main() -> None:
    """Runs the command line; every expected failure is one line on standard error."""
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        app(standalone_mode=False)
    except typer.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        errors.print("\nstopped; what was measured and tried is kept: the same command goes on from there")
        sys.exit(130)
    except HwsparseError as error:
        errors.print("[bold red]error:[/]", str(error), markup=True)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except OSError as error:  # a full disk, a directory that cannot be written to
        where = f"{error.filename}: " if error.filename else ""
        errors.print("[bold red]error:[/]", f"{where}{error.strerror or error}")
        sys.exit(1)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # click's usage errors
            error.show()
            sys.exit(error.exit_code)
        raise
