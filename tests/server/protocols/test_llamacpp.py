"""llama.cpp's small routes: what is asked, what is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlxone.core.errors import UsageError
from mlxone.server.protocols import llamacpp
from mlxone.server.protocols.reading import MOST_IDS
from mlxone.service.props import Props


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_tokenize():
    assert llamacpp.tokenize(body(content="a")) == llamacpp.Tokenize("a", False, False, None)
    asked = llamacpp.tokenize(
        body(content="", add_special=True, with_pieces=True, parse_special=True, model="m", odd=1)
    )
    assert asked == llamacpp.Tokenize("", True, True, "m", ("odd",))


def test_the_tokens_of_a_text():
    assert json.loads(llamacpp.tokenized([1, 2])) == {"tokens": [1, 2]}
    assert json.loads(llamacpp.tokenized([])) == {"tokens": []}
    assert json.loads(llamacpp.tokenized([1, 2], ["a", " b"])) == {
        "tokens": [{"id": 1, "piece": "a"}, {"id": 2, "piece": " b"}]
    }


def test_detokenize():
    assert llamacpp.detokenize(body(tokens=[1, 2], model="m")) == llamacpp.Detokenize((1, 2), "m")
    assert llamacpp.detokenize(body(tokens=[])).tokens == ()
    assert json.loads(llamacpp.detokenized('a"')) == {"content": 'a"'}


@pytest.mark.parametrize(
    ("parse", "fields", "param"),
    [
        (llamacpp.tokenize, {}, "content"),
        (llamacpp.tokenize, {"content": 3}, "content"),
        (llamacpp.tokenize, {"content": "a", "add_special": 1}, "add_special"),
        (llamacpp.tokenize, {"content": "a", "parse_special": False}, "parse_special"),
        (llamacpp.detokenize, {}, "tokens"),
        (llamacpp.detokenize, {"tokens": "a"}, "tokens"),
        (llamacpp.detokenize, {"tokens": [1, "a"]}, "tokens[1]"),
        (llamacpp.detokenize, {"tokens": [1, -1]}, "tokens[1]"),
        (llamacpp.detokenize, {"tokens": [2**31]}, "tokens[0]"),
    ],
)
def test_a_wrong_value_is_refused_by_its_path(parse: Any, fields: dict[str, Any], param: str):
    with pytest.raises(UsageError) as caught:
        parse(body(**fields))
    assert caught.value.param == param


def test_props():
    said = json.loads(
        llamacpp.props(Props("org/m", 4096, "{{ x }}", "<s>", "</s>", {"temperature": 0.7}), "1.2")
    )
    assert said == {
        "default_generation_settings": {"n_ctx": 4096, "params": {"temperature": 0.7}},
        "total_slots": 1,
        "model_alias": "org/m",
        "model_path": "org/m",
        "chat_template": "{{ x }}",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "modalities": {"vision": False, "audio": False},
        "build_info": "mlxone-1.2",
    }


def test_health_and_version():
    assert json.loads(llamacpp.health()) == {"status": "ok"}
    assert json.loads(llamacpp.version("1.2")) == {"version": "1.2"}


def test_as_many_ids_as_a_prompt_may_have():
    with pytest.raises(UsageError, match=f"{MOST_IDS} are allowed") as caught:
        llamacpp.detokenize(b'{"tokens":[' + b"1," * MOST_IDS + b"1]}")
    assert caught.value.param == "tokens"
