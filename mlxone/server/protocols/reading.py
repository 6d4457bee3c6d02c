"""Any bytes to a checked value, or to one UsageError that names the field. Shared by all dialects.

`body_object(body)` reads a JSON object; `into(Struct, value)` checks its types. Nothing but a
UsageError leaves here, whatever the bytes are.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from mlxone.core.errors import UsageError
from mlxone.core.settings import BY_NAME

T = TypeVar("T", bound=msgspec.Struct)

MOST_NESTED = 64  # lists and objects within each other
MOST_NAMED = 50  # fields without a meaning that are remembered by name, of a whole request
MOST_ID = 2**31 - 1
MOST_IDS = 4_000_000  # tokens of a text
SHOWN = 60  # characters of a client's own text in a message

OUT_OF_RANGE = "the body holds a number that is out of range"

_MALFORMED = re.compile(r"JSON is malformed: (?P<what>.*) \(byte (?P<place>\d+)\)")
_AT = re.compile(r" - at (?P<key>`key` in )?`\$(?P<path>.*)`$")
_ATTRIBUTE = re.compile(r"Object missing required field `(?P<name>.*)`$")
_TYPES = re.compile(r"`([a-z]+(?: \| [a-z]+)*)`")
_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}


def body_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is; every other body is refused."""
    text, value = _decoded(body)
    if not isinstance(value, dict):
        raise UsageError(f"the body must be a JSON object, not {_kind(value)}")
    _check_depth(value)
    _check_twins(text)
    return value


def into(kind: type[T], value: Any) -> T:
    """The value as that struct; the complaint carries the field's path as `param`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as e:
        raise _as_ours(str(e)) from None


def unknown(
    value: Mapping[str, Any], known: Iterable[str], path: str = "", *, room: int = MOST_NAMED
) -> list[str]:
    """Paths of the fields that mean nothing here, as many as there is room for.

    A field given as null was not given.
    """
    if room <= 0:
        return []
    found = [name for name in value.keys() - set(known) if value[name] is not None]
    return [joined(path, shown(name)) for name in sorted(found)[:room]]


def joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def shown(value: Any) -> str:
    """A client's own value, short enough for one line of a message."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def check_range(name: str, value: float | None, *, path: str | None = None) -> None:
    """By the settings table; the complaint carries the path."""
    setting = BY_NAME[name]
    check_between(path or name, value, setting.low, setting.high, words=setting.range)


def check_between(
    path: str, value: float | None, low: float | None, high: float | None, *, words: str = ""
) -> None:
    if value is None:
        return
    if (low is not None and value < low) or (high is not None and value > high):
        words = words or (f"at least {low}" if high is None else f"between {low} and {high}")
        raise UsageError(f"{path} must be {words}, not {shown(value)}", param=path)


def check_count(path: str, items: Sequence[Any], most: int) -> None:
    if not items:
        raise UsageError(f"{path} must not be empty", param=path)
    if len(items) > most:
        raise UsageError(f"{path} has {len(items)} entries; {most} are allowed", param=path)


def check_ids(path: str, ids: Sequence[int], most: int) -> None:
    check_count(path, ids, most)
    # One pass in C for prompts of a million ids; only a complaint asks again where.
    if min(ids) < 0 or max(ids) > MOST_ID:
        for place, id in enumerate(ids):
            check_between(f"{path}[{place}]", id, 0, MOST_ID)


def _decoded(body: bytes) -> tuple[str, Any]:
    if not body.strip():
        raise UsageError("the body is empty; a JSON object is expected")
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise UsageError("the body starts with a byte order mark; plain UTF-8 is expected")
    try:
        text = body.decode()  # first of all: what is not UTF-8 should be told so, not be called malformed
        return text, msgspec.json.decode(body)
    except UnicodeDecodeError as e:
        raise UsageError(f"the body is not UTF-8 at byte {e.start}") from None
    except RecursionError:
        raise _too_deep() from None
    except msgspec.DecodeError as e:
        raise UsageError(_malformed(str(e))) from None


def _malformed(complaint: str) -> str:
    if found := _MALFORMED.match(complaint):
        return f"the body is not JSON at byte {found['place']}: {found['what']}"
    if "out of range" in complaint:
        return OUT_OF_RANGE
    # The one other complaint: a text or an object does not end, or half a pair of surrogates.
    return "the body is not JSON: it ends too early, or holds half of an escaped character"


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_NESTED):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> UsageError:
    return UsageError(f"the body is nested more than {MOST_NESTED} levels deep")


def _check_twins(text: str) -> None:
    """A name given twice: msgspec takes the last one silently, another reader may take the first."""
    try:
        json.loads(text, object_pairs_hook=_unique)
    except ValueError:  # Python's own limit on digits, which an embedding program may have lowered
        raise UsageError(OUT_OF_RANGE) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any] | None:
    found = dict(pairs)
    if len(found) < len(pairs):
        twin = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise UsageError(f"the body gives {shown(twin)!r} twice", param=shown(twin))
    return None  # only the names matter here: nothing is kept


def _as_ours(complaint: str) -> UsageError:
    """msgspec's `Expected … - at `$.a[0].b`` in the form `a[0].b: expected …`."""
    at = _AT.search(complaint)
    path = (at["path"] if at else "").lstrip(".").replace("[...]", "")
    what = complaint[: at.start()] if at else complaint
    if missing := _ATTRIBUTE.match(what):
        path = joined(path, missing["name"])
        return UsageError(f"{path} is missing", param=path)
    what = _TYPES.sub(_in_words, what[:1].lower() + what[1:]).replace("`", "")
    return UsageError(f"{path or 'the body'}: {what}", param=path or None)


def _in_words(types: re.Match[str]) -> str:
    """msgspec's names are Python's: a client may never have heard of a str."""
    names = types[1].removesuffix(" | null").split(" | ")
    return " or ".join(_WORDS.get(name, name) for name in names)


def _kind(value: Any) -> str:
    names = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
