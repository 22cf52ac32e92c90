"""The keys of state dicts from elsewhere: prefixes to strip, rules to rename by, and guesses at what would help.

*Rule*: a pattern and what to put in its place. Text is the beginning of a dotted name, in whole parts of it ("encoder"
is the beginning of "encoder.0.weight", not of "encoders.0.weight"); a compiled regular expression is searched for
anywhere and substituted, as `re.sub` does.
"""

import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Rules = Mapping[str, str] | Sequence[tuple[str | re.Pattern[str], str]]

# What wrappers put in front of every name: DataParallel and DDP, torch.compile, Lightning and Hugging Face, FSDP.
KNOWN_PREFIXES = ("module.", "_orig_mod.", "model.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "net.")
_MOST_WRAPPERS = 4
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def rename(
    state: Mapping[str, Any], strip_prefix: str | Iterable[str] | None, rules: Rules | None
) -> tuple["OrderedDict[str, Any]", list[tuple[str, str]]]:
    """A copy of a state dict under other names, and what was renamed.

    Args:
        state: the state dict, with or without `_metadata`.
        strip_prefix: a prefix, or several, to take off one after the other.
        rules: the rules, applied one after the other, each to what those before have made.

    Raises:
        ValueError: for a prefix or a rule that no name matches, and for two names that become one.
        TypeError: for a name, a prefix or a rule that is not of its kind.
    """
    steps = [*map(_strip, _as_list(strip_prefix)), *map(_rule, _pairs(rules))]
    names = {key: key for key in state}
    for what, step in steps:
        if not all(isinstance(key, str) for key in names):
            raise TypeError(f"{what} needs a state dict whose keys are text; {_first_other(names)!r} is none")
        changed = {key: step(name) for key, name in names.items()}
        if all(new is None for new in changed.values()):
            shown = ", ".join(map(repr, list(names.values())[:3]))
            raise ValueError(f"{what} matches none of the {len(names)} names of the state dict, such as {shown}")
        names = {key: names[key] if new is None else new for key, new in changed.items()}
    sources: dict[str, str] = {}
    for key, name in names.items():
        if name in sources:
            raise ValueError(f"{sources[name]!r} and {key!r} of the state dict would both become {name!r}")
        sources[name] = key
    out = OrderedDict((names[key], value) for key, value in state.items())
    versions = getattr(state, "_metadata", None)
    if versions is not None:
        out._metadata = _renamed_paths(versions, [step for _, step in steps])  # pyright: ignore[reportAttributeAccessIssue]
    return out, [(key, name) for key, name in names.items() if key != name]


def suggestion(state: Mapping[str, Any], own: Iterable[str]) -> str:
    """A sentence on what would make names match, or "": for the errors of a load that failed."""
    keys, own = [key for key in state if isinstance(key, str)], set(own)
    if not keys or not own:
        return ""
    nested = _nested(state, keys, own)
    if nested:
        return nested
    if prefix := prefix_of(keys, own):
        return f"The names begin with {prefix!r}: `strip_prefix={prefix!r}` takes it off."
    if any(_WRAPPERS.search(key) and _WRAPPERS.sub("", key) in own for key in keys):
        return f'Wrappers have put names of theirs between: `rename=[(re.compile(r"{_WRAPPERS.pattern}"), "")]`.'
    outer = {name.partition(".")[0] for name in own}
    for prefix in sorted(outer):
        if not own & set(keys) and any(f"{prefix}.{key}" in own for key in keys):
            return f'The model\'s names begin with {prefix!r}: `rename=[(re.compile("^"), "{prefix}.")]` puts it there.'
    return ""


def prefix_of(names: Iterable[Any], own: Iterable[str]) -> str | None:
    """What to take off the beginning of `names` so that some are among `own`: "" for nothing, None if nothing helps.

    One wrapper may be around another: "module._orig_mod.".
    """
    own = set(own)
    tried = deque([("", [name for name in names if isinstance(name, str)])])
    while tried:
        taken, left = tried.popleft()
        if own & set(left):
            return taken
        first = f"{left[0].partition('.')[0]}." if left and not taken else "module."
        for prefix in dict.fromkeys((*KNOWN_PREFIXES, first)):
            inside = [name[len(prefix) :] for name in left if name.startswith(prefix)]
            if inside and taken.count(".") < _MOST_WRAPPERS:
                tried.append((taken + prefix, inside))
    return None


def _nested(state: Mapping[str, Any], keys: list[str], own: set[str]) -> str:
    """A sentence for a checkpoint whose entry is the state dict, under the model's names or under others."""
    found = [(key, prefix_of(state[key], own)) for key in keys if isinstance(state[key], Mapping)]
    for key, prefix in sorted(found, key=lambda item: bool(item[1])):
        if prefix is not None:
            begin, end = (f", its names with {prefix!r} before them", f", `strip_prefix={prefix!r}`")
            begin, end = (begin, end) if prefix else ("", "")
            return f"The state dict holds that of the model under {key!r}{begin}: load `state_dict[{key!r}]`{end}."
    return ""


_Step = tuple[str, Callable[[str], str | None]]


def _as_list(prefixes: str | Iterable[str] | None) -> list[str]:
    return [] if prefixes is None else [prefixes] if isinstance(prefixes, str) else list(prefixes)


def _pairs(rules: Rules | None) -> list[Any]:
    if rules is None:
        return []
    if isinstance(rules, str):
        raise TypeError(f"rename takes a dict, or a list of (pattern, replacement), not {rules!r}")
    if not isinstance(rules, Iterable):
        advice = "; for a function, load `{function(name): value for name, value in state_dict.items()}`"
        kind = advice if callable(rules) else ""
        raise TypeError(f"rename takes a dict, or a list of (pattern, replacement), not {rules!r}{kind}")
    return list(rules.items() if isinstance(rules, Mapping) else rules)


def _strip(prefix: str) -> _Step:
    if not isinstance(prefix, str) or not prefix:
        raise TypeError(f"strip_prefix takes text such as 'module.', or several, not {prefix!r}")
    dotted = prefix if prefix.endswith(".") else f"{prefix}."
    return (
        f"strip_prefix={prefix!r}",
        lambda name: name[len(dotted) :] if name.startswith(dotted) and name != dotted else None,
    )


def _rule(rule: Any) -> _Step:
    if not isinstance(rule, tuple | list) or len(rule) != 2 or not isinstance(rule[1], str):
        raise TypeError(f"a rule of rename is (pattern, replacement), not {rule!r}")
    pattern, new = rule
    if isinstance(pattern, re.Pattern):
        return f"the rule {pattern.pattern!r} of rename", lambda name: _substituted(pattern, new, name)
    if not isinstance(pattern, str) or not pattern:
        raise TypeError(f"a pattern of rename is text or re.compile(...), not {pattern!r}")
    return f"the rule {pattern!r} of rename", lambda name: _replaced(pattern.removesuffix("."), new, name)


def _substituted(pattern: re.Pattern[str], new: str, name: str) -> str | None:
    try:
        out, count = pattern.subn(new, name)
    except (re.error, IndexError) as error:
        raise ValueError(f"the rule {pattern.pattern!r} of rename: its replacement {new!r} is none: {error}") from error
    return out if count else None


def _replaced(old: str, new: str, name: str) -> str | None:
    if name != old and not name.startswith(f"{old}."):
        return None
    rest = name[len(old) + 1 :]
    return ".".join(filter(None, (new.removesuffix("."), rest)))


def _renamed_paths(versions: Mapping[str, Any], steps: list[Callable[[str], str | None]]) -> "OrderedDict[str, Any]":
    """The modules' versions by their new paths; a wrapper's own gives way to that of the module in it."""
    out: OrderedDict[str, Any] = OrderedDict()
    for path, version in versions.items():
        name = f"{path}." if path else ""
        for step in steps:
            if name:
                # A path is the beginning of names: what happens to `path.x` happens to it.
                new = step(f"{name}x")
                name = name if new is None else new.removesuffix("x")
        name = name.removesuffix(".")
        if name != path:
            out[name] = version
        else:
            out.setdefault(name, version)
    return out


def _first_other(names: Mapping[Any, Any]) -> Any:
    return next(key for key in names if not isinstance(key, str))
