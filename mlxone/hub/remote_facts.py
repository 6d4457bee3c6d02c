"""Plain numbers about a repo that is not on this machine: its config and its headers, fetched by range."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlxone.core.errors import DamagedModel
from mlxone.core.facts import ModelFacts
from mlxone.formats.config import MAX_CONFIG_BYTES, Config, parse_json
from mlxone.formats.safetensors import MAX_HEADER_BYTES, TensorInfo, damaged, parse_header
from mlxone.formats.shards import INDEX, indexed_names
from mlxone.hub import download
from mlxone.hub.facts import facts_of, kv_config_of
from mlxone.hub.remote import remote_file, remote_range

LIKELY = 256 << 10  # most headers are shorter: one request instead of two
AT_ONCE = 8
CONFIG, KV_CONFIG, SHARDS = "config.json", "kv_config.json", "model*.safetensors"


def remote_facts(repo: str, revision: str | None = None) -> ModelFacts:
    """As `read_facts` would say once it is downloaded. Nothing is kept."""
    plan = download.plan(repo, revision)
    sizes = {file.name: file.size for file in plan.files}
    config = Config(_object(plan, CONFIG), source=f"{repo}: {CONFIG}")
    shards = _shards(plan, sizes)
    with ThreadPoolExecutor(AT_ONCE) as crew:
        headers: Iterable[dict[str, TensorInfo]] = crew.map(lambda n: _header(plan, n, sizes[n]), shards)
        tensors = [info for header in headers for info in header.values()]
    kv_bits = {}
    if KV_CONFIG in sizes:
        kv_bits = kv_config_of(_json(plan, KV_CONFIG), f"{repo}: {KV_CONFIG}")
    return facts_of(config, tensors, kv_bits)


def _shards(plan: download.Plan, sizes: Collection[str]) -> list[str]:
    """What loading reads: a repo may hold adapters and drafters beside it."""
    if INDEX in sizes:
        names = indexed_names(_object(plan, INDEX), f"{plan.repo}: {INDEX}")
    else:
        names = [name for name in fnmatch.filter(sizes, SHARDS) if "/" not in name]
    missing = [name for name in names if name not in sizes]
    if missing or not names:
        raise DamagedModel(f"{plan.repo} holds no {missing[0][:80] if missing else SHARDS}")
    return names


def _object(plan: download.Plan, name: str) -> dict[str, object]:
    value = _json(plan, name)
    if not isinstance(value, dict):
        raise DamagedModel(f"{plan.repo}: {name} does not hold a JSON object")
    return value


def _json(plan: download.Plan, name: str) -> object:
    content = remote_file(plan.repo, plan.commit, name, limit=MAX_CONFIG_BYTES)
    return parse_json(content, f"{plan.repo}: {name}")


def _header(plan: download.Plan, name: str, size: int) -> dict[str, TensorInfo]:
    file = Path(plan.repo, name)
    first = remote_range(plan.repo, plan.commit, name, 0, min(size, LIKELY))
    length = int.from_bytes(first[:8], "little")
    if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise damaged(file, "its header is cut off or is no safetensors header")
    raw = first[8 : 8 + length]
    if len(raw) < length:
        raw += remote_range(plan.repo, plan.commit, name, len(first), 8 + length)
    return parse_header(raw, file, data_bytes=size - 8 - length)
