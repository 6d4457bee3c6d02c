"""What encoding needs of a model: its words. And rows, written to files and read back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxone.text.template import ChatTemplate
from mlxone.training.data.rows import Row

CHATML = (
    "{%- for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor -%}"
    "{%- if add_generation_prompt %}<|assistant|>{% endif -%}"
)
STRICT = (  # wants turns in turn, as many published ones do
    "{%- for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor -%}"
)
USER = {"role": "user", "content": "Hi"}
MODEL = {"role": "assistant", "content": "Hello."}


@dataclass
class Words:
    tokenizer: Any
    template: ChatTemplate | None = None
    vocab_size: int = 100_000
    name: str = "tiny"


def words(tokenizer: Any, template: str | None = CHATML, **values: Any) -> Any:
    made = ChatTemplate(template, bos_token="<s>", eos_token="</s>") if template is not None else None
    return Words(tokenizer, made, **values)


def rows(*values: dict[str, Any]) -> list[Row]:
    return [Row(value, f"train.jsonl:{number}") for number, value in enumerate(values, 1)]


def write_jsonl(path: Path, values: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path
