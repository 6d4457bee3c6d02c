"""An adapter made part of its model: a folder that loads anywhere the base does.

The base's layout stays as it is, layer by layer: what the adapter does not touch is copied bit for
bit, what it changes is packed again in the same way. The folder is made aside and renamed last, so
it is there whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxone.backend.arrays import mx
from mlxone.core.errors import StorageError, UsageError
from mlxone.formats.config import Config, read_json
from mlxone.formats.durable import make_durable
from mlxone.formats.shards import INDEX
from mlxone.hub.find import find
from mlxone.hub.own_files import own_files
from mlxone.hub.starter import MANIFEST
from mlxone.models.adapters import Adapter
from mlxone.models.loading import load_decoder
from mlxone.service.model import Model
from mlxone.training.fused_tensors import FusedTensors
from mlxone.training.tensor_file import Slot, read_metadata, write_file

LICENCES = ("LICENSE", "NOTICE", "USE_POLICY")
# Weights are written anew, and what a base says of its own files is not true of the result.
LEFT_OUT = (".safetensors", ".bin", ".bin.index.json")


@dataclass(frozen=True, slots=True)
class Fused:
    path: Path
    bytes: int  # of weights
    linears: int  # how many of the base's weights were changed


def fuse(
    model: Model | str | Path,
    adapter: Adapter | str | Path,
    save_path: str | Path,
    *,
    dequantize: bool = False,
) -> Fused:
    """Writes the base with the adapter in it to `save_path`, which must not exist or be empty.

    `dequantize` gives a plain checkpoint: no weight is packed, and config.json says nothing of it.
    """
    base = model.path if isinstance(model, Model) else find(str(model)).path
    target = Path(os.path.expanduser(save_path)).absolute()
    _check_target(target, base)
    found = adapter if isinstance(adapter, Adapter) else Adapter.read(Path(os.path.expanduser(adapter)))
    # Names and sizes only: a decoder reads no weight before its first use.
    changes = found.changes(model.decoder if isinstance(model, Model) else load_decoder(base))
    tensors = FusedTensors(base, Config.read(base), changes, dequantize=dequantize)
    files = tensors.files()
    size = sum(slot.nbytes for slots in files.values() for slot in slots)
    with _made_aside(target, size) as folder:
        _copy_companions(base, folder)
        for source, slots in files.items():
            write_file(folder / source.name, slots, read_metadata(source), tensors.made)
            mx.clear_cache()
        _write_index(base, folder, files, size)
        if dequantize:
            _write_plain_config(base, folder)
    return Fused(target, size, len(changes))


def _check_target(target: Path, base: Path) -> None:
    resolved, source = target.resolve(), base.resolve()
    if resolved != source and resolved.is_relative_to(source):
        raise UsageError(f"{target} is inside the base model's folder", hint="save it elsewhere")
    try:
        taken = os.path.lexists(target) and (not target.is_dir() or any(target.iterdir()))
    except OSError as error:
        raise StorageError(f"{target} cannot be read: {error.strerror or error}") from None
    if taken:
        what = "is not empty" if target.is_dir() else "is a file"
        raise UsageError(f"{target} {what}", hint="name a folder that is not there yet")


@contextmanager
def _made_aside(target: Path, size: int) -> Iterator[Path]:
    staging = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if size > free:
            raise StorageError(
                f"{target}: the fused model takes {size / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free",
                hint="free some space or save it elsewhere",
            )
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        staging.chmod(0o755)  # mkdtemp's 0700 would stay with the model
        yield staging
        for path in (*staging.rglob("*"), staging):
            make_durable(path)
        os.rename(staging, target)
        make_durable(target.parent)
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _copy_companions(base: Path, folder: Path) -> None:
    """Config, tokenizer, template and licences; contents, not links into a cache."""
    licences = [path for path in base.iterdir() if path.name.startswith(LICENCES) and path.is_file()]
    for path in {*own_files(base, published=False), *licences}:
        if path.name in (MANIFEST, INDEX, ".cache") or path.name.endswith(LEFT_OUT):
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(path, folder / path.name)


def _write_index(base: Path, folder: Path, files: Mapping[Path, list[Slot]], size: int) -> None:
    if len(files) == 1 and not (base / INDEX).exists():
        return
    places = {slot.name: source.name for source, slots in files.items() for slot in slots}
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    _write_json(folder / INDEX, index)


def _write_plain_config(base: Path, folder: Path) -> None:
    config = read_json(base / "config.json")
    _write_json(
        folder / "config.json",
        {k: v for k, v in config.items() if k not in ("quantization", "quantization_config")},
    )


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
