"""Anything may come in: settings, flagfiles, bytes on the disk, logits, tensors of other programs."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from skd_tf import networks
from skd_tf.config import Config, flags
from skd_tf.config.fields import kinds_of, rules_of
from skd_tf.data import teacher_cache
from skd_tf.errors import InputError
from skd_tf.losses import LOSSES
from skd_tf.models import deployable
from skd_tf.runtime.files import sha256_of_json
from skd_tf.training import dry_run
from skd_tf.training.checkpoints import Checkpoints, _read
from tests.losses.loss_cases import CASES
from tests.tools.torch_states import resnet_modules, state_of
from tools.convert_torch.convert import convert

QUICK = {"deadline": None, "database": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
FIELDS = {field.name: field for field in dataclasses.fields(Config)}
# Values that are valid together. Settings that need a file or a download have tests of their own.
SENSIBLE = {
    "student": ["cnn_2", "cnn_4", "resnet8"],
    "lr_schedule": ["cosine", "constant"],
    "radius": ["auto", "teacher_mean", 5, "7.5"],
    "checkpoint_every": ["epoch", 7, "30s"],
    "kd_weight": [0.3, "0.9", 1],
    "label_weight": ["none", 0.1, 2],
    "batch_size": [32, "64"],
    "epochs": [1, "3", 300],
    "temperature": [1, "2.5", 1e-3],
    "seed": [0, 2**31 - 1],
    "steps_per_call": [1, 64],
    **dict.fromkeys(("validation_fraction", "label_smoothing", "momentum", "warmup_epochs"), (0, "0.1", 0.5)),
    **dict.fromkeys(("virtual_devices", "clip_norm"), (0, 1, "2")),
}
NUMBERS = ["nan", "-1", "1e400", "0x10", "1,2", "inf"]
JUNK = st.sampled_from([*NUMBERS, "", " ", "none", "ä", "true", "a b", "--epochs=3", "auto", ":"])


def _sensible(name):
    rules = rules_of(FIELDS[name])
    switch = ["true", "false"] if bool in kinds_of(FIELDS[name]) else [FIELDS[name].default]
    return st.sampled_from(SENSIBLE.get(name) or rules.choices or switch)


OPTIONAL = {name: _sensible(name) for name in FIELDS if name not in ("teacher", "loss")}
SANE = st.fixed_dictionaries(
    {"teacher": st.just("resnet8"), "loss": st.sampled_from(["spherical", "spherical", "kd"])}, optional=OPTIONAL
)
ODD = st.dictionaries(st.sampled_from(sorted(FIELDS)), JUNK, min_size=1, max_size=2)


def few_or_many(few, many):
    """Tests with `few` examples; with `many` only if slow tests are asked for."""
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])


def one_line(error):
    text = str(error)
    assert "Expected" in text and "Received" in text and "\n" not in text, text


@few_or_many(80, 600)
def test_any_settings_dry_run_or_are_one_line(examples):
    outcomes = {"valid": 0, "refused": 0}

    @settings(max_examples=examples, **QUICK)
    @given(SANE, st.one_of(st.just({}), st.just({}), ODD))
    def dry_run_or_refuse(values, odd):
        try:
            text = dry_run.describe(Config(**values | odd))
            outcomes["valid"] += 1
            assert "steps" in text.lower()
        except InputError as error:
            outcomes["refused"] += 1
            one_line(error)

    dry_run_or_refuse()
    assert sum(outcomes.values()) >= 5 / 6 * examples and outcomes["valid"] >= sum(outcomes.values()) / 2, outcomes


TEXTS = ["--epochs=3", "--noreport", "# a comment", "", "--temperature = 4", "--flagfile=missing", "epochs=3"]
FLAGS = st.builds("--{}={}".format, st.sampled_from(sorted(FIELDS)), JUNK)
LINES = st.one_of(st.sampled_from(TEXTS), FLAGS, st.text(max_size=30))


@few_or_many(80, 300)
def test_any_flagfile_is_read_or_is_one_line(tmp_path, examples):
    path = tmp_path / "fuzzed.flags"

    @settings(max_examples=examples, **QUICK)
    @given(st.lists(LINES, max_size=5))
    @example(["--flagfile=fuzzed.flags"])
    def read_or_refuse(lines):
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        try:
            assert isinstance(flags.read_flagfile(path)[0], Config)
        except InputError as error:
            assert str(error) and "\n" not in str(error)

    read_or_refuse()


ARRAYS = {"student/0000": np.arange(9.0, dtype=np.float32), "optimizer/0000": np.int64(7)}
HARM = st.tuples(st.sampled_from(["flip", "cut", "extend", "blank"]), st.integers(0, 10**6), st.integers(1, 255))


def harmed(whole, harm):
    kind, place, bits = harm
    place %= len(whole)
    flipped = whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :]
    blank = bytes(bits) if place + bits <= len(whole) else b"no room"  # a page that a power cut has kept from the disk
    blanked = whole[:place] + blank + whole[place + bits :]
    extended = whole + bytes([bits]) * (1 + place % 50)
    return {"flip": flipped, "cut": whole[:place], "extend": extended, "blank": blanked}[kind]


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A teacher cache, the key of its one file, and that file's bytes."""
    cache = teacher_cache.TeacherCache(tmp_path_factory.mktemp("cache"), "float16", print)
    key = sha256_of_json({"a": 1})
    cache.write(key, np.arange(12.0).reshape(6, 2))
    return cache, key, cache.path(key).read_bytes()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Checkpoints with one file, and that file's bytes."""
    kept = Checkpoints(tmp_path_factory.mktemp("checkpoints"))
    kept.write(ARRAYS, "step-000000007.ckpt", 7, {"seconds": 1.5})
    return kept, kept.paths()[0].read_bytes()


@few_or_many(150, 500)
def test_a_harmed_cache_file_is_never_used(cached, examples):
    cache, key, whole = cached

    @settings(max_examples=examples, **QUICK)
    @given(HARM)
    def never_used(harm):
        assume(harmed(whole, harm) != whole)
        cache.path(key).write_bytes(harmed(whole, harm))
        seen = []
        assert not teacher_cache.TeacherCache(cache.folder, "float16", seen.append).has(key, (6, 2)) and len(seen) == 1

    never_used()


@few_or_many(150, 500)
def test_a_harmed_checkpoint_is_named_or_complete(checkpoint, examples):
    """Some bytes of a zip say nothing of its content: a flipped date leaves the same numbers."""
    kept, whole = checkpoint
    path = kept.folder / "step-000000007.ckpt"

    @settings(max_examples=examples, **QUICK)
    @given(HARM)
    def named_or_complete(harm):
        path.write_bytes(harmed(whole, harm))
        seen = []
        if kept._newest(seen.append) is None:
            assert len(seen) == 1 and path.name in seen[0]
        else:
            arrays, facts = _read(path)
            assert facts["step"] == 7 and facts["extra"] == {"seconds": 1.5}
            np.testing.assert_equal(arrays, ARRAYS)

    named_or_complete()


SCALES = st.floats(-6, 6)


@pytest.mark.slow
@settings(max_examples=150, **QUICK)
@given(st.sampled_from(CASES), st.integers(1, 5), st.integers(2, 12), SCALES, SCALES, st.integers(0, 2**31))
def test_any_logits_give_finite_losses_and_gradients(case, examples, classes, student_scale, teacher_scale, seed):
    name, settings = case
    random = np.random.default_rng(seed)
    uniform = random.uniform(-1, 1, [2, examples, classes]).astype(np.float32)
    student, teacher = uniform[0] * 10.0**student_scale, uniform[1] * 10.0**teacher_scale
    labels = random.integers(-1, classes, examples)
    student = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(student)
        losses = LOSSES[name].function(student, teacher, labels, **settings)
        total = tf.add_n([tf.reduce_sum(loss) for loss in losses.values()])
    assert np.isfinite(total.numpy()) and np.isfinite(tape.gradient(total, student).numpy()).all()
    assert all(loss.shape == (examples,) and loss.dtype == "float32" for loss in losses.values())


@pytest.fixture(scope="module")
def state():
    """A PyTorch state dict of resnet8 with random weights."""
    model, random = networks.build("resnet8", input_shape=(32, 32, 3), num_classes=7), np.random.default_rng(0)
    model.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    return state_of(model, resnet_modules((1, 1, 1), "downsample", "fc"))


converted = functools.partial(convert, arch="resnet8", mean=(0.5,) * 3, std=(0.25,) * 3, input_size=32)


BUILD, STOCK_COPY = functools.cache(networks.build), functools.cache(deployable.stock_copy)


@pytest.fixture
def built_once(monkeypatch):
    """The converter finds its network already built: building takes a fifth of a second."""
    monkeypatch.setattr(networks, "build", BUILD)
    monkeypatch.setattr(deployable, "stock_copy", STOCK_COPY)


STATE_HARMS = {
    "rename": lambda name, tensor: {f"{name}_": tensor},
    "drop": lambda name, tensor: {},
    "add an axis": lambda name, tensor: {name: tensor[None]},
    "cut": lambda name, tensor: {name: np.atleast_1d(tensor)[:-1]},
    "double": lambda name, tensor: {name: np.stack([tensor, tensor]).reshape(-1, *np.shape(tensor)[1:])},
    "empty": lambda name, tensor: {name: np.atleast_1d(tensor)[:0]},
    "a scalar": lambda name, tensor: {name: np.zeros([])},
    "add": lambda name, tensor: {name: tensor, f"extra.{name}": tensor},
    "another prefix": lambda name, tensor: {f"layer9.{name}": tensor},
}


@few_or_many(80, 300)
def test_any_harmed_state_dict_is_one_line(state, built_once, examples):
    @settings(max_examples=examples, **QUICK)
    @given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(sorted(STATE_HARMS))), min_size=1, max_size=3))
    def convert_or_refuse(harms):
        harmed = dict(state)
        for place, harm in harms:
            names = sorted(name for name in harmed if not name.endswith("num_batches_tracked"))
            name = names[place % len(names)]
            harmed |= STATE_HARMS[harm](name, harmed.pop(name))
        assume(any(np.shape(harmed.get(name)) != np.shape(state.get(name)) for name in harmed.keys() | state.keys()))
        try:  # a head of other classes, weight and bias alike, is a network too
            assert converted(harmed).output_shape[-1] == len(harmed["fc.bias"]) != len(state["fc.bias"])
        except InputError as error:
            one_line(error)

    convert_or_refuse()


@pytest.mark.parametrize(
    ("dtype", "examples"),
    [("float32", 8), *(pytest.param(dtype, 35, marks=pytest.mark.slow) for dtype in ("float32", "float64", "float16"))],
)
def test_any_order_and_layout_of_a_state_dict_is_the_same_network(state, built_once, dtype, examples):
    given_state = {name: tensor.astype(dtype) for name, tensor in state.items() if "num_batches" not in name}
    names, expected = list(given_state), converted(given_state).get_weights()

    @settings(max_examples=examples, **QUICK)
    @given(st.permutations(names), st.sampled_from("CF"))
    def same(shuffled, layout):
        weights = converted({name: np.asarray(given_state[name], order=layout) for name in shuffled}).get_weights()
        assert len(weights) == len(names) == 47 and all(map(np.array_equal, weights, expected))

    same()
