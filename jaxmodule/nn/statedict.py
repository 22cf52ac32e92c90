"""`state_dict` and `load_state_dict`: torch's protocol, with loads that happen whole or not at all."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from ..core.overlay import overlaid, write
from ..core.registry import RemovableHandle
from .loading import (
    OPTIONS,
    LoadReport,
    Options,
    check_useful,
    key_errors,
    load_box,
    load_module,
    make_report,
    names_of,
)
from .renaming import Rules, suggestion
from .renaming import rename as _renamed

__all__ = ["LoadReport", "StateDict"]

_EXTRA = "_extra_state"


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
    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,
        assign: bool = False,
        *,
        strip_prefix: str | Iterable[str] | None = None,
        rename: Rules | None = None,
        dtype: Literal["model", "file"] = "model",
    ) -> LoadReport:
        r"""Load parameters and buffers by dotted name.

        All problems are gathered first: a load that raises has changed nothing. What `jm.load(path, mmap=True)` has
        left in its file is read here, one array at a time, straight to where the parameter is: with a model of
        `jm.device("meta")` no more memory is used than the model's own.

        Args:
            state_dict: name → jax, numpy or torch array, or one in a file, as `state_dict()` or `jm.load` give it.
            strict: every name must be in both; False loads what matches.
            assign: take the arrays as they are, with their dtypes and where they are, instead of casting to the
                model's.
            strip_prefix: a prefix to take off the names, "module." say, or several, one after the other. Names
                without it stay as they are.
            rename: rules for the names that are left, a dict or a list of (pattern, replacement), applied one after
                the other. Text stands for the beginning of a name, in whole parts of it: `{"transformer.h": "blocks"}`;
                `re.compile(...)` is substituted wherever it is found: `[(re.compile(r"\.gamma$"), ".weight")]`.
            dtype: "model" casts to the dtypes that the model has, "file" gives it those of the state dict.

        Returns:
            A `LoadReport`: torch's `(missing_keys, unexpected_keys)`, and what was loaded, renamed, cast, tied and not
            touched.

        Raises:
            RuntimeError: names or shapes don't match (with torch's wording; everything that is wrong is listed), or
                `strict=False` found nothing to load.
            ValueError: a prefix or a rule matches no name, or two names become one.
            TypeError: `state_dict` is no mapping.

        Example:
            >>> from jaxmodule import nn
            >>> state = {f"module.{name}": value for name, value in nn.Linear(2, 3).state_dict().items()}
            >>> nn.Linear(2, 3).load_state_dict(state, strip_prefix="module.")
            <All keys matched successfully>
              loaded: 2
              renamed: module.weight → weight, module.bias → bias
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        module: Any = self
        missing: list[str] = []
        unexpected: list[str] = []
        errors: list[str] = []
        options = Options(assign, dtype)
        own, renamed = _renamed(state_dict, strip_prefix, rename)
        given = OrderedDict(own)  # hooks and overrides change theirs

        with overlaid({}, closed=False) as overlay:  # nothing reaches the module until all of it is known to fit
            load_module(module, own, "", options, missing, unexpected, errors)
            report = make_report(module, given, missing, unexpected, overlay, options)
            report.renamed = renamed
            if strict and (missing or unexpected):
                errors[:0] = key_errors(missing, unexpected)
                advice = suggestion(given, [name for names in names_of(module).values() for name in names])
                errors += [advice] if advice else []
            if errors:
                listed = "\n\t".join(errors)
                raise RuntimeError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t{listed}")
            check_useful(module, given, report, strict)
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
        options = getattr(state_dict, OPTIONS, None)
        if options is None:  # an override has made a dict of its own
            options = Options(local_metadata.get("assign_to_params_buffers", False), "model")
        local = self._local_state()
        for name, box in local.items():
            key = prefix + name
            if key not in state_dict:
                if strict:
                    missing_keys.append(key)
                continue
            problem = load_box(box, key, state_dict[key], options, failed=bool(error_msgs))
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
