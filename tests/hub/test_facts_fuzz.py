"""Invariant: any config, headers and kv_config.json give sound facts or our own error."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxone.core.errors import DamagedModel, MlxoneError
from mlxone.core.facts import ModelFacts
from mlxone.formats.config import Config
from mlxone.hub.facts import facts_of, kv_config_of
from tests.hub.test_facts import TINY, facts, tensor
from tests.models.checkpoints import write_safetensors
from tests.sparse import write_model

HUGE = 10**400
odd = st.sampled_from(
    [None, True, False, 0, -1, 1, 2, 7, 2**31 - 1, 2**31, HUGE, -HUGE, 0.5, 1e300, math.nan, math.inf, "",
     "4", "\ud800", "llama", [], {}, [[]], [0], ["sliding_attention"] * 2, {"a": {}}, {"bits": {}},
     {"group_size": 0}, {"group_size": HUGE, "bits": "x"}, {"mode": []}]
)  # fmt: skip
KEYS = (
    *TINY, "text_config", "quantization", "quantization_config", "layer_types", "sliding_window",
    "max_position_embeddings", "num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok",
    "top_k_experts", "moe_intermediate_size", "shared_expert_intermediate_size", "use_double_wide_mlp",
    "num_kv_shared_layers", "head_dim", "global_head_dim", "kv_lora_rank",
)  # fmt: skip
configs = st.dictionaries(st.sampled_from(KEYS), odd | st.integers() | st.text(max_size=4), max_size=4)
names = st.sampled_from(
    ["", ".", "scales", ".scales", ".weight", "a", "a.weight", "a.scales", "a.biases", "a.bias",
     "lm_head.weight", "model.embed_tokens.weight", "model.embed_tokens_per_layer.weight",
     "x.experts.w.weight", "x.experts.w.scales", "vision_tower.a", "mtp.a.weight"]
)  # fmt: skip
sizes = st.lists(st.sampled_from([0, 1, 2, 3, 8, 64, 2**40]), max_size=4)
entry = st.tuples(names, st.sampled_from(["U8", "BF16", "F32", "U32"]), sizes)


def check(found: ModelFacts) -> None:
    """What holds of all facts, so that nobody who computes with them needs to ask."""
    assert 0 < found.layer_count <= 10_000
    assert 0 <= found.experts_per_token <= max(found.experts, 0)
    assert min(found.expert_bytes, found.scale_bytes, found.lookup_bytes) >= 0
    assert 0 <= found.active_bytes <= found.language_bytes
    assert found.packed_parameters <= found.parameters and found.sidecar_bytes >= 0
    assert ModelFacts.from_json(json.loads(json.dumps(found.to_json()))) == found


@given(values=configs, entries=st.lists(entry, max_size=6, unique_by=lambda e: e[0]), nested=st.booleans())
def test_any_config_and_headers_give_facts_or_our_own_error(
    values: dict[str, Any], entries: list[tuple[str, str, list[int]]], nested: bool
):
    text = TINY | values
    config = {"model_type": "gemma4", "text_config": text} if nested else text
    try:
        found = facts_of(Config(config), [tensor(n, d, *s) for n, d, s in entries], {})
    except MlxoneError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        return
    check(found)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, 400),
    junk=st.binary(max_size=6),
    change=st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), odd, max_size=2),
    kv=st.lists(st.dictionaries(st.sampled_from(["layer_idx", "bits", "group_size"]), odd), max_size=3) | odd,
)
def test_any_files_give_facts_or_our_own_error(
    tmp_path: Path, cut: int, junk: bytes, change: dict[str, Any], kv: Any
):
    header: dict[str, Any] = {"a.weight": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]} | change}
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    write_safetensors(tmp_path / "model.safetensors", header, data=64)
    if cut < 200:
        raw = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(raw[:cut] + junk + raw[cut + len(junk) :])
    (tmp_path / "kv_config.json").write_text(json.dumps(kv))
    try:
        found = facts(tmp_path)
    except MlxoneError as error:
        assert "\n" not in str(error)
        return
    check(found)
    assert all(layer.kv_group > 0 for layer in found.layers)


@given(value=odd | st.lists(odd | st.dictionaries(st.sampled_from(["layer_idx", "bits", "group_size"]), odd)))
def test_any_kv_config_gives_widths_or_our_own_error(value: Any):
    try:
        found = kv_config_of(value, "kv_config.json")
    except DamagedModel:
        return
    assert all(bits in (2, 3, 4, 5, 6, 8) and group in (32, 64, 128) for bits, group in found.values())


@pytest.mark.parametrize(
    "content",
    [
        "{}", "4", "null", '"a"', "[4]", "[null]", "[[]]", '[{"bits": 4}]', '[{"layer_idx": 0}]',
        '[{"layer_idx": "a", "bits": 4}]', '[{"layer_idx": 0, "bits": null}]',
        '[{"layer_idx": 0, "bits": Infinity}]', '[{"layer_idx": 0, "bits": NaN}]',
        '[{"layer_idx": 0, "bits": 4, "group_size": 0}]', '[{"layer_idx": 0, "bits": 4, "group_size": -64}]',
        '[{"layer_idx": 0, "bits": 4, "group_size": 16}]',
        '[{"layer_idx": 0, "bits": 0}]', '[{"layer_idx": 0, "bits": -4}]', '[{"layer_idx": 0, "bits": 7}]',
        '[{"layer_idx": 0, "bits": 100000}]', "[{", "",
    ],
)  # fmt: skip
def test_a_damaged_kv_config_is_named(tmp_path: Path, content: str):
    folder = write_model(tmp_path / "m", "Llama-3.3-70B")
    (folder / "kv_config.json").write_text(content)
    with pytest.raises(DamagedModel) as caught:
        facts(folder)
    assert "kv_config.json" in str(caught.value) and "\n" not in str(caught.value)
