"""Writes docs/cli.md, docs/exit-codes.md and tables in models.md, server.md and training.md from the program.

python tools/gen_docs.py          write the pages
python tools/gen_docs.py --check  exit 1 if they are not what would be written
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from mlxone.cli.chat_commands import COMMANDS, KEYS
from mlxone.cli.flags import sections, value_name
from mlxone.cli.group import VERBS, group
from mlxone.cli.later_flags import LATER
from mlxone.cli.serve_values import variable
from mlxone.core.errors import EXIT_CODES
from mlxone.core.settings import SERVE_SETTINGS, SETTINGS, Setting
from mlxone.core.train_settings import TRAIN_SETTINGS
from mlxone.models.families.about import ABOUT, PARITY, TEMPLATE, tested
from mlxone.models.families.departures import ANY, of_family
from mlxone.models.families.table import FAMILIES

DOCS = Path(__file__).resolve().parents[1] / "docs"
HEAD = "<!-- Written by tools/gen_docs.py. Change the program, then run it. -->\n"
BEGIN, END = "<!-- {}: written by tools/gen_docs.py -->\n", "<!-- end -->\n"


def pages() -> dict[str, str]:
    return {
        "cli.md": cli_page(),
        "exit-codes.md": exit_codes_page(),
        "models.md": models_page(),
        "server.md": server_page(),
        "training.md": training_page(),
    }


def server_page() -> str:
    """Written by hand but for two tables."""
    text = _current(DOCS / "server.md")
    return _filled(_filled(text, "settings", _serve_settings()), "later", _later_flags())


def models_page() -> str:
    """Written by hand but for two tables."""
    text = _current(DOCS / "models.md")
    return _filled(_filled(text, "families", _families()), "departures", _departures())


def training_page() -> str:
    """Written by hand but for the table of options."""
    return _filled(_current(DOCS / "training.md"), "options", _train_settings())


def cli_page() -> str:
    context = click.Context(group, info_name="mlxone", **group.context_settings)
    parts = [HEAD, "# The command line\n", _group_text(context)]
    for name in VERBS:
        command = group.get_command(context, name)
        assert command is not None
        parts += [f"## mlxone {name}\n", _verb_text(command, context, name)]
    parts += ["## In a chat\n", _chat_text(), "## Defaults\n", _settings_text()]
    return "\n".join(parts)


def exit_codes_page() -> str:
    intro = (
        "What a command of `mlxone` may end with. 1 only ever means that the answer to the question is no.\n"
    )
    rows = ((str(code), meaning) for code, meaning in sorted(EXIT_CODES.items()))
    return "\n".join([HEAD, "# Exit codes\n", intro, _table(("code", "meaning"), rows)])


def _group_text(context: click.Context) -> str:
    rows = ((f"`mlxone {name}`", verb.summary) for name, verb in VERBS.items())
    words = "For all verbs: `--help`, `--verbose` (the traceback of a failure).\n"
    words += "`mlxone --version` says which one this is, with `--json` all that it knows of itself.\n"
    codes = "How a command ends is in [exit-codes.md](exit-codes.md).\n"
    return "\n".join([_table(("verb", "what it does"), rows), words + codes])


def _verb_text(command: click.Command, parent: click.Context, name: str) -> str:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [f"`mlxone {name} {usage}`\n", inspect.cleandoc(command.help or "") + "\n"]
    for section, options in sections(command, context).items():
        parts.append(_table((section, "meaning"), (_flag_row(option, context) for option in options)))
    return "\n".join(parts)


def _flag_row(option: click.Option, context: click.Context) -> tuple[str, str]:
    record = option.get_help_record(context)
    assert record is not None
    return f"`{record[0]}`", record[1]


def _chat_text() -> str:
    rows = ((f"`{command.usage}`", command.help) for command in COMMANDS.values())
    keys = "".join(f"- {line}\n" for line in KEYS.splitlines())
    return _table(("command", "what it does"), rows) + "\n" + keys


def _settings_text() -> str:
    intro = "A call of the library is greedy and short, a person at a terminal is not.\n"
    head = ("setting", "library", "`run`", "range", "meaning")
    return intro + "\n" + _table(head, (_setting_row(setting) for setting in SETTINGS))


def _setting_row(setting: Setting) -> tuple[str, ...]:
    default = "–" if setting.default is None else f"{setting.default:g}"
    return (f"`{setting.name}`", default, setting.run_default, setting.range, setting.help)


def _serve_settings() -> str:
    head = ("flag", "variable", "default", "range", "meaning")
    rows = (
        (
            f"`{setting.flag} {value_name(setting)}".rstrip() + "`",
            f"`{variable(setting)}`",
            setting.run_default,
            "" if setting.choices else setting.range,  # the meaning names them
            setting.help,
        )
        for setting in SERVE_SETTINGS
    )
    return _table(head, rows)


def _train_settings() -> str:
    head = ("flag", "default", "range", "meaning")
    rows = (
        (
            ", ".join(f"`{name}`" for name in (setting.flag, *setting.aliases)),
            setting.run_default,
            setting.range,
            setting.help,
        )
        for setting in TRAIN_SETTINGS
    )
    return _table(head, rows)


def _families() -> str:
    head = (
        "family", "models", "`model_type`", "template", "tools", "reasoning", "vision", "parity", "packings",
        "true sizes",
    )  # fmt: skip
    rows = []
    for family in FAMILIES:
        about = ABOUT[family.name]
        rows.append((
            family.name, about.models, ", ".join(f"`{t}`" for t in family.model_types), TEMPLATE,
            f"not yet: {_marked(about.calls)}" if about.calls else "–", _marked(about.reasoning) or "–",
            "text only" if about.vision else "–", PARITY, ", ".join(about.packings),
            ", ".join(tested(family)),
        ))  # fmt: skip
    return _table(head, rows)


def _departures() -> str:
    head = ("family", "what a config says", "what mlx-lm does, and mlxone", "where that matters")
    rows = (
        (name, _coded(departure.setting), departure.computed, departure.matters[name])
        for name in (*(family.name for family in FAMILIES), ANY)
        for departure in of_family(name)
    )
    return _table(head, rows)


def _marked(text: str) -> str:
    """Marks of templates as code, which markdown would take for its own."""
    return re.sub(r"<[^ >]+>|\[[A-Z_]+\]", lambda mark: f"`{mark[0]}`", text)


def _coded(text: str) -> str:
    return re.sub(r"\b[a-z]+(?:_[a-z]+)+\b", lambda name: f"`{name[0]}`", text)


def _later_flags() -> str:
    reasons: dict[str, list[str]] = {}
    for name, reason in LATER.items():
        reasons.setdefault(reason, []).append(f"`{name}`")
    return _table(("flags", "until then"), ((", ".join(names), reason) for reason, names in reasons.items()))


def _filled(text: str, name: str, table: str) -> str:
    """The text with the table between the marks of that name."""
    before, mark, rest = text.partition(BEGIN.format(name))
    old, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"a page lacks the marks of {name!r}")
    return before + mark + table + end + after


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in lines)


def main(arguments: Sequence[str], folder: Path = DOCS) -> int:
    if set(arguments) - {"--check"}:
        print(__doc__, file=sys.stderr)
        return 2
    stale = [name for name, text in pages().items() if _current(folder / name) != text]
    if "--check" in arguments:
        for name in stale:
            print(f"{folder / name} is out of date: run tools/gen_docs.py", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (folder / name).write_text(pages()[name], encoding="utf-8")
        print(f"wrote {folder / name}")
    return 0


def _current(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
