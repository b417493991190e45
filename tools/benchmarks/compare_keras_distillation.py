"""The same distillation by keras.distillation, by keras.io's example and by skd_tf: what each learns, side by side.

    python -m tools.benchmarks.compare_keras_distillation --output=experiments/results/digits/keras_distillation.json \
        --page=docs/migrating.md

One teacher, one student's initial weights a seed, the same digits, order, optimizer, rates, temperature and weights, no
augmentation; some minutes on two CPU cores. Run it again on a newer Keras: the record names the versions, and the table in
--page, between its two markers, is written anew from the record.
"""

import functools
import pathlib
import statistics

from absl import flags

from skd_tf.config import app
from skd_tf.errors import InputError

TEMPERATURE, LABEL_SHARE, RATE, BATCH = 4.0, 0.1, 0.05, 32
MARKERS = "<!-- compare_keras_distillation: begin -->", "<!-- compare_keras_distillation: end -->"
COLUMNS = {
    "accuracy": ("top-1", "{:.4f}"),
    "deviation": ("standard deviation", "{:.4f}"),
    "distance": ("weights after one epoch, distance from skd_tf's", "{:.0e}"),
    "shift": ("change of the loss when all logits rise by 3", "{:.0%}"),
    "blind": ("student logits without gradient", "{:.0%}"),
    "saved": ("parameters in the saved file", "{:,}"),
}


def define(flag_values):
    flags.DEFINE_integer("seeds", 3, "seeds 0 to n - 1", lower_bound=2, flag_values=flag_values)
    flags.DEFINE_integer("epochs", 20, "of every training", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_string("output", None, "JSON record to write", flag_values=flag_values)
    flags.DEFINE_string("page", None, "Markdown page whose table is written anew", flag_values=flag_values)


def main(flag_values):
    from skd_tf.runtime import tf_logging

    tf_logging.import_tensorflow()
    import keras
    import numpy as np

    from skd_tf import data, networks
    from skd_tf.config import Config
    from skd_tf.runs import metrics_log
    from skd_tf.runs.workdir import write_json
    from skd_tf.runtime.console import say

    digits = data.load(Config(dataset="digits", validation_fraction=0))
    net = {"input_shape": digits.image_shape, "num_classes": digits.num_classes, "mean": digits.mean, "std": digits.std}
    steps = flag_values.epochs * (len(digits.train) // BATCH)

    def train(model, seed, student):
        """Returns the student's weights after the first epoch: later, float32 rounding has grown into differences."""
        keras.utils.set_random_seed(seed)  # the order
        count = len(digits.train) // BATCH * BATCH
        early = []
        remember = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: early.append(student.get_weights()))
        model.fit(
            digits.train.images[:count],
            digits.train.labels[:count],
            batch_size=BATCH,
            epochs=flag_values.epochs,
            verbose=0,
            callbacks=[remember],
        )
        return np.concatenate([weight.ravel() for weight in early[0]])

    def optimizer():
        return keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(RATE, steps), momentum=0.9)

    contenders = make_contenders(optimizer)
    teacher = networks.build("resnet8", **net, seed=0)
    train(contenders["student alone"](teacher, None), 0, teacher)
    accuracy = functools.partial(top1, digits.test)
    record, early = {"teacher": accuracy(teacher), "rows": {}}, {}
    student_logits, teacher_logits = networks.build("cnn_4", **net, seed=0)(digits.train.images[:256]), None
    teacher_logits = teacher(digits.train.images[:256])
    for name, make in contenders.items():
        accuracies = []
        for seed in range(flag_values.seeds):
            student = networks.build("cnn_4", **net, seed=seed)
            model = make(student, teacher)
            weights = train(model, seed, student)
            early.setdefault(name, weights)
            accuracies.append(accuracy(student))
        row = {
            "accuracy": statistics.mean(accuracies),
            "deviation": statistics.stdev(accuracies),
            "accuracies": accuracies,
        }
        row["saved"] = sum(weight.numpy().size for weight in model.weights)
        if name in DISTILL_TERMS:
            row |= probe(
                functools.partial(DISTILL_TERMS[name](), np.asarray(teacher_logits)), np.asarray(student_logits)
            )
        record["rows"][name] = row
        say(f"{name}: {row['accuracy']:.4f}")
    for name, reference in REFERENCES.items():
        distance = np.linalg.norm(early[name] - early[reference]) / np.linalg.norm(early[reference])
        record["rows"][name]["distance"] = float(distance)
    record |= {
        "seeds": flag_values.seeds,
        "epochs": flag_values.epochs,
        "versions": metrics_log.versions(),
        "device": metrics_log.device(1),
    }
    print("\n" + table(record))
    if flag_values.output:
        write_json(flag_values.output, record)
    if flag_values.page:
        page = pathlib.Path(flag_values.page)
        page.write_text(with_table(page.read_text(encoding="utf-8"), record), encoding="utf-8")


def make_contenders(optimizer):
    """Name -> (student, teacher) -> a compiled model to fit, whose student ends up trained."""
    import keras

    import skd_tf

    cross_entropy = functools.partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True)

    def alone(student, teacher):
        student.compile(optimizer(), loss=cross_entropy())
        return student

    def keras_own(loss, student, teacher):
        model = keras.distillation.Distiller(teacher, student, loss, student_loss_weight=LABEL_SHARE)
        model.compile(optimizer(), loss=cross_entropy())
        return model

    def keras_io(student, teacher):
        model = example_distiller()(student, teacher)
        model.compile(optimizer())
        return model

    def ours(loss, student, teacher):
        model = skd_tf.Distiller(student, teacher, loss, temperature=TEMPERATURE, kd_weight=1 - LABEL_SHARE)
        model.compile(optimizer())
        return model

    logits = keras.distillation.LogitsDistillation
    return {
        "student alone": alone,
        "keras.distillation, its default loss": lambda s, t: keras_own(logits(TEMPERATURE), s, t),
        "keras.distillation, loss=KLDivergence()": lambda s, t: keras_own(
            logits(TEMPERATURE, loss=keras.losses.KLDivergence()), s, t
        ),
        "keras.io's example": keras_io,
        'skd_tf, loss="kd"': functools.partial(ours, "kd"),
        "keras.distillation, SphericalDistillation()": lambda s, t: keras_own(
            skd_tf.keras_losses.SphericalDistillation(TEMPERATURE), s, t
        ),
        'skd_tf, loss="spherical"': functools.partial(ours, "spherical"),
    }


@functools.cache
def example_distiller():
    """A Distiller with the loss of keras.io's example: alpha * CE + (1 - alpha) * T^2 * KL of softmaxes."""
    import keras
    from keras import ops

    class ExampleDistiller(keras.Model):
        def __init__(self, student, teacher):
            super().__init__()
            self.student, self.teacher = student, teacher
            teacher.trainable = False

        def call(self, images, training=False):
            return self.student(images, training=training)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            label = ops.mean(keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True))
            return LABEL_SHARE * label + (1 - LABEL_SHARE) * divergence(self.teacher(x, training=False), y_pred)

    return ExampleDistiller


def divergence(teacher_logits, student_logits):
    """keras.io's distillation loss."""
    import keras
    from keras import ops

    probabilities = [
        ops.softmax(ops.convert_to_tensor(z) / TEMPERATURE, axis=1) for z in (teacher_logits, student_logits)
    ]
    return keras.losses.KLDivergence()(*probabilities) * TEMPERATURE**2


def _keras_term(**settings):
    import keras

    return keras.distillation.LogitsDistillation(TEMPERATURE, **settings).compute_loss


def _kl_term():
    import keras

    return _keras_term(loss=keras.losses.KLDivergence())


def _our_term(loss, **settings):
    import numpy as np
    from keras import ops

    from skd_tf import losses

    def term(teacher_logits, student_logits):
        unlabelled = np.full(len(teacher_logits), -1)
        function = losses.LOSSES[loss].function
        return ops.mean(
            function(student_logits, teacher_logits, unlabelled, temperature=TEMPERATURE, **settings)["distill"]
        )

    return term


def _spherical_term():
    import skd_tf

    return skd_tf.keras_losses.SphericalDistillation(TEMPERATURE).compute_loss


DISTILL_TERMS = {  # name -> () -> function of (teacher logits, student logits): the distill term alone
    "keras.distillation, its default loss": _keras_term,
    "keras.distillation, loss=KLDivergence()": _kl_term,
    "keras.io's example": lambda: divergence,
    'skd_tf, loss="kd"': functools.partial(_our_term, "kd"),
    "keras.distillation, SphericalDistillation()": _spherical_term,
    'skd_tf, loss="spherical"': functools.partial(_our_term, "spherical", radius=2 * 10**0.5),
}


# Which of our losses a row means to be.
REFERENCES = {name: 'skd_tf, loss="kd"' for name in DISTILL_TERMS if "pherical" not in name}
REFERENCES["keras.distillation, SphericalDistillation()"] = 'skd_tf, loss="spherical"'
del REFERENCES['skd_tf, loss="kd"']


def probe(term, student_logits):
    """What a distill term must not do: change with a shift that no softmax sees, or leave logits without a gradient."""
    import tensorflow as tf

    logits = tf.constant(student_logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = term(logits)
    gradient = tape.gradient(loss, logits).numpy()
    return {"shift": abs(float(term(logits + 3.0)) / float(loss) - 1), "blind": float((gradient == 0).mean())}


def top1(split, model):
    import numpy as np

    return float(np.mean(np.argmax(model.predict(split.images, verbose=0), axis=1) == split.labels))


def table(record):
    """The record as a Markdown table."""
    lines = ["| | " + " | ".join(title for title, _ in COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in record["rows"].items():
        cells = [form.format(row[key]) if key in row else "" for key, (_, form) in COLUMNS.items()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    versions = record["versions"]
    lines += [
        "",
        f"Teacher {record['teacher']:.4f}. {record['seeds']} seeds, {record['epochs']} epochs; "
        f"keras {versions['keras']}, tensorflow {versions['tensorflow']}.",
    ]
    return "\n".join(lines)


def with_table(page, record):
    """A page's text with the table between the markers written anew."""
    before, begin, rest = page.partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not begin or not end:
        raise InputError(
            f"The page has no place for the table. Expected {MARKERS[0]} and {MARKERS[1]}. Received neither."
        )
    return f"{before}{begin}\n\n{table(record)}\n\n{end}{after}"


if __name__ == "__main__":
    app.run(
        main, description="keras.distillation, keras.io's example and skd_tf on one job.", define=define, required=()
    )
