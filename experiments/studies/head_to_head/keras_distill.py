"""KD by keras.distillation, and KD and SKD by skd_tf's Distiller, through Keras' fit, on the same batches."""

import keras

import skd_tf
from experiments.studies.head_to_head.views import Batches
from skd_tf import networks, schedules
from skd_tf.data.catalog import KNOWN_DATASETS
from skd_tf.distillation import optimizers

T, KD_WEIGHT = 4.0, 0.9


class Run(keras.utils.PyDataset):
    """All batches of a run, as one epoch of fit."""

    def __init__(self, folder, seed, steps):
        super().__init__(workers=1)
        self._batches, self._steps = Batches(folder, seed), steps

    def __len__(self):
        return self._steps

    def __getitem__(self, step):
        images, taught, labels = self._batches[step]
        return {"image": images, "teacher_logits": taught}, labels


def train(folder, framework, method, seed, peak, total, steps):
    """A student of this framework after `steps` of `total` steps, as a function of images."""
    known = KNOWN_DATASETS["cifar100"]
    student = networks.build(
        "resnet8", input_shape=known.image_shape, num_classes=100, mean=known.mean, std=known.std, seed=seed
    )
    config = skd_tf.Config(epochs=12, learning_rate=peak, momentum=0.9, weight_decay=5e-4)
    rates = schedules.Table(schedules.learning_rate(config, total // 12))
    optimizer = optimizers.make_optimizer(config.pick(optimizers.OptimizerSettings), rates)
    if framework == "skd_tf":
        loss = {"kd": "kd", "skd": "spherical"}[method]
        model = skd_tf.Distiller(student, loss=loss, temperature=T, kd_weight=KD_WEIGHT)
        model.compile(optimizer)
    else:  # the teacher of keras.distillation passes on the exported logits
        shapes = {"image": known.image_shape, "teacher_logits": (100,)}
        inputs = {name: keras.Input(shape, name=name) for name, shape in shapes.items()}
        teacher = keras.Model(inputs, keras.layers.Identity()(inputs["teacher_logits"]))
        loss = keras.distillation.LogitsDistillation(T, loss=keras.losses.KLDivergence())
        learner = keras.Model(inputs, student(inputs["image"]))
        model = keras.distillation.Distiller(teacher, learner, loss, student_loss_weight=1 - KD_WEIGHT)
        model.compile(optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(Run(folder, seed, steps), epochs=1, shuffle=False, verbose=0)
    return lambda images: student.predict(images, batch_size=500, verbose=0)
