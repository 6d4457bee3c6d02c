"""How large the results of filters and methods will be, asked before they run.

Only what can make much out of little is listed, or what takes more than linear time; results are
counted in any case. A wrong argument is let through: the operation itself says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from jinja2.filters import do_trim
from jinja2.sandbox import SandboxedEscapeFormatter, SandboxedFormatter

from mlxone.text.bounds import ITEM, SIZE_LIMIT, current
from mlxone.text.operators import modulo

LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
SPACES = "".join(sign for sign in map(chr, range(0x3001)) if sign.isspace())

Arguments = tuple[Any, ...]
Named = dict[str, Any]
# Looks at the arguments and gives them back, a generator among them as a list.
Check = Callable[[Arguments, Named], Arguments]


def argument(args: Arguments, named: Named, at: int, name: str, default: Any = None) -> Any:
    return args[at] if len(args) > at else named.get(name, default)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes) else 0


def _occurrences(text: Any, signs: str) -> int:
    return sum(map(text.count, signs)) if isinstance(text, str) else _length(text)


# --- checks that filters and methods share: the value comes first ---------------------------------------


def _width(args: Arguments, named: Named) -> Arguments:
    current().room(_whole(argument(args, named, 1, "width")))
    return args


def _replace(args: Arguments, named: Named) -> Arguments:
    value, old, new = args[0], argument(args, named, 1, "old"), argument(args, named, 2, "new")
    if all(isinstance(each, str | bytes) for each in (value, old, new)):
        limit = argument(args, named, 3, "count")
        times = value.count(old)
        if isinstance(limit, int) and limit >= 0:
            times = min(times, limit)
        current().room(len(value) + times * (len(new) - len(old)))
    return args


def _strip(args: Arguments, named: Named) -> Arguments:
    current().work(_length(args[0]) * _length(argument(args, named, 1, "chars")))
    return args


def _quadratic(args: Arguments, named: Named) -> Arguments:
    current().work(sum(map(current().size, (*args, *named.values()))) ** 2)
    return args


def _as_list(args: Arguments, named: Named) -> Arguments:
    """What is about to be made a list of."""
    value = args[0]
    if isinstance(value, str):
        current().room(len(value) * ITEM, "list")
        return args
    if hasattr(value, "__len__") or not isinstance(value, Iterable):
        return args
    return (list(value), *args[1:])  # no generator here is longer than the lists it comes from


# --- filters --------------------------------------------------------------------------------------------


def _join_filter(args: Arguments, named: Named) -> Arguments:
    args = _as_list(args, named)
    separator = argument(args, named, 1, "d", "")
    if isinstance(args[0], list | tuple):
        current().room(current().size(args[0]) + len(args[0]) * current().size(separator))
    else:
        current().room(_length(args[0]) * (1 + _length(separator)))
    return args


def _indent(args: Arguments, named: Named) -> Arguments:
    width = argument(args, named, 1, "width", 4)
    each = _length(width) or _whole(width)
    current().room(_length(args[0]) + (_occurrences(args[0], LINE_ENDS) + 1) * each)
    return args


def _format_filter(args: Arguments, named: Named) -> Arguments:
    if isinstance(args[0], str):
        modulo(args[0], named or args[1:])
    return args


def _tojson(args: Arguments, named: Named) -> Arguments:
    size, depth = current().measure(args[0])
    indent = argument(args, named, 2, "indent")
    separators = argument(args, named, 3, "separators") or ()
    each = depth * (_length(indent) or _whole(indent)) + sum(map(current().size, separators))
    current().room(size + size // ITEM * each)
    return args


def _columns(args: Arguments, named: Named) -> Arguments:
    current().room(_whole(argument(args, named, 1, "slices", named.get("linecount"))) * ITEM, "list")
    return _as_list(args, named)


def _round(args: Arguments, named: Named) -> Arguments:
    current().number(abs(_whole(argument(args, named, 1, "precision"))))  # ten to the power of it
    return args


def _int(args: Arguments, named: Named) -> Arguments:
    current().number(_length(args[0]))
    return args


def _sum(args: Arguments, named: Named) -> Arguments:
    args = _as_list(args, named)
    if not isinstance(argument(args, named, 2, "start", 0), int | float) and hasattr(args[0], "__len__"):
        # Each step copies what is there already.
        current().work(len(args[0]) * current().size(args[0]) // ITEM)
    return args


def _many_pieces(args: Arguments, named: Named) -> Arguments:
    current().room(_length(args[0]) * ITEM // 2, "list")
    return args


# Asked whenever the filter is used.
BY_VALUE: dict[str, Check] = {"join": _join_filter, "int": _int, "batch": _columns, "slice": _columns}
BY_VALUE |= dict.fromkeys(("list", "sort", "groupby", "unique", "min", "max"), _as_list)
BY_VALUE |= dict.fromkeys(("title", "wordcount"), _many_pieces)
BY_VALUE |= dict.fromkeys(("striptags", "urlize", "wordwrap", "xmlattr", "urlencode", "pprint"), _quadratic)
# Asked where it is given arguments: without them it makes little more of what it gets.
BY_ARGUMENT: dict[str, Check] = {
    "center": _width, "indent": _indent, "replace": _replace, "format": _format_filter, "tojson": _tojson,
    "round": _round, "sum": _sum,
}  # fmt: skip
# Their results are as large as what they read, so that the size of all that is made bounds their time.
LIGHT = {"upper", "lower", "capitalize", "string", "safe", "escape", "e", "tojson"}
# Where `attribute` stands among the arguments; 9: only by name.
PATHS = {
    "map": 9, "selectattr": 1, "rejectattr": 1, "sort": 3, "unique": 2, "min": 2, "max": 2, "groupby": 1,
    "sum": 1, "join": 2,
}  # fmt: skip
# These give what they were given, or a part of it.
FREE = {"default", "d", "first", "last", "random", "attr", "length", "count", "abs", "items", "float"}
SLOW_TESTS = {
    "in", "==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", ">=", "ge", "<", "lt", "lessthan",
    "<=", "le", "upper", "lower",
}  # fmt: skip
REMAINDERS = {"odd", "even", "divisibleby"}


def checked_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if name in FREE:
        return function
    if function is do_trim:  # in nearly every template, for every message
        return _trim
    if name in LIGHT:
        return _light(function, BY_ARGUMENT.get(name))
    check, only_given = BY_VALUE.get(name, BY_ARGUMENT.get(name)), name in BY_ARGUMENT
    path_at = PATHS.get(name)
    skip = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def run(*args: Any, **named: Any) -> Any:
        allowance = current()
        allowance.tick()
        if path_at is not None:
            allowance.path(_length(argument(args[skip:], named, path_at, "attribute")))
        if check is not None and (named or len(args) > skip + only_given):
            args = (*args[:skip], *check(args[skip:], named))
        return allowance.made(function(*args, **named))

    return run


def _trim(value: Any, chars: str | None = None) -> str:
    if chars is not None:
        _strip((value, chars), {})
        return current().made(do_trim(value, chars))
    trimmed = value.strip() if type(value) is str else do_trim(value)
    if trimmed is not value:
        current().text(len(trimmed))
    return trimmed


def _light(function: Callable[..., Any], check: Check | None) -> Callable[..., Any]:
    @wraps(function)
    def run(value: Any, *args: Any, **named: Any) -> Any:
        if check is not None and (args or named):
            check((value, *args), named)
        made = function(value, *args, **named)
        allowance, size = current(), len(made)
        allowance.left -= size + ITEM
        if allowance.left < 0 or size > SIZE_LIMIT:
            allowance.text(size)
        return made

    return run


def checked_test(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if name not in SLOW_TESTS | REMAINDERS:
        return function

    @wraps(function)
    def run(*args: Any) -> Any:
        current().tick()
        if name in REMAINDERS:  # of a text, Python's `%` fills it in
            modulo(args[0], args[1] if name == "divisibleby" else 2)
        return function(*args)

    return run


# --- methods of texts and numbers -------------------------------------------------------------------------


def _join_method(args: Arguments, named: Named) -> Arguments:
    separator, *items = args
    if len(items) != 1:
        return args
    (values,) = _as_list((items[0],), named)
    if isinstance(values, list | tuple):
        current().room(current().size(values) + len(values) * _length(separator))
    return separator, values


def _split(args: Arguments, named: Named) -> Arguments:
    text, separator = args[0], argument(args, named, 1, "sep")
    if isinstance(text, str) and len(text) * ITEM > SIZE_LIMIT:
        by = isinstance(separator, str) and separator
        pieces = text.count(by) if by else _occurrences(text, SPACES)
        current().room((pieces + 1) * ITEM + len(text), "list")
    return args


def _from_behind(args: Arguments, named: Named) -> Arguments:
    """Python searches backwards with no care for the worst case."""
    _strip(args, {"chars": argument(args, named, 1, "sep")})
    return _split(args, named)


def _tabs(args: Arguments, named: Named) -> Arguments:
    tabs = args[0].count(b"\t" if isinstance(args[0], bytes) else "\t")
    current().room(_length(args[0]) + tabs * _whole(argument(args, named, 1, "tabsize", 8)))
    return args


def _translate(args: Arguments, named: Named) -> Arguments:
    table = argument(args, named, 1, "table")
    signs = table.values() if isinstance(table, dict) else table if isinstance(table, list | tuple) else ()
    current().room(_length(args[0]) * max(map(_length, signs), default=1))
    return args


def _bytes_of(args: Arguments, named: Named) -> Arguments:
    current().room(_whole(argument(args, named, 1, "length")))
    return args


METHODS: dict[str, Check] = {
    "replace": _replace, "join": _join_method, "expandtabs": _tabs, "translate": _translate,
    "split": _split, "splitlines": _split, "to_bytes": _bytes_of,
} | {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _width),
    **dict.fromkeys(("strip", "lstrip", "rstrip"), _strip),
    **dict.fromkeys(("rsplit", "rfind", "rindex", "rpartition"), _from_behind),
    **dict.fromkeys(("encode", "decode", "maketrans", "striptags", "unescape"), _quadratic),
}  # fmt: skip


def checked_arguments(method: Any, args: Arguments, named: Named) -> Arguments:
    """Those of a call, where it is one of a text's or number's methods."""
    owner = getattr(method, "__self__", None)
    if not isinstance(owner, str | bytes | int):
        return args
    check = METHODS.get(getattr(method, "__name__", ""))
    return args if check is None else check((owner, *args), named)[1:]


class _Fields:
    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        current().tick()
        current().path(len(field_name))
        return super().get_field(field_name, args, kwargs)  # type: ignore[misc]

    def format_field(self, value: Any, format_spec: str) -> Any:
        for number in re.findall(r"\d+", format_spec):
            current().room(int(number) if len(number) < 10 else SIZE_LIMIT + 1)
        return current().made(super().format_field(value, format_spec))  # type: ignore[misc]


class Formatter(_Fields, SandboxedFormatter):
    """`"{:9}".format(…)`"""


class EscapingFormatter(_Fields, SandboxedEscapeFormatter):
    """The same of a text marked as safe."""
