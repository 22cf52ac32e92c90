"""Where a number went wrong: `nans` names the first module call that made a NaN or an infinity."""

import itertools
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from .core.context import Tracer, set_ambient, tls, trace_state
from .core.structure import flatten_args
from .nn.hooks import in_each_layer
from .nn.module import Module
from .nn.notes import described


class NonFinite(NamedTuple):
    """A NaN or infinity that was met where it began.

    Attributes:
        order: when its call was traced, counted over the block.
        path: the dotted name of the module, or of the parameter with `during="gradient"`; "" is the model itself.
        module: the module's class and settings.
        call: which call of this module it was, from 1, as the program was traced; a loop's body counts once.
        during: "forward", "backward" or "gradient".
        what: "NaN" or "infinity".
        inputs: dtypes and shapes that the module was called with.
        parameters: whether the module's own parameters and buffers held it already.
    """

    order: int
    path: str
    module: str
    call: int
    during: str
    what: str
    inputs: str
    parameters: bool = False
    turn: tuple[int, int] | None = None  # inside jm.scan_layers: when that was traced, and the step of its loop

    def __lt__(self, other: Any) -> bool:
        """Did this one come about first?"""
        return self._when() < other._when()

    def _when(self) -> tuple[int, int, int]:
        began, step = self.turn or (self.order, 0)
        return began, step, self.order

    def __str__(self) -> str:
        if self.during == "gradient":
            return (
                f"the gradient of parameter {self.path!r} holds {self.what}, which no module call in view has made: "
                "look at the loss, and at what is computed between the modules"
            )
        where = f"{self.path}: {self.module}" if self.path else self.module
        call = f"{where}, called with {self.inputs} (call {self.call} of it)"
        if self.during == "backward":
            return f"{self.what} first appears in the backward pass of {call}: its grad_output is finite"
        if self.parameters:
            return f"{self.what} first appears in {call}: its own parameters or buffers hold it already"
        return f"{self.what} first appears in the forward pass of {call}"


class nans:  # a function to its users
    """Find where NaN or infinity begins: in the block every call of the model's modules is checked, compiled or not.

    Eager code raises at the end of the offending call; a `jm.jit` or `jm.grad` function when it returns; any other
    compiled function (raw `jax.jit`) at the end of the block, at the latest. The check is compiled in: the block's
    programs are compiled anew, and are slower.

    Args:
        model: the module tree to watch.
        inf: whether infinities count. Only outputs do: a mask of -inf among the inputs is nobody's fault, nor is what a
            module makes of an infinite input, unless it is NaN.
        backward: watch gradients too. Backward hooks do not allow forward-mode differentiation (`jax.jvp`, `jacfwd`,
            `hessian`): set it to False there.

    Attributes:
        first: the first `NonFinite` that was met, or None.

    Raises:
        FloatingPointError: something was found; the message has the module's path, class, call and input shapes.

    Note:
        A raw `jax.jit` function that closes over the model, and was compiled before the block, is not checked: it has
        no way to see that the model is watched. Pass the model as an argument.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import debug, nn
        >>> class Log(nn.Module):
        ...     def forward(self, x):
        ...         return jnp.log(x)
        >>> model = nn.Sequential(nn.Identity(), Log())
        >>> with debug.nans(model) as report:
        ...     try:
        ...         out = jm.jit(model)(jnp.array([1.0, -1.0]))
        ...     except FloatingPointError as error:
        ...         print(error)
        NaN first appears in the forward pass of 1: Log(), called with float32[2] (call 1 of it)
    """

    name_of = staticmethod(lambda module: None)  # it stands among what jm.capture captures, but captures no outputs

    def __init__(self, model: Module, *, inf: bool = True, backward: bool = True) -> None:
        self.first: NonFinite | None = None
        self.key = ("nans", id(self))
        self._model: Module | None = model
        self._inf = inf
        self._backward = backward
        self._met: list[NonFinite] = []  # since the last check; appended to by callbacks, from other threads
        self._order = itertools.count()
        self._handles: list[Any] = []
        self._names: dict[int, str] = {}
        self._stacked: dict[int, tuple[Any, ...]] = {}  # modules of a first layer, with what they are in each layer

    def relation(self, index: dict[int, int]) -> str:
        """What it adds to the key of a program: the hooks say the rest."""
        return "nans"

    def __enter__(self) -> Self:
        model, self._model = self._model, None
        if model is None:
            raise RuntimeError("debug.nans is for one block; make another one")
        self._names = {id(module): name for name, module in model.named_modules()}
        for name, module in model.named_modules():
            self._handles.append(module.register_forward_hook(_Forward(self, name), with_kwargs=True))
            if self._backward:
                self._handles.append(module.register_full_backward_hook(_Backward(self, name)))
        for name, parameter in model.named_parameters() if self._backward else ():
            if parameter.requires_grad:
                self._handles.append(parameter.register_hook(_Gradient(self, str(name))))
        set_ambient(captures=(*tls.captures, self))  # pyright: ignore[reportArgumentType]
        return self

    def __exit__(self, kind: Any, *exc: object) -> None:
        set_ambient(captures=tuple(c for c in tls.captures if c is not self))
        for handle in self._handles:
            handle.remove()
        self._stacked.clear()
        if kind is None:
            self.check()

    def returned(self) -> None:
        """A compiled call has returned (transforms/program.py)."""
        if tls.overlay is None and trace_state() is None:
            self.check()

    def check(self) -> None:
        """Wait for what is running, and raise if it has met something."""
        jax.effects_barrier()
        met, self._met = self._met, []
        if met:
            first = min(met)
            self.first = self.first or first
            raise FloatingPointError(str(first))

    def watch(
        self, event: NonFinite, before: list[Any], own: list[Any], after: list[Any], module: Module | None = None
    ) -> None:
        """Check arrays, now or whenever the program that is being traced runs."""
        flags = jnp.stack([_any(test, arrays) for arrays in (before, own, after) for test in (jnp.isnan, jnp.isinf)])
        if isinstance(flags, Tracer):
            index, events = self._of_layers(event, module)
            jax.debug.callback(lambda index, flags: self._take(events[int(index)], flags), index, flags)
            jax.effects_barrier()  # under a gradient of eager code it runs at once
        else:
            self._take(event, flags)
        if self._met:
            self.check()

    def _of_layers(self, event: NonFinite, module: Module | None) -> tuple[Any, list[NonFinite]]:
        """An event in the body of `jm.scan_layers` as one of each layer, and which layer it is; any other as it is."""
        index, modules = (0, (module,)) if module is None else in_each_layer(module)
        if len(modules) > 1:
            self._stacked[id(module)] = modules
        elif event.during == "backward":  # JAX takes the derivative of stacked layers, and knows nothing of them
            modules = self._stacked.get(id(module), modules)
        if len(modules) == 1:
            return index, [event]
        paths = [self._names.get(id(each), event.path) for each in modules]
        if tls.stack is None:
            return index, [event._replace(path=" or ".join(paths))]
        start = tls.stack.began.setdefault((id(self), event.during), event.order)
        steps = range(len(modules)) if event.during == "forward" else range(len(modules), 0, -1)
        turns = [(start, step) for step in steps]
        return index, [event._replace(path=path, turn=turn) for path, turn in zip(paths, turns, strict=True)]

    def _take(self, event: NonFinite, flags: Any) -> None:
        before_nan, before_inf, own_nan, own_inf, nan, inf = np.asarray(flags).tolist()
        if nan and not before_nan:
            self._met.append(event._replace(what="NaN", parameters=own_nan))
        elif inf and self._inf and not (nan or before_nan or before_inf or own_nan or own_inf):
            self._met.append(event._replace(what="infinity"))


class _Hook:
    """A hook of one module or parameter."""

    def __init__(self, report: nans, path: str) -> None:
        self.report = report
        self.path = path
        self.calls = itertools.count(1)

    @property
    def _alike(self) -> Any:
        return (type(self), id(self.report))


class _Forward(_Hook):
    """The forward hook of one module."""

    def __call__(self, module: Module, args: Any, kwargs: Any, output: Any) -> None:
        after = _floats(output)
        if after:
            own = [box for box in (*module._parameters.values(), *module._buffers.values()) if box is not None]
            event = _event(self.report, self.path, module, next(self.calls), "forward", described(args, kwargs))
            self.report.watch(event, _floats((args, kwargs)), _floats([box.value for box in own]), after, module)


class _Backward(_Hook):
    """The full backward hook of one module."""

    def __call__(self, module: Module, grad_input: Any, grad_output: Any) -> None:
        after = _floats(grad_input)
        if after:
            event = _event(self.report, self.path, module, next(self.calls), "backward", described(grad_input, {}))
            self.report.watch(event, _floats(grad_output), [], after, module)


class _Gradient(_Hook):
    """The gradient hook of one parameter."""

    def __call__(self, gradient: jax.Array) -> None:
        event = NonFinite(next(self.report._order), self.path, "", 1, "gradient", "NaN", "")
        self.report.watch(event, [], [], _floats(gradient))


def _event(report: nans, path: str, module: Module, call: int, during: str, inputs: str) -> NonFinite:
    name = module._get_name() if module._modules else repr(module)
    return NonFinite(next(report._order), path, name, call, during, "NaN", inputs)


def _floats(tree: Any) -> list[Any]:
    """The arrays in a tree that can hold a NaN."""
    leaves, _, _ = flatten_args(tree)
    arrays = [jax.lax.stop_gradient(leaf) for leaf in leaves if isinstance(leaf, jax.Array)]
    return [x for x in arrays if jnp.issubdtype(x.dtype, jnp.inexact)]


def _any(test: Any, arrays: list[Any]) -> Any:
    found = [test(x).any() for x in arrays]
    return jnp.stack(found).any() if found else jnp.zeros((), bool)
