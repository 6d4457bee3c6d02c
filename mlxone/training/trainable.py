"""What of a model is trained: which weights, how they start, and how they change the model.

Parameters are one flat dict with the names they have in an adapter's file. The masters are float32;
in the model they have its own dtype, so that nothing it computes is widened on their account.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from mlxone.backend.arrays import mx
from mlxone.core.errors import UsageError
from mlxone.models.block import AnyBlock
from mlxone.models.changed import leaves_of, norms_of
from mlxone.models.changes import Change, Dora, LowRank, Replaced
from mlxone.models.decoder import Decoder
from mlxone.training.learnable import check_learnable
from mlxone.training.products import for_training

Params = dict[str, mx.array]
Kind = Literal["lora", "dora", "full"]

# In which order mlx-lm goes through a layer when it draws a random start; in most families.
START_ORDER = ("up_proj", "down_proj", "gate_proj", "o_proj", "v_proj", "k_proj", "q_proj")


class Trainable:
    """`modules` are names of linears ("q_proj", "self_attn.q_proj"), by default all of them but what
    chooses experts; `layers` is how many of the last layers are trained, by default all; `ranks`
    overrides `rank` by path.

    "full" trains weights, biases and norms themselves, by default of everything in those layers.
    Stacks of experts are never trained.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        kind: Kind = "lora",
        rank: int = 8,
        scale: float = 2.0,
        dropout: float = 0.0,
        modules: Sequence[str] | None = None,
        layers: int | None = None,
        ranks: Mapping[str, int] | None = None,
    ) -> None:
        check_learnable(decoder.spec)
        self.kind, self.rank, self.scale, self.dropout = kind, rank, scale, dropout
        self.ranks = dict(ranks or {})
        self._router = decoder.spec.name("router")
        self.blocks = [for_training(block) for block in decoder.blocks]
        first = _first_layer(len(self.blocks), layers)
        self.by_layer = [
            self._chosen(block, modules) if number >= first else ()
            for number, block in enumerate(self.blocks)
        ]
        self.paths = tuple(path for paths in self.by_layer for path in paths)
        self.dtype = decoder.embedding(mx.array([0])).dtype
        _check_modules(modules, self.paths, decoder)

    def start(self, seed: int) -> Params:
        """As mlx-lm would start from this seed: low-rank changes that change nothing yet."""
        key, found = mx.random.key(seed), Params()
        for paths, block in zip(self.by_layer, self.blocks, strict=True):
            if self.kind == "full":
                found |= _weights(paths, block)
                continue
            leaves = leaves_of(block)
            for path in sorted(paths, key=_start_place):
                leaf, rank = leaves[path], self.ranks.get(path, self.rank)
                key, _ = mx.random.split(key)  # mlx-lm draws a base's weight first, and throws it away
                key, own = mx.random.split(key)
                bound = 1 / math.sqrt(leaf.in_dims)
                found[f"{path}.lora_a"] = mx.random.uniform(-bound, bound, (leaf.in_dims, rank), key=own)
                found[f"{path}.lora_b"] = mx.zeros((rank, leaf.out_dims))
                if self.kind == "dora":
                    found[f"{path}.m"] = mx.linalg.norm(leaf.dense().astype(mx.float32), axis=1)
        return found

    def changes(self, params: Params, key: mx.array | None = None) -> dict[str, tuple[Change, ...]]:
        """Of the paths that `params` speaks of. The key decides what dropout leaves out, path by path:
        a part of the parameters gets the same from it as all of them."""
        keys = mx.random.split(key, len(self.paths)) if key is not None and self.dropout else None
        return {
            path: (self._change(path, params, None if keys is None else keys[place]),)
            for place, path in enumerate(self.paths)
            if f"{path}.lora_a" in params or f"{path}.weight" in params
        }

    def names(self, layers: range) -> list[str]:
        """The parameters of some layers."""
        endings = {
            "full": ("weight", "bias"),
            "lora": ("lora_a", "lora_b"),
            "dora": ("lora_a", "lora_b", "m"),
        }
        return [f"{path}.{end}" for i in layers for path in self.by_layer[i] for end in endings[self.kind]]

    def _change(self, path: str, params: Params, key: mx.array | None) -> Change:
        if self.kind == "full":
            bias = params.get(f"{path}.bias")
            weight = params[f"{path}.weight"].astype(self.dtype)
            return Replaced(weight, None if bias is None else bias.astype(self.dtype))
        a, b = (params[f"{path}.{half}"].astype(self.dtype) for half in ("lora_a", "lora_b"))
        if self.kind == "dora":
            return Dora(a, b, params[f"{path}.m"], self.scale, self.dropout, key)
        return LowRank(a, b, self.scale, self.dropout, key)

    def _chosen(self, block: AnyBlock, modules: Sequence[str] | None) -> tuple[str, ...]:
        paths = list(leaves_of(block))
        if modules is not None:
            return tuple(path for path in paths if any(_is_named(path, name) for name in modules))
        if self.kind == "full":
            return (*paths, *norms_of(block))
        return tuple(path for path in paths if not self._is_router(path))

    def _is_router(self, path: str) -> bool:
        return path.endswith((f".{self._router}", f".{self._router}.proj"))


def _weights(paths: Sequence[str], block: AnyBlock) -> Params:
    leaves, norms, found = leaves_of(block), norms_of(block), Params()
    for path in paths:
        leaf = leaves.get(path)
        found[f"{path}.weight"] = norms[path].stored if leaf is None else leaf.dense()
        if leaf is not None and leaf.bias is not None:
            found[f"{path}.bias"] = leaf.bias
    return {name: array.astype(mx.float32) for name, array in found.items()}


def _first_layer(count: int, layers: int | None) -> int:
    if layers is None or layers == -1:
        return 0
    if not 1 <= layers <= count:
        raise UsageError(f"{layers} layers cannot be trained: the model has {count}", param="layers")
    return count - layers


def _check_modules(modules: Sequence[str] | None, paths: Sequence[str], decoder: Decoder) -> None:
    for name in modules or ():
        if not any(_is_named(path, name) for path in paths):
            known = dict.fromkeys(
                path.rpartition(".")[2] for block in decoder.blocks for path in leaves_of(block)
            )
            raise UsageError(
                f"no layer of the model has a linear {name!r}",
                hint=f"there are {', '.join(known)}", param="target_modules",
            )  # fmt: skip


def _is_named(path: str, name: str) -> bool:
    return path.endswith(f".{name}")


def _start_place(path: str) -> tuple[int, str]:
    name = path.rpartition(".")[2]
    return (START_ORDER.index(name) if name in START_ORDER else len(START_ORDER), path)
