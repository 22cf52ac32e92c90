"""L-BFGS with torch's arguments and numbers: a loop on the host round a closure."""

from collections.abc import Callable, Container, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.context import Tracer, tls
from ..core.errors import StateError
from ..core.parameter import Parameter
from .given import Groups
from .group import ParamGroup
from .hooks import step_with_hooks
from .optimizer import OptimizerBase, Trees
from .rule import check_lr
from .saved import matching
from .wolfe import Point, strong_wolfe


class LBFGS(OptimizerBase):
    """Limited-memory BFGS, for small problems with exact gradients: several evaluations of the loss in each step.

    Args:
        params: `model.parameters()`, `model.named_parameters()` or a list of parameters; one group.
        lr: length of a step, of the first trial where there is a line search.
        max_iter: the most iterations in one `step`.
        max_eval: the most evaluations in one `step`; `1.25·max_iter` unless given.
        tolerance_grad: stop where no element of the gradient is larger.
        tolerance_change: stop where loss and parameters change less.
        history_size: how many earlier steps the curvature is told from.
        line_search_fn: "strong_wolfe", or None for steps of length lr.

    Raises:
        ValueError: a hyper-parameter is out of its range, or there are several groups.

    Note:
        `step(closure)` decides on the host, in torch's way, what to evaluate next, so it is called outside of `jm.jit`.
        Its own parts (the two loops of the recursion, the moves) are compiled once for all steps; make the closure's
        loss fast with `jm.jit`, as in the example. The history takes `2·history_size` times the parameters' memory from
        the start. A parameter released or frozen later begins a new history.

    Source: Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", 1989.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model, x, y = nn.Linear(1, 1), jnp.array([[0.0], [1.0]]), jnp.array([[1.0], [3.0]])
        >>> optimizer = jm.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")
        >>> loss_and_grads = jm.jit(jm.value_and_grad(lambda m, x, y: ((m(x) - y) ** 2).mean()))
        >>> def closure():
        ...     return loss_and_grads(model, x, y)
        >>> _ = optimizer.step(closure)
        >>> round(float(model.weight[0, 0]), 3), round(float(model.bias[0]), 3)
        (2.0, 1.0)
    """

    def __init__(
        self,
        params: Groups,
        lr: float = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        limits = {"max_iter": max_iter, "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval}
        tolerances = {"tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change}
        choices = {"history_size": history_size, "line_search_fn": line_search_fn}
        super().__init__(params, {"lr": lr, **limits, **tolerances, **choices})

    def _validate(self, items: Mapping[str, Any]) -> None:
        check_lr(items["lr"])
        if self.param_groups:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")
        if items["line_search_fn"] not in (None, "strong_wolfe"):
            raise RuntimeError("only 'strong_wolfe' is supported")

    def _check_parameters(self, named: list[tuple[str, Parameter]]) -> None:
        for i, (name, p) in enumerate(named):
            if jnp.issubdtype(p.dtype, jnp.complexfloating):
                raise RuntimeError(f"LBFGS does not support complex parameters: {name or str(i)!r} is one")

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {"lr": group["lr"]}

    # -- state ------------------------------------------------------------------------------------------------------
    def _init(self, group: ParamGroup, params: dict[str, Any]) -> Any:
        double = any(p.dtype == jnp.float64 for p in params.values())
        dtype = jnp.float64 if double else jnp.float32
        size, history = sum(p.size for p in params.values()), group["history_size"]
        counts = {name: jnp.zeros((), jnp.int32) for name in ("func_evals", "n_iter", "num_old")}
        numbers = {name: jnp.zeros((), dtype) for name in ("t", "H_diag", "prev_loss")}
        vectors = {name: jnp.zeros(size, dtype) for name in ("d", "prev_flat_grad")}
        memory = {name: jnp.zeros((history, size), dtype) for name in ("old_dirs", "old_stps")}
        return {**counts, **numbers, **vectors, **memory, "ro": jnp.zeros(history, dtype)}

    def _state_kind(self, group: ParamGroup) -> Any:
        return group["history_size"]

    def _ensure_state(self, index: int, also: Container[str] = ()) -> Trees | None:
        before = super()._ensure_state(index, also)
        if before is not None:  # curvature in other parameters says nothing
            names = self._trees[index].names
            fresh = self._init(self.param_groups[index], {name: self._params[name].value for name in names})
            for box, leaf in zip(self._group_state(index)[0], jax.tree.leaves(fresh), strict=True):
                box.value = leaf
        return before

    # -- the step ---------------------------------------------------------------------------------------------------
    @step_with_hooks
    def step(self, closure: Callable[[], Any]) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Iterate until a limit or a tolerance is reached.

        Args:
            closure: computes loss and gradients. It returns `(loss, grads)`, as `jm.value_and_grad` does; or it returns
                the loss and leaves the gradients in the parameters' `.grad`, as torch's do: `zero_grad`, `jm.backward`.

        Returns:
            The loss before the step.

        Raises:
            TypeError: there is no closure.
            StateError: called inside a transform.
        """
        if not callable(closure):
            raise TypeError("LBFGS.step() needs a closure that evaluates the loss again: optimizer.step(closure)")
        if tls.overlay is not None:
            raise StateError(
                "LBFGS.step() was called inside a transform, and what it evaluates next depends on the loss's value.",
                "Call it outside, and put jm.jit on what the closure computes.",
            )
        self._ensure_state(0)
        if not self._trees[0].names:
            return self._evaluate(closure)[0]
        boxes, tree = self._group_state(0)
        run = _Run(self, closure, tree.unflatten([box.value for box in boxes]))
        loss = run.go(self.param_groups[0])
        for box, value in zip(boxes, jax.tree.leaves(run.state), strict=True):
            box.value = value
        return loss

    # -- files ------------------------------------------------------------------------------------------------------
    def _split_state(self, index: int, state: Any, found: dict[str, dict[str, Any]]) -> None:
        names = self._trees[index].names
        if names:  # under the first parameter, as in torch
            found[names[0]].update(state)

    def _join_state(self, index: int, state: Any, given: Mapping[str, Mapping[str, Any]]) -> Any:
        names = self._trees[index].names
        own = given.get(names[0], {}) if names else {}
        return {slot: matching(own[slot], value, names[0]) if slot in own else value for slot, value in state.items()}

    def _to_torch(self, entry: dict[str, Any]) -> dict[str, Any]:
        if not entry["n_iter"]:
            return {}
        count = int(entry.pop("num_old"))
        rows = {name: [np.asarray(row) for row in entry[name][:count]] for name in ("old_dirs", "old_stps", "ro")}
        plain = {name: entry[name].item() for name in ("func_evals", "n_iter", "t", "prev_loss")}
        return {**entry, **plain, **rows, "al": [None] * self.param_groups[0]["history_size"]}

    def _from_torch(self, entry: dict[str, Any]) -> dict[str, Any]:
        size, history = len(entry["d"]), self.param_groups[0]["history_size"]
        new = {**entry, "num_old": min(len(entry["ro"]), history)}
        new.pop("al", None)
        for name in ("old_dirs", "old_stps", "ro"):
            rows = np.zeros((history,) if name == "ro" else (history, size), np.asarray(entry["d"]).dtype)
            for i, row in enumerate(entry[name][-history:]):
                rows[i] = np.asarray(row)
            new[name] = rows
        return {name: np.asarray(value) for name, value in new.items()}


class _Run:
    """One call of `step`: its state, and the loop."""

    def __init__(self, optimizer: LBFGS, closure: Callable[[], Any], state: dict[str, Any]) -> None:
        self.optimizer = optimizer
        self.closure = closure
        self.state = state
        self.boxes = {name: optimizer._params[name] for name in optimizer._trees[0].names}

    def evaluate(self) -> tuple[float, Any, Any]:
        """Loss as a number, gradient as one vector, and the loss as the closure gave it."""
        loss, found = self.optimizer._evaluate(self.closure)
        number = loss[0] if isinstance(loss, tuple) else loss  # of jm.backward's (loss, aux)
        if isinstance(number, Tracer):
            raise StateError("the closure returned a traced loss.", "Call LBFGS.step() outside of JAX's transforms.")
        grads = [
            found[name] if name in found and box.requires_grad else jnp.zeros_like(box.value)
            for name, box in self.boxes.items()
        ]
        return float(number), _flat(grads, self.state["d"]), loss

    def move(self, start: list[Any], t: float, d: Any) -> None:
        """Put the parameters to `start + t·d`."""
        for box, value in zip(self.boxes.values(), _moved(start, _number(t, d), d), strict=True):
            box.value = value

    def at(self, start: list[Any], t: float, d: Any) -> Point:
        """Loss and gradient at `start + t·d`; the parameters are back at `start` afterwards."""
        try:
            self.move(start, t, d)
            loss, g, _ = self.evaluate()
        finally:
            for box, value in zip(self.boxes.values(), start, strict=True):
                box.value = value
        return Point(t, loss, g, float(g @ d))

    def go(self, group: ParamGroup) -> Any:
        """Iterate; the loss before."""
        s = self.state
        loss, g, first = self.evaluate()
        s["func_evals"] = s["func_evals"] + 1
        evaluations = 1
        if _largest(g) <= group["tolerance_grad"]:
            return first
        lr, change, t = float(group["lr"]), group["tolerance_change"], float(s["t"])
        for n in range(1, group["max_iter"] + 1):
            s["n_iter"] = s["n_iter"] + 1
            if s["n_iter"] == 1:
                s["d"], s["H_diag"] = -g, jnp.ones_like(s["H_diag"])
                step = min(1.0, 1.0 / float(jnp.abs(g).sum())) * lr
            else:
                memory = {name: s[name] for name in ("old_dirs", "old_stps", "ro", "num_old", "H_diag")}
                s["d"], memory = _direction(memory, g, s["prev_flat_grad"], s["d"], _number(t, g))
                s.update(memory)
                step = lr
            d, before, t = s["d"], loss, step
            s.update(prev_flat_grad=g, prev_loss=_number(loss, g), t=_number(t, g))
            slope = float(g @ d)
            if slope > -change:
                break
            start = [box.value for box in self.boxes.values()]
            used = 0
            if group["line_search_fn"] is not None:
                here = Point(0.0, loss, g, slope)
                found, used = strong_wolfe(
                    lambda t, start=start, d=d: self.at(start, t, d),
                    here,
                    t,
                    _largest(d),
                    most=group["max_eval"] - evaluations,
                )
                t, loss, g = found.t, found.loss, found.gradient
                self.move(start, t, d)
            else:
                self.move(start, t, d)
                if n != group["max_iter"]:  # of the last iteration nobody would look at it
                    loss, g, _ = self.evaluate()
                    used = 1
            evaluations += used
            s.update(func_evals=s["func_evals"] + used, t=_number(t, g))
            done = _largest(g) <= group["tolerance_grad"] or _largest(d) * abs(t) <= change
            if n == group["max_iter"] or evaluations >= group["max_eval"] or done or abs(loss - before) < change:
                break
        return first


def _number(x: float, like: Any) -> jax.Array:
    return jnp.asarray(x, like.dtype)


def _largest(x: Any) -> float:
    return float(jnp.abs(x).max())


@jax.jit
def _flat(arrays: list[Any], like: Any) -> Any:
    return jnp.concatenate([array.reshape(-1).astype(like.dtype) for array in arrays])


@jax.jit
def _moved(start: list[Any], t: Any, d: Any) -> list[Any]:
    """Each array moved along its part of `t·d`."""
    new, offset = [], 0
    for array in start:
        part = d[offset : offset + array.size].reshape(array.shape)
        new.append((array.astype(d.dtype) + t * part).astype(array.dtype))
        offset += array.size
    return new


@jax.jit
def _direction(memory: dict[str, Any], g: Any, before: Any, d: Any, t: Any) -> tuple[Any, dict[str, Any]]:
    """The recursion's two loops over the history, after the last step has been put into that."""
    y, s = g - before, d * t
    ys = y @ s
    memory = jax.lax.cond(ys > 1e-10, lambda: _remembered(memory, y, s, ys), lambda: memory)
    gradients, steps, ro, count = (memory[name] for name in ("old_dirs", "old_stps", "ro", "num_old"))

    def backward(i: Any, carry: Any) -> Any:
        q, alphas = carry
        j = count - 1 - i
        alpha = (steps[j] @ q) * ro[j]
        return q - alpha * gradients[j], alphas.at[j].set(alpha)

    def forward(i: Any, r: Any) -> Any:
        return r + steps[i] * (alphas[i] - (gradients[i] @ r) * ro[i])

    q, alphas = jax.lax.fori_loop(0, count, backward, (-g, jnp.zeros_like(ro)))
    return jax.lax.fori_loop(0, count, forward, q * memory["H_diag"]), memory


def _remembered(memory: dict[str, Any], y: Any, s: Any, ys: Any) -> dict[str, Any]:
    """The history with one more step; the oldest goes where it is full."""
    count, most = memory["num_old"], len(memory["ro"])
    full = count == most
    place = jnp.minimum(count, most - 1)
    new = {}
    for name, row in (("old_dirs", y), ("old_stps", s), ("ro", 1 / ys)):
        rows = jax.lax.cond(full, lambda x: jnp.roll(x, -1, axis=0), lambda x: x, memory[name])
        new[name] = rows.at[place].set(row)
    return {**new, "num_old": jnp.minimum(count + 1, most), "H_diag": ys / (y @ y)}
