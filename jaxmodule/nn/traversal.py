"""Walking a module tree: one generator, `named_modules`, and views of it.

Everything that lists parameters, buffers or submodules is a predicate over that one walk, with one rule for duplicates:
an object is listed once, under the first name it is met by.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from ..core.box import Box
from ..core.freeze import Node
from ..core.parameter import Buffer, Parameter, ParamName

if TYPE_CHECKING:
    from .module import Module


class Traversal:
    """The part of Module that lists what is in it."""

    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Buffer | None]
    _modules: "dict[str, Module | None]"

    def named_modules(
        self, memo: "set[Any] | None" = None, prefix: str = "", remove_duplicate: bool = True
    ) -> "Iterator[tuple[str, Module]]":
        """Every module of the tree with its dotted name, this one first under `prefix`.

        Args:
            memo: modules to leave out; what is listed is added to it.
            prefix: put in front of every name.
            remove_duplicate: list a module that is reached by several names only once.
        """
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self  # pyright: ignore[reportReturnType]
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def _named_members(
        self,
        members: "Callable[[Module], Any]",
        prefix: str = "",
        recurse: bool = True,
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, Any]]:
        """The members that `members(module)` gives of each module, with dotted names."""
        seen: set[Any] = set()
        modules: Any = [(prefix, self)]
        if recurse:
            modules = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
        for path, module in modules:
            for name, value in members(module):
                if value is None or value in seen:
                    continue
                if remove_duplicate:
                    seen.add(value)
                yield (f"{path}.{name}" if path else name), value

    def modules(self, remove_duplicate: bool = True) -> "Iterator[Module]":
        """Every module of the tree, this one first; without `remove_duplicate` once for each name."""
        for _, module in self.named_modules(remove_duplicate=remove_duplicate):
            yield module

    def named_children(self) -> "Iterator[tuple[str, Module]]":
        """The direct submodules with their names."""
        seen: set[Any] = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> "Iterator[Module]":
        """The direct submodules."""
        for _, module in self.named_children():
            yield module

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """The parameters with their dotted names, in torch's order. A tied one is listed once."""
        for name, box in self._named_members(lambda m: m._parameters.items(), prefix, recurse, remove_duplicate):
            _remember(box, name.removeprefix(f"{prefix}.") if prefix else name)
            yield ParamName(name, box), box

    def parameters(self, recurse: bool = True) -> "Parameters":
        """The parameters, as an iterator that also tells optimizers their names."""
        return Parameters(self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Buffer]]:
        """The buffers with their dotted names."""
        yield from self._named_members(lambda m: m._buffers.items(), prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Buffer]:
        """The buffers."""
        for _, box in self.named_buffers(recurse=recurse):
            yield box

    def _named_trainable(self) -> dict[str, Parameter]:
        return dict(self.named_parameters())

    def apply(self, fn: "Callable[[Module], None]") -> Self:
        """Call `fn` with every module of the tree, children first; returns this module."""
        for module in self.children():
            module.apply(fn)
        fn(self)  # pyright: ignore[reportArgumentType]
        return self

    # -- by dotted name -------------------------------------------------------------------------------------------
    def get_submodule(self, target: str) -> "Module":
        """The submodule with a dotted name; `""` is this module.

        Raises:
            AttributeError: there is no such attribute, or it is no module.
        """
        module: Any = self
        for name in target.split(".") if target else ():
            if not hasattr(module, name):
                raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
            found = getattr(module, name)
            if not isinstance(found, Traversal):
                raise AttributeError(f"`{name}` is not an nn.Module")
            module = found
        return module

    def set_submodule(self, target: str, module: "Module", strict: bool = False) -> None:
        """Put `module` at a dotted name, in place of what is there.

        Args:
            target: the name, not empty.
            module: the new submodule.
            strict: only replace; without it a last name that doesn't exist yet is made.

        Raises:
            ValueError: the name is empty, or `module` is no module.
            AttributeError: a part of the name doesn't exist, or is no module.
        """
        if not target:
            raise ValueError("Cannot set the submodule without a target name!")
        if not isinstance(module, Traversal):
            raise ValueError(f"`module` is not an nn.Module, found {type(module)}")
        path, _, name = target.rpartition(".")
        parent = self.get_submodule(path)
        if strict and not hasattr(parent, name):
            raise AttributeError(f"{parent._get_name()} has no attribute `{name}`")
        if hasattr(parent, name) and not isinstance(getattr(parent, name), Traversal):
            raise AttributeError(f"`{name}` is not an nn.Module")
        setattr(parent, name, module)

    def get_parameter(self, target: str) -> Parameter:
        """The parameter with a dotted name.

        Raises:
            AttributeError: there is no such attribute, or it is no parameter.
        """
        return self._get_box(target, "_parameters", "an nn.Parameter")

    def get_buffer(self, target: str) -> Buffer | None:
        """The buffer with a dotted name; None where None is registered.

        Raises:
            AttributeError: there is no such attribute, or it is no buffer.
        """
        return self._get_box(target, "_buffers", "a buffer")

    def _get_box(self, target: str, registry: str, what: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(f"{module._get_name()} has no attribute `{name}`")
        boxes = module.__dict__[registry]
        if name not in boxes or (boxes[name] is None and registry == "_parameters"):
            raise AttributeError(f"`{name}` is not {what}")
        return boxes[name]


def _remember(box: Parameter, name: str) -> None:
    """Let a list filtered from a listing still tell an optimizer the names.

    A name seen from further up stays where a submodule is listed by itself: which of the two came last says nothing.
    """
    if not box.name_hint.endswith(f".{name}"):
        box.name_hint = name


class Parameters:
    """An iterator over parameters that knows their dotted names; optimizers key their state by them."""

    def __init__(self, named: Iterator[tuple[str, Parameter]]) -> None:
        self._named = named

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Parameter:
        return next(self._named)[1]

    def named(self) -> Iterator[tuple[str, Parameter]]:
        """What is left, with names."""
        return self._named

    def __repr__(self) -> str:
        return "<iterator over parameters>"


def contains_module(container: Any) -> bool:
    """Does a plain container hold a module, at any depth?"""
    if isinstance(container, Node):
        return isinstance(container, Traversal)
    if isinstance(container, dict):
        container = container.values()
    elif not isinstance(container, (list, tuple, set)):
        return False
    return any(contains_module(item) for item in container)


def boxes_of(module: "Module") -> dict[str, Box]:
    """Every parameter and buffer under each of its names."""
    found: dict[str, Any] = dict(module.named_parameters(remove_duplicate=False))
    found.update(module.named_buffers(remove_duplicate=False))
    return found
