"""What the servers load: the starter in each side's best form, or random weights with a tokenizer."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.serve_sides import OURS, THEIRS

START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for m in messages %}" + START + "{{ m.role }}\n{{ m.content }}" + END + "\n{% endfor %}"
    "{% if add_generation_prompt %}" + START + "assistant\n{% endif %}"
)


@contextmanager
def on_disk(folder: Path) -> Iterator[dict[str, Path]]:
    """A folder on a CPU: as it is for us, with float32 scales for mlx-lm."""
    from bench.cpu import in_float32

    with TemporaryDirectory(prefix="mlxone-bench-") as temporary:
        yield {OURS: folder, THEIRS: in_float32(folder, Path(temporary, "model"))}


@contextmanager
def random_model(shape: str, quantization: dict[str, Any] | None) -> Iterator[dict[str, Path]]:
    from bench.random_models import SHAPES, save_random_model

    config = SHAPES[shape]
    size = config["vocab_size"]
    with TemporaryDirectory(prefix="mlxone-bench-") as temporary:
        folder = Path(temporary)
        save_random_model(folder, {**config, "eos_token_id": size - 1}, quantization=quantization)
        write_tokenizer(folder, size)
        yield {OURS: folder, THEIRS: folder}


def write_tokenizer(folder: Path, size: int) -> None:
    """Every id is a word of its own, and every text made of such words comes back as the same ids."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ("Ġ" + "".join(letters) for letters in product(string.ascii_lowercase, repeat=4))
    vocabulary = {text: id for id, text in enumerate([*alphabet, *islice(words, size - 2 - len(alphabet))])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (START, END)])
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def long_text(folder: Path, tokens: int, number: int) -> str:
    """About so many tokens for this folder's tokenizer, another text for each number."""
    from tokenizers import Tokenizer

    encode = Tokenizer.from_file(str(folder / "tokenizer.json")).encode
    text, line = f"Story number {number}.", 0
    while len(encode(text).ids) < tokens:
        line += 1
        text += f" On day {line} the keeper of lighthouse {number} wrote down what the sea had brought."
    return text + " How does it go on?"
