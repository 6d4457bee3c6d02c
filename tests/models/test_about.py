"""What is said of a family is what tests/parity/ measures."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlxone.models.families import about
from mlxone.models.families.about import ABOUT, found
from mlxone.models.families.table import BY_MODEL_TYPE, FAMILIES
from tests.models.tiny_families import PUBLISHED, family_name, measured

NAMES = [family.name for family in FAMILIES]


def test_every_family_has_an_entry():
    assert list(ABOUT) == sorted(ABOUT, key=NAMES.index)
    assert set(ABOUT) == set(NAMES)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_the_true_sizes_are_those_of_the_parity_tests(family):
    said = ABOUT[family.name]
    own = {name for name, config in PUBLISHED.items() if family_name(config) == family.name}
    assert set(said.tested) == own
    assert about.tested(family), "every family was compared at one true size at least"
    assert len(set(said.tested)) == len(said.tested)
    if said.inside:  # a frame: nothing of its own but where the tensors lie
        assert not said.tested and said.inside in NAMES and family.prefix


def test_the_packings_are_those_of_the_parity_tests():
    assert {name: set(said.packings) for name, said in ABOUT.items()} == measured()
    assert all({"unpacked", "4-bit"} < packings for packings in measured().values())


def test_what_sees_says_so():
    """A frame is there because something else stands beside the text model."""
    framed = {family.name for family in FAMILIES if family.prefix}
    assert {name for name, said in ABOUT.items() if said.vision} == framed


def test_found_by_what_it_is_called():
    def names(word: str) -> list[str]:
        return [family.name for family in found(word)]

    assert all(names(name) == [name] for name in ("llama", "qwen3", "gemma4"))
    assert all(BY_MODEL_TYPE[t] in found(t) for t in BY_MODEL_TYPE)
    assert names("kimi_k2") == names("Kimi K2") == ["deepseek_v3"]
    assert names("MiniCPM5") == names(" minicpm5 ") == ["llama"]
    assert names("granite 4.0") == names("granite4.0") == ["granitemoehybrid"]
    assert names("qwen3.6") == ["qwen3_5"] and names("phi4") == ["phi3"]
    assert names("") == names("--") == names("nonsense") == []


def test_it_is_said_without_mlx():
    code = "import sys, mlxone.models.families.about; print('mlx' in sys.modules, 'mlx.core' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
