"""What Keras users do with a Distiller, checked by numbers: data, weights, callbacks, metrics, summary, saving."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf.distillation.batches import with_class_weight
from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import InputError
from skd_tf.losses import Loss, cross_entropy, kd
from tests.helpers.nets import CLASSES, batches, conv_net, distance, make_distiller, weights_of

IMAGES, LABELS = batches(1, size=24)[0]
TEST_IMAGES, TEST_LABELS = batches(1, size=11, seed=9)[0]
FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}


def untrained():
    return make_distiller(optimizer=lambda: keras.optimizers.SGD(0.01, momentum=0.9))


def fitted(epochs=1, *, data=(IMAGES, LABELS), **fit_settings):
    """A Distiller trained on the images in order, and its history."""
    distiller = untrained()
    history = distiller.fit(*data, epochs=epochs, **FIT | fit_settings).history
    return distiller, history


def same(one, other, limit=1e-6):
    return distance(weights_of(one.student), weights_of(other.student)) < limit


def test_arrays_and_tf_data_train_alike_and_validation_equals_evaluate():
    from_arrays, history = fitted(epochs=2, validation_data=(TEST_IMAGES, TEST_LABELS))
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(8)
    test = tf.data.Dataset.from_tensor_slices((TEST_IMAGES, TEST_LABELS)).batch(4)
    from_dataset = untrained()
    other = from_dataset.fit(dataset, epochs=2, validation_data=test, verbose=0).history
    assert same(from_arrays, from_dataset)
    assert {name: pytest.approx(values, rel=1e-5) for name, values in history.items()} == other
    result = from_arrays.evaluate(TEST_IMAGES, TEST_LABELS, verbose=0, return_dict=True)
    assert {f"val_{name}": pytest.approx(value, rel=1e-5) for name, value in result.items()} == {
        name: values[-1] for name, values in history.items() if name.startswith("val_")
    }
    listed = from_arrays.evaluate(TEST_IMAGES, TEST_LABELS, verbose=0)
    assert dict(zip(from_arrays.metrics_names, listed, strict=True)) == result


@pytest.mark.slow
def test_class_weights_are_sample_weights_by_class():
    class_weight = {0: 0.5, 1: 2.0, 2: 0.0, 3: 1.0, 4: 3.0}
    by_class, history = fitted(class_weight=class_weight)
    weights = np.array([class_weight[label] for label in LABELS])
    by_sample, other = fitted(sample_weight=weights)
    plain, _ = fitted()
    assert same(by_class, by_sample) and not same(by_class, plain, 1e-3)
    assert history["loss"] == pytest.approx(other["loss"], rel=1e-6)
    given = {"image": IMAGES, "teacher_logits": plain.teacher(IMAGES).numpy()}
    with_logits, _ = fitted(data=(given, LABELS), class_weight=class_weight)
    assert same(by_class, with_logits)


@pytest.mark.slow
def test_unlabelled_images_have_weight_one_beside_class_weights():
    labels = np.where(np.arange(24) % 3, LABELS, -1)
    class_weight = {0: 0.5, 1: 2.0, 3: 0.0}  # 2, 4 and -1 are not listed
    weights = np.array([class_weight.get(label, 1.0) for label in labels], "float32")
    by_sample, history = fitted(data=(IMAGES, labels), sample_weight=weights)
    for y in (labels, labels[:, None], np.eye(CLASSES)[labels] * (labels >= 0)[:, None]):
        by_class = untrained()
        dataset = tf.data.Dataset.from_tensor_slices((IMAGES, y)).batch(8)
        other = by_class.fit(dataset, class_weight=class_weight, verbose=0).history
        assert same(by_sample, by_class) and other["loss"] == pytest.approx(history["loss"], rel=1e-5)
        given = fitted(data=(IMAGES, y), class_weight=class_weight)[1]
        assert given["loss"] == pytest.approx(history["loss"], rel=1e-5)
    with pytest.raises(InputError, match=r"class_weight.*\(x, y, sample_weight\)"):
        by_class.fit(dataset.map(lambda x, y: (x, y, y[:, 0])), class_weight=class_weight, verbose=0)


@pytest.mark.slow
def test_sample_weights_may_be_a_column_or_part_of_tf_data():
    weights = np.linspace(0, 2, len(LABELS)).astype("float32")
    flat, history = fitted(sample_weight=weights)
    column, other = fitted(sample_weight=weights[:, None])
    in_dataset = untrained()
    in_dataset.fit(tf.data.Dataset.from_tensor_slices((IMAGES, LABELS, weights)).batch(8), verbose=0)
    assert same(flat, column) and other["loss"] == pytest.approx(history["loss"], rel=1e-6)
    assert same(flat, in_dataset)


@pytest.mark.slow
@pytest.mark.parametrize("one_hot", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compiled_metrics_leave_out_unlabelled_images(one_hot):
    """The metrics are those of the labelled images alone; one batch has no labelled image."""
    labelled = np.arange(11) >= 5
    y = np.where(labelled, TEST_LABELS, -1)
    y = np.eye(CLASSES, dtype="float32")[y] * labelled[:, None] if one_hot else y
    kind = keras.metrics.CategoricalCrossentropy if one_hot else keras.metrics.SparseCategoricalCrossentropy
    distiller, weights = make_distiller(), np.linspace(1, 2, 11).astype("float32")
    distiller.compile(
        keras.optimizers.SGD(0.0),
        metrics=["accuracy", kind(from_logits=True, name="nll")],
        weighted_metrics=[kind(from_logits=True, name="weighted_nll")],
    )
    options = {"batch_size": 4, "verbose": 0}
    seen = distiller.evaluate(TEST_IMAGES, y, sample_weight=weights, return_dict=True, **options)
    expected = distiller.evaluate(TEST_IMAGES[5:], y[5:], sample_weight=weights[5:], return_dict=True, **options)
    history = distiller.fit(TEST_IMAGES, y, sample_weight=weights, **options).history
    for name in ("accuracy", "nll", "weighted_nll"):
        assert seen[name] == pytest.approx(expected[name], rel=1e-5) == history[name][0], name


def test_class_weights_split_off_the_validation_images_that_keras_splits_off():
    labels = np.arange(11) % 3
    x, y, arguments = with_class_weight(np.arange(11), labels, {1: 2.0}, {"validation_split": 0.25})
    assert x.tolist() == [*range(8)] and y.tolist() == labels[:8].tolist()  # math.floor(11 * (1 - 0.25)), as in Keras
    assert [part.tolist() for part in arguments["validation_data"]] == [[8, 9, 10], labels[8:].tolist()]
    assert arguments["sample_weight"].tolist() == [1, 2, 1, 1, 2, 1, 1, 2] and arguments["validation_split"] == 0


def test_weighted_metrics_are_weighted_and_the_others_are_not():
    weights = np.linspace(0, 2, len(TEST_LABELS)).astype("float32")
    distiller = make_distiller()
    distiller.compile(
        "sgd",
        metrics=["sparse_categorical_accuracy"],
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="weighted")],
    )
    result = distiller.evaluate(
        TEST_IMAGES, TEST_LABELS, sample_weight=weights, batch_size=4, verbose=0, return_dict=True
    )
    right = np.argmax(distiller.predict(TEST_IMAGES, verbose=0), axis=1) == TEST_LABELS
    assert result["sparse_categorical_accuracy"] == pytest.approx(right.mean()) == pytest.approx(result["accuracy"])
    assert result["weighted"] == pytest.approx((right * weights).sum() / weights.sum())


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_model_checkpoint_keeps_the_best_epoch(whole, tmp_path):
    path = tmp_path / ("best.keras" if whole else "best.weights.h5")
    # "max" of a falling loss: the first epoch stays the best.
    keep = keras.callbacks.ModelCheckpoint(path, "loss", mode="max", save_best_only=True, save_weights_only=not whole)
    _, history = fitted(epochs=3, callbacks=[keep])
    assert history["loss"][0] == max(history["loss"])
    first, _ = fitted(epochs=1)
    if whole:
        loaded = keras.models.load_model(path)
    else:
        loaded = make_distiller()
        loaded.load_weights(path)
    np.testing.assert_allclose(
        loaded.predict(IMAGES, verbose=0), first.predict(IMAGES, verbose=0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_early_stopping_stops_and_restores_the_best_weights():
    stop = keras.callbacks.EarlyStopping("val_loss", mode="max", patience=1, restore_best_weights=True)
    distiller, history = fitted(epochs=5, validation_data=(IMAGES, LABELS), callbacks=[stop])
    assert len(history["loss"]) == 2 and history["val_loss"][1] < history["val_loss"][0]
    assert same(distiller, fitted(epochs=1)[0])


@pytest.mark.slow
def test_reduce_lr_on_plateau_reaches_the_optimizer_without_retracing():
    reduce = keras.callbacks.ReduceLROnPlateau("loss", mode="max", patience=1, factor=0.1, min_delta=0)
    distiller, history = fitted(epochs=3, callbacks=[reduce])
    assert history["learning_rate"] == pytest.approx([0.01, 0.01, 0.001])
    by_hand, _ = fitted(epochs=2)
    by_hand.optimizer.learning_rate.assign(0.001)
    by_hand.fit(IMAGES, LABELS, **FIT)
    assert same(distiller, by_hand) and distiller.traces == 1


@pytest.mark.slow
def test_tensorboard_holds_the_history(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callback = keras.callbacks.TensorBoard(tmp_path)
    _, history = fitted(epochs=2, validation_data=(TEST_IMAGES, TEST_LABELS), callbacks=[callback])
    for folder, prefix in (("train", ""), ("validation", "val_")):
        events = EventAccumulator(str(tmp_path / folder)).Reload()
        for name in ("loss", "distill_loss", "accuracy"):
            values = [tf.make_ndarray(event.tensor_proto).item() for event in events.Tensors(f"epoch_{name}")]
            assert values == pytest.approx(history[prefix + name], rel=1e-6)


def test_train_on_batch_is_a_step_of_fit():
    by_batch, (fit, _) = untrained(), fitted(data=(IMAGES[:8], LABELS[:8]))
    logs = by_batch.train_on_batch(IMAGES[:8], LABELS[:8], return_dict=True)
    assert same(by_batch, fit)
    assert logs["loss"] == pytest.approx(fit.means.result()["loss"], rel=1e-6)


def test_predict_gives_the_students_raw_logits_for_any_batches():
    distiller = make_distiller(batch_norm=True)
    expected = distiller.student(TEST_IMAGES, training=False).numpy()
    for data in (TEST_IMAGES, tf.data.Dataset.from_tensor_slices(TEST_IMAGES).batch(3)):
        np.testing.assert_allclose(
            distiller.predict(data, batch_size=None if data is not TEST_IMAGES else 3, verbose=0),
            expected,
            rtol=1e-5,
            atol=1e-6,
        )
    np.testing.assert_allclose(distiller.predict_on_batch(TEST_IMAGES), expected, rtol=1e-5, atol=1e-6)


def test_summary_counts_the_student_alone():
    distiller = Distiller(conv_net(1, batch_norm=True), conv_net(2))
    lines = io.StringIO()
    distiller.summary(print_fn=lambda line: lines.write(line + "\n"))
    assert f"Trainable params: {sum(w.numpy().size for w in distiller.student.trainable_weights)} " in lines.getvalue()
    assert distiller.count_params() == distiller.student.count_params() + 4  # temperature, two weights, radius


def test_from_config_makes_the_same_distiller():
    distiller = make_distiller(
        loss="dkd", kd_weight=2.0, label_weight=0.5, temperature=3.0, loss_settings={"beta": 2.0}
    )
    twin = Distiller.from_config(distiller.get_config())
    assert twin.get_config() | {"student": 0} == distiller.get_config() | {"student": 0}
    twin.student.set_weights(distiller.student.get_weights())
    twin.teacher = distiller.teacher
    twin.compile("sgd")
    expected = distiller.evaluate(TEST_IMAGES, TEST_LABELS, verbose=0, return_dict=True)
    assert twin.evaluate(TEST_IMAGES, TEST_LABELS, verbose=0, return_dict=True) == pytest.approx(expected)
    other = make_distiller(loss="dkd", kd_weight=2.0, label_weight=0.5, temperature=3.0)  # beta 8
    assert other.evaluate(TEST_IMAGES, TEST_LABELS, verbose=0, return_dict=True)["loss"] > expected["loss"] + 1e-3


@keras.saving.register_keras_serializable("tests")
def own_loss(student_logits, teacher_logits, labels, *, temperature):
    return kd(student_logits, teacher_logits, labels, temperature=temperature) | cross_entropy(
        student_logits, None, labels
    )


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.net = conv_net(1)

    def call(self, images, training=False):
        return self.net(images, training=training)


def functional():
    net = conv_net(1)
    inputs = keras.Input([6, 6, 2])
    return keras.Model(inputs, net(inputs))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make_student", [Subclassed, *(pytest.param(kind, marks=pytest.mark.slow) for kind in (conv_net, functional))]
)
def test_students_of_every_kind_are_saved_loaded_and_trained_further(make_student, tmp_path):
    """The loss is your own `Loss` with probabilities on the sphere: loading must restore this too."""
    distiller = Distiller(make_student(), conv_net(2), Loss(own_loss, "sphere", True, {}), temperature=2.0)
    distiller.compile(keras.optimizers.SGD(0.05), jit_compile=False)
    distiller.fit(IMAGES, LABELS, **FIT)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    np.testing.assert_array_equal(loaded.predict(IMAGES, verbose=0), distiller.predict(IMAGES, verbose=0))
    np.testing.assert_array_equal(
        loaded.probability_logits(np.eye(CLASSES)), distiller.probability_logits(np.eye(CLASSES))
    )
    loaded.teacher = distiller.teacher
    for model in (distiller, loaded):  # plain SGD, compiled again: both optimizers have the same state
        model.compile(keras.optimizers.SGD(0.05), jit_compile=False)
        model.fit(IMAGES, LABELS, **FIT)
    assert same(distiller, loaded)


class _Batches(keras.utils.PyDataset):
    def __init__(self, y):
        super().__init__()
        self.y = y

    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = slice(8 * index, 8 * index + 8)
        return IMAGES[part], self.y[part]


def test_unlabelled_one_hot_rows_have_weight_one_in_every_kind_of_data():
    """Keras' own class weights give them that of class 0. Validation images have no class weight, as in Keras."""
    labels = np.eye(CLASSES, dtype="float32")[LABELS] * (np.arange(24) % 3 > 0)[:, None]
    weights, known = {0: 100.0}, np.where(labels[:, 0] == 1, 100.0, 1.0)
    still = make_distiller()
    still.compile(keras.optimizers.SGD(0.0), run_eagerly=True)  # each kind of data would be traced again

    def loss(x, y=None, **given):
        return still.fit(x, y, **FIT | given).history["loss"][0]

    expected = loss(IMAGES, labels, sample_weight=known)
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, labels)).batch(8)
    batches_of = (_Batches(labels)[i] for i in range(3))
    found = [loss(x, y, class_weight=weights) for x, y in ((IMAGES, labels), (dataset, None), (_Batches(labels), None))]
    found.append(loss(batches_of, class_weight=weights, steps_per_epoch=3))
    assert found == pytest.approx([expected] * 4, rel=1e-5)
    split = still.fit(IMAGES, labels, class_weight=weights, validation_split=0.25, **FIT).history
    assert split["val_loss"] == pytest.approx(
        [still.evaluate(IMAGES[18:], labels[18:], verbose=0, return_dict=True)["loss"]]
    )
    assert split["loss"][0] == pytest.approx(loss(IMAGES[:18], labels[:18], sample_weight=known[:18]), rel=1e-5)
