"""Random numbers: a `Generator` is a key and a counter, in one box, so that every transform threads it.

A draw is `fold_in(key, counter)`, then the counter advances. So the same seed gives the same bits eagerly and compiled,
on every platform. A draw inside a raw JAX transform, which would lose the advance and repeat itself, is an error.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .core.box import Slot, unbox
from .core.context import tls
from .core.state import Stateful

_FOREIGN = (
    "a random number is drawn inside a raw JAX transform (jax.jit, jax.grad, jax.vmap, ...), which would repeat it."
)
_USE_RNG = (
    "Use the transform of the same name in jaxmodule (jm.jit, jm.grad, ...), which advances the generator;\n"
    "or give the block its own: `with jm.use_rng(key): ...`; or `model.eval()` if nothing should be drawn."
)


_making_locks = threading.Lock()


class _RngState(Slot):
    """uint32 key data followed by the counter: one leaf, as every compiled call carries it."""

    __slots__ = ("_lock",)
    _random = True
    _foreign = _FOREIGN
    _remedy = _USE_RNG

    @property
    def lock(self) -> Any:
        """Held while the state is read and written, so that no two threads draw the same numbers."""
        try:
            return self._lock
        except AttributeError:
            with _making_locks:
                if not hasattr(self, "_lock"):
                    self._lock = threading.RLock()
            return self._lock


@partial(jax.jit, static_argnames="impl", inline=True)
def _draw(state: jax.Array, impl: str) -> tuple[jax.Array, jax.Array]:
    key = jax.random.fold_in(jax.random.wrap_key_data(state[:-1], impl=impl), state[-1])
    return key, advanced(state)


@jax.jit
def forked(state: jax.Array, lane: jax.Array) -> jax.Array:
    """A generator's state for one of many traces that run at once: as if the next draw were its seed, with `lane`."""
    words = state[:-1].reshape(-1, 2)  # of any kind of generator
    keys = jax.random.wrap_key_data(words, impl="threefry2x32")
    keys = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, state[-1]), lane))(keys)
    return jnp.concatenate([jax.random.key_data(keys).reshape(-1), jnp.zeros(1, jnp.uint32)])


def advanced(state: jax.Array) -> jax.Array:
    """A generator's state after one draw."""
    return state.at[-1].add(jnp.uint32(1))


def _as_key(seed: Any) -> jax.Array:
    """A typed key from an int, a typed key, or the uint32 data of an old one."""
    seed = unbox(seed) if not isinstance(seed, int) else seed
    if isinstance(seed, int):
        return jax.random.key(seed & 0xFFFFFFFF if seed < 0 else seed)
    if jnp.issubdtype(seed.dtype, jax.dtypes.prng_key):
        return seed
    return jax.random.wrap_key_data(seed) if seed.ndim == 1 else jax.random.key(seed)


class Generator(Stateful):
    """A source of random keys.

    Args:
        seed: an int, or a JAX key.

    Example:
        >>> import jaxmodule as jm
        >>> g = jm.Generator(0)
        >>> a, b = g.next_key(), g.next_key()
        >>> bool((a == b).all())
        False
        >>> bool((jm.Generator(0).next_key() == a).all())
        True
    """

    _internal = frozenset({*Stateful._internal, "_initial"})  # another seed is no other structure

    def __init__(self, seed: Any = 0) -> None:
        self.manual_seed(seed)

    def manual_seed(self, seed: Any) -> "Generator":
        """Start again from `seed`, an int or a JAX key."""
        key = _as_key(seed)
        self.__dict__["_initial"] = int(seed) if isinstance(seed, int) else None
        self._impl = str(jax.random.key_impl(key))
        state = jnp.concatenate([jax.random.key_data(key), jnp.zeros(1, jnp.uint32)])
        if "state" in self._slots:
            self._slots["state"].value = state
        else:
            self._slots["state"] = _RngState(state)
        return self

    def seed(self) -> int:
        """Start from a seed that the system's entropy gives, and return it."""
        seed = int.from_bytes(os.urandom(4), "little")
        self.manual_seed(seed)
        return seed

    def initial_seed(self) -> int:
        """The seed it was last given as an int."""
        initial = self.__dict__["_initial"]
        if initial is None:
            raise RuntimeError("this generator was seeded with a key, not an int")
        return initial

    def next_key(self) -> jax.Array:
        """Draw one key and advance the counter."""
        box = self._slots["state"]
        with box.lock if tls.overlay is None else nullcontext():
            key, state = _draw(box.value, impl=self._impl)
            box.value = state
        return key

    def get_state(self) -> jax.Array:
        """The state as a uint32 array: key data, then the counter."""
        return self._slots["state"].value

    def set_state(self, state: Any) -> "Generator":
        """Go back to a state that `get_state` gave."""
        state = unbox(state)
        mine = self.get_state()
        if state.shape != mine.shape or state.dtype != mine.dtype:
            raise ValueError(f"RNG state must be {mine.dtype}{mine.shape}, got {state.dtype}{state.shape}")
        self._slots["state"].value = state
        return self

    def clone_state(self) -> "Generator":
        """A new generator in the same state."""
        new = Generator.__new__(Generator)
        new.__dict__["_initial"] = self.__dict__["_initial"]
        new._impl = self._impl
        new._slots["state"] = _RngState(self.get_state())
        return new

    def _become(self, other: "Generator") -> None:
        """Take over the state, kind and seed of another."""
        self.__dict__["_initial"] = other.__dict__["_initial"]
        self._impl = other._impl
        self._slots["state"].value = other.get_state()

    def __repr__(self) -> str:
        return f"Generator(seed={self.__dict__['_initial']}, impl={self._impl!r})"


_default: Generator | None = None  # made on first use: importing must not start JAX's backends


def default_generator() -> Generator:
    """The generator that draws here: of the innermost `use_rng` block, or the process's own."""
    global _default
    if tls.generator is not None:
        return tls.generator
    if _default is None:
        outer, tls.overlay = tls.overlay, None
        try:
            with jax.ensure_compile_time_eval():
                _default = Generator(0)
        finally:
            tls.overlay = outer
        _default._birth = _default._slots["state"]._birth = None  # it belongs to no trace, whoever asks first
    return _default


def next_key() -> jax.Array:
    """Draw one key from the default generator."""
    return default_generator().next_key()


def manual_seed(seed: int) -> Generator:
    """Seed the default generator and return it.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> _ = jm.manual_seed(0)
        >>> a = nn.Linear(2, 2).weight.value
        >>> _ = jm.manual_seed(0)
        >>> bool((nn.Linear(2, 2).weight == a).all())
        True
    """
    return default_generator().manual_seed(seed)


def seed() -> int:
    """Seed the default generator from the system's entropy; returns the seed."""
    return default_generator().seed()


def initial_seed() -> int:
    """The seed that the default generator was last given."""
    return default_generator().initial_seed()


def get_rng_state() -> jax.Array:
    """The state of the default generator, for `set_rng_state`."""
    return default_generator().get_state()


def set_rng_state(new_state: Any) -> None:
    """Put the default generator into a state that `get_rng_state` gave."""
    default_generator().set_state(new_state)


@contextmanager
def use_rng(rng: Any) -> Iterator[Generator]:
    """Draw from another generator in a block.

    Args:
        rng: a `Generator` (advanced by the block), or an int or JAX key (for a generator of the block's own; this is
            how to draw inside a raw `jax.jit`, `jax.vmap`, ...).

    Example:
        >>> import jax, jaxmodule as jm
        >>> from jaxmodule.nn import functional as F
        >>> drop = jax.jit(lambda key, x: use(key, x))
        >>> def use(key, x):
        ...     with jm.use_rng(key):
        ...         return F.dropout(x, 0.5)
        >>> drop(jax.random.key(0), jax.numpy.ones(4)).shape
        (4,)
    """
    generator = rng if isinstance(rng, Generator) else Generator(rng)
    outer, tls.generator = tls.generator, generator
    try:
        yield generator
    finally:
        tls.generator = outer


@contextmanager
def fork_rng(enabled: bool = True) -> Iterator[None]:
    """Put the default generator back, at the end of the block, to where it was at its start."""
    if not enabled:
        yield
        return
    generator = default_generator()
    before = generator.clone_state()
    try:
        yield
    finally:
        generator._become(before)
