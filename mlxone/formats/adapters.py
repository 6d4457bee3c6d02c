"""`adapter_config.json` and the names of an adapter's tensors, in mlx-lm's words and in PEFT's.

Only what changes the result is kept. A setting that would make other numbers than ours is refused by
name; one that told the training how to go is not needed to use what came out of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from mlxone.core.errors import AdapterMismatch
from mlxone.formats.config import Config

Format = Literal["mlx-lm", "peft"]
Kind = Literal["lora", "dora", "full"]
Role = Literal["a", "b", "m", "weight", "bias"]

CONFIG_FILE = "adapter_config.json"
TENSOR_FILES: dict[Format, str] = {"mlx-lm": "adapters.safetensors", "peft": "adapter_model.safetensors"}
KINDS: tuple[Kind, ...] = ("lora", "dora", "full")

# The end of a tensor's name and what it holds; PEFT's are [r, in] and [out, r], the other way round.
MLX_LM_ROLES: dict[str, Role] = {"lora_a": "a", "lora_b": "b", "m": "m"}
FULL_ROLES: dict[str, Role] = {"weight": "weight", "bias": "bias"}
PEFT_ROLES: dict[str, Role] = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_magnitude_vector.weight": "m",
    "lora_magnitude_vector": "m",
}
PEFT_PREFIX = "base_model.model."
OWN_SECTION = (
    "mlxone"  # in the config, what no other program reads; in the tensor file's header, the essentials
)

# PEFT's settings that are read below, or that speak of training, of the base or of the library alone.
PEFT_READ = frozenset({
    *("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"),
    *("bias", "fan_in_fan_out", "init_lora_weights"),
})  # fmt: skip
PEFT_HARMLESS = frozenset({
    *("auto_mapping", "base_model_name_or_path", "revision", "peft_version", "task_type", "inference_mode"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout"),
    *("qalora_group_size", "runtime_config", "eva_config", "megatron_core", "ensure_weight_tying"),
})  # fmt: skip
# Ways to begin that leave the base as it was; others take from it what they give to the adapter.
PEFT_BEGINNINGS = (True, False, "gaussian", "orthogonal", "eva")
OFF: tuple[Any, ...] = (None, False, "", 0)


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    format: Format
    kind: Kind
    rank: int | None  # None: a full fine-tuning has none
    scale: float
    source: str
    ranks: Mapping[str, int] = field(default_factory=dict)  # mlxone's own note: before padding, by path
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    alpha: float = 0.0
    root: bool = False  # PEFT's rank-stabilized scale: alpha / sqrt(r)

    @property
    def essentials(self) -> str:
        """What the tensors' header repeats, so that halves of different saves are not taken for one."""
        values: dict[str, Any] = {
            "kind": self.kind,
            "rank": self.rank,
            "scale": self.scale,
            "root": self.root,
        }
        values |= {
            "ranks": self.ranks,
            "rank_pattern": self.rank_pattern,
            "alpha_pattern": self.alpha_pattern,
        }
        return json.dumps({key: value for key, value in values.items() if value}, sort_keys=True)

    def rank_of(self, path: str) -> int | None:
        rank: int | None = _by_pattern(self.rank_pattern, path, self.rank)
        return rank

    def scale_of(self, path: str) -> float:
        rank = self.rank_of(path)
        if self.format == "mlx-lm" or rank is None:
            return self.scale
        return _peft_scale(_by_pattern(self.alpha_pattern, path, self.alpha), rank, self.root)


def read_config(values: Mapping[str, Any], source: str) -> AdapterConfig:
    """`values` are the file's; raises AdapterMismatch, or DamagedModel for a value of a wrong kind."""
    config = Config(values, source=source)
    return _peft(config) if "peft_type" in config else _mlx_lm(config)


def tensor_role(name: str, config: AdapterConfig) -> tuple[str, Role]:
    """The path of the linear (or norm) that a tensor changes, and what it is to it."""
    if config.format == "peft":
        endings, prefix = PEFT_ROLES, PEFT_PREFIX
    else:
        endings, prefix = (FULL_ROLES if config.kind == "full" else MLX_LM_ROLES), ""
    for ending, role in endings.items():
        path = name.removeprefix(prefix).removesuffix(f".{ending}")
        if name.startswith(prefix) and name.endswith(f".{ending}") and path:
            return path, role
    raise AdapterMismatch(
        f"{config.source}: tensor {name[:160]!r} is none of a {config.kind} adapter",
        # PEFT puts a whole head or embedding beside the change of one, if not told otherwise.
        hint="save the adapter with save_embedding_layers=False" if config.format == "peft" else "",
    )


def _mlx_lm(config: Config) -> AdapterConfig:
    kind = config.get("fine_tune_type", "lora")
    if kind not in KINDS:
        raise config.wrong("fine_tune_type", " or ".join(KINDS))
    own = Config(config.section(OWN_SECTION), source=f"{config.source}: {OWN_SECTION}").section("ranks")
    ranks = {path: Config(own, source=f"{config.source}: {OWN_SECTION}.ranks").count(path) for path in own}
    if kind == "full":
        return AdapterConfig("mlx-lm", "full", None, 1.0, config.source, ranks)
    given = Config(config.section("lora_parameters"), source=f"{config.source}: lora_parameters")
    return AdapterConfig("mlx-lm", kind, given.count("rank"), given.number("scale"), config.source, ranks)


def _peft(config: Config) -> AdapterConfig:
    if config["peft_type"] != "LORA":
        raise _refused(config, "peft_type", "only LORA can be used")
    if config.get("bias", "none") != "none":
        raise _refused(config, "bias", "adapters that change biases cannot be used")
    if config.get("init_lora_weights", True) not in PEFT_BEGINNINGS:
        raise _refused(config, "init_lora_weights", "such adapters need a changed base; convert it with PEFT")
    if config.flag("fan_in_fan_out", False):
        raise _refused(config, "fan_in_fan_out", "no supported model keeps its weights that way")
    for key, value in config.items():
        if key not in PEFT_READ | PEFT_HARMLESS and value not in OFF and value != {} and value != []:
            raise _refused(config, key, "adapters that use this cannot be used")
    rank, alpha, root = config.count("r"), config.number("lora_alpha"), config.flag("use_rslora", False)
    ranks, alphas = (
        Config(config.section(key), source=f"{config.source}: {key}")
        for key in ("rank_pattern", "alpha_pattern")
    )
    return AdapterConfig(
        "peft", "dora" if config.flag("use_dora", False) else "lora", rank,
        _peft_scale(alpha, rank, root), config.source, alpha=alpha, root=root,
        rank_pattern={_pattern(ranks, key): ranks.count(key) for key in ranks},
        alpha_pattern={_pattern(alphas, key): alphas.number(key) for key in alphas},
    )  # fmt: skip


def _peft_scale(alpha: float, rank: int, root: bool) -> float:
    return alpha / (math.sqrt(rank) if root else rank)


def _pattern(section: Config, key: str) -> str:
    try:
        _end_of_path(key)
    except (re.error, RecursionError, OverflowError):
        raise AdapterMismatch(f"{section.source}: {key[:80]!r} is no regular expression") from None
    return key


def _by_pattern(patterns: Mapping[str, Any], path: str, otherwise: Any) -> Any:
    """As PEFT has it: the first that matches the path's end, from a dot on."""
    for pattern, value in patterns.items():
        if _end_of_path(pattern).match(path):
            return value
    return otherwise


@lru_cache(maxsize=8_192)  # adapters of several ranks name every linear, more than `re` remembers
def _end_of_path(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


def _refused(config: Config, key: str, why: str) -> AdapterMismatch:
    return AdapterMismatch(f"{config.source}: {key} is {str(config[key])[:80]!r}; {why}")
