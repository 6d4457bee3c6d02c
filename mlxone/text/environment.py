"""The sandbox chat templates run in: Jinja as Hugging Face sets it up.

What a template sees is plain JSON data, what it calls is listed here, and what it may take of time
and memory is bounded (`bounds.py`), as nobody knows who wrote it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import update_wrapper
from types import BuiltinMethodType, MethodType, TracebackType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from mlxone.core.errors import TemplateError
from mlxone.text import bounds, growth, operators
from mlxone.text.bounds import Allowance, within

SOURCE_LIMIT = 262_144  # a few seconds of compiling


class Compiled:
    """One template, ready to run. `name` is how errors call it."""

    def __init__(self, source: str, name: str) -> None:
        self._name = name
        if len(source) > SOURCE_LIMIT:
            raise TemplateError(f"{name} is longer than {SOURCE_LIMIT} characters")
        try:
            with within(Allowance()):  # constants are computed already here
                tree = operators.Checked(_ENVIRONMENT).visit(_ENVIRONMENT.parse(source, filename=name))
                code = _ENVIRONMENT.compile(tree, filename=name)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{name}, line {error.lineno}: {_one_line(error.message)}") from error
        except Exception as error:  # nested beyond what the parser or Python can take
            raise TemplateError(f"{name} does not parse: {_reason(error)}") from error
        self._template = jinja2.Template.from_code(_ENVIRONMENT, code, _ENVIRONMENT.globals)

    def render(self, values: Mapping[str, Any], *, clock: Callable[[], float] = time.perf_counter) -> str:
        try:
            given = plain(values)
            with within(Allowance(clock)):
                return self._template.render(given)
        except _Refused as error:
            said = _one_line(error.message)
            raise TemplateError(f"the chat template says: {said}", hint=self._name) from error
        except Exception as error:  # a template can make any operation of Python fail
            line = _line(error.__traceback__, self._name)
            place = f"{self._name}, line {line}" if line else self._name
            raise TemplateError(f"{place}: {_reason(error)}") from error


def plain(value: Any) -> Any:
    """A copy made of JSON's own types: an object's methods are out of a template's reach."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    return f"<{type(value).__name__}>"  # an image, an array: templates ask only whether it is there


class _Refused(jinja2.TemplateError):
    """The template itself said no."""


def _raise_exception(message: Any) -> None:
    raise _Refused(str(message))


def _strftime_now(format: str) -> str:
    bounds.current().path(len(format))
    return datetime.now().strftime(format)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML; a prompt is no web page."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class _Dict:
    """`dict` as templates call it, without the type's own attributes."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """Jinja's namespace, less the names through which Python's insides are reached."""

    def __init__(*args: Any, **values: Any) -> None:  # `self` may be one of the values
        self, *rest = args
        values = dict(*rest, **values)
        for name in values:
            _check_attribute(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        # The one value that changes after it was measured: namespaces can hold each other, twice each.
        bounds.current().tick()
        return bounds.current().made(super().__repr__())


def _check_attribute(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace may not hold {name!r}")


class _Generation(Extension):
    """`{% generation %}` marks the model's own words for training; here its body is just rendered."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)  # what is set inside is not seen outside


class _Sandbox(ImmutableSandboxedEnvironment):
    concat = staticmethod(bounds.joined)

    def call(self, context: Context, called: Any, /, *args: Any, **values: Any) -> Any:
        allowance = bounds.current()
        allowance.tick()
        args = growth.checked_arguments(called, args, values)
        return allowance.made(super().call(context, called, *args, **values))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if not isinstance(value, MethodType | BuiltinMethodType) or not isinstance(value.__self__, str):
            return None
        if value.__name__ not in ("format", "format_map"):
            return None
        text: Any = value.__self__
        fields = (
            growth.EscapingFormatter(self, escape=text.escape)
            if hasattr(text, "__html__")  # marked as safe
            else growth.Formatter(self)
        )

        def fill(*args: Any, **values: Any) -> Any:
            if value.__name__ == "format_map":
                (values,), args = args, ()
            return type(text)(fields.vformat(text, args, values))

        return update_wrapper(fill, value)


def _make_environment() -> ImmutableSandboxedEnvironment:
    made = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _tojson
    made.filters = {name: growth.checked_filter(name, f) for name, f in made.filters.items()}
    made.filters |= operators.FILTERS
    tests: Any = made.tests
    made.tests = {name: growth.checked_test(name, f) for name, f in tests.items()}
    del made.globals["lipsum"]  # random text, as much as is asked for
    made.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return made


_ENVIRONMENT = _make_environment()


def _line(traceback: TracebackType | None, name: str) -> int | None:
    """The innermost line of the template; Jinja puts the template's own lines into the traceback."""
    found = None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == name:
            found = traceback.tb_lineno
        traceback = traceback.tb_next
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, MemoryError):
        return "it needs too much memory"
    return _one_line(str(error)) or type(error).__name__


def _one_line(message: str | None) -> str:
    return " ".join((message or "")[:2_000].split())[:500]
