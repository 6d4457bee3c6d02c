"""The second door to MLX: its optimizers, which only training needs and which take a moment to import."""

from __future__ import annotations

from mlxone.backend import arrays  # noqa: F401 - first: it brings the BLAS

# isort: split
import mlx.optimizers as optimizers

__all__ = ["optimizers"]
