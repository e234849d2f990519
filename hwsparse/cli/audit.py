"""The command `audit`: what a comparison lacks, from the reports of its fronts."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from hwsparse import strictjson
from hwsparse.report import read_report
from hwsparse.report.audit import audit as find


def audit(
    reports: list[Path] = typer.Argument(
        metavar="REPORT...",
        help="Files front.json of `optimize` or `tune`; several are one comparison: of seeds, devices or tasks.",
    ),
    json: bool = typer.Option(False, "--json", help="Print the findings as JSON."),
) -> None:
    """Names what a comparison lacks to be fair, with the reason and the remedy.

    Exits with 0 when it lacks nothing, else with 1.
    """
    found = find([read_report(path) for path in reports])
    if json:
        print(strictjson.dumps(found, indent=2))
    else:
        console = Console(highlight=False)
        for number, finding in enumerate(found.findings, 1):
            console.print(f"{number}  [bold]{finding.rule}[/]: {escape(finding.what)}")
            console.print(Padding(f"[dim]why:[/] {escape(finding.why)}", (0, 0, 0, 3)))
            console.print(Padding(f"[dim]do:[/]  {escape(finding.remedy)}", (0, 0, 1, 3)))
        lacks = len(found.findings)
        console.print(f"{lacks} thing{'s' if lacks > 1 else ''} lacking" if lacks else "nothing is lacking")
    if found.findings:
        raise typer.Exit(1)
