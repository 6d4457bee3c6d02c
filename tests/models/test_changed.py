"""A changed model shares with its base all that no change names, and is found by paths alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.random_models import save_random_model
from mlxone.backend import cpu
from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.core.errors import AdapterMismatch
from mlxone.models.changed import changed_block, changed_decoder, leaves_of, linears_of, norms_of
from mlxone.models.changes import Changes, LowRank, Replaced
from mlxone.models.decoder import Decoder
from mlxone.models.layers import join
from mlxone.models.loading import load_decoder
from tests.models.checkpoints import LLAMA, QWEN3, packed, refused, save, shapes, tensors
from tests.models.tiny_families import CONFIGS
from tests.models.tuned import answers

UP = "model.layers.1.mlp.up_proj"
Q = "model.layers.1.self_attn.q_proj"


def four_bits(path: str) -> tuple[int, int, str] | None:
    return None if path.endswith("v_proj") else (32, 4, "affine")


def loaded(folder: Path, config: dict[str, Any] = LLAMA, *, quantized: bool = False) -> Decoder:
    arrays = tensors(config)
    if quantized:
        config, arrays = config | {"quantization": {"group_size": 32, "bits": 4}}, packed(arrays, four_bits)
    return load_decoder(save(folder, config, arrays))


def low_rank(decoder: Decoder, *paths: str) -> Changes:
    with on_stream():
        mx.random.seed(2)
        return {
            path: (LowRank(mx.random.normal((f.in_dims, 2)), mx.random.normal((2, f.out_dims)), 1.0),)
            for path, f in linears_of(decoder).items()
            if path in paths
        }


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3", "smollm3"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_matrix_and_norm_of_a_checkpoint_is_there(tmp_path: Path, name: str, tied: bool):
    config = (QWEN3 if name == "qwen3" else LLAMA) | {"model_type": name, "tie_word_embeddings": tied}
    decoder = loaded(tmp_path, config)
    wanted = {n.removesuffix(".weight"): s for n, s in shapes(config).items() if n.endswith(".weight")}
    wanted.pop("model.embed_tokens")
    assert {p: (f.out_dims, f.in_dims) for p, f in linears_of(decoder).items()} == {
        path: shape for path, shape in wanted.items() if len(shape) == 2
    }
    assert {p: n.stored.shape for p, n in norms_of(decoder).items()} == {
        path: shape for path, shape in wanted.items() if len(shape) == 1
    }
    assert all(f.bits is None for f in linears_of(decoder).values())


@pytest.mark.parametrize("form", ["wide", "packed", "stored"])
def test_the_bits_are_the_checkpoints_whatever_the_weights_are_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
):
    monkeypatch.setattr(cpu, "weight_form", lambda *a, **k: form)
    decoder = loaded(tmp_path, quantized=True)
    bits = {path: facts.bits for path, facts in linears_of(decoder).items()}
    assert bits == {path: None if path.endswith("v_proj") else 4 for path in bits}
    with lock, on_stream():
        original = tensors(LLAMA)
        for path, leaf in leaves_of(decoder).items():
            assert leaf.dense().shape == original[f"{path}.weight"].shape
            assert mx.abs(leaf.dense() - original[f"{path}.weight"]).max() < 0.1


def test_only_what_is_named_is_another_object(tmp_path: Path):
    base = loaded(tmp_path)
    new = changed_decoder(base, low_rank(base, UP))
    assert new.blocks[0] is base.blocks[0] and new.blocks[1] is not base.blocks[1]
    old: Any = base.blocks[1]
    changed: Any = new.blocks[1]
    assert changed.mixer is old.mixer and changed.feed_forward.down is old.feed_forward.down
    assert changed.feed_forward_norm is old.feed_forward_norm and type(changed) is type(old)
    assert (new.embedding, new.head, new.norm) == (base.embedding, base.head, base.norm)
    assert {id(a) for a in base.arrays()} <= {id(a) for a in new.arrays()}


def test_the_base_answers_as_before_and_the_changed_one_otherwise(tmp_path: Path):
    base = loaded(tmp_path, quantized=True)
    before = answers(base)
    changed = changed_decoder(base, low_rank(base, UP, Q))
    assert not mx.allclose(answers(changed), before, atol=1e-2)
    assert mx.array_equal(answers(base), before)


def test_each_path_alone_changes_the_answer(tmp_path: Path):
    base = loaded(tmp_path, QWEN3)
    before = answers(base)
    for path in linears_of(base):
        changed = changed_decoder(base, low_rank(base, path))
        assert not mx.allclose(answers(changed), before, atol=1e-3), path
    for path, norm in norms_of(base).items():
        changed = changed_decoder(base, {path: (Replaced(-norm.stored),)})
        assert not mx.allclose(answers(changed), before, atol=1e-3), path


# A config with each kind of part: fused projections, parallel parts, inputs for each layer, experts with a
# shared one and beside a dense part, latent attention of both kinds, and what is recurrent.
EVERY_PART = (
    "phi3", "cohere2", "gemma4-multimodal", "gemma4-unified", "qwen2_moe", "v2", "v3", "qwen3_next",
    "qwen3_5", "nemotron_h", "lfm2",
)  # fmt: skip


@pytest.mark.parametrize("name", EVERY_PART)
def test_each_path_of_every_part_changes_the_answer(tmp_path: Path, name: str):
    save_random_model(tmp_path / "m", CONFIGS[name], dtype=mx.float32)
    base = load_decoder(tmp_path / "m")
    before = answers(base)
    for path in linears_of(base):
        changed = changed_decoder(base, low_rank(base, path))
        assert not mx.array_equal(answers(changed), before), path
    for path, norm in norms_of(base).items():
        changed = changed_decoder(base, {path: (Replaced(-norm.stored),)})
        assert not mx.array_equal(answers(changed), before), path
    assert mx.array_equal(answers(base), before)


def test_joined_or_apart_a_model_answers_alike(tmp_path: Path):
    """As on a GPU, where what reads the same input is one product."""
    base = loaded(tmp_path)
    changes = low_rank(base, *linears_of(base))
    apart = answers(changed_decoder(base, changes))
    with on_stream():
        blocks: list[Any] = base.blocks
        for block in blocks:
            block.mixer.qkv = join(block.mixer.qkv.leaves())
            block.feed_forward.gate_up = join(block.feed_forward.gate_up.leaves())
    assert list(linears_of(base)) == list(changes)
    assert mx.allclose(answers(changed_decoder(base, changes)), apart, atol=1e-4)


def test_no_change_is_the_same_object(tmp_path: Path):
    base = loaded(tmp_path)
    assert changed_decoder(base, {}) is base
    assert changed_decoder(base, {UP: (), "model.norm": (), "model.nowhere": ()}) is base
    assert changed_block(base.blocks[0], {}) is base.blocks[0]


@pytest.mark.parametrize("path", ["model.layers.2.mlp.up_proj", "model.embed_tokens", "mlp.up_proj", ""])
def test_a_path_that_is_none_is_named(tmp_path: Path, path: str):
    base = loaded(tmp_path)
    changes = low_rank(base, UP)
    with refused(AdapterMismatch, f"no linear or norm {path!r}"):
        changed_decoder(base, {**changes, path: changes[UP]})


def test_a_tied_head_has_no_path(tmp_path: Path):
    base = loaded(tmp_path, LLAMA | {"tie_word_embeddings": True})
    assert "" not in linears_of(base) and "lm_head" not in linears_of(base)


def test_a_block_by_itself(tmp_path: Path):
    base = loaded(tmp_path)
    changes = low_rank(base, UP, Q)
    block = changed_block(base.blocks[1], changes)
    assert block is not base.blocks[1] and set(changes) <= set(linears_of(block))
    with refused(AdapterMismatch, repr(min(UP, Q)), "and 1 more"):
        changed_block(base.blocks[0], changes)


def test_before_and_after_the_weights_are_in_memory(tmp_path: Path):
    unread, read = loaded(tmp_path), loaded(tmp_path)
    read.materialize()
    one, two = (answers(changed_decoder(base, low_rank(base, UP))) for base in (unread, read))
    assert mx.array_equal(one, two) and mx.array_equal(answers(unread), answers(read))
