from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlxone.core.errors import AmbiguousModel
from mlxone.core.facts import ModelFacts
from mlxone.hub.entry import Entry
from mlxone.hub.names import SHORT_NAMES
from mlxone.hub.resolve import choose, matching, one_per_repo

FACTS = ModelFacts("llama", (), 64, 64, 4, 16, 100, 0, 0, 0, 0, 0)


def entry(repo: str, parameters: float = 0, bits: float | None = None, **more) -> Entry:
    source = more.pop("source", "huggingface")
    made = Entry(
        repo,
        Path("/hub", source, repo),
        source,
        "safetensors",
        more.pop("size_bytes", 7_100_000_000),
        facts=replace(FACTS, parameters=int(parameters), bits=bits),
    )
    return replace(made, **more)


HELD = [
    entry("mlx-community/gemma-4-12B-it-4bit"),
    entry("mlx-community/gemma-4-12B-it-8bit", size_bytes=12_000_000_000),
    entry("mlx-community/gemma-4-26b-a4b-it-4bit"),
    entry("mlx-community/gemma-4-12B-it-assistant", drafter=True),
    entry("mlx-community/Qwen3-14B-4bit"),
    entry("mlx-community/Qwen3-4B-4bit"),
    entry("org/Mystral", 23.6e9, 4.0),
    entry("org/Mystral-mini", 7.2e9, 8.0),
    entry("org/half", problem="incomplete: config.json is missing"),
    entry("org/half-whole"),
]


def chosen(query: str, entries: list[Entry] = HELD) -> str | None:
    found = choose(query, entries, lambda entry, revision: revision)
    return found.name if found else None


@pytest.mark.parametrize(
    ("query", "meant"),
    [
        ("mlx-community/Qwen3-4B-4bit", "mlx-community/Qwen3-4B-4bit"),
        ("MLX-Community/qwen3-4b-4BIT", "mlx-community/Qwen3-4B-4bit"),
        ("qwen3-4b-4bit", "mlx-community/Qwen3-4B-4bit"),
        ("4B", "mlx-community/Qwen3-4B-4bit"),  # not 14B, not a4b
        ("14b", "mlx-community/Qwen3-14B-4bit"),
        ("a4b", "mlx-community/gemma-4-26b-a4b-it-4bit"),
        ("gemma:8bit", "mlx-community/gemma-4-12B-it-8bit"),
        ("12b-it:8bit", "mlx-community/gemma-4-12B-it-8bit"),
        ("gemma-4:26b", "mlx-community/gemma-4-26b-a4b-it-4bit"),
        ("mystral:24b", "org/Mystral"),
        ("mystral:8bit", "org/Mystral-mini"),
        ("mystral:7b:8bit", "org/Mystral-mini"),
        ("mystral:7b:4bit", None),
        ("mystral:70b", None),
        ("gemma-4-12b-it-assistant", "mlx-community/gemma-4-12B-it-assistant"),
        ("assistant", "mlx-community/gemma-4-12B-it-assistant"),
        ("whole", "org/half-whole"),
        ("half", "org/half-whole"),  # half a model is meant only when nothing else is
        ("org/half", "org/half"),
        ("qwen3:4b", "mlx-community/Qwen3-4B-4bit"),  # a short name
        ("qwen3:8b", None),
        ("nothing", None),
        ("@", None),
        ("", None),
    ],
)
def test_what_is_meant(query: str, meant: str | None):
    assert chosen(query) == meant


def test_several_are_listed_with_their_sizes():
    with pytest.raises(AmbiguousModel) as e:
        chosen("12b")
    assert e.value.message == (
        "'12b' matches 2 models: mlx-community/gemma-4-12B-it-4bit (7.1 GB), "
        "mlx-community/gemma-4-12B-it-8bit (12.0 GB)"
    )
    with pytest.raises(AmbiguousModel, match="org/m-7 .* and 2 more"):
        chosen("m", [entry(f"org/m-{i}") for i in range(10)])


def test_a_companion_can_be_asked_for_by_its_name():
    held = [*HELD, entry("org/gemma-4-12B-it-assistant-chat")]
    assert chosen("gemma-4-12b-it-assistant", held) == "mlx-community/gemma-4-12B-it-assistant"
    assert chosen("it-assistant", held) == "org/gemma-4-12B-it-assistant-chat"


def test_a_short_name_decides_though_others_match():
    held = [*HELD, entry(SHORT_NAMES["gemma4:12b"].replace("mlx-community", "other"))]
    assert chosen("gemma4:12b", held) == SHORT_NAMES["gemma4:12b"]


def test_the_same_repo_twice_is_no_question():
    here, there = entry("org/m"), entry("org/m", source="lmstudio")
    assert one_per_repo([here, there]) == [here]
    broken = replace(here, problem="damaged")
    assert one_per_repo([broken, there]) == [there]
    assert one_per_repo([broken, replace(there, problem="incomplete: x")]) == [broken]


def test_revisions():
    new = entry("org/m", revision="b2" * 20)
    old = entry("org/m", revision="a1" * 20, canonical=False)
    held = [old, new]
    assert one_per_repo(held) == [new]
    assert chosen("m", held) == "org/m"
    for query in ("org/m@a1a1a1a", "ORG/m@" + "a1" * 20, "m@a1a1a1a"):
        assert chosen(query, held) == "org/m@a1a1a1a1a1a1"
    assert chosen("org/m@b2b2b2b", held) == "org/m"
    for query in ("org/m@a1", "org/m@c3c3c3c", "none@a1a1a1a"):
        assert chosen(query, held) is None
    tagged = choose("m@v1", held, lambda entry, revision: {"v1": "a1" * 20}[revision])
    assert tagged == old
    with pytest.raises(AmbiguousModel):
        chosen("m@a1a1a1a", [*held, entry("org/m-2")][1:] + [entry("x/m")])


def test_a_name_with_an_at_in_it():
    assert chosen("me@home", [entry("me@home")]) == "me@home"


def test_all_that_match_keep_their_order():
    assert matching("gemma", HELD) == HELD[:4]
    assert matching("mystral:4bit", HELD) == [HELD[6]]


# Several GGUF models in one repo.


def quant(part: str, n: int = 1, **more) -> Entry:
    commit, repo = f"{n:040x}", more.pop("repo", "org/q")
    path = Path("/hub/models--org--q/snapshots", commit, f"{part}.gguf")
    made = entry(f"{repo}/{part}", size_bytes=10, revision=commit, part=part, **more)
    return replace(made, path=path, format="gguf")


def test_a_repos_id_means_all_that_is_in_it():
    held = [
        quant("m-Q4", capabilities=frozenset({"tools"})),
        quant("m-Q8"),
        quant("m-Q4", 2, canonical=False),
    ]
    for query in ("org/q", "ORG/Q"):
        found = choose(query, held, lambda entry, revision: revision)
        assert found is not None
        assert (found.repo, found.part, found.size_bytes) == ("org/q", "", 20)
        assert found.path == held[0].path.parent
        assert found.capabilities == {"tools"}
    assert chosen("org/q/m-Q4", held) == "org/q/m-Q4"
    assert chosen("m-q8", held) == "org/q/m-Q8"
    with pytest.raises(AmbiguousModel):
        chosen("q", held)


def test_a_revision_of_such_a_repo():
    held = [quant("m-Q4", 1), quant("m-Q8", 1), quant("m-Q4", 2, canonical=False)]
    found = choose(f"org/q@{2:040x}", held, lambda entry, revision: revision)
    assert found is not None and found.path == held[2].path.parent
    assert chosen(f"org/q@{3:040x}", held) is None


def test_where_the_table_has_no_repo_here_a_tag_says_what_is_meant():
    other = "mlx-community/gemma-4-12B-it-8bit"
    assert chosen("gemma4:12b", [entry(other)]) == other
    assert chosen("qwen3:4b", [entry("org/Qwen3-4B")]) == "org/Qwen3-4B"
    assert chosen("qwen3", [entry("org/Qwen3-4B")]) is None  # the table says which size a bare name is
    with pytest.raises(AmbiguousModel):
        chosen("gemma4:12b", [entry(other), entry("org/gemma-4-12B")])


def test_every_family_has_a_bare_name():
    assert {name.partition(":")[0] for name in SHORT_NAMES} <= SHORT_NAMES.keys()
