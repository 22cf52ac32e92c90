"""The hooks of an optimizer: around `step`, `state_dict` and `load_state_dict`, as torch's."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from ..core.context import process_keys
from ..core.registry import Registry, RemovableHandle

P = ParamSpec("P")
R = TypeVar("R")

#: The attributes that the hooks are in, named as in torch.
KINDS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)


#: The step hooks of the process.
GLOBAL: dict[str, Registry] = {kind: Registry(watched=True) for kind in KINDS[:2]}

process_keys.append(lambda: tuple(tuple(hooks) for hooks in GLOBAL.values()) if any(GLOBAL.values()) else None)


class StepPreHook(Protocol):
    """Gets the arguments of `step` (the optimizer itself first) and may return new ones."""

    def __call__(
        self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None: ...


class StepPostHook(Protocol):
    """Gets the arguments that `step` was called with."""

    def __call__(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> None: ...


class Hooked:
    """What has the hooks. Step hooks run at trace time in a compiled step, and adding one compiles it again.

    Copies and pickled files of an optimizer have no hooks, as in torch.
    """

    def register_step_pre_hook(self, hook: StepPreHook) -> RemovableHandle:
        """Call `hook(optimizer, args, kwargs)` before each step; it may return new `(args, kwargs)`.

        Example:
            >>> import jax.numpy as jnp, jaxmodule as jm
            >>> from jaxmodule import nn
            >>> model = nn.Linear(1, 1)
            >>> optimizer = jm.optim.SGD(model.parameters())
            >>> with optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: print("a step")):
            ...     optimizer.step(jm.grad(lambda m: m(jnp.ones((1, 1))).sum())(model))
            a step
        """
        return self._add_hook("_optimizer_step_pre_hooks", hook, False)

    def register_step_post_hook(self, hook: StepPostHook) -> RemovableHandle:
        """Call `hook(optimizer, args, kwargs)` after each step."""
        return self._add_hook("_optimizer_step_post_hooks", hook, False)

    def register_state_dict_pre_hook(self, hook: Callable[[Any], None], prepend: bool = False) -> RemovableHandle:
        """Call `hook(optimizer)` before `state_dict`; `prepend` puts it before the hooks there are."""
        return self._add_hook("_optimizer_state_dict_pre_hooks", hook, prepend)

    def register_state_dict_post_hook(
        self, hook: Callable[[Any, dict[str, Any]], dict[str, Any] | None], prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(optimizer, state_dict)` with what `state_dict` made; it may change that or return another."""
        return self._add_hook("_optimizer_state_dict_post_hooks", hook, prepend)

    def register_load_state_dict_pre_hook(
        self, hook: Callable[[Any, dict[str, Any]], dict[str, Any] | None], prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(optimizer, state_dict)` with a shallow copy of what is to be loaded; it may return another."""
        return self._add_hook("_optimizer_load_state_dict_pre_hooks", hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Callable[[Any], None], prepend: bool = False) -> RemovableHandle:
        """Call `hook(optimizer)` after `load_state_dict`."""
        return self._add_hook("_optimizer_load_state_dict_post_hooks", hook, prepend)

    def _no_hooks(self) -> None:
        for kind in KINDS:
            self.__dict__[kind] = Registry(watched=True)

    def _add_hook(self, kind: str, hook: Any, first: bool) -> RemovableHandle:
        return RemovableHandle.add(self.__dict__[kind], hook, first=first)

    def _hooks_key(self) -> Any:
        """What of the hooks belongs to a compiled program: their ids, which no two hooks of a process share."""
        return tuple(tuple(self.__dict__[kind]) for kind in KINDS[:2])

    def _run_hooks(self, kind: str, *state_dict: Any) -> Any:
        """Run those of one kind; the state dict, or the last one that a hook has put in its place."""
        for hook in tuple(self.__dict__[kind].values()):
            result = hook(self, *state_dict)
            if state_dict and result is not None:
                state_dict = (result,)
        return state_dict[0] if state_dict else None


def register_optimizer_step_pre_hook(hook: StepPreHook) -> RemovableHandle:
    """Call `hook(optimizer, args, kwargs)` before each step of every optimizer; it may return new `(args, kwargs)`."""
    return RemovableHandle.add(GLOBAL["_optimizer_step_pre_hooks"], hook)


def register_optimizer_step_post_hook(hook: StepPostHook) -> RemovableHandle:
    """Call `hook(optimizer, args, kwargs)` after each step of every optimizer."""
    return RemovableHandle.add(GLOBAL["_optimizer_step_post_hooks"], hook)


def step_with_hooks(step: Callable[P, R]) -> Callable[P, R]:
    """Decorate a `step` method so that hooks run before and after it."""

    @functools.wraps(step)
    def call(*given: P.args, **kwargs: P.kwargs) -> R:
        args: Any = given
        own = args[0]
        for hook in (*GLOBAL[KINDS[0]].values(), *own._optimizer_step_pre_hooks.values()):
            result = hook(own, args, kwargs)
            if result is not None:
                if not isinstance(result, tuple) or len(result) != 2:
                    raise RuntimeError(
                        f"{type(own).__name__}.step: a pre-hook must return None or a tuple of "
                        f"(new_args, new_kwargs), but got {result!r}."
                    )
                args, kwargs = result
        out = step(*args, **kwargs)
        for hook in (*own._optimizer_step_post_hooks.values(), *GLOBAL[KINDS[1]].values()):
            hook(own, args, kwargs)
        return out

    return call
