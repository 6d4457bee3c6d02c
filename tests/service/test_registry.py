from __future__ import annotations

from mlxone.service.registry import Registry
from tests.hub.shelves import repo


def test_every_model_is_judged():
    repo("org/runs")
    repo("org/not-yet", model_type="gemma9")
    with Registry() as registry:
        assert {e.repo: e.support for e in registry.list()} == {
            "org/not-yet": "architecture 'gemma9' is not supported",
            "org/runs": "",
        }
        assert [e.repo for e in registry.list(supported=True)] == ["org/runs"]
