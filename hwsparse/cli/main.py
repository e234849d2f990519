"""The command `hwsparse`: its sub-commands, and how errors become one line and an exit code.

Exit codes: 0 done; 1 it could not be done; 2 the request is wrong; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import logging
import sys
from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text

import hwsparse
from hwsparse.cli import device, interrupt, records, targets
from hwsparse.cli.audit import audit
from hwsparse.cli.bundle import bundle
from hwsparse.cli.calibrate import calibrate
from hwsparse.cli.doctor import doctor
from hwsparse.cli.front import front
from hwsparse.cli.measure import measure
from hwsparse.cli.narrow import narrow
from hwsparse.cli.optimize import optimize
from hwsparse.cli.quickstart import quickstart
from hwsparse.cli.service import download, job, request, serve
from hwsparse.cli.simulate import simulate
from hwsparse.cli.tune import tune
from hwsparse.cli.work import compile_, explain_, inspect, verify
from hwsparse.errors import HwsparseError, InputError

# Commands that, stopped, go on where they were.
RESUMED = ("quickstart", "optimize", "compile", "tune", "calibrate")

app = typer.Typer(
    rich_markup_mode="markdown",
    name="hwsparse",
    help="This model, faster, on that device, with proof.\n\n"
    "Start with `hwsparse quickstart`, or `hwsparse optimize model.onnx --data data.npz`.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(targets.app, name="targets")
app.add_typer(records.app, name="records")
app.add_typer(device.app, name="device")
COMMANDS = (
    quickstart, inspect, optimize, compile_, narrow, tune, calibrate, measure, simulate, front, explain_, audit, verify,
    bundle, serve, request, download, doctor,
)  # fmt: skip
for command in COMMANDS:
    app.command(name=command.__name__.rstrip("_"))(command)
app.command(hidden=True)(job)


def _version(asked: bool) -> None:
    if asked:
        print(f"hwsparse {hwsparse.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="The version."),
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    # What fails reaches users as an exception; Ctrl-C within a query would be remarked upon as well.
    logging.getLogger("sqlalchemy").setLevel(logging.CRITICAL)


def main() -> None:
    """Runs the command line; every expected failure is one line on standard error."""
    interrupt.listen()
    try:
        # The code of a typer.Exit, or None; typer makes 130 of Ctrl-C.
        code = app(prog_name="hwsparse", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except HwsparseError as error:
        _fail(str(error), 2 if isinstance(error, InputError) else 1)
    except OSError as error:  # a full disk, a directory that cannot be written to
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)  # a usage error, of which typer exports no type
        command = context.command_path if context is not None else "hwsparse"
        _fail(f"{error.format_message().rstrip('.')}; see `{command} --help`", 2)
    if code == 130:
        kept = "; what was measured and tried is kept: the same command goes on from there"
        _say("stopped" + (kept if set(sys.argv[1:2]) & set(RESUMED) else ""))
    if code:
        sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    _say(Text.assemble(("error:", "bold red"), " ", message.replace("\n", " ")))
    sys.exit(code)


def _say(line: str | Text) -> None:
    """Prints on standard error, as it is: a message may hold what rich would take for markup."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False).print(line)
