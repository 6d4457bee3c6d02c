"""A loaded model: weights, tokenizer, template and the model's own habits, in one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.core.errors import UsageError
from mlxone.core.settings import PREFILL_STEP
from mlxone.kv.state import ModelState
from mlxone.models.decoder import Decoder
from mlxone.service.adapters import AdapterManager
from mlxone.service.checks import check_ids, check_number, listed
from mlxone.service.mounts import Mounts
from mlxone.text.template import ChatTemplate
from mlxone.text.tokenizer import Tokenizer

Ids = Sequence[int] | mx.array


@dataclass(slots=True, eq=False)
class Model:
    name: str
    path: Path
    decoder: Decoder
    tokenizer: Tokenizer
    template: ChatTemplate | None
    eos_token_ids: frozenset[int]
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    departures: tuple[str, ...] = ()  # from the published code, as mlx-lm's are: what its name ... does
    _adapters: AdapterManager | None = field(default=None, init=False, repr=False)

    @property
    def context_length(self) -> int | None:
        """Prompt and answer together, in tokens; None when the config names no limit."""
        return self.decoder.spec.context_length

    @property
    def vocab_size(self) -> int:
        return self.decoder.spec.vocab_size

    @property
    def adapters(self) -> AdapterManager:
        """What is mounted on this model, and what a choice of it computes."""
        if self._adapters is None:
            self._adapters = AdapterManager(self)
        return self._adapters

    def take_over(self, mounts: Mounts) -> None:
        """The mounts of an earlier life of the same model."""
        self._adapters = AdapterManager(self, mounts)

    # For loops of one's own -------------------------------------------------------------

    def new_state(self) -> ModelState:
        return self.decoder.new_state()

    def forward(self, ids: Ids, state: ModelState) -> mx.array:
        """Logits [L, vocabulary] of the next chunk, which the state now holds ([B, L] in, [B, L, V] out)."""
        with lock, on_stream():
            rows = self._rows(ids)
            state.hold()
            logits = self.decoder.logits(self.decoder.hidden(rows, state))
            return logits if _is_batch(ids) else logits[0]

    def logits(self, ids: Ids, *, prefill_step: int = PREFILL_STEP) -> mx.array:
        """Logits [L, vocabulary] of a whole text, read in chunks ([B, L] in, [B, L, vocabulary] out)."""
        check_number("prefill_step", prefill_step)
        with lock, on_stream():
            rows, state, parts = self._rows(ids), self.new_state(), []
            for start in range(0, rows.shape[1], prefill_step):
                parts.append(self.forward(rows[:, start : start + prefill_step], state))
                mx.eval(parts[-1])
            logits = mx.concatenate(parts, axis=1)
            return logits if _is_batch(ids) else logits[0]

    def _rows(self, ids: Ids) -> mx.array:
        """Ids as [B, L]. Looking into an array would wait for it, so there ids are only kept in range."""
        if isinstance(ids, mx.array):
            if ids.ndim not in (1, 2) or not mx.issubdtype(ids.dtype, mx.integer):
                raise UsageError(f"ids are whole numbers [L] or [B, L], not {ids.dtype} {list(ids.shape)}")
            # MLX reads past the end of a table without a word.
            wide = ids.astype(mx.int64)  # a byte cannot be compared with a large vocabulary's last id
            rows = mx.clip(wide if ids.ndim == 2 else wide[None], 0, self.vocab_size - 1)
        else:
            ids = listed("ids", ids)
            check_ids(ids, self.vocab_size)
            rows = mx.array([[int(id) for id in ids]], mx.int32)
        if rows.shape[-1] == 0:
            raise UsageError("the text is empty", hint="give at least one token")
        return rows


def _is_batch(ids: Ids) -> bool:
    return isinstance(ids, mx.array) and ids.ndim == 2
