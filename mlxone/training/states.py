"""What attention asks of its state, answered for a row of many texts; nothing is kept.

`x` comes as [B, heads, L, dim], B texts of one length, or as one row [1, heads, T, dim].
"""

from __future__ import annotations

from typing import Any

from mlxone.backend.arrays import mx
from mlxone.kv.state import Mask, Rope
from mlxone.models.spec import AttentionSpec, DecoderSpec, LatentSpec, RopeSpec
from mlxone.training.attention import Scoring, attend
from mlxone.training.layout import Layout, Run, Segment


def by_length(rope: RopeSpec) -> bool:
    """Whether it turns a token differently in a longer text. With an alpha (Hunyuan) it is fixed."""
    kinds = (rope.scaling.get("type"), rope.scaling.get("rope_type"))
    return "dynamic" in kinds and rope.scaling.get("alpha") is None


def ropes_of(spec: DecoderSpec) -> list[RopeSpec]:
    mixers = [layer.mixer for layer in spec.layers if isinstance(layer.mixer, AttentionSpec | LatentSpec)]
    return [mixer.rope for mixer in mixers if mixer.rope is not None]


def states_of(spec: DecoderSpec, layout: Layout) -> list[RowState | None]:
    """Of a model that `learnable` knows; a layer without attention has none."""
    places = None if layout.is_batch else mx.array(layout.positions)
    return [
        RowState(layout, places, layer.mixer) if isinstance(layer.mixer, AttentionSpec | LatentSpec) else None
        for layer in spec.layers
    ]


class RowState:
    """Has of `kv.state.AttentionState` what attention asks for while it computes."""

    __slots__ = ("layout", "offset", "places", "window")

    def __init__(self, layout: Layout, places: mx.array | None, mixer: AttentionSpec | LatentSpec) -> None:
        self.layout, self.offset = layout, 0
        self.window = mixer.window if isinstance(mixer, AttentionSpec) else None
        # A rope that looks at the text's length must see each text by itself.
        self.places = None if mixer.rope is not None and by_length(mixer.rope) else places

    def mask(self, length: int) -> Mask:
        return None  # `attend` knows

    def rotate(self, rope: Rope, x: mx.array) -> mx.array:
        if self.layout.is_batch:
            return rope(x, 0)
        if self.places is None:
            parts = [rope(x[:, :, s.start : s.end], s.position) for s in self.layout.segments]
            return mx.concatenate(parts, axis=2)
        _, heads, length, dim = x.shape  # each token as a text of its own, at its own position
        turned = rope(x.transpose(0, 2, 1, 3).reshape(length, heads, 1, dim), self.places)
        return turned.reshape(1, length, heads, dim).transpose(0, 2, 1, 3)

    def append(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return keys, values

    def attend(
        self,
        queries: mx.array,
        held: tuple[mx.array, mx.array],
        *,
        scale: float,
        mask: Mask,
        sinks: mx.array | None = None,
        softcap: float | None = None,
    ) -> mx.array:
        how = Scoring(scale, self.window, softcap, sinks)
        if self.layout.is_batch:
            return attend(queries, *held, how)
        outs = [self._attend(run, queries, held, how) for run in self.layout.runs]
        return mx.concatenate(outs, axis=1).transpose(0, 2, 1, 3)

    def _attend(self, run: Run, queries: mx.array, held: Any, how: Scoring) -> mx.array:
        """[1, tokens of the run, heads, dim]."""
        keys, values = held
        if run.count > 1:
            parts = [_texts(x, run) for x in (queries, keys, values)]
        else:
            first = run.first
            parts = [queries[:, :, first.start : first.end], _seen(keys, first), _seen(values, first)]
        out = attend(parts[0], parts[1], parts[2], how)
        return out.transpose(0, 2, 1, 3).reshape(1, -1, out.shape[1], out.shape[3])


def _texts(x: mx.array, run: Run) -> mx.array:
    """The run's part of [1, heads, T, dim] as [count, heads, length, dim]."""
    part = x.transpose(0, 2, 1, 3)[:, run.first.start : run.end]
    return part.reshape(run.count, run.first.length, *part.shape[2:]).transpose(0, 2, 1, 3)


def _seen(x: mx.array, segment: Segment) -> mx.array:
    parts = [x[:, :, a:b] for a, b in segment.sees]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)
