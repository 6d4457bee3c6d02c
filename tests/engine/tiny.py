"""Models for the rooms above the weights: random ones on disk, and one that says what it was told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from bench.random_models import save_random_model
from mlxone.backend.arrays import mx
from mlxone.core.words import Sampling
from mlxone.engine.loop import decode, prefill
from mlxone.engine.row import Drawn, Row
from mlxone.kv.plain import PlainState
from mlxone.kv.rotating import RotatingState
from mlxone.kv.state import ModelState
from mlxone.models.block import AnyBlock
from mlxone.models.decoder import Decoder
from mlxone.models.spec import DecoderSpec

VOCAB = 320
PLAIN: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
SLIDING = {**PLAIN, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}


def save(folder: Path, config: dict[str, Any] = PLAIN, seed: int = 0) -> Path:
    save_random_model(folder, config, dtype=mx.float32, seed=seed)
    return folder


class ScriptedDecoder(Decoder):
    """Draws the script's tokens, one a pass, from its first again with each new state.

    The states hold the ids themselves, so that a test can read off what they have seen; `log`
    says in which order things were asked of it.
    """

    def __init__(
        self,
        script: Sequence[int],
        *,
        windows: Sequence[int | None] = (None, None),  # a layer each; None: full attention
        context_length: int | None = 4096,
    ) -> None:
        self.spec = cast(DecoderSpec, SimpleNamespace(vocab_size=VOCAB, context_length=context_length))
        self.script, self.windows = list(script), windows
        self.blocks = [cast(AnyBlock, None)] * len(windows)
        self.drawn = 0
        self.log: list[Any] = []
        self.before_layer: Callable[[int], None] = lambda layer: None

    def new_state(self) -> ModelState:
        self.drawn = 0
        return ModelState([RotatingState(w) if w else PlainState() for w in self.windows])

    def hidden(
        self,
        ids: mx.array,
        state: ModelState,
        *,
        paced: bool = False,
        near_end: Callable[[mx.array], None] | None = None,
    ) -> mx.array:
        self.log.append(("pass", ids.shape[1]))
        held = ids.astype(mx.float32)[:, None, :, None]
        layers: list[Any] = state.layers
        for index, layer in enumerate(layers):
            self.before_layer(index)
            layer.append(held, held)
        return held[:, 0]

    def logits(self, hidden: mx.array) -> mx.array:
        token = self.script[self.drawn % len(self.script)]
        self.drawn += 1
        row = mx.where(mx.arange(VOCAB) == token, 9.0, 0.0)
        return mx.broadcast_to(row, (*hidden.shape[:2], VOCAB))


def ids_in(layer: Any) -> list[int]:
    """What a layer of a `ScriptedDecoder` holds, oldest first as far as order is kept."""
    if not layer.offset:
        return []
    held, _ = layer.fork().append(mx.full((1, 1, 1, 1), -1.0), mx.zeros((1, 1, 1, 1)))
    ids = integers(held.reshape(-1))
    turn = ids.index(-1)
    return ids[turn + 1 :] + ids[:turn]


def integers(array: mx.array) -> list[int]:
    return [int(x) for x in cast("list[float]", array.tolist())]


def generate(
    decoder: Decoder,
    ids: Sequence[int],
    count: int,
    *,
    step: int = 2048,
    stop_after: int | None = None,
    state: ModelState | None = None,
    logprobs: int | None = None,
    sampling: Sampling | None = None,
) -> tuple[list[Drawn], Row]:
    """The engine's loop as the service drives it; leaves after `stop_after` tokens."""
    chosen = sampling or Sampling(seed=0)
    row = Row(decoder, ids, state or decoder.new_state(), chosen, seed=chosen.seed or 0, logprobs=logprobs)
    for _ in prefill(row, step):
        pass
    drawn: list[Drawn] = []
    steps = decode(row, count)
    for one in steps:
        drawn.append(one)
        if len(drawn) == stop_after:
            break
    steps.close()
    return drawn, row
