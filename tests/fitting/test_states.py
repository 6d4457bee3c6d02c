"""Bytes of layer states: by hand at true size, and as the engine's own states really hold them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.backend.arrays import mx, on_stream
from mlxone.core.facts import LayerFacts, ModelFacts
from mlxone.fitting.states import ROOM, held_tokens, kv_bytes, layer_bytes
from mlxone.fitting.weights import element_bytes
from mlxone.fitting.work import Work
from mlxone.formats.config import Config
from mlxone.hub.facts import read_facts
from mlxone.kv.buffer import STEP
from mlxone.kv.state import ModelState
from mlxone.models.decoder import Decoder
from mlxone.models.loading import load_decoder
from tests.fitting.cases import models, true_size, with_layers, works
from tests.models import checkpoints as c

BF16 = 2


def kept(name: str, **work: Any) -> int:
    return kv_bytes(true_size(name), Work(**work), BF16)


# By hand ------------------------------------------------------------------------------------

# 40 sliding layers with 8 heads of 256, 8 full ones with 1 head of 512; a key and a value for each token.
SLIDING_12B, FULL_12B = 40 * 8 * (256 + 256), 8 * 1 * (512 + 512)


@pytest.mark.parametrize(
    ("context", "sliding", "full"),
    [
        (1, 256, 256),  # buffers grow by 256 tokens
        (256, 256, 256),
        (257, 512, 512),
        (1000, 1024, 1024),
        (1024, 1024, 1024),
        (1025, 1024, 1280),  # past the window only full layers go on growing
        (131_072, 1024, 131_072),
        (262_144, 1024, 262_144),
    ],
)
def test_gemma_keeps_a_window_and_a_few_full_layers(context: int, sliding: int, full: int):
    assert kept("gemma-4-12B", context=context) == (sliding * SLIDING_12B + full * FULL_12B) * BF16


def test_a_window_that_is_no_multiple_of_the_room():
    facts = with_layers(LayerFacts(1, "sliding", 1, 64, 64), window=300)
    each = (64 + 64) * BF16
    assert [kv_bytes(facts, Work(context=n), BF16) // each for n in (1, 257, 300, 5000)] == [
        256, 300, 300, 300,
    ]  # fmt: skip


def test_shared_layers_keep_nothing():
    # Of 42 layers of e4b, 18 look at what others keep: 20 sliding and 4 full ones remain.
    each = (512 * 20 * 2 * (256 + 256) + 8192 * 4 * 2 * (512 + 512)) * BF16
    assert kept("gemma-4-e4b", context=8192) == each


def test_recurrent_layers_keep_as_much_at_any_length():
    # Qwen3.5-4B: 24 states of 32 heads x 128 x 128 in float32, 3 tokens of 8192 channels; 8 attention layers.
    state = 24 * (32 * 128 * 128 * 4 + 3 * 8192 * BF16)
    for context in (256, 8192, 262_144):
        assert kept("Qwen3.5-4B", context=context) == state + 8 * context * 4 * (256 + 256) * BF16


def test_llama_70b_at_its_whole_context():
    # 80 layers x 8 heads x (128 + 128) x 2 bytes = 327,680 bytes a token: 42.9 GB.
    assert kept("Llama-3.3-70B", context=131_072) == 131_072 * 327_680 == 42_949_672_960


@pytest.mark.parametrize(("quant", "bits"), [("4", 4), ("8", 8)])
def test_quantized_values_and_their_scales(quant: Literal["4", "8"], bits: int):
    # A head's key has 128 values of so many bits, and two groups of 64 with a scale and a bias of 2 bytes.
    vector = 128 * bits // 8 + 2 * (2 + 2)
    assert kept("Llama-3.3-70B", context=8192, kv_quant=quant) == 8192 * 80 * 8 * 2 * vector


def test_widths_of_each_layers_own_count_only_when_asked_for():
    facts = with_layers(
        LayerFacts(3, "full", 2, 64, 64, kv_bits=8, kv_group=32),
        LayerFacts(4, "full", 2, 64, 64, kv_bits=4, kv_group=64),
        LayerFacts(5, "full", 2, 64, 64),
    )
    plain, eight, four = 64 * BF16, 64 + 2 * 4, 64 // 2 + 1 * 4  # of one key; the 8 bits in groups of 32
    assert kv_bytes(facts, Work(256, kv_quant="config"), BF16) == 256 * 2 * 2 * (
        3 * eight + 4 * four + 5 * plain
    )
    assert kv_bytes(facts, Work(256), BF16) == 256 * 2 * 2 * 12 * plain
    assert kv_bytes(facts, Work(256, kv_quant="4"), BF16) == 256 * 2 * 2 * 12 * four


def test_layers_without_memory():
    facts = with_layers(LayerFacts(7, "none"), LayerFacts(9, "shared"))
    assert kv_bytes(facts, Work(100_000, rows=8), BF16) == 0


def test_a_sliding_layer_of_a_model_that_names_no_window_keeps_all():
    facts = with_layers(LayerFacts(1, "sliding", 1, 64, 64))
    assert held_tokens(facts, facts.layers[0], 5000) == 5120


@given(models, works, st.integers(1, 5000))
def test_longer_wider_and_more_never_take_less(facts: ModelFacts, work: Work, more: int):
    bytes_of = kv_bytes(facts, work, BF16)
    assert kv_bytes(facts, replace(work, context=work.context + more), BF16) >= bytes_of
    assert kv_bytes(facts, replace(work, rows=work.rows + more), BF16) * work.rows == bytes_of * (
        work.rows + more
    )
    assert kv_bytes(facts, work, 4) >= bytes_of
    assert bytes_of == work.rows * sum(
        layer.count * layer_bytes(facts, layer, work, BF16) for layer in facts.layers
    )


# The engine's states ------------------------------------------------------------------------


def test_buffers_grow_by_the_step_that_the_arithmetic_believes():
    assert ROOM == STEP


SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": c.LLAMA,
    "mistral": c.LLAMA | SLIDING | {"model_type": "mistral", "sliding_window": 300},
    "qwen2": c.LLAMA | {"model_type": "qwen2"},
    "qwen3": c.QWEN3,
    "smollm3": c.LLAMA | {"model_type": "smollm3", "num_key_value_heads": 1},
}
FORMS = {"native": "stored", "wide": "wide", "packed": "packed"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {n: c.save(root / n, v, c.tensors(v, mx.bfloat16)) for n, v in FAMILIES.items()}


def read(decoder: Decoder, state: ModelState, length: int) -> int:
    """Takes in so many tokens at once; the bytes that are held then."""
    with on_stream():
        mx.eval(decoder.hidden(mx.zeros((1, length), mx.int32), state), state.arrays())
    return state.nbytes


def predicted(folder: Path, mode: str, context: int) -> int:
    facts = read_facts(folder, Config.read(folder))
    return kv_bytes(facts, Work(context), element_bytes(facts, FORMS[mode]))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", FORMS)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "smollm3"])
def test_full_layers_hold_what_was_predicted(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, family: str, mode: str
):
    monkeypatch.setenv("MLXONE_CPU", mode)
    decoder = load_decoder(folders[family])
    for length in (1, 255, 256, 257, 700):
        state = decoder.new_state()
        assert read(decoder, state, length) == predicted(folders[family], mode, length)
        assert read(decoder, state, 1) == predicted(folders[family], mode, length + 1)


@pytest.mark.parametrize("mode", FORMS)
def test_sliding_layers_hold_what_was_predicted(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, mode: str
):
    monkeypatch.setenv("MLXONE_CPU", mode)
    folder = folders["mistral"]
    decoder = load_decoder(folder)
    facts = read_facts(folder, Config.read(folder))
    assert {(layer.count, layer.kind) for layer in facts.layers} == {(2, "sliding"), (2, "full")}
    for length in (256, 300, 301, 512, 700):
        state = decoder.new_state()
        read(decoder, state, length)  # a chunk that was just read stands there beside the window
        assert read(decoder, state, 1) == predicted(folder, mode, length + 1)


def test_below_its_window_a_sliding_layer_is_at_most_one_room_off(folders: dict[str, Path]):
    # There it grows by a room from where the prompt ended, not to the next multiple.
    folder = folders["mistral"]
    decoder, facts = load_decoder(folder), read_facts(folders["mistral"], Config.read(folders["mistral"]))
    token = 2 * facts.layers[0].kv_heads * facts.layers[0].key_dim * 4 * facts.layers[0].count
    assert facts.layers[0].kind == "sliding"
    for length in (1, 10, 43, 100, 257, 299):
        state = decoder.new_state()
        read(decoder, state, length)
        held = read(decoder, state, 1)
        expected = predicted(folder, "wide", length + 1)
        assert expected <= held < expected + ROOM * token


def test_a_prompt_in_chunks_ends_up_as_predicted(folders: dict[str, Path]):
    decoder, state = load_decoder(folders["llama"]), None
    state = decoder.new_state()
    for _ in range(3):
        read(decoder, state, 256)
    assert state.nbytes == predicted(folders["llama"], "wide", 768)
