"""The random numbers of an architecture's inputs."""

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded; its integers are int64, as torch's classes."""
    return np.random.default_rng(0)
