"""Running the same inputs through both models, recorded, and leaving both as they were."""

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.box import unbox
from ..core.structure import layout_of
from ..nn.module import Module
from ..random import fork_rng
from ..transforms.grad import value_and_grad
from ._compare import wide
from ._probe import Call, Recorder, has_gradient, is_floating, key_of
from ._tree import BY_BITS, is_array, is_torch, labelled, mapped, to_numpy

__all__ = ["Run", "alone", "both", "doubled", "prepared", "to_jax", "to_torch", "widened"]

_DROP = re.compile(r"drop", re.IGNORECASE)
_PLAIN = (bool, int, float, complex, str, type(None))


@dataclass
class Run:
    """What one model did.

    Attributes:
        calls: the module calls, in the order of their beginning.
        inputs: gradients of the inputs, by label.
        parameters: gradients of the parameters, by name; of the port's by all of its names, zero if it is frozen.
        probes: gradients at the modules, by `key_of`.
        buffers: the buffers afterwards, by name.
        before: the buffers before.
    """

    calls: list[Call]
    inputs: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    probes: dict[str, Any] = field(default_factory=dict)
    buffers: dict[str, Any] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)


def to_torch(value: Any) -> Any:
    """A torch tensor of the same dtype, with memory of its own."""
    import torch

    array = np.array(to_numpy(value))
    if (name := str(array.dtype)) in BY_BITS:
        bits = array.view(np.uint8 if array.dtype.itemsize == 1 else np.int16)
        return torch.from_numpy(bits).view(getattr(torch, name))
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def to_jax(value: Any) -> jax.Array:
    """A jax array; 64-bit values are cut to 32 bits while x64 is off, as JAX does everywhere."""
    array = to_numpy(value)
    return jnp.asarray(array, jax.dtypes.canonicalize_dtype(array.dtype))


# -- state -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def prepared(theirs: Any, ours: Module, training: bool, without_dropout: list[str]) -> Iterator[None]:
    """Both models in one mode, with what they can change put back at the end of the block.

    That is buffers, torch's whether they were written to or assigned anew, the port's arrays, random states, and plain
    values (numbers, flags, words) on attributes, such as counters. What a model appends to lists of its own, or keeps
    under a new name, stays.

    Args:
        theirs, ours: the models.
        training: which mode. In training mode dropout is off: no two generators draw the same mask.
        without_dropout: is filled with the names of the modules whose dropout was turned off.
    """
    import torch

    modes = [(m, m.training) for model in (theirs, ours) for m in model.modules()]
    buffers = _buffers(theirs)
    plain = _plain_attributes(theirs) + _plain_attributes(ours)
    boxes = [(box, box.value) for box in layout_of(ours).boxes if not box._lazy]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    attributes: list[tuple[Any, str, Any]] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
        stack.enter_context(fork_rng())
        try:
            theirs.train(training)
            ours.train(training)
            torch.backends.mha.set_fastpath_enabled(False)  # it goes round the modules inside a layer
            if training:
                attributes += _dropout_off(theirs, without_dropout) + _dropout_off(ours, [])
            yield
        finally:
            for module, name, value in reversed(attributes):
                setattr(module, name, value)
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for module, mode in modes:
                module.training = mode
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    module._buffers[name] = buffer  # forward may have put another in its place
                    if value is not None:
                        buffer.copy_(value)
            for module, name, value in plain:
                now = vars(module).get(name, ...)
                if type(now) is not type(value) or now != value:
                    setattr(module, name, value)
            for box, value in boxes:
                if box.value is not value:
                    box.value = value


def _buffers(model: Any) -> list[tuple[Any, str, Any, Any]]:
    """(module, name, buffer, a copy of it) of every buffer of torch's model; no copy of what has no value yet."""
    from torch.nn.parameter import UninitializedBuffer

    found = [(module, name, b) for module in model.modules() for name, b in module._buffers.items()]
    return [
        (*where, b, None if b is None or isinstance(b, UninitializedBuffer) else b.detach().clone())
        for *where, b in found
    ]


def _plain_attributes(model: Any) -> list[tuple[Any, str, Any]]:
    """(module, name, value) of the numbers, flags and words on its modules; those of lazy ones change for good."""
    modules = [module for module in model.modules() if not hasattr(module, "has_uninitialized_params")]
    return [(m, name, value) for m in modules for name, value in vars(m).items() if isinstance(value, _PLAIN)]


def _dropout_off(model: Any, names: list[str]) -> list[tuple[Any, str, Any]]:
    """Set every attribute that is a probability of dropout to 0; returns what was there."""
    found = []
    for path, module in model.named_modules():
        is_dropout = _DROP.search(type(module).__name__)
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and 0 < value <= 1 and (_DROP.search(name) or (is_dropout and name == "p")):
                found.append((module, name, value))
                setattr(module, name, 0.0)
                names.append(f"{path}.{name}" if path else name)
    return found


# -- running ---------------------------------------------------------------------------------------------------------


def both(
    theirs: Any,
    ours: Module,
    inputs: Sequence[Any],
    kwargs: dict[str, Any],
    *,
    training: bool,
    backward: bool,
    loss: Any,
    notes: list[str],
    on_error: Callable[[Exception, tuple[Run, Run]], None],
) -> tuple[Run, Run]:
    """Run both models; `inputs` and `kwargs` may hold arrays of either framework.

    Args:
        theirs, ours: the models.
        inputs, kwargs: of a call.
        training, backward, loss: as for `parity`.
        notes: what was done to the models or inputs is added here.
        on_error: is told of an exception of the port, with what was recorded until then.
    """
    import torch

    off: list[str] = []
    with prepared(theirs, ours, training, off):
        notes += [f"dropout was off: {', '.join(off)}"] if off else []
        given = _given(theirs, inputs, kwargs)
        recorder, mine = Recorder(theirs), Recorder(ours)
        of_torch, of_port = Run(recorder.calls), Run(mine.calls)
        of_torch.before = {name: to_numpy(b) for name, b in theirs.named_buffers()}
        of_port.before = {name: to_numpy(b) for name, b in ours.named_buffers()}
        with torch.no_grad(), recorder.attached():
            theirs(*given[0], **given[1])
        cast = _cast(theirs, ours, notes)
        arrays = mapped((tuple(inputs), dict(kwargs)), lambda x: cast(to_jax(x)))
        with mine.attached():
            try:
                ours(*arrays[0], **arrays[1])
            except Exception as error:
                on_error(error, (of_torch, of_port))
                raise
        of_torch.buffers = {name: to_numpy(b) for name, b in theirs.named_buffers()}
        of_port.buffers = {name: to_numpy(b) for name, b in ours.named_buffers()}
    if backward:
        of_both = _cotangents(of_torch.calls[0].outputs) if loss is None else None
        losses = loss if isinstance(loss, tuple) else (loss, loss)
        with prepared(theirs, ours, training, []):
            # Made anew: forward may have written into the first ones.
            _torch_gradients(of_torch, theirs, _given(theirs, inputs, kwargs), losses[0], of_both)
            _port_gradients(of_port, ours, arrays, losses[1], of_both)
    return of_torch, of_port


def _cast(theirs: Any, ours: Module, notes: list[str]) -> Callable[[jax.Array], jax.Array]:
    """For a port in another precision throughout: its inputs are cast, as its user would."""
    mine, other = ({str(p.dtype).removeprefix("torch.") for p in m.parameters()} for m in (ours, theirs))
    if len(mine) != 1 or len(other) != 1 or str(jax.dtypes.canonicalize_dtype(min(other))) == (dtype := mine.pop()):
        return lambda x: x
    notes.append(f"the port's parameters are {dtype}, torch's {other.pop()}: its inputs were cast")
    return lambda x: x.astype(dtype) if is_floating(x) else x


def _given(model: Any, inputs: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Torch's own copy of the arguments, where its model is."""
    return mapped((tuple(inputs), dict(kwargs)), lambda x: to_torch(x).to(_device(model)))


def _device(model: Any) -> Any:
    return next((p.device for p in model.parameters()), "cpu")


# -- gradients -------------------------------------------------------------------------------------------------------


def _cotangents(outputs: dict[str, Any]) -> list[np.ndarray | None]:
    """Fixed random directions, the second of two for the imaginary part.

    A plain sum has no gradient through a LayerNorm or a softmax.
    """
    rng = np.random.default_rng(0)
    arrays = [to_numpy(x) for x in outputs.values()]
    return [rng.standard_normal((2 - is_floating(x), *x.shape)) if has_gradient(x) else None for x in arrays]


def _probes(calls: list[Call]) -> dict[str, np.ndarray]:
    """A zero for every real or complex array on its way into or out of a module."""
    found: dict[str, np.ndarray] = {}
    for call in calls:
        if call.hidden or call.end < 0:
            continue
        for where, value in (("in", (call.args, call.kwargs)), ("out", call.outputs)):
            seen: list[Any] = []

            def note(x: Any, seen: list[Any] = seen, where: str = where, call: Call = call) -> Any:
                if not any(x is other for other in seen):
                    if has_gradient(x):
                        found[key_of(call.start, where, str(len(seen)))] = np.zeros(x.shape, x.dtype)
                    seen.append(x)
                return x

            mapped(value, note)
    return found


def _torch_gradients(run: Run, model: Any, given: Any, loss: Any, cotangents: Any) -> None:
    import torch

    device = _device(model)
    probes = {key: to_torch(zero).to(device).requires_grad_() for key, zero in _probes(run.calls).items()}
    leaves = {label: x for label, x in labelled(given).items() if has_gradient(x)}
    ids = {id(x): x.detach().clone().requires_grad_() for x in leaves.values()}
    args, kwargs = mapped(given, lambda x: ids[id(x)].clone() if id(x) in ids else x)  # for in-place operations
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.enable_grad(), Recorder(model, values=False, probes=probes).attached():
        value = _value(model(*args, **kwargs), loss, cotangents, lambda x: to_torch(x).to(device))
    wanted = [*(ids[id(x)] for x in leaves.values()), *parameters.values(), *probes.values()]
    if not getattr(value, "requires_grad", False):
        raise ValueError("parity(backward=True): nothing in torch's result depends on an input or a parameter")
    found = torch.autograd.grad(value, wanted, allow_unused=True)
    arrays = [to_numpy(torch.zeros_like(x) if g is None else g) for g, x in zip(found, wanted, strict=True)]
    _keep(run, list(leaves), list(parameters), list(probes), arrays)


def _port_gradients(run: Run, model: Module, arrays: Any, loss: Any, cotangents: Any) -> None:
    probes = {key: jnp.asarray(zero) for key, zero in _probes(run.calls).items()}
    leaves = {label: x for label, x in labelled(arrays).items() if has_gradient(x)}

    def objective(model: Module, leaves: dict[str, Any], probes: dict[str, Any]) -> Any:
        rest = iter(leaves.values())
        args, kwargs = mapped(arrays, lambda x: next(rest) if has_gradient(x) else x)
        with Recorder(model, values=False, probes=probes).attached():
            return _value(model(*args, **kwargs), loss, cotangents, jnp.asarray)

    _, (of_parameters, of_leaves, of_probes) = value_and_grad(objective, (0, 1, 2))(model, leaves, probes)
    found = [*of_leaves.values(), *of_parameters.values(), *(of_probes[key] for key in probes)]
    arrays = [to_numpy(x) for x in found]
    # JAX's gradient of a complex number is the conjugate of torch's.
    arrays = [x.conj() if np.iscomplexobj(x) else x for x in arrays]
    _keep(run, list(leaves), list(of_parameters), list(probes), arrays)
    _name_all(run, model)


def _name_all(run: Run, model: Module) -> None:
    """Give the gradients of tied parameters under all of their names, and zeros for frozen ones."""
    boxes = list(model.named_parameters(remove_duplicate=False))
    known = {id(box): run.parameters[name] for name, box in boxes if name in run.parameters}
    for name, box in boxes:
        zeros = np.zeros(box.shape, box.dtype) if id(box) not in known else None
        run.parameters.setdefault(name, known.get(id(box), zeros))


def _value(output: Any, loss: Any, cotangents: Any, convert: Callable[[Any], Any]) -> Any:
    if loss is not None:
        value = loss(output)
        return value if is_torch(value) else unbox(value)
    total: Any = 0.0
    for array, direction in zip(labelled(output).values(), cotangents, strict=False):
        if direction is not None and has_gradient(array):
            parts = (array,) if is_floating(array) else (array.real, array.imag)
            for part, weights in zip(parts, direction, strict=False):
                total = total + _product(part, weights, convert)
    return total


def _product(array: Any, direction: np.ndarray, convert: Callable[[Any], Any]) -> Any:
    weights = convert(direction.astype(np.float32 if array.dtype.itemsize < 8 else np.float64))
    wanted = array.float() if hasattr(array, "float") and array.dtype.itemsize < 4 else array
    wanted = wanted.astype(weights.dtype) if hasattr(wanted, "astype") else wanted
    return (wanted * weights).sum()


def _keep(run: Run, inputs: list[str], parameters: list[str], probes: list[str], arrays: list[np.ndarray]) -> None:
    rest = iter(arrays)
    run.inputs = {name: next(rest) for name in inputs}
    run.parameters = {str(name): next(rest) for name in parameters}
    run.probes = {name: next(rest) for name in probes}


# -- one module, and both models, otherwise --------------------------------------------------------------------------


def alone(theirs: Call, ours: Call) -> Call | None:
    """The port's call as it is with torch's own inputs; None if its module can't take them."""
    try:
        mine = {x.dtype for x in ours.inputs.values() if is_floating(x)}
        dtype = mine.pop() if len(mine) == 1 else None  # a port in half precision throughout

        def given(x: Any) -> jax.Array:
            array = to_jax(x)
            return array.astype(dtype) if dtype is not None and is_floating(array) else array

        args, kwargs = mapped((theirs.args, theirs.kwargs), given)
        call = replace(ours)
        call.keep(ours.module(*args, **kwargs))
        return call
    except Exception:
        return None


@contextlib.contextmanager
def doubled(theirs: Any, ours: Module) -> Iterator[tuple[Any, Module]]:
    """Copies of both models in float64, in a block where JAX has it."""
    with jax.enable_x64(True):
        yield copy.deepcopy(theirs).double(), copy.deepcopy(ours).double()


def widened(value: Any) -> Any:
    """`value` with its floating-point arrays in float64."""
    return mapped(value, lambda x: wide(to_numpy(x)) if is_array(x) and has_gradient(x) else x)
