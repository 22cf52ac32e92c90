"""Run by `make wheel-check` with the Python of an environment that holds the built wheel and its dependencies only."""

import importlib.resources

import jax.numpy as jnp

import jaxmodule as jm
from jaxmodule import nn

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
loss, grads = jm.value_and_grad(lambda m, x: m(x).sum())(model, jnp.ones((3, 4)))
jm.optim.SGD(model.parameters(), lr=0.1).step(grads)

if "site-packages" not in jm.__file__:
    raise SystemExit(f"imported from {jm.__file__}, not from the wheel")
if not importlib.resources.files("jaxmodule").joinpath("py.typed").is_file():
    raise SystemExit("py.typed is missing from the wheel")
print(f"wheel: jaxmodule {jm.__version__}, loss {float(loss):.3f}")
