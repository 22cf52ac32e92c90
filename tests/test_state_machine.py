"""A random life of a model: after every change the compiled calls do what an eager twin with the same changes does."""

import contextlib
import copy
from collections.abc import Callable
from typing import Any, ClassVar

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.core import context
from jaxmodule.core.structure import Layout
from tests.room import make_room
from tests.test_leaks import tracers_from


class Part(nn.Module):
    """A residual layer with a static attribute, and containers that it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(jax.random.normal(jm.next_key(), (3, 3)) * 0.5)
        self.bias = nn.Parameter(jnp.zeros((1, 3)))
        self.gain = 1.0
        self.steps = [0.5]
        self.table: dict[str, Any] = {"shift": 0.0}

    def forward(self, x: jax.Array) -> jax.Array:
        y = jnp.tanh(x.astype(self.weight.dtype) @ self.weight.value).astype(x.dtype) + self.bias.astype(x.dtype)
        for value in (*self.steps, *self.table.values()):
            y = y + (value.astype(y.dtype) if isinstance(value, jax.Array) else value)
        return x + y * self.gain


class Net(nn.Module):
    """All kinds of state that a change can be made to."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.25)
        self.a = Part()
        self.b = Part()
        self.extras = nn.ModuleList()
        self.register_buffer("seen", jnp.zeros(()))
        self.offset: Any = jnp.ones((1, 3))
        self.log = {"last": jnp.zeros(3)}
        self.noise: Any = None

    def forward(self, x: jax.Array) -> jax.Array:
        x = self.norm(x.astype(self.norm.weight.dtype))
        with contextlib.nullcontext() if self.noise is None else jm.use_rng(self.noise):
            x = self.drop(x)
        for part in (self.a, self.b, *self.extras):
            x = part(x)
        offset, seen = self.offset, self._buffers.get("seen")
        if offset is not None:
            x = x + (offset.astype(x.dtype) if isinstance(offset, jax.Array) else offset)
        if self.training:
            self.log["last"] = x[0].astype(jnp.float32)
            if seen is not None:
                self.seen = seen.value + 1.0
        if seen is not None:
            x = x * (1.0 + 0.125 * seen.value.astype(x.dtype))
        return x.astype(jnp.float32)


def forward(model: Net, x: jax.Array) -> Any:
    return model(x)


def loss(model: Net, x: jax.Array) -> Any:
    return jnp.mean(jnp.tanh(model(x)))


def train(model: Net, x: jax.Array) -> Any:
    value, grads = jm.value_and_grad(loss)(model, x)
    for name, p in model.named_parameters():
        if name in grads:
            p.value = p - 0.1 * grads[name]
    return value


def backward(model: Net, x: jax.Array) -> Any:
    return jm.backward(loss)(model, x)


def optimize(model: Net, x: jax.Array, optimizer: Any) -> Any:
    value, grads = jm.value_and_grad(loss)(model, x)
    optimizer.step(grads)
    return value


def scanned(model: Net, xs: jax.Array) -> Any:
    return jm.scan(lambda total, x: ((y := model(x)).sum() + total, y), jnp.zeros(()), xs)


def looped(model: Net, xs: jax.Array) -> Any:
    ys = [model(x) for x in xs]
    return sum((y.sum() for y in ys), jnp.zeros(())), jnp.stack(ys)


def mapped(model: Net, xs: jax.Array) -> Any:
    return jm.vmap(lambda x: model(x))(xs)


def one_by_one(model: Net, xs: jax.Array) -> Any:
    return jnp.stack([model(x) for x in xs])


FUNCTIONS = (forward, train, backward, optimize, scanned, mapped)
EAGER: dict[str, Callable[..., Any]] = {
    **{f.__name__: f for f in FUNCTIONS},
    "scanned": looped,
    "mapped": one_by_one,
}


def compile_all() -> dict[str, Any]:
    return {f.__name__: jm.jit(f) for f in FUNCTIONS}


def doubled(module: Any, args: Any, out: Any) -> Any:
    return out * 2


def negated(module: Any, args: Any, out: Any) -> Any:
    return -out


def halved_input(module: Any, args: Any) -> Any:
    return (args[0] / 2,)


def scaled_gradient(module: Any, grad_input: Any, grad_output: Any) -> Any:
    return tuple(None if g is None else g * 3 for g in grad_input)


HOOKS: list[Callable[[Any], Any]] = [
    lambda part: part.register_forward_hook(doubled),
    lambda part: part.register_forward_hook(negated),
    lambda part: part.register_forward_pre_hook(halved_input),
    lambda part: part.register_full_backward_hook(scaled_gradient),
    lambda part: part.weight.register_hook(lambda g: g * 5) if part.weight.requires_grad else None,
]
CONTENTS: list[Callable[[Part], Any]] = [
    lambda part: part.steps.append(1.0),
    lambda part: part.steps.append(jnp.full((1, 3), 0.5)),
    lambda part: part.steps.pop() if part.steps else None,
    lambda part: part.steps.__setitem__(slice(0, 1), [2.0]),
    lambda part: part.steps.reverse(),
    lambda part: part.table.update(shift=1.5),
    lambda part: part.table.update(shift=jnp.full((1, 3), -1.0)),
    lambda part: part.table.pop("shift", None),
]
OFFSETS = [None, 0.5, -1.0, 2, jnp.full((1, 3), 0.25), jnp.zeros(())]
DTYPES = [jnp.float32, jnp.bfloat16]

which = st.integers(0, 3)
inputs = st.integers(0, 4)
calls = st.sampled_from(list(EAGER))


def x_of(seed: int, *lead: int) -> jax.Array:
    return jnp.asarray(np.random.RandomState(seed).randn(*lead, 4, 3).astype(np.float32))


class Life(RuleBasedStateMachine):
    """`model` is called compiled, `twin` eagerly."""

    # The compiled functions live on through the examples, as a program's do: a new model may get a dead one's id.
    compiled: ClassVar[dict[str, Any]] = compile_all()

    @initialize(
        seed=st.integers(0, 3), follows=st.sampled_from([True, True, True, False]), training=st.booleans(), call=calls
    )
    def begin(self, seed: int, follows: bool, training: bool, call: str) -> None:
        jm.manual_seed(seed)
        self.model = Net().train(training)
        self.twin = copy.deepcopy(self.model)
        self.handles: list[tuple[Any, Any]] = []
        self.optimizers: tuple[Any, Any] | None = None
        self.last: Callable[[], None] | None = None
        self.follows = follows
        self.call(call, seed)

    # -- both of them -----------------------------------------------------------------------------------------------
    def both(self, change: Callable[[Net], Any], follow_up: bool = True) -> tuple[Any, Any]:
        """Make a change to the model and to the twin, from one state of the generator."""
        found = self.paired(lambda: change(self.model), lambda: change(self.twin))
        if follow_up:
            self.follow_up()
        return found

    def paired(self, of_model: Callable[[], Any], of_twin: Callable[[], Any]) -> tuple[Any, Any]:
        rng = jm.get_rng_state()
        first = of_model()
        after = jm.get_rng_state()
        jm.set_rng_state(rng)
        second = of_twin()
        np.testing.assert_array_equal(after, jm.get_rng_state(), err_msg="the state of the generator")
        return first, second

    def compared(self, of_model: Callable[[], Any], of_twin: Callable[[], Any]) -> None:
        """Call both, compare what they return and what they hold; then the twin takes over the model's rounding."""
        first, second = self.paired(of_model, of_twin)
        self.same(first, second, "the outputs")
        mine, others = everything(self.model), everything(self.twin)
        self.same({k: box.value for k, box in mine.items()}, {k: box.value for k, box in others.items()}, "the state")
        for name, box in others.items():
            box.value = mine[name].value
        for p, q in zip(self.model.parameters(), self.twin.parameters(), strict=True):
            if p.grad is not None:
                q.grad = p.grad

    def same(self, first: Any, second: Any, what: str) -> None:
        half = any(p.dtype != jnp.float32 for p in self.twin.parameters())
        assert jax.tree.structure(first) == jax.tree.structure(second), what
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True):
            where = f"{what}{jax.tree_util.keystr(path)}"
            assert a.dtype == b.dtype, where
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            # bfloat16 has 8 bits, and a compiled program may keep more between two operations.
            tolerance = 0.06 if half else 2e-4
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * (1 + np.abs(b).max()), err_msg=where)

    def parts(self, model: Net) -> list[Part]:
        return [model.a, model.b, *model.extras]  # pyright: ignore

    def on_part(self, n: int, change: Callable[[Part], Any]) -> None:
        self.both(lambda m: change(self.parts(m)[n % len(self.parts(m))]))

    # -- changes of structure ---------------------------------------------------------------------------------------
    @precondition(lambda self: len(self.model.extras) < 2)
    @rule()
    def add(self) -> None:
        self.optimizers = None
        self.both(lambda m: m.extras.append(Part().train(m.training)))

    @precondition(lambda self: len(self.model.extras) > 0)
    @rule(n=which)
    def delete(self, n: int) -> None:
        def change(m: Net) -> None:
            del m.extras[n % len(m.extras)]

        self.optimizers = None
        self.both(change)

    @rule(name=st.sampled_from(["weight", "bias"]))
    def tie(self, name: str) -> None:
        self.optimizers = None
        self.both(lambda m: setattr(m.b, name, getattr(m.a, name)))

    @rule(name=st.sampled_from(["weight", "bias"]))
    def untie(self, name: str) -> None:
        self.optimizers = None
        self.both(lambda m: setattr(m.b, name, nn.Parameter(getattr(m.b, name).value * 1)))

    @rule(n=which, on=st.booleans())
    def freeze(self, n: int, on: bool) -> None:
        self.on_part(n, lambda part: part.requires_grad_(not on))

    @rule(on=st.booleans())
    def mode(self, on: bool) -> None:
        self.both(lambda m: m.train(on))

    @rule(name=st.sampled_from(["drop", "norm"]), on=st.booleans())
    def mode_of_a_part(self, name: str, on: bool) -> None:
        self.both(lambda m: getattr(m, name).train(on))

    @precondition(lambda self: len(self.handles) < 3)
    @rule(n=which, hook=st.sampled_from(HOOKS))
    def hook(self, n: int, hook: Callable[[Any], Any]) -> None:
        pair = self.both(lambda m: hook(self.parts(m)[n % len(self.parts(m))]))
        if pair[0] is not None:
            self.handles.append(pair)

    @precondition(lambda self: self.handles)
    @rule(n=which)
    def unhook(self, n: int) -> None:
        for handle in self.handles.pop(n % len(self.handles)):
            handle.remove()
        self.follow_up()

    @rule(n=which, gain=st.sampled_from([1.0, 0.5, -1.0, 2]))
    def static(self, n: int, gain: Any) -> None:
        self.on_part(n, lambda part: setattr(part, "gain", gain))

    @rule(n=which, change=st.sampled_from(CONTENTS))
    def contents(self, n: int, change: Callable[[Part], Any]) -> None:
        self.on_part(n, change)

    @rule(n=st.integers(-1, 3), dtype=st.sampled_from(DTYPES))
    def convert(self, n: int, dtype: Any) -> None:
        self.optimizers = None
        if n < 0:
            self.both(lambda m: m.to(dtype))
        else:
            self.on_part(n, lambda part: part.to(dtype))

    @rule(value=st.sampled_from([None, 0.0, 2.0]), persistent=st.booleans())
    def buffer(self, value: float | None, persistent: bool) -> None:
        def change(m: Net) -> None:
            if "seen" in m._buffers:
                del m.seen
            if value is not None:
                m.register_buffer("seen", jnp.full((), value), persistent)

        self.both(change)

    @rule(value=st.sampled_from(OFFSETS))
    def attribute(self, value: Any) -> None:
        self.both(lambda m: setattr(m, "offset", value))

    @rule(seed=st.sampled_from([None, 1, 2]))
    def generator(self, seed: int | None) -> None:
        self.both(lambda m: setattr(m, "noise", None if seed is None else jm.Generator(seed)))

    @rule()
    def zero_grad(self) -> None:
        self.both(lambda m: m.zero_grad())

    # -- the objects themselves -------------------------------------------------------------------------------------
    @rule()
    def swap(self) -> None:
        """The twin's programs are the model's: same structure, other boxes."""
        self.model, self.twin = self.twin, self.model
        self.handles = [pair[::-1] for pair in self.handles]
        if self.optimizers is not None:
            self.optimizers = self.optimizers[::-1]
        self.follow_up()

    @rule()
    def replace(self) -> None:
        """Copies, as the originals die: an id may be used again."""
        self.model, self.twin = copy.deepcopy(self.model), copy.deepcopy(self.twin)
        self.handles, self.optimizers = [], None
        self.follow_up()

    # -- changes of values ------------------------------------------------------------------------------------------
    @rule(n=which, factor=st.sampled_from([0.5, -1.0]))
    def in_place(self, n: int, factor: float) -> None:
        self.on_part(n, lambda part: (part.weight.mul_(factor), part.bias.add_(0.25)))

    @rule(assign=st.booleans())
    def load(self, assign: bool) -> None:
        def change(m: Net) -> None:
            state = {k: v * 0.75 if v.dtype != jnp.int32 else v + 1 for k, v in m.state_dict().items()}
            m.load_state_dict(state, assign=assign)

        if assign:
            self.optimizers = None
        self.both(change)

    # -- calls ------------------------------------------------------------------------------------------------------
    def do(self, call: Callable[[], None]) -> None:
        self.last = call
        call()

    def follow_up(self) -> None:
        """In most lives a change is followed by the last call again, before anything else could tell it of that."""
        if self.follows and self.last is not None:
            self.last()

    @rule(name=calls, seed=inputs)
    def call(self, name: str, seed: int) -> None:
        compiled, eager = self.compiled[name], EAGER[name]
        x = x_of(seed, 2) if name in ("scanned", "mapped") else x_of(seed)

        def call() -> None:
            if name == "mapped":  # in train mode the lanes would write different statistics
                self.both(lambda m: m.eval(), False)
            if name == "optimize":
                if self.optimizers is None:
                    self.optimizers = self.both(lambda m: jm.optim.SGD(m.parameters(), lr=0.1, momentum=0.5), False)
                mine, other = self.optimizers
                self.compared(lambda: compiled(self.model, x, mine), lambda: eager(self.twin, x, other))
                assert tracers_from(mine) == []
            else:
                self.compared(lambda: compiled(self.model, x), lambda: eager(self.twin, x))

        self.do(call)

    def teardown(self) -> None:
        if make_room():
            self.compiled.update(compile_all())

    # -- after every step -------------------------------------------------------------------------------------------
    @invariant()
    def twins(self) -> None:
        if hasattr(self, "model"):
            assert list(self.model.state_dict()) == list(self.twin.state_dict())
            grads = [[p.grad for p in m.parameters()] for m in (self.model, self.twin)]
            self.same(*grads, "the gradients")
            assert tracers_from(self.model, jm.default_generator()) == []


def everything(model: Net) -> dict[str, Any]:
    """All that holds one array, by name."""
    layout = Layout((model,))
    return dict(zip(layout.names, layout.boxes, strict=False))


def live(machine: type[Life], examples: int, steps: int, **options: Any) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **options,
        ),
    )


def test_a_compiled_model_is_never_behind_its_twin() -> None:
    live(Life, 12, 20)


@pytest.mark.slow
def test_many_lives() -> None:
    live(Life, 40, 25)


class Broken(Life):
    """With programs of its own, which are not to be used again."""

    compiled = compile_all()


@pytest.mark.parametrize("what", ["the epoch", pytest.param("contents in place", marks=pytest.mark.slow)])
def test_a_broken_invalidation_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is seen to fail: with changes of structure that nobody is told of, with containers not compared."""
    if what == "the epoch":
        monkeypatch.setattr(context, "epoch", context._Epoch())
    else:
        monkeypatch.setattr(Layout, "_unchanged", lambda self: True)
    with pytest.raises(AssertionError):
        live(Broken, 40, 20, phases=[Phase.generate], report_multiple_bugs=False)
