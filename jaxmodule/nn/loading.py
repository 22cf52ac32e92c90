"""What a load does to one box after the other, and the report of it.

Arrays that are in a file (`jm.load(path, mmap=True)`) are read when their box's turn comes, straight to where the box
is: one is in flight at a time. On several devices each reads the part that it keeps.
"""

import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ..core.box import Box, unbox
from ..core.device import abstract_names, current, is_abstract
from ..core.fill import aligned_empty
from ..core.lazy import UninitializedTensorMixin, is_lazy
from ..core.overlay import Overlay
from ..core.parameter import Parameter
from .renaming import suggestion

OPTIONS = "_load_options"  # the attribute of a state dict's copy that has them, beside `_metadata`


class LoadReport(namedtuple("_IncompatibleKeys", ["missing_keys", "unexpected_keys"])):
    """What `load_state_dict` returns: torch's named tuple, and what happened besides.

    Attributes:
        missing_keys: names of the model that the state dict doesn't have.
        unexpected_keys: names of the state dict that the model doesn't have.
        loaded: names that were loaded.
        renamed: (name in the state dict, name in the model) where `strip_prefix` or `rename` has changed it.
        cast: (name, dtype in the state dict, dtype in the model) where they differ.
        retyped: (name, the model's dtype before, its dtype now) where the model has taken the state dict's.
        tied: groups of names that are one parameter.
        untouched: names of parameters and persistent buffers that were not loaded under any name.
        meta: names of parameters and buffers that are still abstract, a shape without a value (`jm.device("meta")`).
    """

    loaded: Sequence[str] = ()
    renamed: Sequence[tuple[str, str]] = ()
    cast: Sequence[tuple[str, str, str]] = ()
    retyped: Sequence[tuple[str, str, str]] = ()
    tied: Sequence[tuple[str, ...]] = ()
    untouched: Sequence[str] = ()
    meta: Sequence[str] = ()

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            head = "<All keys matched successfully>"
        else:
            head = f"_IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"
        lines = [f"loaded: {len(self.loaded)}"]
        if self.renamed:
            lines.append("renamed: " + ", ".join(f"{a} → {b}" for a, b in self.renamed))
        if self.cast:
            lines.append("cast: " + ", ".join(f"{n} ({a} → {b})" for n, a, b in self.cast))
        if self.retyped:
            lines.append("dtype of the file: " + ", ".join(f"{n} ({a} → {b})" for n, a, b in self.retyped))
        if self.tied:
            lines.append("tied: " + ", ".join(" = ".join(names) for names in self.tied))
        if self.untouched:
            lines.append("not touched: " + ", ".join(self.untouched))
        if self.meta:
            lines.append("still abstract: " + ", ".join(self.meta))
        return "\n  ".join([head, *lines])

    __str__ = __repr__


class Options:
    """How the boxes of one load are filled.

    Attributes:
        assign: take the arrays as they are.
        dtype: whose dtype a box has afterwards, the "model"'s or the "file"'s.
        given: for each box what it was loaded from.
        retyped: for each box whose dtype has changed, that and the new one.
    """

    def __init__(self, assign: bool, dtype: Literal["model", "file"]) -> None:
        if dtype not in ("model", "file"):
            raise ValueError(f"dtype must be 'model' (keep the model's) or 'file' (take the file's), got {dtype!r}")
        self.assign = assign
        self.keeps_dtype = dtype == "model" and not assign
        self.given: dict[Box, Any] = {}
        self.retyped: dict[Box, tuple[str, str]] = {}


def _is_deferred(value: Any) -> bool:
    """Is it an array in a file, `io.FileArray`?"""
    return hasattr(type(value), "read") and hasattr(value, "dtype") and hasattr(value, "shape")


def _as_host_or_jax(value: Any) -> Any:
    """A jax or numpy array, or one in a file, with the contents of `value`; None where it is no array.

    A numpy array may share its memory with `value`.
    """
    if isinstance(value, (jax.Array, Box)):
        return unbox(value)
    if isinstance(value, (np.ndarray, np.generic)) or _is_deferred(value):
        return value if _is_numeric(value.dtype) else None
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        tensor = value.detach().cpu()
        name = str(tensor.dtype).removeprefix("torch.")
        if name == "bfloat16" or name.startswith("float8"):
            import torch  # the caller handed us a torch tensor, so it is there

            dtype = jnp.dtype(name)
            return tensor.contiguous().view(torch.uint8 if dtype.itemsize == 1 else torch.int16).numpy().view(dtype)
        return tensor.resolve_conj().resolve_neg().numpy()
    return None


def _is_numeric(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.number) or dtype == np.bool_


def _place(like: Any) -> Any:
    """Where an array that takes the place of `like` goes; None is JAX's default."""
    if is_abstract(like) or getattr(like, "committed", False):
        return like.sharding
    return None


def _new_array(source: Any, shape: tuple[int, ...], dtype: np.dtype, place: Any) -> jax.Array:
    """`source` (of jax, numpy, or in a file) in memory of its own, in `dtype`, at `place`."""
    if isinstance(source, jax.Array):
        array = source.reshape(shape) if source.shape != shape else source
        array = array.astype(dtype) if array.dtype != dtype else array
        return array if place is None or array.sharding == place else jax.device_put(array, place)
    if _is_deferred(source) and place is not None and len(place.device_set) > 1 and source.shape == shape:
        return _in_parts(source, dtype, place)
    host = source.read() if _is_deferred(source) else source
    if host is source or host.dtype != dtype:
        host = _copied(host.reshape(shape), dtype)
    return jax.device_put(host.reshape(shape), place)


def _copied(host: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A copy in another dtype, of an alignment that JAX takes over without a second one."""
    if host.dtype in (np.int64, np.uint64) and dtype.kind in "iu" and host.size:
        limits, least, most = np.iinfo(dtype), int(host.min()), int(host.max())
        if least < limits.min or most > limits.max:
            raise OverflowError(f"{most if most > limits.max else least} is no {dtype}")
    out = aligned_empty(host.size, dtype).reshape(host.shape)
    out[...] = host  # casts and copies in one pass
    return out


def _in_parts(source: Any, dtype: np.dtype, place: Any) -> jax.Array:
    """Each device is given its part of an array in a file; a part that several have is read once."""
    parts: dict[str, np.ndarray] = {}

    def part(index: Any) -> np.ndarray:
        key = repr(index)
        if key not in parts:
            parts[key] = _copied(source[index], dtype)
        return parts[key]

    return jax.make_array_from_callback(source.shape, place, part)


def load_module(
    module: Any,
    state: Any,
    prefix: str,
    options: Options,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    """Load `module` and what is below it; `state` is the caller's own copy."""
    setattr(state, OPTIONS, options)
    metadata = getattr(state, "_metadata", None)
    local_metadata = {} if metadata is None else dict(metadata.get(prefix[:-1], {}))
    if options.assign:
        local_metadata["assign_to_params_buffers"] = True
    if module._load_state_dict_pre_hooks:  # they may compute with the module's own entries
        for key, value in state.items():
            if _is_deferred(value) and "." not in key[len(prefix) :]:
                state[key] = value.read()
    module._load_from_state_dict(state, prefix, local_metadata, True, missing, unexpected, errors)
    for name, child in module._modules.items():
        if child is not None:
            below = f"{prefix}{name}."
            part = OrderedDict((key, value) for key, value in state.items() if key.startswith(below))
            if metadata is not None:
                part._metadata = metadata  # pyright: ignore[reportAttributeAccessIssue]
            load_module(child, part, below, options, missing, unexpected, errors)
    keys = LoadReport(missing, unexpected)
    for hook in tuple(module._load_state_dict_post_hooks.values()):
        if hook(module, keys) is not None:
            raise AssertionError(  # torch's type
                "Hooks registered with ``register_load_state_dict_post_hook`` are not expected to return new values, "
                "if incompatible_keys need to be modified, it should be done inplace."
            )


def load_box(box: Box, key: str, given: Any, options: Options, failed: bool) -> str | None:
    """Write one entry into its box; what is wrong with it, in torch's words, or None.

    `failed`: another entry did not fit, so this one is checked, but not read from its file.
    """
    if is_lazy(given):  # saved before the first call
        return None if is_lazy(box) else f"the state dict has no value for {key} yet: it was saved uninitialized"
    if is_abstract(given):
        return None if given is current(box) else f"the state dict has no value for {key}: it is of an abstract model"
    source = _as_host_or_jax(given)
    if source is None:
        return (
            f'While copying the parameter named "{key}", expected torch.Tensor or Tensor-like object from checkpoint '
            f"but received {type(given)}"
        )
    own = jax.dtypes.canonicalize_dtype(source.dtype)
    if isinstance(box, UninitializedTensorMixin):
        dtype, place = (box.dtype, box.device) if options.keeps_dtype else (own, None if options.assign else box.device)
        box.become(_new_array(source, source.shape, dtype, place))
        return None
    if options.given.get(box) is given and _is_deferred(given):  # a tied box, under its second name
        return None
    old = current(box)
    # Files from before torch had scalars have them with one dimension.
    shape = () if not old.shape and source.shape == (1,) else tuple(source.shape)
    if shape != old.shape:
        return (
            f"size mismatch for {key}: copying a param with shape {shape} from checkpoint, "
            f"the shape in current model is {tuple(old.shape)}."
        )
    dtype = old.dtype if options.keeps_dtype else own
    if jnp.issubdtype(own, jnp.complexfloating) and not jnp.issubdtype(dtype, jnp.complexfloating):
        return f"dtype mismatch for {key}: {own} in the state dict, {dtype} in the model, which has no imaginary part"
    if failed and _is_deferred(source):
        return None
    place = None if options.assign and not is_abstract(old) else _place(old)
    try:
        new = _new_array(source, shape, dtype, place)
    except OverflowError as error:
        wide = jax.dtypes.canonicalize_dtype(np.int64) == np.int64
        advice = "" if wide else "; jax.config.update('jax_enable_x64', True) gives integers 64 bits"
        return f"a value of {key} has no place in the model: {error}{advice}"
    if new.dtype != old.dtype:
        options.retyped[box] = (str(old.dtype), str(new.dtype))
    options.given[box] = given
    box.value = new
    return None


def key_errors(missing: Iterable[str], unexpected: Iterable[str]) -> list[str]:
    """Torch's lines on names that don't match."""
    found = []
    for what, keys in (("Missing", missing), ("Unexpected", unexpected)):
        listed = ", ".join(f'"{key}"' for key in keys)
        if listed:
            found.append(f"{what} key(s) in state_dict: {listed}. ")
    return found


def names_of(module: Any) -> dict[Box, list[str]]:
    """Every name of each parameter and persistent buffer."""
    names: dict[Box, list[str]] = {}
    for path, owner in module.named_modules(remove_duplicate=False):
        for name, box in owner._local_state().items():
            names.setdefault(box, []).append(f"{path}.{name}" if path else name)
    return names


def make_report(
    module: Any, state: Any, missing: list[str], unexpected: list[str], overlay: Overlay, options: Options
) -> LoadReport:
    """What this load has done so far, in the overlay that it writes to."""
    report = LoadReport(missing, unexpected)
    names = names_of(module)
    loaded: list[str] = []
    cast: list[tuple[str, str, str]] = []
    untouched: list[str] = []
    for box, all_names in names.items():
        found = [name for name in all_names if name in state]
        if box not in overlay.written:
            untouched.append(all_names[0])
        elif found:
            loaded += found
            before = str(getattr(state[found[0]], "dtype", "")).removeprefix("torch.")
            if before and before != str(box.dtype):
                cast.append((all_names[0], before, str(box.dtype)))
        elif box in overlay.born or overlay.values[box] is not box._value:
            loaded.append(all_names[0])  # a hook or an override below has renamed its key, or made it
        else:
            untouched.append(all_names[0])  # an override gave what was there, as BatchNorm does for old files
    report.loaded, report.cast, report.untouched = loaded, cast, untouched
    report.retyped = [(names[box][0], *both) for box, both in options.retyped.items() if box in names]
    report.tied = [tuple(all_names) for all_names in names.values() if len(all_names) > 1]
    report.meta = abstract_names([*module.named_parameters(), *module.named_buffers()])
    return report


def check_useful(module: Any, state: Any, report: LoadReport, strict: bool) -> None:
    """A lenient load that loads nothing is a mistake; one that leaves parameters as they were says which."""
    if strict or not report.untouched:
        return
    if not report.loaded:
        advice = suggestion(state, report.untouched)
        raise RuntimeError(
            f"load_state_dict(strict=False) matched nothing in {type(module).__name__}: the model has "
            f"{report.untouched[:3]}, the state dict {report.unexpected_keys[:3]}. {advice}".rstrip()
        )
    parameters = [name for name in report.untouched if isinstance(_find(module, name), Parameter)]
    if parameters:
        warnings.warn(
            f"load_state_dict(strict=False) left these parameters of {type(module).__name__} as they were: "
            + ", ".join(parameters),
            UserWarning,
            stacklevel=3,
        )


def _find(module: Any, name: str) -> Any:
    path, _, last = name.rpartition(".")
    return getattr(module.get_submodule(path), last)
