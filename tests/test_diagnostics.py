"""Diagnostics by module path: retraces, donated arrays, scopes in programs, NaNs, and guards."""

import copy
import re
import warnings

import jax
import jax.numpy as jnp
import pytest

import jaxmodule as jm
from jaxmodule import debug, nn
from jaxmodule.nn.hooks import register_module_forward_hook
from jaxmodule.nn.modes import inference
from jaxmodule.transforms._jit_report import RetraceWarning

X = jnp.ones((2, 3))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return self.drop(self.fc(x))


class Net(nn.Module):
    def __init__(self, n=2):
        super().__init__()
        self.blocks = nn.ModuleList([Block() for _ in range(n)])
        self.tail = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def forward(self, x, **_):
        for block in self.blocks:
            x = block(x)
        return self.tail(x)


# -- retraces ---------------------------------------------------------------------------------------------------------
def retraced(*changes):
    """The warning of a function that is called with a model after each change: three traces of shapes, then these."""
    model = Net()
    step = jm.jit(lambda model, x: (x, model(jnp.ones((2, 3)))))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for n in (1, 2, 3):
            step(model, jnp.ones((n, 3)))
        assert not caught
        for change in changes:
            x = change(model)
            step(model, jnp.ones((3, 3)) if x is None or not isinstance(x, jax.Array) else x)
    assert [w.category for w in caught] == [RetraceWarning]
    assert caught[0].filename == __file__
    return str(caught[0].message)


def hook(module, args, out):
    return None


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda m: jnp.ones((5, 3)), "x: float32[3, 3] -> float32[5, 3]"),
        (lambda m: jnp.ones((3, 3), jnp.float16), "x: float32[3, 3] -> float16[3, 3]"),
        (lambda m: m.eval(), "model: train mode -> eval mode"),
        (lambda m: m.blocks[1].eval(), "model.blocks.1: train mode -> eval mode"),
        (lambda m: setattr(m.blocks[1].drop, "p", 0.2), "model.blocks.1.drop.p: 0.1 -> 0.2"),
        (lambda m: setattr(m, "note", (1, "a")), "model.note: not there -> (1, 'a')"),
        (lambda m: setattr(m.blocks[0], "sizes", [1, 2]), "model.blocks.0.sizes: nothing -> ContainerSlot"),
        (
            lambda m: m.blocks[0].fc.weight.requires_grad_(False),
            "model.blocks.0.fc.weight: requires_grad=True -> requires_grad=False",
        ),
        (lambda m: m.blocks[1].fc.register_forward_hook(hook), "model.blocks.1.fc: forward hooks: 0 -> 1"),
        (lambda m: setattr(m.tail[0], "weight", m.blocks[0].fc.weight), "model.tail.0.weight: its own -> shared with"),
        (lambda m: m.add_module("extra", nn.Linear(3, 3)), "model.extra: nothing -> Linear"),
        (lambda m: setattr(m.tail, "1", nn.GELU()), "model.tail.1: class ReLU -> GELU"),
        (lambda m: m.blocks.append(Block()), "model.blocks.2: nothing -> Block"),
        (lambda m: jm.default_generator().manual_seed(jax.random.key(0, impl="rbg")), "the default generator._impl: "),
        (lambda m: setattr(m.tail[0].weight, "grad", jnp.zeros((3, 3))), "model.tail.0.weight: no gradient in .grad"),
        (lambda m: m.tail.to(jnp.float32) and m.tail[0].to(jnp.bfloat16).to(jnp.float32) and None, None),
    ],
)
def test_the_fourth_trace_warns_and_says_what_differs(change, line):
    if line is None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model, step = Net(), jm.jit(lambda model, x: model(x))
            for _ in range(5):
                step(model, X)
                change(model)
        return
    message = retraced(change)
    assert f"\n  - {line}" in message
    assert message.count("\n  - ") == 1, message
    assert "was traced 4 times" in message


def test_a_parameters_dtype_is_named_by_its_path():
    model, step = Net(), jm.jit(lambda model, x: x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for dtype in (jnp.float32, jnp.float16, jnp.bfloat16, jnp.int32):
            model.tail[0].bias.value = jnp.zeros(3, dtype)
            step(model, X)
    assert re.search(r"- model\.tail\.0\.bias: \w+\[3\] -> int32\[3\]", str(caught[0].message))


def warned(jitted, *calls):
    """What is said in the course of `calls`, functions that call `jitted`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for call in calls:
            call(jitted)
    assert [w.category for w in caught] == [RetraceWarning]
    return str(caught[0].message)


def test_static_arguments_trees_and_bound_modules():
    step = jm.jit(lambda x, mode: x, static_argnames="mode")
    message = warned(step, *[lambda f, mode=mode: f(X, mode=mode) for mode in "abcd"])
    assert "static argument 'mode': 'c' -> 'd'" in message
    step = jm.jit(lambda batch: batch["a"])
    message = warned(step, *[lambda f, n=n: f(dict.fromkeys("abcd"[:n], X)) for n in (1, 2, 3, 4)])
    assert "batch['d']: not there -> float32[2, 3]" in message
    model = Net()
    message = warned(
        jm.jit(model), *[lambda f, p=p: setattr(model.blocks[0].drop, "p", p) or f(X) for p in (0.1, 0.2, 0.3, 0.4)]
    )
    assert "- Net.blocks.0.drop.p: 0.3 -> 0.4" in message
    message = warned(jm.jit(model.tail[1]), *[lambda f, n=n: f(jnp.ones(n)) for n in (1, 2, 3, 4)])
    assert "- args[0]: float32[3] -> float32[4]" in message


def test_modes_around_the_call_are_named():
    model = Net()
    shapes = [lambda f, n=n: f(model, jnp.ones((n, 3))) for n in (1, 2, 3)]

    def under(block):
        def call(f):
            with block():
                f(model, jnp.ones((3, 3)))

        return call

    step = jm.jit(lambda model, x: model(x))
    assert "no_grad: off -> on" in warned(step, *shapes, under(jm.no_grad))
    step.clear_cache()
    assert "process-wide hooks: off -> on" in warned(step, *shapes, under(lambda: register_module_forward_hook(hook)))
    step.clear_cache()
    assert "jm.capture" in warned(step, *shapes, under(lambda: jm.capture(model, "tail")))


def test_without_compilation_nothing_is_a_trace():
    step, model = jm.jit(lambda model, x: model(x)), Net()
    with warnings.catch_warnings(), jax.disable_jit():
        warnings.simplefilter("error")
        for n in range(1, 7):
            step(model, jnp.ones((n, 3)))


def test_it_warns_once_and_the_nearest_trace_counts():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step, model = jm.jit(lambda model, x: model(x)), Net()
        step(model, jnp.ones((7, 3)))
        model.eval()
        step(model, jnp.ones((8, 3)))
        model.tail[0].requires_grad_(False)
        step(model, jnp.ones((9, 3)))
        model.tail[0].requires_grad_(True)
        for n in range(10, 20):
            step(model, jnp.ones((n, 3)))
    assert len(caught) == 1
    assert "x: float32[8, 3] -> float32[10, 3]" in str(caught[0].message)
    assert "requires_grad" not in str(caught[0].message)


def test_a_function_that_changes_structure_on_each_call():
    class Counting(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x

    model = Counting()
    message = warned(jm.jit(lambda model, x: model(x)), *[lambda f: f(model, X)] * 5)
    assert "model.calls: 2 -> 3" in message


# -- donated arrays ---------------------------------------------------------------------------------------------------
def test_a_donated_array_is_named_when_it_is_read_again():
    model, other = Net(), Net()
    other.load_state_dict(model.state_dict())
    jm.jit(lambda m, x: m(x), donate=True)(model, X)
    with pytest.raises(RuntimeError, match=r"'blocks.0.fc.weight'(.|\n)*donate(.|\n)*load_state_dict"):
        jm.jit(lambda m, x: m(x))(other, X)
    with pytest.raises((RuntimeError, ValueError), match="deleted") as caught:  # a ValueError of JAX 0.10.0's
        other(X)
    notes = "\n".join(caught.value.__notes__)
    assert "in blocks.0.fc.weight: its array is deleted" in notes
    assert "load_state_dict" in notes
    other.load_state_dict(model.state_dict())
    assert jnp.allclose(other.eval()(X), model.eval()(X))


def test_other_errors_stay_as_they_are():
    array = jnp.ones((1, 3))
    array.delete()
    with pytest.raises(RuntimeError, match="deleted") as caught:
        Net().eval()(array)
    assert "donate" not in "\n".join(getattr(caught.value, "__notes__", []))


# -- scopes -----------------------------------------------------------------------------------------------------------
def op_names(text):
    return set(re.findall(r'op_name="([^"]*)"', text))


@pytest.mark.parametrize("way", ["jm.jit", "jax.jit", "closed over", "functional_call", "grad"])
def test_programs_carry_module_paths(way):
    model = Net().eval()
    params, buffers = jm.split(model)
    lowered = {
        "jm.jit": lambda: jm.jit(lambda m, x: m(x)).lower(model, X),
        "jax.jit": lambda: jax.jit(lambda m, x: m(x)).lower(model, X),
        "closed over": lambda: jax.jit(lambda x: model(x)).lower(X),
        "functional_call": lambda: jax.jit(lambda p, x: jm.functional_call(model, {**p, **buffers}, x)).lower(
            params, X
        ),
        "grad": lambda: jm.jit(jm.grad(lambda m, x: m(x).sum())).lower(model, X),
    }[way]()
    names = op_names(lowered.compile().as_text())
    for path in ("Net/blocks.1/fc/", "Net/tail/0/"):
        assert any(path in name.replace(")", "") for name in names), names
    if way == "grad":
        assert any(re.search(r"transpose\(.*blocks.1.*fc", name) for name in names), names


def test_a_scope_follows_the_tree():
    model = Net().eval()
    text = jm.jit(lambda m, x: m(x)).lower(model, X).as_text(debug_info=True)
    assert "blocks.0/fc" in text
    model.late = model.blocks[0]
    del model.blocks[0]
    text = jm.jit(lambda m, x: m.late(m(x))).lower(model, X).as_text(debug_info=True)
    assert "blocks.1" not in text
    assert "Block/fc" in text, "called by no module: goes by its class"


def test_eager_calls_make_no_scope(monkeypatch):
    def refuse(name):
        raise AssertionError(name)

    model = Net()
    model(X)
    monkeypatch.setattr(jax, "named_scope", refuse)
    model(X)
    with pytest.raises(AssertionError, match="Net"):
        jax.make_jaxpr(lambda m: m(X))(model)


# -- NaN and infinity -------------------------------------------------------------------------------------------------
class Log(nn.Module):
    def forward(self, x):
        return jnp.log(x)


class Sqrt(nn.Module):
    def forward(self, x):
        return jnp.sqrt(x)


def chain(layer):
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Sequential(nn.Identity(), layer), nn.Identity()])

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    return Chain()


def run(way, model, x):
    def total(m, x):
        return m(x).sum()

    return {
        "eager": lambda: model(x),
        "jm.jit": lambda: jm.jit(lambda m, x: m(x))(model, x),
        "jax.jit": lambda: jax.jit(lambda m, x: m(x))(model, x),
        "jm.grad": lambda: jm.grad(total, argnums=1)(model, x),
        "jax.grad": lambda: jax.grad(lambda x: total(model, x))(x),
        "grad in jit": lambda: jm.jit(jm.grad(total, argnums=1))(model, x),
        "jm.vmap": lambda: jm.jit(lambda m, x: jm.vmap(m)(x))(model, x),
        "jm.scan": lambda: jm.jit(lambda m, x: jm.scan(lambda c, x: (c, m(x)), None, x))(model, x),
        "jm.grad of jm.scan": lambda: jm.jit(
            lambda m, x: jm.grad(lambda x: jm.scan(lambda c, x: (c + total(m, x), None), 0.0, x)[0])(x)
        )(model, x),
        "jm.remat": lambda: jm.jit(lambda m, x: jm.grad(lambda x: jm.remat(m)(x).sum())(x))(model, x),
        "jm.cond": lambda: jm.jit(lambda m, x: jm.cond(x.sum() > -100, m, lambda x: x, x))(model, x),
        "vmap": lambda: jax.vmap(model)(x),
        "vmap in jit": lambda: jax.jit(jax.vmap(model))(x),
        "scan": lambda: jax.lax.scan(lambda c, x: (c, model(x)), 0.0, x),
        "scan in jit of grad": lambda: jax.jit(
            jax.grad(lambda x: jax.lax.scan(lambda c, x: (c + total(model, x), None), 0.0, x)[0])
        )(x),
        "remat": lambda: jax.grad(jax.checkpoint(lambda x: total(model, x)))(x),
    }[way]()


WAYS = ["eager", "jm.jit", "jax.jit", "jm.grad", "jax.grad", "grad in jit", "vmap", "vmap in jit"]
WAYS += ["scan", "scan in jit of grad", "remat"]
WAYS += ["jm.vmap", "jm.scan", "jm.grad of jm.scan", "jm.remat", "jm.cond"]


@pytest.mark.parametrize("way", WAYS)
def test_the_first_nan_is_named(way):
    model = chain(Log())
    x = jnp.array([[1.0, 2.0], [3.0, -1.0]])
    run(way, model, x)  # compiled before: the block compiles its own
    with debug.nans(model) as report:
        run(way, model, jnp.abs(x))
    assert report.first is None
    with pytest.raises(FloatingPointError, match=r"NaN first appears in the forward pass of blocks\.0\.1: Log\(\)"):
        with debug.nans(model) as report:
            run(way, model, x)
    assert (report.first.path, report.first.during, report.first.what) == ("blocks.0.1", "forward", "NaN")
    assert "float32[2" in report.first.inputs
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    run(way, model, x)  # and after it nothing is checked


@pytest.mark.parametrize(
    "way", ["jm.grad", "jax.grad", "grad in jit", "scan in jit of grad", "remat", "jm.grad of jm.scan", "jm.remat"]
)
def test_the_backward_pass_is_told_apart(way):
    model = chain(Sqrt())
    with pytest.raises(FloatingPointError, match=r"infinity first appears in the backward pass of blocks\.0\.1: Sqrt"):
        with debug.nans(model) as report:
            run(way, model, jnp.array([[1.0, 2.0], [3.0, 0.0]]))
    assert report.first.during == "backward"


def test_it_raises_where_the_call_returns():
    model, x = chain(Log()), -jnp.ones(2)
    for call in (model, jm.jit(lambda x: x if x is None else jm.jit(model)(x)), jm.grad(lambda x: model(x).sum())):
        with debug.nans(model) as report:
            with pytest.raises(FloatingPointError, match="Log"):
                call(x)
            assert report.first.path == "blocks.0.1"
    with debug.nans(model), pytest.raises(FloatingPointError) as caught:
        model(x)
    assert "in blocks.0.1: Log(), called with float32[2]" in caught.value.__notes__


def test_infinities_count_unless_told_otherwise():
    model = chain(Log())
    with pytest.raises(FloatingPointError, match="infinity first"), debug.nans(model):
        model(jnp.zeros(2))
    with debug.nans(model, inf=False) as report:
        model(jnp.zeros(2))
    assert report.first is None


def test_a_mask_of_infinities_is_nobodys_fault():
    attention = nn.MultiheadAttention(4, 2)
    mask = jnp.triu(jnp.full((3, 3), -jnp.inf), 1)
    x = jax.random.normal(jax.random.key(0), (3, 1, 4))
    with debug.nans(attention):
        jm.jit(lambda m, x: m(x, x, x, attn_mask=mask)[0])(attention, x)
    with debug.nans(model := chain(nn.Identity())):
        model(mask)


def test_what_is_wrong_with_parameters_is_said():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight.value = jnp.full((2, 2), jnp.nan)
    with pytest.raises(FloatingPointError, match="of 1: Linear|in 1: Linear.*parameters or buffers hold it"):
        with debug.nans(model):
            jm.jit(model)(jnp.ones((1, 2)))


def test_a_loss_that_breaks_is_seen_in_the_gradients():
    model = nn.Linear(2, 2)
    with pytest.raises(FloatingPointError, match="gradient of parameter 'weight' holds NaN.*loss"), debug.nans(model):
        jm.jit(jm.grad(lambda m, x: jnp.sqrt(jnp.abs(m(x) * 0.0)).sum()))(model, jnp.ones((1, 2)))


def test_forward_mode_needs_backward_off():
    model = chain(Log())
    with debug.nans(model, backward=False):
        jax.jvp(model, (jnp.ones(2),), (jnp.ones(2),))
    with pytest.raises(FloatingPointError, match="Log"), debug.nans(model, backward=False):
        jax.jvp(model, (-jnp.ones(2),), (jnp.ones(2),))


def test_a_block_is_for_once():
    block = debug.nans(nn.Linear(2, 2))
    with block:
        pass
    with pytest.raises(RuntimeError, match="one block"), block:
        pass


# -- inference --------------------------------------------------------------------------------------------------------
def test_a_model_in_train_mode_is_refused_in_inference():
    model, step = Net(), jm.jit(lambda m, x: m(x))
    expected = copy.deepcopy(model).eval()(X)
    with jm.no_grad():
        step(model, X)  # compiled in train mode: not to be used in the block
    with inference():
        for call in (lambda: model(X), lambda: step(model, X)):
            with pytest.raises(jm.StateError, match=r"Dropout is called in train mode(.|\n)*model\.eval\(\)") as caught:
                call()
            assert any("in blocks.0.drop: Dropout" in note for note in caught.value.__notes__)
        model.eval()
        assert jnp.allclose(model(X), expected)
        assert jnp.allclose(step(model, X), expected)
        assert not jm.is_grad_enabled()
        model.blocks[1].drop.train()
        with pytest.raises(jm.StateError, match="Dropout"):
            step(model, X)
        nn.MSELoss()(X, X)  # the same in both modes
    assert jm.is_grad_enabled()
    model.train()(X)


def test_a_class_of_ones_own_that_reads_the_mode():
    class Noisy(nn.Module):
        def forward(self, x):
            return jax.tree.map(lambda y: y + 1.0 if self.training else y, x)

    with inference(), pytest.raises(jm.StateError, match="Noisy"):
        Noisy()(X)


# -- guards -----------------------------------------------------------------------------------------------------------
def scanned(f):
    return lambda x: jax.lax.scan(lambda c, x: (c, f(x)), 0, x)[1]


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.checkpoint, scanned])
def test_writing_and_drawing_under_a_foreign_transform(transform):
    bn, drop = nn.BatchNorm1d(3), nn.Dropout(0.5)
    net = nn.Sequential(nn.Sequential(nn.Identity(), bn))
    x = jnp.ones((2, 3, 3))
    with pytest.raises(jm.ForeignTraceError, match=r"0\.1\.\w+'(.|\n)*jm\.jit"):
        transform(net)(x)
    with pytest.raises(jm.ForeignTraceError, match="random number(.|\n)*use_rng"):
        transform(drop)(x)
    assert int(bn.num_batches_tracked) == 0
    assert jnp.array_equal(transform(net.eval())(x), net(x))


def test_a_tracer_for_an_attribute_of_an_object_outside():
    model = nn.Linear(3, 3)

    def leak(x):
        model.last = x
        return x

    for transform in (jax.jit, jax.grad):
        with pytest.raises(jm.ForeignTraceError, match="assigned a traced array"):
            transform(leak)(jnp.ones(()))
    with pytest.raises(jm.ClosedOverError, match="Pass the module"):
        jm.jit(lambda x: model(x))(X)
    model.last = jnp.zeros(())
    with pytest.raises(jm.ForeignTraceError):
        jax.jit(leak)(jnp.ones(()))
    assert float(model.last) == 0.0


def test_one_module_under_two_paths_is_shared():
    bn = nn.BatchNorm1d(3, momentum=None)

    @jm.jit
    def step(a, b, holder):
        assert a is b is holder["c"].inner
        a(jnp.ones((2, 3)))
        b(jnp.zeros((2, 3)))
        return holder["c"].inner.num_batches_tracked.value

    holder = nn.Module()
    holder.inner = bn
    assert int(step(bn, bn, {"c": holder})) == 2
    assert int(bn.num_batches_tracked) == 2
    assert jnp.allclose(bn.running_mean.value, 0.5)
    lowered = step.lower(bn, bn, {"c": holder})
    assert len(jax.tree.leaves(lowered.args_info)) == 5 + 1  # one BatchNorm, and the generator
    with pytest.raises(AssertionError):
        step(bn, nn.BatchNorm1d(3), {"c": holder})  # not shared: another program
