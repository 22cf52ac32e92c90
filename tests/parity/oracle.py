"""Running the same function in jaxmodule and in torch on the same numpy arrays: values and gradients, compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

RTOL = 1e-5


def to_torch(array: Any) -> torch.Tensor:
    """A torch copy of a numpy or JAX array, bfloat16 included."""
    array = np.asarray(array)
    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(array.copy())


def to_numpy(array: Any) -> np.ndarray:
    """A numpy copy of a JAX array, numpy array or tensor; half precision as float32."""
    if isinstance(array, torch.Tensor):
        array = array.detach()
        return (array.float() if array.dtype in (torch.bfloat16, torch.float16) else array).numpy()
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype in (jnp.bfloat16, np.float16) else array


def assert_close(ours: Any, theirs: Any, rtol: float = RTOL, what: str = "output") -> None:
    """Equal shapes, and values within `rtol` of the tensor's largest: cancellation has no scale of its own."""
    a, b = to_numpy(ours), to_numpy(theirs)
    assert a.shape == b.shape, f"{what}: shape {a.shape}, torch's {b.shape}"
    if a.dtype.kind in "iub":
        np.testing.assert_array_equal(a, b, err_msg=what)
        return
    finite = np.abs(b[np.isfinite(b)])
    scale = float(finite.max()) if finite.size else 0.0
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(scale, 1e-3), err_msg=what)


def compare(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    arrays: Sequence[np.ndarray | None],
    *,
    rtol: float = RTOL,
    gradients: bool = True,
) -> None:
    """Check a function of arrays, compiled, against torch's: its value, and the gradient of every floating argument."""
    tensors = [None if a is None else to_torch(a) for a in arrays]
    floating = [i for i, t in enumerate(tensors) if t is not None and t.is_floating_point() and gradients]
    for i in floating:
        tensors[i].requires_grad_()
    expected = theirs(*tensors)
    values = [None if a is None else jnp.asarray(a) for a in arrays]
    cotangent = np.random.default_rng(7).standard_normal(tuple(expected.shape)).astype(np.float32)

    @jax.jit
    def run(changed: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        def call(changed: list[jax.Array]) -> jax.Array:
            full = list(values)
            for i, value in zip(floating, changed, strict=True):
                full[i] = value
            return ours(*full)

        if not floating:
            return call(changed), []
        output, vjp = jax.vjp(call, changed)
        return output, vjp(jnp.asarray(cotangent, output.dtype))[0]

    got, grads = run([values[i] for i in floating])
    assert_close(got, expected, rtol)
    kind = str(expected.dtype).removeprefix("torch.").replace("int64", "int32")
    assert str(got.dtype) == kind, f"{got.dtype}, torch's {expected.dtype}"
    if not floating:
        return
    expected.backward(torch.as_tensor(cotangent).to(expected.dtype))
    for i, grad in zip(floating, grads, strict=True):
        reference = tensors[i].grad
        reference = torch.zeros_like(tensors[i]) if reference is None else reference
        assert_close(grad, reference, rtol, f"gradient of argument {i}")


def same_error(ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
    """Both raise, and ours is of torch's type."""
    caught: Exception | None = None
    try:
        theirs()
    except Exception as error:
        caught = error
    assert caught is not None, "torch does not raise"
    try:
        ours()
    except type(caught):
        return
    raise AssertionError(f"torch raises {type(caught).__name__}: {caught}; this did not")
