"""`python -m jaxmodule.port parity`: what it prints, its exit status, and what it says when it can't compare."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import jaxmodule as jm
from jaxmodule.port._command import main

ROOT = Path(__file__).parent.parent.parent

ORIGINAL = """
from torch import nn

class Net(nn.Module):
    def __init__(self, act=None):
        super().__init__()
        print("this goes to stdout")
        self.embed = nn.Embedding(11, 8)
        self.encoder = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.BatchNorm1d(6))
        self.head = nn.Linear(8, 3)

    def forward(self, ids, bias=None):
        x = self.head(self.encoder(self.embed(ids)))
        return x if bias is None else x + bias

model = Net()
number = 3

def broken():
    raise ValueError("no data")

def failing():
    net = Net()
    net.forward = lambda ids: ids @ None
    return net

def leaving():
    raise SystemExit(0)

def ending():
    net = Net()
    def forward(ids):
        raise SystemExit(0)
    net.forward = forward
    return net

class Extra(Net):
    def __init__(self):
        super().__init__()
        self.seen = None

    def get_extra_state(self):
        return {"steps": 3}

    def set_extra_state(self, state):
        self.seen = state["steps"]
        assert self.seen == 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "original.py").write_text(ORIGINAL)
    port = ORIGINAL.replace("from torch import nn", "from jaxmodule import nn")
    (tmp_path / "port.py").write_text(port)
    (tmp_path / "wrong.py").write_text(port.replace("nn.GELU()", "nn.GELU('tanh')"))
    (tmp_path / "other.py").write_text(port.replace("self.encoder", "self.body"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    for name in ("original", "port", "wrong", "other"):
        sys.modules.pop(name, None)


IDS = ("--input", "2,6", "--dtype", "int64", "--high", "11")


def run(*arguments: str) -> int:
    return main(["parity", *arguments])


def test_as_a_process(tmp_path):
    command = [sys.executable, "-m", "jaxmodule.port", "parity", "original:Net", "wrong:Net", *IDS, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["first"]["path"] == "encoder.1"
    assert "this goes to stdout" in done.stderr


def test_agreement(capsys):
    assert run("original:Net", "port:Net", *IDS) == 0
    out = capsys.readouterr().out
    assert "agrees: 7 module calls agree" in out
    assert "encoder.1" in out


@pytest.mark.parametrize("wide", [80, 120])
def test_a_difference(capsys, monkeypatch, wide):
    monkeypatch.setenv("COLUMNS", str(wide))
    assert run("original.py:Net", "wrong.py:Net", *IDS, "--backward", "--train-step") == 1
    out = capsys.readouterr().out
    assert "first to differ: encoder.1 (GELU)" in out
    assert "approximate is 'none' in torch, 'tanh' in the port" in " ".join(out.split())
    assert all(word in out for word in ("Outputs", "Gradients", "Buffers", "FIRST"))
    assert max(map(len, out.splitlines())) <= wide


def test_json_is_all_there_is_on_stdout(capsys):
    assert run("original:Net", "port:Net", *IDS, "--json", "--backward") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["first"] is None
    assert {row["section"] for row in found["rows"]} == {"output", "gradient"}


def test_weights_of_every_kind(capsys):
    import original  # pyright: ignore[reportMissingImports]

    torch.manual_seed(5)
    state = original.Net().state_dict()
    jm.save(state, "a.safetensors")
    torch.save(state, "a.pt")
    torch.save({"epoch": 3, "model": {f"module.{name}": value for name, value in state.items()}}, "b.pt")
    torch.save({"epoch": 3, "ema": {"weights": state}}, "c.pt")
    outputs = []
    capsys.readouterr()
    for options in (["a.safetensors"], ["a.pt"], ["b.pt"], ["c.pt", "--key", "ema.weights"]):
        assert run("original:Net", "port:Net", *IDS, "--json", "--weights", *options) == 0
        captured = capsys.readouterr()
        outputs.append(json.loads(captured.out)["rows"])
        assert ("every name begins with 'module.'" in captured.err) == (options == ["b.pt"])
    assert all(rows == outputs[0] for rows in outputs)
    assert run("original:Net", "port:Net", *IDS, "--weights", "c.pt") == 2
    assert "holds no weights there; there is: 'epoch', 'ema'. Name the entry with the weights by --key" in (
        capsys.readouterr().err
    )


def test_weights_with_extra_state_or_inside_wrappers(capsys):
    import original  # pyright: ignore[reportMissingImports]

    state = original.Extra().state_dict()
    assert "_extra_state" in state
    torch.save(state, "extra.pt")
    assert run("original:Extra", "port:Extra", *IDS, "--weights", "extra.pt") == 0
    state = {f"model.module._orig_mod.{name}": value for name, value in original.Net().state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1}, "lightning.ckpt")
    assert run("original:Net", "port:Net", *IDS, "--weights", "lightning.ckpt") == 0
    assert "every name begins with 'model.module._orig_mod.'" in capsys.readouterr().err


EIGHT = """
import torch
import jax.numpy as jnp
import jaxmodule.nn

def old():
    net = torch.nn.Identity()
    net.register_buffer("q", torch.zeros(2, dtype=torch.float8_e4m3fn))
    net.register_forward_hook(lambda m, args, out: out * m.q.float())
    return net

def new():
    net = jaxmodule.nn.Identity()
    net.register_buffer("q", jnp.zeros(2, "float8_e4m3fn"))
    net.register_forward_hook(lambda m, args, out: out * m.q.astype("float32")[None])
    return net
"""


def test_weights_of_float8():
    Path("eight.py").write_text(EIGHT)
    torch.save({"q": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn)}, "eight.pt")
    assert run("eight.py:old", "eight.py:new", "--input", "2,2", "--weights", "eight.pt") == 0
    sys.modules.pop("eight")


@pytest.mark.parametrize("dtype", ["int64", "bfloat16", "complex64", "float64", "bool"])
def test_inputs_of_other_dtypes(dtype):
    Path("same.py").write_text(
        f"import torch, jaxmodule.nn\ndef old():\n    net = torch.nn.Identity()\n"
        f"    net.register_forward_hook(lambda m, args, out: out if out.dtype == torch.{dtype} else 1 / 0)\n"
        f"    return net\ndef new():\n    return jaxmodule.nn.Identity()\n"
    )
    assert run("same:old", "same:new", "--input", "2,3", "--dtype", dtype) == 0
    sys.modules.pop("same")


def test_names_that_differ(capsys):
    assert run("original:Net", "other:Net", *IDS) == 2
    assert 'Missing key(s) in state_dict: "body.0.weight"' in capsys.readouterr().err
    assert run("original:Net", "other:Net", *IDS, "--rename", "encoder=body", "--json", "--backward") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["status"] for row in rows} == {"ok"}  # modules are matched by the same rules
    assert run("original:Net", "other:Net", *IDS, "--rename-regex", "^enc(o)der=b\\1dy", "--train-step", "--json") == 0
    assert {row["status"] for row in json.loads(capsys.readouterr().out)["rows"]} == {"ok"}


def test_inputs_from_a_file_and_of_several_kinds(capsys):
    np.save("ids.npy", np.arange(12).reshape(2, 6) % 11)
    arguments = ("original:Net", "port:Net", "--input", "ids.npy", "--input", "2,6,3")
    assert run(*arguments, "--double", "--json") == 0
    assert json.loads(capsys.readouterr().out)["double"] is True
    typed = ("--input", "2,6", "--input", "2,6,3", "--dtype", "int32", "--dtype", "float32", "--high", "11")
    assert run("original:Net", "port:Net", *typed) == 0


def test_models_that_are_objects(capsys):
    assert run("original:model", "port:model", *IDS) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing:Net", "port:Net", *IDS), "'nothing:Net' can't be imported: ModuleNotFoundError"),
        (("nothing.py:Net", "port:Net", *IDS), "'nothing.py:Net': there is no file nothing.py"),
        (("original:Nat", "port:Net", *IDS), "'original:Nat': original has no 'Nat'"),
        (("original", "port:Net", *IDS), "'original' names no model; write package.module:name or path.py:name"),
        (("original:number", "port:Net", *IDS), "'original:number' is a int"),
        (("original:broken", "port:Net", *IDS), "original:broken() failed: ValueError: no data"),
        (("port:Net", "port:Net", *IDS), "port:Net gives a Net, not a torch.nn.Module"),
        (("original:Net", "original:Net", *IDS), "original:Net gives a Net, not a jaxmodule.nn.Module"),
        (("original:Net", "port:Net", "--input", "2,x"), "--input '2,x' is no shape"),
        (("original:Net", "port:Net", "--input", "a.npy"), "--input a.npy: [Errno 2] No such file"),
        (("original:Net", "port:Net", "--input", "2,6", "--dtype", "int5"), "--dtype 'int5' is no dtype"),
        (("original:Net", "port:Net", *IDS, "--dtype", "int8"), "--dtype is given 2 times for 1"),
        (("original:Net", "port:Net", *IDS, "--weights", "a.pt"), "there is no file a.pt"),
        (("original:Net", "port:Net", *IDS, "--weights", "port.py"), "port.py"),
        (("original:Net", "port:Net", *IDS, "--rename", "a"), "--rename 'a' has no '='"),
        (("original:Net", "port:Net", *IDS, "--rename", "a=b"), "matches none of the"),
        (("original:Net", "port:Net", *IDS, "--rename-regex", "(=b"), "--rename-regex '(' is no regular expression"),
        (("original:Net", "port:Net", "--input", "2,6"), "RuntimeError: Expected tensor for argument #1 'indices'"),
        (("original:Net", "port:failing", *IDS), "TypeError"),
        (("original:Net", "port:Net", "--input", "2,6", "--dtype", "int32", "--high", "0"), "--high 0: int32 inputs"),
        (("original:Net", "port:Net", "--input", "2,6", "--dtype", "int8", "--high", "300"), "so it is 1 to 128"),
        (("original:Net", "port:Net", "--input", "2,6", "--dtype", "U3"), "--dtype 'U3': there are no random inputs"),
        (("original:leaving", "port:Net", *IDS), "ended the program: SystemExit(0)"),
        (("original:Net", "port:ending", *IDS), "ended the program: SystemExit(0)"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared(capsys, arguments, message):
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("error: ") or "\nerror: " in f"\n{captured.err}"
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_a_crash_is_no_difference(capsys, monkeypatch):
    from jaxmodule.port import _command

    def crash(*_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(_command, "_print", crash)
    assert run("original:Net", "port:Net", *IDS) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: RecursionError: too deep"


def test_usage(capsys):
    for arguments in (["original:Net", "port:Net"], ["original:Net"], []):
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
        assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    assert "Exit status" in capsys.readouterr().out


def test_without_torch(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run("original:Net", "port:Net", *IDS) == 2
    assert "pip install torch" in capsys.readouterr().err
