"""A random model that transformers builds and saves, in the form mlx-lm gives it, and three sets of logits.

Both are given the config in its published spelling. How far two sets of logits are apart is the largest
difference divided by the largest magnitude of the reference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from mlxone.backend.arrays import mx  # before mlx.nn: it brings the BLAS

# isort: split
import numpy as np
import torch
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from tests.oracle.case import Case


def build(case: Case, folder: Path) -> PreTrainedModel:
    """The model, and its files as published: float32, config.json in the spelling of the case."""
    torch.manual_seed(0)
    model = _empty(case.config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(_random(tensor))
            if name.endswith("dt_bias") and case.steps_around is not None:
                tensor.copy_(case.steps_around + torch.randn_like(tensor))
        packed = _packed_experts(model) if "quantization_config" in case.config else {}
    # Qwen 3.5 is published with its experts already stacked, as transformers holds them.
    model.save_pretrained(folder, save_original_format=case.config["model_type"] != "qwen3_5_moe")
    if packed:
        _replace(folder / "model.safetensors", packed)
    (folder / "config.json").rename(folder / "config_as_saved.json")
    (folder / "config.json").write_text(json.dumps(case.config))
    (folder / "generation_config.json").unlink(missing_ok=True)
    return model


def told(model: PreTrainedModel, config: Mapping[str, Any]) -> PreTrainedModel:
    """The same weights, computing by another config."""
    other = _empty(config)
    other.load_state_dict(model.state_dict())
    return other


def _packed_experts(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Gives the experts of GPT-OSS weights that mxfp4 can say exactly, and returns them packed."""
    packed: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            count, inner, outer = tensor.shape
            blocks = torch.randint(0, 256, (count, outer, inner // 32, 16), dtype=torch.uint8)
            scales = torch.randint(121, 124, (count, outer, inner // 32), dtype=torch.uint8)
            tensor.copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
            packed |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    return packed


def _replace(file: Path, packed: Mapping[str, torch.Tensor]) -> None:
    wide = {name.rpartition("_")[0] for name in packed}
    kept = {name: tensor for name, tensor in load_file(file).items() if name not in wide}
    save_file(kept | dict(packed), file, {"format": "pt"})


def _empty(config: Mapping[str, Any]) -> PreTrainedModel:
    # Copies: transformers writes into the sections that it is given.
    settings = {k: deepcopy(v) for k, v in config.items() if k not in ("model_type", "quantization_config")}
    made = AutoConfig.for_model(config["model_type"], **settings)
    kind = AutoModelForImageTextToText if "text_config" in config else AutoModelForCausalLM
    return kind.from_config(
        made, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    ).eval()


def _random(tensor: torch.Tensor) -> torch.Tensor:
    """Vectors stay near what the family starts them with; matrices keep activations in range."""
    if tensor.ndim <= 1 or min(tensor.shape) == 1:
        return tensor + 0.1 * torch.randn_like(tensor)
    return torch.randn_like(tensor) * tensor.shape[-1] ** -0.5


def convert(source: Path, target: Path) -> None:
    """What mlx-lm makes of a published checkpoint: its own names and shapes."""
    model, config = load_model(source)
    target.mkdir()
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(target / "model.safetensors"), weights, {"format": "mlx"})
    (target / "config.json").write_text(json.dumps(config))


def in_new_spelling(source: Path, target: Path) -> dict[str, Any]:
    """The config of what `convert` made, as transformers 5 writes it."""
    packing = {"quantization", "quantization_config"}
    kept = {k: v for k, v in json.loads((target / "config.json").read_text()).items() if k in packing}
    return json.loads((source / "config_as_saved.json").read_text()) | kept


def logits_of_transformers(model: PreTrainedModel, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].numpy()


def logits_of_mlx_lm(folder: Path, ids: list[int]) -> np.ndarray:
    model, _ = load_model(folder)
    return np.array(model(mx.array([ids]), cache=make_prompt_cache(model)))[0]


def distance(logits: np.ndarray, reference: np.ndarray) -> float:
    assert logits.shape == reference.shape
    assert np.isfinite(reference).all()
    return float(np.abs(logits - reference).max() / np.abs(reference).max())
