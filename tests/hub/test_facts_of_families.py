"""What `hub` reads from a config agrees with what `models` builds from it, for every family."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mlxone.core.errors import MlxoneError
from mlxone.core.facts import LayerFacts, LayerKind, ModelFacts
from mlxone.formats.config import Config
from mlxone.hub.facts import facts_of
from mlxone.models.families.table import FAMILIES, spec_of
from mlxone.models.spec import (
    AttentionSpec,
    DecoderSpec,
    DenseAndExpertsSpec,
    DenseSpec,
    ExpertsSpec,
    FeedForwardSpec,
    GatedDeltaSpec,
    LatentSpec,
    LayerSpec,
    Mamba2Spec,
    ShortConvSpec,
)
from tests.fitting.families import EVERY, TINY

F32 = 4


def remembered(layer: LayerSpec, hidden: int) -> LayerFacts:
    """Of one layer, from how its parts use their states."""
    mixer = layer.mixer
    if mixer is None:
        return LayerFacts(1, "none")
    if isinstance(mixer, AttentionSpec):
        if mixer.shared:
            return LayerFacts(1, "shared")
        dim = mixer.head_dim
        kind: LayerKind = "full" if mixer.window is None else "sliding"
        return LayerFacts(1, kind, mixer.kv_heads, dim, dim, score_tables=3 if mixer.sinks else 1)
    if isinstance(mixer, LatentSpec):
        if not mixer.absorbed:
            return LayerFacts(1, "full", mixer.heads, mixer.plain_dim + mixer.rope_dim, mixer.value_dim)
        unfolded = mixer.heads * (mixer.plain_dim + mixer.value_dim)
        return LayerFacts(1, "full", 1, mixer.kv_rank, mixer.rope_dim, score_tables=2, unfolded=unfolded)
    return _recurrent(mixer, hidden)


def _recurrent(mixer: GatedDeltaSpec | Mamba2Spec | ShortConvSpec, hidden: int) -> LayerFacts:
    more: dict[str, Any] = {}
    if isinstance(mixer, ShortConvSpec):
        channels, state = hidden, 0
    elif isinstance(mixer, Mamba2Spec):
        channels = mixer.heads * mixer.head_dim + 2 * mixer.groups * mixer.state_size
        state, more = mixer.heads * mixer.head_dim * mixer.state_size, {"pair_heads": mixer.heads}
    else:
        channels = 2 * mixer.key_heads * mixer.key_dim + mixer.value_heads * mixer.value_dim
        state, more = mixer.value_heads * mixer.value_dim * mixer.key_dim, {"by_token": True}
    tail = (mixer.kernel - 1) * channels
    return LayerFacts(1, "recurrent", state_bytes=state * F32, tail=tail, channels=channels, **more)


def width(part: FeedForwardSpec | None) -> int:
    if isinstance(part, DenseAndExpertsSpec):
        return max(width(part.dense), width(part.experts))
    if isinstance(part, ExpertsSpec):
        return part.router.chosen * part.size + (part.shared.size if part.shared else 0)
    return part.size if isinstance(part, DenseSpec) else 0


def routers(spec: DecoderSpec) -> set[tuple[int, int]]:
    parts = [layer.feed_forward for layer in spec.layers]
    mixtures = [part.experts if isinstance(part, DenseAndExpertsSpec) else part for part in parts]
    return {(p.router.experts, p.router.chosen) for p in mixtures if isinstance(p, ExpertsSpec)}


def assert_agree(config: dict[str, Any], spec: DecoderSpec, found: ModelFacts) -> None:
    counted: Counter[LayerFacts] = Counter()
    for layer in found.layers:
        values = {name: getattr(layer, name) for name in LayerFacts.__dataclass_fields__}
        counted[LayerFacts(**values | {"count": 1})] += layer.count
    assert counted == Counter(remembered(layer, spec.hidden_size) for layer in spec.layers)
    windows = {m.window for layer in spec.layers if isinstance(m := layer.mixer, AttentionSpec) and m.window}
    assert windows <= {found.window}
    assert (found.hidden_size, found.vocab_size) == (spec.hidden_size, spec.vocab_size)
    assert found.context_length == spec.context_length
    assert routers(spec) <= {(found.experts, found.experts_per_token)}
    assert found.intermediate_size >= max(width(layer.feed_forward) for layer in spec.layers)


@pytest.mark.parametrize("name", EVERY)
def test_facts_and_spec_agree(name: str):
    config = EVERY[name]
    assert_agree(config, spec_of(Config(config)), facts_of(Config(config), [], {}))


@pytest.mark.parametrize("name", TINY)
def test_the_widest_layer_is_no_wider_than_it_is(name: str):
    config = TINY[name]
    spec = spec_of(Config(config))
    widest = max(width(layer.feed_forward) for layer in spec.layers)
    found = facts_of(Config(config), [], {}).intermediate_size
    stated = config.get("text_config", config)  # a dense size that no layer has counts as well
    assert found in {widest, stated.get("intermediate_size"), stated.get("block_ff_dim")}


def test_every_family_is_among_them():
    seen = {spec_of(Config(config)).family for config in EVERY.values()}
    assert seen >= {family.name for family in FAMILIES}


# A key less, or one more: what a missing key means is known on both sides.

LEFT_OUT = (
    "num_key_value_heads", "head_dim", "global_head_dim", "num_global_key_value_heads", "attention_k_eq_v",
    "layer_types", "sliding_window", "sliding_window_pattern", "num_kv_shared_layers", "vocab_size",
    "max_position_embeddings", "full_attention_interval", "full_attn_idxs", "num_hidden_layers",
    "use_double_wide_mlp", "enable_moe_block", "num_local_experts", "num_experts_per_tok",
    "v_head_dim", "n_shared_experts", "moe_latent_size", "hidden_size",
)  # fmt: skip
ADDED: dict[str, Any] = {
    "sliding_window": 77, "sliding_window_pattern": 2, "head_dim": 24, "num_kv_shared_layers": None,
    "global_head_dim": None,
}  # fmt: skip

WRITTEN = {"mamba": "linear_attention", "attention": "full_attention"}  # by transformers 5


def variations(config: dict[str, Any]) -> list[dict[str, Any]]:
    nested = "text_config" in config
    text = config["text_config"] if nested else config
    changed = [{k: v for k, v in text.items() if k != gone} for gone in LEFT_OUT if gone in text]
    changed += [{**text, key: value} for key, value in ADDED.items()]
    changed.append({**{k: v for k, v in text.items() if k != "head_dim"}, "attention_head_dim": 24})
    if isinstance(kinds := text.get("layer_types"), list):
        changed.append({**text, "layer_types": [WRITTEN.get(kind, kind) for kind in kinds]})
    if text["model_type"].startswith("gemma4"):
        changed.append({**text, "per_layer_config": {"1": {"head_dim": 48, "num_key_value_heads": 1}}})
    return [{**config, "text_config": each} if nested else each for each in changed]


@pytest.mark.parametrize("name", EVERY)
def test_what_a_config_leaves_out_means_the_same(name: str):
    compared = 0
    for config in variations(EVERY[name]):
        try:
            spec = spec_of(Config(config))
        except MlxoneError:
            continue  # it cannot be run
        assert_agree(config, spec, facts_of(Config(config), [], {}))
        compared += 1
    assert compared > 2
