from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer import spdx

KNOWN = frozenset({"MIT", "Apache-2.0", "ISC", "LLVM-exception", "LGPL-2.1"})
NAMES = st.sampled_from([*sorted(KNOWN), "Nonsense-1.0", "CC0-1.0"])
# Expressions as trees, so that an oracle can walk what the reader has to parse.
TREES = st.recursive(
    NAMES, lambda inner: st.tuples(st.sampled_from(["AND", "OR"]), inner, inner), max_leaves=8
)
Tree = str | tuple[str, "Tree", "Tree"]


def written(tree: Tree) -> str:
    return tree if isinstance(tree, str) else f"({written(tree[1])} {tree[0]} {written(tree[2])})"


def wanted(tree: Tree) -> frozenset[str] | None:
    if isinstance(tree, str):
        return frozenset({tree}) if tree in KNOWN else None
    left, right = wanted(tree[1]), wanted(tree[2])
    if tree[0] == "OR":
        return right if left is None else left
    return None if left is None or right is None else left | right


@given(TREES)
def test_any_expression(tree):
    expected = wanted(tree)
    if expected is None:
        with pytest.raises(spdx.UnknownError, match=r"^(Nonsense-1\.0|CC0-1\.0)$"):
            spdx.texts(written(tree), KNOWN)
    else:
        assert spdx.texts(written(tree), KNOWN) == expected


@pytest.mark.parametrize(
    ("expression", "texts"),
    [
        ("MIT", {"MIT"}),
        ("Apache-2.0  OR  MIT", {"Apache-2.0"}),
        ("Nonsense-1.0 AND MIT OR ISC", {"ISC"}),  # AND binds more closely
        ("MIT OR ISC AND Nonsense-1.0", {"MIT"}),
        ("Apache-2.0 WITH LLVM-exception", {"Apache-2.0", "LLVM-exception"}),
        ("LGPL-2.1-or-later", {"LGPL-2.1"}),
        ("Apache-2.0+ and MIT", {"Apache-2.0", "MIT"}),
    ],
)
def test_what_binds_how(expression, texts):
    assert spdx.texts(expression, KNOWN) == texts


@pytest.mark.parametrize("expression", ["", "MIT ISC", "(MIT", "MIT)", "()", "MIT AND", "(Nonsense"])
def test_what_is_no_expression_is_not_guessed_at(expression):
    with pytest.raises(spdx.UnknownError):
        spdx.texts(expression, KNOWN)
