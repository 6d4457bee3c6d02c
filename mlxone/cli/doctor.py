"""`mlxone doctor`: what works here and what does not, a line each, and what to do about it."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mlxone.cli import known, streams, terminal
from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option

if TYPE_CHECKING:
    from mlxone.service.checkup.findings import Finding

COLOURS = {"ok": "32", "warn": "33", "fail": "1;31"}
MARK, NAME = 6, 15  # columns of a terminal
NARROWEST = 24  # of a message: rather lines that are too long than a column of single words


@click.command(
    "doctor",
    cls=SectionedCommand,
    params=[
        flag("Checks", "--offline", "Do not ask whether the Hub can be reached.", is_flag=True),
        known.json_flag("Print one JSON object: about, and a list of checks."),
        verbose_option(),
    ],
)
def command(offline: bool, json: bool) -> None:
    """Say what works here and what does not, and what to do about it.

    The program and its files, MLX and the device, memory, the places it writes to, the starter and
    the network. Exit code 0: nothing failed (there may be warnings); 1: something did.
    """
    findings = _findings(offline)
    if json:
        found = list(findings)
        known.print_json({"about": _about(), "checks": [finding.to_json() for finding in found]})
    else:
        found = _shown(findings)
    if any(finding.status == "fail" for finding in found):
        raise click.exceptions.Exit(1)


def _about() -> dict[str, object]:
    from mlxone.core.about import about

    return asdict(about())


def _findings(offline: bool) -> Iterator[Finding]:
    from mlxone.service.checkup.examine import examine

    status = terminal.StatusLine()

    def begins(name: str) -> None:
        status.show(f"looking at: {name}")

    for finding in examine(offline=offline, read_config=read_config, begins=begins):
        status.clear()
        yield finding
    status.clear()


def read_config() -> None:
    """As every verb and the server read their settings."""
    from mlxone.cli import serve_values
    from mlxone.hub import config, places

    config.text_setting("model")
    config.folders_setting("model_dirs")
    serve_values.values({}, os.environ, config.table_setting("serve"), places.config_file())


def _shown(findings: Iterator[Finding]) -> list[Finding]:
    """A line as soon as it is known, since some questions take seconds."""
    on_terminal = terminal.is_terminal(sys.stdout)
    colour = on_terminal and not terminal.plain_wanted(os.environ)
    width = terminal.size()[0]
    if not on_terminal:
        click.echo("STATUS\tCHECK\tMESSAGE\tFIX")
    found = []
    for finding in findings:
        found.append(finding)
        text = "\n".join(lines(finding, width, colour=colour)) if on_terminal else row(finding)
        click.echo(text, color=True)
    streams.complain(summary(found))
    return found


def row(finding: Finding) -> str:
    cells = (finding.status, finding.name, finding.message, finding.fix)
    return "\t".join(terminal.one_line(cell) for cell in cells).rstrip("\t")


def lines(finding: Finding, width: int, *, colour: bool) -> Iterator[str]:
    """The finding as a terminal shows it; what to do stands below it."""
    mark = f"{finding.status:<{MARK}}"
    if colour:
        mark = f"\x1b[{COLOURS[finding.status]}m{mark}\x1b[0m"
    message = _wrapped(finding.message, width - MARK - NAME)
    message += _wrapped(finding.fix, width - MARK - NAME, first="-> ")
    yield f"{mark}{finding.name:<{NAME}}{message[0]}"
    yield from (f"{'':<{MARK + NAME}}{line}" for line in message[1:])


def _wrapped(text: str, width: int, first: str = "") -> list[str]:
    """Paths and names stay whole, to be copied."""
    return textwrap.wrap(
        terminal.one_line(text),
        max(width, NARROWEST),
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def summary(found: list[Finding]) -> str:
    failed = sum(finding.status == "fail" for finding in found)
    warned = sum(finding.status == "warn" for finding in found)
    counts = ((failed, "failure"), (warned, "warning"))
    return ", ".join(f"{n} {noun}{'s' * (n != 1)}" for n, noun in counts if n) or "all is well"
