"""Facts of a repo that is not here: the same as of its files, and no tensor's bytes fetched for them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxone.core.errors import DamagedModel, HubError, MlxoneError, ModelNotFound, UnsupportedModel
from mlxone.core.facts import ModelFacts
from mlxone.formats.config import Config
from mlxone.hub import places, remote_facts
from mlxone.hub.facts import read_facts
from tests.hub.fake_hub import FakeHub, Fault, Repo, refuse
from tests.hub.published import BEHIND, header_bytes, publish
from tests.hub.seen import NAME
from tests.sparse import CONFIGS, Tensor, write_model, write_shard

ONE = "model.safetensors"


def local(folder: Path) -> ModelFacts:
    return read_facts(folder, Config.read(folder))


def remote(revision: str | None = None) -> ModelFacts:
    return remote_facts.remote_facts(NAME, revision)


def tiny(folder: Path, **more: bytes) -> Path:
    config = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 128,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 100,
        "max_position_embeddings": 1000,
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    write_shard(folder / ONE, {"model.embed_tokens.weight": Tensor("BF16", (100, 64))})
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny(tmp_path / "tiny")


@pytest.fixture
def repo(fake_hub: FakeHub, folder: Path) -> Repo:
    return publish(fake_hub, NAME, folder)


# The same facts ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_what_the_files_would_say(fake_hub: FakeHub, tmp_path: Path, name: str):
    folder = write_model(tmp_path / name, name)
    publish(fake_hub, NAME, folder)
    assert remote() == local(folder)
    assert not places.hf_cache().exists()  # nothing is kept


def test_only_config_index_and_headers_are_fetched(fake_hub: FakeHub, tmp_path: Path):
    folder = write_model(tmp_path / "m", "Llama-3.3-70B")  # 39.7 GB in 8 shards
    publish(fake_hub, NAME, folder)
    remote()
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) == 8
    assert sorted(fake_hub.gets()) == sorted(["config.json", "model.safetensors.index.json", *shards])
    for asked in fake_hub.asked:
        if asked.file in shards:
            assert asked.ranged and asked.start == 0 and asked.end <= remote_facts.LIKELY
    assert sum(asked.sent for asked in fake_hub.asked) < 3_000_000


def test_a_long_header_takes_a_second_request(repo: Repo, folder: Path, fake_hub: FakeHub, monkeypatch):
    monkeypatch.setattr(remote_facts, "LIKELY", 50)
    assert remote() == local(folder)
    ranges = [(a.start, a.end) for a in fake_hub.asked if a.file == ONE]
    assert ranges == [(0, 50), (50, header_bytes(folder / ONE))]


@pytest.mark.parametrize("likely", [50, 8, 1 << 18])
def test_a_server_that_ignores_ranges(repo: Repo, folder: Path, monkeypatch, likely: int):
    monkeypatch.setattr(remote_facts, "LIKELY", likely)
    # What comes behind the header would be waited for without end.
    repo.files[ONE] += bytes(BEHIND)
    repo.always[ONE] = Fault(ignore_range=True, hold=max(likely, header_bytes(folder / ONE)))
    assert remote() == local(folder)


def test_the_kv_config_counts(repo: Repo, folder: Path, fake_hub: FakeHub):
    (folder / "kv_config.json").write_text('[{"layer_idx": 0, "bits": 4, "group_size": 32}]')
    publish(fake_hub, NAME, folder)
    found = remote()
    assert found == local(folder)
    assert [(layer.kv_bits, layer.kv_group) for layer in found.layers] == [(4, 32)]


def test_other_tensors_beside_the_model_do_not_count(folder: Path, fake_hub: FakeHub):
    """Adapters, drafters: loading does not read them either."""
    plain = local(folder)
    write_shard(folder / "adapters.safetensors", {"a.weight": Tensor("BF16", (999, 999))})
    publish(fake_hub, NAME, folder)
    assert remote() == plain == local(folder)
    write_shard(folder / "model-extra.safetensors", {"b.weight": Tensor("BF16", (99, 99))})
    publish(fake_hub, NAME, folder)
    assert remote() == local(folder) != plain
    index = {"weight_map": {"model.embed_tokens.weight": ONE}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    publish(fake_hub, NAME, folder)
    assert remote() == local(folder) == plain


def test_a_revision_and_passing_trouble(repo: Repo, folder: Path):
    repo.faults["config.json"] = [Fault(status=503), Fault(cut=5)]
    repo.faults[ONE] = [Fault(cut=5, reset=True)]
    assert remote("v2") == local(folder)
    with pytest.raises(ModelNotFound, match="has no revision 'v3'"):
        remote("v3")


# What is refused -----------------------------------------------------------------------------


def test_gated(repo: Repo):
    repo.get[ONE] = refuse(403, "GatedRepo", "Access is restricted")
    with pytest.raises(HubError, match="org/model is gated"):
        remote()
    repo.info = refuse(403, "GatedRepo", "Access is restricted")
    with pytest.raises(HubError, match="org/model is gated"):
        remote()


def test_not_there(fake_hub: FakeHub):
    with pytest.raises(ModelNotFound, match="org/model is not on the Hub, or is private"):
        remote()


def test_offline_asks_nobody(repo: Repo, fake_hub: FakeHub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        remote()
    assert fake_hub.log == []


def test_no_weights_of_our_kind(repo: Repo):
    repo.files, repo.listed = {"config.json": b"{}", "pytorch_model.bin": b"x"}, None
    with pytest.raises(UnsupportedModel, match="no safetensors weights"):
        remote()
    repo.files = {"config.json": b"{}", "weights.safetensors": b"x"}
    with pytest.raises(DamagedModel, match=r"org/model holds no model\*\.safetensors"):
        remote()


@pytest.mark.parametrize(
    ("config", "said"),
    [(b"[]", "config.json does not hold a JSON object"), (b"{", "config.json is not valid JSON")],
)
def test_a_config_that_is_none(repo: Repo, config: bytes, said: str):
    repo.files["config.json"], repo.listed = config, None
    with pytest.raises(DamagedModel, match=f"org/model: {said}"):
        remote()


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {"a": "../a"}}, "outside its folder"),
        ({"weight_map": {"a": "b.safetensors"}}, "org/model holds no b.safetensors"),
        ([], "does not hold a JSON object"),
    ],
)
def test_an_index_that_leads_nowhere(repo: Repo, index: object, said: str):
    repo.files["model.safetensors.index.json"], repo.listed = json.dumps(index).encode(), None
    with pytest.raises(DamagedModel, match=said):
        remote()


def test_a_kv_config_that_is_none(repo: Repo):
    repo.files["kv_config.json"], repo.listed = b'{"bits": 4}', None
    with pytest.raises(DamagedModel, match=r"org/model: kv_config.json is not a list"):
        remote()


@pytest.mark.parametrize("content", [b"", b"1234567", struct.pack("<Q", 2**40) + b"{}", b"\0" * 20])
def test_what_is_no_header(repo: Repo, content: bytes):
    repo.files[ONE], repo.listed = content, None
    with pytest.raises(DamagedModel, match=f"{NAME}/{ONE}"):
        remote()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_end_in_facts_or_in_our_own_error(repo: Repo, content: bytes, measured: bool):
    repo.files[ONE] = struct.pack("<Q", len(content)) + content if measured else content
    repo.listed = None
    try:
        remote()
    except MlxoneError as error:
        assert "\n" not in str(error)
