"""How treescope shows our objects, where it is installed: it calls `__treescope_repr__`; nothing else imports it."""

from typing import Any


def render(kind: type, attributes: dict[str, Any], path: str | None, subtree_renderer: Any) -> Any:
    """An object as treescope shows one: its class, and attributes to unfold."""
    from treescope import formatting_util, repr_lib  # it is there: it has called

    color = formatting_util.color_from_string(kind.__qualname__)
    return repr_lib.render_object_constructor(kind, attributes, path, subtree_renderer, color=color)
