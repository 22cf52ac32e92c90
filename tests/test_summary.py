"""`jm.summary`: counts, shapes and FLOPs of a model, its table and its tree; and that the model is left alone."""

import copy
import html.parser
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F

Struct = jax.ShapeDtypeStruct


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.drop = nn.Dropout(0.5)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(self.drop(F.relu(self.up(self.norm(x)))))


class Model(nn.Module):
    def __init__(self, width: int = 4, blocks: int = 3, words: int = 10) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(blocks)])
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight
        self.embed.weight.requires_grad_(False)
        self.register_buffer("seen", jnp.zeros((), jnp.int32))

    def forward(self, ids, scale=1.0):
        x = self.embed(ids) * scale
        for block in self.blocks:
            x = block(x)
        self.seen += 1
        return {"logits": self.head(x), "last": x[:, -1]}


IDS = Struct((2, 5), jnp.int32)
BLOCK = 8 + (4 * 8 + 8) + (8 * 4 + 4)


def by_path(found: jm.port.Summary) -> dict[str, jm.port.SummaryRow]:
    return {row.path: row for row in found.rows}


# -- counts ----------------------------------------------------------------------------------------------------------


def test_parameters():
    found = jm.summary(Model())
    assert (found.total_params, found.trainable, found.frozen, found.buffers) == (40 + 3 * BLOCK, 3 * BLOCK, 40, 1)
    assert found.bytes == 4 * found.total_params + 4
    assert found.tied == {"head.weight": "embed.weight"}
    assert found.flops is found.flops_backward is None
    assert found.inputs == ""
    rows = by_path(found)
    assert [row.path for row in found.rows] == [name for name, _ in Model().named_modules()]
    assert (rows["embed"].frozen, rows["head"].params, rows["blocks"].params) == (40, 0, 3 * BLOCK)
    assert rows["head"].tied == {"head.weight": "embed.weight"}
    assert rows["blocks.1.up"].extra == "in_features=4, out_features=8, bias=True"
    assert (rows["blocks.1.up"].depth, rows["blocks.1.up"].name, rows["blocks.1.up"].type) == (3, "up", "Linear")
    assert rows[""].dtypes == ("f32",)


def test_a_module_under_two_names_is_one_row():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = self.b = nn.Linear(3, 3)

        def forward(self, x):
            return self.b(self.a(x)[:1])

    found = jm.summary(Shared(), (2, 3))
    assert [row.path for row in found.rows] == ["", "a"]
    assert found.total_params == 12
    row = found.rows[1]
    assert row.names == ("a", "b")
    assert [call.output.shape for call in row.calls] == [(2, 3), (1, 3)]
    assert "f32[2,3]" in str(found)
    assert "also b" in found.to_text(120)


def test_dtypes_and_uninitialized():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).bfloat16(), nn.LazyLinear(2))
    found = jm.summary(model)
    assert found.rows[0].dtypes == ("f32", "bf16")
    assert found.rows[0].param_bytes == 12 * 4 + 12 * 2
    assert found.rows[3].uninitialized == ("2.weight", "2.bias")
    assert "not yet" in str(found)
    assert "Dtype" in str(found)
    lazy = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    with_shapes = jm.summary(lazy, (8, 3))
    assert with_shapes.rows[1].flops > 2 * 8 * 3 * 4  # with those of making the parameters, at the first call
    assert type(lazy[0]) is nn.LazyLinear


def test_shardings():
    mesh = jax.make_mesh((4,), ("x",))
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[0].to(jax.NamedSharding(mesh, jax.P("x")))
    found = jm.summary(model)
    assert found.rows[1].shardings == {"weight": "P(x)", "bias": "P(x)"}
    assert found.rows[2].shardings == {}
    assert "Sharding" in str(found)
    assert "weight P(x)" in found._repr_html_()
    abstract = nn.Linear(8, 8, bias=False, device="meta").to(jax.NamedSharding(mesh, jax.P(None, "x")))
    assert jm.summary(abstract).rows[0].shardings == {"weight": "P(–, x)"}
    assert "Sharding" not in str(jm.summary(nn.Linear(8, 8)))


# -- calls -----------------------------------------------------------------------------------------------------------


def test_shapes_of_every_call():
    found = jm.summary(Model(), IDS)
    rows = by_path(found)
    assert rows[""].calls[0].output["logits"] == Struct((2, 5, 10), jnp.float32)
    assert rows["blocks.2.up"].calls[0].args == (Struct((2, 5, 4), jnp.float32),)
    assert rows["blocks.2.up"].calls[0].output == Struct((2, 5, 8), jnp.float32)
    assert rows["blocks"].calls == []
    assert found.inputs == "i32[2,5]"
    assert "{last: f32[2,4], logits: f32[2,5,10]}" in found.to_text(160)


class Many(nn.Module):
    def forward(self, x, pair, *, named=None, flag=False):
        return (x, pair[0]) if flag else named


@pytest.mark.parametrize(
    ("x", "shape", "dtype"),
    [
        ((2, 3), (2, 3), jnp.float32),
        (jnp.ones((2, 3), jnp.bfloat16), (2, 3), jnp.bfloat16),
        (np.ones((2, 3), np.int32), (2, 3), jnp.int32),
        (np.float32(1), (), jnp.float32),
        (Struct((4,), jnp.uint8), (4,), jnp.uint8),
        (nn.Parameter(jnp.ones(3)), (3,), jnp.float32),
    ],
)
def test_inputs_may_be_arrays_or_shapes(x, shape, dtype):
    found = jm.summary(Many(), x, [(7,), {"k": (1, 2)}], named=(3, 3), flag=True)
    call = found.rows[0].calls[0]
    assert call.args == (Struct(shape, dtype), [Struct((7,), jnp.float32), {"k": Struct((1, 2), jnp.float32)}])
    assert call.kwargs == {"named": Struct((3, 3), jnp.float32), "flag": True}
    assert call.output == (Struct(shape, dtype), Struct((7,), jnp.float32))


def test_a_forward_that_cannot_be_traced_says_what_to_do():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        jm.summary(Branching(), (3,))
    assert any("jnp.where or jm.cond" in note for note in caught.value.__notes__)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever the embedding says of floats
        jm.summary(Model(), (2, 5))
    assert any("jax.ShapeDtypeStruct(shape, jnp.int32)" in note for note in caught.value.__notes__)
    with pytest.raises(TypeError, match=r"summary\(\) takes a Module, got function"):
        jm.summary(lambda x: x, (3,))


def test_the_model_is_left_alone():
    model = Model()
    model.blocks[0].eval()
    model.head.register_forward_hook(lambda module, args, out: None)
    step = jm.jit(lambda model, ids: model(ids)["logits"])
    ids = jnp.ones((2, 5), jnp.int32)
    step(model, ids)
    modes = [module.training for module in model.modules()]
    traces = []
    handle = model.blocks[1].register_forward_hook(lambda *_: traces.append(1))
    step(model, ids)
    assert len(traces) == 1
    rng = jm.get_rng_state()
    before = copy.deepcopy(model.state_dict())
    tree = jax.tree.structure(model)
    jm.summary(model, ids, backward=True)
    del traces[:]
    assert jax.tree.structure(model) == tree
    assert modes == [module.training for module in model.modules()]
    np.testing.assert_array_equal(jm.get_rng_state(), rng)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    step(model, ids)
    assert traces == []  # no new program
    handle.remove()


def test_a_model_without_values():
    with jm.device("meta"):
        model = Model()
    real = jm.summary(Model(), IDS, backward=True)
    assert str(jm.summary(model, IDS, backward=True)) == str(real)


# -- FLOPs -----------------------------------------------------------------------------------------------------------


def test_flops_of_matrix_products():
    assert jm.summary(nn.Linear(32, 64, bias=False), (8, 32)).flops == 2 * 8 * 32 * 64
    assert jm.summary(nn.Linear(32, 64), (8, 32)).flops == 2 * 8 * 32 * 64 + 8 * 64
    conv = nn.Conv2d(16, 32, 3, groups=4, bias=False)  # on CPU it is lowered in another way, with more operations
    assert jm.summary(conv, (2, 16, 10, 10)).flops == 2 * (2 * 32 * 8 * 8) * (4 * 9)


def test_flops_of_gradients():
    found = jm.summary(
        nn.Sequential(nn.Linear(32, 64, bias=False), nn.Linear(64, 64, bias=False)), (8, 32), backward=True
    )
    first, second = found.rows[1:]
    assert first.flops_backward == pytest.approx(2 * first.flops, rel=0.01)  # by the weight and by the input
    assert found.flops_backward == pytest.approx(first.flops + 2 * second.flops, rel=0.02)  # not by the model's input
    frozen = nn.Linear(32, 64, bias=False).requires_grad_(False)
    assert jm.summary(frozen, (8, 32), backward=True).flops_backward == 0


def test_loops_count_with_their_length():
    class Loop(nn.Module):
        def __init__(self, run):
            super().__init__()
            self.fc = nn.Linear(8, 8, bias=False)
            self.run = run

        def forward(self, x):
            return self.run(self.fc, x)

    one = 2 * 4 * 8 * 8
    scan = Loop(lambda fc, x: jm.scan(lambda c, _: (fc(c), None), x, None, length=10)[0])
    nested = Loop(lambda fc, x: jm.fori_loop(0, 3, lambda i, x: jm.fori_loop(0, 5, lambda j, x: fc(x), x), x))
    unknown = Loop(lambda fc, x: jm.while_loop(lambda x: x.sum() < 0, fc, x))
    assert jm.summary(scan, (4, 8)).flops == pytest.approx(10 * one, rel=0.01)
    assert jm.summary(nested, (4, 8)).flops == pytest.approx(15 * one, rel=0.01)
    found = jm.summary(unknown, (4, 8))
    assert found.flops == pytest.approx(one, rel=0.1)
    assert found.rows[0].at_least
    assert "≥ " in str(found)
    assert not jm.summary(scan, (4, 8)).rows[0].at_least


def test_flops_of_long_attention_is_the_formula():
    class Attention(nn.Module):
        def forward(self, q):
            return F.scaled_dot_product_attention(q, q, q, is_causal=True)

    found = jm.summary(Attention(), (1, 2, 4096, 16))
    assert found.flops == pytest.approx(2 * 2 * 2 * 4096**2 * 16, rel=0.2)
    assert not found.rows[0].at_least


def test_equal_layers_are_counted_once(monkeypatch):
    from jaxmodule.port import _summary_trace

    counted = []
    flops = _summary_trace.flops
    monkeypatch.setattr(_summary_trace, "flops", lambda traced: counted.append(1) or flops(traced))
    found = jm.summary(Model(blocks=12), IDS)
    assert len(counted) == 8  # the model, embed, head, Block, norm, up, drop, down
    assert len({row.flops for row in found.rows if row.type == "Block"}) == 1


def test_a_module_that_cannot_be_called_by_itself_has_no_flops():
    class Inner(nn.Module):
        def forward(self, x):
            return x * self.get()[None]

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(jnp.ones(3))
            self.inner = Inner()

        def forward(self, x):
            self.inner.get = lambda: self.scale
            return self.inner(x)

    found = jm.summary(Outer(), (2, 3))
    assert found.flops == 6
    assert found.rows[1].flops is None
    assert found.to_text(80).splitlines()[3].endswith("?")


# -- what is shown ---------------------------------------------------------------------------------------------------


def test_the_table():
    text = jm.summary(Model(), IDS).to_text(80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["Module", "Output", "Parameters", "FLOPs"]
    assert any(line.startswith("├─ embed Embedding") and "40 frozen" in line for line in lines)
    assert any(line.startswith("│  └─ 0–2 3 × Block") and f" {BLOCK} " in line for line in lines)
    assert any(line.startswith("└─ head Linear") and " tied " in line for line in lines)
    assert "head.weight = embed.weight (counted once)" in text
    assert f"{40 + 3 * BLOCK:,}: {3 * BLOCK:,} trainable, 40 frozen (f32)" in text


def test_the_table_fits():
    found = jm.summary(Model(), IDS, backward=True)
    for width in (60, 80, 100, 120, 160):
        lines = found.to_text(width).splitlines()
        assert max(map(len, lines)) <= width
        assert ("Input" in lines[0]) == (width >= 120)
        assert "FLOPs" in lines[0]


def test_depth_and_expand():
    model = Model()
    assert "Linear" not in jm.summary(model, IDS, depth=2).to_text(80).replace("head Linear", "")
    assert len(jm.summary(model, depth=0).to_text(80).splitlines()) < 12
    expanded = jm.summary(model).to_text(80, expand=True)
    assert all(f"{i} Block" in expanded for i in range(3))
    model.blocks[1].up.weight.requires_grad_(False)
    assert "×" not in jm.summary(model).to_text(80).replace("n × Layer", "")


def test_it_can_be_printed_in_a_rich_layout(capsys):
    from rich.console import Console

    console = Console(width=90)
    console.print(jm.summary(Model(), IDS))
    assert "3 × Block" in capsys.readouterr().out


def test_plain_data():
    data = jm.summary(Model(), IDS, backward=True).as_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["rows"][1]["inputs"] == ["i32[2,5]"]
    assert data["rows"][0]["outputs"] == ["{last: f32[2,4], logits: f32[2,5,10]}"]


class _Balanced(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.text, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_html():
    class Evil(nn.Module):
        def extra_repr(self):
            return "<script>alert('&')</script>"

        def forward(self, x):
            return x

    model = Model()
    model.add_module("a<b", Evil())
    page = jm.summary(model, IDS)._repr_html_()
    found = _Balanced()
    found.feed(page)
    assert found.open == []
    assert "script" not in found.tags
    assert "a<b" in found.text
    assert "(<script>alert('&')</script>)" in found.text
    assert "3 × Block" in found.text
    assert "http" not in page
    assert "<details open>" in page


# treescope looks through all of numpy for public names, the deprecated ones too.
@pytest.mark.filterwarnings("ignore:The chararray class is deprecated")
@pytest.mark.filterwarnings("ignore:numpy.core.* is deprecated:DeprecationWarning")
def test_treescope_shows_modules_and_boxes():
    treescope = pytest.importorskip("treescope")
    model = Model()
    text = treescope.render_to_text(model, ignore_exceptions=False)
    for part in ("embed=Embedding(", "weight=Parameter(", "requires_grad=False", "seen=Buffer(", "in_features=4"):
        assert part in text
    assert "_forward_hooks" not in text
    with jm.device("meta"):
        model = Model()
    assert "ShapeDtypeStruct" in treescope.render_to_text(model, ignore_exceptions=False)
    assert "<treescope-" in treescope.render_to_html(model, ignore_exceptions=False)
    assert "UninitializedParameter(" in treescope.render_to_text(nn.LazyLinear(2), ignore_exceptions=False)
