"""`nn.init` and the chunked fill under it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.core import fill
from jaxmodule.nn import init

pytestmark = pytest.mark.usefixtures("optimized")

SMALL, LARGE = fill._CHUNKS
SHAPES = [
    (),
    (1,),
    (0,),
    (3, 0, 2),
    (7,),
    (3, 5),
    (33, 3, 3, 3),
    (SMALL - 1,),
    (SMALL,),
    (SMALL + 1,),
    (5, 13107),
    (4 * SMALL + 1,),
    (LARGE,),
    (3, LARGE // 3 + 77),
]


def box(*shape: int, dtype=jnp.float32) -> nn.Parameter:
    return nn.Parameter(jnp.zeros(shape, dtype))


def assert_same_bits(a, b) -> None:
    a, b = np.asarray(a), np.asarray(b)
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    word = f"u{a.dtype.itemsize}"
    np.testing.assert_array_equal(a.view(word), b.view(word))


# -- the chunked fill -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fill_has_the_bits_of_jax_random(shape):
    key = jax.random.key(42)
    assert_same_bits(fill.uniform(key, shape), jax.random.uniform(key, shape))
    assert_same_bits(
        fill.uniform(key, shape, jnp.float32, -0.0372, 0.1131), jax.random.uniform(key, shape, float, -0.0372, 0.1131)
    )
    assert_same_bits(fill.normal(key, shape), jax.random.normal(key, shape))
    assert_same_bits(
        fill.truncated_normal(key, shape, jnp.float32, -1.3, 0.7), jax.random.truncated_normal(key, -1.3, 0.7, shape)
    )


@pytest.mark.parametrize(("shape", "dtype"), [((5, 7), "float32"), ((LARGE + 5,), "float32"), ((40, 3), "bfloat16")])
def test_fill_is_the_same_inside_a_trace(shape, dtype):
    key, dtype = jax.random.key(1), jnp.dtype(dtype)

    @jax.jit
    def traced(k):
        return [draw(k) for draw in draws]

    draws = (
        lambda k: fill.uniform(k, shape, dtype, -0.0372, 0.1131),
        lambda k: fill.normal(k, shape, dtype, 0.0, 0.0217),
        lambda k: fill.normal(k, shape, dtype, 0.3, 0.0217),
        lambda k: fill.truncated_normal(k, shape, dtype, -1.3, 0.7, 0.1, 0.02, 0.08, 0.11),
    )
    for draw, inside in zip(draws, traced(key), strict=True):
        assert_same_bits(draw(key), inside)


def test_fill_is_the_same_under_every_trace():
    key = jax.random.key(1)
    eager = fill.uniform(key, (5, 7))
    assert_same_bits(jax.jit(lambda: fill.uniform(key, (5, 7)))(), eager)  # the key is known, the trace is not left
    assert_same_bits(jax.vmap(lambda k: fill.uniform(k, (5, 7)))(key[None])[0], eager)
    assert_same_bits(jax.value_and_grad(lambda x: (x, fill.uniform(key, (5, 7))), has_aux=True)(1.0)[0][1], eager)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_drawn_as_jax_random_does_or_better(dtype):
    key, dtype = jax.random.key(1), jnp.dtype(dtype)
    assert_same_bits(fill.uniform(key, (100, 9), dtype), jax.random.uniform(key, (100, 9), dtype))
    assert_same_bits(fill.normal(key, (100, 9), dtype), jax.random.normal(key, (100, 9)).astype(dtype))
    assert float(jnp.abs(fill.normal(key, (100_000,), dtype)).max()) > 3.5  # bfloat16 of jax.random ends at 2.4


def test_fill_float64():
    with jax.enable_x64(True):
        key = jax.random.key(3)
        shape = (SMALL + 11,)
        assert_same_bits(fill.uniform(key, shape, "float64", -1, 2), jax.random.uniform(key, shape, "float64", -1, 2))
        assert_same_bits(fill.normal(key, shape, "float64"), jax.random.normal(key, shape, "float64"))


def test_fill_with_other_generators():
    for key in (jax.random.key(0, impl="rbg"), jax.random.PRNGKey(0)):
        assert_same_bits(fill.uniform(key, (5, 7)), jax.random.uniform(key, (5, 7)))
        assert_same_bits(fill.normal(key, (5, 7)), jax.random.normal(key, (5, 7)))
    with jax.threefry_partitionable(False):
        key = jax.random.key(0)
        assert_same_bits(fill.uniform(key, (5, 7)), jax.random.uniform(key, (5, 7)))


def test_the_high_counter_word_is_used():
    # The 2^33rd element of an array that nobody can hold: the hash of the counter (2, 0).
    key = jax.random.key(5)
    from jax.extend.random import threefry2x32_p

    k0, k1 = jax.random.key_data(key)
    x0, x1 = threefry2x32_p.bind(k0, k1, jnp.full(1, 2, jnp.uint32), jnp.zeros(1, jnp.uint32))
    expected = ((x0 ^ x1) >> np.uint32(9)).astype(jnp.float32) * np.float32(2**-23)
    numbers = (np.float32(0), np.float32(1))
    offset = np.array([2, 0], np.uint32)
    chunk = fill._chunk("uniform", key, offset, numbers, SMALL, np.dtype("float32"), np.dtype("float32"))
    assert_same_bits(chunk[:1], expected)


def test_no_program_for_each_shape():
    key = jax.random.key(0)
    fill.uniform(key, (SMALL,)), fill.uniform(key, (LARGE,))
    before = fill._chunk._cache_size(), fill._whole._cache_size()
    for n in (3, 50, 777, SMALL + 2, LARGE + 1):
        fill.uniform(key, (n, 2))
        fill.full((n, 2), 1, jnp.float32)
    assert (fill._chunk._cache_size(), fill._whole._cache_size()) == before


def test_fill_placement():
    device = jax.devices()[-1]
    key = jax.random.key(0)
    assert fill.uniform(key, (3,)).committed is False
    assert fill.uniform(key, (3,), device=device).devices() == {device}
    assert fill.uniform(jax.device_put(key, device), (3,)).devices() == {device}
    sharding = jax.sharding.NamedSharding(jax.make_mesh((len(jax.devices()),), ("x",)), jax.P("x"))
    sharded = fill.normal(key, (8, 2), device=sharding)
    assert sharded.sharding == sharding
    assert_same_bits(sharded, jax.random.normal(key, (8, 2)))


def test_filled_arrays_survive_donation():
    x = fill.uniform(jax.random.key(0), (1000,))
    expected = np.array(x) + 1
    np.testing.assert_array_equal(jax.jit(lambda x: x + 1, donate_argnums=0)(x), expected)


def test_full():
    assert fill.full((2,), 1.7, jnp.int32).tolist() == [1, 1]
    assert fill.full((), True, jnp.bool_).tolist() is True
    assert_same_bits(jax.jit(lambda: fill.full((2, 3), 0.1, jnp.bfloat16))(), fill.full((2, 3), 0.1, jnp.bfloat16))


# -- what every function does -----------------------------------------------------------------------------------------

ALL = {
    "uniform_": (),
    "normal_": (),
    "trunc_normal_": (),
    "constant_": (0.5,),
    "ones_": (),
    "zeros_": (),
    "eye_": (),
    "xavier_uniform_": (),
    "xavier_normal_": (),
    "kaiming_uniform_": (),
    "kaiming_normal_": (),
    "orthogonal_": (),
    "sparse_": (0.5,),
}
RANDOM = [name for name in ALL if name not in ("constant_", "ones_", "zeros_", "eye_")]


@pytest.mark.parametrize("name", [*ALL, "dirac_"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", [nn.Parameter, nn.Buffer])
def test_writes_the_box_and_returns_it(name, dtype, kind):
    device = jax.devices()[1]
    shape = (6, 4, 3) if name == "dirac_" else (6, 4)
    w = kind(jax.device_put(jnp.full(shape, jnp.nan, dtype), device))
    assert getattr(init, name)(w, *ALL.get(name, ())) is w
    assert (w.shape, w.dtype, w.value.devices()) == (shape, dtype, {device})
    assert bool(jnp.isfinite(w.value).all())


@pytest.mark.parametrize("name", [*ALL, "dirac_"])
def test_an_array_is_refused_with_the_remedy(name):
    with pytest.raises(TypeError, match=rf"nn\.init\.{name}\(nn\.Parameter\(x\)\)\.value"):
        getattr(init, name)(jnp.zeros((6, 4)), *ALL.get(name, ()))


@pytest.mark.parametrize("name", RANDOM)
def test_seeded_and_the_same_compiled(name):
    function, args = getattr(init, name), ALL[name]

    def draw(**kwargs):
        return function(box(6, 4), *args, **kwargs).value

    jm.manual_seed(1)
    first, second = draw(), draw()
    assert not bool((first == second).all())
    jm.manual_seed(1)
    assert_same_bits(draw(), first)
    assert_same_bits(draw(generator=jm.Generator(1)), first)

    module = nn.ParameterList([box(6, 4)])
    generator = jm.Generator(1)

    @jm.jit
    def compiled(module, generator):
        function(module[0], *args, generator=generator)

    compiled(module, generator)
    assert_same_bits(module[0].value, first)
    assert_same_bits(draw(generator=generator), second)


@pytest.mark.parametrize("name", RANDOM)
def test_integers_are_refused(name):
    with pytest.raises(NotImplementedError, match=f"{name}.*not implemented for int32"):
        getattr(init, name)(box(6, 4, dtype=jnp.int32), *ALL[name])


@pytest.mark.parametrize(
    "old", [name[:-1] for name in [*ALL, "dirac_"] if name not in ("ones_", "zeros_", "trunc_normal_")]
)
def test_deprecated_names(old):
    w = box(6, 4, 3) if old == "dirac" else box(6, 4)
    with pytest.warns(FutureWarning, match=rf"`nn.init.{old}` is now deprecated in favor of `nn.init.{old}_`"):
        assert getattr(init, old)(w, *ALL.get(f"{old}_", ())) is w


def test_shapes_only_inside_eval_shape():
    out = jm.eval_shape(lambda: nn.Linear(1000, 1000).weight.value)
    assert (out.shape, out.dtype) == ((1000, 1000), jnp.float32)


# -- distributions ----------------------------------------------------------------------------------------------------


def follows(w: nn.Parameter, distribution) -> bool:
    return stats.kstest(np.asarray(w.value, np.float64).ravel(), distribution.cdf).pvalue > 1e-3


def test_uniform():
    w = init.uniform_(box(200, 100), -3.0, 0.5)
    assert follows(w, stats.uniform(-3, 3.5))
    assert bool(((w >= -3) & (w <= 0.5)).all())
    z = init.uniform_(box(50, 50, dtype=jnp.complex64)).value
    assert 0.4 < float(z.real.mean()) < 0.6
    assert 0.4 < float(z.imag.mean()) < 0.6


def test_normal():
    assert follows(init.normal_(box(200, 100), 2.0, 0.3), stats.norm(2, 0.3))
    z = init.normal_(box(100, 100, dtype=jnp.complex64)).value
    assert math.isclose(float(jnp.var(z)), 1, rel_tol=0.05)


@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [(0, 1, -2, 2), (0, 0.02, -2, 2), (1, 2, 0.5, 1.5), (0, 1, 2, 9), (0, 1, -7, -5), (10, 1, -2, 2), (0, 1, 1, 1.001)],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trunc_normal(mean, std, a, b, dtype):
    w = init.trunc_normal_(box(100, 100, dtype=jnp.dtype(dtype)), mean, std, a, b)
    low, high = (float(jnp.asarray(x, dtype)) for x in (a, b))
    assert float(w.min()) >= low
    assert float(w.max()) <= high
    if dtype == "float32":
        assert follows(w, stats.truncnorm((a - mean) / std, (b - mean) / std, mean, std))


def test_trunc_normal_in_a_tail_is_the_same_compiled():
    def draw(generator):
        return init.trunc_normal_(box(50, 40), 0.1, 0.7, 1.2, 1.9, generator=generator).value

    assert_same_bits(jm.jit(draw)(jm.Generator(3)), draw(jm.Generator(3)))


def test_trunc_normal_warns_and_refuses():
    with pytest.warns(UserWarning, match=r"mean is more than 2 std from \[a, b\] in nn.init.trunc_normal_"):
        init.trunc_normal_(box(3), 10.0)
    with pytest.raises(RuntimeError, match="found from=2 > to=-2"):
        init.trunc_normal_(box(3), 0.0, 1.0, 2.0, -2.0)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("nonlinearity", ["leaky_relu", "relu", "tanh", "linear"])
def test_kaiming(mode, nonlinearity):
    shape = (30, 40, 3, 3)
    std = init.calculate_gain(nonlinearity, 0.1) / math.sqrt({"fan_in": 360, "fan_out": 270}[mode])
    assert follows(init.kaiming_normal_(box(*shape), 0.1, mode, nonlinearity), stats.norm(0, std))
    bound = math.sqrt(3) * std
    assert follows(init.kaiming_uniform_(box(*shape), 0.1, mode, nonlinearity), stats.uniform(-bound, 2 * bound))


def test_xavier():
    shape, fans = (30, 40, 3, 3), 360 + 270
    assert follows(init.xavier_normal_(box(*shape), 1.5), stats.norm(0, 1.5 * math.sqrt(2 / fans)))
    bound = 1.5 * math.sqrt(6 / fans)
    assert follows(init.xavier_uniform_(box(*shape), 1.5), stats.uniform(-bound, 2 * bound))


@pytest.mark.parametrize("shape", [(5, 5), (5, 9), (9, 5), (4, 3, 2, 2), (20, 2, 3)], ids=str)
def test_orthogonal(shape):
    w = np.asarray(init.orthogonal_(box(*shape), 1.7).value).reshape(shape[0], -1) / 1.7
    small = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(small, np.eye(min(w.shape)), atol=2e-6)


def test_orthogonal_is_uniform():
    # A column of a uniform orthogonal matrix has a uniform sign; LAPACK's own Q has not.
    first = [float(init.orthogonal_(box(3, 3))[0, 0]) for _ in range(200)]
    assert 60 < sum(x > 0 for x in first) < 140


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 1.0])
def test_sparse(sparsity):
    w = np.asarray(init.sparse_(box(37, 50), sparsity, 0.2).value)
    assert ((w == 0).sum(0) == math.ceil(sparsity * 37)).all()
    if sparsity == 0.1:
        assert len({tuple(np.flatnonzero(column == 0)) for column in w.T}) > 40  # each column draws its own rows
    if sparsity < 1:
        assert stats.kstest(w[w != 0], stats.norm(0, 0.2).cdf).pvalue > 1e-3


def test_zero_elements():
    for function in (init.kaiming_uniform_, init.kaiming_normal_):
        with pytest.warns(UserWarning, match="Initializing zero-element tensors is a no-op"):
            assert function(box(0, 3)).shape == (0, 3)
    for function in (init.uniform_, init.normal_, init.trunc_normal_, init.orthogonal_, init.zeros_):
        assert function(box(0, 3)).shape == (0, 3)
