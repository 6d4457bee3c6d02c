"""Models on the Hub that match some words: MLX conversions first, then others with safetensors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from mlxone.core.errors import HubError
from mlxone.hub import client
from mlxone.hub.entry import usability
from mlxone.hub.registry import Registry
from mlxone.hub.trouble import explained

MLX, MLX_AUTHOR = "mlx", "mlx-community/"
_LISTING = "the list of models"
_FIELDS = ("downloads", "lastModified", "library_name", "likes", "safetensors", "tags")

_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 1),
}
# Elements of these hold several weights each in a quantized model: their count says nothing of parameters.
_PACKED = {"U32", "I32", "U8", "I8"}


@dataclass(frozen=True, slots=True)
class Hit:
    repo: str
    mlx: bool
    size_bytes: int | None  # of the weights, where the Hub counted them
    parameters: int | None  # likewise; None where they are packed
    downloads: int  # of the last month
    likes: int
    updated: str | None  # a date, 2026-01-31
    on_disk: bool


def search(words: str, limit: int = 20) -> list[Hit]:
    """At most `limit`, each kind by its downloads."""
    client.check_online(_LISTING)
    with explained(_LISTING, None):
        rows = [row for tag in (MLX, "safetensors") for row in _listed(words, tag, limit)]
        held = _held() if rows else frozenset()
        hits = {row["id"]: _hit(row, held) for row in rows}
    return sorted(hits.values(), key=lambda hit: (not hit.mlx, -hit.downloads))[:limit]


def _listed(words: str, tag: str, limit: int) -> list[dict[str, Any]]:
    query = [("search", words), ("filter", tag), ("sort", "downloads"), ("limit", str(limit))]
    query += [("expand", field) for field in _FIELDS]
    rows = client.patiently(lambda: client.listing("models", query))
    if not isinstance(rows, list) or not all(_has_id(row) for row in rows):
        raise HubError("the Hub's answer is no list of models", hint="check HF_ENDPOINT")
    return rows


def _has_id(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("id"), str)


def _held() -> frozenset[str]:
    """The repos of which something whole is on this machine, wherever it lies."""
    with Registry() as registry:
        return frozenset(entry.repo_id.lower() for entry in registry.refresh() if usability(entry))


def _hit(row: dict[str, Any], held: Collection[str]) -> Hit:
    """What a listing has in another type than it should counts as not said."""
    repo: str = row["id"]
    counts = _counts(row.get("safetensors"))
    known = bool(counts) and counts.keys() <= _BYTES.keys()
    tags = row.get("tags")
    is_mlx = row.get("library_name") == MLX or (isinstance(tags, list) and MLX in tags)
    updated = row.get("lastModified")
    return Hit(
        repo=repo,
        mlx=is_mlx or repo.startswith(MLX_AUTHOR),
        size_bytes=sum(_BYTES[kind] * count for kind, count in counts.items()) if known else None,
        parameters=sum(counts.values()) if known and not counts.keys() & _PACKED else None,
        downloads=_count(row.get("downloads")),
        likes=_count(row.get("likes")),
        updated=updated[:10] or None if isinstance(updated, str) else None,
        on_disk=repo.lower() in held,
    )


def _counts(said: Any) -> dict[str, int]:
    """Elements by their type; empty unless all of it is what it should be."""
    counts = said.get("parameters") if isinstance(said, dict) else None
    if not isinstance(counts, dict) or not all(_is_count(count) for count in counts.values()):
        return {}
    return counts


def _count(said: Any) -> int:
    return int(said) if _is_count(said) else 0


def _is_count(said: Any) -> bool:
    return type(said) is int and 0 <= said < 2**63
