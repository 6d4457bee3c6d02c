"""Renders packaging/homebrew/mlxone.rb from a version and the sums of its files.

The committed file is a template whose `@NAMES@` are filled in; one that nothing is known for is an error,
and so is a file without a sum.
"""

from __future__ import annotations

import re
from pathlib import Path

from packer.words import BuildError

TEMPLATE = Path(__file__).resolve().parents[1] / "packaging" / "homebrew" / "mlxone.rb"
_BLANK = re.compile(r"@([A-Z0-9_]+)@")
_NAMED_FILE = re.compile(r'^\s*url "[^"]*/([^"/]+)"\n\s*sha256 "@([A-Z0-9_]+)@"', re.M)


def render(version: str, repository: str, sums: dict[str, str]) -> str:
    """`sums` is file name -> SHA-256, as a release's SHA256SUMS says."""
    template = TEMPLATE.read_text(encoding="utf-8")
    known = {"VERSION": version, "REPOSITORY": repository, "DOWNLOADS": f"{repository}/releases/download"}
    for name, blank in _NAMED_FILE.findall(template):
        file = fill(name, known)
        if not re.fullmatch("[0-9a-f]{64}", sums.get(file, "")):
            raise BuildError(f"no SHA-256 of {file}", "the formula needs every platform's")
        known[blank] = sums[file]
    return fill(template, known)


def fill(text: str, known: dict[str, str]) -> str:
    """Puts the values in place of the `@NAMES@`."""
    blanks = set(_BLANK.findall(text))
    if blanks - set(known):
        raise BuildError(f"nothing is known for {', '.join(sorted(blanks - set(known)))}")
    return _BLANK.sub(lambda found: known[found[1]], text)
