"""The tree of the prefix store: runs of token ids on its edges, what layers remember of them in its nodes.

A run stands in the tree once, whoever begins with it. A node holds a piece of every layer that
can be cut, so that its run can be split at any token. Of layers that cannot be cut it may hold
a checkpoint: what they are at exactly its end.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from mlxone.kv.pieces import Piece
from mlxone.kv.state import LayerState


def ids_of(tokens: Sequence[int]) -> array[int]:
    """Compact, and compared at once."""
    return array("q", tokens)


class Checkpoint:
    """Layers that cannot be cut, at the end of a node. They are forked to be used, never written."""

    __slots__ = ("layers", "nbytes", "node")

    def __init__(self, node: Node, layers: Sequence[LayerState | None]) -> None:
        self.node, self.layers = node, layers  # None: a layer that has a piece
        self.nbytes = sum(layer.nbytes for layer in layers if layer is not None)

    def goes_back_to(self, offset: int) -> bool:
        """True at its own place, and as long as nothing has left a window."""
        count = self.node.end - offset
        return all(layer is None or layer.can_trim(count) for layer in self.layers)


class Node:
    __slots__ = ("checkpoint", "children", "end", "nbytes", "parent", "pieces", "run")

    def __init__(self, parent: Node | None, run: array[int], pieces: Sequence[Piece | None]) -> None:
        self.parent, self.run = parent, run
        self.end: int = len(run) + (parent.end if parent is not None else 0)  # tokens from the root on
        self.children: dict[int, Node] = {}  # by the first token of their run
        self.checkpoint: Checkpoint | None = None
        self._hold(pieces)

    def _hold(self, pieces: Sequence[Piece | None]) -> None:
        self.pieces = pieces  # one for each layer; None: a layer that cannot be cut
        self.nbytes = sum(piece.nbytes for piece in pieces if piece is not None)

    @property
    def start(self) -> int:
        return self.end - len(self.run)

    @property
    def lacks_checkpoint(self) -> bool:
        return self.checkpoint is None and any(piece is None for piece in self.pieces)

    def bytes_up_to(self, offset: int) -> int:
        """Of its pieces: every token takes the same."""
        return self.nbytes * (min(offset, self.end) - self.start) // len(self.run)

    def parts(self, at: int) -> tuple[list[Piece | None], list[Piece | None]]:
        """Its pieces, cut `at` so many tokens of its run."""
        count = len(self.run)
        return (
            [piece and piece.part(0, at) for piece in self.pieces],
            [piece and piece.part(at, count) for piece in self.pieces],
        )

    def split(self, at: int, parts: tuple[Sequence[Piece | None], Sequence[Piece | None]]) -> Node:
        """The new node above it, which takes the beginning of its run."""
        assert self.parent is not None
        upper = Node(self.parent, self.run[:at], parts[0])
        self.parent.children[upper.run[0]] = upper
        self.parent, self.run = upper, self.run[at:]
        self._hold(parts[1])
        upper.children[self.run[0]] = self
        return upper

    def up(self) -> Iterator[Node]:
        """From itself to the last one below the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent


def follow(root: Node, ids: array[int]) -> tuple[list[Node], int]:
    """The nodes these ids lead through, and how many ids those are; the last node may go on otherwise."""
    path: list[Node] = []
    node, known = root, 0
    while known < len(ids) and (child := node.children.get(ids[known])) is not None:
        path.append(child)
        known += _shared(child.run, ids[known : known + len(child.run)])
        if known < child.end:
            break
        node = child
    return path, known


def nearest_checkpoint(path: Sequence[Node], known: int) -> tuple[Checkpoint, int] | None:
    """The checkpoint that brings back most of the first `known` tokens of a path, and how many it does."""
    for node in reversed(path):
        offset = min(known, node.end)
        if (found := _going_back_to(offset, node)) is not None:
            return found, offset
    return None


def _going_back_to(offset: int, top: Node) -> Checkpoint | None:
    """At a node or below it. What is past its window at one checkpoint is so at all behind it."""
    left = [top]
    while left:
        node = left.pop()
        if node.checkpoint is None:
            left += node.children.values()
        elif node.checkpoint.goes_back_to(offset):
            return node.checkpoint
    return None


def _shared(a: array[int], b: array[int]) -> int:
    """How many tokens they begin with in common."""
    if a == b:
        return len(a)
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return index
    return min(len(a), len(b))
