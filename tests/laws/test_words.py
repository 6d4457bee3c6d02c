"""What must not be in any file: paths of somebody's machine, the hosts of package indexes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.laws.walker import ROOT

# Written so that no pattern finds itself.
FORBIDDEN = {
    "a path of one machine": re.compile(
        r"(?<![\w.~}$*-])/(?:root|work|home/\w+|Users/\w+|tmp/w|opt/\w*wheels)/"
    ),
    "a package index": re.compile(
        r"(?:pypi|pythonhosted|npmjs|anaconda)\.(?:org|com)\b|(?:index|proxy)_url\s*=", re.I
    ),
}
GENERATED = {".venv", ".git", "dist", "build", "__pycache__"}


def files_of_the_project() -> list[Path]:
    """Tracked, and new but not ignored. Outside a checkout (a source archive): all but what is made."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = (
        subprocess.run(command, capture_output=True, text=True, check=False)
        if (ROOT / ".git").exists()
        else None
    )
    if listed and listed.returncode == 0:
        files = (ROOT / name for name in listed.stdout.split("\0") if name)
    else:
        files = (p for p in ROOT.rglob("*") if not GENERATED & set(p.relative_to(ROOT).parts))
    return [p for p in files if p.is_file()]


def offences(text: str) -> list[str]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        found += [
            f"{number}: {what}: {line.strip()[:80]}" for what, rule in FORBIDDEN.items() if rule.search(line)
        ]
    return found


def test_no_file_holds_a_forbidden_word():
    files = files_of_the_project()
    assert len(files) > 20
    texts = {p: p.read_text(encoding="utf-8", errors="replace") for p in files}
    assert [f"{p.relative_to(ROOT)}:{o}" for p, text in texts.items() for o in offences(text)] == []


# With an @ in each, so that this file holds none of them.
@pytest.mark.parametrize(
    "line",
    ["open('/@root/x')", "see /@work/main", "cd /@home/ann/x", "https://pypi@.org/simple", "/@Users/ann/x"],
)
def test_an_offence_is_caught(line: str):
    assert len(offences("fine\n" + line.replace("@", ""))) == 1


@pytest.mark.parametrize(
    "line",
    ["$HOME/work/x", "docs/work/x", "~/root/x", "a workspace", "the index of a pypirc", "/usr/bin/env"],
)
def test_a_harmless_line_is_not(line: str):
    assert offences(line) == []
