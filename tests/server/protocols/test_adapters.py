"""The bodies of `/v1/adapters`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlxone.core.errors import UsageError
from mlxone.server.protocols import adapters
from mlxone.server.protocols.openai_errors import message
from mlxone.service.mounts import MountedAdapter
from tests.server.protocols.calls import chat, completion, refusal

CARD = MountedAdapter("a", "runs/a", 8, 2.0, 1_000, 14)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "id"),
        ({"id": "a"}, "path"),
        ({"id": "", "path": "a"}, "id"),
        ({"id": "a", "path": ""}, "path"),
        ({"id": 3, "path": "a"}, "id"),
        ({"id": "a", "path": ["a"]}, "path"),
        ({"id": "a", "path": "a", "model": 7}, "model"),
        ({"id": "a" * 65, "path": "a"}, "id"),
        ({"id": "a", "path": "a" * 4_097}, "path"),
    ],
)
def test_a_body_that_mounts_nothing(body: dict[str, Any], param: str):
    with pytest.raises(UsageError) as caught:
        adapters.mounting(json.dumps(body).encode())
    assert caught.value.param == param


def test_a_body_that_mounts():
    asked = adapters.mounting(b'{"id":"a","path":"runs/a","model":"","weight":1}')
    assert asked == adapters.Mounting("a", "runs/a", None, ("weight",))


def test_only_among_several_models_one_is_named():
    alone = json.loads(adapters.listing([("m", CARD)], several=False))["adapters"][0]
    assert list(alone) == ["id", "path", "rank", "scale", "size_bytes", "mounted_layers"]
    assert json.loads(adapters.one("m", CARD, several=True)) == {**alone, "model": "m"}


@pytest.mark.parametrize("ask", [chat, completion])
def test_a_request_chooses(ask: Any):
    assert [r.adapter for r in ask(adapter="a+b").asked.requests] == ["a+b"]
    assert ask().asked.requests[0].adapter is ask(adapter="").asked.requests[0].adapter is None
    assert refusal(ask, adapter=["a"]).param == refusal(ask, adapter="a" * 2_000).param == "adapter"
    assert refusal(ask, adapters=["a"]).param == "adapters"


def test_no_place_of_the_server_is_told():
    from mlxone.core.errors import AdapterMismatch, AdapterNotFound

    for kind in (AdapterMismatch, AdapterNotFound):
        assert message(kind("/srv/private/upper/adapters.safetensors: tensor 'x' does not fit"), "1") == (
            "adapters.safetensors: tensor 'x' does not fit"
        )
