"""mlxone: runs, serves and trains language models on Apple's MLX.

The public names are imported on first use, so `import mlxone` itself costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "load": "mlxone.service.loading",
    "Model": "mlxone.service.model",
    "generate": "mlxone.service.generation",
    "generate_async": "mlxone.service.generation",
    "Generation": "mlxone.service.generation",
    "AsyncGeneration": "mlxone.service.generation",
    "TopLogprob": "mlxone.core.words",
    "Message": "mlxone.core.words",
    "Sampling": "mlxone.core.words",
    "Stats": "mlxone.core.words",
    "Token": "mlxone.core.words",
    "MlxoneError": "mlxone.core.errors",
}

__all__ = [
    "AsyncGeneration",
    "Generation",
    "Message",
    "MlxoneError",
    "Model",
    "Sampling",
    "Stats",
    "Token",
    "TopLogprob",
    "__version__",
    "generate",
    "generate_async",
    "load",
]

if TYPE_CHECKING:
    from mlxone.core.errors import MlxoneError
    from mlxone.core.words import Message, Sampling, Stats, Token, TopLogprob
    from mlxone.service.generation import AsyncGeneration, Generation, generate, generate_async
    from mlxone.service.loading import load
    from mlxone.service.model import Model


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'mlxone' has no attribute {name!r}") from None
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
