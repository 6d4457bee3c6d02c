"""Any bytes: a value, or one UsageError with status 400 that says what is wrong."""

from __future__ import annotations

import json
import sys

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlxone.core.errors import UsageError
from mlxone.server.protocols import llamacpp, openai_chat, openai_completions, openai_models
from mlxone.server.protocols.openai_fields import ChatBody, CompletionBody, names
from mlxone.server.protocols.reading import MOST_NESTED, SHOWN, _unique, body_object, into, unknown

PARSERS = (
    openai_chat.parse,
    openai_completions.parse,
    openai_models.named,
    llamacpp.tokenize,
    llamacpp.detokenize,
)


def nested(levels: int) -> bytes:
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


BAD = {
    b"": "is empty",
    b" \r\n": "is empty",
    b"\xef\xbb\xbf{}": "byte order mark",
    '{"a":1}'.encode("utf-16"): "byte order mark",
    '{"a":1}'.encode("utf-16-be"): "not JSON at byte 0",
    b'{"a":"\xff"}': "not UTF-8 at byte 6",
    b'{"a":"\xed\xa0\x80"}': "not UTF-8 at byte 6",
    b'{"a":"\\ud800"}': "half of an escaped character",
    b'{"\\udc00":1}': "not JSON",
    b'{"a":NaN}': "not JSON at byte 5",
    b'{"a":-Infinity}': "not JSON",
    b'{"a":1e999}': "out of range",
    b'{"a":1' + b"0" * 5000 + b"}": "out of range",
    b'{"a":1': "ends too early",
    b'{"a":1,}': "trailing comma",
    b'{"a":01}': "not JSON at byte 6",
    b"{'a':1}": "not JSON at byte 1",
    b'{"a":1} x': "trailing characters",
    b'{"a":1}{}': "trailing characters",
    b'{"a":1,"b":{},"a":1}': "'a' twice",
    b'{"a":[{"b":1,"b":2}]}': "'b' twice",
    b'{"a":1,"\\u0061":2}': "'a' twice",
    b"[]": "not a list",
    b'"a"': "not text",
    b"null": "not null",
    b"true": "not true or false",
    b"3": "not a number",
    nested(MOST_NESTED + 1): f"more than {MOST_NESTED} levels",
    nested(900): "levels deep",
    b"[" * 200_000: "levels deep",
    b'{"a":' * 200_000: "levels deep",
}


@pytest.mark.parametrize(("body", "said"), BAD.items(), ids=[repr(body[:24]) for body in BAD])
def test_a_bad_body_is_one_clear_complaint(body: bytes, said: str):
    with pytest.raises(UsageError) as caught:
        body_object(body)
    assert caught.value.status == 400
    assert said in caught.value.message
    assert "\n" not in caught.value.message and len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b" {} \n", {}),
        (nested(MOST_NESTED), None),
        (b'{"a":"\\ud83d\\ude00\\u0000"}', {"a": "\N{GRINNING FACE}\0"}),
        (b'{"a":{"b":1},"c":{"b":1}}', {"a": {"b": 1}, "c": {"b": 1}}),
        (b'{"a":123456789012345678901234567890}', {"a": 123456789012345678901234567890}),
    ],
)
def test_a_good_body_is_read(body: bytes, value: object):
    assert body_object(body) == (json.loads(body) if value is None else value)


def test_python_may_allow_fewer_digits_than_usual():
    before = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(640)
        with pytest.raises(UsageError, match="out of range"):
            body_object(b'{"a":1' + b"0" * 700 + b"}")
    finally:
        sys.set_int_max_str_digits(before)


class Inner(msgspec.Struct):
    x: int


class Outer(msgspec.Struct):
    a: list[Inner]
    b: dict[str, float] | None = None
    c: str | list[int] | None = None


@pytest.mark.parametrize(
    ("value", "param", "said"),
    [
        ({}, "a", "a is missing"),
        ({"a": 3}, "a", "a: expected a list, got a whole number"),
        ({"a": [{"x": 1}, {}]}, "a[1].x", "a[1].x is missing"),
        ({"a": [{"x": True}]}, "a[0].x", "a[0].x: expected a whole number, got true or false"),
        ({"a": [], "b": 1.5}, "b", "b: expected an object, got a number"),
        ({"a": [], "b": {"k": "v"}}, "b", "b: expected a number, got text"),
        ({"a": [], "c": 3}, "c", "c: expected text or a list, got a whole number"),
        ({"a": None}, "a", "a: expected a list, got null"),
    ],
)
def test_a_wrong_type_names_its_path(value: object, param: str, said: str):
    with pytest.raises(UsageError) as caught:
        into(Outer, value)
    assert (caught.value.param, caught.value.message) == (param, said)


def test_unknown_fields_are_named_shortly_and_nulls_are_not_given():
    long = "x" * 1_000
    assert unknown({"a": 1, "z": 2, "n": None}, ["a"], "p[0]") == ["p[0].z"]
    assert unknown({long: 1}, []) == [long[:SHOWN] + "…"]
    assert len(unknown({str(i): 1 for i in range(1_000)}, [])) == 50
    assert unknown({"z": 1}, [], room=0) == []


def test_a_twin_is_found_without_comparing_each_name_with_all():
    compared = 0

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    names = [Name(number) for number in range(2_000)]
    with pytest.raises(UsageError, match="'1999' twice"):
        _unique([(name, 1) for name in [*names, Name(1999)]])
    assert compared < 100


# The invariant, on bytes of every kind and on JSON that looks like requests.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
FIELDS = sorted({*names(ChatBody), *names(CompletionBody), "tools", "response_format", "content", "tokens"})
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "assistant", "tool", "x"]), "content": JSON}
)
REQUEST = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6) | st.builds(
    lambda some, turns, prompt: {**some, "messages": turns, "prompt": prompt},
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
    st.lists(TURN, max_size=3),
    st.text(max_size=4) | st.lists(st.integers(-5, 2**33), max_size=3) | JSON,
)


def parsed_or_refused(body: bytes) -> None:
    for parse in PARSERS:
        try:
            parse(body)
        except UsageError as e:
            assert e.status == 400
            assert e.message and "\n" not in e.message


@given(st.binary(max_size=60))
@example(b"{" + b'"a":{' * 500)
def test_any_bytes_give_a_call_or_our_own_error(body: bytes):
    parsed_or_refused(body)


@given(REQUEST)
def test_any_json_gives_a_call_or_our_own_error(value: object):
    parsed_or_refused(json.dumps(value).encode())


@given(REQUEST, st.integers(0, 200), st.binary(max_size=3))
def test_any_damage_gives_a_call_or_our_own_error(value: object, place: int, noise: bytes):
    body = json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")
    parsed_or_refused(body[:place] + noise + body[place + 1 :])
