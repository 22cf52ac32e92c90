"""Layers whose spelling was chosen for speed, against the obvious spelling in JAX and against torch.

    python benchmarks/layers.py --markdown

Each row is timed forwards, and forwards and backwards with gradients of every floating-point argument ("training").
Before the clock starts, outputs and gradients of all sides must agree. The sides run in turns in one process: a ratio
is the median of the ratios of neighbouring measurements, below 1 where this library is faster. First calls (trace,
compile, run) are a column of their own. Without torch its columns are left out.
"""

import argparse
import functools
import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

# OpenMP's threads would go on spinning, after torch has returned, on the cores that the next side runs on.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodule.nn import functional as F
from jaxmodule.nn.attention import SDPBackend, sdpa_kernel

try:
    import torch
    import torch.nn.functional as TF
except ImportError:
    torch = TF = None

PACKAGES = ("jax", "jaxlib", "jaxmodule", "torch", "optax", "numpy")
SLOW_S, SLOW_TURNS = 0.1, 3  # a side whose call takes longer has its turn so often


class Case(NamedTuple):
    """One row: what is differentiated, this library's function of it, the obvious one of JAX, and torch's."""

    name: str
    shapes: list[tuple[int, ...]]
    ours: Callable[..., Any]
    other: Callable[..., Any] | None
    theirs: Callable[..., Any]


class Timing(NamedTuple):
    ours_ms: float
    against: dict[str, float]
    compile_s: dict[str, float]


# -- the cases ------------------------------------------------------------------------------------------------------
# input, weight, stride, padding, dilation, groups
CONVOLUTIONS = {
    "depthwise 3x3, 16x64x32²": ((16, 64, 32, 32), (64, 1, 3, 3), 1, 1, 1, 64),
    "depthwise 3x3/2, 16x64x32²": ((16, 64, 32, 32), (64, 1, 3, 3), 2, 1, 1, 64),
    "depthwise 5x5, 8x120x28²": ((8, 120, 28, 28), (120, 1, 5, 5), 1, 2, 1, 120),
    "depthwise 7x7, 4x96x56²": ((4, 96, 56, 56), (96, 1, 7, 7), 1, 3, 1, 96),
    "depthwise 7x7, 8x384x14²": ((8, 384, 14, 14), (384, 1, 7, 7), 1, 3, 1, 384),
    "depthwise 3x3 dilated by 2, 8x64x32²": ((8, 64, 32, 32), (64, 1, 3, 3), 1, 2, 2, 64),
    "depthwise 3x3 with 2 outputs each, 4x64x32²": ((4, 64, 32, 32), (128, 1, 3, 3), 1, 1, 1, 64),
    "depthwise 1d, 5 taps, 8x256x512": ((8, 256, 512), (256, 1, 5), 1, 2, 1, 256),
    "depthwise 3d, 3x3x3, 2x32x16³": ((2, 32, 16, 16, 16), (32, 1, 3, 3, 3), 1, 1, 1, 32),
    "3x3 in 8 groups, 8x128x28²": ((8, 128, 28, 28), (128, 16, 3, 3), 1, 1, 1, 8),
    "3x3 in 32 groups, 4x128x28²": ((4, 128, 28, 28), (128, 4, 3, 3), 1, 1, 1, 32),
    "3x3/2 in 32 groups, 4x256x28²": ((4, 256, 28, 28), (256, 8, 3, 3), 2, 1, 1, 32),
    "1x1 in 4 groups, 8x128x28²": ((8, 128, 28, 28), (128, 32, 1, 1), 1, 0, 1, 4),
    "1x1, 16x256x16² to 64": ((16, 256, 16, 16), (64, 256, 1, 1), 1, 0, 1, 1),
    "1x1, 8x64x56² to 256": ((8, 64, 56, 56), (256, 64, 1, 1), 1, 0, 1, 1),
    "1x1/2, 8x256x28² to 512": ((8, 256, 28, 28), (512, 256, 1, 1), 2, 0, 1, 1),
    "patches 16x16, 2x3x224² to 384": ((2, 3, 224, 224), (384, 3, 16, 16), 16, 0, 1, 1),
    "3x3, 16x128x16²": ((16, 128, 16, 16), (128, 128, 3, 3), 1, 1, 1, 1),
    "3x3/2, 8x64x56² to 128": ((8, 64, 56, 56), (128, 64, 3, 3), 2, 1, 1, 1),
    "7x7/2, 4x3x224² to 64": ((4, 3, 224, 224), (64, 3, 7, 7), 2, 3, 1, 1),
    "1d, 3 taps, 8x128x512": ((8, 128, 512), (128, 128, 3), 1, 1, 1, 1),
    "3d, 3x3x3, 2x16x16³ to 32": ((2, 16, 16, 16, 16), (32, 16, 3, 3, 3), 1, 1, 1, 1),
    "3d, 3x3x3/2, 2x16x16³ to 32": ((2, 16, 16, 16, 16), (32, 16, 3, 3, 3), 2, 1, 1, 1),
}
TRANSPOSED = {
    "4x4/2, 16x128x16² to 64": ((16, 128, 16, 16), (128, 64, 4, 4), 2, 1, 1, 1),
    "2x2x2/2, 2x64x8x16² to 32": ((2, 64, 8, 16, 16), (64, 32, 2, 2, 2), 2, 0, 1, 1),
    "depthwise 4x4/2, 8x64x32²": ((8, 64, 32, 32), (64, 1, 4, 4), 2, 1, 1, 64),
}


def by_xla(x: Any, w: Any, stride: int, padding: int, dilation: int, groups: int) -> Any:
    layout = {1: "W", 2: "HW", 3: "DHW"}[x.ndim - 2]
    n = len(layout)
    names = ("NC" + layout, "OI" + layout, "NC" + layout)
    ends = ((padding, padding),) * n
    return lax.conv_general_dilated(
        x, w, (stride,) * n, ends, (1,) * n, (dilation,) * n, names, feature_group_count=groups
    )


def transposed_by_xla(x: Any, w: Any, stride: int, padding: int, dilation: int, groups: int) -> Any:
    def spread(n: int, k: int) -> int:
        return (n - 1) * stride - 2 * padding + dilation * (k - 1) + 1

    size = map(spread, x.shape[2:], w.shape[2:])
    missing = jax.ShapeDtypeStruct((x.shape[0], w.shape[1] * groups, *size), x.dtype)
    forward = functools.partial(by_xla, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return jax.linear_transpose(lambda y: forward(y, w), missing)(x)[0]


def convolutions() -> Iterator[Case]:
    for name, (x, w, stride, padding, dilation, groups) in CONVOLUTIONS.items():
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        function = f"conv{len(x) - 2}d"
        yield Case(
            f"conv {name}",
            [x, w],
            functools.partial(getattr(F, function), **options),
            functools.partial(by_xla, **options),
            lambda x, w, f=function, o=options: getattr(TF, f)(x, w, **o),
        )
    for name, (x, w, stride, padding, dilation, groups) in TRANSPOSED.items():
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        function = f"conv_transpose{len(x) - 2}d"
        yield Case(
            f"transposed conv {name}",
            [x, w],
            functools.partial(getattr(F, function), **options),
            functools.partial(transposed_by_xla, **options),
            lambda x, w, f=function, o=options: getattr(TF, f)(x, w, **o),
        )


def in_a_loop() -> Iterator[Case]:
    """Four convolutions as the steps of one scan, as in `jm.accumulate`: there XLA doesn't choose layouts itself."""

    def steps(convolve: Callable[..., Any], xs: Any, w: Any) -> Any:
        return lax.scan(lambda carry, x: (carry, convolve(x, w)), None, xs)[1]

    for name in ("3x3, 16x128x16²", "3x3/2, 8x64x56² to 128"):
        x, w, stride, padding, dilation, groups = CONVOLUTIONS[name]
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        yield Case(
            f"conv {name}, four times in a scan",
            [(4, *x), w],
            functools.partial(steps, functools.partial(F.conv2d, **options)),
            functools.partial(steps, functools.partial(by_xla, **options)),
            lambda xs, w, o=options: torch.stack([TF.conv2d(x, w, **o) for x in xs]),
        )


def attention() -> Iterator[Case]:
    """In blocks, and, as the obvious spelling, with the whole matrix of scores."""

    def with_backend(backend: SDPBackend, causal: bool, *operands: Any) -> Any:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(*operands, is_causal=causal)

    sizes = [(length, length) for length in (128, 256, 512, 1024, 2048, 4096)]
    for causal in (False, True):
        for queries, keys in sizes + ([] if causal else [(16, 4096), (64, 4096)]):
            shapes = [(1, 4, queries, 64), (1, 4, keys, 64), (1, 4, keys, 64)]
            yield Case(
                f"attention in blocks, {queries} queries, {keys} keys{', causal' if causal else ''}",
                shapes,
                functools.partial(with_backend, SDPBackend.FLASH_ATTENTION, causal),
                functools.partial(with_backend, SDPBackend.MATH, causal),
                lambda *a, c=causal: TF.scaled_dot_product_attention(*a, is_causal=c),
            )


def recurrent() -> Iterator[Case]:
    from jaxmodule.nn.functional._recurrent import Layer
    from jaxmodule.nn.functional._recurrent import recurrent as run
    from jaxmodule.nn.functional._recurrent_scan import Hidden, step

    def ours(mode: Any, x: Any, w: Any, u: Any) -> Any:
        options = {"mode": mode, "bidirectional": False, "batch_first": False, "dropout": 0.0}
        return run(x, None, [Layer(w, u)], None, (), **options)[0]

    def scanned(mode: Any, x: Any, w: Any, u: Any) -> Any:
        def body(state: Any, gates: Any) -> Any:
            state, _ = step(mode, gates, Hidden(u, None, None), state)
            return state, state[0]

        zeros = jnp.zeros((x.shape[1], u.shape[1]))
        return lax.scan(body, (zeros,) * (2 if mode == "LSTM" else 1), x @ w.T)[1]

    def theirs(mode: Any, x: Any, w: Any, u: Any) -> Any:
        zeros = torch.zeros(1, x.shape[1], u.shape[1])
        if mode == "LSTM":
            return torch.lstm(x, (zeros, zeros), [w, u], False, 1, 0.0, True, False, False)[0]
        return torch.gru(x, zeros, [w, u], False, 1, 0.0, True, False, False)[0]

    for mode, gates in (("LSTM", 4), ("GRU", 3)):
        for t, n, h in ((32, 4, 512), (64, 32, 256)):
            yield Case(
                f"{mode}, T={t}, N={n}, H={h}",
                [(t, n, h), (gates * h, h), (gates * h, h)],
                functools.partial(ours, mode),
                functools.partial(scanned, mode),
                functools.partial(theirs, mode),
            )


def pooling() -> Iterator[Case]:
    def windows(reducer: Any, start: float, kernel: int, stride: int, padding: int, x: Any) -> Any:
        ends = ((0, 0), (0, 0), (padding, padding), (padding, padding))
        return lax.reduce_window(x, start, reducer, (1, 1, kernel, kernel), (1, 1, stride, stride), ends)

    image = [(8, 64, 56, 56)]
    for kernel, stride, padding in ((3, 2, 1), (2, 2, 0)):
        options = {"kernel_size": kernel, "stride": stride, "padding": padding}
        yield Case(
            f"max_pool2d {kernel}x{kernel}/{stride}",
            image,
            functools.partial(F.max_pool2d, **options),
            functools.partial(windows, lax.max, -np.inf, kernel, stride, padding),
            lambda x, o=options: TF.max_pool2d(x, **o),
        )
    yield Case(
        "avg_pool2d 3x3/2",
        image,
        lambda x: F.avg_pool2d(x, 3, 2, 1),
        lambda x: windows(lax.add, 0.0, 3, 2, 1, x) / 9,
        lambda x: TF.avg_pool2d(x, 3, 2, 1),
    )


def losses_and_norms() -> Iterator[Case]:
    random = np.random.default_rng(2)
    t, n, c, s = 100, 16, 32, 20
    targets = random.integers(1, c, (n, s))
    lengths = np.full(n, t), np.full(n, s)

    def ctc(logits: Any) -> Any:
        arguments = [jnp.asarray(a, jnp.int32) for a in (targets, *lengths)]
        return F.ctc_loss(F.log_softmax(logits, -1), *arguments, reduction="sum")

    def by_optax(logits: Any) -> Any:
        import optax

        nothing = jnp.zeros((n, t)), jnp.zeros((n, s))
        return jnp.sum(optax.ctc_loss(logits.swapaxes(0, 1), nothing[0], jnp.asarray(targets, jnp.int32), nothing[1]))

    def by_torch(logits: Any) -> Any:
        arguments = [torch.as_tensor(a) for a in (targets, *lengths)]
        return TF.ctc_loss(TF.log_softmax(logits, -1), *arguments, reduction="sum")

    yield Case(f"ctc_loss, T={t}, N={n}, {c} classes, {s} targets", [(t, n, c)], ctc, by_optax, by_torch)
    yield Case(
        "batch_norm in training, 8x64x56²",
        [(8, 64, 56, 56), (64,), (64,)],
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        None,
        lambda x, w, b: TF.batch_norm(x, None, None, w, b, training=True),
    )
    yield Case(
        "layer_norm, 2048x768",
        [(2048, 768), (768,), (768,)],
        lambda x, w, b: F.layer_norm(x, (768,), w, b),
        None,
        lambda x, w, b: TF.layer_norm(x, (768,), w, b),
    )


def resampling() -> Iterator[Case]:
    for size, target in ((28, 56), (56, 40)):
        yield Case(
            f"interpolate, bilinear, 8x64x{size}² to {target}²",
            [(8, 64, size, size)],
            lambda x, s=target: F.interpolate(x, size=(s, s), mode="bilinear"),
            lambda x, s=target: jax.image.resize(x, (*x.shape[:2], s, s), "bilinear", antialias=False),
            lambda x, s=target: TF.interpolate(x, size=(s, s), mode="bilinear"),
        )


def cases() -> Iterator[Case]:
    for family in (convolutions, in_a_loop, attention, recurrent, pooling, losses_and_norms, resampling):
        yield from family()


# -- timing ---------------------------------------------------------------------------------------------------------
Side = Callable[[], Any]


def sides(case: Case, training: bool) -> dict[str, Side]:
    """Calls that wait for their result, and give the output and in training the gradients."""
    random = np.random.default_rng(0)
    # Weights small, so that sums stay of the size of one: a recurrence that saturates has no gradients to compare.
    small = [1.0 if i == 0 or case.name.startswith("attention") else 0.05 for i in range(len(case.shapes))]
    arrays = [
        (s * random.standard_normal(shape)).astype(np.float32) for s, shape in zip(small, case.shapes, strict=True)
    ]
    shape = jax.eval_shape(case.ours, *arrays).shape
    cotangent = random.standard_normal(shape).astype(np.float32)
    operands = [jnp.asarray(a) for a in (cotangent, *arrays)]

    def in_jax(function: Callable[..., Any]) -> Side:
        def train(cotangent: Any, *arrays: Any) -> Any:
            y, pull = jax.vjp(function, *arrays)
            return [y, *pull(cotangent)]

        run = jax.jit(train if training else lambda _, *arrays: [function(*arrays)])
        return lambda: jax.block_until_ready(run(*operands))

    found = {"ours": in_jax(case.ours)}
    if case.other is not None:
        found["other"] = in_jax(case.other)
    if torch is not None:
        tensors = [torch.from_numpy(a).requires_grad_(training) for a in arrays]
        pulled = torch.from_numpy(cotangent) if shape else torch.tensor(float(cotangent))

        def in_torch() -> Any:
            with torch.set_grad_enabled(training):
                y = case.theirs(*tensors)
            return [y, *torch.autograd.grad(y, tensors, pulled)] if training else [y]

        found["torch"] = in_torch
    return found


def check(case: Case, results: dict[str, Any]) -> None:
    """Raise an AssertionError unless every side has the same outputs and gradients."""
    plain = {side: [np.asarray(x.detach() if side == "torch" else x) for x in out] for side, out in results.items()}
    for side, out in plain.items():
        for ours, other in zip(plain["ours"], out, strict=True):
            scale = max(float(np.abs(other).max()), 1e-6)
            np.testing.assert_allclose(ours / scale, other / scale, atol=1e-3, rtol=0, err_msg=f"{case.name}: {side}")


def measure(case: Case, training: bool, repeats: int, slice_s: float) -> Timing:
    calls = sides(case, training)
    compile_s, results, counts, turns = {}, {}, {}, {}
    for side, call in calls.items():
        start = time.perf_counter()
        results[side] = call()
        compile_s[side] = time.perf_counter() - start
    check(case, results)
    for side, call in calls.items():
        start = time.perf_counter()
        call()
        taken = time.perf_counter() - start
        counts[side] = max(1, int(slice_s / taken))
        turns[side] = repeats if taken < SLOW_S else min(repeats, SLOW_TURNS)
    times: dict[str, list[float]] = {side: [] for side in calls}
    gc.collect()
    gc.disable()
    try:
        for turn in range(repeats):
            for side in list(calls) if turn % 2 else list(calls)[::-1]:
                if turn >= turns[side]:
                    continue
                start = time.perf_counter()
                for _ in range(counts[side]):
                    calls[side]()
                times[side].append((time.perf_counter() - start) / counts[side])
    finally:
        gc.enable()
    # zip, not strict: a slow side has fewer turns, the first ones
    ratios = {
        side: float(np.median([a / b for a, b in zip(times["ours"], taken, strict=False)]))
        for side, taken in times.items()
        if side != "ours"
    }
    return Timing(float(np.median(times["ours"])) * 1e3, ratios, compile_s)


# -- the table ------------------------------------------------------------------------------------------------------
def row(case: Case, timings: list[Timing]) -> list[str]:
    cells = [case.name]
    for timing in timings:
        cells.append(f"{timing.ours_ms:,.2f}")
        cells += [ratio(timing.against.get(side)) for side in ("other", "torch")]
    first = [timings[-1].compile_s.get(side) for side in ("ours", "other")]
    return [*cells, " / ".join("–" if seconds is None else f"{seconds:.1f}" for seconds in first)]


def ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def versions() -> str:
    found = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each side")
    parser.add_argument("--slice", type=float, default=0.01, help="seconds a turn")
    parser.add_argument("--markdown", action="store_true", help="print a table for a README")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if torch is not None:
        torch.set_num_threads(os.cpu_count() or 1)
    heads = ["forward, ms", "to JAX's", "to torch's", "training, ms", "to JAX's", "to torch's", "first call, s"]
    if options.markdown:
        print(f"| | {' | '.join(heads)} |\n|---{'|--:' * len(heads)}|")
    chosen = [case for case in cases() if options.only in case.name]
    if not chosen:
        sys.exit(f"no row's name contains {options.only!r}")
    for case in chosen:
        timings = [measure(case, training, options.repeats, options.slice) for training in (False, True)]
        cells = row(case, timings)
        print(f"| {' | '.join(cells)} |" if options.markdown else "  ".join(cells), flush=True)
        jax.clear_caches()
    print(f"\nMedians; `to` is time over theirs. {os.cpu_count()} CPU cores; {versions()}.")


if __name__ == "__main__":
    main()
