"""Short names of well-known models: `name` or `name:tag` -> the repo they mean.

A bare name means the size that most machines can run. The repos are 4-bit where there is one.
"""

from __future__ import annotations

SHORT_NAMES: dict[str, str] = {
    "gemma3": "mlx-community/gemma-3-4b-it-qat-4bit",
    "gemma3:1b": "mlx-community/gemma-3-1b-it-qat-4bit",
    "gemma3:4b": "mlx-community/gemma-3-4b-it-qat-4bit",
    "gemma3:12b": "mlx-community/gemma-3-12b-it-qat-4bit",
    "gemma3:27b": "mlx-community/gemma-3-27b-it-qat-4bit",
    "gemma4": "mlx-community/gemma-4-e4b-it-4bit",
    "gemma4:e2b": "mlx-community/gemma-4-e2b-it-4bit",
    "gemma4:e4b": "mlx-community/gemma-4-e4b-it-4bit",
    "gemma4:12b": "mlx-community/gemma-4-12B-it-4bit",
    "gemma4:26b": "mlx-community/gemma-4-26b-a4b-it-4bit",
    "gemma4:31b": "mlx-community/gemma-4-31b-it-4bit",
    "llama3.1": "mlx-community/Meta-Llama-3.1-8B-Instruct-4bit",
    "llama3.1:8b": "mlx-community/Meta-Llama-3.1-8B-Instruct-4bit",
    "llama3.2": "mlx-community/Llama-3.2-3B-Instruct-4bit",
    "llama3.2:1b": "mlx-community/Llama-3.2-1B-Instruct-4bit",
    "llama3.2:3b": "mlx-community/Llama-3.2-3B-Instruct-4bit",
    "llama3.3": "mlx-community/Llama-3.3-70B-Instruct-4bit",
    "llama3.3:70b": "mlx-community/Llama-3.3-70B-Instruct-4bit",
    "minicpm5": "mlx-community/MiniCPM5-1B-4bit",
    "minicpm5:1b": "mlx-community/MiniCPM5-1B-4bit",
    "mistral": "mlx-community/Mistral-7B-Instruct-v0.3-4bit",
    "mistral:7b": "mlx-community/Mistral-7B-Instruct-v0.3-4bit",
    "mistral-small": "mlx-community/Mistral-Small-24B-Instruct-2501-4bit",
    "mistral-small:24b": "mlx-community/Mistral-Small-24B-Instruct-2501-4bit",
    "qwen2.5": "mlx-community/Qwen2.5-7B-Instruct-4bit",
    "qwen2.5:0.5b": "mlx-community/Qwen2.5-0.5B-Instruct-4bit",
    "qwen2.5:1.5b": "mlx-community/Qwen2.5-1.5B-Instruct-4bit",
    "qwen2.5:3b": "mlx-community/Qwen2.5-3B-Instruct-4bit",
    "qwen2.5:7b": "mlx-community/Qwen2.5-7B-Instruct-4bit",
    "qwen2.5:14b": "mlx-community/Qwen2.5-14B-Instruct-4bit",
    "qwen2.5:32b": "mlx-community/Qwen2.5-32B-Instruct-4bit",
    "qwen3": "mlx-community/Qwen3-4B-4bit",
    "qwen3:0.6b": "mlx-community/Qwen3-0.6B-4bit",
    "qwen3:1.7b": "mlx-community/Qwen3-1.7B-4bit",
    "qwen3:4b": "mlx-community/Qwen3-4B-4bit",
    "qwen3:8b": "mlx-community/Qwen3-8B-4bit",
    "qwen3:14b": "mlx-community/Qwen3-14B-4bit",
    "qwen3:30b": "mlx-community/Qwen3-30B-A3B-4bit",
    "qwen3:32b": "mlx-community/Qwen3-32B-4bit",
    "qwen3.5": "mlx-community/Qwen3.5-4B-MLX-4bit",
    "qwen3.5:0.8b": "mlx-community/Qwen3.5-0.8B-MLX-4bit",
    "qwen3.5:2b": "mlx-community/Qwen3.5-2B-MLX-4bit",
    "qwen3.5:4b": "mlx-community/Qwen3.5-4B-MLX-4bit",
    "qwen3.5:9b": "mlx-community/Qwen3.5-9B-MLX-4bit",
    "qwen3.5:35b": "mlx-community/Qwen3.5-35B-A3B-4bit",
    "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",  # the starter
    "smollm2:135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "smollm2:360m": "HuggingFaceTB/SmolLM2-360M-Instruct",
    "smollm2:1.7b": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "smollm3": "mlx-community/SmolLM3-3B-4bit",
    "smollm3:3b": "mlx-community/SmolLM3-3B-4bit",
}


def repo_of(name: str) -> str | None:
    return SHORT_NAMES.get(name.strip().lower())
