"""What the state is kept in, master weights, and complex parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn

RULES = {
    "SGD": {"momentum": 0.9},
    "Adam": {"amsgrad": True},
    "AdamW": {},
    "Adamax": {},
    "NAdam": {},
    "RAdam": {},
    "Adagrad": {},
    "Adadelta": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Rprop": {},
    "ASGD": {},
    "Adafactor": {},
    "Muon": {},
}
each_rule = pytest.mark.parametrize("kind", RULES)


def of(kind: str, params: Any, **options: Any) -> Any:
    return getattr(jm.optim, kind)(params, **RULES[kind], **options)


def matrix(dtype: Any = jnp.bfloat16) -> nn.Parameter:
    return nn.Parameter(jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)), dtype))


# -- what moments are kept in -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "parameter", "state_dtype", "expected"),
    [
        *((kind, jnp.bfloat16, None, jnp.float32) for kind in RULES),
        ("Adam", jnp.float16, None, jnp.float32),
        ("Adam", jnp.float32, None, jnp.float32),
        ("Adafactor", jnp.bfloat16, "param", jnp.bfloat16),
        ("NAdam", jnp.float32, jnp.bfloat16, jnp.bfloat16),
        ("Muon", jnp.bfloat16, "float32", jnp.float32),
    ],
)
def test_moments_are_in_float32_unless_told_otherwise(
    kind: str, parameter: Any, state_dtype: Any, expected: Any
) -> None:
    p = matrix(parameter)
    optimizer = of(kind, [p], state_dtype=state_dtype)
    for _ in range(2):
        optimizer.step({"0": jnp.ones_like(p.value)})
    slots = {slot: value.dtype for slot, value in optimizer.state["0"].items() if value.ndim}
    assert slots
    assert set(slots.values()) == {jnp.dtype(expected)}
    assert p.dtype == parameter


def test_a_state_dtype_must_be_a_floating_one() -> None:
    with pytest.raises(ValueError, match="state_dtype must be a floating-point dtype, 'param' or None, not int8"):
        jm.optim.Adam([matrix()], state_dtype="int8")


def test_a_mean_of_bfloat16_gradients_does_not_stall() -> None:
    """0.999·v + 0.001·g² is v in bfloat16, whatever g²."""
    p, q = nn.Parameter(jnp.zeros(1, jnp.bfloat16)), nn.Parameter(jnp.zeros(1, jnp.bfloat16))
    ours, as_torch = jm.optim.Adam([p]), jm.optim.Adam([q], state_dtype="param")
    steps = jm.jit(lambda *all: [o.step({"0": jnp.ones(1, jnp.bfloat16)}) for o in all])
    for _ in range(1000):
        steps(ours, as_torch)
    (v,), (stalled,) = (o.state["0"]["exp_avg_sq"] for o in (ours, as_torch))
    assert float(v) == pytest.approx(1 - 0.999**1000, rel=1e-4)
    assert float(stalled) < 0.3


# -- master weights -----------------------------------------------------------------------------------------------
def many_small_steps(**options: Any) -> tuple[nn.Parameter, Any]:
    """600 steps of 1e-4 from 1, where neighbours in bfloat16 are 2⁻⁸ and 2⁻⁷ away."""
    p = nn.Parameter(jnp.ones(2, jnp.bfloat16))
    optimizer = jm.optim.SGD([p], lr=1e-4, **options)
    step = jm.jit(lambda o: o.step({"0": jnp.ones(2, jnp.bfloat16)}))
    for _ in range(600):
        step(optimizer)
    return p, optimizer


def test_steps_below_the_resolution_are_lost_without_master_weights() -> None:
    p, _ = many_small_steps()
    assert (p == 1).all()


def test_steps_below_the_resolution_add_up_in_master_weights() -> None:
    p, optimizer = many_small_steps(master_weights=True)
    master = optimizer.state["0"]["master_param"]
    np.testing.assert_allclose(master, 0.94, rtol=1e-4)
    assert master.dtype == jnp.float32
    assert p.dtype == jnp.bfloat16
    assert jnp.array_equal(p, master.astype(jnp.bfloat16))


@each_rule
def test_with_master_weights_a_parameter_is_the_rounding_of_its_float32_self(kind: str) -> None:
    """The same steps as of a float32 parameter, given the same gradients."""
    p, exact = matrix(), matrix(jnp.float32)
    exact.value = p.astype(jnp.float32)
    options = {"eps": (1e-6, 1e-3)} if kind == "Adafactor" else {}  # its default is the resolution of the dtype
    optimizer, reference = of(kind, [p], lr=1e-3, master_weights=True, **options), of(kind, [exact], lr=1e-3, **options)
    step = jm.jit(lambda a, b, g: (a.step({"0": g}), b.step({"0": g})))
    for i in range(20):
        step(optimizer, reference, jnp.asarray(np.random.default_rng(i).standard_normal((3, 4)), jnp.float32))
    np.testing.assert_allclose(optimizer.state["0"]["master_param"], exact, rtol=1e-6)
    assert jnp.array_equal(p, exact.astype(jnp.bfloat16)) or kind == "Muon"


def test_parameters_in_float32_have_no_master() -> None:
    p, q = matrix(jnp.float32), matrix()
    optimizer = jm.optim.Adam({"p": p, "q": q}.items(), master_weights=True)
    assert "master_param" not in optimizer.state["p"]
    assert "master_param" in optimizer.state["q"]
    plain = jm.optim.SGD([matrix(jnp.float32)], master_weights=True)
    assert plain.state == {}


def test_master_weights_follow_what_is_written_into_a_parameter() -> None:
    """A checkpoint loaded after the optimizer was made isn't undone by its first step."""
    model = nn.Linear(2, 2, bias=False)
    model.weight.value = jnp.ones((2, 2), jnp.bfloat16)
    optimizer = jm.optim.SGD(model.parameters(), lr=1e-4, master_weights=True)
    model.load_state_dict({"weight": jnp.full((2, 2), 5.0, jnp.bfloat16)})
    optimizer.step({"weight": jnp.array([[1.0, 1.0], [0.0, 0.0]])})
    np.testing.assert_allclose(optimizer.state["weight"]["master_param"], [[4.9999, 4.9999], [5, 5]], rtol=1e-6)
    model.weight.value = model.weight.at[0, 0].set(3.0)
    optimizer.step({"weight": jnp.ones((2, 2))})
    np.testing.assert_allclose(optimizer.state["weight"]["master_param"], [[2.9999, 4.9998], [4.9999] * 2], rtol=1e-6)


def test_master_weights_are_in_the_state_dict() -> None:
    p, optimizer = many_small_steps(master_weights=True)
    q = nn.Parameter(p.value)
    resumed = jm.optim.SGD([q], lr=1e-4, master_weights=True)
    resumed.load_state_dict(optimizer.state_dict())
    for each in (optimizer, resumed):
        each.step({"0": jnp.ones(2, jnp.bfloat16)})
    np.testing.assert_array_equal(resumed.state["0"]["master_param"], optimizer.state["0"]["master_param"])
    without = jm.optim.SGD([q], lr=1e-4)
    with pytest.raises(ValueError, match=r"loaded state of '0' has \['master_param', 'step'\], SGD needs \[\]"):
        without.load_state_dict(optimizer.state_dict())


# -- complex ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [kind for kind in RULES if kind not in ("Adafactor", "Muon")])
def test_a_complex_parameter_moves_as_its_parts(kind: str) -> None:
    rng = np.random.default_rng(0)
    z = nn.Parameter(jnp.asarray(rng.standard_normal(3) + 1j * rng.standard_normal(3), jnp.complex64))
    parts = nn.Parameter(jnp.stack([z.real, z.imag], -1))
    optimizer, reference = of(kind, [z], lr=0.05), of(kind, [parts], lr=0.05)
    target = jnp.asarray(1 + 2j, jnp.complex64)
    before = float(jnp.abs(z - target).sum())
    for _ in range(20):
        optimizer.step({"0": jax.grad(lambda v: (jnp.abs(v - target) ** 2).sum())(z.value)})
        reference.step({"0": jax.grad(lambda v: ((v - jnp.array([[1.0, 2.0]])) ** 2).sum())(parts.value)})
    np.testing.assert_allclose(jnp.stack([z.real, z.imag], -1), parts, rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(z - target).sum()) < before  # downhill, as jm.grad's gradient is the conjugate of torch's


@pytest.mark.parametrize("kind", ["Adafactor", "Muon", "LBFGS"])
def test_what_cannot_move_complex_parameters_says_so(kind: str) -> None:
    with pytest.raises(RuntimeError, match=f"{kind} does not support complex parameters: '0' is one"):
        getattr(jm.optim, kind)([nn.Parameter(jnp.ones((2, 2), jnp.complex64))])


# -- numbers ------------------------------------------------------------------------------------------------------
@each_rule
def test_numbers_change_between_steps_without_compiling_again(kind: str) -> None:
    changes = {
        "lr": 0.5,
        "betas": (0.8, 0.9),
        "eps": (1e-5, 1e-2) if kind == "Adafactor" else 1e-3,
        "momentum": 0.3,
        "weight_decay": 0.2,
        "momentum_decay": 0.1,
        "lr_decay": 0.1,
        "rho": 0.5,
        "alpha": 0.6,
        "etas": (0.3, 1.5),
        "step_sizes": (1e-3, 1.0),
        "lambd": 0.1,
        "t0": 1.0,
        "beta2_decay": -0.5,
        "d": 2.0,
        "ns_coefficients": (3.0, -3.2, 1.2),
    }
    p, traces = matrix(jnp.float32), []
    given = {"eps": (1e-6, 1e-3)} if kind == "Adafactor" else {}
    decay = {} if kind == "Rprop" else {"weight_decay": 0.1}  # from 0 it would be another program
    optimizer = of(kind, [p], **given, **decay)

    @jm.jit
    def step(optimizer: Any) -> None:
        traces.append(1)
        optimizer.step({"0": jnp.ones((3, 4))})

    step(optimizer)
    group = optimizer.param_groups[0]
    changed = [name for name in changes if name in group and not (name == "momentum" and not group[name])]
    assert "lr" in changed
    for name in changed:
        group[name] = changes[name]
        before = p.value
        step(optimizer)
        assert group[name] == changes[name]
        assert not jnp.array_equal(before, p)
    eager = of(kind, [matrix(jnp.float32)], **given, **decay)
    eager.step({"0": jnp.ones((3, 4))})
    for name in changed:
        eager.param_groups[0][name] = changes[name]
        eager.step({"0": jnp.ones((3, 4))})
    atol = 1e-2 if kind == "Muon" else 1e-6  # it multiplies in bfloat16, and a compiled program rounds less often
    np.testing.assert_allclose(p, eager.param_groups[0]["params"][0], rtol=1e-5, atol=atol)
    assert len(traces) == 1


@each_rule
def test_a_schedule_from_the_start_sets_the_first_step_s_size(kind: str) -> None:
    """Some rules keep the learning rate of the first step in the state: that of the step, not of the constructor."""
    p, q = matrix(jnp.float32), matrix(jnp.float32)
    late, early = of(kind, [p], lr=0.5), of(kind, [q], lr=0.01)
    late.param_groups[0]["lr"] = 0.01
    for optimizer in (late, early):
        for _ in range(3):
            optimizer.step({"0": jnp.ones((3, 4))})
    np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.99, 0.999, 0.99999])
def test_radams_length_of_the_average_has_float32s_digits(beta: float) -> None:
    """As the difference that it is defined by, it would have three."""
    from jaxmodule.optim.radam import _rho

    t = np.array([1, 2, 5, 6, 7, 20, 100, 499, 501, 3000, 49999, 50001, 10**6], np.float64)
    exact = 2 / (1 - beta) - 1 - 2 * t * beta**t / -np.expm1(t * np.log(beta))
    h = {"log2": jnp.float32(np.log(beta)), "rho_inf": jnp.float32(2 / (1 - beta) - 1)}
    np.testing.assert_allclose([_rho(jnp.float32(n), h) for n in t], exact, rtol=2e-6)
