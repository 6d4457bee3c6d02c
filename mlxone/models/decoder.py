"""The universal decoder: embeds ids, runs the blocks over a state, reads logits off.

Order of operations and dtypes are what parity fixes; both follow from the spec alone.
B: rows, L: new tokens, D: hidden size, H: heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mlxone.backend.arrays import mx, wire_memory
from mlxone.backend.cpu import WeightForm
from mlxone.core.errors import DOWNLOAD_AGAIN, DamagedModel
from mlxone.kv.buffer import causal_mask
from mlxone.kv.plain import PlainState
from mlxone.kv.recurrent import RecurrentState
from mlxone.kv.rotating import RotatingState
from mlxone.kv.state import LayerState, Mask, ModelState
from mlxone.models.block import AnyBlock
from mlxone.models.layers import AnyNorm, Linear, PackedEmbedding, PlainEmbedding
from mlxone.models.parts.per_layer_input import PerLayerInputs
from mlxone.models.spec import RECURRENT, AttentionSpec, DecoderSpec, LogitsSpec, MixerSpec

NEAR_END = 4  # the last quarter of the layers


def new_state(spec: DecoderSpec) -> ModelState:
    """Empty; takes no weights, so what a model's states can do is known without it."""
    return ModelState([_state_for(layer.mixer) for layer in spec.layers if layer.remembers])


def _state_for(mixer: MixerSpec | None) -> LayerState:
    if isinstance(mixer, RECURRENT):
        return RecurrentState()
    window = mixer.window if isinstance(mixer, AttentionSpec) else None
    return PlainState() if window is None else RotatingState(window)


class Decoder:
    def __init__(
        self,
        spec: DecoderSpec,
        embedding: PlainEmbedding | PackedEmbedding,
        blocks: Sequence[AnyBlock],
        norm: AnyNorm,
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
        self.per_layer_inputs: PerLayerInputs | None = None
        self._kinds = [(layer.memory, layer.mask) for layer in spec.layers]
        self._plain_logits = spec.logits.plain
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
        x = self.embed(ids)
        own = [None] * len(self.blocks) if self.per_layer_inputs is None else self.per_layer_inputs(ids, x)
        masks: dict[str, Mask] = {"none": None}
        submitted: mx.array | None = None
        last = len(self.blocks)
        parts = zip(self._kinds, self.blocks, own, strict=True)
        for number, ((place, kind), block, share) in enumerate(parts, 1):
            memory: Any = None if place is None else state.layers[place]
            if kind not in masks:  # layers of one kind stand at one offset
                masks[kind] = _mask(kind, memory, length)
            x = block(x, memory, masks[kind], share)
            if paced and number < last:
                # What a recurrent layer keeps is no part of x: left for later, it would keep what it is cut
                # from, of every layer and the chunk's whole length.
                mx.async_eval(x, *(() if memory is None else memory.arrays()))
                if submitted is not None:
                    mx.eval(submitted)
                submitted = x
            elif near_end is not None and not paced and number == last - last // NEAR_END:
                near_end(x)
        return self.norm(x)

    def embed(self, ids: mx.array) -> mx.array:
        """[B, L] to what the first layer gets."""
        x, scale = self.embedding(ids), self.spec.embedding_scale
        return x if scale is None else x * scale

    def logits(self, hidden: mx.array) -> mx.array:
        """[B, L, D] to [B, L, vocabulary]."""
        if self._plain_logits:
            return self.head(hidden)
        return _around_head(self.spec.logits, self.head, hidden)

    def materialize(self) -> None:
        """Brings the weights into memory, once, at their first use.

        Layer by layer: joining and widening need a layer's originals beside the result, and
        this way never more than one layer's.
        """
        if self._in_memory:
            return
        wire_memory()
        try:
            for part in (self.embedding, *self._inputs(), *self.blocks, self.norm, self.head):
                mx.eval(part.arrays())
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
        parts: list[Any] = [self.embedding, *self._inputs(), *self.blocks, self.norm]
        if not self.spec.tied_head:
            parts.append(self.head)
        return [array for part in parts for array in part.arrays()]

    def _inputs(self) -> list[PerLayerInputs]:
        return [] if self.per_layer_inputs is None else [self.per_layer_inputs]


def _mask(kind: str, state: LayerState, length: int) -> Mask:
    mask = state.mask(length)
    if kind.endswith("array") and isinstance(mask, str):
        return causal_mask(length, state.offset)
    return mask


def _around_head(spec: LogitsSpec, head: Linear, hidden: mx.array) -> mx.array:
    if spec.divide_hidden is not None:
        hidden = hidden / spec.divide_hidden
    return logits_of(spec, head(hidden))


def logits_of(spec: LogitsSpec, logits: mx.array) -> mx.array:
    """Of what the head gives."""
    if spec.multiply is not None:
        logits = logits * spec.multiply
    if spec.divide is not None:
        logits = logits / spec.divide
    return logits if spec.softcap is None else mx.tanh(logits / spec.softcap) * spec.softcap
