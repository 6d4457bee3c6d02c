from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.hub.traits import is_drafter, license_of, read_traits, said_by_templates


def of(folder: Path, repo: str = "org/m", files: dict[str, str] | None = None, **config: Any) -> set[str]:
    for name, text in (files or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return set(read_traits(folder, repo, {"model_type": "llama"} | config).capabilities)


def test_a_plain_model_has_none(tmp_path: Path):
    assert of(tmp_path, files={"chat_template.jinja": "{{ messages }} toolset think"}) == set()


@pytest.mark.parametrize(
    ("config", "capability"),
    [
        ({"vision_config": {"hidden_size": 1}}, "vision"),
        ({"mm_vision_tower": "clip"}, "vision"),
        ({"audio_config": {"hidden_size": 1}}, "audio"),
        ({"model_type": "whisper"}, "audio"),
        ({"model_type": "bert"}, "embedding"),
        ({"model_type": "nomic_bert"}, "embedding"),
    ],
)
def test_said_by_the_config(tmp_path: Path, config: dict[str, Any], capability: str):
    assert of(tmp_path, **config) == {capability}


def test_an_empty_tower_is_none(tmp_path: Path):
    assert of(tmp_path, vision_config={}, audio_config=None) == set()


@pytest.mark.parametrize(
    ("files", "capability"),
    [
        ({"chat_template.jinja": "{% if tools %}x{% endif %}"}, "tools"),
        ({"tokenizer_config.json": json.dumps({"chat_template": "{{ tools | tojson }}"})}, "tools"),
        (
            {
                "tokenizer_config.json": json.dumps(
                    {"chat_template": [{"name": "tool_use", "template": "{{ tools }}"}]}
                )
            },
            "tools",
        ),
        ({"tokenizer_config.json": json.dumps({"tool_parser_type": "json_tools"})}, "tools"),
        ({"chat_template.json": json.dumps({"chat_template": "{{ tools }}"})}, "tools"),
        ({"additional_chat_templates/tool_use.jinja": "{{ tools }}"}, "tools"),
        ({"chat_template.jinja": "{% if enable_thinking %}"}, "thinking"),
        ({"chat_template.jinja": "<think>\n"}, "thinking"),
        ({"chat_template.jinja": "<|channel|>analysis"}, "thinking"),
        ({"chat_template.jinja": "<|channel>thought"}, "thinking"),
        ({"chat_template.jinja": "{%- if thinking %}"}, "thinking"),
        ({"modules.json": "[]"}, "embedding"),
        ({"1_Pooling/config.json": "{}"}, "embedding"),
        ({"README.md": "---\npipeline_tag: sentence-similarity\n---"}, "embedding"),
        ({"README.md": "---\ntags:\n- sentence-transformers\n---"}, "embedding"),
        ({"kv_config.json": "[]"}, "kv-config"),
    ],
)
def test_said_by_a_file(tmp_path: Path, files: dict[str, str], capability: str):
    assert of(tmp_path, files=files) == {capability}


def test_an_embedding_model_by_its_name_and_architecture(tmp_path: Path):
    assert of(tmp_path, "org/Qwen3-Embedding-0.6B", architectures=["Qwen3Model"]) == {"embedding"}
    assert of(tmp_path, "org/Qwen3-Embedding-0.6B", architectures=["Qwen3ForCausalLM"]) == set()
    assert of(tmp_path, "org/Qwen3-0.6B", architectures=["Qwen3Model"]) == set()


@pytest.mark.parametrize(
    "content", ["[", "[]", '{"chat_template": [1, {"template": 2}]}', '{"chat_template": {}}']
)
def test_odd_files_say_nothing(tmp_path: Path, content: str):
    assert of(tmp_path, files={"tokenizer_config.json": content, "chat_template.json": content}) == set()
    (tmp_path / "chat_template.jinja").mkdir()
    (tmp_path / "kv_config.json").mkdir()
    assert of(tmp_path) == set()


@pytest.mark.parametrize(
    ("repo", "config"),
    [
        ("org/gemma-4-e4b-it-assistant", {"model_type": "gemma4_assistant"}),
        ("org/m", {"architectures": ["LlamaForCausalLMEagle3"]}),
        ("org/m", {"model_type": "deepseek_mtp"}),
        ("org/m", {"draft_vocab_size": 32000}),
        ("org/Qwen2.5-Coder-0.5B-draft", {}),
        ("org/EAGLE3-LLaMA3.1-8B", {"model_type": "llama"}),
        ("org/gemma-4-assistant-drafter", {}),
        ("org/Qwen3-4B-DFlash-b16", {"model_type": "qwen3"}),
    ],
)
def test_companions(repo: str, config: dict[str, Any]):
    assert is_drafter(repo, config)


@pytest.mark.parametrize(
    ("repo", "config"),
    [
        ("org/Helpful-Assistant-7B", {"model_type": "llama"}),
        ("drafts/Qwen3-4B", {"model_type": "qwen3"}),
        ("eagle/Qwen3-4B", {"model_type": "qwen3"}),
        ("org/Qwen3.5-4B-MTP-4bit", {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForCausalLM"]}),
        ("org/Eagle2-9B", {"model_type": "eagle_vlm"[6:], "vision_config": {"hidden_size": 1}}),
        ("org/minedraft-7b", {"model_type": "llama", "architectures": None}),
    ],
)
def test_no_companions(repo: str, config: dict[str, Any]):
    assert not is_drafter(repo, config)


def test_licences():
    assert license_of({"license": "mit"}) == "mit"
    assert license_of({"license": ["mit", "apache-2.0"]}) == "mit, apache-2.0"
    assert license_of({"license": "other", "license_name": "gemma"}) == "gemma"
    assert license_of({"license": "other"}) == "other"
    assert license_of({"license": ""}) is None
    assert license_of({}) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["model_type", "architectures", "vision_config", "audio_config", "dflash_config"])


@given(st.dictionaries(KEYS, VALUES))
def test_any_config_has_traits(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]):
    read_traits(tmp_path_factory.getbasetemp(), "org/m", config)
    said_by_templates([])
