"""Bringing a PyTorch model over: `parity`, `assert_parity`; also a command, `python -m jaxmodule.port parity`.

`summary` tells what a model consists of, which shapes run through it and what that costs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._parity import Cause, ParityReport, Row, assert_parity, parity
    from ._summary import Summary, SummaryRow, summary

__all__ = ["Cause", "ParityReport", "Row", "Summary", "SummaryRow", "assert_parity", "parity", "summary"]

# Not in a file `parity.py`: importing that would put the module where the function belongs.
_HOME: dict[str, str] = dict.fromkeys(("Cause", "ParityReport", "Row", "assert_parity", "parity"), "_parity")
_HOME |= dict.fromkeys(("Summary", "SummaryRow", "summary"), "_summary")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
