from __future__ import annotations

from mlxone.core.amounts import first_of


def test_the_first_and_how_many_more():
    assert first_of([]) == ""
    assert first_of(["a", "b"]) == "a, b"
    assert first_of(list("abc"), 2) == "a, b and 1 more"
    assert first_of([str(n) for n in range(10)]).endswith(", 7 and 2 more")
