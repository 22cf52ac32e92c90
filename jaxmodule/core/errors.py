"""The named errors of the pitfalls that JAX adds to torch's contract.

Each says what happened, the module path, and the code to write instead. The path is not known where the error is
raised: every `Module.__call__` that it passes through puts its part in front (nn/notes.py).
"""

from typing import Any

DONATED = (
    "its array is deleted: an earlier call (donate=True, donate_argnums, ...) was given this very array for reuse,\n"
    "from another object that held it too."
)
KEEP_IT = (
    "Give the two objects arrays of their own before such a call, as copy.deepcopy(model) and\n"
    "other.load_state_dict(jax.tree.map(jnp.copy, model.state_dict())) do; now load a state that is alive into it."
)


class StateError(RuntimeError):
    """Base of the errors about state and transforms. `.box` is the box concerned, `.path` its dotted name so far."""

    def __init__(self, what: str, remedy: str, box: Any = None) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.box = box
        self.path = ""
        self.owner = ""

    def __str__(self) -> str:
        if self.path:
            where = f"{self.path!r} of {self.owner}: "
        elif self.box is not None:
            where = f"{type(self.box).__name__} of shape {getattr(self.box, 'raw_shape', None)}: "
        else:
            where = ""
        return f"{where}{self.what}\n{self.remedy}"


class ForeignTraceError(StateError):
    """State was written, or a random number drawn, inside a raw JAX transform, which would lose or repeat it."""


class ClosedOverError(StateError):
    """A function under `jm.jit` used a Module, Parameter or Generator that is not among its arguments."""


class EscapedError(StateError):
    """A box that was made while a function was traced is read after the trace has ended."""


class ImmutableError(StateError):
    """`functional_call(..., mutable=False)` ran code that writes to what it was given."""


_MOST_NAMES = 8
_GIVE_VALUES = (
    "Give them values: `model.load_state_dict(jm.load(path, mmap=True))` reads them straight from a file;\n"
    "`model.to_empty(device=...)`, then `reset_parameters()` of each layer, draws them.\n"
    "Shapes come without values: `jm.eval_shape(model, *inputs)`, `jm.summary(model, *inputs)`."
)


class AbstractError(StateError):
    """Something that has a shape and a dtype, but no value (`jm.device("meta")`), was used where a value is needed.

    Args:
        names: of the parameters and buffers; in `.names`.
        action: what was done with them.
    """

    def __init__(self, names: list[str], action: str) -> None:
        super().__init__(action, _GIVE_VALUES)
        self.names = names

    def __str__(self) -> str:
        shown = ", ".join(self.names[:_MOST_NAMES]) + (", …" if len(self.names) > _MOST_NAMES else "")
        which = f"{len(self.names)} of its parameters and buffers have" if self.names else "it has"
        return (
            f'{self.what}, but {which} only a shape and a dtype, and no value (jm.device("meta"), jm.eval_shape)'
            f"{': ' + shown if shown else ''}.\n{self.remedy}"
        )

    def __reduce__(self) -> Any:
        return AbstractError, (self.names, self.what)
