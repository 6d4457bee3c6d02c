"""The prefix store beside a plain list of all texts it was given, and its own books beside a recount."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.backend.arrays import mx
from mlxone.kv import prefixes
from mlxone.kv.buffer import STEP
from mlxone.kv.plain import PlainState
from mlxone.kv.prefixes import WORTH, PrefixStore
from mlxone.kv.radix import Checkpoint, Node, ids_of
from tests.kv.stored import (
    KINDS,
    ROOMY,
    TOKEN,
    TRIMS,
    WINDOW,
    arrays_of,
    assert_holds,
    audit,
    nodes,
    put,
    state_of,
    take,
)


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class Naive:
    """Every text there is, in no order, none ever thrown away."""

    def __init__(self, kind: str) -> None:
        self.kind, self.texts = kind, set[tuple[str, tuple[int, ...]]]()

    def best(self, namespace: str, ids: Sequence[int]) -> int:
        """How much of these ids can be had: up to any token while all can be forgotten, else whole texts."""
        found = 0
        for where, text in self.texts:
            common = shared(text, ids[:-1])
            if where == namespace and (common == len(text) or len(text) < TRIMS[self.kind]):
                found = max(found, common)
        return found


# Many begin alike, and go on alike past every window.
TEXTS = st.one_of(
    st.lists(st.integers(1, 3), max_size=11),
    st.builds(
        lambda count, rest: [1, 2, 3, 1, 1, 2, 2, 3, 3, 1][:count] + rest,
        st.integers(0, 10),
        st.lists(st.integers(1, 3), max_size=3),
    ),
)
NAMESPACES = st.sampled_from(["a", "b"])
OPERATIONS: st.SearchStrategy[list[Any]] = st.lists(
    st.one_of(
        st.tuples(st.just("put"), NAMESPACES, TEXTS),
        st.tuples(st.just("take"), NAMESPACES, TEXTS),
        st.tuples(st.just("forget"), NAMESPACES, st.just([])),
    ),
    max_size=16,
)
KIND = st.sampled_from(list(KINDS))


@pytest.fixture(params=[3, prefixes.RUN], scope="module")
def run_length(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nodes of a few tokens, too: a text is then a chain of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "RUN", request.param)
        yield


@pytest.mark.usefixtures("run_length")
@given(kind=KIND, operations=OPERATIONS)
def test_fuzz_it_gives_what_a_list_of_texts_would(kind: str, operations: list[Any]):
    store, naive = PrefixStore(ROOMY), Naive(kind)
    hits = misses = hit_tokens = 0
    for what, namespace, ids in operations:
        if what == "put":
            assert put(store, kind, namespace, ids) is (len(ids) > 0)
            naive.texts |= {(namespace, tuple(ids))} if ids else set()
        elif what == "forget":
            store.forget(namespace)
            naive.texts = {t for t in naive.texts if t[0] != namespace}
        else:
            expected = naive.best(namespace, ids)
            state = take(store, kind, namespace, ids)
            assert_holds(state, ids[:expected])
            plain = [layer for layer in state.layers if isinstance(layer, PlainState)]
            assert not expected or all(a.shape[2] == STEP for layer in plain for a in layer.arrays())
            worth = expected > 0 and expected >= min(WORTH, len(ids) / 2)
            hits, misses = hits + worth, misses + (not worth)
            hit_tokens += expected * worth
        audit(store)
    for namespace in ("a", "b"):
        texts = [t for where, t in naive.texts if where == namespace]
        ends = {t for t in texts if not any(shared(t, o) == len(t) < len(o) for o in texts)}
        assert sum(not n.children for n in nodes(store) if root_of(n) is store._roots.get(namespace)) == len(
            ends
        )
    figures = store.figures()
    assert (figures.hits, figures.misses, figures.hit_tokens) == (hits, misses, hit_tokens)
    assert (figures.entries, figures.bytes, figures.max_bytes) == (store.entries, store.bytes, ROOMY)


def root_of(node: Node) -> Node:
    while node.parent is not None:
        node = node.parent
    return node


TIGHT: st.SearchStrategy[list[Any]] = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "take"]), NAMESPACES, TEXTS),
        st.tuples(st.just("give way"), st.integers(0, 30 * TOKEN), st.just([])),
        st.tuples(st.just("allow"), st.integers(-5, 90 * TOKEN), st.just([])),
        st.tuples(st.just("forget"), NAMESPACES, st.just([])),
    ),
    max_size=20,
)


@pytest.mark.usefixtures("run_length")
@given(
    kind=KIND,
    operations=TIGHT,
    max_bytes=st.integers(0, 80 * TOKEN),
    max_entries=st.one_of(st.none(), st.integers(0, 4)),
)
def test_fuzz_a_tight_store(kind: str, operations: list[Any], max_bytes: int, max_entries: int | None):
    """It stays within its limits, its books are right, and what was used last is there in full."""
    store, naive, allowed = PrefixStore(max_bytes, max_entries), Naive(kind), max_bytes
    for what, where, ids in operations:
        before = store.bytes
        if what == "put":
            naive.texts |= {(where, tuple(ids))} if ids else set()
            stored = put(store, kind, where, ids)
            if ids and max_entries != 0:
                assert stored is (alone_size(kind, ids) <= allowed)
            if stored:
                assert_holds(take(store, kind, where, [*ids, 9]), ids)
            else:
                assert store.bytes == before  # nothing was driven out for it
        elif what == "take":
            state = take(store, kind, where, ids)
            assert state.offset <= naive.best(where, ids)
            assert_holds(state, ids[: state.offset])
        elif what == "give way":
            freed = store.give_way(where)
            assert freed == before - store.bytes >= min(where, before)
        elif what == "allow":
            store.allow(where)
            allowed = max(0, min(where, max_bytes))
        else:
            store.forget(where)
        audit(store)
    assert store.give_way(10**12) >= 0
    assert (store.bytes, store.entries, len(store._order)) == (0, 0, 0)


def alone_size(kind: str, ids: Sequence[int]) -> int:
    """What the text takes in a store of its own."""
    store = PrefixStore(ROOMY)
    put(store, kind, "", ids)
    return store.bytes


# What goes first --------------------------------------------------------------------------

SIZE = 2 * TOKEN  # of a token in two plain layers


def test_what_was_not_used_for_the_longest_time_goes_first():
    store = PrefixStore(12 * SIZE)
    for first in (1, 2, 3):
        assert put(store, "plain", "a", [first, 7, 7, 7])
    take(store, "plain", "a", [1, 7, 9])  # a part of it is use enough
    put(store, "plain", "b", [4, 7, 7, 7])
    assert [held(store, f) for f in (1, 2, 3)] == [4, 0, 4]
    take(store, "plain", "a", [2, 7, 7])  # a miss is no use
    put(store, "plain", "a", [1, 7, 7, 7])  # again
    put(store, "plain", "b", [5, 7, 7, 7])
    assert [held(store, f) for f in (1, 2, 3)] == [4, 0, 0]


def held(store: PrefixStore, first: int) -> int:
    """Without using it."""
    return store._follow("a", ids_of([first, 7, 7, 7]))[1]


def test_an_old_text_goes_from_its_end():
    store, text = PrefixStore(ROOMY), list(range(2 * prefixes.RUN + 9))
    put(store, "plain", "a", text)
    assert store.give_way(1) == 9 * SIZE
    assert store.give_way(1) == prefixes.RUN * SIZE
    assert take(store, "plain", "a", text).offset == prefixes.RUN
    put(store, "mixed", "b", text)
    assert store.give_way(1) == prefixes.RUN * SIZE
    store.give_way(1)
    assert (store.bytes, store.entries) == (0, 0)  # a checkpoint has no shorter self


def test_branches_go_before_the_stem():
    store = PrefixStore(ROOMY)
    stem = [1, 1, 1, 1]
    for branch in (2, 3):
        put(store, "plain", "a", [*stem, branch, branch])
    assert store.bytes == (4 + 2 + 2) * SIZE
    assert store.give_way(1) == 2 * SIZE
    assert [take(store, "plain", "a", [*stem, b, b, 9]).offset for b in (2, 3)] == [4, 6]
    assert store.entries == 1


def test_checkpoints_age_apart_from_what_they_stand_on():
    """Old places along one text go first; its last one stays, and all pieces up to there."""
    store, text = PrefixStore(ROOMY), list(range(1, 41))
    for end in (10, 20, 30, 40):
        put(store, "mixed", "a", text[:end])
    put(store, "mixed", "a", [99] * 8)
    take(store, "mixed", "a", [*text[:20], 77])
    assert store.give_way(1) == sum(min(window, 10) for window in (WINDOW, WINDOW + 2)) * TOKEN
    assert [take(store, "mixed", "a", [*text[:n], 77]).offset for n in (10, 20, 30, 40)] == [0, 20, 30, 40]
    audit(store)


def test_without_its_last_checkpoint_a_text_is_gone():
    store = PrefixStore(ROOMY)
    put(store, "mixed", "a", list(range(20)))
    put(store, "mixed", "a", list(range(30)))
    last = store.bytes
    assert store.give_way(last) == last
    put(store, "mixed", "a", list(range(20)))
    put(store, "mixed", "a", list(range(30)))
    take(store, "mixed", "a", [*range(20), 9])
    assert store.give_way(1) == (WINDOW + WINDOW + 2 + 10) * TOKEN  # and ten tokens of pieces
    assert take(store, "mixed", "a", list(range(40))).offset == 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_smaller_than_a_text_keeps_what_it_has(kind: str):
    store = PrefixStore(alone_size(kind, [1, 2, 3, 4]))
    assert put(store, kind, "a", [1, 2, 3, 4])
    assert not put(store, kind, "a", [5] * 40)
    assert not put(store, kind, "a", [1, 2, 3, 4] * 10) or kind == "sliding"  # there a window is all
    audit(store)
    if kind != "sliding":
        assert take(store, kind, "a", [1, 2, 3, 4, 5]).offset == 4


def test_what_a_text_goes_on_from_counts_as_a_part_of_it():
    store = PrefixStore(6 * SIZE)
    put(store, "plain", "a", [1, 2, 3, 4])
    assert not put(store, "plain", "a", [1, 2, 3, 4, 5, 6, 7])
    assert put(store, "plain", "a", [1, 2, 8, 8, 8, 8])  # of the four only two are a part of it
    assert store.bytes == 6 * SIZE
    audit(store)


@pytest.mark.parametrize("limits", [(0, None), (ROOMY, 0)])
def test_turned_off(limits: tuple[int, int | None]):
    store = PrefixStore(*limits)
    assert not put(store, "plain", "a", [1, 2, 3])
    assert take(store, "plain", "a", [1, 2, 3]).offset == 0
    assert (store.bytes, store.entries) == (0, 0)


def test_entries_are_texts_that_none_goes_on_from():
    store = PrefixStore(ROOMY, 2)
    for end in range(1, 9):  # one conversation
        put(store, "mixed", "a", list(range(end)))
        assert store.entries == 1
    put(store, "mixed", "a", [50, 51])
    put(store, "mixed", "a", [60, 61])
    assert store.entries == 2
    assert take(store, "mixed", "a", list(range(9))).offset < 8
    assert [take(store, "mixed", "a", [f, f + 1, 0]).offset for f in (50, 60)] == [2, 2]


def test_too_many_texts_cost_no_checkpoint_of_another():
    store, text = PrefixStore(ROOMY, 2), list(range(1, 41))
    for end in (10, 20, 30, 40):
        put(store, "mixed", "a", text[:end])
    put(store, "mixed", "a", [50, 51])
    take(store, "mixed", "a", [*text, 9])
    put(store, "mixed", "a", [60, 61])
    assert take(store, "mixed", "a", [50, 51, 9]).offset == 0
    assert [take(store, "mixed", "a", [*text[:n], 99]).offset for n in (10, 20, 30, 40)] == [10, 20, 30, 40]


@pytest.mark.parametrize("kind", ["sliding", "mixed", "recurrent"])
def test_a_shorter_text_gets_its_own_checkpoint(kind: str):
    store = PrefixStore(ROOMY)
    put(store, kind, "a", list(range(20)))
    assert take(store, kind, "a", list(range(11))).offset == 0
    assert put(store, kind, "a", list(range(10)))
    assert take(store, kind, "a", list(range(11))).offset == 10


def test_a_state_has_exactly_the_tokens_it_is_put_with():
    store = PrefixStore(ROOMY)
    for count in (0, 2, 4):
        with pytest.raises(ValueError, match="of 3 tokens does not hold"):
            store.put("a", [1] * count, state_of("plain", [1, 2, 3]))
    assert (store.bytes, store.entries) == (0, 0)


@pytest.mark.parametrize("kind", ["plain", "mixed", "sliding"])
@pytest.mark.parametrize("ids", [[1, 2], [1, 2, 3, 4, 5, 6, 7], [8]])
def test_there_is_room_before_anything_is_copied(kind: str, ids: list[int], monkeypatch: pytest.MonkeyPatch):
    store = PrefixStore(alone_size(kind, [1, 2, 3, 4, 5, 6]))
    put(store, kind, "a", [1, 2, 3, 4, 5, 6])
    computed, sizes = prefixes._computed, list[int]()

    def watched(parts: Any) -> bool:
        sizes.append(sum(a.nbytes for a in arrays_of(store)))
        return computed(parts)

    monkeypatch.setattr(prefixes, "_computed", watched)
    put(store, kind, "a", ids)
    assert all(size <= store.max_bytes for size in sizes)


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("ids", [[1, 2, 3, 9], [1, 2, 3]])
def test_a_copy_for_which_there_is_no_memory_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, ids: list[int], after: int
):
    """Neither halves of a node that is to be split nor, after them, what is new."""
    store, evaluate, left = PrefixStore(ROOMY), mx.eval, [after]
    put(store, "mixed", "a", [1, 2, 3, 4, 5, 6])
    before, state = store.figures(), state_of("mixed", ids)

    def full(*args: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("[malloc] Unable to allocate")
        evaluate(*args)

    with monkeypatch.context() as patch:
        patch.setattr("mlxone.kv.prefixes.mx.eval", full)
        assert not store.put("a", ids, state)
    assert (store.bytes, store.entries) == (before.bytes, before.entries)
    audit(store)
    assert_holds(take(store, "mixed", "a", [1, 2, 3, 4, 5, 6, 7]), [1, 2, 3, 4, 5, 6])
    assert store.put("a", ids, state)


def test_a_stem_that_was_left_with_nothing_goes_as_well(monkeypatch: pytest.MonkeyPatch):
    """Room was made for what then could not be copied: the old branch is gone, the new one never came."""
    store = PrefixStore(alone_size("mixed", [1, 2, 3, 4, 5, 6]))
    put(store, "mixed", "a", [1, 2, 3, 4, 5, 6])
    computed, calls = prefixes._computed, list[Any]()

    def only_once(parts: Any) -> bool:
        calls.append(parts)
        return len(calls) == 1 and computed(parts)

    monkeypatch.setattr(prefixes, "_computed", only_once)
    assert not put(store, "mixed", "a", [1, 2, 3, 9, 9, 9])
    assert len(calls) == 2
    audit(store)
    assert store.bytes == store.entries == 0


def test_without_memory_to_give_it_out_a_text_is_read_anew(monkeypatch: pytest.MonkeyPatch):
    store = PrefixStore(ROOMY)
    put(store, "mixed", "a", [1, 2, 3])
    with monkeypatch.context() as patch:
        patch.setattr(prefixes, "_computed", lambda parts: False)
        assert_holds(take(store, "mixed", "a", [1, 2, 3, 4]), [])
    assert (store.hits, store.misses) == (0, 1)
    assert take(store, "mixed", "a", [1, 2, 3, 4]).offset == 3


def test_checkpoints_are_found_from_any_place_on_the_way():
    """A short text that can go back serves where a longer one, past its window, cannot."""
    store = PrefixStore(ROOMY)
    put(store, "sliding", "a", [1, 2, 3, 4, 5, 6, 7, 8])
    put(store, "sliding", "a", [1, 2, 9])
    assert take(store, "sliding", "a", [1, 2, 3, 4, 0]).offset == 2
    checkpoints = [n.checkpoint for n in nodes(store) if isinstance(n.checkpoint, Checkpoint)]
    assert sorted(c.nbytes for c in checkpoints) == [3 * TOKEN, WINDOW * TOKEN]
