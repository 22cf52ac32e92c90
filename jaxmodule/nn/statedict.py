"""`state_dict` and `load_state_dict`: torch's protocol, with loads that happen whole or not at all."""

import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.box import Box, unbox
from ..core.lazy import UninitializedTensorMixin, is_lazy
from ..core.overlay import Overlay, overlaid, write
from ..core.parameter import Parameter
from ..core.registry import RemovableHandle

_EXTRA = "_extra_state"


class LoadReport(namedtuple("_IncompatibleKeys", ["missing_keys", "unexpected_keys"])):
    """What `load_state_dict` returns: torch's named tuple, and what happened besides.

    Attributes:
        missing_keys: names of the model that the state dict doesn't have.
        unexpected_keys: names of the state dict that the model doesn't have.
        loaded: names that were loaded.
        cast: (name, dtype in the state dict, dtype in the model) where they differ.
        tied: groups of names that are one parameter.
        untouched: names of parameters and persistent buffers that were not loaded under any name.
    """

    loaded: Sequence[str] = ()
    cast: Sequence[tuple[str, str, str]] = ()
    tied: Sequence[tuple[str, ...]] = ()
    untouched: Sequence[str] = ()

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            head = "<All keys matched successfully>"
        else:
            head = f"_IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"
        lines = [f"loaded: {len(self.loaded)}"]
        if self.cast:
            lines.append("cast: " + ", ".join(f"{n} ({a} → {b})" for n, a, b in self.cast))
        if self.tied:
            lines.append("tied: " + ", ".join(" = ".join(names) for names in self.tied))
        if self.untouched:
            lines.append("not touched: " + ", ".join(self.untouched))
        return "\n  ".join([head, *lines])

    __str__ = __repr__


def _as_array(value: Any) -> Any:
    """A jax array with the contents of a jax, numpy or torch array or a box, None for anything else.

    Always new memory: `jnp.asarray` may share a numpy or torch array's, which its owner can change.
    """
    if isinstance(value, (jax.Array, Box)):
        return unbox(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return jnp.array(value) if value.dtype != object else None
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        tensor = value.detach().cpu()
        if str(tensor.dtype) in ("torch.bfloat16", "torch.float8_e4m3fn", "torch.float8_e5m2"):
            import torch  # the caller handed us a torch tensor, so it is there

            dtype = jnp.dtype(str(tensor.dtype).removeprefix("torch."))
            raw = tensor.contiguous().view(torch.uint8 if dtype.itemsize == 1 else torch.int16)
            return jnp.array(raw.numpy().view(dtype))
        return jnp.array(tensor.resolve_conj().resolve_neg().numpy())
    return None


def _placed(array: Any, like: Any) -> Any:
    """`array` in the dtype of `like` and, where that was placed on purpose, on its devices."""
    if array.dtype != like.dtype:
        array = array.astype(like.dtype)
    elsewhere = getattr(like, "committed", False) and array.sharding != like.sharding
    return jax.device_put(array, like.sharding) if elsewhere else array


class StateDict:
    """The part of Module that saves and loads."""

    # -- saving ---------------------------------------------------------------------------------------------------
    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The parameters and persistent buffers by dotted name, in torch's order.

        Args:
            args: `destination`, `prefix`, `keep_vars` by position, torch's old form.
            destination: a dict to fill, instead of a new one.
            prefix: put in front of every name.
            keep_vars: give the boxes instead of their arrays.

        Returns:
            An OrderedDict of immutable arrays, with the modules' versions in its attribute `_metadata`.

        Example:
            >>> from jaxmodule import nn
            >>> list(nn.Linear(2, 3).state_dict())
            ['weight', 'bias']
        """
        if args:  # torch's old positional form
            given: tuple[Any, ...] = (*args, *(destination, prefix, keep_vars)[len(args) :])
            destination, prefix, keep_vars = given
        if destination is None:
            destination = OrderedDict()
            destination._metadata = OrderedDict()
        module: Any = self
        local_metadata = {"version": module._version}
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]] = local_metadata
        for hook in tuple(module._state_dict_pre_hooks.values()):
            hook(self, prefix, keep_vars)
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name, child in module._modules.items():
            if child is not None:
                child.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        for hook in tuple(module._state_dict_hooks.values()):
            result = hook(self, destination, prefix, local_metadata)
            if not getattr(hook, "_from_public_api", False):
                destination = destination if result is None else result
            elif result is not None:
                raise RuntimeError("state_dict post-hook must return None")
        return destination

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Put this module's own entries into `destination`; a subclass may override it."""
        module: Any = self
        for name, box in self._local_state().items():
            destination[prefix + name] = box if keep_vars or box._lazy else box.value
        if type(module).get_extra_state is not StateDict.get_extra_state:
            destination[prefix + _EXTRA] = module.get_extra_state()

    def _local_state(self) -> dict[str, Any]:
        """This module's own parameters and persistent buffers."""
        module: Any = self
        skip = module._non_persistent_buffers_set
        items = [*module._parameters.items(), *((k, v) for k, v in module._buffers.items() if k not in skip)]
        return {name: box for name, box in items if box is not None}

    def get_extra_state(self) -> Any:
        """What else to save under the name `_extra_state`; a subclass defines it, and `set_extra_state`."""
        raise RuntimeError(f"{type(self).__name__} defines no get_extra_state")

    def set_extra_state(self, state: Any) -> None:
        """Take back what `get_extra_state` gave."""
        raise RuntimeError(
            f"{type(self).__name__} defines no set_extra_state, but the state dict has extra state for it"
        )

    # -- loading --------------------------------------------------------------------------------------------------
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> LoadReport:
        """Load parameters and buffers by dotted name.

        All problems are gathered first: a load that raises has changed nothing.

        Args:
            state_dict: name → jax, numpy or torch array, as `state_dict()` or `jm.load` give it.
            strict: every name must be in both; False loads what matches.
            assign: take the arrays as they are, with their dtypes, instead of casting to the model's.

        Returns:
            A `LoadReport`: torch's `(missing_keys, unexpected_keys)`, and what was loaded, cast, tied and not touched.

        Raises:
            RuntimeError: names or shapes don't match (with torch's wording; everything that is wrong is listed), or
                `strict=False` found nothing to load.
            TypeError: `state_dict` is no mapping.

        Example:
            >>> from jaxmodule import nn
            >>> nn.Linear(2, 3).load_state_dict(nn.Linear(2, 3).state_dict())
            <All keys matched successfully>
              loaded: 2
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        module: Any = self
        missing: list[str] = []
        unexpected: list[str] = []
        errors: list[str] = []
        metadata = getattr(state_dict, "_metadata", None)
        own = OrderedDict(state_dict)
        if metadata is not None:
            own._metadata = metadata  # pyright: ignore[reportAttributeAccessIssue]

        with overlaid({}, closed=False) as overlay:  # nothing reaches the module until all of it is known to fit
            _load(module, own, "", assign, missing, unexpected, errors)
            report = _report(module, state_dict, missing, unexpected, overlay)
            if strict:
                errors[:0] = _key_errors(missing, unexpected)
            if errors:
                listed = "\n\t".join(errors)
                raise RuntimeError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t{listed}")
            _check_useful(module, report, strict)
            overlay.settle()  # what an override did in place to a plain container counts too
            written = [(box, overlay.values[box]) for box in (*overlay.written, *overlay.born)]
        for box, value in dict(written).items():
            if box in overlay.born:
                box._set_raw(value)
            else:
                write(box, value)
        return report

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load this module's own entries; a subclass may override it, as in torch."""
        module: Any = self
        for hook in tuple(module._load_state_dict_pre_hooks.values()):
            hook(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        assign = local_metadata.get("assign_to_params_buffers", False)
        local = self._local_state()
        for name, box in local.items():
            key = prefix + name
            if key not in state_dict:
                if strict:
                    missing_keys.append(key)
                continue
            problem = _load_box(box, key, state_dict[key], assign)
            if problem:
                error_msgs.append(problem)
        extra_key = prefix + _EXTRA
        if type(module).set_extra_state is not StateDict.set_extra_state:
            if extra_key in state_dict:
                module.set_extra_state(state_dict[extra_key])
            elif strict:
                missing_keys.append(extra_key)
        elif strict and extra_key in state_dict:
            unexpected_keys.append(extra_key)
        if strict:
            for key in state_dict:
                if key.startswith(prefix) and key != extra_key:
                    first, *rest = key[len(prefix) :].split(".", 1)
                    if (first not in module._modules) if rest else (first not in local):
                        unexpected_keys.append(key)

    # -- hooks ----------------------------------------------------------------------------------------------------
    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Run `hook(module, prefix, keep_vars)` before this module's part of `state_dict`."""
        return RemovableHandle.add(self.__dict__["_state_dict_pre_hooks"], hook)

    def register_state_dict_post_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Run `hook(module, state_dict, prefix, local_metadata)` after it; it may change the dict in place."""
        hook._from_public_api = True  # pyright: ignore[reportFunctionMemberAccess]
        return RemovableHandle.add(self.__dict__["_state_dict_hooks"], hook)

    def _register_state_dict_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        if getattr(hook, "_from_public_api", False):
            raise RuntimeError(
                "Cannot register the same function as the state dict post hook that was "
                "previously registered via register_state_dict_post_hook"
            )
        return RemovableHandle.add(self.__dict__["_state_dict_hooks"], hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Run `hook` before this module's entries are loaded; it may change the dict, which is a copy.

        It is called as `hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
        error_msgs)`.
        """
        return self._register_load_state_dict_pre_hook(hook, with_module=True)

    def _register_load_state_dict_pre_hook(
        self, hook: Callable[..., Any], with_module: bool = False
    ) -> RemovableHandle:
        registry = self.__dict__["_load_state_dict_pre_hooks"]
        return RemovableHandle.add(registry, _WithModule(hook, self) if with_module else hook)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Run `hook(module, incompatible_keys)` after this module is loaded; it may change the two lists in place."""
        return RemovableHandle.add(self.__dict__["_load_state_dict_post_hooks"], hook)


class _WithModule:
    """A load pre-hook that is given its module; picklable and copyable with it."""

    def __init__(self, hook: Callable[..., Any], module: Any) -> None:
        self.hook = hook
        self.module = module

    def __call__(self, *args: Any) -> Any:
        return self.hook(self.module, *args)


def _load(
    module: Any, state: Any, prefix: str, assign: bool, missing: list[str], unexpected: list[str], errors: list[str]
) -> None:
    """Load `module` and what is below it."""
    metadata = getattr(state, "_metadata", None)
    local_metadata = {} if metadata is None else dict(metadata.get(prefix[:-1], {}))
    if assign:
        local_metadata["assign_to_params_buffers"] = True
    module._load_from_state_dict(state, prefix, local_metadata, True, missing, unexpected, errors)
    for name, child in module._modules.items():
        if child is not None:
            below = f"{prefix}{name}."
            part = OrderedDict((key, value) for key, value in state.items() if key.startswith(below))
            if metadata is not None:
                part._metadata = metadata  # pyright: ignore[reportAttributeAccessIssue]
            _load(child, part, below, assign, missing, unexpected, errors)
    keys = LoadReport(missing, unexpected)
    for hook in tuple(module._load_state_dict_post_hooks.values()):
        if hook(module, keys) is not None:
            raise AssertionError(  # torch's type
                "Hooks registered with ``register_load_state_dict_post_hook`` are not expected to return new values, "
                "if incompatible_keys need to be modified, it should be done inplace."
            )


def _load_box(box: Box, key: str, given: Any, assign: bool) -> str | None:
    """Write one entry into its box; what is wrong with it, in torch's words, or None."""
    if is_lazy(given):  # saved before the first call
        return None if is_lazy(box) else f"the state dict has no value for {key} yet: it was saved uninitialized"
    array = _as_array(given)
    if array is None:
        return (
            f'While copying the parameter named "{key}", expected torch.Tensor or Tensor-like object from checkpoint '
            f"but received {type(given)}"
        )
    if isinstance(box, UninitializedTensorMixin):
        box.become(array if assign else jax.device_put(array.astype(box.dtype), box.device))
        return None
    old = box.value
    if not old.shape and array.shape == (1,):  # files from before torch had scalars
        array = array[0]
    if array.shape != old.shape:
        return (
            f"size mismatch for {key}: copying a param with shape {tuple(array.shape)} from checkpoint, "
            f"the shape in current model is {tuple(old.shape)}."
        )
    box.value = array if assign else _placed(array, old)
    return None


def _key_errors(missing: Iterable[str], unexpected: Iterable[str]) -> list[str]:
    found = []
    for what, keys in (("Missing", missing), ("Unexpected", unexpected)):
        listed = ", ".join(f'"{key}"' for key in keys)
        if listed:
            found.append(f"{what} key(s) in state_dict: {listed}. ")
    return found


def _report(module: Any, state: Any, missing: list[str], unexpected: list[str], overlay: Overlay) -> LoadReport:
    report = LoadReport(missing, unexpected)
    names: dict[Box, list[str]] = {}
    for path, owner in module.named_modules(remove_duplicate=False):
        for name, box in owner._local_state().items():
            names.setdefault(box, []).append(f"{path}.{name}" if path else name)
    loaded: list[str] = []
    cast: list[tuple[str, str, str]] = []
    untouched: list[str] = []
    for box, all_names in names.items():
        found = [name for name in all_names if name in state]
        if box not in overlay.written:
            untouched.append(all_names[0])
        elif found:
            loaded += found
            before = str(getattr(state[found[0]], "dtype", "")).removeprefix("torch.")
            if before and before != str(box.dtype):
                cast.append((all_names[0], before, str(box.dtype)))
        elif box in overlay.born or overlay.values[box] is not box._value:
            loaded.append(all_names[0])  # a hook or an override below has renamed its key, or made it
        else:
            untouched.append(all_names[0])  # an override gave what was there, as BatchNorm does for old files
    report.loaded, report.cast, report.untouched = loaded, cast, untouched
    report.tied = [tuple(all_names) for all_names in names.values() if len(all_names) > 1]
    return report


def _check_useful(module: Any, report: LoadReport, strict: bool) -> None:
    """A lenient load that loads nothing is a mistake; one that leaves parameters as they were says which."""
    if strict or not report.untouched:
        return
    if not report.loaded:
        raise RuntimeError(
            f"load_state_dict(strict=False) matched nothing in {type(module).__name__}: the model has "
            f"{report.untouched[:3]}, the state dict {report.unexpected_keys[:3]}."
        )
    parameters = [name for name in report.untouched if isinstance(_find(module, name), Parameter)]
    if parameters:
        warnings.warn(
            f"load_state_dict(strict=False) left these parameters of {type(module).__name__} as they were: "
            + ", ".join(parameters),
            UserWarning,
            stacklevel=3,
        )


def _find(module: Any, name: str) -> Any:
    path, _, last = name.rpartition(".")
    return getattr(module.get_submodule(path), last)
