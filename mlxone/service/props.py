"""What a client may want to know of a model before it asks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mlxone.service.options import Options
from mlxone.service.preparing import defaults
from mlxone.service.shelf import Loaded


@dataclass(frozen=True, slots=True)
class Props:
    model: str
    context_length: int  # prompt and answer together
    chat_template: str
    bos_token: str
    eos_token: str
    sampling: dict[str, Any]  # what a request without any wishes gets


def props_of(loaded: Loaded, options: Options) -> Props:
    words = loaded.words
    limits = [n for n in (options.ctx_size, words.context_length, loaded.longest) if n]
    return Props(
        model=loaded.offer.id,
        context_length=min(limits),
        chat_template=words.template.source if words.template else "",
        bos_token=words.tokenizer.bos_token or "",
        eos_token=words.tokenizer.eos_token or "",
        sampling=asdict(defaults(words, options)),
    )
