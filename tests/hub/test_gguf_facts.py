"""A GGUF file as plain numbers: small files made here, sums by hand, then nonsense."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxone.core.errors import DamagedModel, MlxoneError
from mlxone.core.facts import LayerFacts, ModelFacts
from mlxone.hub.gguf_facts import gguf_facts
from tests.models import gguf_files as g

F32, F16, Q4_0, Q8_0, Q6_K = 0, 1, 2, 8, 14
BLOCKS = {F32: (1, 4), F16: (1, 2), Q4_0: (32, 18), Q8_0: (32, 34), Q6_K: (256, 210)}
VOCABULARY = len(g.TOKENS)
# Two layers of 64: queries, keys and values of 2 heads of 16, output, and three matrices of 96.
LAYER = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 96 * 64
NORMS = 5 * 64


def write(
    folder: Path, tensors: dict[str, tuple[Sequence[int], int]], **changes: tuple[str, Any] | None
) -> Path:
    """The small llama's metadata with changes (dots as __), and tensors of no content."""
    metadata = {**g.LLAMA, **{key.replace("__", "."): value for key, value in changes.items()}}
    filled = {}
    for name, (shape, kind) in tensors.items():
        weights, size = BLOCKS[kind]
        filled[name] = (shape, kind, bytes(math.prod(shape) // weights * size))
    return g.write(folder / "m.gguf", g.gguf({k: v for k, v in metadata.items() if v}, filled))


def llama(kind: int, *, tied: bool = True, head: int | None = None) -> dict[str, tuple[Sequence[int], int]]:
    """Matrices of one kind, norms in float32."""
    found: dict[str, tuple[Sequence[int], int]]
    found = {name: (shape, kind if len(shape) > 1 else F32) for name, shape in g.shapes(tied=tied).items()}
    if head is not None:
        found["token_embd.weight"] = (g.shapes()["token_embd.weight"], head)
    return found


@pytest.mark.parametrize("kind", [Q4_0, Q8_0])
@pytest.mark.parametrize("tied", [True, False])
def test_sizes(tmp_path: Path, kind: int, tied: bool):
    found = gguf_facts(write(tmp_path, llama(kind, tied=tied)))
    embedding, (weights, size) = VOCABULARY * 64, BLOCKS[kind]
    matrices = embedding * (1 if tied else 2) + 2 * LAYER
    assert found.parameters == matrices + NORMS
    assert found.packed_parameters == matrices
    assert found.unpackable_parameters == NORMS
    assert found.language_bytes == matrices // weights * size + NORMS * 4
    assert found.wide_bytes == 4 * found.parameters
    # A table that is only looked up; where it is the head as well, all of it is read.
    assert found.lookup_bytes == (0 if tied else embedding // weights * size)
    assert (found.bits, found.mode) == ({Q4_0: 4, Q8_0: 8}[kind], "gguf")


def test_numbers(tmp_path: Path):
    found = gguf_facts(write(tmp_path, llama(Q4_0)))
    assert found.layers == (LayerFacts(2, "full", 2, 16, 16),)
    assert (found.model_type, found.hidden_size, found.intermediate_size) == ("llama", 64, 96)
    assert (found.heads, found.head_dim, found.vocab_size, found.context_length) == (4, 16, VOCABULARY, 512)
    assert (found.window, found.experts, found.sidecar_bytes) == (None, 0, 0)


def test_plain_weights(tmp_path: Path):
    found = gguf_facts(write(tmp_path, llama(F16)))
    assert (found.packed_parameters, found.mode) == (0, None)
    matrices = VOCABULARY * 64 + 2 * LAYER
    assert found.bits == round((16 * matrices + 32 * NORMS) / (matrices + NORMS), 2)


def test_bits_of_mixed_kinds_are_their_average(tmp_path: Path):
    found = gguf_facts(write(tmp_path, llama(Q4_0, head=Q8_0)))
    embedding = VOCABULARY * 64
    assert found.bits == round((8 * embedding + 4 * 2 * LAYER) / (embedding + 2 * LAYER), 2)


def test_head_sizes_of_their_own_and_a_window(tmp_path: Path):
    file = write(
        tmp_path, llama(Q4_0), llama__attention__key_length=("u32", 48),
        llama__attention__value_length=("u32", 24), llama__attention__sliding_window=("u32", 128),
        llama__attention__head_count_kv=None,
    )  # fmt: skip
    found = gguf_facts(file)
    # Which layers slide is not told: counted as full, which is never too little.
    assert (found.layers, found.window) == ((LayerFacts(2, "full", 4, 48, 24),), 128)


def test_experts(tmp_path: Path):
    tensors = llama(Q4_0) | {"blk.0.ffn_up_exps.weight": ((8, 96, 64), Q4_0)}
    found = gguf_facts(
        write(tmp_path, tensors, llama__expert_count=("u32", 8), llama__expert_used_count=("u32", 2))
    )
    stored = 8 * 96 * 64 // 32 * 18
    assert (found.experts, found.experts_per_token, found.expert_bytes) == (8, 2, stored)
    assert found.active_bytes == found.language_bytes - stored * 6 // 8


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.architecture", None), ("general.architecture", ("u32", 4)),
        ("general.architecture", ("str", "")), ("llama.block_count", None),
        ("llama.block_count", ("u32", 10_001)), ("llama.block_count", ("u32", 0)),
        ("llama.block_count", ("i32", -2)), ("llama.block_count", ("str", "two")),
        ("llama.block_count", ("u64", 2**63)), ("llama.embedding_length", None),
        ("llama.embedding_length", ("f32", 64.0)), ("llama.embedding_length", ("bool", True)),
    ],
)  # fmt: skip
def test_what_must_be_there_is_named(tmp_path: Path, key: str, value: tuple[str, Any] | None):
    with pytest.raises(DamagedModel) as caught:
        gguf_facts(write(tmp_path, llama(Q4_0), **{key.replace(".", "__"): value}))
    assert key in str(caught.value) and "m.gguf" in str(caught.value)


odd = st.sampled_from(
    [None, ("u32", 0), ("u32", 1), ("u32", 2**32 - 1), ("u64", 2**64 - 1), ("i64", -1), ("f32", math.inf),
     ("f32", 2.0), ("str", ""), ("str", "llama"), ("bool", True), ("[u32]", [1, 2]), ("u32", 10_000)]
)  # fmt: skip
keys = st.sampled_from(
    [*(k for k in g.LLAMA if not k.startswith("tokenizer")), "llama.attention.key_length",
     "llama.attention.value_length", "llama.attention.sliding_window", "llama.expert_count",
     "llama.expert_used_count", "general.alignment"]
)  # fmt: skip
shape = st.lists(st.sampled_from([1, 2, 32, 64]), max_size=4)
tensors = st.dictionaries(
    st.sampled_from(["token_embd.weight", "output.weight", "output_norm.weight", "blk.0.ffn_up_exps.weight"]),
    st.tuples(shape, st.sampled_from([F32, F16])), min_size=1,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(keys, odd, max_size=4), found=tensors, cut=st.integers(0, 3000))
def test_any_file_gives_facts_or_our_own_error(
    tmp_path: Path, changes: dict[str, Any], found: dict[str, Any], cut: int
):
    file = write(tmp_path, found, **{key.replace(".", "__"): value for key, value in changes.items()})
    if cut < 1000:
        file.write_bytes(file.read_bytes()[:-cut])
    try:
        facts = gguf_facts(file)
    except MlxoneError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        return
    assert 0 < facts.layer_count <= 10_000 and facts.experts_per_token <= facts.experts
    assert ModelFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
