"""`mlxone scan`: looks at every source again and says what it found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mlxone.cli import known, streams, table
from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option
from mlxone.cli.sizes import in_words
from mlxone.cli.table import Column
from mlxone.cli.terminal import one_line

if TYPE_CHECKING:
    from mlxone.hub.entry import Entry
    from mlxone.hub.scan import ScanReport
    from mlxone.hub.sources import Source

COLUMNS = (Column("SOURCE"), Column("MODELS", right=True), Column("SIZE", right=True), Column("FOLDER"))


@click.command(
    "scan",
    cls=SectionedCommand,
    params=[
        flag("Models", "--full", "Read everything again, changed or not.", is_flag=True),
        known.model_dir_flag(),
        known.json_flag("Print one JSON object."),
        verbose_option(),
    ],
)
def command(full: bool, model_dir: tuple[str, ...], json: bool) -> None:
    """Look for models on this machine again.

    Every verb notices changed folders by itself; this one says what is where, and what is wrong.
    """
    with known.registry(model_dir) as registry:
        report = registry.scan(full=full)
        entries = registry.list(all_revisions=True, among=list(report.entries))
        places = _with_models(registry.sources, entries)
        if json:
            known.print_json(_as_json(report, places, entries))
            return
        table.show(COLUMNS, [_row(source, held) for source, held in places])
        streams.complain(
            f"{_count(report.found, 'model')}, {report.read} read anew, {report.removed} gone, "
            f"{report.seconds:.2f} s"
        )
        for entry in entries:
            if entry.problem:
                streams.complain(f"mlxone: {one_line(f'{entry.name}: {known.problem_in_words(entry)}')}")


def _with_models(places: Sequence[Source], entries: Sequence[Entry]) -> list[tuple[Source, list[Entry]]]:
    """Each entry under the innermost folder of its source; folders that are not there are left out."""
    held: dict[Source, list[Entry]] = {place: [] for place in places if place.folder.exists()}
    for entry in entries:
        around = [p for p in held if p.name == entry.source and entry.path.is_relative_to(p.folder)]
        if around:
            held[max(around, key=lambda place: len(place.folder.parts))].append(entry)
    return list(held.items())


def _row(source: Source, held: Sequence[Entry]) -> list[str]:
    return [source.name, str(len(held)), in_words(_bytes(held)), str(source.folder)]


def _bytes(entries: Sequence[Entry]) -> int:
    return sum(entry.size_bytes for entry in entries)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _as_json(
    report: ScanReport, places: Sequence[tuple[Source, list[Entry]]], entries: Sequence[Entry]
) -> dict[str, Any]:
    return {
        "found": report.found,
        "read": report.read,
        "removed": report.removed,
        "seconds": report.seconds,
        "sources": [
            {
                "source": source.name,
                "folder": str(source.folder),
                "models": len(held),
                "size_bytes": _bytes(held),
                "formats": dict(Counter(entry.format for entry in held)),
            }
            for source, held in places
        ],
        "problems": [
            {"name": entry.name, "path": str(entry.path), "problem": entry.problem}
            for entry in entries
            if entry.problem
        ],
    }
