"""What a listing may say: it decides where files are written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxone.core.errors import HubError, MlxoneError
from mlxone.hub.repo import plan
from tests.hub.fake_hub import FakeHub, Repo
from tests.hub.seen import NAME

GOOD = {"rfilename": "config.json", "size": 2, "blobId": "b" * 40}
LARGE = {"rfilename": "a.safetensors", "size": 2, "blobId": "b" * 40, "lfs": {"sha256": "c" * 64, "size": 2,
         "pointerSize": 130}}  # fmt: skip


@pytest.fixture
def repo(fake_hub: FakeHub) -> Repo:
    fake_hub.repos[NAME] = Repo({})
    return fake_hub.repos[NAME]


def test_the_hash_is_that_of_the_content_and_not_of_its_pointer(repo: Repo):
    repo.listed = [GOOD, LARGE]
    assert {file.name: file.etag for file in plan(NAME).files} == {
        "config.json": "b" * 40,
        "a.safetensors": "c" * 64,
    }


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"rfilename": "../x.json"}, "impossible name"),
        ({"rfilename": "/etc/x.json"}, "impossible name"),
        ({"rfilename": "a/../../x.json"}, "impossible name"),
        ({"rfilename": "a\\..\\x.json"}, "impossible name"),
        ({"rfilename": "a//x.json"}, "impossible name"),
        ({"rfilename": "a\0.json"}, "impossible name"),
        ({"size": None}, "how large"),
        ({"size": -1}, "how large"),
        ({"blobId": None}, "what the hash"),
        ({"blobId": "../../x"}, "what the hash"),
        ({"blobId": "B" * 40}, "what the hash"),
        ({"lfs": {"sha256": "c" * 40, "size": 2, "pointerSize": 130}}, "what the hash"),
    ],
)
def test_a_listing_that_is_not_to_be_trusted(repo: Repo, row: dict[str, Any], reason: str):
    repo.listed = [{**GOOD, "rfilename": "x.json", **row}, GOOD, LARGE]
    with pytest.raises(HubError, match=reason):
        plan(NAME, include=["*"])


def test_a_commit_that_is_none(repo: Repo):
    repo.listed = [GOOD, LARGE]
    repo.commit = "../" * 10
    with pytest.raises(HubError, match="which commit"):
        plan(NAME)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(st.text(max_size=8), max_size=3, unique=True), st.lists(st.text(max_size=4), max_size=2))
def test_any_names_and_patterns_give_a_plan_or_our_error(repo: Repo, names: list[str], patterns: list[str]):
    repo.listed = [{**GOOD, "rfilename": name} for name in names] or [GOOD]
    try:
        found = plan(NAME, include=patterns)
    except MlxoneError:
        return
    assert {file.name for file in found.files} <= {*names, "config.json"}
