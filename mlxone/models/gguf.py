"""Turns a GGUF file into an ordinary MLX snapshot directory.

The weights stay as quantized as they are: MLX's loader gives GGUF blocks its own packed layout,
and only names, the order of query and key rows, and the dtype of the norms change here.
Only the `llama` architecture is converted; nothing that would compute other numbers is let by.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from mlxone.backend.arrays import mx
from mlxone.core.errors import DamagedModel, StorageError, UnsupportedModel
from mlxone.formats.durable import make_durable
from mlxone.formats.gguf import Header, check_header, shown
from mlxone.models import gguf_tokenizer
from mlxone.models.gguf_config import Sizes, config_json, generation_config_json, read_sizes
from mlxone.models.gguf_weights import rename

ARCHITECTURES = ("llama",)


def convert(gguf: Path, folder: Path) -> None:
    """Writes the snapshot beside `folder`, then renames it: it is there whole or not at all."""
    header = check_header(gguf)
    try:
        architecture = header.values.get("general.architecture")
        if architecture not in ARCHITECTURES:
            raise UnsupportedModel(
                f"architecture {shown(architecture)} cannot be converted",
                hint="GGUF files of these can: " + ", ".join(ARCHITECTURES),
            )
        sizes = read_sizes(header)
        weights, metadata = _load(gguf)
        vocabulary = read_vocabulary(header, metadata)
        if len(vocabulary.tokens) > sizes.vocabulary:
            raise DamagedModel(f"{len(vocabulary.tokens)} tokens for {sizes.vocabulary} rows of embeddings")
        named, modules = rename(weights, sizes)
        documents = _documents(sizes, vocabulary, named, modules)
    except (DamagedModel, UnsupportedModel) as e:
        raise type(e)(f"{gguf}: {e.message}", hint=e.hint) from e
    _write(folder, documents, named)


def _load(gguf: Path) -> tuple[dict[str, mx.array], Mapping[str, Any]]:
    if not os.access(gguf, os.W_OK):
        # The loader asks for write access to the file, though it never writes.
        raise StorageError(f"{gguf}: is read-only, and MLX opens GGUF files for writing", hint="copy it")
    try:
        loaded = mx.load(str(gguf), format="gguf", return_metadata=True)
    except (RuntimeError, ValueError) as e:
        raise DamagedModel(str(e)) from e
    return cast("tuple[dict[str, mx.array], Mapping[str, Any]]", loaded)


def read_vocabulary(header: Header, metadata: Mapping[str, Any]) -> gguf_tokenizer.Vocabulary:
    """The tokenizer's facts: single values from the checked header, lists from MLX's loader."""

    def index(key: str) -> int | None:
        value = header.values.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(value, bool) or not isinstance(value, int | None):
            raise DamagedModel(f"tokenizer.ggml.{key}_token_id is {shown(value)}")
        return value

    def strings(key: str) -> list[str]:
        value = metadata.get(f"tokenizer.ggml.{key}", [])
        if not isinstance(value, list):
            raise DamagedModel(f"tokenizer.ggml.{key} is not a list of strings")
        return value

    types = metadata.get("tokenizer.ggml.token_type")
    if not isinstance(types, mx.array) or types.ndim != 1 or not mx.issubdtype(types.dtype, mx.integer):
        raise DamagedModel("tokenizer.ggml.token_type is missing or not a list of numbers")
    template = header.values.get("tokenizer.chat_template")
    return gguf_tokenizer.Vocabulary(
        model=str(header.values.get("tokenizer.ggml.model", "")),
        pre=str(header.values.get("tokenizer.ggml.pre", "")),
        tokens=strings("tokens"),
        types=cast("list[int]", types.tolist()),
        merges=strings("merges"),
        bos=index("bos"),
        eos=index("eos"),
        unknown=index("unknown"),
        padding=index("padding"),
        end_of_turn=index("eot"),
        add_bos=header.values.get("tokenizer.ggml.add_bos_token") is True,
        add_eos=header.values.get("tokenizer.ggml.add_eos_token") is True,
        chat_template=template if isinstance(template, str) else None,
    )


def _documents(
    sizes: Sizes,
    vocabulary: gguf_tokenizer.Vocabulary,
    weights: Mapping[str, mx.array],
    modules: Mapping[str, int | None],
) -> dict[str, Any]:
    dtype = str(weights["model.norm.weight"].dtype).removeprefix("mlx.core.")
    return {
        "config.json": config_json(sizes, vocabulary, modules, dtype),
        "generation_config.json": generation_config_json(vocabulary),
        "tokenizer.json": gguf_tokenizer.tokenizer_json(vocabulary),
        "tokenizer_config.json": gguf_tokenizer.tokenizer_config(vocabulary, sizes.context),
    }


def _write(folder: Path, documents: Mapping[str, Any], weights: dict[str, mx.array]) -> None:
    if folder.exists():
        raise StorageError(f"{folder} is there already", hint="remove it first")
    staging = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        staging.chmod(0o755)  # mkdtemp's 0700 would stay with the model
        for name, content in documents.items():
            text = json.dumps(content, ensure_ascii=False, indent=None if name == "tokenizer.json" else 2)
            (staging / name).write_text(text, encoding="utf-8")
        mx.save_safetensors(str(staging / "model.safetensors"), weights, metadata={"format": "mlx"})
        for path in (*staging.iterdir(), staging):
            make_durable(path)
        staging.rename(folder)
        make_durable(folder.parent)
    except OSError as e:
        raise StorageError(f"{folder}: cannot be written: {e.strerror or e}") from e
    except RuntimeError as e:  # MLX's writer
        raise StorageError(f"{folder}: the weights cannot be written: {e}") from e
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
