"""Parameter groups by patterns of names."""

import jax.numpy as jnp
import pytest

import jaxmodule as jm
from jaxmodule import nn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(4, 10, bias=False)


def test_groups_are_torchs_dicts_in_the_order_of_the_patterns() -> None:
    model = Net()
    groups = jm.optim.groups(model, {("*.bias", "*norm*"): {"weight_decay": 0}, "head.*": {"lr": 1e-4}})
    optimizer = jm.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)
    assert [group["names"] for group in optimizer.param_groups] == [
        [f"blocks.{i}.{name}" for i in (0, 1) for name in ("norm.weight", "norm.bias", "linear.bias")],
        ["head.weight"],
        ["embed.weight", "blocks.0.linear.weight", "blocks.1.linear.weight"],
    ]
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(1e-3, 0), (1e-4, 0.1), (1e-3, 0.1)]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    before = model.head.weight.value
    optimizer.step({"head.weight": jnp.ones((10, 4))})
    assert not jnp.array_equal(before, model.head.weight)


def test_the_table_tells_what_each_pattern_covers() -> None:
    model = Net()
    model.embed.weight.requires_grad = False
    patterns = {"*.bias": {"weight_decay": 0, "lr": 0.5}, "head.weight": {}, "*norm.weight": None, "*": {"lr": 0.1}}
    groups = jm.optim.groups(model, patterns)
    assert str(groups) == repr(groups)
    assert str(groups).splitlines() == [
        "pattern       tensors  parameters  frozen  hyper-parameters",
        "*.bias              4          16       0  weight_decay=0, lr=0.5",
        "head.weight         1          40       0  the optimizer's defaults",
        "*norm.weight        2           8       0  left out",
        "*                   3          72      40  lr=0.1",
    ]
    assert [row.parameters for row in groups.rows] == [16, 40, 8, 72]


def test_rich_prints_the_table() -> None:
    from rich.console import Console

    console = Console(width=100)
    with console.capture() as captured:
        console.print(jm.optim.groups(Net(), {"*.bias": {"weight_decay": 0}}))
    assert "(the rest)" in captured.get()
    assert "weight_decay=0" in captured.get()


def test_what_is_left_out_is_not_trained() -> None:
    model = Net()
    optimizer = jm.optim.SGD(jm.optim.groups(model, {"blocks.*": None, "*": {}}), lr=0.1)
    assert optimizer.param_groups[0]["names"] == ["embed.weight", "head.weight"]
    optimizer = jm.optim.SGD(jm.optim.groups(model, {"head.*": {}, "*": None}), lr=0.1)
    assert [group["names"] for group in optimizer.param_groups] == [["head.weight"]]


def test_an_overlap_names_the_parameter_and_both_patterns() -> None:
    match = (
        r"the patterns '\*\.bias' and '\*norm\*' both cover the parameter 'blocks\.0\.norm\.bias'(.|\n)*one group: "
        r"\('\*\.bias', '\*norm\*'\)"
    )
    with pytest.raises(ValueError, match=match):
        jm.optim.groups(Net(), {"*.bias": {"weight_decay": 0}, "*norm*": {"lr": 1e-4}})


@pytest.mark.parametrize(
    ("patterns", "match"),
    [
        ({"*.biass": {}}, r"the pattern '\*\.biass' covers no parameter; names near it: .*\.bias'"),
        (
            {("*.bias", "haed.weight"): {}},
            "the pattern 'haed.weight' covers no parameter; names near it",
        ),
        ({"*t": {}, "*bias": {}, "*": {}}, r"the pattern '\*' covers no parameter: the others cover all 10"),
        ({"*.bias": {"params": []}}, r"'\*\.bias': its hyper-parameters cannot have 'params' or 'names'"),
    ],
)
def test_a_pattern_that_covers_nothing_raises(patterns: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        jm.optim.groups(Net(), patterns)


def test_a_tied_parameter_is_covered_by_any_of_its_names_once() -> None:
    model = Net()
    model.head.weight = model.embed.weight
    groups = jm.optim.groups(model, {"head.*": {"lr": 0.5}})
    assert next([name for name, _ in group["params"]] for group in groups) == ["embed.weight"]
    assert sum(len(group["params"]) for group in groups) == 9
    with pytest.raises(ValueError, match="'head.*' and 'embed.*' both cover the parameter 'embed.weight'"):
        jm.optim.groups(model, {"head.*": {}, "embed.*": {}})


def test_named_parameters_are_taken_as_well() -> None:
    model = Net()
    for given in (model.named_parameters(), list(model.named_parameters())):
        assert len(jm.optim.groups(given, {"*.bias": {}})[0]["params"]) == 4
    with pytest.raises(
        TypeError, match=r"groups\(\) takes a module or its named_parameters\(\), got Parameter in there"
    ):
        jm.optim.groups(list(model.parameters()), {"*": {}})  # pyright: ignore
