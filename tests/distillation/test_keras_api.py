"""The Distiller in Keras' API: subclassed students, saving, and errors that come before any training."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf.distillation.distiller import Distiller
from skd_tf.distillation.objective import Objective
from skd_tf.errors import InputError
from skd_tf.losses import LOSSES, cross_entropy, kd
from skd_tf.training.checkpoints import Checkpoints
from tests.helpers.nets import CLASSES, batches, conv_net, distance, make_distiller, weights_of


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        # Without an Input, as most people write it: it has no weights before the first images.
        self.net = keras.Sequential([type(layer).from_config(layer.get_config()) for layer in conv_net(1).layers])

    def call(self, images, training=False):
        return self.net(images, training=training)


@pytest.mark.slow
def test_a_subclassed_student_trains_as_the_functional_one_inside_it():
    ((images, labels),) = batches(1, size=16)
    histories = []
    for student in (conv_net(1), Subclassed()):
        distiller = Distiller(student, conv_net(2), "spherical")
        distiller.compile(keras.optimizers.SGD(0.05))
        histories.append(distiller.fit(images, labels, batch_size=8, epochs=2, shuffle=False, verbose=0).history)
    for name, values in histories[0].items():
        assert histories[1][name] == pytest.approx(values, rel=1e-5), name
    with pytest.raises(InputError, match="stock layers"):
        distiller.deployable()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_subclassed_student_takes_metrics_on_any_number_of_replicas(count, two_replicas):
    """The student is not built: fit creates its weights, the optimizer's and the metrics' variables."""
    ((images, labels),) = batches(1, size=16)
    histories, weights = [], []
    for make_student in (lambda: conv_net(1), Subclassed):
        with two_replicas.scope() if count == 2 else contextlib.nullcontext():
            distiller = Distiller(make_student(), conv_net(2), "spherical")
            nll = keras.metrics.SparseCategoricalCrossentropy(from_logits=True)
            distiller.compile(keras.optimizers.SGD(0.05, momentum=0.9), metrics=["sparse_categorical_accuracy", nll])
        histories.append(distiller.fit(images, labels, batch_size=8, epochs=2, shuffle=False, verbose=0).history)
        weights.append(weights_of(distiller.student))
    assert distiller.distribute_strategy.num_replicas_in_sync == count and distiller.traces == count
    assert distance(*weights) < 1e-5 and histories[0].keys() == histories[1].keys()
    for name, values in histories[0].items():
        assert histories[1][name] == pytest.approx(values, rel=1e-4), name


@pytest.mark.parametrize("loss", ["kd", pytest.param(LOSSES["spherical"], marks=pytest.mark.slow)])
def test_a_loaded_distiller_has_the_saved_arguments(loss, tmp_path):
    ((images, labels),) = batches(1)
    distiller = make_distiller(loss=loss, temperature=3.0, kd_weight=0.6, radius=5.0, center=False, label_smoothing=0.1)
    distiller.save(tmp_path / "d.keras")
    loaded = keras.models.load_model(tmp_path / "d.keras")
    assert loaded.get_config() | {"student": 0} == distiller.get_config() | {"student": 0}
    loaded.teacher = distiller.teacher
    loaded.compile("sgd")
    expected = distiller.evaluate(images, labels, verbose=0, return_dict=True)
    assert loaded.evaluate(images, labels, verbose=0, return_dict=True) == pytest.approx(expected)


def test_a_measured_radius_survives_saving(tmp_path):
    ((images, labels),) = batches(1)
    distiller = make_distiller(radius="teacher_mean").adapt((images, labels))
    one = make_distiller(radius="teacher_mean").adapt([(images, labels)])  # a list of one batch
    assert float(distiller.radius.numpy()) == float(one.radius.numpy())
    assert float(distiller.radius.numpy()) == float(make_distiller(radius="teacher_mean").adapt(images).radius.numpy())
    distiller.save(tmp_path / "d.keras")
    loaded = keras.models.load_model(tmp_path / "d.keras")
    assert float(loaded.radius.numpy()) == float(distiller.radius.numpy()) > 0


def test_export_needs_a_known_radius():
    with pytest.raises(InputError, match="adapt"):
        make_distiller(radius="teacher_mean").deployable()


def floats(values):
    """As numbers: Keras 3.13 returns arrays."""
    return keras.tree.map_structure(float, values)


def test_steps_need_a_known_radius():
    ((images, labels),) = batches(1)
    distiller = make_distiller(radius="teacher_mean")
    for step in (distiller.evaluate, distiller.train_on_batch, distiller.test_on_batch):
        with pytest.raises(InputError, match=r"radius is not known.*Call adapt"):
            step(images, labels)
    with pytest.raises(InputError, match="Call adapt"):
        distiller.probability_logits(distiller.student(images))
    expected = make_distiller(radius=float(distiller.adapt(images).radius.numpy()))
    for step in ("test_on_batch", "train_on_batch"):
        found, wanted = (floats(getattr(one, step)(images, labels)) for one in (distiller, expected))
        assert found == pytest.approx(wanted), step
    # A loss that does not use the radius needs no measurement.
    make_distiller(loss="kd", radius="teacher_mean").evaluate(images, labels, verbose=0)


@pytest.mark.parametrize("built", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("step", ["evaluate", "train_on_batch", pytest.param("test_on_batch", marks=pytest.mark.slow)])
def test_a_subclassed_students_auto_radius_is_known_before_the_first_step(step, built):
    ((images, labels),) = batches(1)
    results = []
    for student in (conv_net(1), Subclassed()):
        if built:
            student(images)
        distiller = Distiller(student, conv_net(2), "spherical")
        distiller.compile(keras.optimizers.SGD(0.05))
        results.append(floats(getattr(distiller, step)(images, labels, return_dict=True)))
        assert float(distiller.radius.numpy()) == pytest.approx(2 * CLASSES**0.5)
    assert results[1] == pytest.approx(results[0], rel=1e-5)


def test_a_radius_that_is_given_is_not_replaced_when_the_classes_are_known():
    ((images, labels),) = batches(1)
    distiller = Distiller(Subclassed(), conv_net(2), "spherical", radius=3.0)
    assert float(distiller.radius.numpy()) == 3.0
    distiller.radius.assign(7.0)
    distiller.compile("sgd")
    distiller.evaluate(images, labels, verbose=0)
    assert float(distiller.radius.numpy()) == 7.0


def test_a_generator_is_not_used_up_by_measuring():
    distiller = make_distiller(radius="teacher_mean")
    with pytest.raises(InputError, match="only once"):
        distiller.fit((batch for batch in batches(3)), verbose=0)


def test_hyperparameters_are_checked_when_assigned():
    distiller = make_distiller()
    with pytest.raises(InputError, match="kd_weight"):
        distiller.kd_weight.assign(2.0)  # the label weight would be -1
    for make in (float, np.float32, np.asarray, tf.constant, lambda value: keras.Variable(value, trainable=False)):
        for variable, value in ((distiller.temperature, 0.0), (distiller.temperature, -1.0), (distiller.radius, 0.0)):
            with pytest.raises(InputError, match=rf"{variable.name} .*Expected a number > 0\. "):
                variable.assign(make(value))
        with pytest.raises(InputError, match=r"kd_weight .*<= 1"):
            distiller.kd_weight.assign(make(1.5))
        distiller.temperature.assign(make(2.5))
        assert float(distiller.temperature.numpy()) == 2.5
    for value in ("2", True, None, [1.0], tf.constant([1.0, 2.0]), float("nan")):
        with pytest.raises(InputError, match="temperature is not a number"):
            distiller.temperature.assign(value)
    with pytest.raises(InputError, match="kd_weight is not a number"):
        Distiller(conv_net(), kd_weight="0.9, 0.5 from epoch 2", loss="kd")


def test_a_hyperparameter_that_is_set_as_an_attribute_is_assigned(tmp_path):
    ((images, labels),) = batches(1)
    losses = []
    for given, later in ((2.0, None), (4.0, 2.0)):
        distiller = make_distiller(loss="kd", temperature=given)
        variable = distiller.temperature
        if later:
            distiller.evaluate(images, labels, verbose=0)
            distiller.temperature, distiller.kd_weight = later, 0.9
        losses.append(distiller.evaluate(images, labels, verbose=0, return_dict=True)["distill_loss"])
        assert distiller.temperature is variable and distiller.label_weight.numpy() == np.float32(0.1)
    assert losses[0] == losses[1]
    for name, value, words in (
        ("temperature", -1, "out of range"),
        ("kd_weight", "a", "not a number"),
        ("center", False, r"cannot change.*distiller.center = False"),
        ("loss", "dist", r"cannot change.*Distiller\(\.\.\., loss"),
        ("feature_weight", 0.5, "cannot change"),
        ("label_weight", 0.5, "follows kd_weight"),
    ):
        with pytest.raises(InputError, match=f"{name} .*{words}"):
            setattr(distiller, name, value)

    class Own(Distiller):
        def __init__(self, *models, center=True):
            super().__init__(*models, center=center)
            self.center = center

    assert Own(conv_net(1), conv_net(2)).center
    distiller.save(tmp_path / "distiller.keras")
    assert keras.models.load_model(tmp_path / "distiller.keras").get_config()["temperature"] == 2.0


def test_two_models_that_do_not_belong_together_are_refused():
    student = conv_net(1)
    with pytest.raises(InputError, match="The student is its own teacher"):
        Distiller(student, student)
    ((images, labels),) = batches(1)

    def evaluate(teacher, **x):
        distiller = Distiller(student, teacher)
        distiller.compile("sgd")
        distiller.evaluate({"image": images, **x}, labels, verbose=0)

    larger = keras.Sequential([keras.Input([8, 8, 2]), keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
    for teacher, words in ((larger, "The teacher takes"), ([conv_net(2), larger], "Teacher 2 takes")):
        with pytest.raises(InputError, match=rf"{words} other images.*Expected \(8, 8, 2\). Received x of \(6, 6, 2\)"):
            evaluate(teacher)
    evaluate(larger, teacher_logits=np.zeros([len(images), CLASSES], "float32"))  # it is not called
    for size in (None, 8):  # a Sequential model takes images of other sizes than it declares
        pooled = [keras.Input([size, size, 2]), keras.layers.GlobalMaxPool2D(), keras.layers.Dense(CLASSES)]
        evaluate(any_size := keras.Sequential(pooled))
    with pytest.raises(InputError, match="Spherical KD is called spherical"):
        Distiller(student, any_size, "SKD")


def test_a_label_weight_that_follows_is_exactly_the_constructors():
    distiller = make_distiller(kd_weight=0.9)
    expected = distiller.label_weight.numpy()
    assert expected == np.float32(0.1)
    distiller.kd_weight.assign(0.5)
    distiller.kd_weight.assign(0.9)
    assert distiller.label_weight.numpy() == expected
    assert Distiller.from_config(distiller.get_config()).label_weight.numpy() == expected


def test_saved_hyperparameters_are_restored_exactly(tmp_path):
    """An assigned label weight and an unmeasured radius, restored by model file, weights file, list and checkpoint."""
    arguments = {"radius": "teacher_mean", "kd_weight": 0.9}
    distiller = make_distiller(**arguments)
    distiller.label_weight.assign(0.25)
    distiller.save(tmp_path / "d.keras")
    distiller.save_weights(tmp_path / "d.weights.h5")
    files = Checkpoints(tmp_path / "checkpoints")
    files.save(distiller, 1)
    files.wait()

    def loaded(restore):
        other = make_distiller(**arguments | {"kd_weight": 0.3, "temperature": 2.0})
        other.radius.assign(5.0)
        restore(other)
        return other

    for other in (
        keras.models.load_model(tmp_path / "d.keras"),
        loaded(lambda other: other.load_weights(tmp_path / "d.weights.h5")),
        loaded(lambda other: other.set_weights(distiller.get_weights())),
        loaded(lambda other: Checkpoints(tmp_path / "checkpoints").restore(other, print)),
    ):
        found = [float(getattr(other, name).numpy()) for name in ("temperature", "kd_weight", "label_weight", "radius")]
        assert found == [4.0, np.float32(0.9), 0.25, 0.0]
    other.kd_weight.assign(0.5)  # the label weight follows again
    assert float(other.label_weight.numpy()) == 0.5


def test_a_loss_with_a_misspelt_term_is_refused():
    def misspelt(student_logits, teacher_logits, labels):
        return {"label": cross_entropy(student_logits, None, labels)["label"], "distil": student_logits[:, 0]}

    ((images, labels),) = batches(1)
    with pytest.raises(InputError, match="distil"):
        make_distiller(loss=misspelt).fit(images, labels, verbose=0)


@pytest.mark.parametrize("reduce", [tf.reduce_mean, lambda term: term[:, None]])
def test_a_term_without_a_value_per_example_is_refused(reduce):
    def own(student_logits, teacher_logits, labels):
        return {
            name: reduce(term) for name, term in kd(student_logits, teacher_logits, labels, temperature=2.0).items()
        }

    ((images, labels),) = batches(1)
    with pytest.raises(InputError, match=r"wrong shape.*\[batch\]"):
        make_distiller(loss=own).fit(images, labels, verbose=0)


def test_a_loss_with_unnamed_settings_is_warned_of():
    seen = []

    def own(student_logits, teacher_logits, labels, **settings):
        seen.append(settings)
        return kd(student_logits, teacher_logits, labels, temperature=1.0)

    with pytest.warns(UserWarning, match=r"takes \*\*settings.*only the settings that it names"):
        distiller = make_distiller(loss=own, temperature=7.0)
    distiller.evaluate(*batches(1)[0], verbose=0)
    assert seen == [{}] * len(seen) and seen
    with pytest.raises(InputError, match="does not have all of these settings"), pytest.warns(UserWarning):
        make_distiller(loss=own, loss_settings={"beta": 2.0})


def test_a_loss_is_tried_out_in_a_graph():
    def over_the_batch(student_logits, teacher_logits, labels):
        return {
            name: tf.reduce_mean(term)
            for name, term in kd(student_logits, teacher_logits, labels, temperature=1.0).items()
        }

    def needs_images(student_logits, teacher_logits, labels):
        return {"label": tf.math.top_k(student_logits[:, 0], k=4).values, "distill": student_logits[:, 0]}

    def python_code(student_logits, teacher_logits, labels):
        terms = kd(student_logits, teacher_logits, labels, temperature=1.0)
        return terms | {"distill": tf.numpy_function(lambda term: term, [terms["distill"]], tf.float32)}

    with pytest.raises(InputError, match=r"wrong shape.*\[batch\]"):
        Objective(over_the_batch, center=True, label_smoothing=0.0).try_out(8, 5)
    few = Objective(needs_images, center=True, label_smoothing=0.0)
    assert few.try_out(4, 5)
    with pytest.raises(InputError, match=r"raises an error.*InvalidArgumentError|ValueError.*line \d+: return .*top_k"):
        few.try_out(2, 5)
    infinite = Objective(lambda s, t, y: {"label": s[:, 0] / 0.0, "distill": s[:, 0]}, center=True, label_smoothing=0.0)
    assert not infinite.try_out(4, 5)
    in_python = Objective(
        lambda s, t, y: {"label": s[:, 0], "distill": s[:, 0] if s[0, 0] > 0 else s[:, 1]},
        center=True,
        label_smoothing=0.0,
    )
    with pytest.raises(InputError, match=r"raises an error.*OperatorNotAllowedInGraphError"):
        in_python.try_out(4, 5)
    make_distiller(loss=python_code, optimizer=lambda: keras.optimizers.SGD(0.0)).evaluate(*batches(1)[0], verbose=0)


def test_a_refused_teacher_changes_nothing():
    ((images, labels),) = batches(1)
    distiller = make_distiller()
    before = distiller.evaluate(images, labels, verbose=0, return_dict=True)
    with pytest.raises(InputError, match="different classes"):
        distiller.teacher = keras.Sequential(
            [keras.Input(images.shape[1:]), keras.layers.Flatten(), keras.layers.Dense(7)]
        )
    assert distiller.evaluate(images, labels, verbose=0, return_dict=True) == before


def test_one_hot_labels_equal_class_numbers():
    ((images, labels),) = batches(1)
    one = make_distiller().evaluate(images, labels, verbose=0, return_dict=True)
    assert make_distiller().evaluate(images, np.eye(CLASSES)[labels], verbose=0, return_dict=True) == pytest.approx(one)
