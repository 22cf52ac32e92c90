"""Hooks against torch: the same hooks on the same model are called in the same order with the same values."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodule as jm
from tests.parity.oracle import assert_close

LIBRARIES = (jm.nn, torch.nn)
X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def globals_of(nn: ModuleType) -> Any:
    """Where a library keeps the `register_module_*` functions."""
    return nn if nn is jm.nn else torch.nn.modules.module


def array(nn: ModuleType, values: np.ndarray) -> Any:
    return jnp.asarray(values) if nn is jm.nn else torch.from_numpy(values.copy())


def same_weights(ours: Any, theirs: Any) -> None:
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})


def pair(make: Callable[[ModuleType], Any]) -> tuple[Any, Any]:
    """The same model in both libraries, with the same weights."""
    ours, theirs = make(jm.nn), make(torch.nn)
    same_weights(ours, theirs)
    return ours, theirs


def in_both(scenario: Callable[[ModuleType], Any]) -> None:
    """A scenario that returns a record of what happened gives the same record in both libraries."""
    ours, theirs = scenario(jm.nn), scenario(torch.nn)
    assert ours == theirs
    assert theirs, "the scenario records nothing"


def failing(nn: ModuleType) -> Any:
    class Failing(nn.Module):
        def forward(self, x: Any) -> Any:
            raise ValueError("from forward")

    return Failing()


# -- forward hooks ------------------------------------------------------------------------------------------------
def test_forward_hooks_run_in_torchs_order() -> None:
    """Global ones first, then the module's in order of registration, those with `prepend` in front."""

    def scenario(nn: ModuleType) -> list[str]:
        model, calls = nn.Identity(), []

        def note(name: str) -> Callable[..., None]:
            return lambda *args: calls.append(f"{name}/{len(args)}")

        g = globals_of(nn)
        handles = [
            model.register_forward_hook(note("after 1")),
            model.register_forward_hook(note("after 2"), prepend=True),
            model.register_forward_hook(note("after 3"), with_kwargs=True),
            model.register_forward_pre_hook(note("before 1")),
            model.register_forward_pre_hook(note("before 2"), prepend=True),
            model.register_forward_pre_hook(note("before 3"), with_kwargs=True, prepend=True),
            g.register_module_forward_hook(note("global after")),
            g.register_module_forward_hook(note("global after, kwargs"), with_kwargs=True),
            g.register_module_forward_pre_hook(note("global before")),
        ]
        model(array(nn, X))
        for handle in handles:
            handle.remove()
        model(array(nn, X))
        return calls

    in_both(scenario)


def test_what_forward_hooks_return_replaces_arguments_and_output() -> None:
    def scenario(nn: ModuleType) -> list[float]:
        class Scale(nn.Module):
            def forward(self, x: Any, by: Any = 1.0, *, plus: Any = 0.0) -> Any:
                return x * by + plus

        model = Scale()
        model.register_forward_pre_hook(lambda m, args: args[0] + 1)  # one value stands for a tuple of one
        model.register_forward_pre_hook(lambda m, args: (args[0], 3.0))
        model.register_forward_pre_hook(lambda m, args, kw: (args, {**kw, "plus": kw["plus"] * 2}), with_kwargs=True)
        model.register_forward_hook(lambda m, args, out: out * 10)
        model.register_forward_hook(lambda m, args, out: None)
        model.register_forward_hook(lambda m, args, kw, out: out + kw["plus"], with_kwargs=True)
        return [float(v) for v in model(array(nn, np.float32([1, 2])), plus=0.5)]

    in_both(scenario)


def test_a_pre_hook_with_kwargs_must_return_a_pair() -> None:
    for nn in LIBRARIES:
        model = nn.Identity()
        model.register_forward_pre_hook(lambda m, args, kwargs: args, with_kwargs=True)
        with pytest.raises(
            RuntimeError, match=r"forward pre-hook must return None or a tuple of \(new_args, new_kwargs\)"
        ):
            model(array(nn, X))


@pytest.mark.parametrize("where", ["pre-hook", "forward", "hook"])
def test_always_called_hooks_run_after_a_failure(where: str) -> None:
    """Also when a pre-hook or another hook fails; each once; with the result as far as it is known."""

    def scenario(nn: ModuleType) -> list[Any]:
        calls: list[Any] = []

        def fail(*args: Any) -> None:
            raise ValueError(f"from {where}")

        def note(name: str) -> Callable[..., None]:
            return lambda m, args, out: calls.append((name, None if out is None else float(out.sum())))

        model = failing(nn) if where == "forward" else nn.Identity()
        if where == "pre-hook":
            model.register_forward_pre_hook(fail)
        g = globals_of(nn).register_module_forward_hook(note("global"), always_call=True)
        model.register_forward_hook(note("first"), always_call=True)
        model.register_forward_hook(lambda m, args, out: out * 2)
        if where == "hook":
            model.register_forward_hook(fail)
        model.register_forward_hook(note("last"), always_call=True)
        model.register_forward_hook(note("not always"))
        with g, pytest.raises(ValueError, match=f"from {where}"):
            model(array(nn, np.float32([1, 2])))
        return calls

    in_both(scenario)


def test_a_failure_of_an_always_called_hook_is_only_a_warning() -> None:
    """And does not keep the next one from running."""

    def scenario(nn: ModuleType) -> list[Any]:
        calls: list[Any] = []

        def fail(*args: Any) -> None:
            raise ZeroDivisionError("from a hook")

        model = failing(nn)
        model.register_forward_hook(fail, always_call=True)
        model.register_forward_hook(lambda m, args, out: calls.append(out), always_call=True)
        with (
            globals_of(nn).register_module_forward_hook(fail, always_call=True),
            warnings.catch_warnings(record=True, action="always") as caught,
            pytest.raises(ValueError, match="from forward"),
        ):
            model(array(nn, X))
        return calls + [str(w.message) for w in caught]

    in_both(scenario)


# -- backward hooks -----------------------------------------------------------------------------------------------
def backward_of(model: Any, x: np.ndarray, loss: Callable[[Any], Any] | None = None) -> tuple[Any, dict[str, Any]]:
    """The gradients of a sum of squares of the model's output: of the input, and of the parameters by name."""
    loss = loss or (lambda out: (out * out).sum())
    if isinstance(model, torch.nn.Module):
        tensor = torch.from_numpy(x.copy()).requires_grad_()
        loss(model(tensor)).backward()
        return tensor.grad, {name: p.grad for name, p in model.named_parameters()}
    grads, of_x = jm.grad(lambda m, x: loss(m(x)), argnums=(0, 1))(model, jnp.asarray(x))
    return of_x, grads


def compare_backward(ours: Any, theirs: Any, x: np.ndarray = X, loss: Callable[[Any], Any] | None = None) -> None:
    (of_x, grads), (torch_of_x, torch_grads) = backward_of(ours, x, loss), backward_of(theirs, x, loss)
    assert_close(of_x, torch_of_x, what="gradient of the input")
    assert set(grads) == set(torch_grads)
    for name, grad in grads.items():
        assert_close(grad, torch_grads[name], what=name)


def same_records(ours: list[Any], theirs: list[Any]) -> None:
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    assert theirs, "torch's hooks did not run"
    for (name, gradients), (_, expected) in zip(ours, theirs, strict=True):
        assert len(gradients) == len(expected), name
        for gradient, reference in zip(gradients, expected, strict=True):
            assert (gradient is None) == (reference is None), name
            if reference is not None:
                assert_close(gradient, reference, what=name)


def recording(model: Any, *, pre: bool = True) -> list[Any]:
    """Put hooks that record what they see on every module of the tree."""
    seen: list[Any] = []

    def full(name: str) -> Callable[..., None]:
        def hook(module: Any, grad_input: Any, grad_output: Any) -> None:
            assert type(grad_input) is type(grad_output) is tuple
            seen.extend([(f"{name} input", grad_input), (f"{name} output", grad_output)])

        return hook

    def before(name: str) -> Callable[..., None]:
        return lambda module, grad_output: seen.append((f"{name} pre", grad_output))

    for name, module in model.named_modules():
        module.register_full_backward_hook(full(name))
        if pre:
            module.register_full_backward_pre_hook(before(name))
    return seen


def mlp(nn: ModuleType) -> Any:
    return nn.Sequential(nn.Linear(3, 5), nn.Sequential(nn.Tanh(), nn.Linear(5, 4)), nn.Sigmoid())


def test_backward_hooks_of_nested_modules_see_torchs_gradients_in_torchs_order() -> None:
    ours, theirs = pair(mlp)
    seen, expected = recording(ours), recording(theirs)
    compare_backward(ours, theirs)
    same_records(seen, expected)


def test_a_module_called_twice_runs_its_hooks_twice() -> None:
    def make(nn: ModuleType) -> Any:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(3, 3)

            def forward(self, x: Any) -> Any:
                return self.fc(self.fc(x) * 2)

        return Twice()

    ours, theirs = pair(make)
    seen, expected = recording(ours), recording(theirs)
    compare_backward(ours, theirs)
    same_records(seen, expected)
    assert len([1 for name, _ in seen if name == "fc input"]) == 2


def test_grad_input_and_grad_output_have_torchs_positions() -> None:
    """One entry for each argument and each output; None for what is no array; keyword arguments have none."""

    def make(nn: ModuleType) -> Any:
        class Mixed(nn.Module):
            def forward(self, x: Any, flag: Any, y: Any, *, scale: Any) -> Any:
                assert flag == "yes"
                return x * y * scale, None, (y + x).sum()

        return Mixed()

    def scenario(nn: ModuleType) -> list[Any]:
        model = make(nn)
        seen = recording(model)

        def loss(x: Any, y: Any, scale: Any) -> Any:
            a, nothing, b = model(x, "yes", y, scale=scale)
            assert nothing is None
            return (a * 3).sum() + b * 2

        values = [X, X * 2 + 1, X - 3]
        if nn is jm.nn:
            jm.grad(loss, argnums=(0, 1, 2))(*map(jnp.asarray, values))
        else:
            loss(*[torch.from_numpy(v.copy()).requires_grad_() for v in values]).backward()
        return seen

    same_records(scenario(jm.nn), scenario(torch.nn))


def test_one_array_passed_twice_has_two_gradients() -> None:
    def scenario(nn: ModuleType) -> list[Any]:
        class Two(nn.Module):
            def forward(self, a: Any, b: Any) -> Any:
                return (2 * a + 3 * b).sum()

        model = Two()
        seen = recording(model)
        if nn is jm.nn:
            assert_close(jm.grad(lambda x: model(x, x))(jnp.asarray(X)), np.full_like(X, 5))
        else:
            x = torch.from_numpy(X.copy()).requires_grad_()
            model(x, x).backward()
        return seen

    same_records(scenario(jm.nn), scenario(torch.nn))


def test_a_full_backward_hook_replaces_grad_input() -> None:
    ours, theirs = pair(mlp)
    for model in (ours, theirs):
        model[1].register_full_backward_hook(lambda module, grad_input, grad_output: (grad_input[0] * 10,))
        model[1].register_full_backward_hook(lambda module, grad_input, grad_output: (grad_input[0] + 1,))
        model[1].register_full_backward_hook(lambda module, grad_input, grad_output: (grad_input[0] * 2,), prepend=True)
    seen, expected = recording(ours), recording(theirs)
    compare_backward(ours, theirs)
    same_records(seen, expected)


def test_a_full_backward_pre_hook_replaces_grad_output() -> None:
    """The module's parameters get the gradients that follow from it."""
    ours, theirs = pair(mlp)
    for model in (ours, theirs):
        model[1][1].register_full_backward_pre_hook(lambda module, grad_output: (grad_output[0] * 10,))
        model[1][1].register_full_backward_pre_hook(lambda module, grad_output: (grad_output[0] + 1,))
        model[1][1].register_full_backward_pre_hook(lambda module, grad_output: (grad_output[0] * 2,), prepend=True)
    seen, expected = recording(ours), recording(theirs)
    compare_backward(ours, theirs)
    same_records(seen, expected)


def test_global_backward_hooks_run_for_every_module_before_its_own() -> None:
    def scenario(nn: ModuleType, model: Any) -> list[str]:
        calls: list[str] = []
        names = {id(module): name for name, module in model.named_modules()}

        def note(what: str) -> Callable[..., None]:
            return lambda module, *gradients: calls.append(f"{names[id(module)]}: {what}")

        model[1].register_full_backward_hook(note("own"))
        model[1].register_full_backward_pre_hook(note("own pre"))
        g = globals_of(nn)
        with (
            g.register_module_full_backward_hook(note("global")),
            g.register_module_full_backward_pre_hook(note("global pre")),
        ):
            backward_of(model, X)
        count = len(calls)
        backward_of(model, X)
        assert calls[count:] == ["1: own pre", "1: own"]
        return calls

    ours, theirs = pair(mlp)
    calls = scenario(jm.nn, ours)
    assert calls == scenario(torch.nn, theirs)
    assert "1.1: global" in calls


@pytest.mark.parametrize(("kind", "what"), [("hook", "grad_input"), ("pre_hook", "grad_output")])
def test_a_wrong_number_of_gradients_raises(kind: str, what: str) -> None:
    for model in pair(mlp):
        register = getattr(model[1], f"register_full_backward_{kind}")
        register(lambda module, *gradients: (gradients[-1][0], gradients[-1][0]))
        which = kind.replace("_", " ")
        match = f"Backward {which} returned an invalid number of {what}, got 2, but expected 1"
        with pytest.raises(RuntimeError, match=match):
            backward_of(model, X)


def test_backward_hooks_see_torchs_gradients_through_batch_norm() -> None:
    def make(nn: ModuleType) -> Any:
        # No bias in front: its gradient is zero but for rounding.
        return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2))

    ours, theirs = pair(make)
    seen, expected = recording(ours), recording(theirs)
    compare_backward(ours, theirs)
    same_records(seen, expected)
    for name, buffer in theirs.named_buffers():
        assert_close(ours.get_buffer(name), buffer.numpy().astype(ours.get_buffer(name).dtype), what=name)


def test_registration_hooks_are_called_as_in_torch() -> None:
    """With module, name and value; not for a parameter None; what they return is registered instead."""

    def scenario(nn: ModuleType) -> list[Any]:
        calls: list[Any] = []

        def note(module: Any, name: str, value: Any) -> None:
            calls.append((type(module).__name__, name, type(value).__name__.replace("Tensor", "Buffer")))

        g = globals_of(nn)
        with (
            g.register_module_parameter_registration_hook(note),
            g.register_module_buffer_registration_hook(note),
            g.register_module_module_registration_hook(note),
        ):
            nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2, track_running_stats=False))
            module = nn.Module()
            module.register_buffer("running", array(nn, X))
            module.running = None
            module.add_module("child", None)
            module.register_parameter("nothing", None)
            module.inner = nn.Identity()
        return calls

    in_both(scenario)


# -- gradients of parameters --------------------------------------------------------------------------------------
def test_a_parameters_hook_changes_its_gradient_as_in_torch() -> None:
    ours, theirs = pair(mlp)
    seen: dict[Any, list[float]] = {jm: [], torch: []}
    for library, model in ((jm, ours), (torch, theirs)):
        model[0].weight.register_hook(lambda grad, library=library: seen[library].append(float(abs(grad).sum())))
        model[0].weight.register_hook(lambda grad: grad * 3)
        model[0].weight.register_hook(lambda grad: grad + 1)
    compare_backward(ours, theirs)
    np.testing.assert_allclose(seen[jm], seen[torch], rtol=1e-5)
    assert len(seen[torch]) == 1
