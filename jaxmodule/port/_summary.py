"""`summary`: what a model consists of, what shapes run through it and what it costs, without running it."""

from __future__ import annotations

import shutil
from typing import Any

from ..nn.module import Module
from ._html import page
from ._summary_rows import SummaryRow, rows_of, shown
from ._summary_trace import as_inputs, run

__all__ = ["Summary", "SummaryRow", "summary"]

_NARROWEST, _WIDEST = 60, 200


class Summary:
    """What `summary` returns. Printing it gives a table; a notebook shows a tree to fold.

    Attributes:
        rows: a `SummaryRow` for each module, the model first.
        inputs: what the model was called with, in words; "" where there were no inputs.
        depth: how deep the table goes, None for all the way down.
    """

    def __init__(self, rows: list[SummaryRow], inputs: str = "", depth: int | None = None) -> None:
        self.rows = rows
        self.inputs = inputs
        self.depth = depth

    @property
    def total_params(self) -> int:
        """The number of elements of the parameters; a tied one counts once."""
        return self.rows[0].params

    @property
    def trainable(self) -> int:
        """Those with `requires_grad`."""
        return self.rows[0].trainable

    @property
    def frozen(self) -> int:
        """The others."""
        return self.rows[0].frozen

    @property
    def buffers(self) -> int:
        """The number of elements of the buffers."""
        return self.rows[0].buffers

    @property
    def bytes(self) -> int:
        """The size of parameters and buffers."""
        return self.rows[0].param_bytes + self.rows[0].buffer_bytes

    @property
    def flops(self) -> float | None:
        """Of one call of the model, XLA's estimate; None without inputs."""
        return self.rows[0].flops

    @property
    def flops_backward(self) -> float | None:
        """Of the gradients by the trainable parameters; None without `backward=True`."""
        return self.rows[0].flops_backward

    @property
    def tied(self) -> dict[str, str]:
        """The names of tied parameters, with the names that they count under."""
        return dict(self.rows[0].tied)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON has it: numbers, text, lists and dicts."""
        names = ("inputs", "total_params", "trainable", "frozen", "buffers", "bytes", "flops", "flops_backward", "tied")
        return {**{name: getattr(self, name) for name in names}, "rows": [row.as_dict() for row in self.rows]}

    def to_text(self, width: int | None = None, *, expand: bool = False) -> str:
        """The table as text.

        Args:
            width: in characters; None for the terminal's, or 120 where there is none.
            expand: show each of equal layers in a row, instead of one for all.
        """
        from rich.console import Console  # heavy

        from ._summary_table import table

        if width is None:
            width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size((120, 24)).columns))
        console = Console(width=width, color_system=None, force_jupyter=False, legacy_windows=False)
        with console.capture() as captured:
            console.print(table(self, width, expand))
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def __str__(self) -> str:
        return self.to_text()

    __repr__ = __str__

    def __rich_console__(self, console: Any, options: Any) -> Any:
        from ._summary_table import table

        yield table(self, options.max_width, False)

    def _repr_html_(self) -> str:
        return page(self)


def summary(model: Module, *inputs: Any, depth: int | None = None, backward: bool = False, **kwargs: Any) -> Summary:
    """What a model consists of: a tree of its modules with shapes, parameters, sizes and FLOPs.

    The model is traced on shapes: nothing is computed and no memory is needed, so it also works under
    `jm.device("meta")`. State, random generator, mode and hooks of the model stay as they are (its own hooks run).

    Args:
        model: the module.
        inputs: the arguments of its call: arrays, `jax.ShapeDtypeStruct`, pytrees of those, or shapes, as `(1, 3, 224,
            224)`, which stand for float32. Without any only parameters and buffers are listed.
        depth: how deep the table goes; None for all the way down. The numbers of what is left out are in those above.
        backward: count the gradients' FLOPs too.
        kwargs: keyword arguments of the call.

    Returns:
        A `Summary`: prints as a table that fits the terminal, is a tree to fold in a notebook, and has all of it as
        plain data in `.rows`.

    Raises:
        TypeError: `model` is no Module.
        Exception: what the model's forward raises, with a note on what to do.

    Note:
        FLOPs are XLA's estimate before optimization, of its operations as on GPU and TPU: a multiply-add counts 2,
        products with the zeros of a padding don't count, the random bits of dropout do. Attention is counted by its
        formula, with the whole matrix of scores. A module that cannot be called by itself has none. A `scan` counts
        with its length, a loop of unknown length once: then there is "≥" in front.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
        >>> found = jm.summary(model, (32, 784))
        >>> found.total_params, found.rows[1].params, found.flops > 2 * 32 * (784 * 128 + 128 * 10)
        (101770, 100480, True)
    """
    if not isinstance(model, Module):
        raise TypeError(f"summary() takes a Module, got {type(model).__name__}")
    if not inputs and not kwargs:
        return Summary(rows_of(model, {}), "", depth)
    calls = run(model, inputs, kwargs, backward)
    (args, named), _ = as_inputs((inputs, kwargs))
    return Summary(rows_of(model, calls), shown(args, named), depth)
