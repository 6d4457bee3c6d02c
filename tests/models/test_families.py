"""From a config to a spec: what each family reads, what it refuses, and rope settings."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlxone.backend.arrays import mx, on_stream
from mlxone.core.errors import DamagedModel, MlxoneError, UnsupportedModel
from mlxone.formats.config import Config
from mlxone.models.families.reading import MAX_LAYERS
from mlxone.models.families.table import BY_MODEL_TYPE, FAMILIES, family_of, spec_of
from mlxone.models.rope import make_rope
from mlxone.models.spec import AttentionSpec, DecoderSpec, DenseSpec, HeadNorm, NormSpec, RopeSpec
from tests.models.checkpoints import LLAMA, refused

COUNTS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN: dict[str, Any] = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


def config(**changes: Any) -> Config:
    """The tiny llama with changes; a change to `...` takes the key away."""
    values = {k: v for k, v in (LLAMA | changes).items() if v is not ...}
    return Config(values, source="the config")


def spec(**changes: Any) -> DecoderSpec:
    return spec_of(config(**changes))


def mixers_of(found: DecoderSpec) -> list[AttentionSpec]:
    mixers = [layer.mixer for layer in found.layers if isinstance(layer.mixer, AttentionSpec)]
    assert len(mixers) == len(found.layers)
    return mixers


def attention(**changes: Any) -> AttentionSpec:
    return mixers_of(spec(**changes))[0]


def dense(**changes: Any) -> DenseSpec:
    found = spec(**changes).layers[0].feed_forward
    assert isinstance(found, DenseSpec)
    return found


def rope_of(**changes: Any) -> RopeSpec:
    found = attention(**changes).rope
    assert found is not None
    return found


def test_a_plain_config():
    found = spec()
    assert (found.family, found.vocab_size, found.hidden_size) == ("llama", 96, 64)
    assert (found.norm, found.context_length, found.tied_head) == (NormSpec(1e-5), 512, False)
    rope = RopeSpec(dims=16, base=10000.0, trained_context=512)
    assert mixers_of(found) == [AttentionSpec(4, 2, 16, scale=0.25, rope=rope)] * 2
    assert [layer.feed_forward for layer in found.layers] == [DenseSpec(128)] * 2
    assert [layer.memory for layer in found.layers] == [0, 1]


@pytest.mark.parametrize("name", BY_MODEL_TYPE)
def test_every_model_type_has_one_family(name: str):
    assert family_of(config(model_type=name)) is BY_MODEL_TYPE[name]
    assert sum(name in family.model_types for family in FAMILIES) == 1


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "olmo2"])
def test_a_spec_says_its_family(name: str):
    assert spec(model_type=name).family == BY_MODEL_TYPE[name].name


# What transformers' configuration classes leave out when it is the default.
@pytest.mark.parametrize(
    ("name", "base", "biases"),
    [
        ("llama", 10000.0, (False, False)),
        ("mistral", 10000.0, (False, False)),
        ("qwen2", 1_000_000.0, (True, False)),
        ("smollm3", 10000.0, (False, False)),
    ],
)
def test_defaults_and_departures_of_a_family(name: str, base: float, biases: tuple[bool, bool]):
    changes: dict[str, Any] = {"model_type": name, "tie_word_embeddings": ..., "rope_theta": ...}
    own = attention(**changes)
    assert spec(**changes).tied_head is None, "the checkpoint decides"
    assert own.head_norm is None
    assert (own.qkv_bias, own.out_bias) == biases
    assert own.rope is not None and own.rope.base == base


def test_qwen3_has_norms_and_no_defaults():
    assert attention(model_type="qwen3", head_dim=32).head_norm == HeadNorm(NormSpec(1e-5))
    assert not spec(model_type="qwen3", tie_word_embeddings=...).tied_head
    with refused(DamagedModel, "the config: rope_theta is missing"):
        spec(model_type="qwen3", rope_theta=...)


def test_optional_keys():
    assert attention(num_key_value_heads=...).kv_heads == 4
    assert spec(max_position_embeddings=...).context_length is None
    assert spec(model_type="qwen2", max_position_embeddings=...).context_length == 32768
    assert attention(head_dim=32).head_dim == 32
    assert attention(model_type="qwen2", head_dim=32).head_dim == 16, "qwen2 has no such key"
    changes = {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
    own = attention(**changes)
    assert own.qkv_bias and own.out_bias and dense(**changes).bias and spec(**changes).tied_head
    other = attention(model_type="qwen2", attention_bias=True)
    assert other.qkv_bias and not other.out_bias, "there the family decides"
    assert spec(hidden_act="swish") == spec(hidden_act="silu") == spec()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("qwen33", "nearest: qwen3"), ("lama", "nearest: llama"), ("mistrel", "nearest: mistral")],
)
def test_an_unknown_architecture_is_named_beside_the_known(name: str, nearest: str):
    known = f"supported: {', '.join(sorted(BY_MODEL_TYPE))}"
    with refused(UnsupportedModel, f"architecture {name!r} is not supported", nearest, known):
        spec(model_type=name)
    with pytest.raises(UnsupportedModel) as caught:
        spec(model_type=name)
    assert caught.value.hint.index("nearest") < caught.value.hint.index("supported")


def test_an_unknown_architecture_like_none():
    with pytest.raises(UnsupportedModel) as caught:
        spec(model_type="\n" + "z" * 10**6)
    assert caught.value.hint.startswith("supported: ")
    with refused(UnsupportedModel, "architecture '\\nzzz"):
        raise caught.value


@pytest.mark.parametrize("value", [..., None, 7, ["llama"], {}, True])
def test_no_architecture_at_all(value: Any):
    with refused(DamagedModel, "the config: model_type must be the name of an architecture"):
        spec(model_type=value)


@pytest.mark.parametrize("key", COUNTS)
def test_a_size_that_is_missing_or_no_size(key: str):
    with refused(DamagedModel, f"the config: {key} is missing"):
        spec(**{key: ...})
    values: list[Any] = [0, -1, 2**31, 10**400, 4.0, True, "4", math.nan, [4], {"a": 1}]
    for value in values:
        with refused(DamagedModel, f"the config: {key} must be a whole number from 1 to"):
            spec(**{key: value})


@pytest.mark.parametrize("key", ["num_key_value_heads", "head_dim", "max_position_embeddings"])
@pytest.mark.parametrize("value", [0, -1, 2**31, 1.5, True, "4", math.inf])
def test_an_optional_size_that_is_none(key: str, value: Any):
    with refused(DamagedModel, f"the config: {key} must be a whole number from 1 to"):
        spec(**{key: value})


@pytest.mark.parametrize("value", [0, -1e-5, True, "1e-5", math.nan, math.inf, 10**400, 1e39])
@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta"])
def test_a_number_that_has_to_be_positive(key: str, value: Any):
    with refused(DamagedModel, f"the config: {key} must be a"):
        spec(**{key: value})


@pytest.mark.parametrize("key", ["tie_word_embeddings", "attention_bias", "mlp_bias", "rope_traditional"])
def test_a_switch_that_is_none(key: str):
    values: list[Any] = [1, 0, "true", []]
    for value in values:
        with refused(DamagedModel, f"the config: {key} must be true or false"):
            spec(**{key: value})


def test_the_number_of_layers_is_bounded_before_lists_are_made():
    assert len(spec(num_hidden_layers=MAX_LAYERS).layers) == MAX_LAYERS
    with refused(DamagedModel, f"num_hidden_layers must be a whole number from 1 to {MAX_LAYERS}"):
        spec(num_hidden_layers=2**31 - 1)


def test_heads_that_do_not_divide():
    with refused(DamagedModel, "num_key_value_heads must be a divisor of num_attention_heads (4), not 3"):
        spec(num_key_value_heads=3)
    with refused(DamagedModel, "num_key_value_heads must be a divisor of num_attention_heads (4), not 8"):
        spec(num_key_value_heads=8)
    for heads in (3, 128):
        with refused(DamagedModel, f"num_attention_heads must be a divisor of hidden_size (64), not {heads}"):
            spec(num_attention_heads=heads, num_key_value_heads=1)
    assert attention(num_attention_heads=3, num_key_value_heads=1, head_dim=16).head_dim == 16


@pytest.mark.parametrize("changes", [{"head_dim": 7}, {"hidden_size": 60}])
def test_an_odd_head_cannot_be_rotated(changes: dict[str, Any]):
    dims = changes.get("head_dim", 15)
    with refused(
        DamagedModel, f"the config: rotary positions over {dims} of the {dims} dimensions of a head",
        "they need an even number",
    ):  # fmt: skip
        spec(**changes)


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_a_sliding_window_the_family_does_not_compute_is_refused(name: str):
    with refused(UnsupportedModel, f"the config: {name} with use_sliding_window=True is not supported"):
        spec(model_type=name, use_sliding_window=True)
    assert attention(model_type=name, use_sliding_window=False, sliding_window=64).window is None


@pytest.mark.parametrize("value", ["gelu", "relu", 1, ["silu"], "x" * 10**6])
def test_another_activation_is_refused(value: Any):
    with refused(UnsupportedModel, "the config: llama with hidden_act=", repr(str(value)[:40])):
        spec(hidden_act=value)


def test_layer_types():
    found = spec(layer_types=["full_attention", "sliding_attention"], sliding_window=32)
    assert [own.window for own in mixers_of(found)] == [None, 32]
    assert attention(sliding_window=32).window is None, "no layer is said to slide"
    with refused(DamagedModel, "the config: sliding_window is missing"):
        spec(layer_types=["full_attention", "sliding_attention"])
    with refused(UnsupportedModel, "the config: layer type 'chunked_attention' is not supported"):
        spec(layer_types=["full_attention", "chunked_attention"])


@pytest.mark.parametrize("value", ["full_attention", ["full_attention"], [1, 2], {}, [[], []], True])
def test_layer_types_that_are_no_list_of_names(value: Any):
    with refused(DamagedModel, "the config: layer_types must be a list of 2 names"):
        spec(layer_types=value)


def test_smollm3_leaves_out_rope_in_some_layers():
    def rotated(**changes: Any) -> list[bool]:
        found = spec(model_type="smollm3", num_hidden_layers=8, **changes)
        return [own.rope is not None for own in mixers_of(found)]

    assert rotated() == [True, True, True, False] * 2
    assert rotated(no_rope_layer_interval=3) == [True, True, False] * 2 + [True, True]
    assert rotated(no_rope_layers=[0, 1] * 4) == [False, True] * 4
    wrongs: list[Any] = [[1], "11111111", {}, 8]
    for wrong in wrongs:
        with refused(DamagedModel, "the config: no_rope_layers must be a list of 8 values"):
            rotated(no_rope_layers=wrong)
    with refused(DamagedModel, "the config: no_rope_layer_interval must be a whole number from 1"):
        rotated(no_rope_layer_interval=0)
    assert all(own.rope for own in mixers_of(spec(no_rope_layers=[0, 0]))), "another family has no such key"


# Rope ---------------------------------------------------------------------------------------


def test_the_two_places_of_rope_settings_say_the_same():
    """transformers 5 nests both keys under `rope_parameters`."""
    older = rope_of(rope_theta=5e5, rope_scaling=LLAMA3)
    newer = rope_of(rope_theta=..., rope_parameters=LLAMA3 | {"rope_theta": 5e5})
    assert (older.base, newer.base) == (5e5, 5e5)
    x = mx.random.normal((1, 2, 5, 16))
    with on_stream():
        assert mx.array_equal(make_rope(older)(x, 9), make_rope(newer)(x, 9))


def test_the_nested_settings_win_over_the_older_place():
    assert rope_of(rope_theta=1e4, rope_parameters={"rope_theta": 5e5, "rope_type": "default"}).base == 5e5
    assert rope_of(rope_theta=1e4, rope_parameters={"rope_theta": None, "rope_type": "default"}).base == 1e4
    assert rope_of(rope_theta=..., rope_parameters={"rope_type": "default"}).base == 10000.0


@pytest.mark.parametrize("value", [0, -1, "1e4", math.nan, math.inf, 10**400, True, []])
def test_a_nested_base_that_is_none(value: Any):
    with refused(DamagedModel, "the config: rope_parameters: rope_theta must be"):
        spec(rope_parameters={"rope_theta": value})


def test_settings_per_kind_of_layer():
    per_kind: dict[str, Any] = {
        "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
        "sliding_attention": LLAMA3 | {"rope_theta": 1e4},
    }
    both = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8}
    ropes = [own.rope for own in mixers_of(spec(rope_parameters=per_kind, **both))]
    assert [(rope.base, rope.scaling.get("rope_type")) for rope in ropes if rope is not None] == [
        (1e6, "default"),
        (1e4, "llama3"),
    ]
    del per_kind["sliding_attention"]
    assert rope_of(rope_parameters=per_kind).base == 1e6, "no layer slides"
    with refused(UnsupportedModel, "llama with rope_parameters without sliding_attention is not supported"):
        spec(rope_parameters=per_kind, **both)


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("value", [[], "linear", 2, True])
def test_rope_settings_that_are_no_object(key: str, value: Any):
    with refused(DamagedModel, f"the config: {key} must be an object"):
        spec(**{key: value})


@pytest.mark.parametrize("kind", ["longrope2", "", 7, ["linear"], "x\n" * 50])
def test_an_unknown_rope_is_named_beside_the_known(kind: Any):
    known = ("(supported: ", "default, dynamic, linear, llama3, longrope, ", " yarn)")
    with refused(UnsupportedModel, f"rope scaling {str(kind)[:40]!r} is not supported", *known):
        make_rope(rope_of(rope_scaling={"rope_type": kind, "factor": 2.0}))


BAD_NUMBERS: list[Any] = ["2", True, [2], math.nan, math.inf, 10**400, 0, -2, 1e-300, 1e300]
SCALING: dict[str, dict[str, Any]] = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "llama3": LLAMA3,
    "yarn": YARN | {"beta_fast": 32, "beta_slow": 1},
}
NUMBERS = [(kind, key) for kind, values in SCALING.items() for key in values if not key.endswith("type")]


@pytest.mark.parametrize(("kind", "key"), NUMBERS)
@pytest.mark.parametrize("value", BAD_NUMBERS, ids=lambda v: str(v)[:9])
def test_a_rope_number_that_is_none(kind: str, key: str, value: Any):
    scaling = SCALING[kind] | {"rope_type": kind, key: value}
    with refused(DamagedModel, f"config.json: rope_scaling.{key} must be"):
        make_rope(rope_of(rope_scaling=scaling))


@pytest.mark.parametrize("kind", SCALING)
def test_a_missing_factor(kind: str):
    scaling = {k: v for k, v in SCALING[kind].items() if k != "factor"}
    for missing in (scaling, scaling | {"factor": None}):
        with refused(DamagedModel, "config.json: rope_scaling.factor must be a number"):
            make_rope(rope_of(rope_scaling=missing | {"rope_type": kind}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "low_freq_factor < high_freq_factor"),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": 5.0}}, "low_freq_factor < high_freq_factor"),
        ({"rope_scaling": YARN, "rope_theta": 1.0}, "yarn rope scaling needs a rope_theta above 1"),
        ({"rope_scaling": YARN, "rope_theta": 0.5}, "yarn rope scaling needs a rope_theta above 1"),
        ({"rope_scaling": YARN | {"mscale_all_dim": -1 / (0.1 * math.log(4))}}, "mscale"),
        ({"rope_scaling": YARN | {"mscale_all_dim": "1"}}, "rope_scaling.mscale_all_dim must be a number"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": ...},
            "dynamic rope scaling needs max_position_embeddings",
        ),
    ],
)
def test_rope_numbers_that_contradict_each_other(changes: dict[str, Any], words: str):
    with refused(DamagedModel, "config.json", words):
        make_rope(rope_of(**changes))


@pytest.mark.parametrize("kind", SCALING)
@pytest.mark.parametrize("base", [10_000, 10**10, 10**20, 2, 1e-30])
def test_any_base_that_is_accepted_can_be_computed(kind: str, base: float):
    """A whole number beyond 64 bits is a base like any other."""
    x = mx.random.normal((1, 2, 5, 16))
    try:
        rope = make_rope(rope_of(rope_theta=base, rope_scaling=SCALING[kind] | {"rope_type": kind}))
    except MlxoneError:
        assert base < 1 and kind == "yarn"
        return
    with on_stream():
        mx.eval(rope(x, 3), rope(x, 10**6))


@pytest.mark.parametrize("factor", [1e-6, 0.5, 1, 3, 1e12])
def test_any_factor_that_is_accepted_can_be_computed(factor: float):
    x = mx.random.normal((1, 2, 5, 16))
    for kind, scaling in SCALING.items():
        rope = make_rope(rope_of(rope_scaling=scaling | {"rope_type": kind, "factor": factor}))
        with on_stream():
            mx.eval(rope(x, 0), rope(x, 10**6))
