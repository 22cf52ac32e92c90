"""Specification of Sequential, ModuleList, ModuleDict, ParameterList and ParameterDict.

That each of torch's methods is there and does the same: parity/test_module_contract.py.
"""

import copy
import pickle
from collections import OrderedDict, UserDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn

X = jnp.asarray([[1.0, 2.0]])


def layers(count=3):
    return [nn.Linear(2, 2) for _ in range(count)]


def keys(module):
    return list(module._modules)


# -- Sequential and ModuleList ----------------------------------------------------------------------------------------


def test_sequential_calls_its_modules_in_order():
    a, b = layers(2)
    model = nn.Sequential(a, nn.Tanh(), b)
    np.testing.assert_array_equal(model(X), b(jnp.tanh(a(X))))
    assert nn.Sequential()(X) is X
    assert keys(model) == ["0", "1", "2"]


def test_sequential_from_an_ordered_dict():
    a, b = layers(2)
    model = nn.Sequential(OrderedDict(first=a, second=b))
    assert model.first is a
    assert model[1] is b
    assert list(model.state_dict()) == ["first.weight", "first.bias", "second.weight", "second.bias"]
    assert keys(model[:1]) == ["first"]
    with pytest.raises(TypeError, match="dict is not a Module subclass"):
        nn.Sequential({"first": a})


@pytest.mark.parametrize("make", [lambda m: nn.Sequential(*m), nn.ModuleList], ids=["Sequential", "ModuleList"])
class TestLists:
    def test_as_a_list(self, make):
        modules = layers()
        model = make(modules)
        assert len(model) == 3
        assert list(model) == modules
        assert model[0] is modules[0]
        assert model[-1] is modules[2]
        assert model[np.int64(1)] is modules[1]
        assert modules[1] in model
        assert type(model[1:]) is type(model)
        assert list(model[::2]) == modules[::2]
        assert list(reversed(model)) == modules[::-1]
        for index in (3, -4):
            with pytest.raises(IndexError, match=f"index {index} is out of range"):
                model[index]
        with pytest.raises(TypeError, match="interpreted as an integer"):
            model["0"]

    def test_set(self, make):
        model, new = make(layers()), nn.Tanh()
        model[-1] = new
        assert model[2] is new
        assert keys(model) == ["0", "1", "2"]
        with pytest.raises(IndexError, match="out of range"):
            model[3] = new
        with pytest.raises(TypeError, match="cannot assign 'int' as child module '0'"):
            model[0] = 3

    def test_delete(self, make):
        modules = layers(5)
        model = make(modules)
        del model[1]
        assert list(model) == [modules[i] for i in (0, 2, 3, 4)]
        assert keys(model) == ["0", "1", "2", "3"]
        del model[-1]
        del model[::2]
        assert list(model) == [modules[2]]
        assert keys(model) == ["0"]
        with pytest.raises(IndexError, match="out of range"):
            del model[1]

    def test_append_extend_insert_pop(self, make):
        a, b, c, d, e = layers(5)
        model = make([a])
        assert model.append(b) is model
        assert model.extend([c]) is model
        model.insert(0, d)
        model.insert(-1, e)
        assert list(model) == [d, a, b, e, c]
        assert keys(model) == [str(i) for i in range(5)]
        assert model.pop(1) is a
        assert model.pop(-1) is c
        assert list(model) == [d, b, e]
        assert keys(model) == ["0", "1", "2"]
        with pytest.raises(IndexError, match="Index out of range: 4"):
            model.insert(4, a)
        with pytest.raises(TypeError, match="is not a Module subclass"):
            model.append("x")
        assert len(model) == 3

    def test_extend_with_itself(self, make):
        model = make(layers(2))
        model.extend(model)
        assert len(model) == 4

    def test_changes_are_seen_by_compiled_functions(self, make):
        model = make([nn.Identity(), nn.Identity()])
        call = jm.jit(lambda m, x: x * float(len(m)) if not any(isinstance(c, nn.Tanh) for c in m) else -x)
        assert float(call(model, X)[0, 0]) == 2.0
        model.append(nn.Identity())
        assert float(call(model, X)[0, 0]) == 3.0
        del model[0]
        assert float(call(model, X)[0, 0]) == 2.0
        model[0] = nn.Tanh()
        assert float(call(model, X)[0, 0]) == -1.0
        model.pop(0)
        model.insert(0, nn.Identity())
        assert float(call(model, X)[0, 0]) == 2.0

    def test_order_is_part_of_the_structure(self, make):
        model = make([nn.Tanh(), nn.Identity()])
        kinds = jm.jit(lambda m: float(isinstance(m[0], nn.Tanh)) * jnp.ones(()))
        assert float(kinds(model)) == 1.0
        model.insert(0, model.pop(1))
        assert float(kinds(model)) == 0.0

    def test_digits_are_not_in_dir(self, make):
        assert "0" not in dir(make(layers()))
        assert "append" in dir(make(layers()))

    def test_copies(self, make):
        model = make(layers())
        for new in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), jax.tree.map(lambda a: a, model)):
            assert type(new) is type(model)
            assert new[0] is not model[0]
            new.append(nn.Tanh())
            assert len(model) == 3
            assert repr(new[:3]) == repr(model)


def test_sequential_arithmetic():
    a, b, c = layers()
    left, right = nn.Sequential(a, b), nn.Sequential(c)
    assert list(left + right) == [a, b, c]
    assert list(right * 3) == list(3 * right) == [c, c, c]
    assert len(left) == 2
    same = left
    left += right
    assert left is same
    left *= 2
    assert left is same
    assert list(left) == [a, b, c, a, b, c]
    for wrong in ([a], 3):
        with pytest.raises(ValueError, match="add operator supports only objects of Sequential class"):
            left + wrong
        with pytest.raises(ValueError, match="add operator supports only objects of Sequential class"):
            left += wrong
    for zero in (0, -1):
        with pytest.raises(ValueError, match="Non-positive multiplication factor"):
            left * zero
        with pytest.raises(ValueError, match="Non-positive multiplication factor"):
            left *= zero
    with pytest.raises(TypeError, match="unsupported operand type"):
        left * 1.5
    with pytest.raises(TypeError, match="unsupported operand type"):
        left *= 1.5
    with pytest.raises(AssertionError, match="module should be of type"):
        left.insert(0, "x")


def test_module_list_arithmetic():
    a, b, c = layers()
    model = nn.ModuleList([a])
    assert list(model + [b, c]) == [a, b, c]  # noqa: RUF005 - the operator is what is tested
    same = model
    model += [b]
    assert model is same
    assert list(model) == [a, b]
    assert list(nn.ModuleList(m for m in (a, c))) == [a, c]
    with pytest.raises(TypeError, match="ModuleList.extend should be called with an iterable, but got int"):
        model.extend(3)
    with pytest.raises(NotImplementedError, match='missing the required "forward"'):
        model(X)


def test_the_repr_of_a_module_list_counts_repeats():
    text = repr(nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1), nn.Sequential(nn.Tanh()), nn.Linear(1, 1)]))
    assert text == (
        "ModuleList(\n"
        "  (0-1): 2 x Linear(in_features=1, out_features=1, bias=True)\n"
        "  (2): Sequential(\n"
        "    (0): Tanh()\n"
        "  )\n"
        "  (3): Linear(in_features=1, out_features=1, bias=True)\n"
        ")"
    )
    assert repr(nn.ModuleList()) == "ModuleList()"


# -- ModuleDict -------------------------------------------------------------------------------------------------------


def test_module_dict_as_a_dict():
    a, b, c = layers()
    model = nn.ModuleDict({"b": b, "a": a})
    assert list(model) == list(model.keys()) == ["b", "a"]
    assert list(model.values()) == [b, a]
    assert list(model.items()) == [("b", b), ("a", a)]
    assert len(model) == 2
    assert "a" in model
    assert "c" not in model
    model["c"] = c
    assert model["c"] is c
    assert model.pop("b") is b
    del model["a"]
    assert list(model) == ["c"]
    for use in (lambda: model["a"], lambda: model.pop("a"), lambda: model.__delitem__("a")):
        with pytest.raises(KeyError, match="a"):
            use()
    model.clear()
    assert len(model) == 0
    assert list(model.parameters()) == []


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict, lambda m: nn.ModuleDict(m), lambda m: list(m.items())])
def test_module_dict_update(kind):
    a, b, c = layers()
    model = nn.ModuleDict([("x", a)])
    model.update(kind({"z": b, "x": c}))
    assert list(model.items()) == [("x", c), ("z", b)]


def test_what_module_dict_refuses():
    model = nn.ModuleDict()
    for wrong, error, message in [
        (3, TypeError, "ModuleDict.update should be called with an iterable of key/value pairs, but got int"),
        ([3], TypeError, "sequence element #0 should be Iterable; is int"),
        ([("a", nn.Tanh(), 3)], ValueError, "sequence element #0 has length 3; 2 is required"),
        ({"a": 3}, TypeError, "int is not a Module subclass"),
        ({1: nn.Tanh()}, TypeError, "module name should be a string. Got int"),
        ({"a.b": nn.Tanh()}, KeyError, "can\\\\?'t contain"),
        ({"keys": nn.Tanh()}, KeyError, "attribute 'keys' already exists"),
    ]:
        with pytest.raises(error, match=message):
            model.update(wrong)
    assert len(model) == 0


# -- ParameterList ----------------------------------------------------------------------------------------------------


def test_parameter_list_as_a_list():
    p = nn.Parameter(jnp.zeros(1))
    model = nn.ParameterList([p, jnp.ones(2)])
    assert len(model) == 2
    assert model[0] is p
    assert isinstance(model[1], nn.Parameter)
    assert list(model) == [p, model[-1]]
    assert type(model[:1]) is nn.ParameterList
    assert model[:1][0] is p
    assert model.append(jnp.zeros(3)) is model
    assert model.extend([nn.Buffer(jnp.zeros(4)), "text"]) is model
    assert isinstance(model[3], nn.Parameter)
    assert model[4] == "text"
    model += [jnp.zeros(5)]
    assert [str(n) for n, _ in model.named_parameters()] == ["0", "1", "2", "3", "5"]
    assert list(model.state_dict()) == ["0", "1", "2", "3", "5"]
    model[-1] = jnp.ones(1)
    assert model[5].shape == (1,)
    assert "0" not in dir(model)
    for index in (6, -7):
        with pytest.raises(IndexError, match=f"index {index} is out of range"):
            model[index]
        with pytest.raises(IndexError, match=f"index {index} is out of range"):
            model[index] = p
    with pytest.raises(TypeError, match="cannot assign 'str' as parameter '0'"):
        model[0] = "text"
    for wrong in (3, jnp.zeros(3), p):
        with pytest.raises(TypeError, match="ParameterList.extend should be called with an iterable"):
            model.extend(wrong)
    with pytest.raises(RuntimeError, match="ParameterList should not be called"):
        model(X)


def test_parameter_list_of_modules_and_tied_parameters():
    p = nn.Parameter(jnp.zeros(1))
    model = nn.ParameterList([p, p, nn.Linear(2, 2)])
    assert [str(n) for n, _ in model.named_parameters()] == ["0", "2.weight", "2.bias"]


class Poly(nn.Module):
    def __init__(self):
        super().__init__()
        self.terms = nn.ParameterList([jnp.asarray(float(i)) for i in range(3)])

    def forward(self, x):
        return sum(p * x**i for i, p in enumerate(self.terms))


def test_a_parameter_list_flows():
    model = Poly()
    assert float(jm.jit(lambda m, x: m(x))(model, 2.0)) == 10.0
    assert {k: float(v) for k, v in jm.grad(lambda m: m(2.0))(model).items()} == {
        "terms.0": 1,
        "terms.1": 2,
        "terms.2": 4,
    }
    model.terms.append(jnp.asarray(1.0))
    assert float(jm.jit(lambda m, x: m(x))(model, 2.0)) == 18.0
    new = copy.deepcopy(model)
    new.terms.append(jnp.asarray(1.0))
    assert len(model.terms) == 4
    assert len(new.terms) == 5
    assert len(pickle.loads(pickle.dumps(model)).terms) == 4


# -- ParameterDict ----------------------------------------------------------------------------------------------------


def test_parameter_dict_as_a_dict():
    p = nn.Parameter(jnp.zeros(1))
    model = nn.ParameterDict([("b", p), ("a", jnp.ones(2)), ("text", "x")])
    assert list(model) == list(model.keys()) == ["b", "a", "text"]
    assert list(reversed(model)) == ["text", "a", "b"]
    assert next(iter(model.values())) is p
    assert dict(model.items())["text"] == "x"
    assert isinstance(model["a"], nn.Parameter)
    assert len(model) == 3
    assert "a" in model
    assert "forward" not in model
    assert model.get("a") is model["a"]
    assert model.get("z") is None
    assert model.get("z", 3) == 3
    assert model.setdefault("a", 1) is model["a"]
    assert isinstance(model.setdefault("new", jnp.zeros(1)), nn.Parameter)
    assert model.setdefault("none") is None
    assert model.popitem() == ("none", None)
    assert model.pop("b") is p
    del model["text"]
    assert list(model) == ["a", "new"]
    assert [str(n) for n, _ in model.named_parameters()] == ["a", "new"]
    model.clear()
    assert len(model) == 0
    assert not hasattr(model, "a")
    with pytest.raises(KeyError, match="empty"):
        model.popitem()


def test_parameter_dict_copies_and_unions():
    a, b, c = (nn.Parameter(jnp.full(1, float(i))) for i in range(3))
    model = nn.ParameterDict({"b": b, "a": a})
    new = model.copy()
    assert list(new) == list(model)
    assert new["a"] is a
    new["c"] = c
    assert "c" not in model
    both = model | nn.ParameterDict({"c": c})
    assert list(both) == [*model, "c"]
    assert both["a"] is a
    assert list({"z": c} | model) == ["z", *model]
    assert type({"z": c} | model) is dict  # as in torch
    same = model
    model |= {"d": c}
    assert model is same
    assert model["d"] is c
    made = model.fromkeys(["x", "y"], "default")
    assert type(made) is nn.ParameterDict
    assert dict(made.items()) == {"x": "default", "y": "default"}
    assert len(copy.deepcopy(model)) == len(pickle.loads(pickle.dumps(model))) == 3


def test_the_order_of_a_parameter_dict():
    values = {"b": jnp.zeros(1), "a": jnp.zeros(2)}
    assert list(nn.ParameterDict(values)) == ["a", "b"]  # torch sorts a plain dict
    assert list(nn.ParameterDict(OrderedDict(values))) == ["b", "a"]
    assert list(nn.ParameterDict(values.items())) == ["b", "a"]
    assert list(nn.ParameterDict(nn.ParameterDict(OrderedDict(values)))) == ["b", "a"]


def test_what_parameter_dict_refuses():
    model = nn.ParameterDict()
    for wrong, error, message in [
        (3, TypeError, "update should be called with an iterable of key/value pairs, but got int"),
        ([3], TypeError, "sequence element #0 should be Iterable; is int"),
        ([("a", 1, 2)], ValueError, "sequence element #0 has length 3; 2 is required"),
        ([(1, jnp.zeros(1))], TypeError, "keys are strings, got int"),
        ({"a.b": jnp.zeros(1)}, KeyError, "can\\\\?'t contain"),
        ({"keys": jnp.zeros(1)}, KeyError, "attribute 'keys' already exists"),
    ]:
        with pytest.raises(error, match=message):
            model.update(wrong)
    assert len(model) == 0
    for use in (lambda: model["a"], lambda: model.pop("a")):
        for kind in (KeyError, AttributeError):  # a dict's error, and torch's
            with pytest.raises(kind, match="a"):
                use()
    with pytest.raises(KeyError, match="a"):
        del model["a"]
    with pytest.raises(RuntimeError, match="ParameterDict should not be called"):
        model(X)


def test_repr_of_parameter_containers():
    assert repr(nn.ParameterList([jnp.zeros((2, 3)), "x"])) == (
        "ParameterList(\n    (0): Parameter containing: [float32 of size 2x3]\n    (1): Object of type: str\n)"
    )
    assert repr(nn.ParameterDict({"a": jnp.zeros(2), "b": 3})) == (
        "ParameterDict(\n    (a): Parameter containing: [float32 of size 2]\n    (b): Object of type: int\n)"
    )
    assert repr(nn.ParameterList()) == "ParameterList()"
