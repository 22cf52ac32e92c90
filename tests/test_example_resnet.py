"""The script of the ResNet, with tiny settings: it runs, repeats, goes on after a kill, and reads CIFAR-10's files."""

import functools
import pickle
import re
import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule.optim.lr_scheduler import WarmupCosineLR
from jaxmodule.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tests.test_examples import EXAMPLES, run
from tests.test_examples_text import as_a_script, files_of, final, killed_and_resumed  # noqa: F401

pytest.importorskip("grain")
pytest.importorskip("mlxtend")

SCRIPT = "resnet.py"
TINY = "--width 2 --batch 50".split()


@pytest.fixture(scope="module")
def resnet():
    parts = runpy.run_path(str(EXAMPLES / SCRIPT))
    parts["main"].__globals__["mnist_data"] = functools.cache(parts["mnist_data"])  # a second for each reading
    return parts


def training(resnet, precision: str = "float32"):
    """What a step takes, and the step."""
    jm.manual_seed(0)
    model = resnet["ResNet"](1, 2, 8)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5)).eval()
    optimizer = jm.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    objects = model, average, optimizer, jm.amp.GradScaler(init_scale=2.0**8, enabled=precision == "float16")
    images = np.random.default_rng(0).integers(256, size=(8, 1, 28, 28), dtype=np.uint8)
    batch = images, np.arange(8, dtype=np.int32)
    return objects, lambda: resnet["train_step"](*objects, *batch, precision=precision)


def write_as_python_2(path, images: np.ndarray, labels: np.ndarray) -> None:
    """A batch in the opcodes of the archive's files, which Python 2 wrote: protocol 2, with text of its `str`."""
    count = len(labels)
    path.write_bytes(
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05("
        + b"".join(b"K" + bytes([label]) for label in labels)
        + b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85q\tU\x01bq\n\x87Rq"
        + b"\x0b(K\x01M%bM\x00\x0c\x86q\x0ccnumpy\ndtype\nq\rU\x02u1K\x00K\x01\x87Rq\x0e(K\x03U\x01|NNN"
        % count.to_bytes(2, "little")
        + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T%b%btbu."
        % (images.size.to_bytes(4, "little"), images.tobytes())
    )


@pytest.fixture
def cifar(tmp_path):
    """A folder of made files, and what is in them."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random, parts = np.random.default_rng(0), []
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        images, labels = random.integers(256, size=(12, 3072), dtype=np.uint8), random.integers(10, size=12)
        write_as_python_2(folder / name, images, labels)
        parts.append((images, labels))
    return folder, parts


def test_help_names_the_options_and_what_to_change_for_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [SCRIPT, "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_path(str(EXAMPLES / SCRIPT), run_name="__main__")
    output = capsys.readouterr().out
    assert all(option in output for option in ("--seed", "--every", "--out", "--fresh", "--precision", "on a GPU"))


def test_trains(cifar, tmp_path, monkeypatch):
    settings = ["--data", str(cifar[0]), *"--batch 20 --width 2 --epochs 1".split()]
    output = run(SCRIPT, *settings, "--out", str(tmp_path))
    assert re.fullmatch(r"final: accuracy \d+\.\d\d% \(EMA \d+\.\d\d%\) on 12 held-out images", final(output))
    assert "weight_decay=0.0005" in output
    files_of(tmp_path, "resnet")


@pytest.mark.slow
def test_goes_on_where_nothing_is_left_to_do_but_not_from_another_run(resnet, tmp_path, monkeypatch, capsys):
    def script(*arguments: str) -> str:
        settings = ["--batch", "1000", "--width", "2", "--epochs", "2", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", [SCRIPT, *settings, *arguments])
        resnet["main"]()
        return capsys.readouterr().out

    output = script()
    assert final(output).endswith(" on 1,000 held-out images")
    again = script()
    assert "going on after epoch 2" in again
    assert final(again) == final(output)
    with pytest.raises(SystemExit, match="is of another run"):
        script("--precision", "bfloat16")


# -- data --------------------------------------------------------------------------------------------------------------


def test_digits_are_split_by_the_seed(resnet):
    (images, labels), (held_out, true) = resnet["load_data"](None, 0)
    assert images.shape == (4000, 1, 28, 28)
    assert images.dtype == np.uint8
    assert images.max() == 255
    assert np.bincount(true).tolist() == [100] * 10
    assert np.bincount(labels).tolist() == [400] * 10
    assert (resnet["load_data"](None, 0)[1][0] == held_out).all()
    assert not (resnet["load_data"](None, 1)[1][0] == held_out).all()


def test_cifar_files(resnet, cifar):
    folder, parts = cifar
    (images, labels), (held_out, true) = resnet["load_data"](folder, 0)
    assert images.shape == (60, 3, 32, 32)
    assert (np.concatenate([images, held_out]).reshape(-1, 3072) == np.concatenate([part[0] for part in parts])).all()
    assert (np.concatenate([labels, true]) == np.concatenate([part[1] for part in parts])).all()


def test_cifar_files_that_are_missing_or_others(resnet, cifar, tmp_path, monkeypatch, capsys):
    folder, _ = cifar

    def refused() -> str:
        monkeypatch.setattr(sys, "argv", [SCRIPT, "--data", str(folder), "--out", str(tmp_path / "out")])
        with pytest.raises(SystemExit, match="^2$"):
            resnet["main"]()
        return capsys.readouterr().err

    class Evil:
        def __reduce__(self):
            return exec, ("raise RuntimeError('it was run')",)

    path = folder / "data_batch_3"
    whole = path.read_bytes()
    contents = {
        "names builtins.exec|names __builtin__.exec": pickle.dumps(Evil(), protocol=2),
        r"b'data'": pickle.dumps({b"labels": [1]}),
        "": whole[: len(whole) // 2],
        r"labels \[13\]": whole.replace(b"(K", b"(K\xffK", 1),
        "invalid load key": b"no pickle at all",
    }
    for message, content in contents.items():
        path.write_bytes(content)
        assert re.search(rf"--data: .*data_batch_3 is no batch of CIFAR-10's Python version: .*({message})", refused())
    path.unlink()
    assert re.search("--data: .*No such file or directory: '.*data_batch_3'", refused())


def test_batches_depend_on_the_seed_and_the_step(resnet):
    class Options:
        seed, batch, epochs = 3, 4, 3

    images, labels = np.arange(10)[:, None, None, None].astype(np.uint8), np.arange(10)
    seen = list(resnet["batches_from"](0, images, labels, Options))
    assert len(seen) == 6
    assert all(isinstance(array, jax.Array) and not array.committed for batch in seen for array in batch)
    assert all((x.ravel() == y).all() for x, y in seen)
    orders = [np.concatenate([labels for _, labels in seen[i : i + 2]]).tolist() for i in (0, 2, 4)]
    assert all(len(set(order)) == 8 for order in orders)
    assert len(set(map(tuple, orders))) == 3  # another one in each epoch

    later = [labels.tolist() for _, labels in resnet["batches_from"](3, images, labels, Options)]
    assert later == [labels.tolist() for _, labels in seen[3:]]
    Options.seed = 4
    assert later != [labels.tolist() for _, labels in resnet["batches_from"](3, images, labels, Options)]


# -- augmentation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 1, 28, 28), (16, 3, 32, 32)], ids=["digits", "CIFAR-10"])
def test_augmentation_keeps_shape_and_range_and_is_of_the_seed(resnet, shape):
    images = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    jm.manual_seed(1)
    first, other = resnet["augment"](images), resnet["augment"](images)
    jm.manual_seed(1)
    again = resnet["augment"](images)
    assert first.shape == shape
    assert first.dtype == jnp.float32
    assert first.min() >= 0
    assert first.max() <= 1 + 1e-6
    assert (first == again).all()
    assert not (first == other).all()
    assert not (first[0] == resnet["augment"](images[:1].repeat(2, 0))[0]).all()


def test_cifar_views_are_crops_and_mirror_images(resnet):
    image = np.random.default_rng(0).integers(256, size=(3, 32, 32), dtype=np.uint8)
    views = np.asarray(resnet["augment"](image[None].repeat(64, 0)))
    padded = np.pad(image / 255.0, ((0, 0), (4, 4), (4, 4)))
    found = set()
    for view in views:
        close = [
            (mirrored, y, x)
            for mirrored, content in enumerate((padded, padded[:, :, ::-1]))
            for y, x in np.ndindex(9, 9)
            if abs(content[:, y : y + 32, x : x + 32] - view).max() < 1e-4
        ]
        assert len(close) == 1
        found.add(close[0])
    assert {mirrored for mirrored, _, _ in found} == {0, 1}
    assert {y for _, y, _ in found} == {x for _, _, x in found} == set(range(9))


def test_digits_are_not_mirrored(resnet):
    images, _ = resnet["load_data"](None, 0)[0]
    views = np.asarray(resnet["augment"](images[:200]))

    def slant(images) -> np.ndarray:  # the sign of the covariance of x and y
        weights = images[:, 0] / images.sum((1, 2, 3))[:, None, None]
        y, x = np.mgrid[:28, :28]
        means = [(weights * a).sum((1, 2), keepdims=True) for a in (y, x)]
        return (weights * (y - means[0]) * (x - means[1])).sum((1, 2))

    assert np.corrcoef(slant(images[:200].astype(float)), slant(views))[0, 1] > 0.5


# -- the net and the step ----------------------------------------------------------------------------------------------


def test_names_are_those_of_torchvision(resnet):
    names = set(resnet["ResNet"](3, 4, 14).state_dict())
    norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    block = {"conv1.weight", "conv2.weight", *(f"bn{i}.{name}" for i in (1, 2) for name in norm)}
    wanted = {"conv1.weight", *(f"bn1.{name}" for name in norm), "fc.weight", "fc.bias"}
    for i in (1, 2, 3):
        wanted |= {f"layer{i}.{j}.{name}" for j in (0, 1) for name in block}
    for i in (2, 3):
        wanted |= {f"layer{i}.0.downsample.{name}" for name in ("0.weight", *(f"1.{name}" for name in norm))}
    assert names == wanted


def test_the_rate_changes_and_nothing_is_compiled_again(resnet, monkeypatch):
    traces, augment = [], resnet["augment"]
    monkeypatch.setitem(
        resnet["train_step"].__wrapped__.__globals__, "augment", lambda *a: (traces.append(1), augment(*a))[1]
    )
    objects, step = training(resnet)
    scheduler = WarmupCosineLR(objects[2], warmup_iters=2, total_iters=6)
    rates = set()
    for _ in range(6):
        assert np.isfinite(step())
        rates.add(scheduler.get_last_lr()[0])
        scheduler.step()
    assert len(rates) == 6
    assert len(traces) == 1


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_half_precision(resnet, precision):
    (model, *_), step = training(resnet, precision)
    exact = float(training(resnet)[1]())
    before = {name: np.asarray(value) for name, value in model.state_dict().items()}
    loss = step()
    np.testing.assert_allclose(loss, exact, rtol=0.02)
    assert float(loss) != exact
    assert all(p.dtype == jnp.float32 for p in model.parameters())
    assert all(
        (before[name] != value).any() for name, value in model.state_dict().items() if name.endswith("conv1.weight")
    )


def test_the_average_is_of_the_weights(resnet):
    (model, average, *_), step = training(resnet)
    seen = []
    for _ in range(3):
        step()
        seen.append(np.asarray(model.fc.weight))
    np.testing.assert_allclose(average.module.fc.weight, seen[0] / 4 + seen[1] / 4 + seen[2] / 2, rtol=1e-5)


def test_the_average_has_batchnorm_statistics_of_its_own(resnet):
    (_, average, *_), step = training(resnet)
    for _ in range(3):
        step()
    images = np.random.default_rng(1).integers(256, size=(40, 1, 28, 28), dtype=np.uint8)
    weights = {name: np.asarray(p) for name, p in average.named_parameters()}
    jm.manual_seed(5)
    resnet["renew_statistics"](average, images)
    assert not average.training
    assert all((weights[name] == p).all() for name, p in average.named_parameters())

    jm.manual_seed(5)
    x = average.module.conv1(resnet["augment"](images))
    np.testing.assert_allclose(average.module.bn1.running_mean, x.mean((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(average.module.bn1.running_var, x.var((0, 2, 3), ddof=1), rtol=1e-4)


def test_evaluation_in_parts(resnet):
    jm.manual_seed(0)
    model = resnet["ResNet"](1, 2, 8).eval()
    images = np.random.default_rng(0).integers(256, size=(1003, 1, 28, 28), dtype=np.uint8)
    labels = np.arange(1003, dtype=np.int32) % 10
    loss, predicted = resnet["evaluate"](model, images, labels)
    logits = np.asarray(model(images[-8:] / np.float32(255)))
    assert (predicted[-8:] == logits.argmax(1)).all()
    assert predicted.shape == (1003,)
    first, last = (
        resnet["evaluate"](model, images[part], labels[part])[0] for part in (slice(1000), slice(1000, None))
    )
    np.testing.assert_allclose(loss, (1000 * first + 3 * last) / 1003, rtol=1e-5)


# -- whole runs --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_goes_on_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_examples_text.EPOCHS", SCRIPT)
    killed_and_resumed(SCRIPT, TINY, tmp_path, steps=12)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_learns(tmp_path, precision):
    settings = "--width 8 --epochs 4 --batch 50".split()
    output = run(SCRIPT, *settings, "--precision", precision, "--out", str(tmp_path))
    of_weights, of_average = map(float, re.findall(r"([0-9.]+)%", final(output)))
    assert of_weights > 92
    assert of_average > 92
