"""Parameters and buffers whose shape is not known yet.

Such a box holds None, and its class says so. `materialize` gives it a value and turns it into an ordinary box *in
place*, so that who holds it already (a tied module, an optimizer) holds the real one. To transforms the change of class
is a structural change like any other: it is undone if the trace fails.
"""

from typing import Any, ClassVar, NoReturn

import jax.numpy as jnp
from jax.typing import DTypeLike

from .box import Box, strong
from .context import touch
from .device import here, place_of
from .overlay import birth, on_roll_back, write
from .parameter import Buffer, Parameter, _set_grad

_REMEDY = (
    "This error happens when you are using a `LazyModule` or explicitly manipulating "
    "`nn.parameter.UninitializedParameter` objects. When using LazyModules call `forward` with a dummy batch to "
    "initialize the parameters before using them"
)
_SHAPE = (
    "Can't access the shape of an uninitialized parameter or buffer. This error usually happens in `load_state_dict` "
    "when trying to load an uninitialized parameter into an initialized one. Call `forward` to initialize the "
    "parameters before accessing their attributes."
)


class UninitializedTensorMixin:
    """What uninitialised parameters and buffers share."""

    __slots__ = ()
    _lazy = True
    cls_to_become: ClassVar[type[Box]]
    _promise: tuple[Any, Any]  # of the device and the dtype

    @property
    def value(self) -> Any:
        """There is none yet: reading it raises ValueError."""
        raise ValueError(f"Attempted to use an uninitialized {self.cls_to_become.__name__.lower()}. {_REMEDY}")

    @value.setter
    def value(self, new: Any) -> NoReturn:
        raise ValueError(
            f"Attempted to write to an uninitialized {self.cls_to_become.__name__.lower()}: use `materialize(shape)`"
        )

    data = value

    @property
    def shape(self) -> NoReturn:
        """Not known yet: reading it raises RuntimeError."""
        raise RuntimeError(_SHAPE)

    @property
    def dtype(self) -> Any:
        """What `materialize` will make it of."""
        return self._promise[1]

    @property
    def device(self) -> Any:
        """Where `materialize` will put it; None is JAX's default."""
        return self._promise[0]

    def _remember(self, device: Any, dtype: DTypeLike | None) -> None:
        # "meta" is no promise: there is no memory before the shape is known, and a value once it is.
        place = here()[1] if device is None else place_of(device)
        self._promise = (place, jnp.dtype(jnp.float32 if dtype is None else dtype))

    def materialize(self, shape: Any, device: Any = None, dtype: DTypeLike | None = None) -> None:
        """Become an ordinary parameter or buffer of zeros.

        Args:
            shape: the shape.
            device: where, if not as was said when it was made.
            dtype: of what, likewise.
        """
        device = self.device if device is None else place_of(device)
        dtype = self.dtype if dtype is None else dtype
        self.become(jnp.zeros(shape, dtype, device=device))

    def become(self, value: Any) -> None:
        """Become an ordinary parameter or buffer with this array."""
        lazy, gradient = type(self), self._grad if isinstance(self, Parameter) else None

        def undo() -> None:
            object.__setattr__(self, "__class__", lazy)
            if isinstance(self, Parameter):  # the box for a gradient belongs to the trace that has failed
                _set_grad(self, gradient)

        on_roll_back(undo)
        write(self, strong(value))
        object.__setattr__(self, "__class__", self.cls_to_become)
        touch()

    def convert(self, fn: Any) -> None:
        """Do to the dtype and the placement what `fn` does to those of an array."""
        converted = fn(jnp.zeros(0, self.dtype, device=self.device))
        moved = self.device is not None or converted.committed
        self._remember(converted.sharding if moved else None, converted.dtype)
        touch()

    def _flags(self) -> Any:
        return (super()._flags(), self._promise)  # pyright: ignore[reportAttributeAccessIssue]

    def _clone(self, value: Any) -> Any:
        new = super()._clone(value)  # pyright: ignore[reportAttributeAccessIssue]
        new._promise = self._promise
        return new

    def __copy__(self) -> Any:
        return self._clone(None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            memo[id(self)] = self.__copy__()
        return memo[id(self)]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class UninitializedParameter(UninitializedTensorMixin, Parameter):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A `Parameter` whose shape is not known yet; `materialize(shape)` makes it one, in place.

    Args:
        requires_grad: as of a Parameter.
        device: where it will live, a device or a sharding.
        dtype: what it will be made of, float32 by default.

    Note:
        Reading its value raises ValueError, reading its shape RuntimeError, as in torch.

    Example:
        >>> from jaxmodule import nn
        >>> p = nn.UninitializedParameter()
        >>> p
        <UninitializedParameter>
        >>> p.materialize((2, 3))
        >>> type(p).__name__, p.shape
        ('Parameter', (2, 3))
    """

    __slots__ = ()
    cls_to_become = Parameter

    def __init__(self, requires_grad: bool = True, device: Any = None, dtype: DTypeLike | None = None) -> None:
        super().__init__(jnp.empty(0), requires_grad)
        birth(self, None)
        self._remember(device, dtype)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return (type(self), (self._requires_grad, self.device, self.dtype))


class UninitializedBuffer(UninitializedTensorMixin, Buffer):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A `Buffer` whose shape is not known yet; `materialize(shape)` makes it one, in place.

    Args:
        requires_grad: torch's argument; a buffer here has no gradient, so only False is taken.
        device: where it will live, a device or a sharding.
        dtype: what it will be made of, float32 by default.
        persistent: whether it is part of `state_dict`.

    Example:
        >>> from jaxmodule import nn
        >>> b = nn.UninitializedBuffer()
        >>> b.materialize(3)
        >>> b.value
        Array([0., 0., 0.], dtype=float32)
    """

    __slots__ = ()
    cls_to_become = Buffer

    def __init__(
        self,
        requires_grad: bool = False,
        device: Any = None,
        dtype: DTypeLike | None = None,
        persistent: bool = True,
    ) -> None:
        if requires_grad:
            raise ValueError("a buffer has no gradient: use an UninitializedParameter, or requires_grad=False")
        super().__init__(jnp.empty(0), persistent=persistent)
        birth(self, None)
        self._remember(device, dtype)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return (type(self), (False, self.device, self.dtype, self.persistent))


def is_lazy(param: Any) -> bool:
    """Is it a parameter or buffer whose shape is not known yet?"""
    return isinstance(param, UninitializedTensorMixin)
