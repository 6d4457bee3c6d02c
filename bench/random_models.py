"""Models with random weights at any shape: speed and parity do not depend on what they say."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlxone.backend.arrays import mx  # before mlx.nn: it brings the BLAS

# isort: split
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.utils import _get_classes

# Published configurations; what is left out is the family's default.
SHAPES: dict[str, dict[str, Any]] = {
    "Llama-3.2-1B": {
        "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    },
    "Qwen3-4B": {
        "model_type": "qwen3", "hidden_size": 2560, "num_hidden_layers": 36, "intermediate_size": 9728,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000, "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
    },
    "Llama-3.1-8B": {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    },
}  # fmt: skip


def save_random_model(
    folder: Path,
    config: Mapping[str, Any],
    *,
    dtype: mx.Dtype = mx.bfloat16,
    quantization: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """mlx-lm builds and saves it. `quantization`: group_size, bits, mode, and overrides by path.

    What mlx-lm's conversions keep in float32 is float32 here, whatever `dtype` says.
    """
    model_class, args_class = _get_classes(dict(config))
    model = model_class(args_class.from_dict(copy.deepcopy(dict(config))))
    casts: Callable[[str], bool] = getattr(model, "cast_predicate", lambda path: True)
    mx.random.seed(seed)

    def random(path: str, old: mx.array) -> mx.array:
        return _random(path, old.shape).astype(dtype if casts(path) else mx.float32)

    model.update(tree_map_with_path(random, model.parameters()))
    written = dict(config)
    if quantization is not None:
        _quantize(model, quantization)
        written["quantization"] = written["quantization_config"] = dict(quantization)
    folder.mkdir(parents=True, exist_ok=True)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(written))


def _random(path: str, shape: Sequence[int]) -> mx.array:
    # Norm weights near 1, matrices small enough to keep activations in range.
    if path.endswith("A_log"):  # recurrent heads that forget at all speeds
        return mx.log(mx.random.uniform(1, 16, shape))
    if path.endswith("dt_bias"):  # by a little at each token
        return mx.random.uniform(-5, -1, shape)
    if path.endswith(("conv1d.weight", "conv.weight")):  # [channels, tokens, 1]
        return mx.random.normal(shape) * shape[1] ** -0.5
    if len(shape) == 1:
        return 1 + 0.1 * mx.random.normal(shape)
    return mx.random.normal(shape) * shape[-1] ** -0.5


def _quantize(model: nn.Module, quantization: Mapping[str, Any]) -> None:
    def setting(path: str, module: nn.Module) -> Any:
        return quantization.get(path, True) if hasattr(module, "to_quantized") else False

    nn.quantize(
        model,
        quantization["group_size"],
        quantization["bits"],
        mode=quantization.get("mode", "affine"),
        class_predicate=setting,
    )
