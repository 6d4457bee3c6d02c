"""The universal decoder: embeds ids, runs the blocks over a state, reads logits off.

Order of operations and dtypes are what parity fixes; both follow from the spec alone.
B: rows, L: new tokens, D: hidden size, H: heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlxone.backend.arrays import mx, wire_memory
from mlxone.backend.cpu import WeightForm
from mlxone.core.errors import DOWNLOAD_AGAIN, DamagedModel
from mlxone.kv.plain import PlainState
from mlxone.kv.rotating import RotatingState
from mlxone.kv.state import LayerState, Mask, ModelState
from mlxone.models.layers import Joined, Linear, Norm, PackedEmbedding, Parallel, PlainEmbedding
from mlxone.models.rope import Rope
from mlxone.models.spec import DecoderSpec

NEAR_END = 4  # the last quarter of the layers

Gate = Callable[[mx.array, mx.array], mx.array]


class Attention:
    __slots__ = ("head_dim", "heads", "k_norm", "kv_heads", "out", "q_norm", "qkv", "rope", "scale")

    def __init__(
        self,
        spec: DecoderSpec,
        qkv: Joined | Parallel,
        out: Linear,
        rope: Rope | None,
        norms: tuple[Norm, Norm] | None,
    ) -> None:
        self.heads, self.kv_heads, self.head_dim, self.scale = (
            spec.heads,
            spec.kv_heads,
            spec.head_dim,
            spec.scale,
        )
        self.qkv, self.out, self.rope = qkv, out, rope
        self.q_norm: Norm | None = None
        self.k_norm: Norm | None = None
        if norms is not None:
            self.q_norm, self.k_norm = norms

    def __call__(self, x: mx.array, state: LayerState, mask: Mask) -> mx.array:
        batch, length, _ = x.shape
        queries, keys, values = self.qkv(x)
        queries = self._by_head(queries, self.heads, self.q_norm)
        keys = self._by_head(keys, self.kv_heads, self.k_norm)
        values = self._by_head(values, self.kv_heads, None)
        if self.rope is not None:
            queries, keys = state.rotate(self.rope, queries), state.rotate(self.rope, keys)
        held = state.append(keys, values)
        out = state.attend(queries, held, scale=self.scale, mask=mask)
        if length > 1:
            out = out.transpose(0, 2, 1, 3)
        return self.out(out.reshape(batch, length, -1))

    def _by_head(self, x: mx.array, heads: int, norm: Norm | None) -> mx.array:
        """[B, L, H * dim] to [B, H, L, dim]. One token needs no transposing: fewer steps for the host."""
        batch, length, _ = x.shape
        shape = (batch, heads, 1, self.head_dim) if length == 1 else (batch, length, heads, self.head_dim)
        x = x.reshape(shape)
        if norm is not None:
            x = norm(x)
        return x if length == 1 else x.transpose(0, 2, 1, 3)

    def arrays(self) -> list[mx.array]:
        norms = [n.weight for n in (self.q_norm, self.k_norm) if n is not None]
        return [*self.qkv.arrays(), *self.out.arrays(), *norms]


class FeedForward:
    __slots__ = ("down", "gate", "gate_up")

    def __init__(self, gate_up: Joined | Parallel, down: Linear, gate: Gate) -> None:
        self.gate_up, self.down, self.gate = gate_up, down, gate

    def __call__(self, x: mx.array) -> mx.array:
        gate, up = self.gate_up(x)
        return self.down(self.gate(gate, up))

    def arrays(self) -> list[mx.array]:
        return [*self.gate_up.arrays(), *self.down.arrays()]


class Block:
    __slots__ = ("attention", "attention_norm", "feed_forward", "feed_forward_norm")

    def __init__(
        self, attention: Attention, attention_norm: Norm, feed_forward: FeedForward, feed_forward_norm: Norm
    ) -> None:
        self.attention, self.attention_norm = attention, attention_norm
        self.feed_forward, self.feed_forward_norm = feed_forward, feed_forward_norm

    def __call__(self, x: mx.array, state: LayerState, mask: Mask) -> mx.array:
        x = x + self.attention(self.attention_norm(x), state, mask)
        return x + self.feed_forward(self.feed_forward_norm(x))

    def arrays(self) -> list[mx.array]:
        norms = [self.attention_norm.weight, self.feed_forward_norm.weight]
        return [*self.attention.arrays(), *self.feed_forward.arrays(), *norms]


def new_state(spec: DecoderSpec) -> ModelState:
    """Empty; takes no weights, so what a model's states can do is known without it."""
    window = spec.window
    return ModelState(
        [
            RotatingState(window) if layer.attention == "sliding" and window else PlainState()
            for layer in spec.layers
        ]
    )


class Decoder:
    def __init__(
        self,
        spec: DecoderSpec,
        embedding: PlainEmbedding | PackedEmbedding,
        blocks: Sequence[Block],
        norm: Norm,
        head: Linear,
        form: WeightForm = "stored",
    ) -> None:
        self.form = form  # how the weights are kept
        self.spec, self.embedding, self.blocks, self.norm, self.head = (
            spec,
            embedding,
            list(blocks),
            norm,
            head,
        )
        self._in_memory = False

    def new_state(self) -> ModelState:
        return new_state(self.spec)

    def hidden(
        self,
        ids: mx.array,
        state: ModelState,
        *,
        paced: bool = False,
        near_end: Callable[[mx.array], None] | None = None,
    ) -> mx.array:
        """[B, L] ids to [B, L, D], the state growing by L.

        Paced, it is submitted layer by layer and never runs further ahead of the device than one
        of them: a long chunk's transients are then two layers' and not all of them. On an H100
        that takes 2,048 tokens through a Llama 8B with 0.9 GB beside weights and states instead
        of 3.5, a little faster. The copies that outgrown states leave are paced as well.

        `near_end` is handed what comes out of a layer not far from the last, if the pass is not paced.
        """
        self.materialize()
        length = ids.shape[1]
        paced = paced or state.moves(length)
        x = self.embedding(ids)
        masks: dict[str, Mask] = {}
        submitted: mx.array | None = None
        last = len(self.blocks)
        parts = zip(self.spec.layers, self.blocks, state.layers, strict=True)
        for number, (layer, block, memory) in enumerate(parts, 1):
            if layer.attention not in masks:  # layers of one kind stand at one offset
                masks[layer.attention] = memory.mask(length)
            x = block(x, memory, masks[layer.attention])
            if paced and number < last:
                mx.async_eval(x)
                if submitted is not None:
                    mx.eval(submitted)
                submitted = x
            elif near_end is not None and not paced and number == last - last // NEAR_END:
                near_end(x)
        return self.norm(x)

    def logits(self, hidden: mx.array) -> mx.array:
        """[B, L, D] to [B, L, vocabulary]."""
        return self.head(hidden)

    def materialize(self) -> None:
        """Brings the weights into memory, once, at their first use.

        Layer by layer: joining and widening need a layer's originals beside the result, and
        this way never more than one layer's.
        """
        if self._in_memory:
            return
        wire_memory()
        try:
            for part in (self.embedding, *self.blocks):
                mx.eval(part.arrays())
            mx.eval(self.norm.weight, self.head.arrays())
        except RuntimeError as error:
            if "read" not in str(error):  # memory, most likely
                raise
            raise DamagedModel(
                f"the weights changed on disk since the model was loaded: {error}",
                hint=DOWNLOAD_AGAIN,
            ) from error
        mx.clear_cache()
        self._in_memory = True

    def arrays(self) -> list[mx.array]:
        """Each once: a tied head is the embedding's."""
        blocks = [a for block in self.blocks for a in block.arrays()]
        head = [] if self.spec.tied_head else self.head.arrays()
        return [*self.embedding.arrays(), *blocks, self.norm.weight, *head]


def silu_gate(gate: mx.array, up: mx.array) -> mx.array:
    return gate * mx.sigmoid(gate) * up
