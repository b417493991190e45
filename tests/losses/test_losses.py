"""The losses against float64 numpy references: values, gradients, labels, extremes, compilation."""

import inspect
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf import losses
from skd_tf.config import Config, flags, grammar
from skd_tf.distillation.objective import Objective
from skd_tf.errors import InputError
from skd_tf.losses import LOSSES
from skd_tf.losses.names import LOSS_FACTS, LOSS_NAMES
from skd_tf.training import dry_run
from tests.losses import numpy_reference
from tests.losses.loss_cases import CASES, assert_terms_close, batch, gradients, terms

CENTERED = [case for case in CASES if case[1].get("center", True)]
COMPILED = [CASES[9]]  # a step of test_distiller.py compiles the spherical loss
ALL_COMPILED = [CASES[index] for index in (0, 4, 5, 7, 8, 9, 11, 14, 15)]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def reference(case, *arrays):
    return getattr(numpy_reference, LOSSES[case[0]].function.__name__)(*arrays, **case[1])


@pytest.mark.parametrize("classes", [2, 10, 100])
@each_case
def test_values_equal_the_reference(case, classes):
    student, teacher, labels = batch(classes)
    half = student.astype("float32"), teacher.astype("float16"), labels
    for given, dtype, rtol, atol in (
        ((student, teacher, labels), "float64", 1e-6, 1e-12),
        (half, "float32", 1e-5, 2e-5),
    ):
        result = terms(*case, *given)
        assert_terms_close(result, reference(case, *given), rtol=rtol, atol=atol)
        assert all(value.shape == labels.shape and value.dtype == dtype for value in result.values())


@each_case
def test_gradients_equal_the_reference_and_reach_no_teacher(case):
    student, teacher, labels = batch(classes=5, size=3)
    for term, gradient in gradients(*case, student, teacher, labels).items():
        expected = numpy_reference.numeric_gradient(
            lambda s, term=term: reference(case, s, teacher, labels)[term].sum(), student
        )
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7, err_msg=term)


@pytest.mark.parametrize("case", [CASES[index] for index in (0, 5, 9, 13)], ids=str)
def test_values_are_accurate_at_high_temperatures(case):
    """Rounding the logarithms of nearly equal probabilities would change the sum by more than the divergence."""
    student, teacher, labels = batch(100)
    case = case[0], case[1] | {"temperature": 1e4}
    result = terms(*case, student.astype("float32"), teacher.astype("float32"), labels)
    np.testing.assert_allclose(result["distill"], reference(case, student, teacher, labels)["distill"], rtol=2e-3)


@pytest.mark.parametrize("case", CENTERED, ids=str)
def test_a_shift_changes_nothing(case):
    student, teacher, labels = batch()
    shift = np.array([[3.0], [-5.0], [100.0], [0.1], [-40.0], [7.0]])
    expected = terms(*case, student, teacher, labels)
    assert_terms_close(terms(*case, student + shift, teacher, labels), expected, rtol=1e-10)


def test_shift_invariance_catches_a_missing_softmax():
    """keras.distillation's default resolves its loss from a name and skips the softmax."""
    student, teacher, _ = batch()
    loss = keras.distillation.LogitsDistillation().compute_loss
    before, after = (np.mean(loss(teacher, logits)) for logits in (student, student + 3.0))
    assert abs(after - before) > 1e-2 * abs(before), "Keras has fixed its default: update our comparison with it"


def test_dkd_parts_add_up_to_kd():
    _, teacher, labels = given = [array[:-1] for array in batch()]
    target, others = (terms("dkd", {"alpha": alpha, "beta": 1 - alpha}, *given)["distill"] for alpha in (1.0, 0.0))
    p_teacher = [numpy_reference.softmax(row / 4.0)[label] for row, label in zip(teacher, labels, strict=True)]
    expected = terms("kd", {}, *given)["distill"]
    np.testing.assert_allclose(target + (1 - np.array(p_teacher)) * others, expected, rtol=1e-9)


def test_rld_is_dkd_where_the_teacher_is_right():
    """Then its class is the label's, and every other class is ranked below."""
    student, teacher, _ = batch()
    given = student, teacher, teacher.argmax(axis=1)
    same = {"temperature": 1.0, "alpha": 0.7, "beta": 3.0}
    assert_terms_close(terms("rld", same, *given), terms("dkd", same, *given), rtol=1e-9)


def test_rld_without_a_class_below_the_label_compares_confidence_alone():
    student, teacher, _ = batch()
    given = student, teacher, teacher.argmin(axis=1)
    first, second = (terms("rld", {"beta": beta}, *given)["distill"] for beta in (0.0, 8.0))
    assert np.array_equal(first, second) and np.all(first > 0)


@each_case
def test_unlabelled_examples_have_no_label_term(case):
    given = batch()
    result, gradient = terms(*case, *given), gradients(*case, *given)
    for term in ("label", "distill") if LOSS_FACTS[case[0]].needs_one_class else ("label",):
        assert result[term][-1] == 0.0 and not np.any(gradient[term][-1])
    assert np.all(result["label"][:-1] > 0)
    sliced = terms(*case, *(array[:-1] for array in given))
    np.testing.assert_allclose(result["label"][:-1], sliced["label"], rtol=1e-12)


@each_case
def test_labels_in_every_form(case):
    *logits, labels = batch()
    expected = terms(*case, *logits, labels)
    for form in (labels[:, None], labels.astype("int32"), labels.astype("float32")):
        assert_terms_close(terms(*case, *logits, form), expected, rtol=0)
    missing = terms(*case, *logits, np.where(labels == 3, 10, labels))["label"]
    np.testing.assert_array_equal(np.isnan(missing), labels == 3)
    one_hot = np.vstack([np.eye(10)[labels[:-1]], np.zeros((1, 10))])
    if LOSS_FACTS[case[0]].needs_one_class:
        with pytest.raises(InputError, match="one class per example"):
            terms(*case, *logits, one_hot)
        return
    assert_terms_close(terms(*case, *logits, one_hot), expected, rtol=1e-12)
    soft = np.random.default_rng(1).dirichlet(np.ones(10), 6)
    assert_terms_close(terms(*case, *logits, soft), reference(case, *logits, soft), rtol=1e-6)
    with pytest.raises(InputError, match=r"\[batch, 10\]"):
        terms(*case, *logits, one_hot[:, :7])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@each_case
def test_values_and_gradients_are_finite_for_extreme_logits(case, dtype):
    rng = np.random.default_rng(0)
    # The gradient on the sphere is about radius / norm, which must fit into float16.
    largest, largest_teacher, smallest = (6e4, 500, 0.1) if dtype == "float16" else (1e6, 1e6, 1e-6)
    rows = [np.zeros(100), np.full(100, 0.1), np.full(100, -largest), largest * np.eye(100)[3]]
    rows += [scale * rng.normal(size=100) for scale in (largest / 5, 1.0, smallest)]
    student = tf.cast(np.repeat(rows, len(rows), axis=0), dtype)
    teacher = tf.cast(np.tile(np.clip(rows, -largest_teacher, largest_teacher), (len(rows), 1)), dtype)
    labels = np.arange(len(student)) % 5 - 1
    result = terms(*case, student, teacher, labels)
    assert all(np.all(np.isfinite(value)) and value.dtype == "float32" for value in result.values())
    for term, gradient in gradients(*case, student, teacher, labels).items():
        assert np.all(np.isfinite(gradient.astype("float32"))), term


@pytest.mark.parametrize("cases", [COMPILED, pytest.param(ALL_COMPILED, marks=pytest.mark.slow)], ids=["few", "all"])
def test_eager_graph_and_xla_agree(cases):
    student, teacher, labels = batch(100)

    def everything(student, teacher, labels, radius):
        results = {}
        for index, (name, settings) in enumerate(cases):
            if not isinstance(settings.get("radius", "none"), str):
                settings = settings | {"radius": radius}
            with tf.GradientTape() as tape:
                tape.watch(student)
                result = LOSSES[name].function(student, teacher, labels, **settings)
            gradient = tape.gradient(list(result.values()), student)
            results |= {f"{index} {term}": value for term, value in (result | {"gradient": gradient}).items()}
        return results

    given = tf.constant(student, "float32"), tf.constant(teacher, "float32"), tf.constant(labels), tf.constant(20.0)
    eager = everything(*given)
    signature = [tf.TensorSpec([None, *x.shape[1:]] if x.shape.rank else [], x.dtype) for x in given]
    for jit_compile in (False, True):
        compiled = tf.function(everything, input_signature=signature, jit_compile=jit_compile)(*given)
        assert_terms_close(compiled, eager, rtol=2e-5, atol=1e-5)


METHODS = pathlib.Path(__file__).resolve().parents[2] / "skd_tf" / "recipes" / "cifar100" / "methods"
# A flagfile may give a schedule where LOSSES has the constant at which it ends.
SCHEDULED = {name: {"kd_weight": "linear 0 to 1 over 20 epochs"} for name in ("dkd", "rld")}


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_each_loss_has_a_flagfile_with_its_authors_settings(name):
    path = METHODS / ("skd.flags" if name == "spherical" else f"{name}.flags")
    config, given = flags.read_flagfile(path)
    assert config.loss == name
    expected = LOSSES[name].defaults | SCHEDULED.get(name, {})
    assert {setting: getattr(config, setting) for setting in expected} == expected
    assert given == {"loss", *expected, *(["loss_settings"] if LOSS_FACTS[name].settings else [])}
    function = inspect.signature(LOSSES[name].function).parameters
    for setting, value in grammar.parse_loss_settings(config.loss_settings).items():
        assert function[setting].default == value


def test_settings_of_a_loss_reach_only_that_loss():
    assert Config(loss="dkd", loss_settings="beta = 2,alpha=1.0").loss_settings == "alpha=1, beta=2"
    for wrong in ({"loss": "kd", "loss_settings": "beta=2"}, {"loss": "dkd", "loss_settings": "gamma=2"}):
        with pytest.raises(InputError, match="does not take"):
            Config(**wrong)
    for text in ("beta", "beta=-1", "beta=2, beta=3", "beta=2 alpha=1", "beta=inf", "=2"):
        with pytest.raises(InputError, match="beta=2"):
            Config(loss="dkd", loss_settings=text)
    given = batch()
    fixed = {"temperature": 4.0, "radius": 1.0, "readout_radius": 1.0, "kd_weight": 1.0, "label_weight": 0.5}
    objective = Objective("dkd", center=True, label_smoothing=0.0, settings={"beta": 2.0})
    loss, _, _ = objective(*map(tf.constant, given), **fixed)
    expected = numpy_reference.dkd(*given, temperature=4.0, alpha=1.0, beta=2.0)
    np.testing.assert_allclose(loss, 0.5 * expected["label"] + expected["distill"], rtol=1e-6)
    for settings in ({"gamma": 2.0}, {"temperature": 2.0}, {"beta": "2"}, {"beta": float("nan")}):
        with pytest.raises(InputError):
            Objective("dkd", center=True, label_smoothing=0.0, settings=settings)


def test_losses_match_their_facts_and_signatures():
    assert tuple(LOSSES) == LOSS_NAMES
    for name, loss in LOSSES.items():
        signature = inspect.signature(loss.function).parameters
        assert list(signature)[:3] == ["student_logits", "teacher_logits", "labels"]
        settings = {key for key, value in signature.items() if value.kind is value.KEYWORD_ONLY}
        assert settings == set(LOSS_FACTS[name].arguments)
        assert ("radius" in settings) == Objective(name, center=True, label_smoothing=0.0).needs_radius
        own = {*LOSS_FACTS[name].settings, "teacher_weights"}
        assert settings - own == set(loss.defaults) - {"kd_weight", "label_weight"}
        for key in settings & set(loss.defaults):
            assert signature[key].default in (loss.defaults[key], inspect.Parameter.empty)
        assert loss.readout in losses.READOUTS
        assert "label_weight" in loss.defaults or 0 <= loss.defaults.get("kd_weight", 0) <= 1
    student, _, labels = batch()
    assert {name for name, loss in LOSSES.items() if not loss.needs_teacher} == {"cross_entropy"}
    assert list(losses.cross_entropy(student, None, labels)) == ["label"]
    with pytest.raises(InputError, match="other classes"):
        losses.kd(student, np.zeros((6, 9)), labels)


def test_the_dry_run_treats_any_loss_on_the_sphere_alike(tmp_path, monkeypatch):
    """An entry of LOSS_FACTS is enough: no check names the spherical loss."""
    for path in (tmp_path / part / kind / "0.png" for part in ("train", "test") for kind in ("cat", "dog")):
        path.parent.mkdir(parents=True)
        path.touch()
    config = Config(loss="kd", dataset=f"folder:{tmp_path}", validation_fraction=0, batch_size=2, center=False)
    assert "radius  " not in dry_run.describe(config)
    monkeypatch.setitem(LOSS_FACTS, "kd", LOSS_FACTS["kd"]._replace(probabilities="sphere"))
    assert "radius         2.8284 (auto" in dry_run.describe(config)
    with pytest.raises(InputError, match="Two classes"):
        dry_run.describe(config.replace(center=True))
