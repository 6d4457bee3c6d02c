"""adapter_config.json of both programs: what is read, what is refused and by which name."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.errors import AdapterMismatch, DamagedModel, MlxoneError
from mlxone.formats.adapters import AdapterConfig, _end_of_path, read_config, tensor_role
from tests.models.checkpoints import refused

SOURCE = "here/adapter_config.json"
MLX_LM: dict[str, Any] = {
    "fine_tune_type": "lora",
    "num_layers": 16,
    "lora_parameters": {"rank": 8, "scale": 20.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]},
    "model": "some/model",
    "iters": 1000,
}
# What PEFT 0.21 writes for a plain LoRA, the values that mean "not used" included.
PEFT: dict[str, Any] = {
    "task_type": "CAUSAL_LM", "peft_type": "LORA", "auto_mapping": None, "peft_version": "0.21.2",
    "base_model_name_or_path": "some/model", "revision": None, "inference_mode": True, "r": 8,
    "target_modules": ["q_proj"], "exclude_modules": None, "lora_alpha": 16, "lora_dropout": 0.05,
    "fan_in_fan_out": False, "bias": "none", "use_rslora": False, "modules_to_save": None,
    "init_lora_weights": True, "layers_to_transform": None, "layers_pattern": None, "rank_pattern": {},
    "alpha_pattern": {}, "megatron_config": None, "megatron_core": "megatron.core",
    "trainable_token_indices": None, "loftq_config": {}, "eva_config": None, "corda_config": None,
    "lora_ga_config": None, "use_dora": False, "velora_config": None, "alora_invocation_tokens": None,
    "use_qalora": False, "qalora_group_size": 16, "monteclora_config": None, "layer_replication": None,
    "lora_bias": False, "target_parameters": None, "use_bdlora": None, "arrow_config": None,
    "kasa_config": None, "ensure_weight_tying": False,
}  # fmt: skip


def mlx_lm(**changes: Any) -> AdapterConfig:
    return read_config({n: v for n, v in (MLX_LM | changes).items() if v != "gone"}, SOURCE)


def peft(**changes: Any) -> AdapterConfig:
    return read_config({n: v for n, v in (PEFT | changes).items() if v != "gone"}, SOURCE)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_mlx_lm(kind: str):
    config = mlx_lm(fine_tune_type=kind)
    assert (config.format, config.kind, config.rank, config.scale) == ("mlx-lm", kind, 8, 20.0)
    assert config.rank_of("any") == 8 and config.scale_of("any") == 20.0


def test_mlx_lm_without_a_type_is_lora():
    assert mlx_lm(fine_tune_type="gone").kind == "lora"


def test_a_full_fine_tuning_has_no_rank():
    config = mlx_lm(fine_tune_type="full", lora_parameters="gone")
    assert (config.kind, config.rank, config.scale) == ("full", None, 1.0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"fine_tune_type": "prefix"}, "fine_tune_type"),
        ({"lora_parameters": "gone"}, "rank is missing"),
        ({"lora_parameters": [8]}, "lora_parameters"),
        ({"lora_parameters": {"rank": 8}}, "scale is missing"),
        ({"lora_parameters": {"rank": 8, "scale": math.inf}}, "scale"),
        ({"lora_parameters": {"rank": 0, "scale": 1}}, "rank"),
        ({"mlxone": {"ranks": {"a.b": 0}}}, "a.b"),
    ],
)
def test_mlx_lm_refusals(changes: dict[str, Any], named: str):
    with refused(DamagedModel, SOURCE, named):
        mlx_lm(**changes)


def test_peft():
    config = peft()
    assert (config.format, config.kind, config.rank, config.scale) == ("peft", "lora", 8, 2.0)
    assert peft(use_rslora=True).scale == 16 / math.sqrt(8)
    assert peft(use_dora=True).kind == "dora"


def test_peft_patterns():
    """From a dot on to the end, the first that matches; each of the two by itself."""
    config = peft(
        rank_pattern={"q_proj": 4, r"layers\.1\..*": 2, "v_proj": 3},
        alpha_pattern={"up_proj": 64, "model.layers.0.self_attn.q_proj": 6},
    )
    ranks = {
        "model.layers.1.self_attn.q_proj": 4,
        "model.layers.1.self_attn.v_proj": 2,
        "model.layers.0.self_attn.v_proj": 3,
        "model.layers.11.mlp.up_proj": 8,
        "model.layers.0.self_attn.my_q_proj": 8,
        "model.layers.0.self_attn.q_proj_more": 8,
    }
    assert {path: config.rank_of(path) for path in ranks} == ranks
    assert config.scale_of("model.layers.0.self_attn.q_proj") == 6 / 4
    assert config.scale_of("model.layers.1.self_attn.q_proj") == 16 / 4
    assert config.scale_of("model.layers.0.mlp.up_proj") == 64 / 8
    root = peft(use_rslora=True, rank_pattern={"q_proj": 4}, alpha_pattern={"q_proj": 6})
    assert root.scale_of("x.q_proj") == 6 / 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "IA3"),
        ("peft_type", ["LORA"]),
        ("bias", "lora_only"),
        ("modules_to_save", ["lm_head"]),
        ("fan_in_fan_out", True),
        ("init_lora_weights", "pissa"),
        ("loftq_config", {"loftq_bits": 4}),
        ("lora_bias", True),
        ("layer_replication", [[0, 4], [2, 6]]),
        ("trainable_token_indices", [5]),
        ("alora_invocation_tokens", [7]),
        ("use_qalora", True),
        ("a_setting_of_tomorrow", {"on": True}),
    ],
)
def test_peft_settings_that_would_make_other_numbers_are_refused_by_name(key: str, value: Any):
    with refused(AdapterMismatch, SOURCE, key):
        peft(**{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [("r", 0), ("r", "gone"), ("lora_alpha", "16"), ("use_dora", 1), ("rank_pattern", {"q": 1.5})],
)
def test_peft_values_of_a_wrong_kind(key: str, value: Any):
    with refused(DamagedModel, SOURCE, "q" if key == "rank_pattern" else key):
        peft(**{key: value})


def test_a_pattern_that_is_none():
    with refused(AdapterMismatch, "rank_pattern", "'q_proj('"):
        peft(rank_pattern={"q_proj(": 4})


@pytest.mark.parametrize("value", [True, False, "gaussian", "eva", "orthogonal"])
def test_ways_to_begin_that_left_the_base_alone(value: Any):
    assert peft(init_lora_weights=value).rank == 8


PATH = "model.layers.0.self_attn.q_proj"


def test_a_pattern_that_is_one_only_by_itself():
    """It has to be a regular expression where PEFT puts it: behind the beginning of a path."""
    for pattern in ("(?i)Q_PROJ", "(", "a{2,1}"):
        with refused(AdapterMismatch, SOURCE, "no regular expression"):
            peft(rank_pattern={pattern: 2})


def test_a_rank_for_each_of_many_linears_is_read_once():
    paths = [
        f"model.layers.{number}.mlp.up_proj" for number in range(400)
    ]  # more patterns than `re` remembers
    ranks = {path: 1 + number % 7 for number, path in enumerate(paths)}
    config = peft(rank_pattern=ranks, alpha_pattern=dict.fromkeys(paths, 3.0))
    before = _end_of_path.cache_info().misses
    assert {path: config.rank_of(path) for path in paths} == ranks
    assert [config.scale_of(path) for path in paths] == [3.0 / ranks[path] for path in paths]
    assert _end_of_path.cache_info().misses == before  # none is compiled twice


@pytest.mark.parametrize(
    ("config", "name", "role"),
    [
        (mlx_lm(), f"{PATH}.lora_a", "a"),
        (mlx_lm(), f"{PATH}.lora_b", "b"),
        (mlx_lm(fine_tune_type="dora"), f"{PATH}.m", "m"),
        (mlx_lm(fine_tune_type="full"), f"{PATH}.weight", "weight"),
        (mlx_lm(fine_tune_type="full"), f"{PATH}.bias", "bias"),
        (peft(), f"base_model.model.{PATH}.lora_A.weight", "a"),
        (peft(), f"base_model.model.{PATH}.lora_B.weight", "b"),
        (peft(use_dora=True), f"base_model.model.{PATH}.lora_magnitude_vector", "m"),
        (peft(use_dora=True), f"base_model.model.{PATH}.lora_magnitude_vector.weight", "m"),
    ],
)
def test_names(config: AdapterConfig, name: str, role: str):
    assert tensor_role(name, config) == (PATH, role)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (mlx_lm(), f"{PATH}.weight"),
        (mlx_lm(), ".lora_a"),
        (mlx_lm(), "lora_a"),
        (mlx_lm(fine_tune_type="full"), f"{PATH}.lora_a"),
        (peft(), f"{PATH}.lora_A.weight"),
        (peft(), f"base_model.model.{PATH}.lora_A.default.weight"),
        (peft(), "base_model.model.lm_head.base_layer.weight"),
        (peft(), "base_model.model.model.embed_tokens.lora_embedding_A"),
    ],
)
def test_names_that_are_none_of_its_kind(config: AdapterConfig, name: str):
    with refused(AdapterMismatch, SOURCE, name):
        tensor_role(name, config)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([MLX_LM, PEFT]), st.data())
def test_whatever_a_value_is_it_is_read_or_refused_in_our_words(base: dict[str, Any], data: st.DataObject):
    key = data.draw(st.sampled_from(sorted(base)))
    try:
        config = read_config(base | {key: data.draw(JSON)}, SOURCE)
    except MlxoneError as error:
        assert SOURCE in str(error)
    else:
        assert config.rank is None or config.rank >= 1
        assert math.isfinite(config.scale_of(PATH))
