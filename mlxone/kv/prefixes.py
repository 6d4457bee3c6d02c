"""The prefix store: what layers remember of texts read before, for whoever begins alike.

A radix tree over token ids for every namespace (model, adapter and KV scheme: what must not be
mixed). A shared beginning is stored once; what is given out is built anew, so a row has it for
itself, any number of rows at a time, and what is stored may go at any moment. Bytes are those
of the arrays, exactly. What was not used for the longest time goes first.

Not here: which places are worth a checkpoint (whoever reads the prompt puts what it wants kept).
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.kv.buffer import room_for
from mlxone.kv.pieces import Piece, joined
from mlxone.kv.radix import Checkpoint, Node, follow, ids_of, nearest_checkpoint
from mlxone.kv.state import LayerState, ModelState

# Tokens in a node at most. What is split is copied, so this bounds what a split takes for a moment;
# and an old text goes from its end, so many tokens at a time, and not all at once.
RUN = 512

# A beginning that is worth being called a hit: nearly every text of a model begins with the same token.
WORTH, SHARE = 16, 0.5  # tokens, or this share of the text


@dataclass(frozen=True, slots=True)
class PrefixFigures:
    entries: int  # texts that are not the beginning of another one
    bytes: int
    max_bytes: int
    hits: int  # questions that had `WORTH` of their beginning from here; the others are misses
    misses: int
    hit_tokens: int  # tokens of hits


class PrefixStore:
    def __init__(self, max_bytes: int, max_entries: int | None = None) -> None:
        """0 bytes or entries: nothing is stored."""
        self.max_bytes, self.max_entries = max_bytes, max_entries
        self.bytes = self.entries = 0
        self.hits = self.misses = self.hit_tokens = 0
        self._allowed = max_bytes
        self._roots: dict[str, Node] = {}
        # By their last use. A checkpoint stands before its node and a node before its parent, so
        # whatever comes first may go: nothing that stays is built on it.
        self._order: OrderedDict[Node | Checkpoint, None] = OrderedDict()

    # Out of it and into it -------------------------------------------------------------

    def take(self, namespace: str, ids: Sequence[int], new_state: Callable[[], ModelState]) -> ModelState:
        """A state that holds as much of the ids' beginning as can be had: all but the last at most."""
        with lock, on_stream():
            state = new_state()
            path, known = self._follow(namespace, ids_of(ids[:-1]))
            checkpoint = None
            if path and not state.cuttable:
                checkpoint, known = nearest_checkpoint(path, known) or (None, 0)
            layers: list[LayerState] = []
            if known:
                path = [node for node in path if node.start < known]  # a checkpoint may lie before its end
                layers = _rebuilt(state, path, known, checkpoint, room_for(len(ids)))
            if not known or not _computed(layers):
                self.misses += 1
                return state
            state.layers = layers
            self._touch(checkpoint or path[-1])
            if known >= min(WORTH, SHARE * len(ids)):
                self.hits += 1
                self.hit_tokens += known
            else:
                self.misses += 1
            return state

    def put(self, namespace: str, tokens: Sequence[int], state: ModelState) -> bool:
        """Stores what is new in a state that holds exactly these tokens; False where it does not fit.

        What is larger than the store by itself is not stored at all: it would drive out everything else.
        """
        if any(layer.offset != len(tokens) for layer in state.layers):
            raise ValueError(f"a state of {state.offset} tokens does not hold {len(tokens)}")
        with lock, on_stream():
            ids = ids_of(tokens)
            path, known = self._follow(namespace, ids)
            if (there := _stored(path, known, len(ids), state.cuttable)) is not None:
                self._touch(there)
                return True
            runs = [(start, min(start + RUN, len(ids))) for start in range(known, len(ids), RUN)]
            pieces = [[layer.cut(start, end) for layer in state.layers] for start, end in runs]
            snapshots = [None if layer.cuttable else layer.snapshot() for layer in state.layers]
            new = [*chain(*pieces), *snapshots]
            before = sum(node.bytes_up_to(known) for node in path)
            if not ids or self.max_entries == 0 or before + _size(new) > self._allowed:
                return False
            if (base := self._place(namespace, path, known)) is None:
                return False
            node = base
            for (start, end), held in zip(runs, pieces, strict=True):
                node = self._add(node, ids[start:end], held)
            if not state.cuttable:
                node.checkpoint = Checkpoint(node, snapshots)
                self.bytes += node.checkpoint.nbytes
            self._touch(node.checkpoint or node)
            self._shrink()  # before anything is copied: the limit holds at every moment
            if not _computed(new):
                self._take_back(node, base)
                return False
            return True

    # Room for others -------------------------------------------------------------------

    def give_way(self, size: int) -> int:
        """Frees at least so many bytes, or all there are; says how many."""
        with lock:
            before = self.bytes
            while self._order and before - self.bytes < size:
                self._drop(next(iter(self._order)))
            return before - self.bytes

    def allow(self, size: int) -> None:
        """Keeps the store below so many bytes, and its own limit, from now on: rows need the memory."""
        with lock:
            self._allowed = max(0, min(size, self.max_bytes))
            self._shrink()

    def forget(self, namespace: str) -> None:
        """Everything of one model, adapter or scheme."""
        with lock:
            root = self._roots.get(namespace)
            while root is not None and root.children:
                leaf = next(iter(root.children.values()))
                while leaf.children:
                    leaf = next(iter(leaf.children.values()))
                self._remove(leaf)
            self._roots.pop(namespace, None)

    def figures(self) -> PrefixFigures:
        """Without the lock, which is held while a step runs: each number is right by itself."""
        return PrefixFigures(
            self.entries, self.bytes, self.max_bytes, self.hits, self.misses, self.hit_tokens
        )

    # The tree --------------------------------------------------------------------------

    def _follow(self, namespace: str, ids: array[int]) -> tuple[list[Node], int]:
        root = self._roots.get(namespace)
        return ([], 0) if root is None else follow(root, ids)

    def _place(self, namespace: str, path: Sequence[Node], known: int) -> Node | None:
        """The node that ends after the known tokens of a path; None where there is no memory to split one."""
        if not path:
            return self._roots.setdefault(namespace, Node(None, ids_of(()), ()))
        last = path[-1]
        if known == last.end:
            return last
        parts = last.parts(known - last.start)
        if not _computed((*parts[0], *parts[1])):
            return None
        return last.split(known - last.start, parts)

    def _add(self, parent: Node, run: array[int], pieces: Sequence[Piece | None]) -> Node:
        node = Node(parent, run, pieces)
        self.entries += not parent.run or bool(parent.children)  # else it goes on where one ended
        parent.children[run[0]] = node
        self.bytes += node.nbytes
        return node

    def _touch(self, used: Node | Checkpoint) -> None:
        things: list[Node | Checkpoint] = [used] if isinstance(used, Checkpoint) else []
        things += (used.node if isinstance(used, Checkpoint) else used).up()
        for thing in things:
            self._order[thing] = None
            self._order.move_to_end(thing)

    def _shrink(self) -> None:
        while self.bytes > self._allowed:
            self._drop(next(iter(self._order)))
        while self.max_entries is not None and self.entries > self.max_entries:
            self._drop(next(thing for thing in self._order if isinstance(thing, Node)))

    def _drop(self, first: Node | Checkpoint) -> None:
        if isinstance(first, Checkpoint):
            node: Node | None = first.node
            self._remove_checkpoint(first.node)
        else:
            node = first.parent
            self._remove(first)
        self._prune(node)

    def _take_back(self, node: Node, base: Node) -> None:
        """What was added to the base, up to this node."""
        self._remove_checkpoint(node)
        while node is not base and node.parent is not None:
            parent = node.parent
            self._remove(node)
            node = parent
        self._prune(base)

    def _prune(self, node: Node | None) -> None:
        """Pieces that lead to no checkpoint are of no use to layers that cannot be cut."""
        while node is not None and node.parent is not None and not node.children and node.lacks_checkpoint:
            parent = node.parent
            self._remove(node)
            node = parent

    def _remove(self, leaf: Node) -> None:
        assert leaf.parent is not None and not leaf.children
        self._remove_checkpoint(leaf)
        self._order.pop(leaf)
        self.bytes -= leaf.nbytes
        del leaf.parent.children[leaf.run[0]]
        self.entries -= not leaf.parent.run or bool(leaf.parent.children)

    def _remove_checkpoint(self, node: Node) -> None:
        if node.checkpoint is not None:
            self._order.pop(node.checkpoint)
            self.bytes -= node.checkpoint.nbytes
            node.checkpoint = None  # the two know each other: without this both would linger


def _stored(path: Sequence[Node], known: int, wanted: int, cuttable: bool) -> Node | Checkpoint | None:
    """What holds all that is wanted already."""
    if not path or known < wanted:
        return None
    if cuttable:
        return path[-1]
    return path[-1].checkpoint if path[-1].end == wanted else None


def _rebuilt(
    empty: ModelState, path: Sequence[Node], length: int, checkpoint: Checkpoint | None, capacity: int
) -> list[LayerState]:
    layers: list[LayerState] = []
    back = checkpoint.node.end - length if checkpoint is not None else 0
    for index in range(len(empty.layers)):
        whole = None if checkpoint is None else checkpoint.layers[index]
        if whole is None:
            pieces = [piece for node in path if (piece := node.pieces[index]) is not None]
            layers.append(joined(pieces, length, capacity))
        else:
            twin = whole.fork()  # its arrays are copied when the row first writes into them
            twin.trim(back)
            layers.append(twin)
    return layers


def _size(parts: Sequence[Piece | LayerState | None]) -> int:
    return sum(part.nbytes for part in parts if part is not None)


def _computed(parts: Sequence[Piece | LayerState | None]) -> bool:
    """False where there is no memory for it, which MLX calls a RuntimeError: what was there stays good."""
    try:
        mx.eval([array for part in parts if part is not None for array in part.arrays()])
    except (MemoryError, RuntimeError):
        return False
    return True
