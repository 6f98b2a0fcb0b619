"""Closed-form worlds: the theory of the papers where it needs no sampling, toy worlds, and their figures."""
