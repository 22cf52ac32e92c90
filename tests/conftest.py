"""The strict floor of the suite, and what each test starts from: no implicit promotion, no warnings, a known seed."""

import gc
import importlib.util
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# Before JAX starts. Four CPU devices, so that `.to(device)` and shardings have somewhere to go; under xdist the
# processes share the cores, so each keeps to one thread.
_FLAGS = ["--xla_force_host_platform_device_count=4"]
if "PYTEST_XDIST_WORKER" in os.environ:
    _FLAGS.append("--xla_cpu_multi_thread_eigen=false")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# The suite compiles thousands of tiny programs and runs each once: with little optimization, and by XLA's older
# emitters where JAX still has them, that takes less time. With CODEGEN_AS_SHIPPED all is as it is for users.
if "CODEGEN_AS_SHIPPED" not in os.environ:
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
        _FLAGS += ["--xla_cpu_use_fusion_emitters=false"]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS]).strip()
os.environ.setdefault("MPLBACKEND", "Agg")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

import jaxmodule as jm  # noqa: E402
from tests.room import make_room  # noqa: E402

# JAX's caches grow with the suite, and looking through them for cycles takes ever longer.
gc.set_threshold(200_000, 20, 20)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

_HERE = Path(__file__).parent
#: A test of so many cases is a sweep, which `--every` thins.
_SWEEP = 5
_HAS_ORACLE = importlib.util.find_spec("torch") is not None

# Not a skip: where torch isn't installed these tests don't exist (the newest-JAX run). `make test` fails without torch.
collect_ignore = [] if _HAS_ORACLE else ["parity"]

if _HAS_ORACLE:
    import torch

    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="seed of numpy and of jaxmodule at the start of each test")
    parser.addoption(
        "--slow", choices=["none", "part", "all"], default="none", help="tests marked slow: none, every 16th, or all"
    )
    parser.addoption(
        "--every",
        type=int,
        metavar="N",
        help="of a test with many cases only every Nth (default: 4 where the whole suite is run, 1 for chosen files)",
    )


def pytest_report_header(config: pytest.Config) -> str:
    oracle = f"oracle torch {torch.__version__}" if _HAS_ORACLE else "no torch: tests/parity not collected"
    return f"jax {jax.__version__}, {oracle}, seed {config.getoption('--seed')}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE / "parity" in item.path.parents:
            item.add_marker(pytest.mark.parity)
    slow, nth = config.getoption("--slow"), config.getoption("--every")
    if nth is None:
        nth = 4 if [Path(arg).resolve() for arg in config.args] == [_HERE] else 1
    share = {"none": 0, "part": 16, "all": 1}[slow]
    cases = Counter(item.nodeid.partition("[")[0] for item in items)

    def wanted(item: pytest.Item) -> bool:
        number = zlib.crc32(item.nodeid.encode())
        if item.get_closest_marker("slow"):
            return share > 0 and number % share == 0
        sweep = cases[item.nodeid.partition("[")[0]] >= _SWEEP and not item.get_closest_marker("each")
        return not sweep or number % nth == 0

    left_out = [item for item in items if not wanted(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(map(id, left_out))
        items[:] = [item for item in items if id(item) not in gone]


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    seed = request.config.getoption("--seed")
    np.random.seed(seed)
    jm.manual_seed(seed)
    if _HAS_ORACLE:
        torch.manual_seed(seed)


@pytest.fixture(scope="module")
def optimized() -> Iterator[None]:
    """Compile as for users: for tests of the last bits of a number."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()


@pytest.fixture(autouse=True, scope="module")
def _room() -> Iterator[None]:
    yield
    make_room()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if report.failed:
        report.sections.append(("seed", f"--seed {item.config.getoption('--seed')}"))
    return report
