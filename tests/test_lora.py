"""Low-rank adapters and tied weights as parametrizations."""

import copy
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn.utils import lora, parametrizations, tie


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


X = jnp.linspace(-1, 1, 24).reshape(4, 6)


def trained(model):
    """The adapters as after training."""
    for i, adapter in enumerate(lora.adapters(model).values()):
        adapter.lora_B.value = jax.random.normal(jax.random.key(i), adapter.lora_B.shape, adapter.lora_B.dtype)
    return model


def test_a_new_adapter_changes_nothing_and_is_all_that_is_trained():
    model = net()
    before = model(X)
    assert lora.apply(model, r"^[02]\.", r=3, alpha=6) is model
    np.testing.assert_array_equal(model(X), before)
    names = {str(name) for name, p in model.named_parameters() if p.requires_grad}
    assert names == {f"{i}.parametrizations.weight.0.lora_{m}" for i in (0, 2) for m in "AB"}
    optimizer = jm.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    frozen = {name: p.value for name, p in model.named_parameters() if not p.requires_grad}

    @jm.jit
    def train(model, optimizer):
        value, grads = jm.value_and_grad(lambda m: ((m(X) - 1) ** 2).mean())(model)
        optimizer.step(grads)
        return value

    losses = [float(train(model, optimizer)) for _ in range(30)]
    assert losses[-1] < losses[0] / 4
    assert set(optimizer.state) == names
    for name, p in model.named_parameters():
        if name in frozen:
            np.testing.assert_array_equal(p, frozen[name])
    assert repr(model[0].parametrizations.weight[0]) == "LoRA(r=3, alpha=6)"


def test_the_weight_is_the_formula():
    model = trained(lora.apply(net(), r"^2", r=2, alpha=5))
    base, a = model[2].parametrizations.weight.original, lora.adapters(model)["2.weight"]
    np.testing.assert_allclose(model[2].weight, base + 2.5 * (a.lora_B.value @ a.lora_A.value), rtol=1e-6)


def test_convolutions_embeddings_and_attention():
    conv = trained(lora.apply(nn.Conv2d(4, 6, 3, groups=2), "weight", r=2))
    assert lora.adapters(conv)["weight"].lora_A.shape == (2, 18)
    assert conv(jnp.ones((1, 4, 5, 5))).shape == (1, 6, 3, 3)
    table = trained(lora.apply(nn.Embedding(7, 4), "weight", r=2))
    assert table(jnp.array([1, 2])).shape == (2, 4)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x = jnp.ones((1, 3, 8))
    before = attention(x, x, x)[0]
    lora.apply(attention, "in_proj_weight|out_proj", r=2)
    np.testing.assert_allclose(attention(x, x, x)[0], before, rtol=1e-6)
    trained(attention)
    assert not np.allclose(attention(x, x, x)[0], before)
    assert list(lora.adapters(attention)) == ["in_proj_weight", "out_proj.weight"]


def test_merging_and_back():
    model = trained(lora.apply(net(), r"^[02]", r=2, dropout=0.5)).eval()
    bits = {name: np.asarray(x).tobytes() for name, x in model.state_dict().items()}
    apart = model(X)
    lora.merge(model)
    lora.merge(model)  # once is enough
    np.testing.assert_allclose(model(X), apart, rtol=1e-5, atol=1e-6)
    assert model[0].weight is model[0].weight  # nothing is computed
    assert {name: np.asarray(x).tobytes() for name, x in model.state_dict().items()} == bits
    lora.unmerge(model)
    assert {name: np.asarray(x).tobytes() for name, x in model.state_dict().items()} == bits
    assert "merged" not in repr(model)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("how", ["all", "assign", "adapters", "deepcopied", "pickled", "a part", "base only"])
def test_merged_or_not_a_load_gives_the_outputs_of_what_was_saved(how, merged, saved):
    source, model = (lora.apply(net(), r"^[02]", r=2) for _ in range(2))
    if how in ("adapters", "base only"):
        model.load_state_dict(source.state_dict())
    trained(source)
    model[0].parametrizations.weight[0].lora_B.value += 1
    if how == "base only":
        trained(model)
        for layer in (source[0], source[2]):
            layer.parametrizations.weight.original.value += 1
    expected = source(X)
    if saved:
        lora.merge(source)
    if merged:
        lora.merge(model)
    model = {"deepcopied": copy.deepcopy, "pickled": lambda m: pickle.loads(pickle.dumps(m))}.get(how, lambda m: m)(
        model
    )
    state = source.state_dict()
    if how == "adapters":
        lora.load(model, lora.state_dict(source))
    elif how == "a part":
        for part, other in zip(model, source, strict=True):
            part.load_state_dict(other.state_dict())
    elif how == "base only":
        with pytest.warns(UserWarning, match="left these parameters"):
            model.load_state_dict({k: v for k, v in state.items() if k.endswith("original")}, strict=False)
    else:
        model.load_state_dict(state, assign=how == "assign")
    np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jm.jit(lambda m: m(X))(model), expected, rtol=1e-5, atol=1e-5)
    assert all(adapter.merged is merged for adapter in lora.adapters(model).values())
    np.testing.assert_allclose(lora.unmerge(model)(X), expected, rtol=1e-5, atol=1e-5)


def test_a_load_into_a_merged_model_that_fails_has_changed_nothing():
    model = lora.merge(trained(lora.apply(net(), r"^[02]", r=2)))
    before, state = model(X), lora.apply(net(), r"^[02]", r=2).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict({**state, "4.weight": jnp.ones((9, 9))})
    np.testing.assert_array_equal(model(X), before)


GRADS = {
    "grad": lambda m: jm.grad(lambda m: m(X).sum())(m),
    "backward": lambda m: jm.backward(lambda m: m(X).sum())(m),
    "jit": lambda m: jm.jit(lambda m: jm.grad(lambda m: m(X).sum())(m))(m),
    "jit inside": lambda m: jm.grad(lambda m: jm.jit(lambda m: m(X).sum())(m))(m),
    "jax.grad": lambda m: jax.grad(lambda m: m(X).sum())(m),
    "jvp": lambda m: jm.jvp(
        lambda m: m(X).sum(), (m,), ({n: jnp.ones_like(p.value) for n, p in m.named_parameters() if p.requires_grad},)
    ),
    "remat": lambda m: jm.grad(lambda m: jm.remat(m)(X).sum())(m),
}


@pytest.mark.parametrize("how", GRADS)
def test_differentiating_a_merged_adapter_raises_with_the_remedy(how):
    model = lora.merge(trained(lora.apply(net(), r"^[02]", r=2)))
    with pytest.raises(jm.StateError, match=r"merged with its adapter was differentiated(.|\n)*lora.unmerge"):
        GRADS[how](model)
    assert GRADS[how](lora.unmerge(model)) is not None


@pytest.mark.parametrize("compiled", [False, True])
def test_a_merged_model_is_differentiated_by_its_input_and_frozen(compiled):
    model = lora.apply(net(), r"^[02]", r=2, train=r"^4")
    trained(model)
    by_input = jm.grad(lambda m, x: m(x).sum(), argnums=1)
    head = jm.grad(lambda m: m(X).sum())
    if compiled:
        by_input, head = jm.jit(by_input), jm.jit(head)
    expected, of_head = by_input(model, X), head(model)
    lora.merge(model)
    np.testing.assert_allclose(by_input(model, X), expected, rtol=1e-4, atol=1e-5)
    for adapter in lora.adapters(model).values():
        adapter.requires_grad_(False)
    found = head(model)
    assert set(found) == {"4.weight", "4.bias"}
    np.testing.assert_allclose(found["4.weight"], of_head["4.weight"], rtol=1e-4, atol=1e-5)


def test_several_patterns():
    model = lora.apply(net(), ["^0", "^2"], r=2, train=("^4.weight", r"bias$"))
    assert list(lora.adapters(model)) == ["0.weight", "2.weight"]
    trainable = {str(name) for name, p in model.named_parameters() if p.requires_grad and "lora" not in name}
    assert trainable == {"4.weight", "0.bias", "2.bias", "4.bias"}
    assert "4.weight" in lora.state_dict(model, train=["^4", "^9"])
    for patterns, error, match in (
        (["^0", "attn"], ValueError, "'attn' matches none of the model's weights"),
        ([], ValueError, "no pattern matches none"),
        (["^0", 2], TypeError, "pattern is a regular expression or a list of them, got int"),
    ):
        with pytest.raises(error, match=match):
            lora.apply(net(), patterns)


@pytest.mark.parametrize("merged", [False, True])
def test_removing_leaves_an_ordinary_model(merged):
    model = net()
    names, base = sorted(model.state_dict()), model(X)
    trained(lora.apply(model, r"^[02]", r=2, dropout=0.5))
    expected = model.eval()(X)
    if merged:
        lora.merge(model)
    kept, plain = copy.deepcopy(model), copy.deepcopy(model)
    np.testing.assert_allclose(lora.remove(kept)(X), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(lora.remove(plain, merge=False)(X), base)
    assert sorted(kept.state_dict()) == sorted(plain.state_dict()) == names
    assert type(kept[0]) is nn.Linear


def test_dropout_is_of_the_inputs_features_and_in_training_only():
    model = trained(lora.apply(nn.Linear(6, 4), "weight", r=2, dropout=0.5))
    base = model.parametrizations.weight.original.value
    jm.manual_seed(0)
    first, second = model.weight - base, model.weight - base
    dropped = [np.flatnonzero(np.abs(np.asarray(x)).sum(0) < 1e-6).tolist() for x in (first, second)]
    assert dropped[0] != dropped[1]
    jm.manual_seed(0)
    compiled = jm.jit(lambda m: jnp.asarray(m.weight))(model)
    np.testing.assert_allclose(compiled - base, first, rtol=1e-5, atol=1e-6)
    full = model.eval().weight - base
    kept = [i for i in range(6) if i not in dropped[0]]
    np.testing.assert_allclose(first[:, jnp.array(kept)], 2 * full[:, jnp.array(kept)], rtol=1e-4, atol=1e-6)


def test_only_the_adapters_are_saved():
    model = trained(lora.apply(net(), r"^[02]", r=2, train=r"^4"))
    state = lora.state_dict(model)
    assert set(state) == {f"{i}.parametrizations.weight.0.lora_{m}" for i in (0, 2) for m in "AB"}
    assert set(lora.state_dict(model, train=r"^4")) - set(state) == {"4.weight", "4.bias"}
    other = net()
    other.load_state_dict(lora.remove(copy.deepcopy(model), merge=False).state_dict())
    lora.apply(other, r"^[02]", r=2)
    lora.load(other, state)
    np.testing.assert_allclose(other(X), model(X), rtol=1e-6)


def test_a_load_that_fails_has_changed_nothing():
    model = lora.apply(net(), r"^[02]", r=2)
    wide, half = (trained(lora.apply(net(), p, r=r)) for p, r in ((r"^[02]", 3), (r"^0", 2)))
    before = {name: np.asarray(x) for name, x in model.state_dict().items()}
    for state, error, match in (
        (lora.state_dict(half), ValueError, "the state lacks .*2.parametrizations"),
        ({**lora.state_dict(model), "other": X}, ValueError, "has .*other.* besides"),
        (lora.state_dict(wide), ValueError, "has shape .*same rank"),
    ):
        with pytest.raises(error, match=match):
            lora.load(model, state)
    for name, x in model.state_dict().items():
        np.testing.assert_array_equal(x, before[name])


def test_tied_weights_share_an_adapter_and_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight

    model = trained(lora.apply(Tied(), "weight", r=2))
    assert model.head.parametrizations.weight[0] is model.embed.parametrizations.weight[0]
    np.testing.assert_array_equal(model.head.weight, model.embed.weight)
    merged = lora.merge(copy.deepcopy(model))
    np.testing.assert_allclose(merged.head.weight, model.head.weight, rtol=1e-6)
    assert lora.remove(model).head.weight is model.embed.weight


def test_a_second_call_adds_adapters_and_keeps_the_first():
    model = lora.apply(lora.apply(net(), r"^0", r=2), r"^2", r=3)
    trainable = {str(name) for name, p in model.named_parameters() if p.requires_grad}
    assert {name[0] for name in trainable} == {"0", "2"}


def test_half_precision_weights_with_adapters_in_float32():
    model = trained(lora.apply(nn.Linear(6, 4).to(jnp.bfloat16), "weight", r=2, dtype=jnp.float32))
    assert model.weight.dtype == jnp.bfloat16
    grads = jm.grad(lambda m: m(X.astype(jnp.bfloat16)).astype(jnp.float32).sum())(model)
    assert {g.dtype for g in grads.values()} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "vmap", "scan_layers", "remat", "autocast"])
def test_adapters_go_everywhere(how):
    model = trained(lora.apply(net(), r"^[02]", r=2))
    expected = model(X)
    if how in ("deepcopy", "pickle"):
        copied = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
        got = copied(X)
    elif how == "vmap":
        got = jm.vmap(lambda x: model(x[None])[0])(X)
    elif how == "scan_layers":
        blocks = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])
        trained(lora.apply(blocks, "weight", r=2))
        expected = X
        for block in blocks:
            expected = block(expected)
        got = jm.jit(lambda blocks, x: jm.scan_layers(blocks)(x))(blocks, X)
        grads = jm.grad(lambda blocks: jm.scan_layers(blocks)(X).sum())(blocks)
        assert len(grads) == 6
    elif how == "remat":
        got = jm.remat(model)(X)
    else:
        from jaxmodule.amp import autocast

        with autocast():
            got = model(X).astype(jnp.float32)
        np.testing.assert_allclose(got, expected, rtol=0.05, atol=0.05)
        return
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


ERRORS = {
    "no match": (
        lambda: lora.apply(net(), "attn"),
        "'attn' matches none of the model's weights, which are 0.weight, 2",
    ),
    "only biases": (lambda: lora.apply(net(), "bias"), "matches none"),
    "no expression": (lambda: lora.apply(net(), "("), "pattern='(' is no regular expression"),
    "train": (lambda: lora.apply(net(), "0", train="["), "train='[' is no regular expression"),
    "rank": (lambda: lora.apply(net(), "0", r=0), "rank r is a positive int, got 0"),
    "dropout": (lambda: lora.apply(net(), "0", dropout=1.0), "dropout is a probability"),
    "twice": (lambda: lora.apply(lora.apply(net(), "^0"), "^0"), "0.weight has an adapter"),
    "lazy": (lambda: lora.apply(nn.LazyLinear(3), "weight"), "weight has no shape yet"),
    "no adapters": (lambda: lora.state_dict(net()), "the model has no adapters"),
    "another parametrization": (
        lambda: lora.merge(parametrizations.weight_norm(lora.apply(nn.Linear(3, 4), "weight", r=2))),
        "weight has another parametrization",
    ),
}


@pytest.mark.parametrize(("call", "match"), ERRORS.values(), ids=ERRORS.keys())
def test_errors_name_the_weight_and_the_remedy(call, match):
    with pytest.raises(ValueError, match=re.escape(match)):
        call()


def test_an_error_has_changed_nothing():
    model = lora.apply(net(), "^0", r=2)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match="has an adapter"):
        lora.apply(model, ".")
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


# -- tied weights -----------------------------------------------------------------------------------------------------


def autoencoder() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 3, bias=False), nn.Linear(3, 6, bias=False))


def test_a_weight_that_is_another_transposed():
    model = tie(autoencoder(), "1.weight", "0.weight", jnp.transpose)
    np.testing.assert_array_equal(model[1].weight, model[0].weight.T)
    grads = jm.jit(lambda m: jm.grad(lambda m: (m(X) ** 2).sum())(m))(model)
    assert list(grads) == ["0.weight"]

    def by_hand(w):
        return ((X @ w.T @ w) ** 2).sum()

    np.testing.assert_allclose(grads["0.weight"], jax.grad(by_hand)(model[0].weight.value), rtol=1e-4, atol=1e-5)
    optimizer = jm.optim.SGD(model.parameters(), lr=0.01)
    optimizer.step(grads)
    np.testing.assert_array_equal(model[1].weight, model[0].weight.T)
    assert list(model.state_dict()) == ["0.weight", "1.parametrizations.weight.original"]
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    np.testing.assert_allclose(copied(X), model(X), rtol=1e-6)
    assert copied[1].parametrizations.weight.original is copied[0].weight


def test_a_weight_that_is_another():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tie(model, "1.weight", "0.weight")
    assert model[1].weight is model[0].weight
    assert tie(model, "1.weight", "0.weight") is model


def test_errors_of_tying():
    with pytest.raises(ValueError, match=r"1.weight has shape \[6, 3\], and 0.weight gives \[3, 6\]: give a transform"):
        tie(autoencoder(), "1.weight", "0.weight")
    with pytest.raises(ValueError, match=r"gives \[3, 6\]$"):
        tie(autoencoder(), "1.weight", "0.weight", lambda w: w * 2)
    with pytest.raises(AttributeError, match="no parameter '1.bias'"):
        tie(autoencoder(), "1.bias", "0.weight")
    with pytest.raises(ValueError, match="is parametrized"):
        tie(tie(autoencoder(), "1.weight", "0.weight", jnp.transpose), "1.weight", "0.weight", jnp.transpose)
