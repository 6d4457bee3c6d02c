"""A GGUF file -> plain numbers about it, from its header alone."""

from __future__ import annotations

import math
from pathlib import Path

from mlxone.core.errors import DamagedModel
from mlxone.core.facts import LayerFacts, ModelFacts
from mlxone.formats.gguf import Header, check_header, shown
from mlxone.formats.safetensors import FLOATS

MAX_LAYERS = 10_000
EMBEDDING, HEAD = "token_embd.weight", "output.weight"


def gguf_facts(path: Path) -> ModelFacts:
    header = check_header(path)
    numbers = _Numbers(header, path)
    heads = numbers.count("attention.head_count", 1)
    key_dim = numbers.count("attention.key_length", max(1, numbers.count("embedding_length") // heads))
    layer = LayerFacts(
        numbers.count("block_count"),
        "full",  # which layers slide is not told: counting all as full is never too little
        numbers.count("attention.head_count_kv", heads),
        key_dim,
        numbers.count("attention.value_length", key_dim),
    )
    tensors = {t.name: t for t in header.tensors}
    parameters = sum(math.prod(t.shape) for t in header.tensors)
    packed = [t for t in header.tensors if t.kind not in FLOATS]
    packed_parameters = sum(math.prod(t.shape) for t in packed)
    experts = numbers.optional("expert_count") or 0
    return ModelFacts(
        model_type=numbers.architecture,
        layers=(layer,),
        hidden_size=numbers.count("embedding_length"),
        intermediate_size=numbers.count("feed_forward_length", 1),
        heads=heads,
        head_dim=key_dim,
        vocab_size=next((t.shape[0] for t in header.tensors if t.name == EMBEDDING and t.shape), 0),
        parameters=parameters,
        language_bytes=sum(t.size for t in header.tensors),
        wide_bytes=parameters * 4,
        unpackable_parameters=sum(math.prod(t.shape) for t in header.tensors if len(t.shape) < 2),
        packed_parameters=packed_parameters,
        lookup_bytes=tensors[EMBEDDING].size if {EMBEDDING, HEAD} <= tensors.keys() else 0,
        expert_bytes=sum(t.size for t in header.tensors if "_exps." in t.name),
        experts=experts,
        experts_per_token=min(numbers.optional("expert_used_count") or 0, experts),
        window=numbers.optional("attention.sliding_window"),
        context_length=numbers.optional("context_length"),
        bits=_bits(header, packed_parameters, parameters),
        mode="gguf" if packed else None,
    )


def _bits(header: Header, packed_parameters: int, parameters: int) -> float | None:
    """Of a packed weight, its scales left out: the whole bits in the type's name mean the same."""
    if not parameters:
        return None
    chosen = [t for t in header.tensors if not packed_parameters or t.kind not in FLOATS]
    weights = sum(math.prod(t.shape) for t in chosen)
    return round(sum(_type_bits(t.kind) * math.prod(t.shape) for t in chosen) / weights, 2)


def _type_bits(kind: str) -> int:
    digits = "".join(c for c in kind.partition("_")[0] if c.isdigit())
    return int(digits)


class _Numbers:
    """Whole numbers under the architecture's own prefix."""

    def __init__(self, header: Header, path: Path) -> None:
        self.header, self.path = header, path
        name = header.values.get("general.architecture")
        if not isinstance(name, str) or not name:
            raise DamagedModel(f"{path}: general.architecture is {shown(name)}")
        self.architecture = name

    def optional(self, key: str) -> int | None:
        value = self.header.values.get(f"{self.architecture}.{key}")
        return value if type(value) is int and 0 < value < 2**31 else None

    def count(self, key: str, default: int | None = None) -> int:
        found = self.optional(key)
        if found is None:
            found = default
        if found is None or (key == "block_count" and found > MAX_LAYERS):
            value = self.header.values.get(f"{self.architecture}.{key}")
            raise DamagedModel(f"{self.path}: {self.architecture}.{key} is {shown(value)}")
        return found
