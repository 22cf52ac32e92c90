"""Schedulers under JAX: no program is compiled again, and their rates are optax schedules."""

import copy
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
    WarmupCosineLR,
)

STEPS = 50


def a_model() -> nn.Linear:
    model = nn.Linear(2, 1)
    model.weight.value, model.bias.value = jnp.ones((1, 2)), jnp.ones(1)
    return model


def an_optimizer(kind: str = "SGD", **kwargs) -> jm.optim.Optimizer:
    options = {"momentum": 0.9} if kind == "SGD" else {}
    optimizer = getattr(jm.optim, kind)(a_model().parameters(), **{"lr": 0.3, **options, **kwargs})
    return optimizer


def stepped(optimizer):
    optimizer.step({name: jnp.zeros_like(box.value) for name, box in optimizer._params.items()})
    return optimizer


CLOSED = {
    "lambda": lambda o: LambdaLR(o, lambda step: 0.9**step),
    "step": lambda o: StepLR(o, 7, 0.5),
    "multi-step": lambda o: MultiStepLR(o, [3, 20, 20], 0.5),
    "constant": lambda o: ConstantLR(o, 0.3, 9),
    "linear": lambda o: LinearLR(o, 0.1, 0.9, 20),
    "exponential": lambda o: ExponentialLR(o, 0.95),
    "polynomial": lambda o: PolynomialLR(o, 30, 2.0),
    "cosine": lambda o: CosineAnnealingLR(o, 12, 0.01),
    "restarts": lambda o: CosineAnnealingWarmRestarts(o, 9, 1, 0.01),
    "growing restarts": lambda o: CosineAnnealingWarmRestarts(o, 3, 2, 0.01),
    "cyclic": lambda o: CyclicLR(o, 0.1, 0.3, 4, 6),
    "cyclic, halving": lambda o: CyclicLR(o, 0.1, 0.3, 4, mode="triangular2"),
    "cyclic, shrinking": lambda o: CyclicLR(o, 0.1, 0.3, 4, mode="exp_range", gamma=0.9),
    "one cycle": lambda o: OneCycleLR(o, 1.0, 55),
    "one cycle of three": lambda o: OneCycleLR(o, 1.0, 55, three_phase=True, anneal_strategy="linear"),
    "warm-up and cosine": lambda o: WarmupCosineLR(o, 7, 40, eta_min=0.01),
    "sequence": lambda o: SequentialLR(o, [LinearLR(o), CosineAnnealingLR(o, 50)], [5]),
    "chain": lambda o: ChainedScheduler([ConstantLR(o, 0.1, 20), ExponentialLR(o, 0.9)]),
}


@pytest.mark.parametrize("make", CLOSED.values(), ids=CLOSED.keys())
def test_the_optax_schedule_is_what_step_does(make):
    optimizer = stepped(an_optimizer())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = make(optimizer)
        rates = [*scheduler.get_last_lr()]
        for _ in range(STEPS):
            scheduler.step()
            rates += scheduler.get_last_lr()
    schedule = jax.jit(jax.vmap(make(an_optimizer()).as_optax()))
    np.testing.assert_allclose(schedule(jnp.arange(STEPS + 1)), rates, rtol=2e-5, atol=1e-6)


def test_the_rate_compiles_nothing_again():
    model, traces = a_model(), []
    optimizer = jm.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = OneCycleLR(optimizer, 0.5, total_steps=STEPS)  # the momentum changes as well
    plateau = ReduceLROnPlateau(optimizer, patience=0)
    x = jnp.ones((3, 2))

    @jm.jit
    def train(model, optimizer, x):
        traces.append(1)
        loss, grads = jm.value_and_grad(lambda m: (m(x) ** 2).mean())(model)
        optimizer.step(grads)
        return loss

    moved = []
    for step in range(STEPS):
        before = model.weight.value
        train(model, optimizer, x)
        moved.append(float(jnp.abs(model.weight - before).sum()))
        scheduler.step()
        plateau.step(step)
    assert len(traces) == 1
    assert len(set(moved)) > STEPS // 2


def test_adams_betas_compile_nothing_again():
    model, traces = a_model(), []
    optimizer = jm.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = CyclicLR(optimizer, 0.01, 0.1, step_size_up=3)

    @jm.jit
    def train(model, optimizer):
        traces.append(1)
        optimizer.step(jm.grad(lambda m: m.weight.sum())(model))

    for _ in range(8):
        train(model, optimizer)
        scheduler.step()
    assert len(traces) == 1


def test_a_schedule_drives_any_optax_transformation():
    """The same parameters as an optimizer whose rate a scheduler sets."""
    models = [a_model() for _ in range(2)]
    rate = CosineAnnealingLR.schedule(0.1, T_max=20)
    with_optax = jm.optim.Optimizer(models[0].parameters(), optax.sgd(rate, momentum=0.9))
    ours = jm.optim.SGD(models[1].parameters(), lr=0.1, momentum=0.9)
    scheduler = CosineAnnealingLR(ours, T_max=20)

    @jm.jit
    def train(model, optimizer, x):
        optimizer.step(jm.grad(lambda m: (m(x) ** 2).mean())(model))

    for seed in range(20):
        x = jax.random.normal(jax.random.key(seed), (4, 2))
        for model, optimizer in zip(models, (with_optax, ours), strict=True):
            train(model, optimizer, x)
        scheduler.step()
    np.testing.assert_allclose(models[0].weight, models[1].weight, rtol=1e-5)


def test_warm_up_and_cosine_is_the_sequence_and_stays_at_the_end():
    def rates(make):
        optimizer = stepped(an_optimizer())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = make(optimizer)
            found = [optimizer.param_groups[0]["lr"]]
            for _ in range(30):
                scheduler.step()
                found.append(optimizer.param_groups[0]["lr"])
        return found

    sequence = rates(lambda o: SequentialLR(o, [LinearLR(o, 0.2, total_iters=5), CosineAnnealingLR(o, 20, 0.01)], [5]))
    ours = rates(lambda o: WarmupCosineLR(o, 5, 25, 0.2, eta_min=0.01))
    np.testing.assert_allclose(ours[:26], sequence[:26], rtol=1e-12)
    assert ours[26:] == [0.01] * 5
    assert rates(lambda o: WarmupCosineLR(o, 0, 25))[0] == 0.3
    with pytest.raises(ValueError, match="warm-up"):
        WarmupCosineLR(an_optimizer(), 5, 5)
    with pytest.raises(ValueError, match="start_factor"):
        WarmupCosineLR(an_optimizer(), 5, 9, 1.5)


def test_a_step_inside_a_transform_is_refused():
    optimizer = an_optimizer()
    scheduler = StepLR(optimizer, 2)
    plateau = ReduceLROnPlateau(optimizer)
    sequence = SequentialLR(optimizer, [StepLR(optimizer, 2)], [])
    for call in (
        scheduler.step,
        lambda: plateau.step(1.0),
        sequence.step,
        CosineAnnealingWarmRestarts(optimizer, 3).step,
    ):

        def train(optimizer, call=call):
            call()

        with pytest.raises(jm.StateError, match=r"(?s)after the compiled step.*as_optax"):
            jm.jit(train)(optimizer)
        with pytest.raises(jm.StateError, match="would run once"):
            jax.jit(lambda x, call=call: (call(), x))(1.0)
    assert scheduler.last_epoch == 0
    assert sequence.last_epoch == 0


def test_the_missing_optimizer_step_is_seen_through_jit():
    model = a_model()
    optimizer = jm.optim.SGD(model.parameters(), lr=0.1)

    @jm.jit
    def train(model, optimizer):
        optimizer.step(jm.grad(lambda m: m.weight.sum())(model))

    train(model, optimizer)  # compiled before the scheduler is there
    early, late = StepLR(optimizer, 2), StepLR(optimizer, 2)
    with pytest.warns(UserWarning, match="no parameter of the optimizer has changed"):
        early.step()
    early.step()  # once is enough
    train(model, optimizer)
    late.step()


def test_schedulers_without_a_closed_form_say_so():
    optimizer = an_optimizer()
    for scheduler in (
        MultiplicativeLR(optimizer, lambda step: 0.9),
        ReduceLROnPlateau(optimizer),
        ChainedScheduler([CosineAnnealingLR(optimizer, 3)]),
        SequentialLR(optimizer, [MultiplicativeLR(optimizer, lambda step: 0.9)], []),
    ):
        with pytest.raises(TypeError, match="no function of the step alone"):
            scheduler.as_optax()
    with pytest.raises(TypeError, match="join_schedules"):
        SequentialLR.schedule(0.1)


def test_an_optax_transformation_takes_the_schedule_itself():
    optimizer = jm.optim.Optimizer(a_model().parameters(), optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"no 'lr'.*optax.adamw"):
        StepLR(optimizer, 3)


def test_each_group_has_its_schedule():
    a, b = a_model(), a_model()
    optimizer = jm.optim.SGD([{"params": a.parameters()}, {"params": list(b.parameters()), "lr": 0.01}], lr=0.1)
    scheduler = LambdaLR(optimizer, [lambda step: 1.0, lambda step: 0.5**step])
    assert float(scheduler.as_optax(0)(3)) == pytest.approx(0.1)
    assert float(scheduler.as_optax(1)(3)) == pytest.approx(0.00125)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_goes_on_by_itself(how):
    optimizer = an_optimizer()
    scheduler = ExponentialLR(optimizer, 0.5)
    stepped(optimizer)
    copied = copy.deepcopy(scheduler) if how == "deepcopy" else pickle.loads(pickle.dumps(scheduler))
    copied.step()
    assert copied.get_last_lr() == [0.15]
    assert copied.optimizer.param_groups[0]["lr"] == 0.15
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert scheduler.last_epoch == 0


WRONG = {
    "another scheduler's": (lambda o: StepLR(o, 3), lambda o: ExponentialLR(o, 0.9), "it lacks .'gamma'|step_size"),
    "of other groups": (lambda o: StepLR(o, 3), None, "is of 2 parameter groups"),
    "of more schedulers": (
        lambda o: ChainedScheduler([StepLR(o, 3)]),
        lambda o: ChainedScheduler([StepLR(o, 3), StepLR(o, 4)]),
        "is of 2 schedulers",
    ),
    "with a wrong part": (
        lambda o: ChainedScheduler([StepLR(o, 3), StepLR(o, 3)]),
        lambda o: ChainedScheduler([StepLR(o, 4), ExponentialLR(o, 0.5)]),
        "another scheduler's",
    ),
}


@pytest.mark.parametrize(("make", "other", "match"), WRONG.values(), ids=WRONG.keys())
def test_a_load_that_fails_has_changed_nothing(make, other, match):
    scheduler = make(an_optimizer())
    if other is None:
        state = scheduler.state_dict()
        state = {**state, "base_lrs": [0.1, 0.2]}
    else:
        state = other(an_optimizer()).state_dict()
    before = repr(scheduler.state_dict())
    with pytest.raises(ValueError, match=match):
        scheduler.load_state_dict(state)
    assert repr(scheduler.state_dict()) == before


def test_a_state_of_arrays_is_taken_as_numbers():
    optimizer = an_optimizer()
    scheduler = MultiStepLR(optimizer, [2])
    stepped(optimizer)
    scheduler.step()
    saved = scheduler.state_dict().items()
    state = {key: np.asarray(v) if isinstance(v, (int, float, list)) else v for key, v in saved}
    state["milestones"] = {"2": np.int64(1)}  # as JSON and msgpack have it
    again = MultiStepLR(an_optimizer(), [9])
    again.load_state_dict(state)
    assert again.state_dict() == scheduler.state_dict()
    assert type(again.last_epoch) is int
    assert again.milestones == {2: 1}


def test_a_scheduler_of_ones_own():
    class Inverse(LRScheduler):
        def get_lr(self):
            return [base / (1 + self.last_epoch) for base in self.base_lrs]

    optimizer = an_optimizer()
    scheduler = Inverse(optimizer)
    stepped(optimizer)
    scheduler.step()
    assert scheduler.get_last_lr() == [0.15]
    with pytest.raises(TypeError, match="Inverse is no function"):
        scheduler.as_optax()
