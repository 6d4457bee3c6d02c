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
from mlxone.service.checks import check_ids, check_number
from mlxone.text.template import ChatTemplate
from mlxone.text.tokenizer import Tokenizer

Ids = Sequence[int] | mx.array


@dataclass(slots=True)
class Model:
    name: str
    path: Path
    decoder: Decoder
    tokenizer: Tokenizer
    template: ChatTemplate | None
    eos_token_ids: frozenset[int]
    generation_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def context_length(self) -> int | None:
        """Prompt and answer together, in tokens; None when the config names no limit."""
        return self.decoder.spec.context_length

    @property
    def vocab_size(self) -> int:
        return self.decoder.spec.vocab_size

    # For loops of one's own -------------------------------------------------------------

    def new_state(self) -> ModelState:
        return self.decoder.new_state()

    def forward(self, ids: Ids, state: ModelState) -> mx.array:
        """Logits [L, vocabulary] of the next chunk, which the state now holds ([B, L] in, [B, L, V] out)."""
        with lock, on_stream():
            rows = self._rows(ids)
            logits = self.decoder.logits(self.decoder.hidden(rows, state))
            return logits if _is_batch(ids) else logits[0]

    def logits(self, ids: Ids, *, prefill_step: int = PREFILL_STEP) -> mx.array:
        """Logits [L, vocabulary] of a whole text, read in chunks of `prefill_step`."""
        check_number("prefill_step", prefill_step)
        state, parts = self.new_state(), []
        for start in range(0, len(ids), prefill_step):
            parts.append(self.forward(ids[start : start + prefill_step], state))
            with lock, on_stream():
                mx.eval(parts[-1])
        if not parts:
            raise UsageError("the text is empty", hint="give at least one token")
        with lock, on_stream():
            return mx.concatenate(parts)

    def _rows(self, ids: Ids) -> mx.array:
        """Ids as [B, L]. Lists are checked; an array is trusted, as looking at it would wait for it."""
        if isinstance(ids, mx.array):
            rows = ids if ids.ndim == 2 else ids[None]
        else:
            check_ids(ids, self.vocab_size)
            rows = mx.array([[int(id) for id in ids]])
        if rows.shape[-1] == 0:
            raise UsageError("the text is empty", hint="give at least one token")
        return rows


def _is_batch(ids: Ids) -> bool:
    return isinstance(ids, mx.array) and ids.ndim == 2
