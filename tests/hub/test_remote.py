"""Bytes of a repo that is not here."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxone.core.errors import HubError, ModelNotFound
from mlxone.hub import places
from mlxone.hub.remote import remote_file, remote_range
from tests.hub.fake_hub import FakeHub, Fault, Repo
from tests.hub.seen import NAME

DATA = bytes(i * i % 251 for i in range(5_000))
COMMIT = "a" * 40
BIG = "model.safetensors"


@pytest.fixture
def repo(fake_hub: FakeHub) -> Repo:
    fake_hub.repos[NAME] = Repo({"config.json": b"{}", "empty": b"", BIG: DATA})
    return fake_hub.repos[NAME]


def test_a_small_file(repo: Repo):
    assert remote_file(NAME, "main", "config.json", limit=2) == b"{}"
    assert remote_file(NAME, COMMIT, BIG, limit=5_000) == DATA
    assert remote_file(NAME, "main", "empty", limit=0) == b""
    assert not places.hf_cache().exists()


@pytest.mark.parametrize("fault", [Fault(), Fault(unmeasured=True)])
def test_a_file_over_the_limit(repo: Repo, fault: Fault):
    repo.always[BIG] = fault
    with pytest.raises(HubError, match="model.safetensors of org/model is larger than 4,999 bytes"):
        remote_file(NAME, "main", BIG, limit=4_999)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 4_999), length=st.integers(0, 6_000), ignored=st.booleans())
def test_a_range_is_what_a_slice_is(repo: Repo, start: int, length: int, ignored: bool):
    repo.always[BIG] = Fault(ignore_range=ignored)
    assert remote_range(NAME, COMMIT, BIG, start, start + length) == DATA[start : start + length]


def test_only_the_beginning_is_read_of_a_server_that_ignores_ranges(repo: Repo, fake_hub: FakeHub):
    repo.always[BIG] = Fault(ignore_range=True, hold=100)  # what comes after would be waited for
    assert remote_range(NAME, COMMIT, BIG, 20, 90) == DATA[20:90]


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(cut=10), Fault(cut=10, reset=True), Fault(cut=0)])
def test_passing_trouble(repo: Repo, fault: Fault):
    repo.faults[BIG] = [fault]
    assert remote_range(NAME, COMMIT, BIG, 100, 200) == DATA[100:200]


def test_lasting_trouble(repo: Repo, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    repo.always[BIG] = Fault(shift=1)
    with pytest.raises(HubError, match="another part of model.safetensors of org/model"):
        remote_range(NAME, COMMIT, BIG, 0, 10)
    repo.always[BIG] = Fault(status=403, headers=(("X-Error-Code", "GatedRepo"),))
    with pytest.raises(HubError, match="org/model is gated"):
        remote_range(NAME, COMMIT, BIG, 0, 10)
    with pytest.raises(HubError, match="none.json of org/model is gone"):
        remote_file(NAME, "main", "none.json", limit=10)
    with pytest.raises(ModelNotFound, match="no revision 'v9'"):
        remote_file(NAME, "v9", "config.json", limit=10)
    fake_hub.forget()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        remote_file(NAME, "main", "config.json", limit=10)
    assert fake_hub.log == []
