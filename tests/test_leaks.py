"""No transform leaves a tracer behind, whether it ends well or raises; no compiled function keeps its model alive."""

import contextlib
import functools
import gc
import sys
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxmodule as jm
from jaxmodule import debug, nn
from jaxmodule.core.context import Tracer, tls

# Where a walk stops: types and modules lead everywhere, arrays nowhere.
_OPAQUE = (
    type,
    types.ModuleType,
    types.BuiltinFunctionType,
    types.CodeType,
    types.FrameType,
    jax.Array,
    str,
    bytes,
    int,
)


def _referents(found: Any) -> Iterable[Any]:
    """What an object holds, without the globals that a function sees."""
    if isinstance(found, types.FunctionType):
        cells = [cell for cell in found.__closure__ or () if cell != types.CellType()]
        return [*[c.cell_contents for c in cells], found.__defaults__, found.__kwdefaults__, found.__dict__]
    return gc.get_referents(found)


def tracers_from(*roots: Any) -> list[str]:
    """The tracers that can be reached from these objects, each with the types on the way to it."""
    seen: set[int] = set()
    todo: list[tuple[Any, str]] = [(root, type(root).__name__) for root in roots]
    found = []
    kept = []  # an id must stay its object's while the walk goes on
    while todo:
        item, path = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        kept.append(item)
        if isinstance(item, Tracer):
            found.append(path)
        elif not isinstance(item, _OPAQUE):
            todo += [(inner, f"{path} > {type(inner).__name__}") for inner in _referents(item)]
    return found


def library_caches() -> list[Any]:
    """All that the package's modules hold: dicts, lists, weak dicts, thread-local state; not their functions."""
    found: list[Any] = [dict(tls.__dict__)]
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] == "jaxmodule":
            for value in vars(module).values():
                if not isinstance(value, (types.FunctionType, *_OPAQUE)):
                    found.append(value)
    return found


class Net(nn.Module):
    """Parameters, statistics, dropout with a generator of its own, a plain array, a container, a static attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.3)
        self.noise = jm.Generator(5)
        self.last = jnp.zeros((4, 3))
        self.cache = {"last": jnp.zeros((4, 3)), "many": [jnp.zeros(3)]}
        self.fails = False

    def forward(self, x: jax.Array) -> jax.Array:
        x = self.norm(self.fc(x))
        self.last = x
        self.cache["last"] = x * 2
        self.cache["many"][0] = x[0]
        with jm.use_rng(self.noise):
            x = self.drop(x)
        x = self.drop(x)
        self.fc.weight.grad = self.fc.weight * 2
        if self.fails:
            self.extra = nn.Linear(2, 2)
            self.made = x * 3
            self.cache["new"] = x
            del self.drop
            raise ValueError("in the middle")
        return x


class Twice(nn.Module):
    """For `scan_layers`: a layer's state keeps its form."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.3)
        self.last = jnp.zeros((4, 3))
        self.fails = False

    def forward(self, x: jax.Array) -> jax.Array:
        x = self.drop(self.norm(self.fc(x)))
        self.last = x
        if self.fails:
            self.made = x * 3
            raise ValueError("in the middle")
        return x


class Whole(nn.Module):
    """A net that may fail, and layers that may."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.net.fc.weight.grad = jnp.zeros((3, 3))  # what a loop carries is there before it
        self.layers = nn.ModuleList(Twice() for _ in range(3))

    def fail(self, on: bool) -> None:
        self.net.fails = on
        for layer in self.layers:
            layer.fails = on


def loss(m: Whole, x: jax.Array) -> jax.Array:
    return jnp.sum(m.net(x) ** 2)


def step(m: Whole, optimizer: Any, x: jax.Array) -> Any:
    value, grads = jm.value_and_grad(loss)(m, x)
    optimizer.step(grads)
    return value


def scanned(m: Whole, x: jax.Array) -> Any:
    return jm.scan(lambda c, _: (c + jnp.sum(m.net(x)), None), jnp.zeros(()), length=2)


def fori(m: Whole, x: jax.Array) -> Any:
    return jm.fori_loop(0, 2, lambda i, x: m.net(x), x)


def whiled(m: Whole, x: jax.Array) -> Any:
    return jm.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, m.net(c[1])), (0, x))


def condition(m: Whole, x: jax.Array) -> Any:
    return jm.cond(x[0, 0] > -9, lambda m, x: m.net(x), lambda m, x: x, m, x)


def switched(m: Whole, x: jax.Array) -> Any:
    return jm.switch(jnp.int32(1), [lambda m, x: x, lambda m, x: m.net(x)], m, x)


def layered(m: Whole, x: jax.Array) -> Any:
    return jm.scan_layers(m.layers)(x)


def mapped(m: Whole, x: jax.Array) -> Any:
    """Stacked, so that each lane may write."""
    many = jax.tree.map(lambda a: jnp.stack([a, a]), m.net)
    return jm.vmap(lambda net, x: net(x), in_axes=(0, None))(many, x)


CASES: dict[str, Callable[[Whole, jax.Array], Any]] = {
    "jit": jm.jit(lambda m, x: m.net(x)),
    "jit donate": jm.jit(lambda m, x: m.net(x), donate=True),
    "grad": lambda m, x: jm.grad(loss)(m, x),
    "value_and_grad": lambda m, x: jm.value_and_grad(loss)(m, x),
    "backward": lambda m, x: jm.backward(loss)(m, x),
    "vmap": mapped,
    "scan": scanned,
    "fori_loop": fori,
    "while_loop": whiled,
    "cond": condition,
    "switch": switched,
    "remat": lambda m, x: jm.remat(m.net)(x),
    "eval_shape": lambda m, x: jm.eval_shape(lambda m, x: m.net(x), m, x),
    "lower": lambda m, x: jm.jit(lambda m, x: m.net(x)).lower(m, x),
    "scan_layers": layered,
    "scan_layers stacked": lambda m, x: jm.scan_layers(m.layers, weights="stack", remat=True)(x),
    "backward in jit": jm.jit(lambda m, x: jm.backward(loss)(m, x)),
    "grad of scan in jit": jm.jit(lambda m, x: jm.grad(lambda m: scanned(m, x)[0])(m)),
    "grad of scan_layers in jit": jm.jit(lambda m, x: jm.grad(lambda m: jnp.sum(layered(m, x)))(m)),
    "grad of remat": lambda m, x: jm.grad(lambda m: jnp.sum(jm.remat(m.net)(x)))(m),
    "grad in scan in jit": jm.jit(lambda m, x: jm.scan(lambda c, _: (c, jm.grad(loss)(m, x)), None, length=2)),
    "cond in scan": lambda m, x: jm.scan(lambda c, _: (c, condition(m, x)), None, length=2),
    "vmap in jit": jm.jit(mapped),
    "jit in scan in jit": jm.jit(
        lambda m, x: jm.scan(lambda c, _: (c, jm.jit(lambda m, x: m.net(x))(m, x)), None, length=2)
    ),
    "eval_shape of grad": lambda m, x: jm.eval_shape(lambda m, x: jm.grad(loss)(m, x), m, x),
}


def make() -> tuple[Whole, jax.Array]:
    jm.manual_seed(0)
    return Whole(), jax.random.normal(jax.random.key(1), (4, 3))


def assert_clean(*roots: Any) -> None:
    assert tls.overlay is None
    assert tls.captures == ()
    assert tls.generator is None
    assert tls.collector is None
    assert tracers_from(*roots, jm.default_generator(), *library_caches()) == []


@pytest.mark.parametrize("fails", [False, True], ids=["well", "raises"])
@pytest.mark.parametrize("name", CASES)
def test_no_tracer_is_left(name: str, fails: bool) -> None:
    model, x = make()
    call = CASES[name]
    kinds = {key: [type(m) for m in module.modules()] for key, module in model.named_modules()}
    model.fail(fails)
    keys, rng = list(model.state_dict()), jm.get_rng_state()
    with pytest.raises(ValueError, match="in the middle") if fails else contextlib.nullcontext():
        call(model, x)
    assert_clean(model, call)
    if fails:  # and nothing is half done
        assert {key: [type(m) for m in module.modules()] for key, module in model.named_modules()} == kinds
        assert list(model.state_dict()) == keys
        assert jnp.array_equal(jm.get_rng_state(), rng)
        assert int(model.net.norm.num_batches_tracked) == int(model.layers[0].norm.num_batches_tracked) == 0
        assert not hasattr(model.net, "made")
        assert set(model.net.cache) == {"last", "many"}
        model.fail(False)  # the next call is none the wiser
        call(model, x)
        assert_clean(model, call)


@pytest.mark.parametrize("fails", [False, True], ids=["well", "raises"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_an_optimizer_holds_no_tracer(compiled: bool, fails: bool) -> None:
    model, x = make()
    optimizer = jm.optim.AdamW(model.net.parameters(), lr=0.1)
    call = jm.jit(step) if compiled else step
    call(model, optimizer, x)
    model.fail(fails)
    with pytest.raises(ValueError, match="in the middle") if fails else contextlib.nullcontext():
        call(model, optimizer, x)
    assert_clean(model, optimizer, call)


def test_the_walk_finds_a_tracer() -> None:
    """Seen to fail: in a slot, a container, a closure, a compiled function's caches, a hook."""

    def leak(into: Callable[[Any], Any]) -> int:
        jax.jit(lambda x: [into(x), x][1])(jnp.ones(()))
        return 0

    model, kept = Net(), jm.jit(lambda m, x: m(x))
    places: list[tuple[Any, Callable[[Any], Any]]] = [
        (model, functools.partial(setattr, model._slots["last"], "_value")),
        (model, functools.partial(dict.__setitem__, model._slots["cache"]._value, "x")),
        (kept, functools.partial(dict.__setitem__, kept._plans, 0)),
        (model, lambda x: model.register_forward_hook(lambda m, a, o: x)),
        (jm.default_generator(), functools.partial(object.__setattr__, jm.default_generator(), "_impl")),
    ]
    impl = jm.default_generator()._impl
    for root, into in places:
        before = len(tracers_from(root))
        leak(into)
        assert len(tracers_from(root)) == before + 1
    jm.default_generator()._impl = impl


@pytest.mark.parametrize("name", [name for name in CASES if "jit" in name])
def test_a_dropped_model_and_its_compiled_function_are_collected(name: str) -> None:
    model, x = make()
    function = CASES[name]
    function(model, x)
    function(model, x)
    parts = [weakref.ref(part) for part in (*model.modules(), *model.parameters(), *model.buffers(), model.net.noise)]
    array = weakref.ref(model.net.fc.weight.value)
    del model
    gc.collect()
    assert [type(ref()) for ref in parts if ref() is not None] == []
    assert array() is None


def test_a_dropped_function_is_collected_with_what_it_was_called_with() -> None:
    def run() -> list[Any]:
        model, x = make()
        optimizer = jm.optim.AdamW(model.net.parameters(), lr=0.1)
        call = jm.jit(lambda model, optimizer, x: step(model, optimizer, x))
        bound = jm.jit(model.net)  # the model is in it
        call(model, optimizer, x)
        call(model, optimizer, x)
        bound(x)
        return [weakref.ref(thing) for thing in (call, bound, model, optimizer, model.net.fc.weight)]

    references = run()
    gc.collect()
    assert [ref() for ref in references] == [None] * 5


def test_a_compiled_module_is_collected() -> None:
    model, x = make()
    model.net.compile()
    model.net(x)
    reference = weakref.ref(model)
    net = weakref.ref(model.net)
    assert_clean(model)
    del model
    gc.collect()
    assert reference() is net() is None


@pytest.mark.parametrize("fails", [False, True], ids=["well", "raises"])
def test_capture_keeps_nothing(fails: bool) -> None:
    model, x = make()
    call = jm.jit(lambda m, x: m.net(x))
    model.fail(fails)
    with pytest.raises(ValueError, match="in the middle") if fails else contextlib.nullcontext():
        with jm.capture(model, "net.fc") as acts:
            call(model, x)
    assert_clean(model, call, acts)
    assert list(acts) == ([] if fails else ["net.fc"])
    block, reference = weakref.ref(acts), weakref.ref(model)
    del acts, model
    gc.collect()
    assert block() is reference() is None


def test_capture_under_transforms_holds_no_tracer() -> None:
    model, x = make()
    with jm.capture(model, "net.fc", "layers.*.fc") as acts:
        jm.jit(lambda m, x: (scanned(m, x), layered(m, x)))(model, x)
        jm.grad(loss)(model, x)
        with pytest.raises(jm.StateError, match="inside jm.cond"):
            condition(model, x)
    assert_clean(model, acts)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("bad", [False, True], ids=["finite", "nan"])
def test_nans_keeps_nothing(compiled: bool, bad: bool) -> None:
    model, x = make()
    call = jm.jit(loss) if compiled else loss
    if bad:
        model.net.fc.bias.fill_(jnp.nan)
    with pytest.raises(FloatingPointError, match="NaN") if bad else contextlib.nullcontext():
        with debug.nans(model) as report:
            call(model, x)
    assert_clean(model, call, report)
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    reference, block = weakref.ref(model), weakref.ref(report)
    del model, report
    gc.collect()
    assert reference() is None
    del call  # whose program calls back into the block
    gc.collect()
    assert block() is None


def test_foreign_transforms_leave_no_tracer() -> None:
    """What is refused, and what a clone did, stays out of the object."""
    model, x = make()
    for transform in (jax.jit, jax.grad, jax.checkpoint, lambda f: lambda x: jax.vmap(f)(x[None])):
        with pytest.raises(jm.ForeignTraceError):
            transform(lambda x: jnp.sum(model.net(x)))(x)
        assert_clean(model)
    model.eval()
    jax.jit(lambda m, x: layered(m, x))(model, x)
    assert_clean(model)
