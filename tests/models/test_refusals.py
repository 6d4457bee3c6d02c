"""A config that cannot be honoured is refused, by name, whatever the family; and nothing else happens.

Nothing here has weights: a spec is made or an error of ours says in one line which setting it is.
"""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest

from mlxone.core.errors import DamagedModel, MlxoneError, UnsupportedModel
from mlxone.formats.config import Config
from mlxone.models import rope
from mlxone.models.families.reading import ROPE_KINDS
from mlxone.models.families.table import BY_MODEL_TYPE, FAMILIES, family_of, nearest, spec_of
from mlxone.models.spec import AttentionSpec, DecoderSpec, LatentSpec, RopeSpec
from tests.models.checkpoints import refused
from tests.models.tiny_families import CONFIGS, changed, of_each_family

FIRST = of_each_family()
SOURCE = "the config"


def spec(config: dict[str, Any]) -> DecoderSpec:
    return spec_of(Config(config, source=SOURCE))


def test_every_family_is_gone_through():
    assert set(FIRST) == {family.name for family in FAMILIES}


# An architecture nobody knows ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("qwen33", "qwen3"),
        ("lama", "llama"),
        ("gemma5", "gemma"),
        ("deepseek_v4", "deepseek_v3"),
        ("granitemoehybird", "granitemoehybrid"),
        ("gpt-oss", "gpt_oss"),
    ],
)
def test_it_is_named_beside_the_nearest(name: str, near: str):
    with refused(UnsupportedModel, f"architecture {name!r} is not supported", "nearest: ", near):
        spec({**CONFIGS["llama"], "model_type": name})
    assert near in nearest(name)


def test_one_that_is_like_no_other_lists_them_all():
    with pytest.raises(UnsupportedModel) as caught:
        spec({"model_type": "\n" + "z" * 10**6})
    assert caught.value.hint == f"supported: {', '.join(sorted(BY_MODEL_TYPE))}"
    assert len(caught.value.message) < 200 and "\n" not in caught.value.message


def test_one_inside_another_is_named():
    config = copy.deepcopy(CONFIGS["mistral3"])
    config["text_config"]["model_type"] = "minstral4"
    with refused(
        UnsupportedModel, "architecture 'minstral4' is not supported", "nearest: mistral, ministral3"
    ):
        spec(config)


# A setting nobody computes -------------------------------------------------------------------------


def rotated(name: str) -> bool:
    mixers = [layer.mixer for layer in spec(CONFIGS[name]).layers]
    return any(isinstance(m, LatentSpec) or (isinstance(m, AttentionSpec) and m.rope) for m in mixers)


@pytest.mark.parametrize("name", [n for n in FIRST.values() if rotated(n)])
def test_an_unknown_rope(name: str):
    kind = {"rope_type": "spiral", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
    kind |= {"llama_4_scaling_beta": 0.1}
    by_kind = {"rope_parameters": {"full_attention": kind, "sliding_attention": kind}}
    given = by_kind if name.startswith("gemma4") else {"rope_parameters": kind, "rope_scaling": kind}
    with refused(
        UnsupportedModel, SOURCE, "rope scaling 'spiral' is not supported", "supported: deepseek_yarn"
    ):
        spec(changed(name, **given))


def test_the_kinds_of_rope_that_pass_are_those_that_are_computed():
    assert set(ROPE_KINDS) == set(rope._MAKERS)


def test_a_rope_of_two_kinds():
    given = {"type": "linear", "rope_type": "yarn", "factor": 2.0}
    with refused(DamagedModel, SOURCE, "rope scaling is of type 'linear' and of 'yarn'"):
        spec(changed("llama", rope_scaling=given))
    spec(
        changed("phi3-longrope", rope_scaling={**CONFIGS["phi3-longrope"]["rope_scaling"], "rope_type": "su"})
    )


# Of families that never look at it: every layer is of one kind there, or another key says which.
WITHOUT_LAYER_TYPES = {
    "phi3", "gemma2", "starcoder2", "deepseek_v2", "deepseek_v3", "minicpm3", "nemotron_h",
}  # fmt: skip


@pytest.mark.parametrize("family", [f for f in FIRST if f not in WITHOUT_LAYER_TYPES])
def test_an_unknown_kind_of_layer(family: str):
    name = FIRST[family]
    config = changed(name)
    count = config.get("text_config", config)["num_hidden_layers"]
    with refused(UnsupportedModel, SOURCE, "layer type 'chunked_attention' is not supported"):
        spec(changed(name, layer_types=["chunked_attention"] * count, full_attn_idxs=...))
    wrongs: list[Any] = [["full_attention"], "full_attention", [1] * count, {}]
    for wrong in wrongs:
        with refused(DamagedModel, SOURCE, f"layer_types must be a list of {count} names"):
            spec(changed(name, layer_types=wrong, full_attn_idxs=...))


@pytest.mark.parametrize("letters", ["M-X*", ["M", "nonsense"]])
def test_an_unknown_letter_of_nemotron(letters: Any):
    with refused(UnsupportedModel, SOURCE, "layer type", "is not supported"):
        spec(changed("nemotron_h", hybrid_override_pattern=letters, num_hidden_layers=len(letters)))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@pytest.mark.parametrize("activation", ["softmax_squared", 7, ["silu"], {}, "x\n" * 10**6])
def test_an_unknown_activation(family: Any, activation: Any):
    key = family.activation_key
    with refused(UnsupportedModel, SOURCE, f"{family.name} with {key}=", "is not supported"):
        spec(changed(FIRST[family.name], **{key: activation}))


# Numbers that contradict each other -----------------------------------------------------------------


# Latent attention has as many of the one as of the other; the key is there and nobody needs it.
@pytest.mark.parametrize("family", [f for f in FIRST if f not in ("deepseek_v2", "deepseek_v3", "minicpm3")])
def test_heads_that_do_not_divide(family: str):
    with refused(DamagedModel, SOURCE, "num_key_value_heads must be a divisor of num_attention_heads"):
        spec(changed(FIRST[family], num_key_value_heads=3))


WINDOWED = [
    "llama-sliding",
    "olmo3",
    "cohere2",
    "exaone4",
    "ministral3-sliding",
    "gemma3",
    "gemma3-multimodal",
]


@pytest.mark.parametrize("name", WINDOWED)
def test_a_window_that_is_missing(name: str):
    given = ... if name != "cohere2" else 0  # which has a default
    with refused(DamagedModel, SOURCE, "sliding_window"):
        spec(changed(name, sliding_window=given))


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "qwen3_moe", "qwen2_moe", "smollm3"])
def test_a_window_that_the_family_does_not_compute(name: str):
    with refused(UnsupportedModel, f"{SOURCE}: {name} with use_sliding_window=True is not supported"):
        spec(changed(name, use_sliding_window=True))
    with refused(DamagedModel, SOURCE, "use_sliding_window must be true or false"):
        spec(changed(name, use_sliding_window="yes"))


EXPERTS = {
    "mixtral": "num_local_experts", "qwen2_moe": "num_experts", "qwen3_moe": "num_experts",
    "olmoe": "num_experts", "gpt_oss": "num_local_experts", "glm4_moe": "n_routed_experts",
    "granitemoe": "num_local_experts", "v2": "n_routed_experts", "v3": "n_routed_experts",
    "lfm2_moe": "num_experts", "nemotron_h-mixture": "n_routed_experts", "gemma4-mixture": "num_experts",
    "qwen3_next-mixture": "num_experts", "granitemoehybrid-mixture": "num_local_experts",
}  # fmt: skip


@pytest.mark.parametrize("name", EXPERTS)
def test_more_experts_chosen_than_there_are(name: str):
    chosen = "top_k_experts" if name == "gemma4-mixture" else "num_experts_per_tok"
    with refused(DamagedModel, SOURCE, chosen):
        spec(changed(name, **{chosen: 1000}))


@pytest.mark.parametrize("name", EXPERTS)
@pytest.mark.parametrize("experts", [-1, 1.5, "8", [8], True])
def test_experts_that_are_no_number(name: str, experts: Any):
    with refused(DamagedModel, SOURCE, EXPERTS[name]):
        spec(changed(name, **{EXPERTS[name]: experts}))


@pytest.mark.parametrize(
    "name", ["qwen2_moe", "qwen3_moe", "olmoe", "glm4_moe", "lfm2_moe", "gemma4-mixture"]
)
def test_experts_that_are_missing(name: str):
    with refused(DamagedModel, SOURCE, f"{EXPERTS[name]} is missing"):
        spec(changed(name, **{EXPERTS[name]: ...}))


@pytest.mark.parametrize("shared", [6, 7, 5, -1, "3", True])
def test_more_layers_share_than_there_are(shared: Any):
    """Six layers, of which each third attends to everything: the fifth would leave a kind without any."""
    with refused(DamagedModel, SOURCE, "num_kv_shared_layers must be"):
        spec(changed("gemma4-per-layer", num_kv_shared_layers=shared))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("gemma", {"use_bidirectional_attention": True}, "gemma with use_bidirectional_attention=True"),
        ("gemma2", {"attention_bias": True}, "gemma2 with attention_bias=True"),
        ("gemma3", {"use_bidirectional_attention": True}, "with use_bidirectional_attention=True"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "gemma3_text with attn_logit_softcapping=50.0"),
        ("gemma4-dense", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention='all'"),
        ("gemma4-dense", {"layer_types": ["sliding_attention"] * 6}, "a sliding last layer"),
        ("v2", {"scoring_func": "sigmoid"}, "deepseek_v2 with scoring_func='sigmoid'"),
        ("v2", {"topk_method": "noaux_tc"}, "deepseek_v2 with topk_method='noaux_tc'"),
        ("v2", {"norm_topk_prob": True}, "deepseek_v2 with norm_topk_prob=True"),
        ("v3", {"scoring_func": "softmax"}, "deepseek_v3 with scoring_func='softmax'"),
        ("v3", {"topk_method": "greedy"}, "deepseek_v3 with topk_method='greedy'"),
        ("v3", {"rope_interleave": False}, "deepseek_v3 with rope_interleave=False"),
        ("glm4_moe", {"scoring_func": "softmax"}, "glm4_moe with scoring_func='softmax'"),
        ("gpt_oss", {"swiglu_limit": 3.0}, "gpt_oss with swiglu_limit=3.0"),
        ("gpt_oss", {"swiglu_alpha": 1.0}, "gpt_oss with swiglu_alpha=1.0"),
        ("olmoe", {"clip_qkv": 8.0}, "olmoe with clip_qkv=8.0"),
        ("minicpm", {"num_experts": 8}, "minicpm with num_experts=8"),
        ("minicpm", {"sparse_config": {"dense_len": 8192}}, "minicpm with sparse_config="),
        ("llama", {"partial_rotary_factor": 0.5}, "llama with partial_rotary_factor"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "llama with partial_rotary_factor"),
        ("granitemoehybrid", {"position_embedding_type": "alibi"}, "position_embedding_type='alibi'"),
    ],
)  # fmt: skip
def test_a_setting_that_would_compute_other_numbers(name: str, change: dict[str, Any], words: str):
    with refused(UnsupportedModel, SOURCE, words, "is not supported"):
        spec(changed(name, **change))


# What nobody thought of ------------------------------------------------------------------------------

EDGES: list[Any] = [
    None, True, False, 0, -1, 1, 3, 7, 96, 2**31 - 1, 2**31, 2**64, 10**400, 0.0, 0.5, 1e39, -1e300,
    math.nan, math.inf, "", "true", "64", "yarn", "longrope", "gelu", "\n", "\ud800",
    [], {}, [[]], [0], [-1, 1], ["full_attention"], {"a": {}}, {"full_attention": 3},
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a config, as a path of keys; of a list, its first item."""
    inner = (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    return [path] * bool(path) + [p for key, v in inner for p in places(v, (*path, key))]


def ropes(found: DecoderSpec) -> list[RopeSpec]:
    mixers = {id(layer.mixer): layer.mixer for layer in found.layers}.values()
    return [m.rope for m in mixers if isinstance(m, AttentionSpec | LatentSpec) and m.rope is not None]


def one_line_or_a_spec(config: dict[str, Any], key: str) -> None:
    try:
        found = spec(config)
        if "rope" in key or key in ("max_position_embeddings", "head_dim", "factor"):
            for own in ropes(found):
                rope.make_rope(own)
    except (DamagedModel, UnsupportedModel) as error:
        line = str(error)
        assert "\n" not in line and len(line) < 1500, line
        assert SOURCE in line or "config.json" in line or "architecture" in line, line
        return
    except MlxoneError as error:
        raise AssertionError(f"{key}: {error!r}") from error
    assert found.layers and isinstance(found.context_length, int | None)


# The first config of each family whole, of the others what the first does not have.
ONE_KEY = [
    (name, place)
    for name, config in CONFIGS.items()
    for place in places(config)
    if name in FIRST.values() or place not in places(CONFIGS[FIRST[family_of(Config(config)).name]])
]


@pytest.mark.parametrize("name", CONFIGS)
def test_each_key_through_the_edges(name: str):
    for place in [place for own, place in ONE_KEY if own == name]:
        for edge in EDGES:
            config = copy.deepcopy(CONFIGS[name])
            holder: Any = config
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = copy.deepcopy(edge)
            one_line_or_a_spec(config, ".".join(map(str, place)))


@pytest.mark.parametrize("name", FIRST.values())
def test_each_key_taken_away(name: str):
    for place in places(CONFIGS[name]):
        config = copy.deepcopy(CONFIGS[name])
        holder: Any = config
        for key in place[:-1]:
            holder = holder[key]
        del holder[place[-1]]
        one_line_or_a_spec(config, ".".join(map(str, place)))


# A key that every family's reader has to look at: no number of any size may be taken for granted.
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


@pytest.mark.parametrize("family", FIRST)
@pytest.mark.parametrize("key", SIZES)
def test_a_size_that_is_none(family: str, key: str):
    name = FIRST[family]
    nested = "text_config" in CONFIGS[name]
    for value in (0, -1, 2**31, 10**400, 4.0, True, "4", math.nan, [4], {"a": 1}):
        config = changed(name, **{key: value})
        if nested and key == "vocab_size":
            config["vocab_size"] = value  # the outer one counts
        with refused(DamagedModel, SOURCE, key):
            spec(config)


def test_configs_are_json():
    """What is changed here is what could stand in a file."""
    for config in CONFIGS.values():
        assert json.loads(json.dumps(config)) == config
