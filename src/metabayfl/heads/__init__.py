"""Conjugate heads: priors that are learned, posteriors in closed form."""

from metabayfl.heads.conjugate_classification import conjugate_classification
from metabayfl.heads.conjugate_regression import conjugate_regression
from metabayfl.heads.head import Head, remember

__all__ = ["Head", "conjugate_classification", "conjugate_regression", "remember"]
