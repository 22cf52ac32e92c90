"""Compiled programs are mapped memory, and Linux gives a process 65,530 maps: XLA crashes where they are used up."""

from pathlib import Path

import jax

_MAPS = Path("/proc/self/maps")


def make_room(limit: int = 30_000) -> bool:
    """Forget JAX's compiled programs if they fill more than `limit` maps; says whether they did."""
    if not _MAPS.exists() or _MAPS.read_bytes().count(b"\n") <= limit:
        return False
    jax.clear_caches()
    return True
