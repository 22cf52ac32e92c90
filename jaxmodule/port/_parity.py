"""`parity`: does a port compute what its PyTorch original computes, and if not, which module is the first to differ?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..nn.module import Module
from ._backward import gradient_rows
from ._causes import configured, explain, explain_buffer
from ._judge import BAD, Pair, Row, Tolerance, aligned, buffer_rows, judge
from ._names import renaming
from ._numbers import Cause
from ._report import ParityReport
from ._run import Run, both, doubled, prepared, widened

__all__ = ["Cause", "ParityReport", "Row", "assert_parity", "parity"]

#: Beyond the tolerance by no more than this, float64 is asked whether it is rounding.
_ROUNDING = 1e-3
_UNSEEN = Cause(
    "structure",
    "nothing in the model's result can be compared: return arrays or numbers, or tuples, lists, dicts or dataclasses "
    "of them",
    "",
)
_EXACT = "; jax.config.update('jax_default_matmul_precision', 'highest') has products in full float32"


def parity(
    torch_model: Any,
    jax_model: Module,
    *inputs: Any,
    backward: bool = False,
    train_step: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    load: bool = True,
    strip_prefix: Any = None,
    rename: Any = None,
    loss: Callable[[Any], Any] | tuple[Callable[[Any], Any], Callable[[Any], Any]] | None = None,
    double: bool = False,
    **kwargs: Any,
) -> ParityReport:
    """Run a PyTorch model and its port on the same inputs, and compare what every module returns.

    Calls are matched by module name and number. Both models run in evaluation mode (with `train_step` in training mode)
    and are left as they were: modes, buffers, plain numbers on attributes, random state, torch's gradients. Only the
    port's weights change, and what a model keeps in containers of its own.

    Args:
        torch_model: the original.
        jax_model: the port.
        *inputs: arguments of both models; arrays of torch, numpy or JAX. Torch is given a copy with their own dtypes,
            the port 32 bits for 64 unless `jax_enable_x64` is set.
        backward: compare the gradients of the inputs, of the parameters, and at every module; complex ones in torch's
            convention.
        train_step: run in training mode, and compare the buffers (running statistics) afterwards. Dropout is off, as no
            two generators draw the same masks; the report says where.
        rtol: relative to each tensor's largest value. By default 1e-5 for float32 (float64 1e-9, float16 5e-3, bfloat16
            3e-2), ten times that for gradients; and if what is the first beyond it is below 1e-3, both models run once
            more in float64, which tells rounding from mistakes in each row. Integers must be equal.
        atol: added to it; 1e-8 by default, 0 if `rtol` is given.
        load: load torch's weights into the port first, strictly; False compares the weights as they are.
        strip_prefix, rename: rules for `load_state_dict`, for names that differ; modules are matched by them too.
        loss: a function of the model's result to differentiate, or one for each framework; by default the inner
            product of the outputs with fixed random numbers.
        double: run copies of both in float64 throughout: what is left are mistakes.
        **kwargs: more arguments of both models.

    Returns:
        A `ParityReport`.

    Raises:
        RuntimeError: the weights don't fit the port (everything that is wrong is listed).
        TypeError: the models are not a torch and a jaxmodule Module.

    Example:
        >>> import torch
        >>> from jaxmodule import nn, port
        >>> theirs = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.GELU())
        >>> x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(4, 3)
        >>> port.parity(theirs, nn.Sequential(nn.Linear(3, 2), nn.GELU()), x).ok
        True
        >>> wrong = port.parity(theirs, nn.Sequential(nn.Linear(3, 2), nn.GELU("tanh")), x)
        >>> wrong.first.path, wrong.causes[0].says
        ('1', "approximate is 'none' in torch, 'tanh' in the port")
    """
    _check(torch_model, jax_model)
    rules: dict[str, Any] = {
        key: value for key, value in (("strip_prefix", strip_prefix), ("rename", rename)) if value is not None
    }
    loaded = jax_model.load_state_dict(torch_model.state_dict(), **rules) if load else None
    compared = _Comparison(torch_model, jax_model, inputs, kwargs, renaming(torch_model, strip_prefix, rename))
    options = {"backward": backward, "training": train_step, "loss": loss}
    tolerance = Tolerance(rtol, atol)
    if double:
        with doubled(torch_model, jax_model) as models:
            report = compared.of(*models, widened(inputs), widened(kwargs)).report(tolerance, **options)
        report.double = True
    else:
        report = compared.report(tolerance, **options)
        if rtol is None and report.first is not None and _is_small(report.first):
            _ask_float64(report, compared, options)
    report.loaded = loaded
    return report


def assert_parity(torch_model: Any, jax_model: Module, *inputs: Any, **options: Any) -> ParityReport:
    """`parity` for tests: raises if anything differs.

    Args:
        torch_model, jax_model, *inputs, **options: as for `parity`.

    Returns:
        The report, if everything agrees.

    Raises:
        AssertionError: something differs; the message names the first module that does, and why it probably does.

    Example:
        >>> import torch
        >>> from jaxmodule import nn, port
        >>> report = port.assert_parity(torch.nn.Linear(3, 2), nn.Linear(3, 2), np.ones((4, 3), np.float32))
        >>> [row.title for row in report.rows]
        ['(model)']
    """
    report = parity(torch_model, jax_model, *inputs, **options)
    if not report.ok:
        raise AssertionError(report.summary())
    return report


def _check(torch_model: Any, jax_model: Any) -> None:
    for model, what, wanted, ok in (
        (torch_model, "first", "PyTorch model, a torch.nn.Module", hasattr(torch_model, "register_forward_pre_hook")),
        (jax_model, "second", "port, a jaxmodule Module", isinstance(jax_model, Module)),
    ):
        if not ok or (what == "first" and isinstance(model, Module)):
            kind = f"a jaxmodule {type(model).__name__}" if isinstance(model, Module) else f"{type(model).__module__}."
            kind = kind if isinstance(model, Module) else kind + type(model).__name__
            raise TypeError(f"parity: the {what} argument is the {wanted}; got {kind}")


@dataclass
class _Comparison:
    """Two models and what they are run on."""

    theirs: Any
    ours: Module
    inputs: Any
    kwargs: Mapping[str, Any]
    renamed: Callable[[str], str]

    def of(self, theirs: Any, ours: Module, inputs: Any, kwargs: Mapping[str, Any]) -> "_Comparison":
        """The same with other models and inputs."""
        return _Comparison(theirs, ours, inputs, kwargs, self.renamed)

    def report(self, tolerance: Tolerance, *, backward: bool, training: bool, loss: Any) -> ParityReport:
        """Run both, judge every call, and explain the first that differs."""
        notes: list[str] = []
        runs = both(
            self.theirs,
            self.ours,
            self.inputs,
            dict(self.kwargs),
            training=training,
            backward=backward,
            loss=loss,
            notes=notes,
            on_error=lambda error, runs: self._tell(error, runs, tolerance),
        )
        with prepared(self.theirs, self.ours, training, []):
            pairs = aligned(self.theirs, self.ours, runs, self.renamed)
            judge(pairs, tolerance)
            rows = [pair.row for pair in pairs]
            gradients = gradient_rows(pairs, runs, tolerance, self.renamed) if backward else None
            rows += [] if gradients is None else gradients.rows
            rows += buffer_rows(runs, tolerance, self.renamed) if training else []
            report = ParityReport(not any(_is_wrong(row) for row in rows), rows)
            report.notes += notes
            differing = next((pair for pair in pairs if pair.row.status == "differs"), None)
            unseen = next((pair for pair in pairs if pair.row.status == "not compared"), None)
            if differing is not None:
                report.first, report.causes = differing.row, explain(differing, tolerance)
            elif unseen is not None:
                report.first, report.causes = unseen.row, [_UNSEEN]
            elif gradients is not None and gradients.first is not None:
                report.first, report.causes = gradients.first, gradients.causes
            elif not report.ok:
                report.first, report.causes = _of_buffers(rows, pairs, runs, self.renamed)
            report.notes += _other_settings(pairs, differing)
        return report

    def _tell(self, error: Exception, runs: tuple[Run, Run], tolerance: Tolerance) -> None:
        """Note on an exception of the port what it computed until then, and whether that was right."""
        ended = sum(call.end >= 0 for call in runs[1].calls)
        runs = runs[0], Run([call for call in runs[1].calls if call.end >= 0])
        for call in runs[1].calls:
            call.parent = call.parent if call.parent in runs[1].calls else None
        pairs = aligned(self.theirs, self.ours, runs, self.renamed)
        judge(pairs, tolerance)
        first = next((pair for pair in pairs if pair.row.status == "differs"), None)
        if first is None:
            error.add_note(f"parity: the {ended} module calls that the port had ended before agree with torch's")
            return
        report = ParityReport(False, [pair.row for pair in pairs], first.row, explain(first, tolerance))
        error.add_note("parity: the port had gone wrong before that.\n" + report.summary())


def _is_wrong(row: Row) -> bool:
    return row.status in (*BAD, "not compared") or (row.section == "buffer" and row.status.endswith("only"))


def _of_buffers(
    rows: list[Row], pairs: list[Pair], runs: tuple[Run, Run], renamed: Callable[[str], str]
) -> tuple[Row | None, list[Cause]]:
    row = next((row for row in rows if row.status == "differs"), None)
    if row is None:
        row = next((row for row in rows if _is_wrong(row)), None)
        return row, [Cause("calls", "it is on one side only", "")] if row else []
    owner, _, name = row.path.rpartition(".")
    pair = next((p for p in pairs if p.theirs and p.ours and p.theirs.name == owner), None)
    theirs, ours = runs[0].buffers[row.path], runs[1].buffers[renamed(row.path)]
    return row, explain_buffer(pair, runs[0].before[row.path], theirs, ours, name)


def _other_settings(pairs: list[Pair], differing: Pair | None) -> list[str]:
    """Modules that are configured otherwise, whether or not these inputs show it; those alike in one line."""
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair is not differing and pair.theirs is not None and pair.ours is not None and pair.theirs.number == 0:
            for cause in configured(pair):
                found.setdefault(cause.says, []).append(pair)
    notes = []
    for says, where in found.items():
        names = ", ".join(pair.row.title for pair in where[:4])
        more = f" and {len(where) - 4} more" if len(where) > 4 else ""
        hidden = "; these inputs don't show it" if all(pair.row.status == "ok" for pair in where) else ""
        notes.append(f"configured otherwise: in {names}{more} {says}{hidden}")
    return notes


# -- rounding --------------------------------------------------------------------------------------------------------


def _is_small(row: Row) -> bool:
    """Is it wrong by no more than rounding may be?"""
    return row.status in BAD and row.max_rel < _ROUNDING and "torch" not in row.dtype


def _place(row: Row) -> tuple[Any, ...]:
    return row.section, row.path, row.kind, row.call


def _ask_float64(report: ParityReport, compared: _Comparison, options: dict[str, Any]) -> None:
    """What float32 finds in a row and float64 doesn't is rounding; what is left of the verdict is float64's."""
    try:
        with doubled(compared.theirs, compared.ours) as models:
            wide = compared.of(*models, widened(compared.inputs), widened(compared.kwargs))
            second = wide.report(Tolerance(1e-6, 1e-12), **options)
    except Exception as error:  # a model that can't be copied or that insists on float32
        report.notes.append(f"float64 could not be asked whether this is rounding: {type(error).__name__}: {error}")
        return
    exact = {_place(row): row for row in second.rows}
    small = [(row, exact.get(_place(row))) for row in report.rows if _is_small(row)]
    rounded = [(row, other) for row, other in small if other is not None and other.status not in BAD]
    real = [other.max_rel for _, other in small if other is not None and other.status in BAD]
    if real:
        worst = max((rel for rel in real if np.isfinite(rel)), default=0.0)
        report.notes.append(f"not rounding: in float64 they differ too, by up to {worst:.1e}")
    if not rounded:
        return
    largest, worst = (max(row.max_rel for row in rows) for rows in zip(*rounded, strict=True))
    remedy = "" if jax.default_backend() == "cpu" else _EXACT
    report.notes.append(f"differences up to {largest:.1e} are rounding: in float64 both agree to {worst:.1e}{remedy}")
    for row, _ in rounded:
        row.status = "rounding"
    report.ok = not any(_is_wrong(row) for row in report.rows)
    if report.first is None or not _is_wrong(report.first):
        report.first, report.causes = _of_float64(report, second)


def _of_float64(report: ParityReport, second: ParityReport) -> tuple[Row | None, list[Cause]]:
    """The row that differs first, and why, where what was taken for it is rounding."""
    wrong = {_place(row): row for row in report.rows if _is_wrong(row)}
    if not wrong:
        return None, []
    if second.first is not None and _place(second.first) in wrong:
        return wrong[_place(second.first)], second.causes
    says = "float32 rounds more here than it usually does"
    return next(iter(wrong.values())), [Cause("precision", says, "in float64 both agree")]
