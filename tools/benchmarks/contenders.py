"""The contenders of the step benchmark, and the data and networks that other benchmarks share."""

import contextlib
import os
import tempfile
import threading
from functools import partial
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from skd_tf import data, networks
from skd_tf.config import Config
from skd_tf.data import augmentation
from skd_tf.distillation import optimizers
from skd_tf.distillation.distiller import Distiller
from skd_tf.evaluation import cost
from skd_tf.models import deployable
from skd_tf.models.precision import set_precision
from skd_tf.training.teacher import Teacher
from tools.benchmarks import made_logits
from tools.benchmarks.interleaved import Contender

STEPS = 30  # of a round
CLASSES, IMAGES = 100, 12_800
PRODUCT = 2048


class Job(NamedTuple):
    """What every contender of one race trains."""

    student: str
    teacher: str
    batch_size: int


def make_dataset() -> data.Dataset:
    """CIFAR-shaped random images; skd_tf's pipeline gives all contenders the same augmented input."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, [IMAGES, 32, 32, 3], np.uint8)
    split = data.Split(images, random.integers(0, CLASSES, IMAGES).astype(np.int32), np.arange(IMAGES))
    names = tuple(map(str, range(CLASSES)))
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    return data.Dataset("random", "1", names, mean, std, augmentation.Augmentation(4, True), split, None, None)


def make_net(name: str, dataset: data.Dataset, *, stock: bool) -> keras.Model:
    """A network for the dataset; with `stock`, of Keras' own layers."""
    facts = {"input_shape": dataset.image_shape, "num_classes": CLASSES, "mean": dataset.mean, "std": dataset.std}
    net = networks.build(name, **facts)
    return deployable.stock_copy(net) if stock else net


def _stream(dataset, job, **options):
    steps, config = IMAGES // job.batch_size, Config(batch_size=job.batch_size)
    return data.train_stream(
        dataset,
        config.pick(data.StreamSettings),
        steps_per_epoch=steps,
        first_step=0,
        last_step=1000 * steps,
        **options,
    )


def ours(job: Job, *, precision: str = "float32", cached: bool = False, loss: str = "spherical") -> Contender:
    """skd_tf with its Distiller, optimizer, pipeline and default steps per call."""
    dataset, logits_of, teacher, folder = make_dataset(), None, None, tempfile.mkdtemp()
    config = Config(loss=loss, precision=precision, teacher_precision=precision, batch_size=job.batch_size)
    if loss != "cross_entropy":
        path, net = f"{folder}/teacher.keras", make_net(job.teacher, dataset, stock=True)
        # The logits of an untrained resnet110 reach 4e8, too much for a float16 cache; scaled ones cost the same time.
        logits = net.get_layer("logits")
        logits.kernel.assign(1e-6 * logits.kernel)
        net.save(path)
        config = config.replace(teacher_cache_dir=folder if cached else "", teacher_cache_epochs=int(cached))
        opened = Teacher(path, config, dataset, tf.distribute.get_strategy())
        logits_of, teacher = (opened.epoch_logits(1), None) if cached else (None, opened.model)
    distiller = Distiller(set_precision(make_net(job.student, dataset, stock=False), precision), teacher, loss)
    distiller.compile(optimizers.make_optimizer(config.pick(optimizers.OptimizerSettings), 0.05))
    iterator = iter(_stream(dataset, job, teacher_logits=logits_of))

    def run():
        for done in range(0, STEPS, config.steps_per_call):
            distiller.run_steps(iterator, min(config.steps_per_call, STEPS - done))
        return distiller.means.result()

    return Contender(run, STEPS)


def keras_distillation(job: Job, *, precision: str = "float32") -> Contender:
    """keras.distillation.Distiller on stock layers in one endless fit(), as documented, with a correct loss."""
    dataset = make_dataset()
    teacher, student = (
        set_precision(make_net(name, dataset, stock=True), precision) for name in (job.teacher, job.student)
    )
    # The default loss, a string, skips the softmax and the temperature.
    loss = keras.distillation.LogitsDistillation(temperature=4.0, loss=keras.losses.KLDivergence())
    distiller = keras.distillation.Distiller(teacher=teacher, student=student, distillation_losses=loss)
    distiller.compile(
        optimizer=keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=5e-4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    go, done = threading.Semaphore(0), threading.Semaphore(0)

    class Pause(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch % STEPS == 0:
                go.acquire()

        def on_train_batch_end(self, batch, logs=None):
            if batch % STEPS == STEPS - 1:
                done.release()

    failed = []

    def fit():
        try:
            distiller.fit(_stream(dataset, job), callbacks=[Pause()], verbose=0, steps_per_epoch=10**6)
        except Exception as error:
            failed.append(error)
        done.release()

    threading.Thread(target=fit, daemon=True).start()

    def run():
        go.release()
        done.acquire()
        if failed:
            raise failed[0]

    return Contender(run, STEPS)


def torch_authors(job: Job, *, fast: bool = False, compiled: bool = False) -> Contender:
    """The paper authors' PyTorch step: live teacher, layer_norm(z) * 2 on both; fast: channels_last and bfloat16."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # a pool of compilers would outlive this process
    import torch
    from torch.nn import functional

    from tools.benchmarks.torch_resnet import resnet

    torch.set_num_threads(os.cpu_count())
    memory_format = torch.channels_last if fast else torch.contiguous_format
    student, teacher = (resnet(name, CLASSES).to(memory_format=memory_format) for name in (job.student, job.teacher))
    teacher.eval()
    if compiled:
        student, teacher = torch.compile(student), torch.compile(teacher)
    optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    dataset = make_dataset()
    mean, std = (torch.tensor(value).reshape(1, 3, 1, 1) * 255 for value in (dataset.mean, dataset.std))
    batches = _stream(dataset, job).as_numpy_iterator()
    half = torch.autocast("cpu", torch.bfloat16) if fast else contextlib.nullcontext()

    def sphere(z):
        return functional.layer_norm(z.float(), z.shape[1:], eps=1e-7) * 2

    def step():
        images, labels = next(batches)
        x = (torch.from_numpy(images).permute(0, 3, 1, 2) - mean) / std
        x = x.contiguous(memory_format=memory_format)
        with half:
            with torch.no_grad():
                t = sphere(teacher(x))
            s = student(x)
        s = sphere(s)
        distill = functional.kl_div(
            functional.log_softmax(s / 4, 1), functional.softmax(t / 4, 1), reduction="batchmean"
        )
        loss = 0.9 * 16 * distill + 0.1 * functional.cross_entropy(s, torch.from_numpy(labels).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Contender(lambda: [step() for _ in range(STEPS)], STEPS)


def pipeline(job: Job) -> Contender:
    """skd_tf's input alone: augmented batches with cached logits, without training."""
    steps = 20 * STEPS  # more than the buffers hold
    logits = made_logits.make(tempfile.mkdtemp(), IMAGES, CLASSES)
    batches = iter(_stream(make_dataset(), job, teacher_logits=logits))
    return Contender(lambda: [next(batches) for _ in range(steps)], steps)


def matrix_product(job: Job, *, precision: str = "float32") -> Contender:
    """The machine's limit: a "step" is one matrix product of PRODUCT x PRODUCT x PRODUCT."""
    a = tf.cast(tf.random.normal([PRODUCT, PRODUCT]), precision)
    product = tf.function(lambda: tf.matmul(a, a)[0, 0])
    return Contender(lambda: [product().numpy() for _ in range(STEPS)], STEPS)


CONTENDERS = {
    "keras.distillation float32": keras_distillation,
    "keras.distillation bfloat16": partial(keras_distillation, precision="bfloat16"),
    "ours live float32": ours,
    "ours live bfloat16": partial(ours, precision="bfloat16"),
    "ours cached float32": partial(ours, cached=True),
    "ours cached bfloat16": partial(ours, precision="bfloat16", cached=True),
    "floor float32": partial(ours, loss="cross_entropy"),
    "floor bfloat16": partial(ours, precision="bfloat16", loss="cross_entropy"),
    "PyTorch eager float32": torch_authors,
    "PyTorch channels_last bfloat16": partial(torch_authors, fast=True),
    "PyTorch compiled bfloat16": partial(torch_authors, fast=True, compiled=True),
    "pipeline": pipeline,
    "matrix product float32": matrix_product,
    "matrix product bfloat16": partial(matrix_product, precision="bfloat16"),
}
GROWTH = ("ours live float32", "ours cached float32", "ours live bfloat16", "ours cached bfloat16")


def operations(name: str, job: Job) -> int | None:
    """Floating-point operations per step, 2 for a multiply-add; None if the step runs no network.

    The forward pass and the two gradients take as many each: the student counts three times, a live teacher once.
    """
    if name.startswith("matrix product"):
        return 2 * PRODUCT**3
    if name == "pipeline":
        return None
    dataset = make_dataset()
    student, teacher = (
        cost.flops(make_net(net, dataset, stock=True), dataset.image_shape) for net in (job.student, job.teacher)
    )
    live = not any(word in name for word in ("cached", "floor"))
    return job.batch_size * (3 * student + live * teacher)
