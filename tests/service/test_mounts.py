"""What is mounted, as values, and what a wish means of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.errors import AdapterMismatch, AdapterNotFound, MlxoneError, UsageError
from mlxone.service.mounts import Mount, MountedAdapter, Mounts, check_id, ids_of


def mount(id: str, changes: Mapping[str, str] = {"a": "LowRank"}, size: int = 10) -> Mount:
    return Mount(MountedAdapter(id, id, 4, 2.0, size, len(changes)), Path(id), id, changes, size)


def mounts(*held: Mount | str) -> Mounts:
    found = Mounts()
    for one in held:
        found.add(mount(one) if isinstance(one, str) else one)
    return found


def chosen(of: Mounts, wish: Any) -> list[str]:
    return [each.id for each in of.chosen(wish)]


def test_wishes():
    held = mounts("a", "b", "c.1")
    for wish, ids in [
        (None, []), ("", []), ("none", []), ((), []),
        ("a", ["a"]), ("b+a", ["b", "a"]), (["c.1", "a"], ["c.1", "a"]), ("a+b+c.1", ["a", "b", "c.1"]),
    ]:  # fmt: skip
        assert chosen(held, wish) == ids


@pytest.mark.parametrize(
    "wish", ["a+a", "a+none", "none+a", "+", "a+", "+a", "a++b", ["a", "a"], ["none"], [1], ["a+b", ""]]
)
def test_a_wish_that_says_nothing_clear_is_refused(wish: Any):
    with pytest.raises(MlxoneError) as caught:
        mounts("a", "b").chosen(wish)
    assert caught.value.status in (400, 404) and caught.value.param == "adapter"


@pytest.mark.parametrize("wish", ["c", "A", " a", "a ", "a+c", "x" * 5_000])
def test_an_unknown_adapter_hears_of_those_there_are(wish: str):
    with pytest.raises(AdapterNotFound) as caught:
        mounts("b", "a").chosen(wish)
    assert caught.value.status == 404 and "a, b" in caught.value.hint and len(str(caught.value)) < 300
    with pytest.raises(AdapterNotFound, match="none is mounted"):
        Mounts().chosen(wish)


def test_memory_counts_all_that_is_held_and_the_most_that_one_needs_to_work():
    held = mounts(mount("a", size=5), mount("b", size=7))
    assert held.memory_bytes == 12 and Mounts().memory_bytes == 0
    held.add(replace(mount("c", size=1), working_bytes=100))
    held.add(replace(mount("d", size=1), working_bytes=40))
    assert held.memory_bytes == 114


def test_too_many():
    with pytest.raises(UsageError, match="17 adapters"):
        ids_of("+".join(f"a{n}" for n in range(17)))


@pytest.mark.parametrize("id", ["a", "A-b_c.9", "7", "nonesuch", "x" * 64])
def test_ids(id: str):
    check_id(id)
    assert ids_of(id) == (id,)


@pytest.mark.parametrize(
    "id", ["", "none", "None", "a+b", "a/b", "..", ".a", "-a", "a b", "ä", "a\n", "x" * 65, None, 3]
)
def test_what_cannot_be_an_id(id: Any):
    with pytest.raises(UsageError) as caught:
        check_id(id)
    assert caught.value.param == "id"


@given(st.text(max_size=80))
def test_whatever_may_be_an_id_is_a_wish_for_it_alone(text: str):
    try:
        check_id(text)
    except UsageError:
        return
    assert ids_of(text) == (text,) and chosen(mounts(text), text) == [text]


def test_an_id_is_mounted_once():
    held = mounts("a")
    with pytest.raises(UsageError, match="'a' is mounted already"):
        held.add(mount("a"))
    assert held.remove("a").id == "a"
    held.add(mount("a", size=20))
    assert held.memory_bytes == 20
    with pytest.raises(AdapterNotFound):
        held.remove("b")


def test_the_default_goes_with_its_adapter():
    held = mounts("a", "b")
    held.default = "a"
    held.remove("b")
    assert held.default == "a"
    held.remove("a")
    assert held.default is None


@pytest.mark.parametrize(
    ("kinds", "together"),
    [
        (("LowRank", "LowRank"), True),
        (("LowRank", "Dora"), True),
        (("Dora", "LowRank"), True),
        (("Dora", "Dora"), False),
        (("Replaced", "LowRank"), False),
        (("Replaced", "Replaced"), False),
    ],
)
def test_which_adapters_can_work_on_one_linear(kinds: tuple[str, str], together: bool):
    held = mounts(*(mount(id, {"q": kind, id: "LowRank"}) for id, kind in zip("ab", kinds, strict=True)))
    if together:
        assert chosen(held, "a+b") == ["a", "b"]
    else:
        with pytest.raises(AdapterMismatch, match="a and b cannot work together: both say all of q"):
            held.chosen("a+b")
    apart = mounts(*(mount(id, {id: kind}) for id, kind in zip("ab", kinds, strict=True)))
    assert chosen(apart, "a+b") == ["a", "b"]
