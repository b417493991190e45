"""Arguments of a Distiller, of compile and fit: as in Keras, or refused in one line; an optimizer belongs to one model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import InputError
from tests.helpers.nets import CLASSES, batches, conv_net, make_distiller, weights_of


@pytest.mark.parametrize("pieces", [0, -1, 2.5, "2", None])
def test_micro_batches_are_a_whole_number(pieces):
    with pytest.raises(InputError, match=r"whole number >= 1.*micro_batches="):
        make_distiller().compile("sgd", micro_batches=pieces)


@pytest.mark.parametrize("schedule", [0.5, "linear 0 to 0.9 over 5 epochs", np.ones(3)])
def test_a_schedule_is_a_function(schedule):
    with pytest.raises(
        InputError, match=r"not a function of the step.*skd_tf\.schedules\.Table.*kd_weight of the type"
    ):
        make_distiller().compile("sgd", schedules={"kd_weight": schedule})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_smoothing": None}, "label_smoothing is not a number"),
        ({"feature_pairs": ["conv2d"]}, r"not pairs of layer names.*also for one pair"),
        ({"feature_pairs": ("conv2d", "conv2d")}, "not pairs of layer names"),
        (
            {"loss": lambda student, teacher: {}},
            r"other arguments.*\(student, teacher\): too many positional arguments",
        ),
        ({"loss": "dkd", "loss_settings": "beta"}, "not a list of loss settings"),
        ({"teacher_weights": ["2"]}, "teacher_weights is not a number"),
        ({"teacher_weights": 2}, "teacher_weights are not a list"),
        ({"loss_settings": [("beta", 2)]}, "loss_settings is not a dict"),
        ({"temperature": None}, "temperature is not a number"),
        ({"feature_pairs": 5}, "not pairs of layer names"),
        ({"feature_weight": 3}, "there is no feature term.*feature_weight=3"),
        ({"center": "no"}, "center is not valid.*True or False"),
        ({"loss": "spherical", "radius": True}, "radius is not valid"),
        ({"kd_weight": -1}, "Expected a number >= 0. Received kd_weight=-1.0. Give a number in range"),
        ({"loss": "dkd", "label_smoothing": 0.1}, "which label smoothing spreads"),
        ({"teacher": lambda images: images}, "The teacher is not a model"),
    ],
)
def test_wrong_arguments_of_a_distiller_are_refused_in_one_line(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        Distiller(conv_net(1), **{"teacher": conv_net(2)} | arguments)
    assert len(str(caught.value).splitlines()) == 1


def test_wrong_arguments_of_its_methods_are_refused_in_one_line(tmp_path):
    ((images, labels),) = batches(1)
    distiller, logits = make_distiller(), np.zeros([8, CLASSES], "float32")
    logits[6] = np.nan
    given = {"image": images, "teacher_logits": logits}
    dataset = tf.data.Dataset.from_tensor_slices((given, labels)).batch(4)
    single = tf.data.Dataset.from_tensor_slices((images, labels))
    clash = keras.metrics.SparseCategoricalAccuracy(name="loss")
    for words, call in {
        "finite numbers. Received teacher_logits=nan": lambda: distiller.fit(given, labels, batch_size=4, verbose=0),
        "logits are not finite.* Received teacher_logits=nan": lambda: distiller.fit(dataset, verbose=0),
        "labels have another shape.*Batch the dataset": lambda: distiller.fit(single, verbose=0),
        "labels are not numbers.*y of text": lambda: distiller.fit(images, labels.astype(str), verbose=0),
        "There is no data": lambda: distiller.fit(None, labels, verbose=0),
        "class_weight is not a dict": lambda: distiller.fit(images, labels, class_weight=[1.0, 2.0], verbose=0),
        "The radius is not one that is measured": lambda: distiller.adapt(images),
        "not images that the student takes": lambda: distiller.export(tmp_path / "a", images=images[:0], verbose=False),
        "takes other images.*Batch the images": lambda: make_distiller(radius="teacher_mean").adapt(single),
        "layer_rates is not a dict": lambda: distiller.compile("sgd", layer_rates=[1]),
        "schedules is not a dict": lambda: distiller.compile("sgd", schedules="linear"),
        "steps_per_execution is not valid": lambda: distiller.compile("sgd", steps_per_execution=0),
        "No optimizer": lambda: distiller.compile(None),
        "metric has the name of a value": lambda: distiller.compile("sgd", metrics=[clash]),
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1
    assert np.isfinite(weights_of(distiller.student)).all() and not (tmp_path / "a").exists()
    distiller.export(tmp_path / "b", images=(100 * images).astype("int8"), verbose=False)


def test_the_logits_of_a_teacher_must_be_finite_and_an_answer_that_is_not_is_wrong():
    ((images, _),) = batches(1)
    teacher, distiller = conv_net(2), make_distiller()
    teacher.layers[-1].bias.assign(np.full(CLASSES, np.nan))
    distiller.evaluate(images, np.zeros(8, int), verbose=0)
    distiller.student.layers[-1].bias.assign(np.full(CLASSES, np.nan))
    found = distiller.evaluate(images, np.zeros(8, int), verbose=0, return_dict=True)
    assert found["agreement"] == found["accuracy"] == 0
    distiller.teacher = teacher
    with pytest.raises(InputError, match="logits of the teacher are not finite"):
        distiller.evaluate(images, np.zeros(8, int), verbose=0)


def test_a_loss_may_return_terms_of_two_dtypes_and_not_none():
    ((images, labels),) = batches(1)

    def mixed(student, teacher, labels, share=0.0):
        return {"label": tf.zeros([8], tf.float64), "distill": None if share else tf.reduce_sum(student - teacher, 1)}

    assert np.isfinite(make_distiller(loss=mixed).train_on_batch(images, labels)).all()
    with pytest.raises(InputError, match="term of the loss function is None"):
        make_distiller(loss=mixed, loss_settings={"share": 1}).train_on_batch(images, labels)


def test_more_forms_of_arguments_are_right():
    ((images, labels),) = batches(1)
    teacher, rows = conv_net(2), np.zeros([8, CLASSES], "int8")
    for one in (lambda x, **options: teacher(x), teacher.__call__):
        Distiller(conv_net(1), one)
    assert Distiller(conv_net(1), None, teacher_weights=np.array([2.0, 1.0])).objective.teacher_weights == (2, 1)
    dataset = tf.data.Dataset.from_tensor_slices(({"image": images, "teacher_logits": rows}, labels)).batch(4)
    make_distiller().fit(dataset, verbose=0)
    distiller = make_distiller(radius="teacher_mean")
    logits = np.where(np.arange(8)[:, None] == 6, np.nan, rows.astype("float32"))
    dataset = tf.data.Dataset.from_tensor_slices(({"image": images, "teacher_logits": logits}, labels)).batch(4)
    with pytest.raises(InputError, match="teacher's logits are not finite"):
        distiller.fit(dataset, verbose=0)
    with pytest.raises(InputError, match="metric has the name"):
        distiller.compile("sgd", weighted_metrics=[keras.metrics.MeanSquaredError(name="loss")])


def test_settings_may_be_written_as_in_the_flags():
    one = Distiller(conv_net(1), None, "dkd", loss_settings="beta=2", teacher_weights="2,1")
    other = Distiller(conv_net(1), None, "dkd", loss_settings={"beta": 2.0}, teacher_weights=(2, 1))
    assert one.get_config() | {"student": 0} == other.get_config() | {"student": 0}


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_optimizer_of_another_model_is_refused(wrapped):
    """Its moments and its step count are those of the other model."""
    optimizer = keras.optimizers.AdamW(0.01)
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if wrapped else optimizer
    one, other = (Distiller(conv_net(1), conv_net(2)) for _ in range(2))
    one.compile(optimizer, jit_compile=False)
    one.compile(optimizer, jit_compile=False)
    with pytest.raises(InputError, match=r"built for another model.*a new optimizer"):
        other.compile(optimizer, jit_compile=False)


def test_an_optimizer_continues_after_layers_are_frozen():
    optimizer, ((images, labels),) = keras.optimizers.AdamW(0.01), batches(1)
    distiller = make_distiller(optimizer=lambda: optimizer)
    first = distiller.student.layers[0]
    kernel = first.kernel.numpy()
    first.trainable = False
    distiller.compile(optimizer, jit_compile=False)
    before = weights_of(distiller.student)
    distiller.train_on_batch(images, labels)
    assert np.array_equal(first.kernel.numpy(), kernel) and not np.array_equal(weights_of(distiller.student), before)


def test_run_eagerly_compiles_nothing():
    eager = []

    class Seen(keras.layers.Layer):
        def call(self, inputs):
            eager.append(tf.executing_eagerly())
            return inputs

    student = keras.Sequential([keras.Input([6, 6, 2]), Seen(), keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
    distiller = Distiller(student, conv_net(2))
    distiller.compile("sgd", run_eagerly=True, jit_compile=True)
    eager.clear()
    distiller.train_on_batch(*batches(1)[0])
    assert eager and all(eager) and not distiller.xla


def test_train_on_batch_gives_unlabelled_rows_weight_one():
    ((images, _),) = batches(1, size=24)
    still, rows = make_distiller(optimizer=lambda: keras.optimizers.SGD(0.0)), np.zeros([24, CLASSES], "float32")
    found = [still.train_on_batch(images, rows, class_weight=w, return_dict=True)["loss"] for w in (None, {0: 100.0})]
    assert found[0] == pytest.approx(found[1])


def test_fit_takes_keras_first_arguments_by_position():
    ((images, labels),) = batches(1, size=24)
    distiller = make_distiller()
    assert len(distiller.fit(images, labels, 8, 2, 0).history["loss"]) == 2
    assert int(distiller.optimizer.iterations.numpy()) == 6
