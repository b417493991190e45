"""Features: the term by its definition, and in every way in which a step is computed."""

import contextlib
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf.distillation import optimizers
from skd_tf.distillation.distiller import Distiller
from skd_tf.distillation.features import Features
from skd_tf.errors import InputError
from skd_tf.models import frozen_layers, layer_outputs
from skd_tf.models.fold_batch_norm import fold_batch_norm
from skd_tf.training.checkpoints import Checkpoints, state_of
from tests.helpers.nets import CLASSES, batches, conv_net, distance, weights_of

# Teacher and student are `conv_net`s of other widths; the teacher's features are larger, then as large, then vectors.
PAIRS = "re_lu:average_pooling2d, conv2d_1:re_lu_1, global_average_pooling2d:dense"


pytestmark = pytest.mark.usefixtures("fresh_layer_numbers")


def student_net(dtype="float32"):
    keras.utils.set_random_seed(1)
    layers = [keras.Input([6, 6, 2], dtype=dtype)]
    for width in (3, 5):
        layers += [keras.layers.Conv2D(width, 3, padding="same", dtype=dtype), keras.layers.ReLU(dtype=dtype)]
        layers += [keras.layers.BatchNormalization(dtype=dtype)] if width == 3 else []
        layers += [keras.layers.AveragePooling2D(4, 2, dtype=dtype)] if width == 3 else []
    layers += [keras.layers.GlobalAveragePooling2D(dtype=dtype), keras.layers.Dense(CLASSES, dtype=dtype)]
    return keras.Sequential(layers)


def trained(strategy=None, *, steps=4, dtype="float32", jit_compile=False, micro_batches=1, eager=False, **settings):
    """A Distiller after some steps with clipping and EMA."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        settings = {"feature_pairs": PAIRS, "feature_weight": 0.5} | settings
        distiller = Distiller(student_net(dtype), conv_net(2, dtype=dtype), "kd", **settings)
        distiller.student.layers[2].trainable = False  # a BatchNorm in training depends on the pieces of the batch
        distiller.compile(
            optimizers.make_optimizer(optimizers.OptimizerSettings(clip_norm=0.5, ema_momentum=0.9), 0.1),
            jit_compile=jit_compile,
            micro_batches=micro_batches,
            run_eagerly=eager,
        )
    return run(distiller, batches(4, 16, dtype=dtype)[:steps])


def run(distiller, data):
    images, labels = (np.concatenate(parts) for parts in zip(*data, strict=True)) if data else (np.zeros(0),) * 2
    count = distiller.distribute_strategy.num_replicas_in_sync
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(
        16 // count, drop_remainder=distiller.micro_batches > 1
    )
    iterator = iter(distiller.distribute_strategy.distribute_datasets_from_function(lambda _: data))
    distiller.run_steps(iterator, len(labels) // 16)
    return distiller


def vector(distiller):
    """Everything that a checkpoint holds."""
    return np.concatenate([np.asarray(v.numpy(), float).ravel() for v in state_of(distiller).values()])


def pooled(features, size):
    """torch's adaptive_avg_pool2d on [batch, n, n, channels], written out."""
    n = features.shape[1]
    ends = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
    rows = [[features[:, a:b, c:d].mean((1, 2)) for c, d in ends] for a, b in ends]
    return np.stack([np.stack(row, 1) for row in rows], 1)


def by_definition(student, teacher, projector, loss):
    """The term of one pair in float64 numpy, `[batch]`."""
    if student.ndim != teacher.ndim:
        student, teacher = (f if f.ndim == 2 else f.mean(tuple(range(1, f.ndim - 1))) for f in (student, teacher))
    elif student.ndim == 4:
        size = min(student.shape[1], teacher.shape[1])
        student, teacher = pooled(student, size), pooled(teacher, size)
    kernel, bias = projector
    student = student @ kernel + bias
    if loss == "mse":
        found = ((student - teacher) ** 2).mean(-1)
    else:
        norms = [np.linalg.norm(f, axis=-1, keepdims=True) for f in (student, teacher)]
        student, teacher = (f / np.where(n > 0, n, 1) for f, n in zip((student, teacher), norms, strict=True))
        found = ((student - teacher) ** 2).sum(-1)
    return found.reshape(len(found), -1).mean(1)


@pytest.mark.parametrize("loss", ["mse", "cosine"])
def test_the_term_is_its_definition(loss):
    random = np.random.default_rng(0)
    shapes = [((7, 7, 3), (4, 4, 5)), ((2, 2, 3), (5, 5, 2)), ((4,), (3, 3, 6)), ((9, 4), (6, 4)), ((3,), (2,))]
    made = Features([("t", "s")] * len(shapes), loss, seed=3, dtype="float64")
    made.make([(s[-1], t[-1]) for s, t in shapes])
    students, teachers = ([random.normal(size=(6, *pair[i])) for pair in shapes] for i in (0, 1))
    teachers[0][0] = students[4][0] = 0.0
    made.projectors[4].bias.assign([0, 0])  # so the student's projection is all zeros, where a norm has no gradient
    with tf.GradientTape() as tape:
        found = made.term([*map(tf.constant, students)], [*map(tf.constant, teachers)], 5)
    wanted = 0
    for place, (s, t, projector) in enumerate(zip(students, teachers, made.projectors, strict=True)):
        weights = [weight.numpy() for weight in projector.weights]
        if place == 3:  # [batch, positions, channels]: the image [batch, positions, 1, channels] along one axis
            ends = [(i * 9 // 6, -(-(i + 1) * 9 // 6)) for i in range(6)]
            s = np.stack([s[:, a:b].mean(1) for a, b in ends], 1)
        wanted = wanted + by_definition(s, t, weights, loss)
    np.testing.assert_allclose(found, wanted[:5], rtol=1e-12)
    gradients = tape.gradient(found, [variable.value for variable in made.trainable_variables])
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    kernels = np.concatenate(
        [
            projector.kernel.numpy().ravel() * s[-1] ** 0.5
            for projector, (s, _) in zip(made.projectors, shapes, strict=True)
        ]
    )
    assert np.abs(kernels).max() <= 1 and np.unique(kernels).size == kernels.size  # as torch.nn.Linear, all different


@pytest.fixture(scope="module")
def history():
    """A Distiller in float64 after 4 steps, and {steps: what a checkpoint then held}."""
    distiller, seen = trained(steps=0, dtype="float64"), {}
    for steps, data in enumerate([[], *([batch] for batch in batches(4, 16, dtype="float64"))]):
        run(distiller, data)
        seen[steps] = {name: variable.numpy().copy() for name, variable in state_of(distiller).items()}
    return distiller, seen


def test_a_teacher_that_is_refused_changes_nothing():
    """Neither what is known of the outputs, nor the layers that are compared."""
    distiller = Distiller(student_net(), conv_net(2), "kd", feature_pairs=PAIRS, feature_weight=0.5)
    distiller.compile("sgd", jit_compile=False)
    ((images, labels),) = batches(1, 16)
    teacher, before = distiller.teacher, distiller.evaluate(images, labels, verbose=0, return_dict=True)
    small = keras.Sequential([keras.Input([6, 6, 2]), keras.layers.Flatten(), keras.layers.Dense(CLASSES, "softmax")])
    convolutions = [part for w in (4, 7) for part in (keras.layers.Conv2D(w, 3, padding="same"), keras.layers.ReLU())]
    head = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(CLASSES)
    wide = keras.Sequential([keras.Input([6, 6, 2]), *convolutions, *head])  # 7 channels in place of 6
    for refused in (small, wide):
        with pytest.raises(InputError):
            distiller.teacher = refused
        assert distiller.teacher is teacher
        assert distiller.evaluate(images, labels, verbose=0, return_dict=True) == before
    distiller.train_on_batch(images, labels)


def test_a_step_compares_what_the_layers_return(history):
    start, wanted = trained(steps=0, dtype="float64"), []
    (images, _), *_ = batches(4, 16, dtype="float64")
    names = [[pair.split(":")[i].strip() for pair in PAIRS.split(",")] for i in (0, 1)]
    student, teacher = start.student, start.teacher
    features = []
    for model, wanted_names, training in ((teacher, names[0], False), (student, names[1], True)):
        layers = [layer_outputs.layer_called(model, name, "model")[0] for name in wanted_names]
        inside = keras.Model(model.inputs[0], [layer.output for layer in layers])
        features.append([np.asarray(f, float) for f in inside(images, training=training)])
    for s, t, projector in zip(*features[::-1], start.features.projectors, strict=True):
        wanted.append(by_definition(s, t, [w.numpy().astype(float) for w in projector.weights], "mse"))
    means = dict(zip(start.means.names, history[1][1]["mean/0000"] / 16, strict=True))
    assert means["feature_loss"] == pytest.approx(np.sum(wanted, axis=0).mean(), rel=1e-9)
    rest = 0.1 * means["label_loss"] + 0.9 * means["distill_loss"]
    assert means["loss"] == pytest.approx(rest + 0.5 * means["feature_loss"], rel=1e-6)


def test_the_student_is_called_once_and_without_weight_it_learns_as_without_features(monkeypatch):
    calls, plain = [], keras.layers.Dense.call

    @functools.wraps(plain)
    def counted(self, *arguments, **options):
        calls.append(self)
        return plain(self, *arguments, **options)

    monkeypatch.setattr(keras.layers.Dense, "call", counted)
    with_features = trained(feature_weight=0.0, eager=True, steps=1)
    head = with_features.student.layers[-1]
    assert calls.count(head) == 1 and "call" not in vars(head)
    without = trained(feature_pairs=(), feature_weight=1.0, eager=True, steps=1)
    assert np.array_equal(weights_of(with_features.student), weights_of(without.student))
    assert not any(name.startswith("feature") for name in [*state_of(without), *without.means.result()])


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"jit_compile": True}, marks=pytest.mark.slow),
        pytest.param({"two": True, "micro_batches": 4}, marks=pytest.mark.slow),
        pytest.param({"two": True}, marks=pytest.mark.slow),
        pytest.param({"micro_batches": 3}, marks=pytest.mark.slow),
        pytest.param({"two": True, "jit_compile": True}, marks=pytest.mark.slow),
        pytest.param({"jit_compile": True, "micro_batches": 4}, marks=pytest.mark.slow),
        pytest.param({"eager": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_all_ways_agree_in_float64(how, two_replicas, history):
    how = dict(how)
    strategy = two_replicas if how.pop("two", False) else None
    assert distance(vector(history[0]), vector(trained(strategy, dtype="float64", **how))) < 1e-10


@pytest.mark.slow
def test_a_replica_without_images_adds_nothing(two_replicas):
    """Keras' fit() gives the last batch, of one image, to one of the replicas."""
    images, labels = batches(1, 17, dtype="float64")[0]
    fits = {"batch_size": 16, "shuffle": False, "verbose": 0, "validation_data": (images, labels)}
    one, two = (trained(strategy, steps=0, dtype="float64") for strategy in (None, two_replicas))
    histories = [distiller.fit(images, labels, **fits).history for distiller in (one, two)]
    for name in ("loss", "feature_loss", "val_loss", "val_feature_loss"):
        assert histories[0][name] == pytest.approx(histories[1][name], rel=1e-6)
    assert distance(weights_of(one.student), weights_of(two.student)) < 1e-10


def test_projectors_are_clipped_averaged_saved_and_not_exported(history, tmp_path):
    distiller, seen = history
    projectors = distiller.features.trainable_variables
    assert len(projectors) == 6 and distiller.trained_variables[-6:] == projectors
    assert all(
        np.any(seen[0][name] != seen[1][name]) for name in seen[0] if name.startswith("feature") and "6" not in name
    )
    velocities = [velocity.numpy() for velocity in distiller.optimizer.momentums]
    assert len(velocities) == len(distiller.trained_variables)
    averages = distiller.optimizer._model_variables_moving_average
    before = [variable.numpy() for variable in projectors]
    with optimizers.averaged(distiller):
        assert all(np.array_equal(a, v) for a, v in zip(averages, distiller.trained_variables, strict=True))
    np.testing.assert_equal([variable.numpy() for variable in projectors], before)
    # A checkpoint and a file of Keras both go on from here.
    files, other = Checkpoints(tmp_path), trained(steps=0, dtype="float64", feature_seed=7)
    files.save(distiller, 4, {})
    files.wait()
    files.restore(other, pytest.fail)
    np.testing.assert_equal(vector(other), vector(distiller))
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    np.testing.assert_equal(loaded.get_weights(), distiller.get_weights())
    loaded.teacher = distiller.teacher
    loaded.compile("adam", run_eagerly=True)
    (images, labels), *_ = batches(1, 10)
    history = loaded.fit(images, labels, batch_size=8, validation_data=(images, labels), verbose=0).history
    assert {"feature_loss", "val_feature_loss"} <= history.keys()
    shipped = distiller.deployable()
    assert shipped.count_params() == student_net().count_params()


def test_a_feature_that_is_not_finite_changes_nothing(history):
    distiller, before = history[0], vector(history[0])
    kernel = distiller.teacher.layers[0].kernel
    right = kernel.numpy()
    kernel.assign(right * 1e200)  # finite logits, infinite squares
    run(distiller, batches(1, 16, dtype="float64"))
    found = distiller.guard.found()
    kernel.assign(right)
    distiller.guard.reset()
    assert "feature_loss" in found
    np.testing.assert_equal(vector(distiller), before)


def test_a_layer_that_is_kept_is_not_folded_into_and_names_survive_folding():
    model = conv_net(3, batch_norm=True)
    for variable in model.non_trainable_variables:
        variable.assign(variable + 0.5)
    images = batches(1)[0][0]
    folded = fold_batch_norm(model, keep=["conv2d_1"])
    assert folded.folding.folded == 1
    assert layer_outputs.output_shapes(folded) == layer_outputs.output_shapes(model)
    for name in ("conv2d_1", "batch_normalization", "batch_normalization_1"):
        found = []
        for net in (model, folded):
            with layer_outputs.recorded([layer_outputs.layer_called(net, name, "teacher")[0]]) as outputs:
                net(images)
            found.append(outputs[0])
        np.testing.assert_allclose(*found, atol=1e-5)


def test_a_layer_may_have_keras_own_name():
    keras.layers.ReLU()  # takes the name re_lu, as a teacher that is built first does
    student, teacher = student_net(), conv_net(2)
    names = [layer.name for layer in student.layers if isinstance(layer, keras.layers.ReLU)]
    assert names == ["re_lu_1", "re_lu_2"]
    distiller = Distiller(student, teacher, "kd", feature_pairs=[("re_lu", "re_lu_2")])
    assert distiller.features.channels == [(5, 4)] and distiller.get_config()["feature_pairs"] == [["re_lu", "re_lu_1"]]
    keras.layers.ReLU()
    loaded = Distiller.from_config(distiller.get_config())
    loaded.teacher = teacher
    assert loaded.features.channels == [(5, 4)]
    twins = [keras.Sequential([keras.layers.Dense(2, name="twin")], name=name) for name in "ab"]
    nested = keras.Sequential([keras.Input([6, 6, 2]), *twins, keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
    assert frozen_layers.layers_meant(nested, "twin".__eq__, "a name") == [twins[0].layers[0]]
    with pytest.raises(
        InputError, match=r"means different layers.*student's layer re_lu_1, which is re_lu_1 .* but re_lu by"
    ):
        Distiller(student, teacher, "kd", feature_pairs=[("re_lu", "re_lu_1")])
    distiller.compile("sgd", layer_rates={"^conv2d_1$": 0.5})
    keras.layers.Conv2D(1, 1)
    distiller = Distiller(student_net(), teacher, "kd")
    second = distiller.student.layers[4].name
    assert second != "conv2d_1"
    distiller.compile("sgd", layer_rates={f"^{second}$": 0.5})
    assert distiller._rate_factors == (1, 1, 1, 1, 0.5, 0.5, 1, 1)
    distiller.teacher = conv_net(3)  # the names are not read again
    assert distiller._rate_factors == (1, 1, 1, 1, 0.5, 0.5, 1, 1)
    with frozen_layers.numbered_in_the_model():
        assert layer_outputs.layer_called(student, "re_lu_1", "student")[1] == (None, 2, 2, 5)


def test_what_cannot_be_compared_is_one_line():
    def refused(words, **settings):
        with pytest.raises(InputError, match=words) as caught:
            trained(steps=1, **settings)
        assert "\n" not in str(caught.value)

    refused(r"teacher has no layer.*re_luu.*Did you mean re_lu\?", feature_pairs="re_luu:dense")
    refused(r"student has no layer.*See model.summary", feature_pairs=[("re_lu", "qqq")])
    refused("not a list of pairs", feature_pairs="re_lu")
    refused("has a pair twice", feature_pairs="re_lu:re_lu,re_lu : re_lu")
    refused("Unknown feature loss.*mean mse", feature_loss="msr")
    refused("feature_weight is out of range", feature_weight=-1)
    refused("feature_seed is not valid.*a whole number >= 0.*feature_seed=-1", feature_seed=-1)
    refused("feature_seed is not valid.*feature_seed=0.5", feature_seed=0.5)
    (images, labels), *_ = batches(1)
    x = {"image": images, "teacher_logits": np.zeros([8, CLASSES], "float32")}
    for call in (lambda d: d.fit(x, labels, verbose=0), lambda d: d.evaluate(x, labels, verbose=0)):
        with pytest.raises(InputError, match="feature_pairs needs the teacher in every step"):
            call(trained(steps=0))
    with pytest.raises(InputError, match="which the loss does not use"):
        Distiller(student_net(), conv_net(2), "cross_entropy", feature_pairs=PAIRS)
    with pytest.raises(InputError, match="one teacher with feature_pairs"):
        Distiller(student_net(), [conv_net(2), conv_net(3)], "kd", feature_pairs=PAIRS)
    positions = keras.Sequential(
        [keras.Input([6, 6, 2]), keras.layers.Reshape([36, 2]), keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    )
    with pytest.raises(InputError, match="cannot be compared"):
        Distiller(positions, conv_net(2), "kd", feature_pairs="re_lu:reshape")
    twice = keras.layers.Dense(2, name="shared")
    inputs = keras.Input([6, 6, 2])
    outputs = keras.layers.Dense(CLASSES)(keras.layers.Flatten()(twice(twice(inputs))))
    with pytest.raises(InputError, match="called once"):
        Distiller(keras.Model(inputs, outputs), conv_net(2), "kd", feature_pairs="re_lu:shared")
