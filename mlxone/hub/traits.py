"""What a model can do, what licence it has, whether it is only another one's companion.

Read from its config, its chat templates and its card. Where nothing says so the answer is no:
a capability that is claimed and missing is worse than one that is there and not listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxone.core.errors import MlxoneError
from mlxone.formats.config import read_json
from mlxone.hub.readme import FrontMatter, front_matter, texts

LONGEST_TEMPLATE = 4 << 20  # bytes
MAX_TEMPLATES = 50

_TOOLS = re.compile(r"\btools\b")
_THINKING = re.compile(r"enable_thinking|</?think>|\[THINK\]|<\|channel\|?>|\bif (not )?thinking\b")
_VISION = ("vision_config", "vision_tower", "mm_vision_tower", "visual")
_AUDIO = ("audio_config", "audio_tower", "audio_encoder")
_AUDIO_TYPES = frozenset({"whisper", "parakeet", "moonshine", "wav2vec2"})
_EMBEDDING_TYPES = frozenset({
    "bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "camembert", "electra", "deberta-v2", "albert",
    "modernbert", "nomic_bert", "jina_bert", "gte",
})  # fmt: skip
_EMBEDDING_TAGS = frozenset({"sentence-transformers", "sentence-similarity"})
_EMBEDDING_FILES = ("modules.json", "config_sentence_transformers.json", "1_Pooling/config.json")
# In a model_type, an architecture or, as a whole word, in a name.
_DRAFT_TYPES = re.compile(r"assistant|eagle|medusa|dflash|speculator|(^|_)(draft(er)?|mtp)(_|$)|draftmodel")
_DRAFT_NAMES = frozenset({"draft", "drafter", "eagle", "eagle2", "eagle3", "dflash", "medusa", "speculator"})
_DRAFT_KEYS = ("draft_vocab_size", "dflash_config", "eagle_config", "speculators_config")


@dataclass(frozen=True, slots=True)
class Traits:
    capabilities: frozenset[str] = frozenset()
    license: str | None = None
    drafter: bool = False


def read_traits(folder: Path, repo: str, config: Mapping[str, Any]) -> Traits:
    card = front_matter(folder / "README.md")
    templates = list(chat_templates(folder))
    found = {
        "vision": any(config.get(key) for key in _VISION),
        "audio": any(config.get(key) for key in _AUDIO) or _kind(config) in _AUDIO_TYPES,
        "embedding": is_embedding(repo, config, card)
        or any((folder / name).is_file() for name in _EMBEDDING_FILES),
        "kv-config": (folder / "kv_config.json").is_file(),
        **said_by_templates(templates),
    }
    capabilities = frozenset(name for name, there in found.items() if there)
    return Traits(capabilities, license_of(card), is_drafter(repo, config))


def said_by_templates(templates: Iterable[str]) -> dict[str, bool]:
    text = "\n".join(templates)
    return {"tools": bool(_TOOLS.search(text)), "thinking": bool(_THINKING.search(text))}


def is_embedding(repo: str, config: Mapping[str, Any], card: FrontMatter) -> bool:
    if _kind(config) in _EMBEDDING_TYPES:
        return True
    tags = {*texts(card.get("tags")), *texts(card.get("pipeline_tag")), *texts(card.get("library_name"))}
    if tags & _EMBEDDING_TAGS:
        return True
    return "embed" in repo.lower() and any(name.endswith("Model") for name in _architectures(config))


def is_drafter(repo: str, config: Mapping[str, Any]) -> bool:
    kinds = [_kind(config), *_architectures(config)]
    if any(_DRAFT_TYPES.search(kind.lower()) for kind in kinds) or any(key in config for key in _DRAFT_KEYS):
        return True
    words = set(re.split(r"[^a-z0-9]+", repo.rpartition("/")[2].lower()))
    # Eagle is also the name of a family that sees.
    return bool(words & _DRAFT_NAMES) and not any(config.get(key) for key in _VISION)


def license_of(card: FrontMatter) -> str | None:
    stated = ", ".join(texts(card.get("license")))
    if stated == "other":
        return next(iter(texts(card.get("license_name"))), stated)
    return stated or None


def chat_templates(folder: Path) -> Iterator[str]:
    """Every template of a model, wherever it is kept; one that cannot be read has nothing to say."""
    beside = sorted((folder / "additional_chat_templates").glob("*.jinja"))[:MAX_TEMPLATES]
    for path in (folder / "chat_template.jinja", *beside):
        try:
            with path.open("rb") as file:
                yield file.read(LONGEST_TEMPLATE).decode(errors="replace")
        except OSError:
            continue
    for name in ("chat_template.json", "tokenizer_config.json"):
        try:
            yield from _stated(read_json(folder / name))
        except MlxoneError:
            continue


def _stated(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("tool_parser_type"):
        yield "tools"
    stated = config.get("chat_template")
    for item in stated if isinstance(stated, list) else [stated]:
        text = item.get("template") if isinstance(item, dict) else item
        if isinstance(text, str):
            yield text


def _kind(config: Mapping[str, Any]) -> str:
    return str(config.get("model_type", ""))


def _architectures(config: Mapping[str, Any]) -> list[str]:
    names = config.get("architectures")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
