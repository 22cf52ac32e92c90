"""The dtype of several arrays together."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def common_dtype(arrays: Iterable[Any]) -> np.dtype:
    """What torch promotes arrays to, whether or not JAX is told to promote implicitly."""
    with jax.numpy_dtype_promotion("standard"):
        return reduce(jnp.promote_types, [array.dtype for array in arrays])
