"""Length asks a question: over 400 lines a file, over 60 a function, look for a seam.

An answer that there is none goes into the table below, with its reason.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.laws.walker import ROOT, parse, sources

FILE_LINES, FUNCTION_LINES = 400, 60
FOLDERS = ("mlxone", "tools", "bench")

# "path" or "path:function" -> why it may be longer.
EXCEPTIONS: dict[str, str] = {}


def too_long(root: Path) -> set[str]:
    found = set()
    for file in (f for folder in FOLDERS for f in sources(root, folder)):
        name = file.relative_to(root).as_posix()
        if len(file.read_text(encoding="utf-8").splitlines()) > FILE_LINES:
            found.add(name)
        found |= {f"{name}:{function}" for function in long_functions(parse(file))}
    return found


def long_functions(tree: ast.Module) -> list[str]:
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > FUNCTION_LINES]


def test_files_and_functions_are_short_or_say_why():
    # Equality: an exception that is no longer needed has to go as well.
    assert too_long(ROOT) == set(EXCEPTIONS)
    assert all(EXCEPTIONS.values())


@pytest.mark.parametrize(("lines", "caught"), [(FUNCTION_LINES, False), (FUNCTION_LINES + 1, True)])
def test_the_ruler(tmp_path: Path, lines: int, caught: bool):
    body = "class C:\n    async def f(self):\n" + "        pass\n" * (lines - 1)
    (tmp_path / "mlxone").mkdir()
    (tmp_path / "mlxone" / "a.py").write_text(body)
    (tmp_path / "mlxone" / "b.py").write_text("x = 1\n" * (FILE_LINES + caught))
    assert too_long(tmp_path) == ({"mlxone/a.py:f", "mlxone/b.py"} if caught else set())
