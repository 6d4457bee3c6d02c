"""What attention asks of its state, answered for a row of many texts; nothing is kept.

`x` comes as [B, heads, L, dim], B texts of one length, or as one row [1, heads, T, dim].
"""

from __future__ import annotations

from typing import Any

from mlxone.backend.arrays import mx
from mlxone.kv.state import Mask, Rope
from mlxone.models.spec import DecoderSpec, LayerSpec, RopeSpec
from mlxone.training.attention import attend
from mlxone.training.layout import Layout, Run, Segment


def by_length(rope: RopeSpec) -> bool:
    """Whether it turns a token differently in a longer text."""
    return "dynamic" in (rope.scaling.get("type"), rope.scaling.get("rope_type"))


def states_of(spec: DecoderSpec, layout: Layout) -> list[RowState]:
    places = None if layout.is_batch else mx.array(layout.positions)
    return [RowState(layout, places, layer, spec.window) for layer in spec.layers]


class RowState:
    """Has of `kv.state.LayerState` what a block asks for while it computes."""

    __slots__ = ("layout", "offset", "places", "window")

    def __init__(self, layout: Layout, places: mx.array | None, layer: LayerSpec, window: int | None) -> None:
        self.layout, self.offset = layout, 0
        self.window = window if layer.attention == "sliding" else None
        # A rope that looks at the text's length must see each text by itself.
        self.places = None if layer.rope is not None and by_length(layer.rope) else places

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
        self, queries: mx.array, held: tuple[mx.array, mx.array], *, scale: float, mask: Mask
    ) -> mx.array:
        if self.layout.is_batch:
            return attend(queries, *held, scale=scale, window=self.window)
        outs = [self._attend(run, queries, held, scale) for run in self.layout.runs]
        return mx.concatenate(outs, axis=1).transpose(0, 2, 1, 3)

    def _attend(self, run: Run, queries: mx.array, held: Any, scale: float) -> mx.array:
        """[1, tokens of the run, heads, dim]."""
        keys, values = held
        if run.count > 1:
            parts = [_texts(x, run) for x in (queries, keys, values)]
        else:
            first = run.first
            parts = [queries[:, :, first.start : first.end], _seen(keys, first), _seen(values, first)]
        out = attend(parts[0], parts[1], parts[2], scale=scale, window=self.window)
        return out.transpose(0, 2, 1, 3).reshape(1, -1, out.shape[1], out.shape[3])


def _texts(x: mx.array, run: Run) -> mx.array:
    """The run's part of [1, heads, T, dim] as [count, heads, length, dim]."""
    part = x.transpose(0, 2, 1, 3)[:, run.first.start : run.end]
    return part.reshape(run.count, run.first.length, *part.shape[2:]).transpose(0, 2, 1, 3)


def _seen(x: mx.array, segment: Segment) -> mx.array:
    parts = [x[:, :, a:b] for a, b in segment.sees]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)
