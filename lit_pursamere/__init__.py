"""Train and evaluate adversarial purification, with PurSAMERE at its heart."""

__version__ = "0.1.0"
