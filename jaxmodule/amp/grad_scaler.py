"""`GradScaler`: loss scaling, for gradients in float16."""

import enum
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..core.box import Box, Slot, unbox
from ..core.context import Tracer, tls
from ..core.overlay import journal
from ..core.state import Stateful
from ..transforms import cond

_HALF = (jnp.dtype(jnp.float16), jnp.dtype(jnp.bfloat16))


class _Stage(enum.Enum):
    UNSCALED = 1
    STEPPED = 2


class GradScaler(Stateful):
    """Scale the loss, so that its gradients don't vanish in float16, and leave out steps with gradients that overflow.

    The scale and its counter are state: in a `jm.jit` function, with the scaler among the arguments, nothing waits for
    the device, and a step that is left out is a branch of the program.

    Args:
        device: as in torch; it changes nothing.
        init_scale: the first scale.
        growth_factor: what the scale is multiplied by after `growth_interval` steps in a row that were not left out.
        backoff_factor: what it is multiplied by after a step that was.
        growth_interval: see `growth_factor`.
        enabled: False makes `step` the optimizer's and everything else do nothing.

    Raises:
        AssertionError: `growth_factor` is not greater, or `backoff_factor` not less than 1.

    Note:
        With `jm.backward` the calls are torch's. With gradients in a dict they go along: `scaler.unscale_(optimizer,
        grads)`, which is only needed to clip them, and `scaler.step(optimizer, grads)`.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Linear(3, 1)
        >>> optimizer, scaler = jm.optim.SGD(model.parameters(), lr=0.1), jm.amp.GradScaler(init_scale=2.0**8)
        >>> @jm.jit
        ... def train_step(model, optimizer, scaler, x):
        ...     def loss(model):
        ...         with jm.amp.autocast(jnp.float16):
        ...             return scaler.scale((model(x) ** 2).mean())
        ...     grads = jm.grad(loss)(model)
        ...     scaler.step(optimizer, grads)
        ...     scaler.update()
        >>> train_step(model, optimizer, scaler, jnp.ones((2, 3)))
        >>> scaler.get_scale()
        256.0
    """

    _internal = frozenset({*Stateful._internal, "_pending"})

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        self._device = device
        self._enabled = enabled
        # Optimizers of this iteration: where they are, whether a gradient was not finite, and the trace that knows it.
        self.__dict__["_pending"] = {}
        if not enabled:
            return
        if growth_factor <= 1.0:
            raise AssertionError("The growth factor must be > 1.0.")
        if backoff_factor >= 1.0:
            raise AssertionError("The backoff factor must be < 1.0.")
        self._growth_factor = growth_factor
        self._backoff_factor = backoff_factor
        self._growth_interval = growth_interval
        self._slots["scale"] = Slot(jnp.float32(init_scale))
        self._slots["growth_tracker"] = Slot(jnp.int32(0))
        self._slots["found_inf"] = Slot(jnp.float32(-1))  # of this iteration; negative where nothing was looked at

    # -- an iteration -------------------------------------------------------------------------------------------------
    def scale(self, outputs: Any) -> Any:
        """`outputs`, an array or an iterable of arrays, times the scale.

        Raises:
            ValueError: something in it is neither.
        """
        if not self._enabled:
            return outputs
        if isinstance(outputs, (Box, jax.Array)):
            x = unbox(outputs)
            # As torch: a scalar becomes float32, in which the scale fits; another array keeps its dtype.
            kind = jnp.float32 if x.dtype in _HALF else x.dtype
            wide = x.astype(kind) * self._slots["scale"].value.astype(kind)
            return wide if x.ndim == 0 else wide.astype(x.dtype)
        if isinstance(outputs, Iterable) and not isinstance(outputs, (str, bytes)):
            scaled = map(self.scale, outputs)
            return type(outputs)(scaled) if isinstance(outputs, (list, tuple)) else scaled
        raise ValueError(f"outputs must be an array or an iterable of arrays, got {type(outputs).__name__}")

    def unscale_(self, optimizer: Any, grads: dict[Any, Any] | None = None) -> None:
        """Divide gradients by the scale, and see whether they are finite. `step` does it where it was not done before.

        Args:
            optimizer: the optimizer that has the parameters.
            grads: the dict that `jm.grad` returns, whose entries are replaced; without it the parameters' `.grad`.

        Raises:
            RuntimeError: it was called before for this optimizer since the last `update()`, or `step` was.
            ValueError: a gradient is in float16: keep the parameters in float32.
        """
        if not self._enabled:
            return
        stage = self._stage(optimizer)
        if stage is _Stage.UNSCALED:
            raise RuntimeError("unscale_() has already been called on this optimizer since the last update().")
        if stage is _Stage.STEPPED:
            raise RuntimeError("unscale_() is being called after step().")
        if grads is None:
            boxes = [box for group in optimizer.param_groups for box in group["params"] if box.grad is not None]
            new, found = self._unscaled([box.grad for box in boxes])
            for box, gradient in zip(boxes, new, strict=True):
                box.grad = gradient
        else:
            if not isinstance(grads, Mapping):
                raise TypeError(
                    f"unscale_() takes the dict of gradients that jm.grad returns, got {type(grads).__name__}"
                )
            names = [name for name, gradient in grads.items() if gradient is not None]
            new, found = self._unscaled([unbox(grads[name]) for name in names])
            grads.update(zip(names, new, strict=True))
        if found is not None:
            box = self._slots["found_inf"]
            box.value = jnp.maximum(box.value, found)
        self._note(optimizer, _Stage.UNSCALED, found)

    def _unscaled(self, grads: list[jax.Array]) -> tuple[list[jax.Array], jax.Array | None]:
        """The gradients divided by the scale, and whether one is not finite; None where there are none."""
        if any(gradient.dtype == jnp.float16 for gradient in grads):
            raise ValueError(
                "Attempting to unscale FP16 gradients: the parameters are to stay in float32 (jm.autocast)"
            )
        inverse = 1.0 / self._slots["scale"].value
        finite = [jnp.isfinite(gradient).all() for gradient in grads]
        found = 1.0 - jnp.stack(finite).all().astype(jnp.float32) if finite else None
        return [(g.astype(_wide(g.dtype)) * inverse.astype(_wide(g.dtype))).astype(g.dtype) for g in grads], found

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """`optimizer.step(*args, **kwargs)` with the gradients divided by the scale, unless one is not finite.

        Args:
            optimizer: the optimizer.
            args, kwargs: of its `step`: the gradients, if they are not in the parameters' `.grad`.

        Returns:
            What the optimizer's step returns; None for a step that was left out, and in a compiled function.

        Raises:
            RuntimeError: it was called before for this optimizer since the last `update()`, or with a closure.
            AssertionError: there is not one gradient.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs or (args and callable(args[0])):
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        if self._stage(optimizer) is _Stage.STEPPED:
            raise RuntimeError("step() has already been called since the last update().")
        if self._stage(optimizer) is None:
            if args and isinstance(args[0], Mapping):
                args = (dict(args[0]), *args[1:])  # the caller's dict stays as it is
            elif isinstance(kwargs.get("grads"), Mapping):
                kwargs = {**kwargs, "grads": dict(kwargs["grads"])}
            self.unscale_(optimizer, args[0] if args else kwargs.get("grads"))
        _, found, where = self._pending[id(optimizer)]
        if found is None:
            raise AssertionError(
                "No inf checks were recorded for this optimizer: none of its parameters has a gradient."
            )
        if where is not tls.overlay:  # it was unscaled in another program
            found = self._slots["found_inf"].value
        result = None
        if isinstance(found, Tracer):
            # Not `where` after a step: that would hold the old and the new of everything at once.
            cond(found > 0, lambda: None, lambda: _nothing(optimizer.step(*args, **kwargs)))
        elif not found > 0:
            result = optimizer.step(*args, **kwargs)
        self._note(optimizer, _Stage.STEPPED, found)
        return result

    def update(self, new_scale: Any = None) -> None:
        """End an iteration: make the scale less if a step was left out, greater after many that were not.

        Args:
            new_scale: the scale from now on, in their place.

        Raises:
            AssertionError: neither `unscale_` nor `step` has seen a gradient before.
        """
        if not self._enabled:
            return
        scale, tracker, seen = (self._slots[name] for name in ("scale", "growth_tracker", "found_inf"))
        if new_scale is not None:
            scale.value = jnp.asarray(unbox(new_scale), jnp.float32).reshape(())
        else:
            found = seen.value
            if not isinstance(found, Tracer) and found < 0:
                raise AssertionError("No inf checks were recorded prior to update.")
            grown = tracker.value + 1
            due = grown == self._growth_interval
            greater = scale.value * jnp.float32(self._growth_factor)
            after = jnp.where(due & jnp.isfinite(greater), greater, scale.value)
            scale.value = jnp.where(found > 0, scale.value * jnp.float32(self._backoff_factor), after)
            tracker.value = jnp.where((found > 0) | due, 0, grown)
        seen.value = jnp.float32(-1)
        journal(self._pending)
        self._pending.clear()

    def _stage(self, optimizer: Any) -> _Stage | None:
        return self._pending.get(id(optimizer), (None,))[0]

    def _note(self, optimizer: Any, stage: _Stage, found: Any) -> None:
        journal(self._pending)
        self._pending[id(optimizer)] = (stage, found, tls.overlay)

    # -- its numbers --------------------------------------------------------------------------------------------------
    def get_scale(self) -> Any:
        """The scale, 1.0 where scaling is disabled. Outside of compiled functions it waits for the device."""
        return _number(self._slots["scale"].value, float) if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """What the scale is multiplied by as it grows."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Set what the scale is multiplied by as it grows; programs are compiled again."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """What the scale is multiplied by after a step that was left out."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set what the scale is multiplied by after a step that was left out; programs are compiled again."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """After how many steps in a row the scale grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Set after how many steps in a row the scale grows; programs are compiled again."""
        self._growth_interval = new_interval

    def is_enabled(self) -> bool:
        """Is scaling enabled?"""
        return self._enabled

    # -- files --------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """The numbers under torch's names, as Python's; empty where scaling is disabled. Call it after `update()`."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(),
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": _number(self._slots["growth_tracker"].value, int),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; nothing where scaling is disabled.

        Raises:
            RuntimeError: it is empty.
            KeyError: an entry is missing; nothing has changed then.
        """
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError(
                "The source state dict is empty, possibly because it was saved from a disabled instance of GradScaler."
            )
        kinds = {"scale": float, "growth_factor": float, "backoff_factor": float, "growth_interval": int}
        given = {name: kind(state_dict[name]) for name, kind in {**kinds, "_growth_tracker": int}.items()}
        self._slots["scale"].value = jnp.float32(given.pop("scale"))
        self._slots["growth_tracker"].value = jnp.int32(given.pop("_growth_tracker"))
        for name, value in given.items():
            setattr(self, f"_{name}", value)

    def __getstate__(self) -> dict[str, Any]:
        if self._pending:
            raise AssertionError(
                "A GradScaler instance may only be pickled at the beginning of an iteration, or at the end after "
                "scaler.update()."
            )
        return super().__getstate__()


def _nothing(result: Any) -> None:
    """For a branch, which returns what the other does."""


def _wide(dtype: Any) -> Any:
    return jnp.float32 if dtype in _HALF else dtype


def _number(value: Any, kind: type) -> Any:
    return value if isinstance(value, Tracer) else kind(value)
