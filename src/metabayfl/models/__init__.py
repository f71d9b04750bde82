"""Networks as pure functions, by name."""

from metabayfl.models.mlp import mlp

__all__ = ["mlp"]
