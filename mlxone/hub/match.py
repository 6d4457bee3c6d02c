"""Which names a query means. Pure text: no disk, no network.

Case is ignored, and so is how words are joined: `gemma4` is `Gemma-4`. A repo's whole name beats
whole words of it, and they beat a part of a word. A size (`4B`, `a4b`, `4bit`) is always a whole
word: `4B` is not `14B`. After a colon stand sizes or bits that must be there too: `qwen3:4bit`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence

SHORTEST_PART = 3  # letters; anything shorter is found inside half of all names

_WORD = re.compile(r"[a-z0-9.]+")
_SIZE = re.compile(r"[ae]?\d+(\.\d+)?[bm]|\d+bits?")


def match(query: str, names: Iterable[str], fits: Callable[[str, str], bool] | None = None) -> list[str]:
    """All names the query may mean, best kind of match only, in the order given.

    Where no name has the words after a colon, `fits(name, words)` says whether what it names does.
    """
    names = list(names)
    stated, *filters = query.split(":")
    base = _words(stated)
    if not base and not any(_words(f) for f in filters):
        return []
    found = _best(base, [name for name in names if all(_has_words(name, _words(f)) for f in filters)])
    if found or fits is None or not filters:
        return found
    return _best(base, [n for n in names if all(_has_words(n, _words(f)) or fits(n, f) for f in filters)])


def is_name(name: str, query: str) -> bool:
    """Whether the query is a repo's whole name, with its owner or without."""
    return ":" not in query and _is_name(name, _words(query))


def nearest(query: str, names: Sequence[str], limit: int = 3) -> list[str]:
    """Names spelled much like the query, for a hint."""
    import difflib  # slow to import, and needed only for what is not found

    short = {name.rpartition("/")[2].lower(): name for name in names} | {n.lower(): n for n in names}
    close = difflib.get_close_matches(query.lower(), short, n=2 * limit, cutoff=0.5)
    return list(dict.fromkeys(short[name] for name in close))[:limit]


def _best(words: Sequence[str], names: Sequence[str]) -> list[str]:
    kinds = (_is_name, _has_words, _has_part)
    return next((found for has in kinds if (found := [name for name in names if has(name, words)])), [])


def _words(text: str) -> list[str]:
    return [word.strip(".") for word in _WORD.findall(text.lower()) if word.strip(".")]


def _join(left: str, right: str) -> str:
    """`gemma` and `4` make `gemma4`, but `2` and `7b` do not make `27b`."""
    return left + ("-" if left[-1:].isdigit() and right[:1].isdigit() else "") + right


def _joined(words: Sequence[str]) -> str:
    return functools.reduce(_join, words, "")


def _is_name(name: str, words: Sequence[str]) -> bool:
    return _joined(words) in (_joined(_words(name)), _joined(_words(name.rpartition("/")[2])))


def _has_words(name: str, words: Sequence[str]) -> bool:
    """The words stand in the name one after another, however either of them joins words."""
    wanted, found = _joined(words), _words(name)
    for start in range(len(found)):
        joined = ""
        for word in found[start:]:
            joined = _join(joined, word)
            if joined == wanted:
                return True
            if len(joined) >= len(wanted):
                break
    return not wanted


def _has_part(name: str, words: Sequence[str]) -> bool:
    part, whole = _joined(words), _joined(_words(name))
    if len(part) < SHORTEST_PART or _SIZE.fullmatch(part):
        return False
    at = whole.find(part)
    while at >= 0:
        if not _cuts_number(whole, at) and not _cuts_number(whole, at + len(part)):
            return True
        at = whole.find(part, at + 1)
    return False


def _cuts_number(text: str, at: int) -> bool:
    """Whether a cut before `text[at]` goes through a number: `qwen3` does not mean `qwen3.5`."""
    return bool(re.search(r"\d\.?$", text[:at]) and re.match(r"\.?\d", text[at:]))
