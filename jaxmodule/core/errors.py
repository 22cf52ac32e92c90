"""The named errors of the pitfalls that JAX adds to torch's contract.

Each says what happened, the module path, and the code to write instead. The path is not known where the error is
raised: every `Module.__call__` that it passes through puts its part in front (nn/notes.py).
"""

from typing import Any


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
