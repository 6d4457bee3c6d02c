"""Plain numbers about a model: what one token reads, and the way to JSON and back."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.facts import LayerFacts, LayerKind, ModelFacts

counts = st.integers(0, 2**62)
maybe = st.none() | counts
LAYERS = st.builds(
    LayerFacts,
    count=counts,
    kind=st.sampled_from(get_args(LayerKind)),
    kv_heads=counts,
    key_dim=counts,
    value_dim=counts,
    state_bytes=counts,
    tail=counts,
    kv_bits=maybe,
    kv_group=counts,
    score_tables=counts,
    unfolded=counts,
    channels=counts,
    by_token=st.booleans(),
    pair_heads=counts,
)
# Drawn by name, so that a field that is added is drawn as well.
KINDS: dict[str, Any] = {
    "model_type": st.text(),
    "layers": st.lists(LAYERS, max_size=3).map(tuple),
    "window": maybe,
    "context_length": maybe,
    "bits": st.none() | st.floats(0, 64),
    "group_size": maybe,
    "mode": st.none() | st.text(),
}
FACTS = st.builds(ModelFacts, **{f.name: KINDS.get(f.name, counts) for f in fields(ModelFacts)})


@given(FACTS)
def test_there_and_back(facts: ModelFacts):
    assert ModelFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


@given(FACTS)
def test_json_holds_every_field(facts: ModelFacts):
    assert facts.to_json().keys() == {field.name for field in fields(ModelFacts)}
    assert list(facts.to_json()["layers"]) == [asdict(layer) for layer in facts.layers]


@pytest.mark.parametrize("change", [{"colour": "red"}, {"parameters": ...}])
def test_json_of_another_version_is_not_taken_for_ours(change: dict[str, Any]):
    values = MIXTURE.to_json() | change
    with pytest.raises(TypeError):
        ModelFacts.from_json({k: v for k, v in values.items() if v is not ...})


MIXTURE = ModelFacts(
    model_type="mixture",
    layers=(LayerFacts(3, "full", 2, 64, 64), LayerFacts(9, "sliding", 2, 64, 64)),
    hidden_size=64,
    intermediate_size=64,
    heads=4,
    head_dim=64,
    vocab_size=100,
    parameters=1000,
    language_bytes=2000,
    wide_bytes=4000,
    unpackable_parameters=0,
    lookup_bytes=300,
    expert_bytes=1600,
    experts=16,
    experts_per_token=4,
)


def test_a_token_reads_neither_the_table_it_looks_up_in_nor_experts_it_is_not_sent_to():
    assert MIXTURE.active_bytes == 2000 - 300 - 1600 * 12 // 16
    assert MIXTURE.active_share == (2000 - 300 - 1200) / 2000
    assert MIXTURE.layer_count == 12


def test_all_experts_are_read_when_all_are_chosen_and_none_where_there_are_none():
    assert replace(MIXTURE, experts_per_token=16).active_bytes == 2000 - 300
    dense = replace(MIXTURE, experts=0, experts_per_token=0, expert_bytes=0, lookup_bytes=0)
    assert (dense.active_bytes, dense.active_share) == (2000, 1.0)


def test_a_model_without_weights_divides_nothing():
    nothing = replace(MIXTURE, language_bytes=0, expert_bytes=0, lookup_bytes=0)
    assert (nothing.active_bytes, nothing.active_share) == (0, 1.0)
