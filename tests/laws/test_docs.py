"""What the pages say is there, and what is there is on the pages."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mlxone.cli.flags import value_name
from mlxone.cli.group import VERBS, group
from mlxone.cli.later_flags import LATER
from mlxone.core.errors import EXIT_CODES
from mlxone.core.settings import SERVE_SETTINGS, SETTINGS
from mlxone.server.limits import Limits
from tests.laws.walker import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## .", page("Makefile"), re.M))


def verbs() -> dict[str, click.Command]:
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command}


def flags(command: click.Command) -> set[str]:
    context = click.Context(command, **group.context_settings)  # click remembers the help flag it makes
    return {flag for p in command.get_params(context) for flag in (*p.opts, *p.secondary_opts)}


def shell_lines(text: str) -> Iterator[list[str]]:
    """The commands of a page's sh blocks, a line each, split into words; comments left out."""
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line.removeprefix("$ "), comments=True):
                yield words


def commands(text: str, program: str) -> Iterator[list[str]]:
    """The words after each `program` of the page: in sh blocks, behind pipes too."""
    for words in shell_lines(text):
        for at, word in enumerate(words):
            if word == program:
                rest = words[at + 1 :]
                yield rest[: rest.index("|")] if "|" in rest else rest


def wrong_commands(text: str) -> list[str]:
    wrong = [
        f"make {w}" for words in commands(text, "make") for w in words if "=" not in w and w not in targets()
    ]
    known = verbs()
    for words in commands(text, "mlxone"):
        own = flags(known[words[0]] if words and words[0] in known else group)
        if words and words[0] not in known and words[0] not in own:
            wrong.append(f"mlxone {words[0]}")
        wrong += [w for w in words if w.startswith("--") and w.split("=")[0] not in own]
    return wrong


@pytest.mark.parametrize("file", PAGES, ids=lambda p: p.name)
def test_commands_on_the_pages_exist(file: Path):
    assert wrong_commands(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("file", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(file: Path):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text(encoding="utf-8"))
    assert [link for link in links if not (file.parent / link).exists()] == []


def test_the_readme_links_every_page_of_docs():
    readme = page("README.md")
    pages = [p.relative_to(ROOT).as_posix() for p in PAGES]
    assert [p for p in pages if p.startswith("docs/") and f"({p})" not in readme] == []


def test_the_servers_page_links_every_protocol():
    server = page("docs/server.md")
    names = [p.name for p in PAGES if p.parent.name == "protocols"]
    assert names and [name for name in names if f"(protocols/{name})" not in server] == []


def test_the_readme_packs_with_one_command_and_sets_up_with_two():
    made = [words[0] for words in commands(page("README.md"), "make")]
    assert made[:3] == ["dist", "run", "test"]


def test_every_target_is_on_the_contributing_page():
    missing = [t for t in targets() - {"help"} if f"make {t}" not in page("CONTRIBUTING.md")]
    assert missing == []


def test_every_target_of_the_makefile_says_what_it_does():
    phony = re.search(r"^\.PHONY: (.*)$", page("Makefile"), re.M)
    assert phony
    assert set(phony[1].split()) - targets() == {"starter"}  # a part of run and test


def test_every_verb_is_on_the_command_line_page():
    cli = page("docs/cli.md")
    assert [name for name in VERBS if f"mlxone {name}" not in cli] == []


def test_every_setting_and_flag_is_on_the_command_line_page():
    cli = page("docs/cli.md")
    spelled = {s.flag for s in SETTINGS}.union(*map(flags, verbs().values()))
    assert [f for f in sorted(spelled) if f.startswith("--") and not re.search(rf"{f}(?![\w-])", cli)] == []


def rows(text: str, head: str) -> dict[str, list[str]]:
    """The table below that head: the name in each row's first cell -> its other cells."""
    lines = text.split(head, 1)[1].splitlines()[2:]
    table = [
        line.replace("\\|", "|").strip("| ").split(" | ")
        for line in itertools.takewhile(lambda line: line[:1] == "|", lines)
    ]
    return {cells[0].strip("`"): cells[1:] for cells in table}


def test_every_setting_of_the_server_is_on_its_page():
    table = rows(page("docs/server.md"), "| flag | variable |")
    assert list(table) == [f"{setting.flag} {value_name(setting)}".rstrip() for setting in SERVE_SETTINGS]
    assert [cells[1] for cells in table.values()] == [setting.run_default for setting in SERVE_SETTINGS]


def test_every_flag_that_is_to_come_is_on_the_servers_page():
    table = rows(page("docs/server.md"), "| flags | until then |")
    assert {flag for names in table for flag in re.findall(r"--[a-z-]+", names)} == set(LATER)


def test_every_limit_is_on_the_servers_page():
    table = rows(page("docs/server.md"), "| limit | value |")
    assert {name: cells[0] for name, cells in table.items()} == {
        name: f"{value:,g}" if value < 1e6 else f"{value:,}"
        for name, value in dataclasses.asdict(Limits()).items()
    }


def test_the_exit_codes_page_is_the_table():
    rows = re.findall(r"^\| *(\d+) *\| *(.*?) *\|", page("docs/exit-codes.md"), re.M)
    assert [(int(code), meaning) for code, meaning in rows] == sorted(EXIT_CODES.items())


def test_the_changelog_has_room_for_the_next_change():
    heads = re.findall(r"^## (.*)$", page("CHANGELOG.md"), re.M)
    assert heads[0] == "Unreleased"


def test_a_wrong_command_is_caught():
    lines = [
        "make nonsense",
        "cat x | mlxone run --nonsense 'a' | wc",
        "mlxone nonsense",
        "mlxone run --seed 1",
    ]
    assert wrong_commands("\n".join(["```sh", *lines, "```"])) == [
        "make nonsense",
        "--nonsense",
        "mlxone nonsense",
    ]
