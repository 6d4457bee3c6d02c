"""Arrows between rooms only point down, and each room uses only the packages it was given."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.laws.walker import PACKAGE, ROOT, Import, computed_imports, imports, parse, sources

ARROWS: dict[str, set[str]] = {
    "core": set(),
    "formats": {"core"},
    "backend": {"core"},
    "kv": {"core", "backend"},
    "models": {"kv", "formats", "core", "backend"},
    "engine": {"models", "kv", "formats", "core", "backend"},
    "text": {"core"},
    "fitting": {"core", "backend"},
    "hub": {"formats", "core"},
    "service": {"core", "formats", "backend", "kv", "models", "engine", "text", "fitting", "hub"},
    "server": {"core", "service"},
    "training": {
        *("core", "formats", "backend", "kv", "models", "engine", "text", "fitting", "hub", "service"),
    },
    "cli": {
        *("core", "formats", "backend", "kv", "models", "engine", "text", "fitting", "hub", "service"),
        *("server", "training"),
    },
}
# The files beside the rooms: the public names (`__init__`) and `python -m mlxone` (`__main__`).
FRONT_DOOR = {
    "mlxone/__init__.py": {"core", "service", "fitting", "server", "training"},
    "mlxone/__main__.py": {"cli"},
}

PACKAGES: dict[str, set[str]] = {
    "backend": {"mlx"},
    "text": {"tokenizers", "jinja2"},
    "hub": {"huggingface_hub"},
    "server": {"h11", "msgspec"},
    "cli": {"click", "rich", "markdown_it", "yaml"},
}
ON_THE_PAGE = {"huggingface_hub": "the hub client"}  # how docs/architecture.md calls it
ON_THE_INDEX = {"yaml": "pyyaml", "huggingface_hub": "huggingface-hub", "markdown_it": "markdown-it-py"}

# OpenBLAS has to be in the process before MLX is, so one file opens that door for all, and a second
# behind it for what only training needs.
THE_DOORS = {Path("mlxone/backend/arrays.py"), Path("mlxone/backend/optimizers.py")}

# Files that import by a table of literal names, which the walker reads.
BY_TABLE = ("mlxone/__init__.py", "mlxone/cli/group.py")

# Words and arithmetic on them need none of these; what the program is, only the system can say.
ASKS_THE_SYSTEM = Path("mlxone/core/about.py")
IO = {
    "asyncio",
    "io",
    "logging",
    "os",
    "pathlib",
    "shutil",
    "socket",
    "sqlite3",
    "subprocess",
    "sys",
    "tempfile",
}


def broken_arrows(found: list[Import]) -> list[str]:
    return [str(i) for i in found if i.to_room not in (None, i.room) and i.to_room not in allowed(i)]


def allowed(arrow: Import) -> set[str]:
    return FRONT_DOOR.get(arrow.file.as_posix(), set()) | ARROWS.get(arrow.room, set())


def strangers(found: list[Import]) -> list[str]:
    ours = {PACKAGE, *sys.stdlib_module_names}
    return [str(i) for i in found if i.outside not in ours | PACKAGES.get(i.room, set())]


def test_every_folder_is_a_room_of_the_table():
    folders = {p.parent.relative_to(ROOT / PACKAGE).parts[0] for p in sources() if p.parent != ROOT / PACKAGE}
    assert folders == set(ARROWS)


def test_arrows_only_point_down():
    assert broken_arrows(imports()) == []


def test_the_table_itself_has_no_cycle():
    reach = {room: set(below) for room, below in ARROWS.items()}
    for _ in ARROWS:
        reach = {room: set().union(below, *(reach[b] for b in below)) for room, below in reach.items()}
    assert [room for room, below in reach.items() if room in below] == []
    # What is two arrows away is also one: the table says all. The server alone sees less on purpose.
    assert {room for room in ARROWS if reach[room] != ARROWS[room]} == {"server"}


def test_each_room_uses_only_its_packages():
    assert strangers(imports()) == []


def test_the_packages_of_the_rooms_are_those_we_declare():
    # Neither one that only happens to be there, nor one that nobody needs any more.
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    used = set().union(*PACKAGES.values())
    assert {ON_THE_INDEX.get(p, p) for p in used} == {re.split(r"[\[<>=;]", d)[0] for d in declared}


def test_one_room_opens_the_doors_to_mlx():
    assert {i.file for i in imports() if i.outside == "mlx"} == THE_DOORS


def test_modules_are_imported_by_names_that_can_be_read():
    assert [where for where in computed_imports() if where.partition(":")[0] not in BY_TABLE] == []


def test_core_does_no_io():
    used = {i.outside for i in imports() if i.room == "core" and i.file != ASKS_THE_SYSTEM}
    assert used & IO == set()
    assert [c for c in calls("core") if c in ("open", "input")] == []


def test_only_the_command_line_prints_and_reads_argv():
    for room in set(ARROWS) - {"cli"}:
        assert "print" not in calls(room), room
        assert {"sys.stdout", "sys.stderr", "sys.argv"} & attributes(room) == set(), room


def calls(room: str) -> list[str]:
    nodes = (node for file in sources(folder=f"{PACKAGE}/{room}") for node in ast.walk(parse(file)))
    return [n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]


def attributes(room: str) -> set[str]:
    nodes = (node for file in sources(folder=f"{PACKAGE}/{room}") for node in ast.walk(parse(file)))
    return {ast.unparse(n) for n in nodes if isinstance(n, ast.Attribute)}


# The page that shows the arrows to people.


def page_table() -> dict[str, str]:
    """docs/architecture.md's table: room -> what it may import, in the page's words, from top to bottom."""
    rows = (
        line.strip().strip("|").split("|")
        for line in (ROOT / "docs/architecture.md").read_text().splitlines()
    )
    return {
        r[0].strip().strip("`"): r[2].strip() for r in rows if len(r) == 4 and r[0].strip().startswith("`")
    }


def rooms_in(cell: str, above: list[str]) -> set[str]:
    if cell.startswith(("all above", "anything")):
        return set(above)
    return set(re.findall(r"`(\w+)`", cell))


def test_the_page_shows_the_same_arrows():
    page = page_table()
    rooms = list(page)
    assert {room: rooms_in(cell, rooms[: rooms.index(room)]) for room, cell in page.items()} == ARROWS


@pytest.mark.parametrize("room", sorted(set(ARROWS) - {"cli"}))
def test_the_page_shows_the_same_packages(room: str):
    cell = re.sub(r"`\w+`", "", page_table()[room])
    shown = {word.strip() for word in cell.split(",")} - {"", "standard library", "all above"}
    assert shown == {ON_THE_PAGE.get(p, p) for p in PACKAGES.get(room, set())}


# A law that cannot be broken proves nothing.

BREACHES = {
    "at the top": "import mlxone.text.stops",
    "late": "def f():\n    from mlxone.text import stops",
    "for types only": "import typing\nif typing.TYPE_CHECKING:\n    from mlxone.text.stops import X",
    "a room by name": "from mlxone import text",
    "relative": "from ..text import stops",
    "relative room": "from .. import text",
    "by a literal": "import importlib\nimportlib.import_module('mlxone.text.stops')",
    "by a table": "TABLE = {'stops': 'mlxone.text.stops'}",
    "the public names": "from mlxone import load",
    "the package": "import mlxone",
}


def package_with(tmp_path: Path, source: str) -> Path:
    for room in ("engine", "text"):
        (tmp_path / PACKAGE / room).mkdir(parents=True)
    (tmp_path / PACKAGE / "engine" / "bad.py").write_text(source)
    return tmp_path


@pytest.mark.parametrize("source", BREACHES.values(), ids=BREACHES)
def test_a_breach_is_caught(tmp_path: Path, source: str):
    found = imports(package_with(tmp_path, source))
    last_line = source.count("\n") + 1
    assert [line.split(" ")[0] for line in broken_arrows(found)] == [f"mlxone/engine/bad.py:{last_line}"]


@pytest.mark.parametrize(
    "source",
    [
        "from mlxone import __version__",
        "from mlxone.core.words import Token",
        "from . import loop",
        "import math",
    ],
)
def test_a_lawful_import_is_not(tmp_path: Path, source: str):
    found = imports(package_with(tmp_path, source))
    assert broken_arrows(found) == strangers(found) == []


@pytest.mark.parametrize("source", ["import mlx.core as mx", "def f():\n    from numpy import array"])
def test_a_stranger_is_caught(tmp_path: Path, source: str):
    assert len(strangers(imports(package_with(tmp_path, source)))) == 1


def test_a_computed_import_is_caught(tmp_path: Path):
    package_with(tmp_path, "import importlib\nfor n in 'ab':\n    importlib.import_module('mlxone.' + n)")
    assert computed_imports(tmp_path) == ["mlxone/engine/bad.py:3"]
