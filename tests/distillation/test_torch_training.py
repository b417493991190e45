"""Training a resnet8 equals a plain PyTorch loop that starts from the same weights and gets the same batches."""

import numpy as np
import pytest

from skd_tf import networks, schedules
from skd_tf.config import Config
from skd_tf.distillation import optimizers
from skd_tf.distillation.distiller import Distiller
from tools.convert_torch.convert import convert

torch = pytest.importorskip("torch")
from tests.tools import torch_nets  # noqa: E402

F = torch.nn.functional
_STEPS, _BATCH, _CLASSES, _T = 6, 32, 10, 4.0
_PIXELS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


class TrainedNet(torch_nets.Net):
    """A network with the parameters in `state`, whose BatchNorm layers use the statistics of the batch."""

    def bn(self, x, name):
        parts = (self.state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, training=True, eps=1e-5)


def resnet8(net, images):
    x = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    return torch_nets.resnet(
        net, x, _CLASSES, blocks=(1, 1, 1), widths=(16, 16, 32, 64), shortcut="downsample", head="fc"
    )


def by_torch(config, state, images, taught, labels, rates):
    """The loss of every step, and the weights after the last."""

    def projected(z):
        """Logits on the sphere, as in the authors' code: their m = 2 is R = 2 sqrt(C). Unchanged for plain KD."""
        if config.loss == "kd":
            return z
        return 2 * F.layer_norm(z, [_CLASSES]) if config.center else 2 * _CLASSES**0.5 * F.normalize(z, dim=1)

    net = TrainedNet()
    net.state = {name: value.clone() for name, value in state.items()}
    learned = [value.requires_grad_() for name, value in net.state.items() if name.endswith((".weight", ".bias"))]
    optimizer = torch.optim.SGD(learned, momentum=0.9, weight_decay=5e-4)
    losses = []
    for x, t, y, rate in zip(images, taught, labels, rates, strict=True):
        optimizer.param_groups[0]["lr"] = float(rate)
        z, t = projected(resnet8(net, torch.tensor(x))), projected(torch.tensor(t))
        distill = F.kl_div((z / _T).log_softmax(1), (t / _T).softmax(1), reduction="batchmean") * _T**2
        loss = 0.1 * F.cross_entropy(z, torch.tensor(y)) + 0.9 * distill
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: value.detach() for name, value in net.state.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"loss": "kd"}, {"loss": "spherical"}, {"loss": "spherical", "center": False}],
    ids=("kd", "skd", "not_centered"),
)
def test_steps_are_those_of_pytorch(settings):
    config = Config(**settings, learning_rate=0.1, momentum=0.9, weight_decay=5e-4, epochs=3, warmup_epochs=0)
    rates = schedules.learning_rate(config, _STEPS // 3)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (_STEPS, _BATCH, 32, 32, 3)).astype("float32")
    taught = random.normal(size=(_STEPS, _BATCH, _CLASSES)).astype("float32") * 6
    labels = random.integers(0, _CLASSES, (_STEPS, _BATCH))

    net = torch_nets.Net()
    with torch.no_grad():
        resnet8(net, torch.tensor(images[0]))
    _, expected = by_torch(config, net.state, images, taught, labels, rates)
    double = doubled(net.state), images.astype("float64"), taught.astype("float64")
    true_losses, true = by_torch(config, *double, labels, rates)

    student = ours(net.state)
    distiller = Distiller(student, loss=config.loss, temperature=_T, kd_weight=0.9, center=config.center)
    distiller.compile(
        optimizers.make_optimizer(config.pick(optimizers.OptimizerSettings), schedules.Table(rates)), jit_compile=True
    )
    history = [
        distiller.train_on_batch({"image": x, "teacher_logits": t}, y, return_dict=True)["loss"]
        for x, t, y in zip(images, taught, labels, strict=True)
    ]

    def error(weights):
        return distance(weights, ours(true)) / distance(ours(net.state), ours(true))

    # Rounding errors grow with every step. The limit is the error of PyTorch's float32 against its float64.
    assert error(student) < 2 * error(ours(expected)) < 0.2
    np.testing.assert_allclose(history, true_losses, rtol=1e-4)
    assert np.ptp(true_losses) > 0.1


def ours(state):
    """This package's network with the weights of PyTorch's."""
    tensors = {name: value.float().numpy() for name, value in state.items()}
    converted = convert(tensors, "resnet8", input_size=32, **_PIXELS)
    network = networks.build("resnet8", input_shape=(32, 32, 3), num_classes=_CLASSES, **_PIXELS)
    network.set_weights(converted.get_weights())
    return network


def doubled(state):
    return {name: value.double() for name, value in state.items()}


def distance(one, other):
    """The Euclidean distance between the trainable weights of two networks."""
    pairs = zip(one.trainable_variables, other.trainable_variables, strict=True)
    return sum(np.sum((a.numpy() - b.numpy()) ** 2) for a, b in pairs) ** 0.5
