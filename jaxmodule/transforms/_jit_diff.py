"""What differs between two structures (core/structure.py), in the words of whoever wrote the modules.

A structure's key is nested tuples: the roots' entries, a record for each object, a record for each box. An entry is
None, ("node", number of the object) or the number of a box.
"""

import types
from typing import Any

Key = tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]
_HOOKS = {
    "_forward_pre_hooks": "forward pre-hooks",
    "_forward_hooks": "forward hooks",
    "_backward_pre_hooks": "backward pre-hooks",
    "_backward_hooks": "backward hooks",
}


def structure_differences(before: Key, now: Key, roots_before: list[str], roots_now: list[str]) -> list[str]:
    """The differences between two structures, each with its dotted path and both values.

    Args:
        before: a `Structure.key`.
        now: another.
        roots_before: what to call the objects that `before` starts from.
        roots_now: those of `now`.
    """
    walk = _Diff(before, now)
    older, newer = (dict(zip(n, k[0], strict=True)) for n, k in ((roots_before, before), (roots_now, now)))
    walk.entries(older, newer, "")
    return walk.found


def box_paths(key: Key, roots: list[str]) -> list[str]:
    """The dotted paths of the boxes that hold one array, in a layout's order."""
    first: dict[int, str] = {}
    seen: set[int] = set()

    def visit(entry: Any, path: str) -> None:
        if isinstance(entry, int):
            first.setdefault(entry, path)
        elif _is_node(entry) and entry[1] not in seen:
            seen.add(entry[1])
            for registry in key[1][entry[1]][3:]:
                for name, inner in registry:
                    visit(inner, f"{path}.{name}" if path else str(name))

    for root, entry in zip(roots, key[0], strict=True):
        visit(entry, root)
    whole = [i for i, (kind, _, _) in enumerate(key[2]) if not kind._container and not kind._lazy]
    return [first.get(i, "an array in a container") for i in whole]


class _Diff:
    """One parallel walk over two structures."""

    def __init__(self, before: Key, now: Key) -> None:
        self.before = before
        self.now = now
        self.found: list[str] = []
        self._pairs: dict[Any, Any] = {}  # (kind, number before) -> (number now, path)
        self._back: dict[Any, str] = {}  # (kind, number now) -> path

    def add(self, path: str, what: str) -> None:
        """Note a difference."""
        self.found.append(f"{path}: {what}")

    def entries(self, before: dict[Any, Any], now: dict[Any, Any], path: str, mode: Any = None) -> None:
        """Compare what two objects have in their registries."""
        for name in {**before, **now}:
            old: Any
            new: Any
            where = f"{path}.{name}" if path else str(name)
            old, new = before.get(name), now.get(name)
            if type(old) is not type(new):
                self.add(where, f"{self._kind(self.before, old)} -> {self._kind(self.now, new)}")
            elif old is not None and self._first_meeting(old, new, where):
                if isinstance(old, int):
                    self._box(self.before[2][old], self.now[2][new], where)
                else:
                    self._node(self.before[1][old[1]], self.now[1][new[1]], where, mode)
        if list(before) != list(now) and set(before) == set(now):
            self.add(path or "the arguments", f"order of {list(before)} -> {list(now)}")

    def _first_meeting(self, old: Any, new: Any, path: str) -> bool:
        """Is this pair to be compared? It is not if one of them was met before; then the other must be the same."""
        kind, number, target = ("box", old, new) if isinstance(old, int) else ("node", old[1], new[1])
        known = self._pairs.get((kind, number))
        if known is None and (kind, target) not in self._back:
            self._pairs[kind, number] = (target, path)
            self._back[kind, target] = path
            return True
        if known is not None and known[0] == target:
            return False
        was = f"shared with {known[1]}" if known is not None else "its own"
        shared = self._back.get((kind, target))
        self.add(path, f"{was} -> {'its own' if shared is None else f'shared with {shared}'}")
        return False

    def _kind(self, key: Key, entry: Any) -> str:
        if entry is None:
            return "nothing"
        return (key[2][entry] if isinstance(entry, int) else key[1][entry[1]])[0].__name__

    def _node(self, old: Any, new: Any, path: str, mode: Any) -> None:
        if old[0] is not new[0]:
            self.add(path, f"class {old[0].__name__} -> {new[0].__name__}")
            return
        mode = self._statics(_by_name(old[1]), _by_name(new[1]), path, mode)
        if old[2] != new[2]:
            self._extra(old[2], new[2], path)
        merged_old, merged_new = ({k: e for registry in side[3:] for k, e in registry} for side in (old, new))
        self.entries(merged_old, merged_new, path, mode)

    def _statics(self, old: dict[str, Any], new: dict[str, Any], path: str, mode: Any) -> Any:
        """Compare static attributes. `mode` is the change of mode that is reported already, of a module around."""
        for name in {**old, **new}:
            before, after = (side.get(name, _ABSENT) for side in (old, new))
            if before == after:
                continue
            if name == "training" and _ABSENT not in (before, after):
                change = tuple("train" if side[1] else "eval" for side in (before, after))
                if change != mode:
                    self.add(path, f"{change[0]} mode -> {change[1]} mode")
                mode = change
            else:
                self.add(f"{path}.{name}", f"{shown(before)} -> {shown(after)}")
        return mode

    def _extra(self, old: Any, new: Any, path: str) -> None:
        """Compare hooks, which is what modules have there; other objects have settings of their own."""
        hooks = [{e[0]: e[1] for e in side or () if e and e[0] in _HOOKS} for side in (old, new)]
        for kind, words in _HOOKS.items():
            before, after = (side.get(kind, ()) for side in hooks)
            if before != after:
                self.add(
                    path,
                    f"{words}: {len(before)} -> {f'{len(after)} others' if len(before) == len(after) else len(after)}",
                )
        if hooks[0] == hooks[1]:
            self.add(path, "its settings" if not any(hooks) else "the options of its hooks")

    def _box(self, old: Any, new: Any, path: str) -> None:
        if old[0] is not new[0]:
            self.add(path, f"{old[0].__name__} -> {new[0].__name__}")
            return
        (_, flags, extra), (_, new_flags, new_extra) = old, new
        if flags != new_flags:
            if isinstance(flags, tuple) and isinstance(new_flags, tuple):
                if flags[0] != new_flags[0]:
                    self.add(path, f"requires_grad={flags[0]} -> requires_grad={new_flags[0]}")
                if flags[1:] != new_flags[1:]:
                    self.add(path, "its gradient hooks")
            else:
                self.add(path, f"persistent={flags} -> persistent={new_flags}")
        if extra == new_extra:
            return
        if old[0]._container:
            self._container(extra, new_extra, path)
        elif extra is None or new_extra is None or extra[0] != new_extra[0]:
            before, after = ("a gradient" if e and e[0] else "no gradient" for e in (extra, new_extra))
            self.add(path, f"{before} in .grad -> {after}")
        else:
            self._statics(dict(extra[1]), dict(new_extra[1]), path, None)

    def _container(self, old: Any, new: Any, path: str) -> None:
        if old[0] != new[0]:
            self.add(path, f"{_skeleton(old[0])} -> {_skeleton(new[0])}")
        else:
            before, after = ({f"[{i}]": e for i, e in enumerate(side[1])} for side in (old, new))
            self.entries(before, after, path)


class _Absent:
    def __repr__(self) -> str:
        return "not there"


_ABSENT: Any = _Absent()


def _is_node(entry: Any) -> bool:
    return type(entry) is tuple and len(entry) == 2 and entry[0] == "node"


def _by_name(statics: Any) -> dict[str, Any]:
    """Static attributes by name. Ints and bools come as (name, kind, value), the others as (name, key)."""
    return {item[0]: item[1:] if len(item) == 3 else item[1] for item in statics}


def shown(key: Any) -> str:
    """A frozen value as it would be written."""
    if not isinstance(key, tuple) or not key:
        value = getattr(key, "value", key)
        name = getattr(value, "__qualname__", None)
        return _short(name if isinstance(value, types.FunctionType) and name else repr(value))
    kind, *rest = key
    if kind in (int, bool):
        return repr(rest[0])
    if kind in (float, complex):
        return rest[0]
    if kind in (tuple, list):
        return _short(f"{'(' if kind is tuple else '['}{', '.join(map(shown, rest))}{')' if kind is tuple else ']'}")
    if kind is dict:
        return _short(
            "{" + ", ".join(f"{shown(k)}: {shown(v)}" for k, v in zip(rest[::2], rest[1::2], strict=True)) + "}"
        )
    return f"{kind.__name__}" if isinstance(kind, type) else _short(repr(key))


def _skeleton(skeleton: Any) -> str:
    """A container with `array` for its arrays."""
    if skeleton == "a":
        return "array"
    if skeleton == "r":
        return "object"
    kind, *rest = skeleton
    if kind == "static":
        return shown(rest[0])
    if kind in (list, tuple):
        return _short(f"{kind.__name__}({', '.join(map(_skeleton, rest))})")
    if isinstance(kind, type) and issubclass(kind, dict):
        pairs = zip(rest[0], rest[1:], strict=True)
        return _short("{" + ", ".join(f"{shown(k)}: {_skeleton(v)}" for k, v in pairs) + "}")
    return _short(getattr(kind, "__name__", str(kind)))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"
