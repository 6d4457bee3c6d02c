"""A model folder or a GGUF file -> plain numbers about it. Configs and headers only, no tensor's bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxone.core.errors import DamagedModel
from mlxone.core.facts import ModelFacts
from mlxone.formats.config import Config, read_json_list
from mlxone.formats.packing import BITS, packed_bits, parameters, quantization
from mlxone.formats.safetensors import FLOATS, ITEM_BYTES, TensorInfo, read_header
from mlxone.formats.shards import shard_paths
from mlxone.hub import habits
from mlxone.hub.layers import global_head_dim, head_dim, layers_of, nemotron_letters

# Towers and heads that a text answer does not need, by the first name in a tensor's path.
SIDECAR = re.compile(
    r"^(model\.)?(vision\w*|visual|audio\w*|embed_vision|embed_audio|multi_modal_projector|mm_\w+|mtp)\."
    r"|^(model\.|language_model\.)*mtp\."
)
LAYER = re.compile(r"^(?:(?:model|language_model|backbone)\.)*layers\.(\d+)\.")
EXPERTS = re.compile(r"\.(experts|switch_mlp|switch_glu)\.")
STACKS = re.compile(r"\.(experts|switch_mlp|switch_glu|embed_q|unembed_out)\b.*\.weight$")  # a matrix each
LOOKUP = re.compile(r"(^|\.)(embed_tokens_per_layer|embed_tokens|embeddings)\.")
KV_GROUPS = (32, 64, 128)


def read_facts(folder: Path, config: Config) -> ModelFacts:
    """Of a folder with a config.json, whose every header is read and checked."""
    tensors = [info for path in shard_paths(folder) for info in read_header(path).values()]
    path = folder / "kv_config.json"
    kv_bits = kv_config_of(read_json_list(path), str(path)) if path.is_file() else {}
    return facts_of(config, tensors, kv_bits)


def facts_of(
    config: Config, tensors: Iterable[TensorInfo], kv_bits: Mapping[int, tuple[int, int]]
) -> ModelFacts:
    """From what a config and all headers say, wherever they were read."""
    text = text_config(config)
    layers = layers_of(text, kv_bits)
    weights = Weights.of(config, list(tensors), sum(layer.count for layer in layers))
    experts, chosen = _experts(text)
    return ModelFacts(
        model_type=str(config.get("model_type")),
        layers=layers,
        hidden_size=text.count("hidden_size"),
        intermediate_size=_widest(text, chosen),
        heads=text.count("num_attention_heads"),
        head_dim=max(head_dim(text), global_head_dim(text)),
        vocab_size=text.count("vocab_size"),
        experts=experts,
        experts_per_token=chosen,
        window=text.count("sliding_window") if text.get("sliding_window") else None,
        context_length=text.count("max_position_embeddings") if "max_position_embeddings" in text else None,
        **weights.fields(),
    )


def text_config(config: Config) -> Config:
    """The language model's part, where a config describes several models."""
    outer, inner = config.get("model_type"), config.get("model_type")
    nested = config.section("text_config")
    if nested:
        inner = nested.get("model_type", outer)
        whole = {key: config[key] for key in ("vocab_size", "tie_word_embeddings") if key in config}
        config = Config({**nested, **whole, "model_type": inner}, source=f"{config.source}: text_config")
    return config.with_defaults(habits.defaults(outer, inner))


def kv_config_of(value: object, source: str) -> dict[int, tuple[int, int]]:
    """Layer -> (bits, group size), as mlx-optiq writes it beside a model."""
    wrong = DamagedModel(f"{source} is not a list of layer_idx, bits and group_size")
    if not isinstance(value, list):
        raise wrong
    try:
        found = {int(row["layer_idx"]): (int(row["bits"]), int(row.get("group_size", 64))) for row in value}
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        raise wrong from None
    if any(bits not in BITS or group not in KV_GROUPS for bits, group in found.values()):
        raise wrong
    return found


def _experts(text: Config) -> tuple[int, int]:
    letters = nemotron_letters(text)
    if text.get("enable_moe_block") is False or (letters and "E" not in letters):
        return 0, 0  # whatever else is said of experts
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    count = next((text.count(n) for n in names if text.get(n)), 0)
    chosen = next((text.count(n) for n in ("num_experts_per_tok", "top_k_experts") if text.get(n)), 0)
    return count, min(chosen, count)


def _widest(text: Config, chosen: int) -> int:
    """The widest a feed-forward layer becomes for one token, all its chosen experts counted."""
    dense = _stated(text, "block_ff_dim") or _stated(text, "intermediate_size")
    if not chosen:
        doubled = text.get("use_double_wide_mlp") and text.get("num_kv_shared_layers")
        return 2 * dense if doubled and not text.is_null("num_kv_shared_layers") else dense
    each = _stated(text, "moe_intermediate_size")
    return max(dense, (each or dense) * chosen + _beside_experts(text, each))


def _beside_experts(text: Config, each: int) -> int:
    """The expert that every token is sent to."""
    names = (
        "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size",
    )  # fmt: skip
    return next((size for n in names if (size := _stated(text, n))), each * _stated(text, "n_shared_experts"))


def _stated(text: Config, key: str) -> int:
    """A size, or 0 where none is named."""
    return text.count(key) if text.get(key) else 0


def _is_beside(name: str, layers: int) -> bool:
    """A layer behind the last one guesses the token after next."""
    found = LAYER.match(name)
    return int(found[1]) >= layers if found else SIDECAR.search(name) is not None


@dataclass(slots=True)
class Weights:
    """Sums over the tensors of the language model."""

    parameters: int = 0
    packed_parameters: int = 0
    packed_bits: int = 0  # bits x parameters, of what is packed
    unpackable: int = 0
    stored: int = 0
    scales: int = 0
    lookup: int = 0
    experts: int = 0
    sidecar: int = 0
    float_bytes: int = 2
    group_size: int | None = None
    mode: str | None = None

    @classmethod
    def of(cls, config: Config, tensors: list[TensorInfo], layers: int) -> Weights:
        found = cls()
        language = [t for t in tensors if not _is_beside(t.name, layers)]
        by_name = {t.name: t for t in language}
        tied = not any(name.endswith("lm_head.weight") for name in by_name)
        for tensor in language:
            found.add(tensor, packed_bits(config, tensor, by_name.get), tied=tied)
        found.sidecar = sum(t.end - t.start for t in tensors) - found.stored
        sizes = [ITEM_BYTES[t.dtype] for t in language if t.dtype in FLOATS]
        # Of equally many, the wider: rather too much memory than too little.
        found.float_bytes = max(set(sizes), key=lambda size: (sizes.count(size), size), default=2)
        if found.packed_parameters:
            settings = quantization(config)
            group, mode = settings.get("group_size"), settings.get("mode")
            found.group_size = group if type(group) is int else None
            found.mode = mode if isinstance(mode, str) else "affine"
        return found

    def add(self, tensor: TensorInfo, packed: int | None, *, tied: bool) -> None:
        size = tensor.end - tensor.start
        self.stored += size
        if EXPERTS.search(tensor.name):
            self.experts += size
        lookup = LOOKUP.search(tensor.name)
        if lookup and (not tied or lookup[2] == "embed_tokens_per_layer"):
            self.lookup += size
        count = parameters(tensor, packed)
        self.parameters += count
        if packed is None:
            matrix = tensor.name.endswith(".weight") and len(tensor.shape) == 2
            self.unpackable += 0 if matrix or STACKS.search(tensor.name) else tensor.size
        elif packed == 0:  # scales and biases are no parameters of the model
            self.scales += size if tensor.dtype in FLOATS else 0  # scales of one byte are never widened
        else:
            self.packed_parameters += count
            self.packed_bits += count * packed

    def fields(self) -> dict[str, Any]:
        bits = self.packed_bits / self.packed_parameters if self.packed_parameters else self.float_bytes * 8
        return {
            "parameters": self.parameters,
            "language_bytes": self.stored,
            "wide_bytes": self.parameters * 4,
            "unpackable_parameters": self.unpackable,
            "float_bytes": self.float_bytes,
            "packed_parameters": self.packed_parameters,
            "scale_bytes": self.scales,
            "lookup_bytes": self.lookup,
            "expert_bytes": self.experts,
            "sidecar_bytes": self.sidecar,
            "bits": round(bits, 2),
            "group_size": self.group_size,
            "mode": self.mode,
        }
