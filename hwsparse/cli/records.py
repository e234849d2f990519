"""`hwsparse records`: what was measured and kept; sharing it, and throwing away what is of no more use."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta, timezone
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from hwsparse.cli import options
from hwsparse.errors import InputError, TargetError, writing
from hwsparse.latency import Device, Toolchain
from hwsparse.latency.exchange import count_lines, read_lines, write_lines
from hwsparse.latency.records import RecordGroup, RecordsFile
from hwsparse.target import load_target

app = typer.Typer(
    rich_markup_mode="markdown",
    help="Measurements: list them, write them out, take others' in, remove old ones.\n\n"
    "Every measurement is kept with its raw samples, its device and what built the code. Only those of this device, "
    "made with the kernels that are installed, are counted on.",
    invoke_without_command=True,
)
TARGET = typer.Option(None, help="Only those of this device.")


@app.callback()
def records_(context: typer.Context, records: Path = options.RECORDS) -> None:
    """Lists what there is, where no command says what else to do."""
    if context.invoked_subcommand is None:
        Console().print(_measured(records, None))
    else:
        context.default_map = {context.invoked_subcommand: {"records": str(records)}}


@app.command(name="list")
def list_(
    failures: bool = typer.Option(
        False, "--failures", help="What could not be measured, why, and whether it was measured since."
    ),
    target: str | None = TARGET,
    records: Path = options.RECORDS,
) -> None:
    """Lists what there is, and what of it is counted on here; or what could not be measured, and why."""
    Console().print(_failed(records, target) if failures else _measured(records, target))


def _measured(records: Path, target: str | None) -> Table:
    table = Table("target", "source", "device", "kernels", "layers", "measured", "last", "used here")
    with RecordsFile(_existing(records)) as file:
        groups = file.groups()
    for group in groups:
        if target in (None, group.target_name):
            table.add_row(
                _target(group.target_name, group.threads),
                f"{'imported' if group.imported else group.source}, {group.cache}",
                shown(_device(group.device)),
                shown(group.toolchain.kernels),
                str(group.workloads), str(group.measurements), f"{group.last:%Y-%m-%d}",
                _use(group),
            )  # fmt: skip
    return table


def _failed(records: Path, target: str | None) -> Table:
    whole = [Column(name, overflow="fold") for name in ("layer", "reason")]
    table = Table("target", "device", "kernels", whole[0], "choice", "stage", whole[1], "last", "measured since")
    with RecordsFile(_existing(records)) as file:
        found = file.failures(target)
    for each in found:
        workload, failure = each.workload, each.failure
        table.add_row(
            _target(workload.target_name, workload.threads),
            *map(shown, (_device(each.device), each.toolchain.kernels, workload.signature, str(workload.choice))),
            failure.stage, shown(failure.reason), f"{each.taken_at:%Y-%m-%d}", "yes" if each.measured_since else "no",
        )  # fmt: skip
    return table


def _device(device: Device) -> str:
    return device.cpu + (f", CPUs {device.used}" if device.used else "")


def _use(group: RecordGroup) -> str:
    """Whether a group is counted on."""
    if group.device.used:  # only the board itself can tell whether it is still the same
        return "on its board" if _current(group) and not group.imported else "no"
    return ("teaches" if group.imported else "yes") if _usable(group) else "no"


def _target(name: str, threads: int) -> str:
    return shown(f"{name}, {threads} thread{'s' if threads > 1 else ''}")


def shown(text: str) -> str:
    """A text from a file as it may be printed: without the characters that would move a terminal's cursor."""
    return escape("".join(character if character.isprintable() else "\ufffd" for character in text))


@app.command()
def export(
    out: Path = typer.Argument(help="A file to write, a line of JSON for each measurement."),
    target: str | None = TARGET,
    records: Path = options.RECORDS,
) -> None:
    """Writes measurements out with their raw samples, to be shared or to be worked on elsewhere."""
    if out.exists():
        raise InputError(f"{out} is there already; name another file, or remove it")
    scratch = out.with_name(f".{out.name}.{secrets.token_hex(6)}.part")
    try:
        with RecordsFile(_existing(records)) as kept, writing(out):
            with open(scratch, "wb") as file:
                count = write_lines(kept.every(target), file)
            scratch.rename(out)
    finally:
        scratch.unlink(missing_ok=True)
    Console().print(escape(f"wrote {count} measurements to {out}"))


@app.command(name="import")
def import_(
    file: Path = typer.Argument(help="A file that `hwsparse records export` wrote."),
    records: Path = options.RECORDS,
) -> None:
    """Takes measurements in that were made elsewhere. The whole file is checked before any of it is taken.

    They stay marked as imported, and are never mixed with what was measured here. Those of a device like this one, made
    with the kernels that are installed, teach `--within` of `calibrate` and `optimize`, where too little was measured
    here: then less need be. Others may measure meanwhile. Stopped in the middle, the same command takes the rest;
    nothing is taken twice.
    """
    read = count_lines(file)
    with RecordsFile(records) as kept:
        added = kept.take_in(read_lines(file))
    there = f"; {read - added} were there already" if added < read else ""
    Console().print(escape(f"took {added} measurements from {file} into {records}{there}"))


@app.command()
def prune(
    older_than: int | None = typer.Option(
        None, min=0, max=36500, help="Remove what was last measured more days ago than this, of any device."
    ),
    every: bool = typer.Option(False, "--all", help="Remove all, of this device and these kernels too."),
    damaged: bool = typer.Option(False, "--damaged", help="Remove what cannot be read, and nothing else."),
    target: str | None = TARGET,
    records: Path = options.RECORDS,
) -> None:
    """Removes measurements: without options those of this device that were made with other kernels."""
    from hwsparse.codegen import KERNEL_VERSION

    if every + damaged + (older_than is not None) > 1 or (damaged and target is not None):
        raise InputError("--all, --older-than and --damaged: give one of them, and --target not with --damaged")
    if damaged:
        with RecordsFile(_existing(records)) as file:
            gone = file.remove_damaged()
        Console().print(escape(f"removed {gone} rows that could not be read from {records}"))
        return
    limit = None if older_than is None else datetime.now(timezone.utc) - timedelta(days=older_than)
    here = Device.probe().digest

    def stays(group: RecordGroup) -> bool:
        if target is not None and group.target_name != target:
            return True
        if every:
            return False
        if limit is not None:
            return group.last >= limit
        # What no target here says anything of may be of one that is described elsewhere.
        return group.device.digest != here or group.toolchain.kernels == KERNEL_VERSION or _usable(group)

    with RecordsFile(_existing(records)) as file:
        gone = file.remove(unless=stays)
    Console().print(escape(f"removed {gone} measurements from {records}"))


def _existing(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"{path}: there are no records yet; `hwsparse calibrate` makes some")
    return path


def _usable(group: RecordGroup) -> bool:
    """Whether a group was measured on this device, by kernels as they are installed here."""
    return group.device.digest == Device.probe().digest and _current(group)


def _current(group: RecordGroup) -> bool:
    """Whether a group was measured by kernels as they are installed here."""
    from hwsparse.codegen import KERNEL_VERSION

    try:
        current = Toolchain.of(load_target(group.target_name), KERNEL_VERSION)
    except TargetError:  # a user's target that is no longer there
        return False
    return group.toolchain == current
