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
    "Registry": "mlxone.service.registry",
    "load_context": "mlxone.service.embedded",
    "create_server": "mlxone.server.serving",
    "fit": "mlxone.service.fitting",
    "sku_matrix": "mlxone.service.fitting",
    "FitReport": "mlxone.fitting.report",
    "ModelFacts": "mlxone.core.facts",
    "MlxoneError": "mlxone.core.errors",
    "AdapterManager": "mlxone.service.adapters",
    "train": "mlxone.training.run",
    "TrainingResult": "mlxone.training.run",
    "evaluate": "mlxone.training.evaluate",
    "Evaluation": "mlxone.training.evaluate",
    "fuse": "mlxone.training.fuse",
}

__all__ = [
    "AdapterManager",
    "AsyncGeneration",
    "Evaluation",
    "FitReport",
    "Generation",
    "Message",
    "MlxoneError",
    "Model",
    "ModelFacts",
    "Registry",
    "Sampling",
    "Stats",
    "Token",
    "TopLogprob",
    "TrainingResult",
    "__version__",
    "create_server",
    "evaluate",
    "fit",
    "fuse",
    "generate",
    "generate_async",
    "load",
    "load_context",
    "sku_matrix",
    "train",
]

if TYPE_CHECKING:
    from mlxone.core.errors import MlxoneError
    from mlxone.core.facts import ModelFacts
    from mlxone.core.words import Message, Sampling, Stats, Token, TopLogprob
    from mlxone.fitting.report import FitReport
    from mlxone.server.serving import create_server
    from mlxone.service.adapters import AdapterManager
    from mlxone.service.embedded import load_context
    from mlxone.service.fitting import fit, sku_matrix
    from mlxone.service.generation import AsyncGeneration, Generation, generate, generate_async
    from mlxone.service.loading import load
    from mlxone.service.model import Model
    from mlxone.service.registry import Registry
    from mlxone.training.evaluate import Evaluation, evaluate
    from mlxone.training.fuse import fuse
    from mlxone.training.run import TrainingResult, train


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'mlxone' has no attribute {name!r}") from None
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
