"""Optimizers: torch's interface and rules, on JAX and optax."""

from .optimizer import Optimizer
from .rules import SGD, Adam, AdamW

__all__ = ["SGD", "Adam", "AdamW", "Optimizer"]
