from __future__ import annotations

import json
from collections import UserDict
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from mlxone.core.errors import DamagedModel, MlxoneError, TemplateError, UsageError
from mlxone.text.template import ChatTemplate
from mlxone.text.tokenizer import Tokenizer
from tests.text.builders import byte_level, write
from tests.text.templates import CONVERSATIONS, EXTRAS, MODEL, SYSTEM, TEMPLATES, TOOLS, USER

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
ORACLE: Any = PreTrainedTokenizerFast(tokenizer_object=Library(models.BPE()), **TOKENS)


def rendered(source: str, messages: list[dict[str, Any]], **values: Any) -> str:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>", name="t.jinja").render(messages, **values)


def expected(source: str, messages: list[dict[str, Any]], **values: Any) -> str:
    values = {"add_generation_prompt": True, **values}
    return str(ORACLE.apply_chat_template(messages, chat_template=source, tokenize=False, **values))


def outcome(render: Any, *args: Any, **values: Any) -> str | None:
    try:
        return str(render(*args, **values))
    except Exception as error:  # noqa: BLE001 - which one is another test's matter
        assert render is not rendered or isinstance(error, TemplateError)
        return None


# --- what is rendered --------------------------------------------------------------------------------


@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("style", TEMPLATES)
def test_every_style_renders_as_transformers_renders_it(style: str, extras: str) -> None:
    outcomes = {}
    for name, messages in CONVERSATIONS.items():
        outcomes[name] = outcome(rendered, TEMPLATES[style], messages, **EXTRAS[extras])
        assert outcomes[name] == outcome(expected, TEMPLATES[style], messages, **EXTRAS[extras]), name
    assert sum(text is not None for text in outcomes.values()) >= 4
    assert outcomes["one question"]


@pytest.mark.parametrize("style", ["chatml", "headers", "turns", "inst", "thinking", "training"])
@pytest.mark.parametrize("conversation", ["answered", "thoughts in the text", "parts"])
def test_a_message_left_open_ends_as_transformers_leaves_it(style: str, conversation: str) -> None:
    messages = CONVERSATIONS[conversation]
    ours = outcome(rendered, TEMPLATES[style], messages, continue_final_message=True)
    theirs = outcome(
        expected, TEMPLATES[style], messages, continue_final_message=True, add_generation_prompt=False
    )
    assert ours == theirs


def test_a_message_left_open_ends_with_its_own_text() -> None:
    assert rendered("{{ messages[0].content }}!", [MODEL], continue_final_message=True) == MODEL["content"]
    trimmed = rendered("{{ messages[0].content | trim }}!", [MODEL], continue_final_message=True)
    assert trimmed == " Hello.".strip()
    assert MODEL["content"] == " Hello.\n"


def test_a_message_left_open_is_its_last_text_with_no_prompt_for_a_new_one() -> None:
    source = "{{ add_generation_prompt }}{% for p in messages[0].content %}[{{ p.text }}]{% endfor %}"
    parts = [{"text": "one"}, {"text": "two"}, {"image": "three"}]
    text = rendered(source, [{"role": "assistant", "content": parts}], continue_final_message=True)
    assert text == "False[one][two"


def test_only_a_message_with_text_can_be_left_open() -> None:
    for content in (None, [], [{"type": "image"}], 7):
        with pytest.raises(UsageError, match="no text"):
            rendered(
                "{{ messages }}", [{"role": "assistant", "content": content}], continue_final_message=True
            )
    with pytest.raises(TemplateError, match="leaves out"):
        rendered("{{ messages[0].role }}", [MODEL], continue_final_message=True)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_tojson_escapes_nothing_for_html(value: Any) -> None:
    message = {"role": "user", "content": value}
    text = rendered("{{ messages[0]['content'] | tojson }}", [message, USER]) if value is not None else "null"
    assert json.loads(text) == value
    assert text == json.dumps(value, ensure_ascii=False)


def test_tojson_takes_the_keywords_of_transformers() -> None:
    message = {"role": "user", "b": "<é>", "a": [1]}
    for options in ("indent=2", "ensure_ascii=true", "separators=(',', ':')", "sort_keys=true", "true, 1"):
        source = "{{ messages[0] | tojson(" + options + ") }}"
        assert rendered(source, [message]) == expected(source, [message])


def test_the_time_is_that_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        @staticmethod
        def now() -> datetime:
            return datetime(2031, 2, 3)

    monkeypatch.setattr("mlxone.text.environment.datetime", Clock)
    assert rendered("{{ strftime_now('%d %b %Y') }}", [USER]) == "03 Feb 2031"


def test_a_token_the_model_lacks_is_undefined() -> None:
    template = ChatTemplate(
        "{{ bos_token is defined }}{{ eos_token is defined }}{{ pad_token }}", bos_token="<s>"
    )
    assert template.render([USER]) == "TrueFalse"
    template = ChatTemplate(
        "{{ pad_token }}{{ bos_token }}", bos_token="<s>", special_tokens={"pad_token": "<p>"}
    )
    assert template.render([USER]) == "<p><s>"


def test_a_templates_data_is_plain_and_the_callers_stays_whole() -> None:
    class Kind(StrEnum):
        USER = "user"

    class Secret:
        def read(self) -> str:
            return "secret"

    message = UserDict(role=Kind.USER, content=(1, True, 2.5), image=Secret(), none=None)
    source = "{{ messages[0] }}{{ messages[0].image.read is defined }}{{ more }}"
    text = rendered(source, [message], more={"x": Kind.USER})  # type: ignore[list-item]
    assert text == "{'role': 'user', 'content': (1, True, 2.5), 'image': '<Secret>'}False{'x': 'user'}"
    assert isinstance(message["image"], Secret)
    assert "none" in message


# --- which template ----------------------------------------------------------------------------------


def load(folder: Path, config: dict[str, Any] | None = None, **files: object) -> ChatTemplate | None:
    write(folder, byte_level(), {**TOKENS, **(config or {})}, **files)
    return ChatTemplate.load(folder, Tokenizer.load(folder))


def shown(template: ChatTemplate | None, **values: Any) -> str:
    assert template is not None
    return template.render([USER], **values)


def test_no_template_is_none(tmp_path: Path) -> None:
    assert load(tmp_path) is None


def test_sources_in_their_order(tmp_path: Path) -> None:
    assert shown(load(tmp_path, chat_template={"chat_template": "third"})) == "third"
    assert shown(load(tmp_path, {"chat_template": "second {{ bos_token }}"})) == "second <s>"
    (tmp_path / "chat_template.jinja").write_text("first {{ eos_token }}")
    assert shown(load(tmp_path, {"chat_template": "second"})) == "first </s>"


@pytest.mark.parametrize("form", ["list", "files", "both"])
def test_named_templates(form: str, tmp_path: Path) -> None:
    named = {"default": "D", "tool_use": "T", "rag": "R"}
    config: dict[str, Any] = {
        "chat_template": [{"name": name, "template": text} for name, text in named.items()]
    }
    if form != "list":
        (tmp_path / "additional_chat_templates").mkdir()
        for name in ("tool_use", "rag"):
            (tmp_path / "additional_chat_templates" / f"{name}.jinja").write_text(named[name])
        config = {"chat_template": "D"}
    if form == "both":
        (tmp_path / "chat_template.jinja").write_text("D")
    template = load(tmp_path, config)
    assert shown(template) == "D"
    assert shown(template, tools=TOOLS) == "T"
    assert shown(template, documents=[{"text": "x"}]) == "R"
    assert shown(template, tools=TOOLS, documents=[]) == "T"


def test_without_a_default_the_only_one_is_taken(tmp_path: Path) -> None:
    assert shown(load(tmp_path, {"chat_template": [{"name": "x", "template": "X"}]})) == "X"
    pair = [{"name": name, "template": "?"} for name in ("x", "y")]
    with pytest.raises(TemplateError, match="no default chat template, only x, y"):
        shown(load(tmp_path, {"chat_template": pair}))


@pytest.mark.parametrize("value", [7, [], [7], [{"name": "x"}], [{"template": "x"}], {"default": 3}])
def test_a_config_whose_template_is_none_is_named(value: object, tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="tokenizer_config.json"):
        load(tmp_path, {"chat_template": value})


def test_a_template_from_a_file(tmp_path: Path) -> None:
    load(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    path = tmp_path / "mine.jinja"
    path.write_text("{{ bos_token }}é", encoding="utf-8")
    assert ChatTemplate.from_file(path, tokenizer).render([USER]) == "<s>é"
    for missing in (tmp_path / "other.jinja", tmp_path):
        with pytest.raises(UsageError, match="no chat template at"):
            ChatTemplate.from_file(str(missing), tokenizer)
    path.write_bytes(b"\xff")
    with pytest.raises(TemplateError, match=r"mine\.jinja is not UTF-8"):
        ChatTemplate.from_file(path, tokenizer)


def test_a_damaged_chat_template_json_is_named(tmp_path: Path) -> None:
    write(tmp_path, byte_level())
    (tmp_path / "chat_template.json").write_text("{")
    with pytest.raises(DamagedModel, match=r"chat_template\.json"):
        ChatTemplate.load(tmp_path, Tokenizer.load(tmp_path))


# --- what goes wrong ---------------------------------------------------------------------------------

DEEP = "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}"
BROKEN = [
    ("a\nb\n{% if %}", "t.jinja, line 3: "),
    ("{% for x in y %}", "t.jinja, line 1: "),
    ("\n{% nonsense %}", "t.jinja, line 2: .*nonsense"),
    ("{{ 'a", "t.jinja, line 1: "),
    ("{{ 1 | no_such_filter }}", "t.jinja, line 1: .*no_such_filter"),
    ("{% break %}", "t.jinja"),
    (DEEP, "t.jinja"),
]
FAILING = [
    ("{{ raise_exception('No\n  such role.') }}", "the chat template says: No such role."),
    ("{{ raise_exception(7) }}", "the chat template says: 7"),
    ("a\n\n{{ messages[0].no.such }}", "t.jinja, line 3: .*no attribute|t.jinja, line 3: .*undefined"),
    ("{{ messages[9].role }}", "t.jinja, line 1: .*"),
    ("{{ nothing() }}", "t.jinja, line 1: 'nothing' is undefined"),
    ("{{ messages[0].content + 1 }}", "t.jinja, line 1: .*concatenate"),
    ("{{ 1 / 0 }}", "t.jinja, line 1: division by zero"),
    ("{{ messages.append(1) }}", "t.jinja, line 1: .*"),
    ("{{ ''.__class__.__mro__ }}", "t.jinja, line 1: .*unsafe"),
    ("{{ namespace(__class__=1) }}", "t.jinja, line 1: .*__class__"),
    ("{% set ns = namespace() %}{% set ns._x = 1 %}", "t.jinja, line 1: .*_x"),
    ("{{ namespace.__init__.__globals__ }}", "t.jinja, line 1: .*unsafe"),
    ("{{ dict.pop(messages[0], 'role') }}", "t.jinja, line 1: "),
    ("{% macro f() %}\n{{ x.y.z }}\n{% endmacro %}\n\n{{ f() }}", "t.jinja, line 2: 'x' is undefined"),
    ("{% for x in range(100000000) %}{% endfor %}", "t.jinja, line 1: Range too big"),
    ("\n{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "t.jinja, line 2: nested too deeply"),
    ("{{ 'x' * 10 ** 18 }}", "t.jinja, line 1: it makes a text larger than 32 MB"),
    ("{{ nothing | tojson }}", "t.jinja, line 1: .*JSON"),
    ("{% include 'other' %}", "t.jinja"),
    ("{{ strftime_now(3) }}", "t.jinja, line 1: "),
    ("{{ lipsum(9) }}", "t.jinja, line 1: 'lipsum' is undefined"),
]


@pytest.mark.parametrize(("source", "message"), [*BROKEN, *FAILING], ids=lambda text: text[:24])
def test_a_failing_template_says_where_and_why_in_one_line(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message) as caught:
        rendered(source, [USER])
    assert "\n" not in str(caught.value)
    assert "t.jinja" in str(caught.value)
    assert caught.value.exit_code == 11


def test_a_broken_template_hinders_only_who_uses_it(tmp_path: Path) -> None:
    template = load(tmp_path, {"chat_template": "{% if %}"})
    with pytest.raises(TemplateError, match=r"tokenizer_config\.json.*line 1"):
        shown(template)


@pytest.mark.parametrize("messages", [[], "text", ["text"], [USER, None], {"role": "user"}])
def test_what_is_no_conversation_is_refused(messages: Any) -> None:
    with pytest.raises(UsageError, match="message"):
        rendered("{{ messages }}", messages)


def test_tools_and_documents_are_objects() -> None:
    with pytest.raises(UsageError, match="tool 2 must be an object"):
        rendered("", [USER], tools=[{}, print])
    with pytest.raises(UsageError, match="documents must be a list"):
        rendered("", [USER], documents="x")


def test_data_that_holds_itself_is_an_error_of_ours() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TemplateError, match="nested too deeply"):
        rendered("x", [{"role": "user", "content": endless}])


fragments = st.sampled_from(
    [
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "-",
        " ",
        "\n",
        "if",
        "for m in",
        "messages",
        "end",
        "set",
        "x",
        "=",
        "(",
        ")",
        "generation",
        "endgeneration",
        "macro",
        "'",
        "|",
        "tojson",
        ".role",
        "[0]",
        "break",
        "{% endfor %}",
        "{% endif %}",
    ]
)


@given(st.lists(fragments, max_size=14).map(" ".join))
def test_any_text_gives_a_prompt_or_an_error_of_ours(source: str) -> None:
    try:
        assert isinstance(rendered(source, [SYSTEM, USER]), str)
    except MlxoneError as error:
        assert isinstance(error, TemplateError)
        assert "\n" not in str(error)


def test_rendered_and_encoded_a_conversation_has_one_bos(tmp_path: Path) -> None:
    for source in ("{{ bos_token }}{{ messages[0].content }}", "{{ bos_token }}{{ bos_token }}x"):
        template = load(tmp_path, {"chat_template": source})
        tokenizer = Tokenizer.load(tmp_path)
        assert tokenizer.encode_rendered(shown(template)).count(tokenizer.bos_id) == 1
