"""`mlxone ls`: the models on this machine, a row each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mlxone.cli import known, streams, table
from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option
from mlxone.cli.sizes import bits_in_words, context_in_words, count_in_words, in_words, read_size
from mlxone.cli.table import Cell, Column

if TYPE_CHECKING:
    from mlxone.hub.entry import Entry
    from mlxone.service.registry import Registry

SORTS = ("name", "size", "params", "context", "recent")
FILTERS = ("vision", "tools", "thinking", "embedding")

# In words and, where there is no room for them, in letters.
MARKS = {
    "vision": ("vision", "V"),
    "audio": ("audio", "A"),
    "tools": ("tools", "T"),
    "thinking": ("think", "R"),
    "embedding": ("embed", "E"),
    "kv-config": ("kv", "K"),
}
COLUMNS = (
    Column("MODEL", comfortable=32),
    Column("SIZE", right=True),
    Column("PARAMS", right=True, optional=2),
    Column("BITS", right=True, optional=4),
    Column("CONTEXT", right=True, optional=3),
    Column("CAN", optional=1),
    Column("FITS"),
    Column("RUNS"),
)
REASONS = (60, 24)  # characters of a reason that narrower terminals still get


def _max_size(text: str) -> int:
    return read_size(text, "--max-size")


@click.command(
    "ls",
    cls=SectionedCommand,
    params=[
        click.Argument(["query"], metavar="[QUERY]...", nargs=-1),
        flag("Models", "--vision", "Those that see images.", is_flag=True),
        flag("Models", "--tools", "Those that call tools.", is_flag=True),
        flag("Models", "--thinking", "Those that reason before they answer.", is_flag=True),
        flag("Models", "--embedding", "Those that make embeddings.", is_flag=True),
        flag("Models", "--supported", "Those that run here.", is_flag=True),
        flag("Models", "--max-size", "No larger than this on disk: 10GB, 500MB.", "SIZE", type=_max_size),
        flag("Models", "--all-revisions", "Older snapshots of a repo too.", is_flag=True),
        known.model_dir_flag(),
        flag(
            "Output",
            "--sort",
            "By name, size, params, context or recent. [name]",
            "KEY",
            type=click.Choice(SORTS),
            default="name",
        ),
        flag("Output", "--reverse", "The other way round.", is_flag=True),
        flag("Output", "--wide", "Shorten nothing on a terminal.", is_flag=True),
        known.json_flag("Print a JSON list of objects; sizes are in bytes."),
        verbose_option(),
    ],
)
def command(query: tuple[str, ...], model_dir: tuple[str, ...], **flags: Any) -> None:
    """List the models on this machine.

    QUERY are words of a name. CAN says what a model can do: vision (V), audio (A), tools (T),
    think (R), embed (E), kv (K: it ships a kv_config.json). FITS and RUNS are about this machine.
    """
    words = " ".join(query).strip()
    with known.registry(model_dir) as registry:
        everything = registry.refresh()
        entries = _listed(registry, everything, words, flags)
        if not entries and (words or _filters(flags)):
            if flags["json"]:
                known.print_json([])
            streams.complain(f"mlxone: {_nothing(registry, everything, words)}")
            raise click.exceptions.Exit(1)
        show_entries(entries, as_json=flags["json"], wide=flags["wide"])


def show_entries(entries: Sequence[Entry], *, as_json: bool = False, wide: bool = False) -> None:
    from mlxone.service import here

    fits = here.fits_here(entries)
    if as_json:
        pairs = zip(entries, fits, strict=True)
        known.print_json([{**known.entry_json(entry), "fits": answer} for entry, answer in pairs])
    elif entries:
        rows = [row(entry, answer) for entry, answer in zip(entries, fits, strict=True)]
        table.show(COLUMNS, rows, wide=wide)
    else:
        streams.complain("no models on this machine yet; `mlxone get ORG/REPO` downloads one")


def row(entry: Entry, fits: bool | None) -> list[Cell]:
    facts = entry.facts
    return [
        f"{entry.name} (drafter)" if entry.drafter else entry.name,
        in_words(entry.size_bytes),
        count_in_words(facts.parameters) if facts else "",
        bits_in_words(facts.bits) if facts and facts.bits else "",
        context_in_words(facts.context_length) if facts and facts.context_length else "",
        _marks(entry),
        known.yes_or_no(fits),
        _runs(entry),
    ]


def _marks(entry: Entry) -> Cell:
    found = [MARKS[name] for name in MARKS if name in entry.capabilities]
    return " ".join(word for word, _ in found), "".join(letter for _, letter in found)


def _runs(entry: Entry) -> Cell:
    words = known.support_in_words(entry)
    cut = (words if len(words) <= most else words[: most - 1].rstrip() + "…" for most in REASONS)
    return words, *cut, words.partition(":")[0]


def _filters(flags: dict[str, Any]) -> bool:
    return any(flags[name] for name in (*FILTERS, "supported")) or flags["max_size"] is not None


def _listed(registry: Registry, everything: list[Entry], words: str, flags: dict[str, Any]) -> list[Entry]:
    entries = registry.list(
        words,
        capabilities=tuple(name for name in FILTERS if flags[name]),
        max_size=flags["max_size"],
        supported=flags["supported"],
        all_revisions=flags["all_revisions"],
        sort=flags["sort"],
        among=everything,
    )
    return entries[::-1] if flags["reverse"] else entries


def _nothing(registry: Registry, everything: list[Entry], words: str) -> str:
    if words and not registry.list(words, among=everything):
        return f"no model on this machine matches {words!r} (`mlxone ls` lists all there are)"
    return f"no model{f' that matches {words!r}' if words else ''} has all that was asked for"
