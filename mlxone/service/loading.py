"""From a name, a query or a path to a loaded model. Nothing heavy is read before its first use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxone.core.errors import DamagedModel
from mlxone.formats.config import Config, read_json
from mlxone.hub.find import Found, default_model, find
from mlxone.models.families.departures import departures
from mlxone.models.loading import load_decoder
from mlxone.service.model import Model
from mlxone.service.room import check_room
from mlxone.text.template import ChatTemplate
from mlxone.text.tokenizer import Tokenizer


def load(source: str | Path | None = None, *, chat_template: str | Path | None = None) -> Model:
    """Loads a model by path, repo id, short name or a query that matches one model on disk.

    Without a source: `MLXONE_MODEL`, then the config file's `model`, then the starter.
    """
    model = load_found(find(str(source) if source is not None else default_model()), chat_template)
    check_room(model)
    return model


def load_found(found: Found, chat_template: str | Path | None = None) -> Model:
    """The same, found already. Whether it can run here is the caller's question."""
    config = Config.read(found.path)
    tokenizer = Tokenizer.load(found.path)
    if chat_template is not None:
        template: ChatTemplate | None = ChatTemplate.from_file(Path(chat_template), tokenizer)
    else:
        template = ChatTemplate.load(found.path, tokenizer)
    generation = _generation_config(found.path)
    return Model(
        name=found.name,
        path=found.path,
        decoder=load_decoder(found.path, config=config),
        tokenizer=tokenizer,
        template=template,
        eos_token_ids=eos_ids(config, generation, tokenizer),
        generation_config=generation,
        departures=departures(config),
    )


def _generation_config(folder: Path) -> Mapping[str, Any]:
    path = folder / "generation_config.json"
    return read_json(path) if path.exists() else {}


def eos_ids(config: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: Tokenizer) -> frozenset[int]:
    """Where an answer ends: what generation_config.json says, else config.json; and the tokenizer's own."""
    name, stated = "generation_config.json", generation.get("eos_token_id")
    if stated is None:  # a plain `or` would miss the id 0
        name, stated = "config.json", config.get("eos_token_id")
    ids = stated if isinstance(stated, list) else [] if stated is None else [stated]
    if not all(type(id) is int for id in ids):
        raise DamagedModel(f"{name}: eos_token_id must be a token id or a list, not {str(stated)[:60]!r}")
    own = tokenizer.eos_id
    return frozenset(ids) | (frozenset() if own is None else {own})
