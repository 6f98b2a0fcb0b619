"""Evaluation: from a defence, attacks and images to a verdict per image. Knows nothing of Lightning."""

from lit_pursamere.evaluation.evaluation import evaluate

__all__ = ["evaluate"]
