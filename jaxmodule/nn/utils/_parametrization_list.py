"""`ParametrizationList`: the originals of a parametrized tensor and what is applied to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ...core.box import Box, unbox
from ...core.device import is_abstract
from ...core.parameter import Buffer, Parameter
from ...transforms import eval_shape
from ..functional._common import ArrayLike
from ..modes import carry_no_gradient, no_grad
from ..module import Module
from ..modules.container import ModuleList
from ..parameter import is_lazy


def is_array(value: Any) -> bool:
    """Is it something that counts as a tensor?"""
    return isinstance(value, (jax.Array, Box, np.ndarray, jax.ShapeDtypeStruct))


def inverted(parametrization: Any, value: Any) -> Any:
    """`parametrization.right_inverse(value)`, without gradient."""
    with no_grad():
        return carry_no_gradient(parametrization.right_inverse(value))


def _as_box(value: Any) -> Parameter | Buffer:
    return value if isinstance(value, (Parameter, Buffer)) else Buffer(value)


def register(module: Module, name: str, box: Parameter | Buffer) -> None:
    """Register a box as what it is."""
    if isinstance(box, Parameter):
        module.register_parameter(name, box)
    else:
        module.register_buffer(name, box)


def check_same(now: Any, before: Any, labels: tuple[str, str], inverse: bool = False) -> None:
    """Raise where `now`, what a parametrization (or its inverse) gives, is no array of the dtype and shape of `before`.

    Raises:
        ValueError: it isn't.
    """
    if not is_array(now):
        who = "parametrization.right_inverse" if inverse else "A parametrization"
        raise ValueError(f"{who} must return a tensor. Got {type(now).__name__}.")
    for kind in ("dtype", "shape"):
        new, old = getattr(now, kind), getattr(before, kind)
        if new != old:
            what = (
                f"The tensor returned by parametrization.right_inverse must have the same {kind} as {labels[0]}"
                if inverse
                else f"Registering a parametrization may not change the {kind} of the tensor"
            )
            raise ValueError(
                f"{what}, unless the `unsafe` flag is enabled.\n{labels[0]} {kind}: {old}\n{labels[1]} {kind}: {new}"
            )


def _evaluated(function: Any, module: Module, values: Any) -> Any:
    """`function(module, values)`; of abstract values (`jm.device("meta")`) the shape and dtype of it."""
    if any(map(is_abstract, jax.tree.leaves(values))):
        return eval_shape(function, module, values)
    return function(module, values)


class ParametrizationList(ModuleList):
    """The parametrizations of one tensor, and the originals that they start from: `module.parametrizations.weight`.

    Made by `register_parametrization`. Calling it gives the parametrized tensor.

    Args:
        modules: the parametrizations, in the order they are applied in.
        original: the parameter or buffer that is parametrized.
        unsafe: whether the dtype and shape may change; nothing is checked then.

    Attributes:
        original: the parameter or buffer, with the value that `right_inverse` gives; the same object as before.
        original0, original1: what there is instead where `right_inverse` gives several arrays.
        is_tensor: whether there is one original.
        ntensors: how many there are.

    Raises:
        ValueError: no modules; or what they or their `right_inverse` give has another type, dtype or shape.

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import parametrizations
        >>> layer = parametrizations.weight_norm(nn.Linear(3, 2))
        >>> layer.parametrizations.weight.original0.shape
        (2, 1)
    """

    def __init__(self, modules: Sequence[Module], original: Any, unsafe: bool = False) -> None:
        if not len(modules):
            raise ValueError("ParametrizationList requires one or more modules.")
        super().__init__(modules)
        self.unsafe = unsafe
        box = _as_box(original)
        if is_lazy(box):
            _ = box.shape  # raises, and says that there is none yet
        before = new = box.value
        for module in reversed(list(self)):
            if hasattr(module, "right_inverse"):
                try:
                    new = _evaluated(inverted, module, new)
                except NotImplementedError:
                    pass  # counts as the identity, as one that isn't there does
        if not is_array(new) and not isinstance(new, Sequence):
            raise ValueError(
                "'right_inverse' must return a Tensor or a Sequence of tensors (list, tuple...). "
                f"Got {type(new).__name__}"
            )
        self.is_tensor = is_array(new)
        self.ntensors = 1 if self.is_tensor else len(new)
        values = [new] if self.is_tensor else list(new)
        for i, value in enumerate(values):
            if not is_array(value):
                raise ValueError(
                    "'right_inverse' must return a Tensor or a Sequence of tensors (list, tuple...). "
                    f"Got element {i} of the sequence with type {type(value).__name__}."
                )
        values = [unbox(value) for value in values]
        if self.is_tensor and values[0].dtype != before.dtype:
            raise ValueError(
                "When `right_inverse` outputs one tensor, it may not change the dtype.\n"
                f"original.dtype: {before.dtype}\nright_inverse(original).dtype: {values[0].dtype}"
            )
        if not unsafe:  # before anything is written
            labels = ("unparametrized", "parametrized")
            check_same(_evaluated(ParametrizationList._parametrized, self, values), before, labels)
        if self.is_tensor:
            box.value = values[0]  # the same box, which an optimizer may have
            register(self, "original", box)
            return
        for i, value in enumerate(values):
            of_parameter = isinstance(box, Parameter)
            register(self, f"original{i}", Parameter(value, box.requires_grad) if of_parameter else Buffer(value))

    def _originals(self) -> list[Any]:
        names = ["original"] if self.is_tensor else [f"original{i}" for i in range(self.ntensors)]
        return [getattr(self, name) for name in names]

    def _parametrized(self, values: list[Any]) -> Any:
        first, *others = self
        x = first(*values)
        for module in others:
            x = module(x)
        return x

    def right_inverse(self, value: ArrayLike) -> None:
        """Set the originals so that the parametrized tensor becomes `value`, as far as the parametrizations can.

        Raises:
            RuntimeError: a parametrization has no `right_inverse`.
            ValueError: what it gives has another type, number or dtype than the originals.
        """
        new: Any = unbox(value)
        for module in reversed(list(self)):
            if not hasattr(module, "right_inverse"):
                raise RuntimeError(f"parametrization {type(module).__name__} does not implement right_inverse.")
            new = inverted(module, new)
        originals = self._originals()
        if self.is_tensor:
            if not is_array(new):
                raise ValueError(f"`right_inverse` should return a tensor. Got {type(new).__name__}")
            new = [new]
        elif not isinstance(new, Sequence):
            raise ValueError(f"'right_inverse' must return a sequence of tensors. Got {type(new).__name__}.")
        elif len(new) != self.ntensors:
            raise ValueError(
                f"'right_inverse' must return a sequence of tensors of length {self.ntensors}. "
                f"Got a sequence of length {len(new)}."
            )
        for i, (box, item) in enumerate(zip(originals, new, strict=True)):
            name = "original" if self.is_tensor else f"original{i}"
            if not is_array(item):
                raise ValueError(
                    f"'right_inverse' must return a sequence of tensors. Got element {i} of type {type(item).__name__}."
                )
            if item.dtype != box.dtype:
                raise ValueError(
                    f"Tensor {i} returned by `right_inverse` has dtype {item.dtype} "
                    f"while `{name}` has dtype {box.dtype}"
                )
        for box, item in zip(originals, new, strict=True):
            box.value = item

    def forward(self) -> jax.Array:
        """The parametrized tensor."""
        return _evaluated(ParametrizationList._parametrized, self, [box.value for box in self._originals()])
