"""Reads the source and says who imports whom. Nothing here imports the package it looks at."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "mlxone"
DOTTED = re.compile(rf"{PACKAGE}(\.\w+)+")


@dataclass(frozen=True, slots=True)
class Import:
    """`file` needs `target`, a dotted name: a module, or a name in one."""

    file: Path  # below the root that was walked
    line: int
    target: str

    @property
    def room(self) -> str:
        """The folder the file is in; the package's own name for the files beside the rooms."""
        parts = self.file.parts
        return parts[1] if len(parts) > 2 else PACKAGE

    @property
    def to_room(self) -> str | None:
        """The room it leads to, the package itself for its public names; None if it leads outside."""
        first, _, rest = self.target.partition(".")
        if first != PACKAGE:
            return None
        return rest.partition(".")[0] or PACKAGE

    @property
    def outside(self) -> str:
        return self.target.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def sources(root: Path = ROOT, folder: str = PACKAGE) -> list[Path]:
    return sorted((root / folder).rglob("*.py"))


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(root: Path = ROOT) -> list[Import]:
    """Every import below root/mlxone: at the top, inside functions, for types only, by name in a string."""
    rooms = {p.name for p in (root / PACKAGE).iterdir() if p.is_dir()}
    found = []
    for file in sources(root):
        short = file.relative_to(root)
        for node in ast.walk(parse(file)):
            for target in _targets(node, short):
                # `from mlxone import x` means a public name unless there is a room called x.
                head, _, name = target.partition(".")
                public = head == PACKAGE and "." not in name and name not in rooms and _is_from(node)
                found.append(Import(short, getattr(node, "lineno", 0), PACKAGE if public else target))
    return found


def _is_from(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom)


def _targets(node: ast.AST, file: Path) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            base = [*file.parts[: -level or None], *filter(None, [module])] if level else [module or ""]
            yield from (".".join([*base, alias.name]) for alias in names if alias.name != "__version__")
        case ast.Constant(value=str(text)) if DOTTED.fullmatch(text):
            # A literal table of modules to be imported later is an import as well.
            yield text


def computed_imports(root: Path = ROOT) -> list[str]:
    """Calls that import a module whose name is not written there, as `file:line`."""
    found = []
    for file in sources(root):
        for node in ast.walk(parse(file)):
            if not (isinstance(node, ast.Call) and _callee(node) in ("import_module", "__import__")):
                continue
            if not (node.args and isinstance(node.args[0], ast.Constant)):
                found.append(f"{file.relative_to(root)}:{node.lineno}")
    return found


def _callee(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
