"""Which files of a folder belong to the model in it: `rm` takes these and leaves everything else.

By name, since a model's folder may be somebody's workplace: what could as well be theirs is theirs.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from pathlib import Path

from mlxone.core.errors import MlxoneError
from mlxone.formats.config import read_json
from mlxone.formats.shards import INDEX, indexed_names

OWN = (
    "config.json",
    "model*.safetensors",
    INDEX,
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
    "generation_config.json",
    "quantization_config.json",
    "quantize_config.json",
    "kv_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer*.model",
    "spiece.model",
    "sentencepiece*.model",
    "*.tiktoken",
    "tekken.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template*.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "starter.json",
)
# What comes with a download, and what anybody has in a folder of their own.
AS_PUBLISHED = (
    "README.md",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
    ".gitattributes",
    "configuration_*.py",
    "modeling_*.py",
    "tokenization_*.py",
    "processing_*.py",
)
FOLDERS = ("additional_chat_templates", "[0-9]_Pooling", "[0-9]_Dense", "[0-9]_Normalize")
NOTES = {"download", ".gitignore", "CACHEDIR.TAG"}
COMPANION = "*mmproj*.gguf"


def own_files(folder: Path, *, published: bool) -> list[Path]:
    """The one that makes it a model first. `published`: the folder holds a download and nothing else."""
    patterns = OWN + (AS_PUBLISHED if published else ())
    weights = _indexed(folder)
    own = [p for p in sorted(folder.iterdir()) if _is_weight(p, weights) or _is_own(p, patterns)]
    return sorted(own, key=lambda path: path.name != "config.json")


def _is_weight(path: Path, weights: set[str]) -> bool:
    return path.name in weights and (path.is_symlink() or not path.is_dir())


def companions(folder: Path, *, published: bool) -> list[Path]:
    """What only accompanies GGUF files: it goes with the last of them."""
    own = own_files(folder, published=published)
    return own + [path for path in sorted(folder.iterdir()) if fnmatch.fnmatch(path.name.lower(), COMPANION)]


def _is_own(path: Path, patterns: Iterable[str]) -> bool:
    if path.name == ".cache":
        return _is_download_note(path)
    wanted = FOLDERS if path.is_dir() and not path.is_symlink() else patterns
    return any(fnmatch.fnmatchcase(path.name, pattern) for pattern in wanted)


def _is_download_note(cache: Path) -> bool:
    """What the Hub client leaves of a download to a folder; in a home `.cache` holds all sorts of things."""
    inner = cache / "huggingface"
    if cache.is_symlink() or inner.is_symlink() or not inner.is_dir():
        return False
    found = {child.name for child in inner.iterdir()}
    alone = [child.name for child in cache.iterdir()] == ["huggingface"]
    return alone and bool(found) and found <= NOTES


def _indexed(folder: Path) -> set[str]:
    """The weights that its index names, whatever they are called."""
    try:
        names = indexed_names(read_json(folder / INDEX), INDEX)
    except MlxoneError:
        return set()
    return {name for name in names if name.endswith(".safetensors")}
