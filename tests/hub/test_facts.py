"""A model folder as plain numbers: models of true size against sums worked out by hand."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxone.core.facts import LayerFacts, ModelFacts
from mlxone.formats.config import Config
from mlxone.formats.safetensors import TensorInfo
from mlxone.hub.facts import facts_of, read_facts
from tests.sparse import CONFIGS, Tensor, packed, shapes, write_model, write_weights

BF16 = 2
GROUP = 64
SCALES = 2 * BF16  # a scale and a bias for each group


class Hand:
    """What a model consists of, counted from its published shapes: elements of its tensors."""

    def __init__(self, *, matrices: int, plain: int, lookup: int = 0, experts: int = 0, towers: int = 0):
        self.matrices, self.plain, self.lookup, self.experts = matrices, plain, lookup, experts
        self.towers = towers  # beside the language model, never packed

    def stored(self, elements: int, bits: int | None) -> int:
        """Bytes of matrices of so many elements."""
        return elements * BF16 if bits is None else elements * bits // 8 + elements // GROUP * SCALES


# 48 layers, each sixth full: 40 sliding ones with 8 key-value heads of 256, 8 full ones with one of 512
# that gives keys and values both. 16 heads of queries. Embeddings serve as the head.
GEMMA_12B = Hand(
    matrices=262_144 * 3840
    + 40 * (2 * 3840 * (16 * 256) + 2 * 3840 * (8 * 256))
    + 8 * (2 * 3840 * (16 * 512) + 1 * 3840 * (1 * 512))
    + 48 * 3 * 3840 * 15_360,
    plain=(48 * 2 + 1) * 3840,
    towers=8 * 1152 * (4 * 1152),
)
# 30 layers: 25 sliding, 5 full with 2 key-value heads. Beside a dense feed-forward layer of 2112, 128
# experts of 704 and the gate that chooses 8.
GEMMA_26B_EXPERTS = 30 * 128 * 3 * 2816 * 704
GEMMA_26B = Hand(
    matrices=262_144 * 2816
    + 25 * (2 * 2816 * (16 * 256) + 2 * 2816 * (8 * 256))
    + 5 * (2 * 2816 * (16 * 512) + 1 * 2816 * (2 * 512))
    + 30 * 3 * 2816 * 2112
    + 30 * 128 * 2816
    + GEMMA_26B_EXPERTS,
    plain=(30 * 2 + 1) * 2816,
    experts=GEMMA_26B_EXPERTS,
    towers=8 * 1152 * (4 * 1152),
)
# 42 layers, 7 of them full; the last 18 (15 sliding, 3 full) have no keys and values of their own. A second
# embedding holds 256 numbers for each layer.
GEMMA_E4B = Hand(
    matrices=262_144 * 2560
    + 262_144 * (42 * 256)
    + (42 * 256) * 2560
    + 35 * 2 * 2560 * (8 * 256)
    + 7 * 2 * 2560 * (8 * 512)
    + 20 * 2 * 2560 * (2 * 256)
    + 4 * 2 * 2560 * (2 * 512)
    + 42 * 3 * 2560 * 10_240,
    plain=(42 * 2 + 1) * 2560,
    lookup=262_144 * (42 * 256),
    towers=8 * 1152 * (4 * 1152),
)
# 32 layers, each fourth with attention, whose queries carry a gate of their size; the others with 32 value
# heads and 16 query and key heads of 128, a convolution over 4 tokens and one number for each head.
QWEN_4B = Hand(
    matrices=248_320 * 2560
    + 8 * (3 * 2560 * (16 * 256) + 2 * 2560 * (4 * 256))
    + 24 * 2560 * ((2 * 16 * 128 + 32 * 128) + 2 * (32 * 128))
    + 32 * 3 * 2560 * 9216,
    plain=(32 * 2 + 1) * 2560 + 24 * ((2 * 16 * 128 + 32 * 128) * 4 + 32),
    towers=8 * 1024 * (4 * 1024),
)
# 40 layers, 10 with attention; 256 experts of 512 and one that all tokens share. A head of its own.
QWEN_35B_EXPERTS = 40 * 256 * 3 * 2048 * 512
QWEN_35B = Hand(
    matrices=2 * 248_320 * 2048
    + 10 * (3 * 2048 * (16 * 256) + 2 * 2048 * (2 * 256))
    + 30 * 2048 * ((2 * 16 * 128 + 32 * 128) + 2 * (32 * 128))
    + 40 * 3 * 2048 * 512
    + 40 * 256 * 2048
    + QWEN_35B_EXPERTS,
    plain=(40 * 2 + 1) * 2048 + 30 * ((2 * 16 * 128 + 32 * 128) * 4 + 32),
    lookup=248_320 * 2048,
    experts=QWEN_35B_EXPERTS,
    towers=8 * 1024 * (4 * 1024),
)
LLAMA_70B = Hand(
    matrices=2 * 128_256 * 8192 + 80 * (2 * 8192 * (64 * 128) + 2 * 8192 * (8 * 128) + 3 * 8192 * 28_672),
    plain=(80 * 2 + 1) * 8192,
    lookup=128_256 * 8192,
)
HANDS = {
    "gemma-4-12B": GEMMA_12B, "gemma-4-26B-A4B": GEMMA_26B, "gemma-4-e4b": GEMMA_E4B,
    "Qwen3.5-4B": QWEN_4B, "Qwen3.6-35B-A3B": QWEN_35B, "Llama-3.3-70B": LLAMA_70B,
}  # fmt: skip
# A float32 matrix of 128 x 128 for each of 32 heads, and three tokens of the convolution's channels.
CHANNELS = 2 * 16 * 128 + 32 * 128
GATED_DELTA: dict[str, Any] = {
    "state_bytes": 32 * 128 * 128 * 4, "tail": 3 * CHANNELS, "channels": CHANNELS, "by_token": True,
}  # fmt: skip
LAYERS = {
    "gemma-4-12B": (LayerFacts(40, "sliding", 8, 256, 256), LayerFacts(8, "full", 1, 512, 512)),
    "gemma-4-26B-A4B": (LayerFacts(25, "sliding", 8, 256, 256), LayerFacts(5, "full", 2, 512, 512)),
    "gemma-4-e4b": (
        LayerFacts(20, "sliding", 2, 256, 256), LayerFacts(4, "full", 2, 512, 512), LayerFacts(18, "shared"),
    ),
    "Qwen3.5-4B": (
        LayerFacts(24, "recurrent", **GATED_DELTA), LayerFacts(8, "full", 4, 256, 256),
    ),
    "Qwen3.6-35B-A3B": (
        LayerFacts(30, "recurrent", **GATED_DELTA), LayerFacts(10, "full", 2, 256, 256),
    ),
    "Llama-3.3-70B": (LayerFacts(80, "full", 8, 128, 128),),
}  # fmt: skip


def facts(folder: Path) -> ModelFacts:
    return read_facts(folder, Config.read(folder))


@pytest.mark.parametrize("bits", [4, 8, None])
@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_of_models_of_true_size(tmp_path: Path, name: str, bits: int | None):
    found, hand = facts(write_model(tmp_path / name, name, bits)), HANDS[name]
    plain = hand.plain * BF16
    assert found.parameters == hand.matrices + hand.plain
    assert found.language_bytes == hand.stored(hand.matrices, bits) + plain
    assert found.wide_bytes == 4 * (hand.matrices + hand.plain)
    assert found.unpackable_parameters == hand.plain
    assert found.packed_parameters == (0 if bits is None else hand.matrices)
    assert found.scale_bytes == (0 if bits is None else hand.matrices // GROUP * SCALES)
    assert found.lookup_bytes == hand.stored(hand.lookup, bits)
    assert found.expert_bytes == hand.stored(hand.experts, bits)
    assert found.sidecar_bytes == hand.towers * BF16
    assert found.float_bytes == BF16
    assert (found.bits, found.group_size, found.mode) == (
        (16, None, None) if bits is None else (bits, GROUP, "affine")
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_what_layers_of_true_size_remember(tmp_path: Path, name: str):
    found = facts(write_model(tmp_path / name, name))
    assert set(found.layers) == set(LAYERS[name])
    assert found.layer_count == sum(layer.count for layer in LAYERS[name])


@pytest.mark.parametrize(
    ("name", "context", "window", "heads", "head_dim", "inner", "experts"),
    [
        ("gemma-4-12B", 262_144, 1024, 16, 512, 15_360, (0, 0)),
        ("gemma-4-26B-A4B", 262_144, 1024, 16, 512, 8 * 704, (128, 8)),  # more than the dense part's 2112
        ("gemma-4-e4b", 131_072, 512, 8, 512, 10_240, (0, 0)),
        ("Qwen3.5-4B", 262_144, None, 16, 256, 9216, (0, 0)),
        ("Qwen3.6-35B-A3B", 262_144, None, 16, 256, 8 * 512 + 512, (256, 8)),
        ("Llama-3.3-70B", 131_072, None, 64, 128, 28_672, (0, 0)),
    ],
)
def test_numbers_of_models_of_true_size(
    tmp_path: Path, name: str, context: int, window: int | None, heads: int, head_dim: int, inner: int,
    experts: tuple[int, int],
):  # fmt: skip
    found = facts(write_model(tmp_path / name, name))
    assert (found.context_length, found.window) == (context, window)
    assert (found.heads, found.head_dim, found.intermediate_size) == (heads, head_dim, inner)
    assert (found.experts, found.experts_per_token) == experts
    assert (found.hidden_size, found.vocab_size) == tuple(
        CONFIGS[name].get("text_config", CONFIGS[name])[key] for key in ("hidden_size", "vocab_size")
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_a_token_reads_only_the_experts_it_is_sent_to(tmp_path: Path, name: str):
    found, hand = facts(write_model(tmp_path / name, name)), HANDS[name]
    of_experts = {"gemma-4-26B-A4B": 8 / 128, "Qwen3.6-35B-A3B": 8 / 256}
    read = hand.experts * of_experts.get(name, 0)
    active = hand.stored(hand.matrices - hand.lookup - hand.experts + int(read), 4) + hand.plain * BF16
    assert found.active_bytes == active
    assert found.active_share == active / found.language_bytes


# Packed weights -----------------------------------------------------------------------------


def mixed(folder: Path, name: str, wider: Callable[[str], tuple[int, int] | None]) -> tuple[Path, int]:
    """In 4 bits, but for matrices that `wider` gives (bits, group); and how many elements these have."""
    write_model(folder, name)
    config = json.loads((folder / "config.json").read_text())
    plain = shapes(config)
    tensors, elements = packed(plain, 4), 0
    for weight, shape in plain.items():
        path = weight.removesuffix(".weight")
        if f"{path}.scales" not in tensors or (how := wider(path)) is None:
            continue
        bits, group = how
        tensors[weight] = Tensor("U32", (*shape[:-1], shape[-1] * bits // 32))
        for part in ("scales", "biases"):
            tensors[f"{path}.{part}"] = Tensor("BF16", (*shape[:-1], shape[-1] // group))
        config["quantization"][path] = {"bits": bits, "group_size": group}
        elements += math.prod(shape)
    for shard in folder.glob("model*"):
        shard.unlink()
    (folder / "config.json").write_text(json.dumps(config))
    write_weights(folder, tensors)
    return folder, elements


@pytest.mark.parametrize(("bits", "group"), [(8, 64), (8, 32), (6, 64), (3, 128), (5, 32)])
def test_bits_of_their_own_for_some_layers(tmp_path: Path, bits: int, group: int):
    # 8 bits in groups of 32 have as many words for each scale as 4 bits in groups of 64: the config decides.
    folder, elements = mixed(
        tmp_path / "m", "gemma-4-12B", lambda path: (bits, group) if path.endswith("down_proj") else None
    )
    assert elements == 48 * 3840 * 15_360
    found, hand = facts(folder), GEMMA_12B
    assert found.parameters == hand.matrices + hand.plain
    assert found.packed_parameters == hand.matrices
    assert found.language_bytes == (
        hand.stored(hand.matrices - elements, 4)
        + elements * bits // 8
        + elements // group * SCALES
        + hand.plain * BF16
    )
    average = (4 * (hand.matrices - elements) + bits * elements) / hand.matrices
    assert found.bits == round(average, 2)


def test_some_matrices_are_not_packed_at_all(tmp_path: Path):
    folder = write_model(tmp_path / "m", "Qwen3.5-4B")
    config = json.loads((folder / "config.json").read_text())
    plain = shapes(config)
    tensors = packed(plain, 4)
    for layer in range(32):
        path = f"language_model.model.layers.{layer}.mlp.down_proj"
        del tensors[f"{path}.scales"], tensors[f"{path}.biases"]
        tensors[f"{path}.weight"] = Tensor("BF16", plain[f"{path}.weight"])
    (folder / "model.safetensors").unlink()
    write_weights(folder, tensors)
    found, apart = facts(folder), 32 * 2560 * 9216
    assert found.parameters == QWEN_4B.matrices + QWEN_4B.plain
    assert found.packed_parameters == QWEN_4B.matrices - apart
    assert found.unpackable_parameters == QWEN_4B.plain  # they could be packed, and are not
    assert found.bits == 4


def tensor(name: str, dtype: str, *shape: int) -> TensorInfo:
    size = math.prod(shape) * {"U8": 1, "BF16": 2, "F16": 2, "U32": 4, "F32": 4}[dtype]
    return TensorInfo(name, dtype, shape, 0, size, Path("model.safetensors"))


TINY: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": 96,
}  # fmt: skip


def of(*tensors: TensorInfo, **values: Any) -> ModelFacts:
    return facts_of(Config(TINY | values, source="the config"), tensors, {})


@pytest.mark.parametrize(("mode", "group", "bits"), [("mxfp4", 32, 4), ("nvfp4", 16, 4), ("mxfp8", 32, 8)])
def test_modes_whose_scales_are_bytes(mode: str, group: int, bits: int):
    found = of(
        tensor("model.norm.weight", "BF16", 64),
        tensor("lm_head.weight", "U32", 96, 64 * bits // 32),
        tensor("lm_head.scales", "U8", 96, 64 // group),
        quantization={"group_size": group, "bits": bits, "mode": mode},
    )
    assert found.packed_parameters == 96 * 64
    assert (found.bits, found.group_size, found.mode) == (bits, group, mode)
    assert found.language_bytes == 96 * 64 * bits // 8 + 96 * 64 // group + 64 * 2
    assert found.scale_bytes == 0  # scales that no form of the weights widens


def test_biases_of_a_linear_are_its_parameters_also_where_it_is_packed():
    found = of(
        tensor("model.layers.0.self_attn.q_proj.weight", "U32", 64, 64 * 4 // 32),
        tensor("model.layers.0.self_attn.q_proj.scales", "BF16", 64, 1),
        tensor("model.layers.0.self_attn.q_proj.biases", "BF16", 64, 1),
        tensor("model.layers.0.self_attn.q_proj.bias", "BF16", 64),
        quantization={"group_size": 64, "bits": 4},
    )
    assert (found.parameters, found.packed_parameters) == (64 * 64 + 64, 64 * 64)
    assert found.scale_bytes == 2 * 64 * 2


@pytest.mark.parametrize(
    "name",
    [
        "vision_tower.encoder.0.weight", "model.vision_tower.x.weight", "visual.blocks.0.attn.weight",
        "model.visual.merger.weight", "audio_tower.x.weight", "embed_vision.embedding.weight",
        "multi_modal_projector.linear.weight", "mtp.layers.0.weight", "language_model.mtp.fc.weight",
        "language_model.model.mtp.fc.weight",
    ],
)  # fmt: skip
def test_what_a_text_answer_does_not_need_is_beside(name: str):
    found = of(tensor(name, "BF16", 30, 20), tensor("model.norm.weight", "BF16", 64))
    assert (found.sidecar_bytes, found.language_bytes, found.parameters) == (30 * 20 * 2, 64 * 2, 64)


@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.gate.weight", "language_model.model.norm.weight", "model.visualise.weight"]
)
def test_what_a_text_answer_needs_is_not(name: str):
    assert of(tensor(name, "BF16", 30)).sidecar_bytes == 0


@pytest.mark.parametrize(("dtype", "size"), [("F32", 4), ("F16", 2), ("BF16", 2)])
def test_activations_have_the_type_of_most_tensors(dtype: str, size: int):
    other = "F32" if dtype != "F32" else "F16"
    tensors = [tensor(f"model.layers.{i}.x.weight", dtype, 8, 8) for i in range(3)]
    assert of(*tensors, tensor("model.norm.weight", other, 64)).float_bytes == size


def test_as_many_of_two_types_is_no_lottery():
    two = tensor("a.weight", "F32", 8), tensor("b.weight", "BF16", 8)
    assert of(*two).float_bytes == of(*reversed(two)).float_bytes == 4  # rather too much than too little


def test_a_model_without_weights():
    found = of()
    assert (found.parameters, found.language_bytes, found.active_share, found.layer_count) == (0, 0, 1.0, 2)


def test_feed_forward_layers_twice_as_wide():
    assert of(use_double_wide_mlp=True, num_kv_shared_layers=1).intermediate_size == 2 * 128
    assert of(num_local_experts=8, num_experts_per_tok=2).intermediate_size == 2 * 128  # Mixtral's way


@pytest.mark.parametrize(
    ("values", "inner"),
    [
        # What all tokens are sent to counts beside the experts, under any of its names.
        ({"num_experts": 8, "moe_intermediate_size": 100, "shared_expert_intermediate_size": 70},
         2 * 100 + 70),
        ({"n_routed_experts": 8, "moe_intermediate_size": 100, "n_shared_experts": 2}, 2 * 100 + 2 * 100),
        ({"n_routed_experts": 8, "moe_intermediate_size": 100, "n_shared_experts": 1,
          "moe_shared_expert_intermediate_size": 30, "hybrid_override_pattern": "ME"}, 2 * 100 + 30),
        ({"num_local_experts": 8, "shared_intermediate_size": 50}, 2 * 128 + 50),  # Granite
        # Named, but without effect: a pattern without experts, a block that is switched off, none at all.
        ({"n_routed_experts": 8, "moe_intermediate_size": 100, "hybrid_override_pattern": "M-"}, 128),
        ({"num_experts": 8, "moe_intermediate_size": 100, "enable_moe_block": False}, 128),
        ({"num_experts": 0, "moe_intermediate_size": 100, "shared_expert_intermediate_size": 70}, 128),
        ({"block_ff_dim": 192, "intermediate_size": ...}, 192),  # LFM2
    ],
)  # fmt: skip
def test_the_widest_of_a_mixture(values: dict[str, Any], inner: int):
    config = {k: v for k, v in (TINY | {"num_experts_per_tok": 2} | values).items() if v is not ...}
    assert facts_of(Config(config), [], {}).intermediate_size == inner


@pytest.mark.parametrize(
    "part",
    [
        "block_sparse_moe.switch_mlp.gate_proj",
        "experts.switch_glu.up_proj",
        "mlp.experts.gate_proj",
        "mlp.switch_mlp.down_proj",
        "mixer.switch_mlp.fc1",
        "feed_forward.switch_mlp.up_proj",
        "mlp.experts.7.up_proj",
    ],
)
def test_experts_by_the_names_that_checkpoints_give_them(part: str):
    path = f"model.layers.0.{part}"
    found = of(
        tensor(f"{path}.weight", "U32", 4, 32, 64 * 4 // 32),
        tensor(f"{path}.scales", "U8", 4, 32, 64 // 32),
        tensor(f"{path}.bias", "BF16", 4, 32),
        quantization={"group_size": 32, "bits": 4, "mode": "mxfp4"},
        num_experts=4, num_experts_per_tok=1,
    )  # fmt: skip
    assert found.expert_bytes == found.language_bytes == 4 * (32 * 64 // 2 + 32 * 64 // 32 + 32 * 2)
    assert (found.packed_parameters, found.unpackable_parameters) == (4 * 32 * 64, 4 * 32)
    assert found.active_bytes == found.language_bytes // 4


@pytest.mark.parametrize(
    "part", ["mlp.shared_experts.up_proj", "mlp.shared_expert.up_proj", "mlp.gate", "mlp.up_proj"]
)
def test_what_every_token_goes_through_is_no_expert(part: str):
    assert of(tensor(f"model.layers.0.{part}.weight", "BF16", 32, 64)).expert_bytes == 0


@pytest.mark.parametrize(
    "name", ["model.layers.2.mlp.up_proj.weight", "language_model.model.layers.61.x.weight"]
)
def test_a_layer_behind_the_last_one_is_beside(name: str):
    found = of(tensor(name, "BF16", 30), tensor("model.layers.1.x.weight", "BF16", 64))
    assert (found.sidecar_bytes, found.language_bytes) == (60, 128)


def test_matrices_of_each_head_can_be_packed():
    assert of(tensor("model.layers.0.self_attn.embed_q.weight", "BF16", 4, 32, 64)).unpackable_parameters == 0
    assert of(tensor("model.layers.0.mamba.conv1d.weight", "BF16", 4, 4, 1)).unpackable_parameters == 16


@pytest.mark.parametrize("name", ["embed_tokens", "embed_tokens_per_layer", "embeddings"])
def test_tables_that_are_only_looked_up(name: str):
    table, head = tensor(f"backbone.{name}.weight", "BF16", 96, 64), tensor("lm_head.weight", "BF16", 96, 64)
    assert of(table, head).lookup_bytes == 96 * 64 * 2
    assert of(table).lookup_bytes == (96 * 64 * 2 if name.endswith("per_layer") else 0)


def test_no_more_experts_are_chosen_than_there_are():
    found = of(num_experts=4, num_experts_per_tok=9, moe_intermediate_size=10)
    assert (found.experts, found.experts_per_token, found.intermediate_size) == (4, 4, 128)
    assert of(num_experts_per_tok=9).experts_per_token == 0


# kv_config.json -----------------------------------------------------------------------------


def test_widths_of_kept_values_from_beside_the_model(tmp_path: Path):
    folder = write_model(tmp_path / "m", "Llama-3.3-70B")
    rows = [{"layer_idx": i, "bits": 8 if i < 3 else 4, "group_size": 64} for i in range(79)]
    (folder / "kv_config.json").write_text(json.dumps(rows))
    assert {(layer.count, layer.kv_bits) for layer in facts(folder).layers} == {(3, 8), (76, 4), (1, None)}


# Headers only -------------------------------------------------------------------------------


def header_bytes(path: Path) -> int:
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


@pytest.mark.parametrize("name", ["gemma-4-12B", "Llama-3.3-70B"])
def test_no_byte_of_a_tensor_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    folder = write_model(tmp_path / name, name)
    headers = [header_bytes(path) for path in folder.glob("*.safetensors")]
    config = Config.read(folder)
    index = folder / "model.safetensors.index.json"
    wanted = sum(headers) + (index.stat().st_size if index.exists() else 0)
    read, plain_open = [], io.open

    class Counted(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(-1 if size is None else size)
            read.append(len(content))
            return content

    def counting(file: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
        return Counted(file, "r") if mode == "rb" else plain_open(file, mode, *args, **named)

    monkeypatch.setattr(io, "open", counting)
    found = read_facts(folder, config)
    monkeypatch.undo()
    assert len(headers) >= 2 and found.language_bytes > 6e9
    assert sum(read) == wanted
