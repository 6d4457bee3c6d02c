"""What a template may take of time and memory: each way of taking more ends in one line."""

from __future__ import annotations

import itertools
import re
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mlxone.core.errors import TemplateError
from mlxone.text import environment, growth
from mlxone.text.bounds import SIZE_LIMIT, TOTAL_LIMIT, Allowance, within
from mlxone.text.environment import SOURCE_LIMIT, Compiled
from tests.text.templates import CONVERSATIONS, EXTRAS, TEMPLATES

VALUES: dict[str, Any] = {
    "text": "some words, and more",
    "numbers": [3, 1, 2, 3],
    "table": {"b": 2, "a": [1, "x"]},
    "messages": CONVERSATIONS["turns"],
}


def stopped() -> float:
    return 0.0


def ticking(step: float = 0.001) -> Callable[[], float]:
    """Each look at the clock takes a while."""
    steps = itertools.count()
    return lambda: next(steps) * step


def refused(source: str, clock: Callable[[], float] = stopped, **values: Any) -> str:
    with pytest.raises(TemplateError) as caught:
        Compiled(source, "t.jinja").render({**VALUES, **values}, clock=clock)
    message = str(caught.value)
    assert message.startswith("t.jinja")
    assert "\n" not in message
    assert len(message) < 600
    return message


# --- time ---------------------------------------------------------------------------------------------

ENDLESS = {
    "loops": "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
    "loops with a condition": "{% set r = range(99999) %}"
    "{% for a in r %}{% for b in numbers if b > 10 %}{% endfor %}{% endfor %}",
    "a condition of comparisons": "{% for a in range(99999) if text in messages[0].content %}{% endfor %}",
    "recursive loop": "{% for a in numbers recursive %}{{ loop(numbers) if loop.depth < 60 }}{% endfor %}",
    "macros": "{% macro f(n) %}{{ f(n - 1) if n }}{{ f(n - 1) if n }}{% endmacro %}{{ f(60) }}",
    "callers": "{% macro g() %}{{ caller() }}{% endmacro %}"
    "{% macro f(n) %}{% call g() %}{{ f(n - 1) if n }}{{ f(n - 1) if n }}{% endcall %}{% endmacro %}"
    "{{ f(20) }}",
    "blocks": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "calls": "{% for a in range(99999) %}{{ text.upper() }}{{ cycler('a').next() }}{% endfor %}",
    "filters": "{{ range(99999) | map('string') | map('min') | map('int') | list }}",
    "tests": "{{ range(99999) | select('in', numbers) | list }}",
    "tests in a chain": "{{ range(99999) | reject('eq', 7) | selectattr('real', 'gt', 3) | list }}",
    "comparisons": "{% for a in numbers %}" + "{% if messages == table or table in [a] %}{% endif %}" * 999
    + "{% endfor %}",
    "formatting": "{{ '" + "{}" * 9_999 + "'.format(*range(9999)) }}",
    "namespaces": "{% set ns = namespace() %}"
    + "".join(f"{{% set n{i} = namespace() %}}" for i in range(40))
    + "".join(f"{{% set n{i}.a = [n{i + 1}, n{i + 1}] %}}" for i in range(39))
    + "{{ n0 }}",
}  # fmt: skip


@pytest.mark.parametrize("way", ENDLESS)
def test_what_runs_for_too_long_is_stopped(way: str) -> None:
    message = refused(ENDLESS[way], ticking(0.01))
    assert "it runs longer than 5 seconds" in message or "nested too deeply" in message, message
    assert way == "blocks" or "5 seconds" in message


def test_the_time_counts_from_the_start_of_each_rendering() -> None:
    template = Compiled("{% for a in range(n) %}.{% endfor %}", "t.jinja")
    clock = ticking(1.0)
    assert [template.render({"n": 3}, clock=clock) for _ in range(5)] == ["..."] * 5
    with pytest.raises(TemplateError, match=r"t\.jinja, line 1: it runs longer than 5 seconds"):
        template.render({"n": 9}, clock=clock)
    assert template.render({"n": 3}) == "..."


def test_each_thread_has_its_own_time() -> None:
    template = Compiled("{% for a in range(50) %}{{ wait() if wait }}{% endfor %}done", "t.jinja")
    results: list[str] = []
    inside = Allowance(ticking(1.0))
    with within(inside):
        other = threading.Thread(target=lambda: results.append(template.render({})))
        other.start()
        other.join()
    assert results == ["done"]


# --- size ---------------------------------------------------------------------------------------------

DOUBLED = "{% set ns = namespace(x=X) %}{% for i in range(999) %}{% set ns.x = E %}{% endfor %}"
LONG = "{% set long = 'a' * 30000000 %}"


def doubling(first: str, expression: str) -> str:
    return DOUBLED.replace("X", first).replace("E", expression)


GROWING = {
    "product": "{{ 'ab' * 10 ** 9 }}",
    "product, turned": "{{ 1000000000 * 'ab' }}",
    "product of a list": "{{ [text] * 9999999 }}",
    "product of a tuple": "{{ (text, 1) * 9999999 }}",
    "sum": doubling("'ab'", "ns.x + ns.x"),
    "sum of marked texts": doubling("'ab' | safe", "ns.x + ns.x"),
    "sum of lists": doubling("[1]", "ns.x + ns.x"),
    "link": doubling("'ab'", "ns.x ~ ns.x"),
    "nested lists": doubling("[1]", "[ns.x, ns.x]"),
    "nested tuples": doubling("(1, 2)", "(ns.x, ns.x)"),
    "nested objects": doubling("{'a': 1}", "{'a': ns.x, 'b': ns.x}"),
    "deep tuples": DOUBLED.replace("X", "(1,)").replace("E", "(ns.x,)"),
    "a set block": "{% set ns = namespace(x='ab') %}{% for i in range(99) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "the whole text": LONG + "{{ long }}{{ long }}",
    "the template's own text": "{% for i in range(99999) %}" + "x" * 1_000 + "{% endfor %}",
    "own text of a macro": "{% macro f() %}{% for i in range(99999) %}" + "x" * 1_000
    + "{% endfor %}{% endmacro %}{{ f() | length }}",
    "all that is made": LONG + "{% for i in range(99) %}{% set b = long ~ i %}{% endfor %}",
    "all that is cut": LONG + "{% for i in range(99) %}{% set b = long[1:] %}{% endfor %}",
    "all that is shown": "{% set l = ['ab' * 999] * 9999 %}"
    "{% set b %}{% for i in range(999) %}{{ l }}{% endfor %}{% endset %}",
    "power": "{{ 10 ** 9999999999 }}",
    "power of a variable": "{{ numbers[0] ** 99999 }}",
    "numbers": doubling("3", "ns.x * ns.x"),
    "rounding": "{{ 1.5 | round(999999999, 'ceil') }}",
    "rounding up": "{{ 15 | round(-999999999) }}",
    "a number's text": "{{ ('f' * 99999) | int(base=16) }}",
    "bytes of a number": "{{ (1).to_bytes(9999999999, 'big') }}",
    "percent": "{{ '%999999999d' % 1 }}",
    "percent, a star": "{{ '%*d' % (999999999, 1) }}",
    "percent, digits": "{{ '%.999999999f' % 1 }}",
    "percent, a name": "{{ '%(a)999999999d' % {'a': 1} }}",
    "percent, an odd name": "{{ '%(a(b))999999999d' % {'a(b)': 1} }}",
    "percent, often": LONG + "{{ '%(a)s%(a)s' % {'a': long} }}",
    "percent in a test": "{{ '%999999999d' is divisibleby(3) }}{{ '%999999999d' is odd }}",
    "percent of a filter": "{{ '%999999999d' | format(1) }}",
    "format": "{{ '{:999999999}'.format(1) }}",
    "format by an argument": "{{ '{:{}}'.format(1, 999999999) }}",
    "format_map": "{{ '{a:.999999999f}'.format_map({'a': 1}) }}",
    "format of a marked text": "{{ ('{:999999999}' | safe).format(1) }}",
    "format, often": LONG + "{{ ('{0}' * 99).format(long) }}",
    "center": "{{ 'a'.center(999999999) }}",
    "ljust": "{{ 'a'.ljust(999999999) }}",
    "zfill": "{{ 'a'.zfill(999999999) }}",
    "rjust of a marked text": "{{ ('a' | safe).rjust(999999999) }}",
    "expandtabs": "{{ '\\t'.expandtabs(999999999) }}",
    "replace": LONG + "{{ long.replace('a', 'bb') }}",
    "replace of nothing": LONG + "{{ long.replace('', 'b') }}",
    "join": "{{ ('a' * 9999).join('b' * 9999) }}",
    "join of a generator": "{{ ('a' * 9999).join(range(9999) | map('string')) }}",
    "translate": "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
    "split": LONG + "{{ long.split('a') }}",
    "split at spaces": "{{ ('a ' * 9999999).split() | length }}",
    "splitlines": "{{ ('a\\n' * 9999999).splitlines() | length }}",
    "filter center": "{{ 'a' | center(999999999) }}",
    "filter indent": "{{ 'a\\nb' | indent(999999999) }}",
    "filter indent by a text": "{{ ('a\\n' * 99999) | indent('b' * 99999) }}",
    "filter replace": LONG + "{{ long | replace('a', 'bb') }}",
    "filter join": "{{ range(9999) | join('a' * 9999) }}",
    "filter join of a text": "{{ ('b' * 9999) | join('a' * 9999) }}",
    "filter tojson": "{{ table | tojson(indent=999999999) }}",
    "filter tojson, separators": "{{ range(9999) | list | tojson(separators=('a' * 99999, ':')) }}",
    "filter list": LONG + "{{ long | list }}",
    "filter batch": "{{ numbers | batch(999999999, 0) | list }}",
    "filter slice": "{{ numbers | slice(999999999) | list }}",
    "filter wordwrap": "{{ ('a' * 99999) | wordwrap(1, wrapstring='b' * 99999) }}",
    "filter sum": "{{ ([[1, 2, 3]] * 99999) | sum(start=[]) }}",
    "the same one often": "{{ range(99999) | map('replace', '', 'ab' * 9999) | list }}",
    "the same value often": "{{ ([nothing] * 99999) | map('default', 'ab' * 9999) | list }}",
    "the same in an object": "{{ dict.fromkeys(range(99999), 'ab' * 9999) }}",
    "arguments": LONG + "{% macro f() %}{% endmacro %}{{ f(*long) }}",
    "constants": "{{ 'a' | center(999999999) | length }}",
}  # fmt: skip


@pytest.mark.parametrize("way", GROWING)
def test_what_grows_too_large_is_stopped_before_it_is_made(way: str) -> None:
    tracemalloc.start()
    try:
        message = refused(GROWING[way])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert re.search(r"larger than 32 MB|more than \d+ (MB|bits|deep)|takes too long", message), message
    assert peak < TOTAL_LIMIT + 2 * SIZE_LIMIT


# What takes quadratic time, or more, in one operation of Python's.
SLOW = {
    "strip": "{{ ('a' * 9999999).strip('b' * 9999999 ~ 'a') }}",
    "trim": "{{ ('a' * 9999999) | trim('b' * 9999999 ~ 'a') }}",
    "rfind": "{{ ('a' * 9999999).rfind('b' ~ 'a' * 999999) }}",
    "rsplit": "{{ ('a' * 9999999).rsplit('b' ~ 'a' * 999999) }}",
    "striptags": "{{ ('<!---->' * 99999) | striptags }}",
    "marked striptags": "{{ (('<!---->' * 99999) | safe).striptags() }}",
    "punycode": "{{ ('ä' * 999999).encode('punycode') }}",
    "pprint": "{{ [numbers] * 9999 | pprint }}" + "{{ ([numbers] * 9999) | pprint }}",
    "attribute": "{{ range(99999) | map(attribute='" + "real." * 9999 + "real') | list }}",
    "attribute to sort by": "{{ range(99999) | sort(attribute='" + "real." * 9999 + "real') }}",
    "attribute in a format": "{{ '{0" + ".real" * 99999 + "}'.format(1) }}",
    "comparing": "{{ ([['ab' * 9999] * 999] * 99) == ([['ab' * 9999] * 999] * 99) }}",
}


@pytest.mark.parametrize("way", SLOW)
def test_one_operation_cannot_take_for_ever(way: str) -> None:
    refused(SLOW[way])


def test_a_template_that_is_too_long_is_not_compiled() -> None:
    assert Compiled("x" * SOURCE_LIMIT, "t.jinja").render({}) == "x" * SOURCE_LIMIT
    with pytest.raises(TemplateError, match=r"t\.jinja is longer than 262144 characters"):
        Compiled("x" * (SOURCE_LIMIT + 1), "t.jinja")


def test_a_large_conversation_is_no_harm() -> None:
    messages = [{"role": "user", "content": " long text " * 20_000}] * 60
    for style in ("chatml", "thinking", "inst"):
        text = Compiled(TEMPLATES[style], style).render({**VALUES, "messages": messages[:1]})
        assert "long text" in text
    text = Compiled(TEMPLATES["chatml"], "t").render({"messages": messages})
    assert text.count("long text") == 60 * 20_000


# --- and nothing else changes ---------------------------------------------------------------------------


def unbounded() -> jinja2.Environment:
    """The sandbox as Hugging Face sets it up, with our names in it."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[environment._Generation, loopcontrols]
    )
    made.filters["tojson"] = environment._tojson
    made.globals |= {"namespace": environment._Namespace, "dict": environment._Dict()}
    made.globals |= {
        "raise_exception": environment._raise_exception,
        "strftime_now": environment._strftime_now,
    }
    return made


PLAIN = unbounded()


def outcomes(source: str, values: dict[str, Any]) -> tuple[str | None, str | None]:
    """With the bounds and without; None where it fails."""
    results: list[str | None] = []
    for render in (
        lambda: Compiled(source, "t.jinja").render(values),
        lambda: PLAIN.from_string(source).render(values),
    ):
        with within(Allowance()):
            try:
                results.append(re.sub("0x[0-9a-f]+", "an address", render()))
            except Exception:  # noqa: BLE001 - that both fail is what is asked
                results.append(None)
    return results[0], results[1]


@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("style", TEMPLATES)
def test_every_style_is_as_without_bounds(style: str, extras: str) -> None:
    for messages in CONVERSATIONS.values():
        ours, theirs = outcomes(TEMPLATES[style], {"messages": messages, "tools": None, **EXTRAS[extras]})
        assert ours == theirs


LOOPS = [
    "{% for x in numbers %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{{ loop.nextitem }}{% endfor %}",
    "{% for x in numbers if x > 1 %}{{ loop.revindex }}{{ x }}{% else %}none{% endfor %}",
    "{% for x in numbers if x > 9 %}{{ x }}{% else %}none{% endfor %}",
    "{% for k, v in table.items() %}{{ k }}={{ v }}{% if loop.first %}{% continue %}{% endif %}{% endfor %}",
    "{% for x in [[1, [2]], [3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
    "{% for x in text %}{% if x == ',' %}{% break %}{% endif %}{{ loop.previtem, loop.last }}{% endfor %}",
    "{% for x in numbers %}{{ loop.changed(x) }}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in numbers | map('string') %}{{ loop.length }}{{ x ~ loop.index0 }}{% endfor %}",
    "{% for x in nothing %}{% else %}-{% endfor %}{% for x in numbers %}{% set y = x %}{% endfor %}{{ y }}",
]


@pytest.mark.parametrize("source", LOOPS)
def test_loops_keep_their_meaning(source: str) -> None:
    ours, theirs = outcomes(source, VALUES)
    assert ours == theirs
    assert ours


atoms = st.sampled_from(
    ["text", "numbers", "table", "messages", "nothing", "'ab'", "' '", "2", "-1", "1.5", "none", "true", "x",
     "[]", "numbers[0]", "table['a']", "table.b", "messages[0].content", "text[1:4]", "numbers[::-1]"]
)  # fmt: skip
OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">=", "in", "not in", "and", "or"]
FILTERS = sorted(
    set(growth.BY_VALUE)
    | set(growth.BY_ARGUMENT)
    | growth.LIGHT
    | {"reverse", "wordwrap", "map", "filesizeformat"}
)
CALLS = [
    "upper()", "split()", "join(['a', 'b'])", "replace('a', 'bc')", "center(9)", "strip('s')",
    "rsplit('o', 1)", "format(1, a=2)", "items()", "get('a')", "index(3)", "zfill(4)", "encode()",
    "expandtabs(3)",
]  # fmt: skip
expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(OPERATORS), inner),
        st.builds("({} | {})".format, inner, st.sampled_from(FILTERS)),
        st.builds("({} | {}({}))".format, inner, st.sampled_from(FILTERS), inner),
        st.builds("({}).{}".format, inner, st.sampled_from(CALLS)),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("({}, {})".format, inner, inner),
        st.builds("{{'k': {}}}".format, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds(
            "({} is {})".format,
            inner,
            st.sampled_from(["string", "odd", "defined", "in text", "eq 2", "lower"]),
        ),
    ),
    max_leaves=6,
)
statements = st.recursive(
    st.builds("{{{{ {} }}}}".format, expressions) | st.sampled_from(["words\n", "{% set x = text %}"]),
    lambda inner: st.one_of(
        st.builds("{{% for x in {} %}}{}{{{{ loop.index }}}}{{% endfor %}}".format, expressions, inner),
        st.builds("{{% for x in {} if {} %}}{}{{% endfor %}}".format, expressions, expressions, inner),
        st.builds("{{% if {} %}}{}{{% else %}}{}{{% endif %}}".format, expressions, inner, inner),
        st.builds("{{% set x %}}{}{{% endset %}}{{{{ x }}}}".format, inner),
        st.builds("{{% macro m(x) %}}{}{{% endmacro %}}{{{{ m({}) }}}}".format, inner, expressions),
        st.builds("{{% filter upper %}}{}{{% endfilter %}}".format, inner),
        st.builds("{}{}".format, inner, inner),
    ),
    max_leaves=4,
)


@given(statements)
def test_ordinary_templates_say_the_same_with_bounds_and_without(source: str) -> None:
    ours, theirs = outcomes(source, VALUES)
    assert ours == theirs
