"""What people want to know of a family and no row of the table says. Imports no MLX.

`mlxone models` and docs/models.md print it. A test compares it with what tests/parity/ really measures, so a
family without an entry, or an entry that claims too much, fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlxone.models.families.family import Family
from mlxone.models.families.table import BY_MODEL_TYPE, FAMILIES

# The same for every family today.
TEMPLATE = "its own"  # Jinja, from the checkpoint
PARITY = "L1"  # with unquantized layer states every logit equals mlx-lm's
UNPACKED = "unpacked"  # bf16; on a CPU float32 where there are experts
USUAL = (UNPACKED, "4-bit", "mixed")
CONVERTED = (*USUAL, "as converted")  # as mlx-lm's conversion makes it: routers in 8 bits


@dataclass(frozen=True, slots=True)
class About:
    models: str  # as people call them
    tested: tuple[str, ...] = ()  # true sizes, cut to two layers, in tests/parity/
    calls: str = ""  # how published templates write a tool call; nothing reads that yet
    reasoning: str = ""  # what marks it in the text; it is shown as part of the text today
    vision: bool = False  # checkpoints see as well: only their text part is read
    inside: str = ""  # the family that computes the text, where this one is a frame around it
    packings: tuple[str, ...] = USUAL


THINK = "<think>"
JSON_TAGS = "JSON in <tool_call>"

ABOUT: Mapping[str, About] = {
    "llama": About(
        "Llama 2, 3 and 3.x; MiniCPM5; SmolLM 1 and 2; whatever calls itself llama",
        ("Llama-3.2-1B", "SmolLM2-135M"), "JSON or Python (Llama 3.x), XML (MiniCPM5)", f"{THINK} (MiniCPM5)",
        packings=(UNPACKED, "4-bit", "8-bit", "mixed", "mxfp4", "nvfp4"),
    ),
    "mistral": About("Mistral 7B, Nemo, Small; Ministral 8B", ("Mistral-7B-v0.3",),
                     "JSON after [TOOL_CALLS]"),
    "mistral3": About("Mistral Small 3.1 and later", calls="JSON after [TOOL_CALLS]", vision=True,
                      inside="mistral"),
    "ministral3": About(
        "Ministral 3", ("Ministral-3-3B",), "JSON after [TOOL_CALLS]", "[THINK]", vision=True,
    ),
    "qwen2": About("Qwen 2, Qwen 2.5", ("Qwen2.5-0.5B",), JSON_TAGS),
    "qwen3": About(
        "Qwen 3", ("Qwen3-0.6B",), JSON_TAGS, THINK,
        packings=(UNPACKED, "4-bit", "8-bit", "mixed", "mxfp4", "nvfp4"),
    ),
    "smollm3": About("SmolLM3", ("SmolLM3-3B",), JSON_TAGS, THINK),
    "phi3": About(
        "Phi-3, Phi-3.5, Phi-4, Phi-4-mini", ("Phi-3.5-mini", "Phi-4-mini"), "JSON after <|tool_call|>",
    ),
    "olmo2": About("OLMo 2", ("OLMo-2-1B",)),
    "olmo3": About("OLMo 3", ("OLMo-3-7B",), "Python in <function_calls>", THINK),
    "granite": About("Granite 3.x dense", ("Granite-3.3-2B",), "JSON after <|tool_call|>", THINK),
    "glm4": About("GLM-4-0414", ("GLM-4-9B-0414",), "a name, then JSON"),
    "cohere2": About("Command R7B, Command A, Tiny Aya", ("Command-R7B",), "JSON in <|START_ACTION|>"),
    "exaone4": About("EXAONE 4", ("EXAONE-4.0-1.2B",), JSON_TAGS, THINK),
    "seed_oss": About("Seed-OSS", ("Seed-OSS-36B",), "XML in <seed:tool_call>", "<seed:think>"),
    "ernie4_5": About("ERNIE 4.5 dense", ("ERNIE-4.5-0.3B",)),
    "hunyuan": About("Hunyuan dense", ("Hunyuan-0.5B",), "JSON in <tool_calls>", THINK),
    "starcoder2": About("StarCoder2", ("StarCoder2-3B",)),
    "stablelm": About("StableLM 2, StableLM 3B", ("StableLM-2-1.6B",)),
    "gemma": About("Gemma 1, CodeGemma", ("Gemma-2B",)),
    "gemma2": About("Gemma 2", ("Gemma-2-2B",)),
    "gemma3_text": About("Gemma 3 270M and 1B", ("Gemma-3-1B",)),
    "gemma3": About("Gemma 3 4B, 12B, 27B", vision=True, inside="gemma3_text"),
    "gemma4_text": About("Gemma 4's text models by themselves", ("Gemma-4-31B", "Gemma-4-e4b"),
                         "call tokens", "<|channel>"),
    "gemma4": About("Gemma 4 e2b, e4b, 26B-A4B, 31B", calls="call tokens", reasoning="<|channel>",
                    vision=True, inside="gemma4_text"),
    "gemma4_unified": About("Gemma 4 12B", calls="call tokens", reasoning="<|channel>", vision=True,
                            inside="gemma4_text"),
    "mixtral": About(
        "Mixtral 8x7B, 8x22B", ("Mixtral-8x7B",), "JSON after [TOOL_CALLS] (8x22B)",
        packings=(*USUAL, "mxfp4 experts"),
    ),
    "qwen2_moe": About("Qwen 1.5 and 2 MoE", ("Qwen1.5-MoE-A2.7B",)),
    "qwen3_moe": About(
        "Qwen 3 MoE, Qwen3-Coder", ("Qwen3-30B-A3B",), f"{JSON_TAGS}; XML (Coder)", THINK,
        packings=(*CONVERTED, "mxfp4 experts"),
    ),
    "olmoe": About("OLMoE", ("OLMoE-1B-7B",)),
    "gpt_oss": About(
        "GPT-OSS 20B, 120B", ("gpt-oss-20b",), "Harmony's commentary channel", "Harmony's analysis channel",
        packings=(*CONVERTED, "mxfp4 experts"),
    ),
    "glm4_moe": About("GLM-4.5, GLM-4.6", ("GLM-4.5-Air",), "XML in <tool_call>", THINK),
    "granitemoe": About("Granite 3.x MoE", ("granite-3.0-1b-a400m",), "JSON after <|tool_call|>",
                        packings=CONVERTED),
    "qwen3_next": About("Qwen3-Next", ("Qwen3-Next-80B-A3B",), JSON_TAGS, THINK),
    "qwen3_5": About(
        "Qwen 3.5, Qwen 3.6, dense and MoE", ("Qwen3.5-0.8B", "Qwen3.5-4B", "Qwen3.5-35B-A3B"),
        "XML in <tool_call>", THINK, vision=True,
    ),
    "nemotron_h": About(
        "Nemotron-H, Nemotron Nano 2 and 3", ("Nemotron-H-4B", "Nemotron-3-Nano-30B-A3B"),
        "JSON in <TOOLCALL>, XML (Nano 3)", THINK,
    ),
    "granitemoehybrid": About("Granite 4.0, dense, MoE and hybrid",
                              ("Granite-4.0-H-350M", "Granite-4.0-H-Tiny"), JSON_TAGS),
    "lfm2": About("LFM2, LFM2.5", ("LFM2-350M", "LFM2-2.6B"), "Python in <|tool_call_start|>", THINK),
    "lfm2_moe": About("LFM2-8B-A1B", ("LFM2-8B-A1B",), "Python in <|tool_call_start|>"),
    "deepseek_v2": About("DeepSeek-V2, V2-Lite, Coder-V2", ("DeepSeek-V2-Lite",)),
    "deepseek_v3": About("DeepSeek-V3, R1, V3.1; Moonlight; Kimi K2", ("DeepSeek-V3",),
                         "call tokens of its own", THINK),
    "minicpm3": About("MiniCPM3", ("MiniCPM3-4B",), "Python in <|tool_call_start|>"),
    "minicpm": About("MiniCPM 1, 2 and 4", ("MiniCPM-2B",)),
}  # fmt: skip


def tested(family: Family) -> tuple[str, ...]:
    """The true sizes it was compared at; a frame computes nothing itself."""
    about = ABOUT[family.name]
    return ABOUT[about.inside].tested if about.inside else about.tested


def found(name: str) -> list[Family]:
    """The families of that name or model_type; without such a one, those whose models are called that."""
    word = name.strip().lower()
    if exact := [f for f in FAMILIES if f.name == word or word in f.model_types]:
        return exact
    called = _plain(word)
    return [f for f in FAMILIES if called and called in _plain(f"{f.name} {ABOUT[f.name].models}")]


def _plain(words: str) -> str:
    """Some write Phi-4, some phi4."""
    return "".join(letter for letter in words.lower() if letter.isalnum())


def known_names() -> list[str]:
    return sorted({*BY_MODEL_TYPE, *(family.name for family in FAMILIES)})
