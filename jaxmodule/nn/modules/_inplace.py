"""What pointwise layers with an `inplace` argument share."""

from __future__ import annotations

from ..module import Module


class InPlace(Module):
    """A pointwise layer that may write its result into its input, if that is a box."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        """`inplace=True`, or nothing."""
        return "inplace=True" if self.inplace else ""

    def _repr_of(self, *names: str) -> str:
        """The attributes of these names, and `inplace` where it is on."""
        shown = [f"{name}={getattr(self, name)}" for name in names]
        return ", ".join([*shown, "inplace=True"] if self.inplace else shown)
