"""The list of models and one of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types import Model

from mlxone.core.errors import UsageError
from mlxone.server.protocols import openai_models
from mlxone.service.figures import ModelCard

CARD = ModelCard("org/m", 17, 4096, 10, True, None, ("chat",))


def test_a_model_is_of_the_published_type_with_more_beside_it():
    said = json.loads(openai_models.one(CARD))
    model = Model.model_validate(said, strict=True)
    assert (model.id, model.created, model.owned_by) == ("org/m", 17, "org")
    assert model.model_extra == {
        "context_length": 4096,
        "size_bytes": 10,
        "loaded": True,
        "usable": True,
        "capabilities": ["chat"],
    }


def test_why_a_model_cannot_answer_stays_with_the_operator():
    said = openai_models.one(ModelCard("m", 1, problem="/secret/place is damaged"))
    assert b"secret" not in said and json.loads(said)["usable"] is False


@pytest.mark.parametrize(("id", "owner"), [("a/b", "a"), ("m", "local"), ("/abs/m", "local")])
def test_who_owns_a_model(id: str, owner: str):
    assert json.loads(openai_models.one(ModelCard(id, 1)))["owned_by"] == owner


def test_the_list():
    assert json.loads(openai_models.listing([])) == {"object": "list", "data": []}
    said = json.loads(openai_models.listing(iter([CARD, CARD])))
    assert said["data"] == [json.loads(openai_models.one(CARD))] * 2


def test_the_model_a_body_names():
    assert openai_models.named(b'{"model":"org/m"}') == openai_models.Named("org/m")
    assert openai_models.named(b'{"model":"org/m","pin":true}').ignored == ("pin",)


@pytest.mark.parametrize("fields", [{}, {"model": ""}, {"model": None}, {"model": 3}, {"model": "x" * 1_001}])
def test_a_body_that_names_none(fields: dict[str, Any]):
    with pytest.raises(UsageError) as caught:
        openai_models.named(json.dumps(fields).encode())
    assert caught.value.param == "model"
