"""The front matter of a README.md: the scalars and lists at its top level, as text. Never raises.

Not YAML: nested maps, anchors and block texts are passed over. Model cards need no more than this.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

FENCE = "---"
LONGEST = 64 << 10  # bytes; a card's front matter is some hundred

FrontMatter = dict[str, str | list[str]]


def front_matter(path: Path) -> FrontMatter:
    """Of no file, or of a card without any: empty."""
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST).decode("utf-8-sig", errors="replace")
    except (OSError, ValueError):
        return {}
    return parse(text)


def parse(text: str) -> FrontMatter:
    found: FrontMatter = {}
    key = ""
    for line in _between_fences(text):
        body = line.strip()
        if body.startswith("- ") and key:
            _add_item(found, key, _scalar(body[2:]))
        elif not line[:1].isspace() and ":" in body:
            key, _, value = (part.strip() for part in body.partition(":"))
            found[key] = _value(value)
        elif body:
            key = ""  # what is nested here belongs to nothing we read
    return found


def texts(value: str | list[str] | None) -> list[str]:
    """A scalar counts as a list of one."""
    return [value] if isinstance(value, str) and value else value if isinstance(value, list) else []


def _between_fences(text: str) -> Iterator[str]:
    lines = iter(text.splitlines())
    if next(lines, "").rstrip() != FENCE:
        return
    for line in lines:
        if line.rstrip() == FENCE:
            return
        if line.strip() and not line.lstrip().startswith("#"):
            yield line


def _value(text: str) -> str | list[str]:
    if text.startswith("[") and text.endswith("]"):
        return [item for part in text[1:-1].split(",") if (item := _scalar(part))]
    return _scalar(text)


def _scalar(text: str) -> str:
    text = text.strip()
    if text[:1] in "'\"" and text[:1]:
        return text[1:].partition(text[0])[0]
    return text.partition(" #")[0].strip()


def _add_item(found: FrontMatter, key: str, item: str) -> None:
    held = found.get(key)
    if isinstance(held, list):
        held.append(item)
    elif not held:  # `key:` with its items on the lines below
        found[key] = [item]
