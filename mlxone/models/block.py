"""One layer: what is added to the hidden state, and where it is normalised."""

from __future__ import annotations

from typing import Any, Protocol

from mlxone.backend.arrays import mx
from mlxone.kv.state import Mask
from mlxone.models.layers import AnyNorm
from mlxone.models.parts.per_layer_input import PerLayerInput


class Mixer(Protocol):
    """Looks at other tokens, through a state."""

    def __call__(self, x: mx.array, state: Any, mask: Mask) -> mx.array: ...

    def arrays(self) -> list[mx.array]: ...


class FeedForwardPart(Protocol):
    def __call__(self, x: mx.array) -> mx.array: ...

    def arrays(self) -> list[mx.array]: ...


class Block:
    """A mixer, a feed-forward part, or one after the other; each with norms before and behind it."""

    # Whoever walks a model sees its parts in this order: that of a layer's computation, but for norms.
    __slots__ = (
        "mixer", "mixer_norm", "after_mixer_norm", "feed_forward", "feed_forward_norm",
        "after_feed_forward_norm", "per_layer_input", "factor", "residual_scale", "clipped",
    )  # fmt: skip

    def __init__(
        self,
        mixer: Mixer | None,
        feed_forward: FeedForwardPart | None,
        norms: dict[str, AnyNorm],
        *,
        residual_scale: float | None = None,
        clipped: bool = False,
    ) -> None:
        self.mixer, self.feed_forward = mixer, feed_forward
        self.mixer_norm, self.feed_forward_norm = norms.get("mixer_norm"), norms.get("feed_forward_norm")
        self.after_mixer_norm = norms.get("after_mixer_norm")
        self.after_feed_forward_norm = norms.get("after_feed_forward_norm")
        self.residual_scale, self.clipped = residual_scale, clipped
        self.per_layer_input: PerLayerInput | None = None
        self.factor: mx.array | None = None  # [1]: the whole layer's

    def __call__(self, x: mx.array, state: Any, mask: Mask, own: mx.array | None = None) -> mx.array:
        """`own` is this layer's share of per-layer inputs."""
        if self.mixer is not None:
            seen = x if self.mixer_norm is None else self.mixer_norm(x)
            x = self._added(x, self.mixer(seen, state, mask), self.after_mixer_norm)
        if self.feed_forward is not None:
            seen = x if self.feed_forward_norm is None else self.feed_forward_norm(x)
            x = self._added(x, self.feed_forward(seen), self.after_feed_forward_norm)
        if self.per_layer_input is not None and own is not None:
            x = self.per_layer_input(x, own)
        return x if self.factor is None else x * self.factor

    def _added(self, x: mx.array, more: mx.array, norm: AnyNorm | None) -> mx.array:
        if norm is not None:
            more = norm(more)
        if self.residual_scale is not None:
            more = more * self.residual_scale
        if self.clipped and x.dtype == mx.float16:
            return _clipped_sum(x, more)
        return x + more

    def arrays(self) -> list[mx.array]:
        parts = [
            self.mixer, self.feed_forward, self.mixer_norm, self.after_mixer_norm, self.feed_forward_norm,
            self.after_feed_forward_norm, self.per_layer_input,
        ]  # fmt: skip
        found = [array for part in parts if part is not None for array in part.arrays()]
        return found if self.factor is None else [*found, self.factor]


class ParallelBlock:
    """Both parts read one norm of the same input."""

    __slots__ = ("mixer", "mixer_norm", "feed_forward", "parts_first")

    def __init__(
        self, mixer: Mixer, feed_forward: FeedForwardPart, norm: AnyNorm, *, parts_first: bool
    ) -> None:
        self.mixer, self.feed_forward, self.mixer_norm = mixer, feed_forward, norm
        self.parts_first = parts_first  # the order of summation is part of the numbers

    def __call__(self, x: mx.array, state: Any, mask: Mask, own: mx.array | None = None) -> mx.array:
        seen = self.mixer_norm(x)
        mixed, fed = self.mixer(seen, state, mask), self.feed_forward(seen)
        return mixed + fed + x if self.parts_first else x + mixed + fed

    def arrays(self) -> list[mx.array]:
        return [*self.mixer.arrays(), *self.feed_forward.arrays(), *self.mixer_norm.arrays()]


AnyBlock = Block | ParallelBlock


def _clipped_sum(x: mx.array, more: mx.array) -> mx.array:
    bound = mx.finfo(mx.float16).max
    wide = x.astype(mx.float32) + more.astype(mx.float32)
    return mx.clip(wide, -bound, bound).astype(mx.float16)
