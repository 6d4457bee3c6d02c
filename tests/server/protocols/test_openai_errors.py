"""Every error of the house in OpenAI's words, and nothing in them that is only the operator's business."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai.types.shared import ErrorObject

import mlxone.server.errors  # noqa: F401  (HTTP's own members of the family)
from mlxone.core.errors import (
    BackendMissing,
    ContextOverflow,
    DamagedModel,
    HubError,
    MlxoneError,
    ModelNotFound,
    ModelOverBudget,
    OutOfMemory,
    StorageError,
    TemplateError,
    UnsupportedModel,
    UsageError,
)
from mlxone.server.protocols.openai_errors import error_body

PLACE = "/somewhere/of the/operator's/.cache/model-00001.safetensors"


def said(error: MlxoneError) -> dict[str, Any]:
    return json.loads(error_body(error, "r1"))["error"]


def family(kind: type[MlxoneError] = MlxoneError) -> Iterator[type[MlxoneError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from family(each)


@pytest.mark.parametrize("kind", list(family()), ids=lambda kind: kind.__name__)
def test_every_error_of_the_family_has_a_type(kind: type[MlxoneError]):
    body = said(kind("message"))
    known = ErrorObject.model_validate(body, strict=True)
    assert known.code == kind.code and body["request_id"] == "r1"
    by_status = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        408: "timeout_error",
        429: "rate_limit_error",
        504: "timeout_error",
    }
    usual = "server_error" if kind.status >= 500 else "invalid_request_error"
    admission = kind.code in ("context_over_budget", "model_over_budget")
    assert known.type == ("memory_admission" if admission else by_status.get(kind.status, usual))


@pytest.mark.parametrize("kind", [MlxoneError, DamagedModel, StorageError, BackendMissing, HubError])
def test_what_the_operator_must_mend_is_only_in_the_log(kind: type[MlxoneError]):
    body = said(kind(f"{PLACE} is broken", hint=f"look at {PLACE}"))
    assert "somewhere" not in str(body) and "operator's" not in str(body)
    assert "the server's log has it under request r1" in body["message"]


def test_another_failure_on_this_side_is_private_until_somebody_says_otherwise():
    class New(MlxoneError):
        code, status = "new", 500

    assert said(New("secret"))["message"] == "internal error; the server's log has it under request r1"


@pytest.mark.parametrize("kind", [UnsupportedModel, ModelNotFound, TemplateError, ModelOverBudget])
@pytest.mark.parametrize("place", ["/a/b/org/m.gguf", "~/a/b/m.gguf", "'/a/b/m.gguf'", "(/a/b/m.gguf)"])
def test_a_models_place_is_shortened_to_its_name(kind: type[MlxoneError], place: str):
    message = said(kind(f"{place}: version 1 of org/name, see https://example.com/a/b"))["message"]
    assert "/a/b/org" not in message and "/b/m.gguf" not in message
    assert "m.gguf" in message
    assert message.endswith("version 1 of org/name, see https://example.com/a/b")


def test_a_clients_own_words_are_not_shortened():
    assert said(UsageError("no /v1/a/b here"))["message"] == "no /v1/a/b here"


def test_nor_is_the_name_it_gave_a_model():
    error = ModelNotFound("no model here is called '/etc/passwd'", param="model")
    assert said(error)["message"] == "no model here is called '/etc/passwd'"
    assert "/etc" not in said(ModelNotFound("/etc/models/m is not whole"))["message"]
    assert "/etc" not in said(UnsupportedModel("/etc/models/m cannot run", param="model"))["message"]


def test_numbers_param_and_the_way_out():
    error = ContextOverflow(
        "the prompt has 9 tokens and 5 fit",
        hint="shorten it",
        param="messages",
        details={"prompt_tokens": 9, "max_safe_context": 5},
    )
    assert said(error) == {
        "message": "the prompt has 9 tokens and 5 fit (shorten it)",
        "type": "memory_admission",
        "param": "messages",
        "code": "context_over_budget",
        "request_id": "r1",
        "prompt_tokens": 9,
        "max_safe_context": 5,
    }


def test_details_cannot_take_the_place_of_a_member():
    assert said(UsageError("m", details={"code": 1, "message": 2}))["code"] == "usage"


def test_memory_is_a_matter_of_the_client_as_well():
    assert said(OutOfMemory("5 GB are in use", hint="use a shorter context"))["message"].startswith("5 GB")


def test_half_a_character_of_a_files_name_does_not_break_the_answer():
    assert said(ModelNotFound("no \udcff here"))["message"] == "no ? here"
