"""A changed model: another object that shares with the base every part that no change names.

What is walked is whatever holds weights (it has `arrays`), so that a block of any make can be changed.
Linears and norms are known by their path; what has none, as a tied head, cannot be named.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from mlxone.core.errors import AdapterMismatch
from mlxone.models.block import AnyBlock
from mlxone.models.changes import (
    Changes,
    DoraLinear,
    LowRankLinear,
    changed_group,
    changed_linear,
    changed_norm,
)
from mlxone.models.decoder import Decoder
from mlxone.models.layers import (
    AnyNorm,
    Joined,
    LayerNorm,
    Linear,
    Norm,
    PackedLinear,
    Parallel,
    PlainLinear,
)

Part = TypeVar("Part")

LINEARS = (PlainLinear, PackedLinear, LowRankLinear, DoraLinear)
GROUPS = (Joined, Parallel)
NORMS = (Norm, LayerNorm)


@dataclass(frozen=True, slots=True)
class LinearFacts:
    in_dims: int
    out_dims: int
    bits: int | None  # that the checkpoint keeps each weight in; None: not packed


def changed_decoder(decoder: Decoder, changes: Changes) -> Decoder:
    return _changed(decoder, changes)


def changed_block(block: AnyBlock, changes: Changes) -> AnyBlock:
    """`changes` are this block's alone: a path that is not in it is a wrong one."""
    return _changed(block, changes)


def linears_of(part: Decoder | AnyBlock) -> dict[str, LinearFacts]:
    """By path, always in the same order."""
    return {path: LinearFacts(p.in_dims, p.out_dims, p.bits) for path, p in leaves_of(part).items()}


def leaves_of(part: Decoder | AnyBlock) -> dict[str, Linear]:
    """Every linear that has a path, what is joined taken apart."""
    found: dict[str, Linear] = {}
    for piece in _pieces(part):
        if isinstance(piece, GROUPS):
            found |= {leaf.path: leaf for leaf in piece.leaves()}
        elif isinstance(piece, LINEARS):
            found[piece.path] = piece
    found.pop("", None)
    return found


def norms_of(part: Decoder | AnyBlock) -> dict[str, AnyNorm]:
    return {piece.path: piece for piece in _pieces(part) if isinstance(piece, NORMS) and piece.path}


def _changed(part: Part, changes: Changes) -> Part:
    wanted = {path: own for path, own in changes.items() if own}
    _check_paths(part, wanted)
    if not wanted:
        return part

    def piece(old: Any) -> Any:
        if isinstance(old, GROUPS):
            return changed_group(old, wanted)
        if isinstance(old, NORMS):
            return changed_norm(old, wanted[old.path]) if old.path in wanted else old
        return changed_linear(old, wanted[old.path]) if old.path in wanted else old

    changed: Part = rebuilt(part, piece)
    return changed


def rebuilt(part: Any, piece: Callable[[Any], Any]) -> Any:
    """`part` with every linear, norm and group of linears put through `piece`.

    Where that gives back the same object everywhere, so does this.
    """
    if isinstance(part, (*LINEARS, *GROUPS, *NORMS)):
        return piece(part)
    if isinstance(part, list | tuple):
        items = [rebuilt(item, piece) for item in part]
        same = all(a is b for a, b in zip(items, part, strict=True))
        return part if same else type(part)(items)
    if not hasattr(part, "arrays"):
        return part
    news = {name: rebuilt(old, piece) for name, old in _fields(part).items()}
    news = {name: new for name, new in news.items() if new is not getattr(part, name)}
    if not news:
        return part
    other = copy.copy(part)
    for name, new in news.items():
        setattr(other, name, new)
    return other


def _pieces(part: Any) -> list[Any]:
    """Every linear, norm and group of linears."""
    found: list[Any] = []

    def keep(piece: Any) -> Any:
        found.append(piece)
        return piece

    rebuilt(part, keep)
    return found


def _fields(part: Any) -> Mapping[str, Any]:
    slots = [name for kind in type(part).__mro__ for name in getattr(kind, "__slots__", ())]
    return {name: getattr(part, name) for name in slots} | getattr(part, "__dict__", {})


def _check_paths(part: Any, wanted: Changes) -> None:
    unknown = sorted(wanted.keys() - leaves_of(part).keys() - norms_of(part).keys())
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise AdapterMismatch(f"this model has no linear or norm {unknown[0][:120]!r}{more}")
