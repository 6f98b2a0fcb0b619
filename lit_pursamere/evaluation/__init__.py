"""Evaluation: from a defence, attacks and images to a verdict per image. Knows nothing of Lightning."""
