"""The shape of the package: which part may import which, and what `import jaxmodule` must not pay for."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import jaxmodule

PACKAGE = Path(jaxmodule.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# An import goes to a part with a lower number, or stays in its own part. The longest prefix decides.
RANKS = {
    "jaxmodule.core": 0,
    "jaxmodule.random": 1,
    "jaxmodule.transforms": 2,
    "jaxmodule.nn.functional": 3,  # pure functions: knows no Module
    "jaxmodule.nn": 4,
    "jaxmodule.amp": 5,
    "jaxmodule.optim": 5,
    "jaxmodule.io": 5,
    "jaxmodule.port": 6,
    "jaxmodule": 7,  # __init__.py: the public names
}
# Heavy or optional: imported by the function that needs it. torch is only ever handed in.
LAZY = ("flax", "rich", "orbax", "torch", "safetensors", "matplotlib", "optax", "treescope")


def module_name(path: Path) -> str:
    parts = ("jaxmodule", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def part(module: str) -> str:
    return max((prefix for prefix in RANKS if f"{module}.".startswith(f"{prefix}.")), key=len)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def run_time_imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import, those inside functions too: a cycle that is dodged is still a cycle."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not is_type_checking(child):
            yield from run_time_imports(child)


def targets(module: str, node: ast.ImportFrom) -> Iterator[str]:
    """The files of the package that a relative import runs."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
    base = f"{base}.{node.module}" if node.module else base
    for alias in node.names:
        yield name if (name := f"{base}.{alias.name}") in MODULES else base


def graph() -> dict[str, set[str]]:
    edges: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        found = run_time_imports(ast.parse(path.read_text()))
        relative = (node for node in found if isinstance(node, ast.ImportFrom) and node.level)
        edges[module] = {target for node in relative for target in targets(module, node)}
    return edges


GRAPH = graph()


def test_every_relative_import_names_a_file_of_the_package():
    assert [edge for module in GRAPH for edge in GRAPH[module] if edge not in MODULES] == []


def test_imports_form_a_dag():
    # A package that re-exports its own files isn't a cycle: `from . import conv` names the file.
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " -> ".join(error.args[1]))


def test_arrows_point_one_way():
    wrong = [
        f"{module} imports {target}"
        for module, found in GRAPH.items()
        for target in sorted(found)
        if part(module) != part(target) and RANKS[part(module)] <= RANKS[part(target)]
    ]
    assert wrong == []


@pytest.mark.parametrize("module", MODULES)
def test_no_import_of_the_package_by_its_name_and_none_of_jax_internals(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            assert name.split(".")[0] != "jaxmodule", f"{module}:{node.lineno}: relative imports inside the package"
            assert name.split(".")[:2] != ["jax", "_src"], f"{module}:{node.lineno}: jax._src is not public"
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) != "jax._src", f"{module}:{node.lineno}: jax._src is not public"


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, jaxmodule; print([name for name in {LAZY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
