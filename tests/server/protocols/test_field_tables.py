"""docs/protocols/ against the codecs, and the codecs against all that OpenAI's client can send."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from openai.types import completion_create_params as older
from openai.types.chat import completion_create_params as chats

from mlxone.core.settings import BY_NAME
from mlxone.server.protocols import (
    llamacpp,
    openai_chat,
    openai_completions,
    stats,
)
from mlxone.server.protocols import openai_common as common
from mlxone.server.protocols import openai_fields as f
from mlxone.server.protocols.reading import MOST_IDS, MOST_NESTED
from mlxone.service.figures import AdmissionFigures, Figures
from tests.fakes import FakeContext
from tests.server.rig import app, ask

PAGES = Path(__file__).parents[3] / "docs" / "protocols"
OPENAI = (PAGES / "openai.md").read_text(encoding="utf-8")
OTHER = (PAGES / "other.md").read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> dict[str, list[str]]:
    """The cells of a table's rows after the first, by the names in it."""
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    found = {name: row[1:] for row in cells for name in re.findall(r"`([^`]+)`", row[0])}
    assert len(found) == sum(len(re.findall(r"`[^`]+`", row[0])) for row in cells)  # each once
    return found


def routes(in_chats: Iterable[str], in_older: Iterable[str]) -> dict[str, str]:
    chat, completion = set(in_chats), set(in_older)
    word = {(True, True): "both", (True, False): "chat", (False, True): "completions"}
    return {name: word[name in chat, name in completion] for name in chat | completion}


def test_the_page_lists_what_is_honoured():
    wanted = routes(f.honoured(f.ChatBody), f.honoured(f.CompletionBody))
    assert {name: cells[0] for name, cells in rows(section(OPENAI, "Honoured")).items()} == wanted


def test_the_page_lists_what_is_refused_and_what_is_harmless():
    listed = rows(section(OPENAI, "Refused by name"))
    assert {name: cells[0] for name, cells in listed.items()} == routes(f.CHAT_REFUSED, f.COMPLETION_REFUSED)
    for name, refused in {**f.CHAT_REFUSED, **f.COMPLETION_REFUSED}.items():
        spelled = [re.sub(r"\s", "", each) for each in re.findall(r"`([^`]+)`", listed[name][2])]
        assert spelled == [msgspec.json.encode(value).decode() for value in refused.harmless], name


def test_the_page_lists_what_is_passed_over():
    text = section(OPENAI, "Taken and passed over")
    assert rows(text).keys() == set(f.names(f.Ignored))
    assert "`stream_options.include_obfuscation`" in text and "`prompt_cache_breakpoint`" in text


def test_the_page_lists_the_fields_of_a_message():
    text = section(OPENAI, "Messages")
    assert rows(text).keys() == {*f.names(f.Turn), *f.TURN_REFUSED}
    assert [name for name in [*f.ROLES, *f.ROLES_REFUSED, *f.PARTS_REFUSED] if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("published", "body", "refused"),
    [
        (chats.CompletionCreateParamsBase, f.ChatBody, f.CHAT_REFUSED),
        (older.CompletionCreateParamsBase, f.CompletionBody, f.COMPLETION_REFUSED),
    ],
)
def test_every_field_of_the_official_client_is_known(
    published: type, body: type, refused: dict[str, f.Refused]
):
    known = {*f.names(body), *refused}
    assert set(published.__annotations__) - known == set()
    assert set(f.names(body)) & refused.keys() == set()


def test_the_other_page_lists_the_fields_of_the_small_routes():
    bodies = (llamacpp.TokenizeBody, llamacpp.DetokenizeBody)
    listed = rows(section(OTHER, "/tokenize and /detokenize"))
    assert listed.keys() == {name for body in bodies for name in f.names(body)}


def test_the_other_page_lists_the_metrics():
    class Everything(FakeContext):
        def figures(self) -> Figures:
            return replace(super().figures(), admission=AdmissionFigures(memory_budget_bytes=1))

    page = ask(app(Everything()), "GET", "/metrics").body.decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.M))
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", page, re.M))
    listed = rows(section(OTHER, "/metrics"))
    assert listed == {name: [kind, helps[name]] for name, kind in kinds.items()}


def test_the_page_states_the_limits_of_the_code():
    listed = rows(section(OPENAI, "Honoured"))
    stated = {
        "messages": openai_chat.MOST_MESSAGES,
        "prompt": openai_completions.MOST_PROMPTS,
        "n": common.MOST_CHOICES,
        "stop": common.MOST_STOPS,
        "logit_bias": common.MOST_BIASES,
        "logprobs": common.MOST_LOGPROBS,
        "top_logprobs": common.MOST_LOGPROBS,
    }
    assert [name for name, limit in stated.items() if f"{limit:,}" not in listed[name][1]] == []
    assert f"{common.MOST_BIAS:,}" in listed["logit_bias"][1]
    assert f"more than {MOST_NESTED} levels" in OPENAI
    for name in set(common.IN_TABLE) - {"seed", "top_k"}:
        setting = BY_NAME[name]
        assert f"{setting.low:g} to {setting.high:g}" in listed[name][1], name


def test_the_other_page_lists_the_figures():
    said = json.loads(stats.body(Figures("serve", None, 1.0)))
    listed = rows(section(OTHER, "/stats"))
    assert listed.keys() == said.keys()
    for part, fields in said.items():
        if isinstance(fields, dict):
            assert [name for name in fields if f"`{name}`" not in listed[part][0]] == [], part


def test_the_other_page_lists_what_health_says():
    row = rows(OTHER.split("\n## ")[0])["GET /health"][0]
    said = {phase: ask(app(phase=phase), "GET", "/health") for phase in ("ok", "starting", "draining")}
    assert said["ok"].json() == {"status": "ok"} and '`{"status": "ok"}`' in row
    for phase in ("starting", "draining"):
        assert f"{said[phase].status}" in row and f"`{said[phase].error['code']}`" in row


def test_the_other_page_states_how_many_ids_may_come():
    assert f"{MOST_IDS:,}" in rows(section(OTHER, "/tokenize and /detokenize"))["tokens"][1]
