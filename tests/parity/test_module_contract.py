# ruff: noqa: E501 - the tables of calls are read across
"""The same model written in both frameworks, the same operations on both: what they list, print, raise and keep."""

import copy
import inspect
import pickle
import re
from collections import OrderedDict

import jax.numpy as jnp
import pytest
import torch

from jaxmodule import nn

# Names of torch's that are deliberately not here, with the reason.
ABSENT = {
    "T_destination": "a type variable of torch's annotations",
    "dump_patches": "a switch of the source-change warnings that torch no longer gives",
}


class Ours:
    nn = nn

    @staticmethod
    def zeros(*shape):
        return jnp.zeros(shape)


class Theirs:
    nn = torch.nn

    @staticmethod
    def zeros(*shape):
        return torch.zeros(shape)


def model_class(lib):
    class Block(lib.nn.Module):
        kind = "block"

        def __init__(self, shared=None):
            super().__init__()
            self.width = 3
            self.scale = lib.nn.Parameter(lib.zeros(3))
            self.register_parameter("shift", None)
            self.register_buffer("offset", lib.zeros(2))
            self.register_buffer("hidden", lib.zeros(1), persistent=False)
            self.register_buffer("empty", None)
            self.fc = lib.nn.Linear(3, 4)
            self.again = shared or self.fc
            self.norm = lib.nn.BatchNorm1d(4)
            self.drop = None
            self.register_module("nothing", None)

        def forward(self, x):
            return x

        def extra_repr(self):
            return f"width={self.width}"

    return Block


def tree(lib):
    """Tied parameters, shared modules, None of each kind, containers."""
    block = model_class(lib)
    shared = lib.nn.Linear(3, 4)
    first = block(shared)
    model = lib.nn.Sequential(first, block(shared), lib.nn.ModuleDict({"b": lib.nn.Tanh(), "a": first.norm}))
    model.head = lib.nn.Linear(3, 4, bias=False)
    model.head.weight = shared.weight
    model.own = lib.nn.Parameter(lib.zeros(1))
    model.list = lib.nn.ModuleList([lib.nn.ReLU(), lib.nn.ReLU(), lib.nn.Dropout(0.1)])
    model.params = lib.nn.ParameterList([lib.zeros(2), lib.nn.Parameter(lib.zeros(1)), "text"])
    model.named = lib.nn.ParameterDict({"z": lib.zeros(2), "y": shared.weight})
    return model


def plain(value):
    """A result in a form that compares across the frameworks."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, (nn.Module, torch.nn.Module)):
        return f"module {type(value).__name__}"
    if isinstance(value, (nn.Parameter, torch.nn.Parameter)):
        return f"parameter {tuple(value.shape)}"
    if isinstance(value, (nn.Buffer, torch.Tensor, jnp.ndarray)):
        return f"array {tuple(value.shape)}"
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if hasattr(value, "__iter__"):
        return [plain(v) for v in value]
    return type(value).__name__


def text(value):
    """A printed module, with the dtypes spelt alike."""
    return re.sub(r"torch\.FloatTensor|torch\.float32", "float32", repr(value))


def outcome(operation, lib):
    """What an operation returns, or the type of what it raises."""
    try:
        return plain(operation(lib, tree(lib)))
    except Exception as error:
        names = {kind.__name__ for kind in type(error).__mro__}
        return names & {"KeyError", "TypeError", "AttributeError", "ValueError", "IndexError", "RuntimeError", "AssertionError", "NotImplementedError"}  # fmt: skip


def same(operation):
    ours, theirs = outcome(operation, Ours), outcome(operation, Theirs)
    if isinstance(theirs, set):
        assert isinstance(ours, set), f"torch raises {theirs}, this returns {ours}"
        assert theirs <= ours
    else:
        assert ours == theirs


# -- the names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in dir(torch.nn.Module) if not n.startswith("_")])
def test_every_public_name_of_torchs_module(name):
    if name in ABSENT:
        assert not hasattr(nn.Module, name)
        return
    ours, theirs = getattr(nn.Module, name), getattr(torch.nn.Module, name)
    if not inspect.isfunction(theirs):
        return
    assert inspect.isfunction(ours)
    mine = inspect.signature(ours).parameters
    its = inspect.signature(theirs).parameters
    if name in ("to", "state_dict", "compile", "forward", "to_empty"):
        return  # *args in torch; options of torch.compile; to_empty's device is required in torch
    assert [p for p in its if p not in mine] == []
    for parameter in its.values():
        assert mine[parameter.name].kind == parameter.kind, parameter
        if not isinstance(parameter.default, (torch.dtype, torch.device)):
            assert mine[parameter.name].default == parameter.default, parameter
    assert list(mine)[: len(its)] == list(its)


CONTAINERS = ["Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict"]
_OWN = {
    name: [n for n in vars(getattr(torch.nn, name)) if n not in ("__module__", "__doc__", "__annotations__")]
    for name in CONTAINERS
}
_PRIVATE = ("_get_item_by_idx", "_get_abs_string_index", "_key_to_attr")


@pytest.mark.parametrize(
    ("container", "name"), [(c, n) for c, names in _OWN.items() for n in names if n not in _PRIVATE]
)
def test_every_method_of_torchs_containers(container, name):
    cls = getattr(nn, container)
    owners = [base for base in cls.__mro__ if name in vars(base)]
    assert owners
    if name != "__dir__":  # every module's leaves digits out
        assert owners[0] not in (nn.Module, object), f"{container}.{name} is only what every module has"
    theirs = inspect.signature(getattr(getattr(torch.nn, container), name))
    ours = inspect.signature(getattr(cls, name))
    if name not in ("__call__", "__init__"):
        assert len(ours.parameters) == len(theirs.parameters)
    if not name.startswith("_"):
        required = [p.default is p.empty for p in theirs.parameters.values()]
        assert [p.default is p.empty for p in ours.parameters.values()] == required


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_method_is_compared_below(container):
    compared = {source.split(".")[1].split("(")[0] for c, source in _CALLED if c == container}
    public = {n for n in _OWN[container] if not n.startswith("_")} - {"extra_repr", "forward"}
    assert public <= compared


# -- what is listed and printed ---------------------------------------------------------------------------------------


def test_repr():
    assert text(tree(Ours)) == text(tree(Theirs))
    ours, theirs = model_class(Ours)(), model_class(Theirs)()
    assert text(ours) == text(theirs)
    for lib_text in ("a\nb", "one", ""):
        pair = []
        for lib in (Ours, Theirs):
            cls = type("Printed", (lib.nn.Module,), {"extra_repr": lambda self, t=lib_text: t})
            pair.append((repr(cls()), repr(lib.nn.Sequential(cls(), lib.nn.Sequential(cls())))))
        assert pair[0] == pair[1]


LISTINGS = {
    f"{method}({', '.join(f'{k}={v!r}' for k, v in kwargs.items())})": (method, kwargs)
    for method, options in {
        "named_parameters": [{}, {"prefix": "p"}, {"recurse": False}, {"remove_duplicate": False}, {"prefix": "p", "recurse": False}],
        "named_buffers": [{}, {"prefix": "p"}, {"recurse": False}, {"remove_duplicate": False}],
        "named_modules": [{}, {"prefix": "p"}, {"remove_duplicate": False}],
        "named_children": [{}],
        "parameters": [{}, {"recurse": False}],
        "buffers": [{}, {"recurse": False}],
        "modules": [{}],
        "children": [{}],
        "state_dict": [{}, {"prefix": "p."}],
    }.items()
    for kwargs in options
}  # fmt: skip


@pytest.mark.parametrize("listing", LISTINGS)
@pytest.mark.parametrize("where", ["tree", "block"])
def test_listings(listing, where):
    method, kwargs = LISTINGS[listing]
    same(lambda lib, model: getattr(model if where == "tree" else model[0], method)(**kwargs))


def test_named_modules_with_a_memo():
    def run(lib, model):
        memo = {model[0], model.list}
        first = [name for name, _ in model.named_modules(memo)]
        return first, len(memo), [name for name, _ in model.named_modules(memo)]

    same(run)


def test_apply_order():
    def run(lib, model):
        seen = []
        assert model.apply(lambda m: seen.append(type(m).__name__)) is model
        return seen

    same(run)


def test_dir_and_hasattr():
    names = [
        "width",
        "scale",
        "shift",
        "offset",
        "empty",
        "fc",
        "nothing",
        "drop",
        "kind",
        "forward",
        "training",
        "absent",
        "0",
    ]
    same(lambda lib, model: [hasattr(model[0], n) for n in names] + [n in dir(model[0]) for n in names])
    same(lambda lib, model: [n in dir(model) for n in ("0", "1", "head", "own", "append")])


# -- operations, one by one -------------------------------------------------------------------------------------------

P, A = (lambda lib: lib.nn.Parameter(lib.zeros(1))), (lambda lib: lib.zeros(1))
M, B = (lambda lib: lib.nn.Tanh()), (lambda lib: lib.nn.Buffer(lib.zeros(1)))
VALUES = {
    "parameter": P,
    "array": A,
    "module": M,
    "buffer": B,
    "none": lambda lib: None,
    "number": lambda lib: 3,
    "text": lambda lib: "x",
}
NAMES = ["width", "scale", "shift", "offset", "hidden", "empty", "fc", "nothing", "kind", "new"]


def state_of(model):
    return [
        *([str(n) for n, _ in model.named_parameters()], [str(n) for n, _ in model.named_buffers()]),
        *([n for n, _ in model.named_children()], list(model.state_dict())),
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", VALUES)
def test_assignment(name, value):
    # An array assigned to a new name is a plain attribute in both; to a parameter's name it is an error in both.
    def run(lib, model):
        block = model[0]
        setattr(block, name, VALUES[value](lib))
        # torch goes on reading the class attribute `kind`, although it has registered the module: here it is read
        hidden_in_torch = (name, value) == ("kind", "module")
        return ["module Tanh" if hidden_in_torch and lib is Theirs else plain(getattr(block, name)), state_of(block)]

    same(run)


@pytest.mark.parametrize("method", ["register_parameter", "register_buffer", "register_module", "add_module"])
@pytest.mark.parametrize("name", [*NAMES, "", "a.b", "forward", "training", 3, None])
@pytest.mark.parametrize("value", ["parameter", "array", "module", "none", "number"])
def test_registration(method, name, value):
    if method == "register_buffer" and value == "parameter":
        return  # torch keeps the Parameter itself among the buffers; here its array becomes a Buffer

    def run(lib, model):
        block = model[0]
        getattr(block, method)(name, VALUES[value](lib))
        return [plain(getattr(block, name)), state_of(block)]

    same(run)


@pytest.mark.parametrize("name", [*NAMES, "training"])
def test_deletion(name):
    def run(lib, model):
        block = model[0]
        delattr(block, name)
        return [hasattr(block, name), name in dir(block), state_of(block)]

    same(run)


def test_deleted_non_persistent_buffer_comes_back_persistent():
    def run(lib, model):
        block = model[0]
        del block.hidden
        block.register_buffer("hidden", lib.zeros(1))
        return list(block.state_dict())

    same(run)


def test_a_name_that_changes_kind_in_each_order():
    for first in ("parameter", "module", "buffer", "number", "none"):
        for second in VALUES:

            def run(lib, model, first=first, second=second):
                block = model[0]
                block.new = VALUES[first](lib)
                block.new = VALUES[second](lib)
                return [plain(block.new), state_of(block)]

            same(run)


@pytest.mark.parametrize("method", ["get_submodule", "get_parameter", "get_buffer"])
@pytest.mark.parametrize("target", ["", "0", "0.fc", "0.fc.weight", "0.fc.weight.x", "0.offset", "0.scale", "0.shift", "0.empty", "0.nothing", "0.width", "9", "own", "0.norm.running_mean", ".", "0."])  # fmt: skip
def test_get(method, target):
    same(lambda lib, model: getattr(model, method)(target))


@pytest.mark.parametrize(
    "target", ["", "0", "0.fc", "0.new", "0.new.x", "0.fc.weight", "0.width", "9", "list.0", "list.9", "a..b"]
)
@pytest.mark.parametrize("value", ["module", "none", "number"])
@pytest.mark.parametrize("strict", [False, True])
def test_set_submodule(target, value, strict):
    def run(lib, model):
        model.set_submodule(target, VALUES[value](lib), strict)
        return [name for name, _ in model.named_modules()]

    same(run)


def test_modes_and_requires_grad():
    def run(lib, model):
        model.eval()
        modes = [m.training for m in model.modules()]
        model[0].train()
        modes += [m.training for m in model.modules()]
        assert model.requires_grad_(False) is model
        model[0].fc.requires_grad_()
        return modes, [p.requires_grad for p in model.parameters()]

    same(run)
    for mode in (1, None, "x"):
        same(lambda lib, model, mode=mode: model.train(mode))


@pytest.mark.parametrize("make", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(make):
    def run(lib, model):
        del model._modules["0"], model._modules["1"]  # of a local class, which no pickle takes
        new = make(model)
        return [
            text(new), state_of(new), new.head.weight is new.named["y"], new.head is model.head,
            new.own is model.own, [p.requires_grad for p in new.parameters()],
        ]  # fmt: skip

    same(run)


def test_subclass_before_and_without_init():
    def early(kind):
        def run(lib, model):
            class Early(lib.nn.Module):
                def __init__(self):
                    self.x = VALUES[kind](lib)

            return plain(Early().x)

        return run

    for kind in ("parameter", "module", "number", "text", "none"):
        same(early(kind))

    def uncalled(use):
        def run(lib, model):
            class Uncalled(lib.nn.Module):
                def __init__(self):
                    pass

            return use(lib, Uncalled())

        return run

    for use in (
        lambda lib, m: m(1),
        lambda lib, m: list(m.parameters()),
        lambda lib, m: m.register_buffer("b", None),
        lambda lib, m: m.register_parameter("b", None),
        lambda lib, m: m.add_module("b", None),
        lambda lib, m: repr(m),
        lambda lib, m: m.state_dict(),
    ):
        same(uncalled(use))
    same(lambda lib, model: lib.nn.Module(3))
    same(lambda lib, model: lib.nn.Module(x=3))
    same(lambda lib, model: lib.nn.Module()(3))


def test_conversion():
    half = {Ours: jnp.float16, Theirs: torch.float16}
    integer = {Ours: jnp.int32, Theirs: torch.int32}

    def kinds(model):
        arrays = [*model.named_parameters(), *model.named_buffers()]
        return {str(n): re.sub("torch.|32$|64$", "", str(a.dtype)) for n, a in arrays}

    same(lambda lib, model: kinds(model.half()))
    same(lambda lib, model: kinds(model.bfloat16().float()))
    same(lambda lib, model: kinds(model.to(half[lib])))
    same(lambda lib, model: kinds(model.to(dtype=half[lib])))
    same(lambda lib, model: kinds(model.to("cpu", half[lib])))
    same(lambda lib, model: kinds(model.to(device="cpu")))
    same(lambda lib, model: kinds(model.to(model.half().own)))
    same(lambda lib, model: kinds(model.type(half[lib])))
    same(lambda lib, model: kinds(model.to()))
    same(lambda lib, model: kinds(model.cpu()))
    same(lambda lib, model: model.to(integer[lib]))
    same(lambda lib, model: model.to("banana"))
    same(lambda lib, model: model.to(half[lib], "cpu", half[lib]))
    same(lambda lib, model: model.to(nothing=3))
    same(lambda lib, model: [name for name, _ in model.to_empty(device="cpu").named_parameters()])


# -- the containers' methods ------------------------------------------------------------------------------------------


def start(lib, container):
    nn_ = lib.nn
    return {
        "Sequential": lambda: nn_.Sequential(nn_.Linear(2, 3), nn_.Tanh(), nn_.ReLU()),
        "ModuleList": lambda: nn_.ModuleList([nn_.Linear(2, 3), nn_.Tanh(), nn_.ReLU()]),
        "ModuleDict": lambda: nn_.ModuleDict({"x": nn_.Linear(2, 3), "b": nn_.Tanh(), "a": nn_.ReLU()}),
        "ParameterList": lambda: nn_.ParameterList([lib.zeros(1), lib.nn.Parameter(lib.zeros(2)), "text"]),
        "ParameterDict": lambda: nn_.ParameterDict(
            {"x": lib.zeros(1), "b": lib.nn.Parameter(lib.zeros(2)), "a": "text"}
        ),
    }[container]()


CALLS = {
    "Sequential": [
        "m[0]", "m[-1]", "m[3]", "m[-4]", "m[1:]", "m[::-1]", "m['0']", "m[1.0]", "len(m)", "list(m)", "T in m",
        "m.__setitem__(0, T)", "m.__setitem__(-1, T)", "m.__setitem__(3, T)", "m.__setitem__(0, 3)", "m.__setitem__(0, None)",
        "m.__delitem__(0)", "m.__delitem__(-1)", "m.__delitem__(slice(0, 2))", "m.__delitem__(slice(None, None, 2))", "m.__delitem__(3)",
        "m.append(T)", "m.append(3)", "m.append(None)", "m.extend([T, T])", "m.extend(S)", "m.extend(3)", "m.extend([3])",
        "m.insert(0, T)", "m.insert(1, T)", "m.insert(3, T)", "m.insert(-1, T)", "m.insert(4, T)", "m.insert(0, 3)",
        "m.pop(0)", "m.pop(-1)", "m.pop(3)", "m.pop(slice(0, 2))", "m + S", "m + [T]", "m + 3", "m.__iadd__(S)", "m.__iadd__([T])",
        "m * 2", "2 * m", "m * 0", "m * -1", "m * 1.5", "m.__imul__(2)", "m.__imul__(0)", "m.__imul__('x')", "m * True",
        "type(m)(O)", "type(m)(O)[1:]", "type(m)(O).append(T)", "type(m)(O).pop(0)", "type(m)(T, T)", "type(m)(3)", "type(m)(None)", "type(m)()",
        "type(m)([T])",
    ],
    "ModuleList": [
        "m[0]", "m[-1]", "m[3]", "m[-4]", "m[1:]", "m[::-1]", "m['0']", "len(m)", "list(m)", "T in m",
        "m.__setitem__(0, T)", "m.__setitem__(-1, T)", "m.__setitem__(3, T)", "m.__setitem__(0, 3)", "m.__setitem__(0, None)",
        "m.__delitem__(0)", "m.__delitem__(-1)", "m.__delitem__(slice(0, 2))", "m.__delitem__(slice(None, None, 2))", "m.__delitem__(3)",
        "m.append(T)", "m.append(3)", "m.append(None)", "m.extend([T, T])", "m.extend(S)", "m.extend(3)", "m.extend([3])",
        "m.insert(0, T)", "m.insert(1, T)", "m.insert(3, T)", "m.pop(0)", "m.pop(-1)", "m.pop(3)", "m.pop(slice(0, 2))",
        "m + S", "m + [T]", "m + 3", "m.__iadd__(S)", "m.__iadd__([T])", "m.__iadd__(3)",
        "type(m)()", "type(m)([T, T])", "type(m)(x for x in [T])", "type(m)(3)", "m(3)", "repr(type(m)([T, T, T]))", "repr(type(m)())",
    ],
    "ModuleDict": [
        "m['x']", "m['z']", "m[0]", "len(m)", "list(m)", "'x' in m", "'z' in m", "m.__setitem__('z', T)", "m.__setitem__('x', T)",
        "m.__setitem__(1, T)", "m.__setitem__('z', 3)", "m.__setitem__('z', None)", "m.__setitem__('a.b', T)", "m.__setitem__('', T)",
        "m.__setitem__('keys', T)", "m.__delitem__('x')", "m.__delitem__('z')", "m.clear()", "m.pop('x')", "m.pop('z')",
        "list(m.keys())", "list(m.items())", "list(m.values())", "m.keys()", "m.items()", "m.values()",
        "m.update({'z': T, 'y': T})", "m.update(O)", "m.update([('z', T)])", "m.update([('z', T, T)])", "m.update([3])", "m.update(3)",
        "m.update(type(m)({'z': T}))", "m.update([['z', T]])", "m.update({'z': 3})",
        "type(m)()", "type(m)([('z', T), ('a', T)])", "type(m)(3)", "m(3)",
    ],
    "ParameterList": [
        "m[0]", "m[-1]", "m[3]", "m[-4]", "m[1:]", "m[::-1]", "m['0']", "len(m)", "list(m)",
        "m.__setitem__(0, A)", "m.__setitem__(-1, A)", "m.__setitem__(3, A)", "m.__setitem__(0, 3)", "m.__setitem__(0, None)", "m.__setitem__(2, 'new')",
        "m.append(A)", "m.append(P)", "m.append(3)", "m.append(None)", "m.append(T)", "m.append(Bu)", "m.extend([A, P])", "m.extend(m)", "m.extend(A)",
        "m.extend(P)", "m.extend(3)", "m.__iadd__([A])", "m.__iadd__(A)", "m(3)", "type(m)()", "type(m)([A, 3])", "type(m)(3)",
        "m.extra_repr()",
    ],
    "ParameterDict": [
        "m['x']", "m['z']", "m[0]", "len(m)", "list(m)", "list(reversed(m))", "'x' in m", "'z' in m", "3 in m",
        "m.__setitem__('z', A)", "m.__setitem__('x', P)", "m.__setitem__('z', 'x')", "m.__setitem__('x', 'x')", "m.__setitem__('a.b', A)",
        "m.__setitem__('keys', A)", "m.__setitem__('z', None)", "m.__setitem__('z', Bu)",
        "m.__delitem__('x')", "m.__delitem__('z')", "m.copy()", "m.copy() is m", "m.setdefault('x', P)", "m.setdefault('z', A)", "m.setdefault('z')",
        "list(m.items())", "m.keys()", "m.items()", "m.values()", "m.clear()", "m.pop('x')", "m.pop('z')", "m.popitem()", "type(m)().popitem()", "m.get('x')", "m.get('z')", "m.get('z', 3)",
        "m.fromkeys(['q', 'p'])", "m.fromkeys(['q'], A)", "list(m.keys())", "list(m.items())", "list(m.values())",
        "m.update({'z': A, 'y': A})", "m.update(O2)", "m.update([('z', A)])", "m.update([('z', A, A)])", "m.update([3])", "m.update(3)",
        "m.update(type(m)({'z': A}))", "m | type(m)({'z': A})", "{'z': A} | m", "m | {'z': A}", "m.__ior__({'z': A, 'q': A})", "m.__ior__(type(m)({'x': P}))",
        "m(3)", "type(m)()", "type(m)([('z', A), ('a', 3)])", "type(m)(3)", "m.extra_repr()",
    ],
}  # fmt: skip
_CALLED = [(c, call) for c, calls in CALLS.items() for call in calls if call.startswith("m.")]


@pytest.mark.parametrize(("container", "call"), [(c, call) for c, calls in CALLS.items() for call in calls])
def test_container_calls(container, call):
    def run(lib, model):
        m = start(lib, container)
        scope = {
            "m": m, "T": lib.nn.Tanh(), "S": lib.nn.Sequential(lib.nn.Tanh()), "A": lib.zeros(1), "Bu": lib.nn.Buffer(lib.zeros(1)),
            "P": lib.nn.Parameter(lib.zeros(1)), "O": OrderedDict(q=lib.nn.Tanh(), p=lib.nn.ReLU()),
            "O2": OrderedDict(q=lib.zeros(1), p=lib.zeros(1)),
        }  # fmt: skip
        result = eval(call, scope)
        if isinstance(result, (nn.Module, torch.nn.Module)):
            result = [text(result), result is m]
        elif isinstance(result, str):
            result = text(result)
        return [plain(result), text(m), list(m._modules), state_of(m)]

    same(run)


def test_a_deep_copy_of_a_parameter_has_neither_its_gradient_nor_its_hooks():
    def run(lib, model):
        p = lib.nn.Parameter(lib.zeros(2))
        p.grad = lib.zeros(2)
        p.register_hook(lambda g: None)
        new = copy.deepcopy(p)
        hooks = new._hooks if lib is Ours else new._backward_hooks
        return [new.grad is None, not hooks, new.requires_grad]

    same(run)
