"""One contender of the step benchmark, in a process of its own: makes a round's steps for each line on standard input.

    python -m tools.benchmarks.contenders NAME '{"student": "resnet20", "teacher": "resnet56", "batch_size": 64}'

Answers each line with the milliseconds of a step, and the line "end" with {"peak_memory_mb", ...}.
"""

import json
import os
import sys

from tools.benchmarks import interleaved

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # for all: TensorFlow leaves it off on CPUs without AVX512-VNNI

STEPS = 30  # of a round
CLASSES, IMAGES = 100, 12_800
PRODUCT = 2048


def steps_of(contender):
    """Steps of a round; the pipeline's must be more than its buffers hold."""
    return 20 * STEPS if contender == "pipeline" else STEPS


def make_dataset():
    """CIFAR-shaped random images through the product's own pipeline: the same augmented input for all."""
    import numpy as np

    from skd_tf import data
    from skd_tf.data import augmentation

    random = np.random.default_rng(0)
    images = random.integers(0, 256, [IMAGES, 32, 32, 3], np.uint8)
    split = data.Split(images, random.integers(0, CLASSES, IMAGES).astype(np.int32), np.arange(IMAGES))
    names = tuple(map(str, range(CLASSES)))
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    return data.Dataset("random", "1", names, mean, std, augmentation.Augmentation(4, True), split, None, None)


def make_net(name, dataset, *, stock):
    from skd_tf import networks
    from skd_tf.models import deployable

    facts = {"input_shape": dataset.image_shape, "num_classes": CLASSES, "mean": dataset.mean, "std": dataset.std}
    net = networks.build(name, **facts)
    return deployable.stock_copy(net) if stock else net


def _stream(dataset, job, **options):
    from skd_tf import data
    from skd_tf.config import Config

    steps = IMAGES // job["batch_size"]
    config = Config(batch_size=job["batch_size"], **options.pop("settings", {}))
    return data.train_stream(dataset, config, steps_per_epoch=steps, first_step=0, last_step=1000 * steps, **options)


def ours(job, *, precision="float32", cached=False, loss="spherical"):
    """The product: its Distiller, optimizer, pipeline and default steps per call."""
    import tempfile

    import tensorflow as tf

    from skd_tf.config import Config
    from skd_tf.distillation import optimizers
    from skd_tf.distillation.distiller import Distiller
    from skd_tf.models import precision as precisions
    from skd_tf.training.teacher import Teacher

    dataset, files, teacher = make_dataset(), None, None
    config = Config(loss=loss, precision=precision, teacher_precision=precision, batch_size=job["batch_size"])
    if loss != "cross_entropy":
        folder = tempfile.mkdtemp()
        path, net = f"{folder}/teacher.keras", make_net(job["teacher"], dataset, stock=True)
        # Untrained, resnet110's logits are 4e8, which no float16 record holds; their time is the same.
        logits = net.get_layer("logits")
        logits.kernel.assign(1e-6 * logits.kernel)
        net.save(path)
        config = config.replace(teacher_cache_dir=folder if cached else "", teacher_cache_epochs=int(cached))
        opened = Teacher(path, config, dataset, tf.distribute.get_strategy())
        if cached:
            files = opened.epoch_files(1)
        else:
            teacher = opened.model
    student = precisions.set_precision(make_net(job["student"], dataset, stock=False), precision)
    distiller = Distiller(student, teacher, loss)
    distiller.compile(optimizers.make_optimizer(config, 0.05))
    settings = {"teacher_cache_dir": "x" if cached else ""}
    iterator = iter(_stream(dataset, job, logit_files=files, settings=settings))

    def steps():
        left = STEPS
        while left:
            count = min(config.steps_per_call, left)
            distiller.run_steps(iterator, count)
            left -= count
        return distiller.means.result()

    return steps


def keras_distillation(job, *, precision="float32"):
    """keras.distillation.Distiller on stock layers in one endless fit(), as its documentation has it, the loss corrected."""
    import threading

    import keras

    from skd_tf.models.precision import set_precision

    dataset = make_dataset()
    nets = (make_net(job[name], dataset, stock=True) for name in ("teacher", "student"))
    teacher, student = (set_precision(net, precision) for net in nets)
    # A string here would skip the softmax and the temperature.
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

    options = {"callbacks": [Pause()], "verbose": 0, "steps_per_epoch": 10**6}
    threading.Thread(target=distiller.fit, args=(_stream(dataset, job),), kwargs=options, daemon=True).start()

    def steps():
        go.release()
        done.acquire()

    return steps


def torch_authors(job, *, fast=False, compiled=False):
    """The authors' step in PyTorch: teacher live, layer_norm(z) * 2 on both; fast: channels_last and bfloat16."""
    import contextlib
    import pathlib

    import torch

    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    from tools.benchmarks.torch_resnet import resnet

    torch.set_num_threads(os.cpu_count())
    student, teacher = resnet(job["student"], CLASSES), resnet(job["teacher"], CLASSES).eval()
    if fast:
        student, teacher = (net.to(memory_format=torch.channels_last) for net in (student, teacher))
    if compiled:
        student, teacher = torch.compile(student), torch.compile(teacher)
    optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    dataset = make_dataset()
    mean, std = (torch.tensor(value).reshape(1, 3, 1, 1) * 255 for value in (dataset.mean, dataset.std))
    batches = _stream(dataset, job).as_numpy_iterator()
    half = torch.autocast("cpu", torch.bfloat16) if fast else contextlib.nullcontext()

    def sphere(z):
        return torch.nn.functional.layer_norm(z.float(), z.shape[1:], eps=1e-7) * 2

    def step():
        images, labels = next(batches)
        x = (torch.from_numpy(images).permute(0, 3, 1, 2) - mean) / std
        x = x.contiguous(memory_format=torch.channels_last) if fast else x.contiguous()
        with half:
            with torch.no_grad():
                t = teacher(x)
            s = student(x)
        s, t = sphere(s), sphere(t)
        functional = torch.nn.functional
        distill = functional.kl_div(
            functional.log_softmax(s / 4, 1), functional.softmax(t / 4, 1), reduction="batchmean"
        )
        loss = 0.9 * 16 * distill + 0.1 * functional.cross_entropy(s, torch.from_numpy(labels).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return lambda: [step() for _ in range(STEPS)]


def pipeline(job):
    """The product's input alone: augmented batches with cached logits, and nobody who trains on them."""
    import pathlib
    import tempfile

    import numpy as np

    from skd_tf.data import teacher_cache

    dataset, folder = make_dataset(), pathlib.Path(tempfile.mkdtemp())
    cache = teacher_cache.TeacherCache(folder, "float16", print)
    cache.write("logits", np.random.default_rng(0).normal(size=[IMAGES, CLASSES]))
    files = [str(cache.path("logits"))]
    batches = iter(_stream(dataset, job, logit_files=files, settings={"teacher_cache_dir": str(folder)}))
    return lambda: [next(batches) for _ in range(steps_of("pipeline"))]


def matrix_product(job, *, precision="float32"):
    """The machine's limit: one matrix product of PRODUCT x PRODUCT x PRODUCT a "step"."""
    import tensorflow as tf

    a = tf.cast(tf.random.normal([PRODUCT, PRODUCT]), precision)
    product = tf.function(lambda: tf.matmul(a, a)[0, 0])
    return lambda: [product().numpy() for _ in range(STEPS)]


CONTENDERS = {
    "keras.distillation float32": keras_distillation,
    "keras.distillation bfloat16": lambda job: keras_distillation(job, precision="bfloat16"),
    "ours live float32": ours,
    "ours live bfloat16": lambda job: ours(job, precision="bfloat16"),
    "ours cached float32": lambda job: ours(job, cached=True),
    "ours cached bfloat16": lambda job: ours(job, precision="bfloat16", cached=True),
    "floor float32": lambda job: ours(job, loss="cross_entropy"),
    "floor bfloat16": lambda job: ours(job, precision="bfloat16", loss="cross_entropy"),
    "PyTorch eager float32": torch_authors,
    "PyTorch channels_last bfloat16": lambda job: torch_authors(job, fast=True),
    "PyTorch compiled bfloat16": lambda job: torch_authors(job, fast=True, compiled=True),
    "pipeline": pipeline,
    "matrix product float32": matrix_product,
    "matrix product bfloat16": lambda job: matrix_product(job, precision="bfloat16"),
}
GROWTH = ("ours live float32", "ours cached float32", "ours live bfloat16", "ours cached bfloat16")


def operations(name, job):
    """Floating point operations of a contender's step, 2 for a multiply-add; None where a step is none of a network.

    Forward and both gradients take as many each: the student counts three times, a live teacher once.
    """
    from skd_tf.evaluation import cost

    if name.startswith("matrix product"):
        return 2 * PRODUCT**3
    if name == "pipeline":
        return None
    dataset = make_dataset()
    nets = (make_net(job[net], dataset, stock=True) for net in ("student", "teacher"))
    student, teacher = (cost.flops(net, dataset.image_shape) for net in nets)
    live = not any(word in name for word in ("cached", "floor"))
    return job["batch_size"] * (3 * student + live * teacher)


if __name__ == "__main__":
    contender, job = sys.argv[1], json.loads(sys.argv[2])
    interleaved.serve(lambda: (CONTENDERS[contender](job), interleaved.resident_mb), steps_of(contender))
