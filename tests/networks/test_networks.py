"""The networks against PyTorch's definitions in float64 numpy, and against their published parameter counts."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf.errors import InputError
from skd_tf.networks import NETWORK_NAMES, NETWORKS, build, layers, registry, resnet

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SLOW = ["resnet32", "resnet44", "resnet110", "resnet32x4", "cifar_resnet50"]
SLOW += ["resnet34", "resnet50", "resnet101", "resnet152", "efficientnet_lite0", "efficientnet_lite1"]
SLOW += ["resnet56", "wrn_16_2", "wrn_40_1", "wrn_40_2", "vgg13", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2"]
ALL_NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NETWORK_NAMES]
# From resnet8 on, every 6 layers of a CIFAR ResNet add (278,324 - 83,892) / 2 = 97,216 parameters.
UNPUBLISHED = {"resnet14": 83_892 + 97_216, "resnet32": 83_892 + 4 * 97_216, "resnet44": 83_892 + 6 * 97_216}
UNPUBLISHED |= {"cnn_2": 638, "cnn_4": 1_320, "cnn_8": 3_116, "cnn_16": 8_436, "cnn_8_16_32": 9_388}
# Shifts of a channel that the next BatchNorm removes during training.
CANCELLED = {"vgg8": r"conv\d/bias", "vgg13": r"conv\d/bias", "mobilenet_v2": r"project_bn/beta"}
CANCELLED |= {"shufflenet_v2": r"block1_bn[14]/beta|block[2-8]_bn2/beta"}
CANCELLED |= dict.fromkeys(("efficientnet_lite0", "efficientnet_lite1"), r"project_bn/beta")


def random_images(*shape):
    return np.random.default_rng(7).uniform(0, 255, shape).astype("float32")


def small(name="resnet8", **options):
    return build(name, **{"input_shape": (8, 8, 3), "num_classes": 10} | options)


def parameters(network):
    return sum(int(np.prod(weight.shape)) for weight in network.trainable_variables)


def every_layer(make):
    images = keras.Input((4, 4, 24))
    outputs = make.conv(images, 240, 3, name="conv")
    outputs = make.grouped_pointwise_conv(outputs, 480, 3, name="grouped")
    outputs = make.depthwise_conv(outputs, name="depthwise")
    return keras.Model(images, make.dense(outputs, 100, name="dense"))


def pad(x, rows, **options):
    return np.pad(x, ((0, 0), (rows, rows), (rows, rows), (0, 0)), **options)


def pad_same(x, size, strides):
    """TensorFlow's "same": ceil(n / strides) outputs; of an odd number of zeros, one more at the bottom and right."""
    missing = [max((-(-n // strides) - 1) * strides + size - n, 0) for n in x.shape[1:3]]
    return np.pad(x, ((0, 0), *((count // 2, count - count // 2) for count in missing), (0, 0)))


def windows(x, size, strides):
    """`[batch, height, width, channels, size, size]`, without padding."""
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::strides, ::strides]


class TorchReference:
    """The layers of torch.nn in float64 numpy, channels last, with the weights of a network by layer name."""

    same, epsilon, ceiling = False, 1e-5, np.inf

    def __init__(self, network):
        self.weights = {la.name: [w.numpy().astype("float64") for w in la.weights] for la in network.layers}
        found = set(re.findall(r"stage\d_block\d+", " ".join(self.weights)))
        self.blocks = sorted(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])

    def conv(self, x, name, stride=1):
        """torch.nn.Conv2d(kernel_size=k, stride=stride, padding=k // 2); the weights determine the groups."""
        if name not in self.weights:
            parts = enumerate(np.split(x, 3, -1), start=1)
            return np.concatenate([self.conv(part, f"{name}_group{i}") for i, part in parts], -1)
        kernel, *bias = self.weights[name]
        padded = pad_same(x, len(kernel), stride) if self.same else pad(x, len(kernel) // 2)
        patches = windows(padded, len(kernel), stride)
        if kernel.shape[3] == 1:
            return np.einsum("nhwcij,ijc->nhwc", patches, kernel[..., 0])
        return np.tensordot(patches, kernel, ((4, 5, 3), (0, 1, 2))) + (bias[0] if bias else 0)

    def bn(self, x, name, relu=True):
        gamma, beta, mean, variance = self.weights[name]
        x = (x - mean) / np.sqrt(variance + self.epsilon) * gamma + beta
        return np.clip(x, 0, self.ceiling) if relu else x

    def unit(self, x, name, stride=1, relu=True):
        return self.bn(self.conv(x, name.format("conv"), stride), name.format("bn"), relu)

    def head(self, x):
        kernel, bias = self.weights["logits"]
        return x.mean((1, 2)) @ kernel + bias


def take_statistics(network, images):
    """Makes BatchNorm's moving statistics those of the images."""
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    network(images, training=True)


def stride_of(name, unless=("stage1_block1",)):
    return 2 if name.endswith("_block1") and name not in unless else 1


def torch_resnet(torch, x):
    imagenet = len(torch.weights["stem_conv"][0]) == 7
    x = torch.unit(x, "stem_{}", 2 if imagenet else 1)
    x = windows(pad(x, 1, constant_values=-np.inf), 3, 2).max((4, 5)) if imagenet else x
    for name in torch.blocks:
        y, last = x, 3 if f"{name}_conv3" in torch.weights else 2
        for k in range(1, last + 1):
            y = torch.unit(y, f"{name}_{{}}{k}", stride_of(name) if k == last - 1 else 1, relu=k < last)
        if f"{name}_shortcut_conv" in torch.weights:
            x = torch.unit(x, f"{name}_shortcut_{{}}", stride_of(name), relu=False)
        elif x.shape != y.shape:
            half = (y.shape[-1] - x.shape[-1]) // 2
            x = np.pad(x[:, :: stride_of(name), :: stride_of(name)], ((0, 0), (0, 0), (0, 0), (half, half)))
        x = np.maximum(x + y, 0)
    return torch.head(x)


def torch_wide_resnet(torch, x):
    x = torch.conv(x, "stem_conv")
    for name in torch.blocks:
        active = torch.bn(x, f"{name}_bn1")
        y = torch.bn(torch.conv(active, f"{name}_conv1", stride_of(name)), f"{name}_bn2")
        if f"{name}_shortcut_conv" in torch.weights:
            x = torch.conv(active, f"{name}_shortcut_conv", stride_of(name))
        x = x + torch.conv(y, f"{name}_conv2")
    return torch.head(torch.bn(x, "head_bn"))


def torch_vgg8(torch, x):
    for stage in range(1, 6):
        x = torch.unit(x, f"stage{stage}_{{}}1")
        x = windows(x, 2, 2).max((4, 5)) if stage < 4 else x
    return torch.head(x)


def torch_mobilenet_v2(torch, x):
    x = torch.unit(x, "stem_{}", 2)
    for name in torch.blocks:
        stride = stride_of(name, [f"stage{stage}_block1" for stage in (1, 2, 5, 7)])
        y = torch.unit(torch.unit(x, f"{name}_expand_{{}}"), f"{name}_depthwise_{{}}", stride)
        y = torch.unit(y, f"{name}_project_{{}}", relu=False)
        x = x + y if stride == 1 and x.shape == y.shape else y
    return torch.head(torch.unit(x, "head_{}"))


def torch_efficientnet_lite(torch, x):
    torch.same, torch.epsilon, torch.ceiling = True, 1e-3, 6
    x = torch.unit(x, "stem_{}", 2)
    for name in torch.blocks:
        stride = stride_of(name, [f"stage{stage}_block1" for stage in (1, 5, 7)])
        y = x if name == "stage1_block1" else torch.unit(x, f"{name}_expand_{{}}")
        y = torch.unit(torch.unit(y, f"{name}_depthwise_{{}}", stride), f"{name}_project_{{}}", relu=False)
        x = x + y if stride == 1 and x.shape == y.shape else y
    return torch.head(torch.unit(x, "head_{}"))


def shuffle(x, groups):
    return x.reshape(*x.shape[:3], groups, -1).swapaxes(3, 4).reshape(x.shape)


def torch_shufflenet_v1(torch, x):
    x = torch.unit(x, "stem_{}")
    for name in torch.blocks:
        stride = stride_of(name, unless=())
        y = shuffle(torch.unit(x, f"{name}_{{}}1"), 1 if name == "stage1_block1" else 3)
        y = torch.unit(torch.unit(y, f"{name}_{{}}2", stride), f"{name}_{{}}3", relu=False)
        average = windows(pad(x, 1), 3, 2).mean((4, 5))
        x = np.maximum(x + y if stride == 1 else np.concatenate([y, average], -1), 0)
    return torch.head(x)


def torch_shufflenet_v2(torch, x):
    x = torch.unit(x, "stem_{}")
    for name in torch.blocks:
        stride = stride_of(name, unless=())
        left, right = np.split(x, 2, -1) if stride == 1 else (x, x)
        if stride == 2:
            left = torch.unit(torch.unit(left, f"{name}_{{}}1", 2, relu=False), f"{name}_{{}}2")
        for k, number in enumerate("123" if stride == 1 else "345"):
            right = torch.unit(right, f"{name}_{{}}{number}", stride if k == 1 else 1, relu=k != 1)
        x = shuffle(np.concatenate([left, right], -1), 2)
    return torch.head(torch.unit(x, "head_{}"))


@pytest.mark.parametrize(
    ("name", "input_shape", "forward"),
    [
        ("resnet20", (12, 12, 3), torch_resnet),
        pytest.param("resnet8x4", (9, 10, 1), torch_resnet, marks=pytest.mark.slow),
        pytest.param("bottlenecks", (38, 36, 3), torch_resnet, marks=pytest.mark.slow),
        ("wrn_16_1", (28, 28, 1), torch_wide_resnet),
        pytest.param("vgg8", (28, 28, 1), torch_vgg8, marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", (24, 24, 3), torch_mobilenet_v2, marks=pytest.mark.slow),
        pytest.param("shufflenet_v1", (12, 12, 3), torch_shufflenet_v1, marks=pytest.mark.slow),
        pytest.param("shufflenet_v2", (12, 12, 3), torch_shufflenet_v2, marks=pytest.mark.slow),
        ("efficientnet_lite0", (38, 45, 3), torch_efficientnet_lite),
    ],
)
def test_logits_equal_torch_and_survive_saving(name, input_shape, forward, tmp_path, monkeypatch):
    entry = registry.Network(resnet.bottleneck_resnet, {"blocks": (1, 2, 1, 1), "stem": resnet.imagenet_stem})
    monkeypatch.setitem(NETWORKS, "bottlenecks", entry)
    mean, std = MEAN[: input_shape[-1]], STD[: input_shape[-1]]
    options = {"shortcut": "pad"} if name == "resnet8x4" else {}
    network = build(name, input_shape=input_shape, num_classes=7, mean=mean, std=std, **options)
    rng = np.random.default_rng(11)
    for weight in network.weights:  # an initial 0 or 1 could hide a mistake
        if not weight.path.endswith("kernel"):
            weight.assign(rng.uniform(0.2, 1.5, weight.shape))

    images = random_images(2, *input_shape)
    if name == "efficientnet_lite0":  # with random statistics, what its many layers add would hide the images
        take_statistics(network, images)
    expected = forward(TorchReference(network), (images.astype("float64") / 255 - mean) / std)
    logits = network(images, training=False).numpy()
    assert logits.dtype == "float32" and logits.shape == (2, 7)
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())
    if name in ("shufflenet_v1", "resnet20", "efficientnet_lite0"):  # layers as in the others
        return
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras", safe_mode=True)
    assert loaded.name == network.name == name and loaded.input_shape == (None, *input_shape)
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in network.layers]
    np.testing.assert_array_equal(loaded(images, training=False).numpy(), logits)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_published_parameters_all_receive_a_gradient(name):
    published = NETWORK_NAMES[name]
    num_classes = published.num_classes if published else 100
    size = 32 if num_classes == 1000 else 8
    network = build(name, input_shape=(size, size, 3), num_classes=num_classes, mean=MEAN, std=STD)
    assert parameters(network) == (published.parameters if published else UNPUBLISHED[name])

    def gradient_norms(training):
        images = random_images(8, size, size, 3)
        direction = np.random.default_rng(5).normal(size=(8, num_classes))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(network(images, training=training) * direction)
        norms = [float(tf.norm(g)) for g in tape.gradient(loss, network.trainable_variables)]
        assert np.isfinite(norms).all()
        return dict(zip((weight.path for weight in network.trainable_variables), norms, strict=True))

    norms = gradient_norms(training=True)
    cancelled = {path for path in norms if re.search(CANCELLED.get(name, "^$"), path)}
    assert {path for path, norm in norms.items() if norm < 1e-4} == cancelled
    assert not cancelled or min(gradient_norms(training=False).values()) > 0


def test_padded_shortcuts_have_no_parameters():
    network = small("resnet20", shortcut="pad")
    assert parameters(network) == 269_722  # akamaster's, option A
    assert not [weight for weight in network.weights if "shortcut" in weight.path]
    assert [layer.name for layer in network.layers[:2]] == ["images", "stem_conv"]  # no normalisation by default


def test_weights_depend_only_on_the_seed():
    def weights(seed):
        keras.utils.set_random_seed(int(np.random.default_rng().integers(2**31)))
        made = dict(enumerate(weight.numpy() for weight in every_layer(layers.LayerMaker(seed)).weights))
        return {weight.path: weight.numpy() for weight in small(seed=seed).weights} | made

    first, again, other = weights(3), weights(3), weights(4)
    assert list(first) == list(again) == list(other)
    assert all(np.array_equal(values, again[path]) for path, values in first.items())
    kernels = [path for path, values in first.items() if values.ndim > 1]
    # The ranks of its first numbers identify a draw at any scale; paths of the two models are str and int.
    drawn = {(type(p), *made[p].ravel()[:12].argsort()) for made in (first, other) for p in kernels}
    assert len(kernels) == 10 + 6 and len(drawn) == 2 * len(kernels)


def test_initial_scale_is_torch_kaiming_fan_out():
    fans = {"conv": 9 * 240, "grouped_group1": 480, "depthwise": 9 * 480, "dense": 6 * 480}
    model = every_layer(layers.LayerMaker(0))
    for name, fan in fans.items():
        kernel = model.get_layer(name).kernel.numpy()
        assert abs(kernel.var() * fan / 2 - 1) < 6 / kernel.size**0.5, name
    assert np.abs(kernel).max() <= 480**-0.5 and not model.get_layer("dense").bias.numpy().any()


def test_logits_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = small(mean=MEAN, std=STD)
    finally:
        keras.config.set_dtype_policy("float32")
    computed = {layer.name: layer.compute_dtype for layer in network.layers}
    assert computed["normalisation"] == computed["logits"] == "float32" != computed["stem_conv"]
    assert network(random_images(2, 8, 8, 3)).dtype == "float32"


def test_every_batch_norm_has_the_same_class(monkeypatch):
    monkeypatch.setattr(layers, "BATCH_NORM", type("Exchanged", (keras.layers.BatchNormalization,), {}))
    found = [layer for layer in small().layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(found) == 9 and all(type(layer).__name__ == "Exchanged" for layer in found)
    assert {(layer.momentum, layer.epsilon) for layer in found} == {(0.9, 1e-5)}


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"name": "resnet9"}, ["name='resnet9'", *NETWORK_NAMES]),
        ({"num_classes": 1}, ["num_classes=1", "at least 2"]),
        ({"input_shape": (8, 8)}, ["input_shape=(8, 8)", "(height, width, channels)"]),
        ({"name": "vgg8", "input_shape": (8, 7, 3)}, ["vgg8", "at least 8 pixels", "(8, 7, 3)"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"mean": MEAN}, ["std=None", "3 finite numbers"]),
        ({"mean": MEAN, "std": (1, 1, 0)}, ["std=(1, 1, 0)", "positive"]),
        ({"shortcut": "identity"}, ["shortcut='identity'", "projection, pad"]),
        ({"depth": 20}, ["depth=20", "one of shortcut"]),
        ({"name": "vgg8", "shortcut": "pad"}, ["shortcut='pad'", "none"]),
    ],
)
def test_errors_are_one_line_with_a_remedy(arguments, words):
    with pytest.raises(InputError) as error:
        small(**arguments)
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message
    assert re.fullmatch(r".+\. Expected .+\. Received .+=.+\. .+\.", message)


def test_names_do_not_import_tensorflow():
    assert list(NETWORKS) == list(NETWORK_NAMES)
    program = "import sys, skd_tf.networks.names; assert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
