"""What ports of PyTorch code import by torch's paths, its names with an underscore too."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodule
from jaxmodule import nn
from jaxmodule.nn import functional as F

RNG = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def both(function: Callable[..., Any], theirs: Callable[..., Any], *arrays: np.ndarray) -> None:
    """The two functions give the same arrays."""
    ours = function(*map(jnp.asarray, arrays))
    expected = theirs(*map(torch.from_numpy, arrays))
    pairs = zip(ours, expected, strict=True) if isinstance(ours, (tuple, list)) else [(ours, expected)]
    for a, b in pairs:
        np.testing.assert_allclose(np.asarray(a), b.detach().numpy(), rtol=1e-5, atol=1e-6)


def find(path: str) -> Any:
    """What a path of attributes leads to, from `jaxmodule.nn`."""
    found: Any = nn
    for name in path.split("."):
        found = getattr(found, name)
    return found


def reachable(module: types.ModuleType, path: str = "") -> Iterator[str]:
    """The modules below that are attributes of their packages."""
    for name, value in sorted(vars(module).items()):
        if isinstance(value, types.ModuleType) and value.__name__ == f"{module.__name__}.{name}" and name[:1] != "_":
            yield path + name
            yield from reachable(value, f"{path}{name}.")


PATHS = [path for path in reachable(torch.nn) if path.partition(".")[0] not in nn._ABSENT]


@pytest.mark.parametrize("path", PATHS)
def test_a_module_that_torch_reaches_by_attributes_is_reached(path: str) -> None:
    assert find(path) is importlib.import_module(f"jaxmodule.nn.{path}")


def test_the_module_of_the_global_hooks_is_an_attribute() -> None:
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(module))
    assert nn.modules.module._has_any_global_hook()
    layer = nn.Identity()
    layer(1)
    handle.remove()
    assert seen == [layer]
    assert not nn.modules.module._has_any_global_hook()


# -- bases --------------------------------------------------------------------------------------------------------

BASES = {
    "modules.conv._ConvNd": [nn.Conv1d, nn.ConvTranspose2d],
    "modules.conv._ConvTransposeNd": [nn.ConvTranspose1d, nn.LazyConvTranspose3d],
    "modules.conv._ConvTransposeMixin": [nn.ConvTranspose1d, nn.ConvTranspose3d],
    "modules.conv._LazyConvXdMixin": [nn.LazyConv1d, nn.LazyConvTranspose2d],
    "modules.batchnorm._LazyNormBase": [nn.LazyBatchNorm1d, nn.LazyInstanceNorm2d],
    "modules.batchnorm._BatchNorm": [nn.BatchNorm1d, nn.SyncBatchNorm],
    "modules.batchnorm._NormBase": [nn.BatchNorm1d, nn.InstanceNorm2d],
    "modules.pooling._MaxPoolNd": [nn.MaxPool1d, nn.MaxPool3d],
    "modules.pooling._AvgPoolNd": [nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d],
    "modules.pooling._AdaptiveAvgPoolNd": [nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d],
    "modules.pooling._AdaptiveMaxPoolNd": [nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d],
    "modules.pooling._LPPoolNd": [nn.LPPool1d, nn.LPPool3d],
    "modules.pooling._MaxUnpoolNd": [nn.MaxUnpool1d, nn.MaxUnpool3d],
    "modules.padding._ConstantPadNd": [nn.ConstantPad1d, nn.ZeroPad2d],
    "modules.padding._ReflectionPadNd": [nn.ReflectionPad1d],
    "modules.padding._ReplicationPadNd": [nn.ReplicationPad1d],
    "modules.padding._CircularPadNd": [nn.CircularPad1d],
    "modules.linear.Linear": [nn.modules.linear.NonDynamicallyQuantizableLinear],
}


@pytest.mark.parametrize("path", BASES)
def test_the_layers_are_of_the_base_at_torchs_path(path: str) -> None:
    assert all(issubclass(layer, find(path)) for layer in BASES[path])
    theirs = importlib.import_module(f"torch.nn.{path.rpartition('.')[0]}")
    base = getattr(theirs, path.rpartition(".")[2])
    if base.__name__ != "_ConvTransposeMixin":  # deprecated: in torch no layer is one any more
        namesakes = [getattr(torch.nn, x.__name__, None) or getattr(theirs, x.__name__) for x in BASES[path]]
        assert all(issubclass(layer, base) for layer in namesakes)


def test_an_attentions_out_proj_is_of_the_class_in_linear() -> None:
    cls = nn.modules.linear.NonDynamicallyQuantizableLinear
    assert type(nn.MultiheadAttention(4, 2).out_proj) is cls


# -- convolutions -------------------------------------------------------------------------------------------------


def standardised(library: Any, base: Any) -> Any:
    """A convolution with weight standardisation, as ports write it."""

    class Standardised(base):
        def forward(self, x: Any) -> Any:
            weight = self.weight - self.weight.mean((1, 2, 3), **{library: True})
            return self._conv_forward(x, weight, self.bias)

    return Standardised


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_conv_forward_takes_another_weight(mode: str) -> None:
    ours = standardised("keepdims", nn.Conv2d)(3, 4, 3, padding=1, padding_mode=mode)
    theirs = standardised("keepdim", torch.nn.Conv2d)(3, 4, 3, padding=1, padding_mode=mode)
    ours.load_state_dict(theirs.state_dict())
    both(ours, theirs, draw(2, 3, 5, 5))


def test_conv_forward_can_be_overridden() -> None:
    class Doubled(nn.Conv1d):
        def _conv_forward(self, input: Any, weight: Any, bias: Any) -> Any:
            return super()._conv_forward(input, weight * 2, bias)

    layer = Doubled(2, 3, 2, bias=False)
    x = jnp.asarray(draw(1, 2, 5))
    np.testing.assert_allclose(layer(x), 2 * F.conv1d(x, layer.weight), rtol=1e-5)


def deformable(library: Any, base: Any) -> Any:
    """A convolution of a user's own on the base class: arguments as tuples, all of them given."""

    class Own(base):
        def __init__(self) -> None:
            super().__init__(2, 4, (3, 3), (1, 1), (1, 1), (1, 1), False, (0, 0), 1, True, "zeros", None, None)

        def forward(self, x: Any) -> Any:
            return library.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    return Own()


def test_the_base_of_convolutions_can_be_subclassed() -> None:
    ours = deformable(F, nn.modules.conv._ConvNd)
    theirs = deformable(torch.nn.functional, torch.nn.modules.conv._ConvNd)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.from_numpy(draw(*parameter.shape)))
    ours.load_state_dict(theirs.state_dict())
    assert repr(ours) == repr(theirs)
    both(ours, theirs, draw(2, 2, 5, 5))


def transposed(base: Any) -> Any:
    class Own(base):
        def __init__(self) -> None:
            super().__init__(2, 4, (3, 3), (2, 2), (1, 1), (1, 1), True, (0, 0), 1, True, "zeros")

    return Own()


@pytest.mark.parametrize("size", [None, [9, 10], [1, 4, 10, 10]])
@pytest.mark.parametrize("dilation", [None, (1, 1)])
def test_output_padding_has_torchs_signature(size: list[int] | None, dilation: tuple[int, ...] | None) -> None:
    arguments = size, (2, 2), (1, 1), (3, 3), 2, dilation
    ours, theirs = nn.ConvTranspose2d(2, 4, 3), torch.nn.ConvTranspose2d(2, 4, 3)
    expected = theirs._output_padding(torch.zeros(1, 2, 5, 5), *arguments)
    assert list(ours._output_padding(jnp.zeros((1, 2, 5, 5)), *arguments)) == list(expected)


def test_output_padding_refuses_a_size_that_none_gives() -> None:
    layer = transposed(nn.modules.conv._ConvTransposeNd)
    with pytest.raises(ValueError, match=r"requested an output size of \(12, 9\), but valid sizes range from"):
        layer._output_padding(jnp.zeros((1, 2, 5, 5)), [12, 9], layer.stride, layer.padding, layer.kernel_size, 2)


# -- helpers of nn.modules ----------------------------------------------------------------------------------------

VALUES: list[tuple[str, tuple[Any, ...]]] = [
    *[(f"modules.utils.{name}", (x,)) for name in ("_single", "_pair", "_triple", "_quadruple") for x in (2, [1, 2])],
    ("modules.utils._pair", ("ab",)),
    ("modules.utils._pair", (1.5,)),
    ("modules.utils._reverse_repeat_tuple", ((1, 2, 3), 2)),
    ("modules.utils._list_with_default", ([None, 3], [5, 6, 7])),
    ("modules.utils._list_with_default", (4, [5, 6, 7])),
    ("modules.module._addindent", ("a\nb\nc", 2)),
    ("modules.module._addindent", ("a", 4)),
    ("functional._verify_batch_size", ([2, 3, 1],)),
]


@pytest.mark.parametrize(("path", "arguments"), VALUES)
def test_a_helper_gives_what_torchs_does(path: str, arguments: tuple[Any, ...]) -> None:
    place, _, name = path.rpartition(".")
    theirs = getattr(importlib.import_module(f"torch.nn.{place}"), name)
    assert getattr(importlib.import_module(f"jaxmodule.nn.{place}"), name)(*arguments) == theirs(*arguments)


def test_ntuple() -> None:
    make = nn.modules.utils._ntuple(5, "_five")
    assert make(1) == (1,) * 5
    assert make.__name__ == torch.nn.modules.utils._ntuple(5, "_five").__name__


ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: nn.modules.utils._list_with_default([None, 3], [5, 6]), ValueError, "should be at least 3"),
    (lambda: F._verify_batch_size([1, 3, 1]), ValueError, "Expected more than 1 value per channel"),
    (lambda: nn.modules.transformer._get_activation_fn("tanh"), RuntimeError, "should be relu/gelu, not tanh"),
    (lambda: F._canonical_mask(jnp.ones(2, int), "m", None, "", jnp.float32), AssertionError, "floating types of m"),
    (lambda: F._mha_shape_check(*[jnp.ones((1, 1, 1, 1))] * 3, None, None, 1), AssertionError, "unbatched 2D or b"),
    (lambda: nn.LSTM(2, 3).__setattr__("_flat_weights", []), AttributeError, "_flat_weights"),
]


@pytest.mark.parametrize(("call", "error", "match"), ERRORS)
def test_a_helper_refuses_what_torchs_does(call: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_what_load_state_dict_returns_is_of_torchs_name() -> None:
    found = nn.Identity().load_state_dict({})
    assert isinstance(found, nn.modules.module._IncompatibleKeys)


def test_helpers_of_the_transformer() -> None:
    ours, theirs = nn.modules.transformer, torch.nn.modules.transformer
    assert len(ours._get_clones(nn.Linear(1, 1), 3)) == 3
    assert ours._get_activation_fn("gelu") is F.gelu
    for shape, batch_first in (((3, 4), False), ((3, 4), True), ((3, 4, 5), False), ((3, 4, 5), True)):
        assert ours._get_seq_len(jnp.ones(shape), batch_first) == theirs._get_seq_len(torch.ones(shape), batch_first)
    mask = ours._generate_square_subsequent_mask(3)
    np.testing.assert_array_equal(mask, theirs._generate_square_subsequent_mask(3))
    for found, arguments in ((mask, ()), (mask, (False,)), (mask, (None, 3)), (mask, (None, 4)), (mask * 0, ())):
        expected = theirs._detect_is_causal_mask(torch.from_numpy(np.array(found)), *arguments)
        assert ours._detect_is_causal_mask(found, *arguments) == expected


# -- helpers of functional ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("same", ["all", "key and value", "none"])
def test_projections(same: str, bias: bool) -> None:
    x, y, z, w = draw(3, 2, 4), draw(5, 2, 4), draw(5, 2, 4), draw(12, 4)
    chosen = {"all": (0, 0, 0), "key and value": (0, 1, 1), "none": (0, 1, 2)}[same]

    def call(functional: Any) -> Callable[..., Any]:
        def packed(*arrays: Any) -> Any:
            operands = [arrays[i] for i in chosen]
            return functional._in_projection_packed(*operands, arrays[3], *arrays[4:])

        return packed

    both(call(F), call(torch.nn.functional), x, y, z, w, *([draw(12)] if bias else []))


def test_projections_by_a_weight_each() -> None:
    x, weights = draw(3, 2, 4), [draw(4, 4) for _ in range(3)]
    both(F._in_projection, torch.nn.functional._in_projection, x, x, x, *weights, draw(4))


def test_canonical_mask() -> None:
    hidden = np.array([[True, False]])
    ours = F._canonical_mask(jnp.asarray(hidden), "m", None, "", jnp.float32)
    theirs = torch.nn.functional._canonical_mask(torch.from_numpy(hidden), "m", None, "", torch.float32)
    np.testing.assert_array_equal(ours, theirs)
    assert F._canonical_mask(None, "m", None, "", jnp.float32) is None
    with pytest.warns(UserWarning, match="mismatched m and other"):
        F._canonical_mask(jnp.asarray(hidden), "m", jnp.float32, "other", jnp.float32)


@pytest.mark.parametrize("ndim", range(5))
def test_get_softmax_dim(ndim: int) -> None:
    with pytest.warns(UserWarning, match="Implicit dimension choice for softmax has been deprecated"):
        ours = F._get_softmax_dim("softmax", ndim, 2)
    with pytest.warns(UserWarning, match="Implicit dimension choice for softmax has been deprecated"):
        assert ours == torch.nn.functional._get_softmax_dim("softmax", ndim, 2)


@pytest.mark.parametrize("batched", [True, False])
def test_mha_shape_check(batched: bool) -> None:
    x = jnp.ones((3, 2, 4) if batched else (3, 4))
    assert F._mha_shape_check(x, x, x, None, None, 2) is batched


@pytest.mark.parametrize("name", ["uniform", "normal", "trunc_normal", "fill", "zero"])
def test_initialisers_under_their_other_names(name: str) -> None:
    arguments = {"uniform": (2.0, 3.0), "normal": (2.0, 0.1), "trunc_normal": (2.0, 0.1, 1.9, 2.1), "fill": (2.5,)}
    box = nn.Parameter(jnp.full(1000, 7.0))
    assert getattr(nn.init, f"_no_grad_{name}_")(box, *arguments.get(name, ())) is box
    low, high = {"uniform": (2, 3), "normal": (1, 3), "trunc_normal": (1.9, 2.1), "fill": (2.5, 2.5), "zero": (0, 0)}[
        name
    ]
    assert low - 1e-6 <= float(box.min()) <= float(box.max()) <= high + 1e-6


def test_norms_of_gradients_under_their_other_names() -> None:
    clip_grad = nn.utils.clip_grad
    assert clip_grad._get_total_norm is clip_grad.get_total_norm
    assert clip_grad._clip_grads_with_norm_ is clip_grad.clip_grads_with_norm_


# -- attributes of layers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"num_layers": 2, "bidirectional": True, "proj_size": 1}])
def test_the_weights_of_an_lstm_in_lists(options: dict[str, Any]) -> None:
    ours, theirs = nn.LSTM(2, 3, **options), torch.nn.LSTM(2, 3, **options)
    assert ours._all_weights == [[name for name in names if name] for names in theirs._all_weights]
    assert ours._flat_weights_names == theirs._flat_weights_names
    assert [w.shape for w in ours._flat_weights] == [tuple(w.shape) for w in theirs._flat_weights]
    assert all(a is b for a, b in zip(ours._flat_weights, ours.parameters(), strict=True))


@pytest.mark.parametrize("layer", [nn.Embedding, nn.EmbeddingBag])
def test_reset_parameters_calls_the_method_for_the_padding_row(layer: Any) -> None:
    class Ones(layer):
        def _fill_padding_idx_with_zero(self) -> None:
            super()._fill_padding_idx_with_zero()
            assert not self.weight[1].any()
            self.weight.value = self.weight.value.at[1].set(1)

    table = Ones(3, 2, padding_idx=1)
    assert table.weight[1].tolist() == [1, 1]
    nn.init.zeros_(table.weight)
    table.reset_parameters()
    assert table.weight[1].tolist() == [1, 1]


def test_an_adaptive_softmax_names_both_shapes() -> None:
    module = nn.AdaptiveLogSoftmaxWithLoss(4, 10, [3])
    with pytest.raises(RuntimeError, match=r"values in range \[1, 10\] were found: input \[2, 4\], target \[2\]"):
        module(jnp.ones((2, 4)), jnp.array([1, 10]))


# -- what is not here ---------------------------------------------------------------------------------------------

REMEDIES = [
    *[(f"nn.{name}", "made for it, such as AQT or Qwix") for name in nn._ABSENT],
    ("nn.quantized.modules", "made for it, such as AQT or Qwix"),
    ("nn.intrinsic.qat.modules.conv_fused", "made for it, such as AQT or Qwix"),
    *[(f"nn.parallel.{name}", "jax.NamedSharding") for name in ("comm", "distributed", "scatter_gather", "replicate")],
]


@pytest.mark.parametrize(("path", "remedy"), REMEDIES)
def test_an_import_from_what_is_not_here_names_the_remedy(path: str, remedy: str) -> None:
    with pytest.raises(ImportError, match=remedy):
        exec(f"from jaxmodule.{path} import FloatFunctional")


@pytest.mark.parametrize("name", nn._ABSENT)
def test_a_failed_import_leaves_no_attribute(name: str) -> None:
    with pytest.raises(ImportError, match="is not here"):
        importlib.import_module(f"jaxmodule.nn.{name}")
    assert not hasattr(jaxmodule.nn, name)


def test_the_functions_of_nn_parallel_are_not_hidden_by_their_files() -> None:
    file = importlib.import_module("jaxmodule.nn.parallel.data_parallel")
    assert nn.parallel.data_parallel is file.data_parallel
    assert nn.DataParallel is file.DataParallel
    assert not hasattr(file, "__wrapped__")
