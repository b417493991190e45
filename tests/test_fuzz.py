"""Whatever comes in: settings, flagfiles, bytes on the disk, logits, tensors of other programs."""

import dataclasses
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from loss_cases import CASES
from test_convert_torch import converted, tiny_state

from skd_tf import cli, dry_run, teacher_cache
from skd_tf.checkpoints import Checkpoints, _read
from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.knobs import kinds_of, rules_of
from skd_tf.losses import LOSSES

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))

QUICK = {"deadline": None, "database": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
FIELDS = {field.name: field for field in dataclasses.fields(Config)}
# Values that are sensible together; what needs a file or a download is left to tests of its own.
SENSIBLE = {
    "dataset": ["digits"], "student": ["cnn_2", "cnn_4", "resnet8"],
    "loss": ["kd", "spherical", "cross_entropy", "dkd", "dist", "logit_standardization"],
    "lr_schedule": ["cosine", "constant"], "radius": ["auto", "teacher_mean", 5, "7.5"],
    "checkpoint_every": ["epoch", 7, "30s"], "kd_weight": [0.3, "0.9", 1],
    "label_weight": ["none", 0.1, 2], "teacher": ["resnet8"], "batch_size": [32, "64"],
    "epochs": [1, "3", 300], "temperature": [1, "2.5", 1e-3], "validation_fraction": [0, "0.1", 0.5], "seed": [0, 2**31],
    "precision": ["float32", "bfloat16", "float16"], "virtual_devices": [0, 1, 2],
    "optimizer": ["sgd", "adamw"], "clip_norm": [0, 1, "5"],
    "steps_per_call": [1, 64], "warmup_epochs": [0, "0.5"], "label_smoothing": [0, 0.1], "momentum": [0, 0.9],
}  # fmt: skip
JUNK = st.sampled_from(
    ["", " ", "nan", "-1", "1e400", "none", "ä", "true", "0x10", "a b", "--epochs=3", "1,2", "inf", "auto", ":"]
)  # fmt: skip


def _sensible(name):
    if name in SENSIBLE:
        return st.sampled_from(SENSIBLE[name])
    rules, kinds = rules_of(FIELDS[name]), kinds_of(FIELDS[name])
    if rules.choices:
        return st.sampled_from(rules.choices)
    return st.sampled_from(["true", "false"]) if bool in kinds else st.just(FIELDS[name].default)


SANE = st.fixed_dictionaries(
    {"teacher": st.just("resnet8")}, optional={name: _sensible(name) for name in FIELDS if name != "teacher"}
)  # fmt: skip
ODD = st.dictionaries(st.sampled_from(sorted(FIELDS)), JUNK, min_size=1, max_size=2)


def one_line(error):
    text = str(error)
    assert "Expected" in text and "Received" in text and "\n" not in text, text


def test_any_settings_dry_run_or_are_one_line():
    outcomes = {"valid": 0, "refused": 0}

    @settings(max_examples=600, **QUICK)
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
    assert sum(outcomes.values()) >= 500 and outcomes["valid"] >= sum(outcomes.values()) / 2, outcomes


LINES = st.one_of(
    st.sampled_from(["--epochs=3", "--noreport", "# a comment", "", "--temperature = 4", "--flagfile=missing", "epochs=3"]),
    st.tuples(st.sampled_from(sorted(FIELDS)), JUNK).map(lambda pair: f"--{pair[0]}={pair[1]}"),
    st.text(max_size=30),
)


@settings(max_examples=300, **QUICK)
@given(st.lists(LINES, max_size=5))
@example(["--flagfile=fuzzed.flags"])
def test_any_flagfile_is_read_or_is_one_line(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "fuzzed.flags"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    try:
        assert isinstance(cli.read_flagfile(path)[0], Config)
    except InputError as error:
        assert "\n" not in " ".join(str(error).split()) and str(error)


HARM = st.tuples(st.sampled_from(["flip", "cut", "extend"]), st.integers(0, 10**6), st.integers(1, 255))


def harmed(whole, harm):
    kind, place, bits = harm
    place %= len(whole)
    flipped = whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :]
    return {"flip": flipped, "cut": whole[:place], "extend": whole + bytes([bits]) * (1 + place % 50)}[kind]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(cache, its key, checkpoints, their arrays): one small file of each."""
    folder = tmp_path_factory.mktemp("files")
    logits = np.arange(12.0).reshape(6, 2)
    cache, key = teacher_cache.TeacherCache(folder / "cache", "float16", lambda line: None), teacher_cache.key_of({"a": 1})
    cache.write(key, logits)
    arrays = {"student/0000": np.arange(9.0, dtype=np.float32), "optimizer/0000": np.int64(7)}
    kept = Checkpoints(folder / "checkpoints")
    kept.write(arrays, "step-000000007.ckpt", 7, {"seconds": 1.5})
    return cache, key, cache.path(key).read_bytes(), kept, kept.paths()[0].read_bytes()


@settings(max_examples=500, **QUICK)
@given(HARM)
def test_a_harmed_cache_file_is_never_used(files, harm):
    cache, key, whole, _, _ = files
    cache.path(key).write_bytes(harmed(whole, harm))
    seen = []
    assert not teacher_cache.TeacherCache(cache.folder, "float16", seen.append).has(key, (6, 2)) and len(seen) == 1


@settings(max_examples=500, **QUICK)
@given(HARM)
def test_a_harmed_checkpoint_is_named_or_whole(files, harm):
    """A zip has bytes that say nothing of its content: a flipped date leaves the very same numbers."""
    _, _, _, kept, whole = files
    path = kept.folder / "step-000000007.ckpt"
    path.write_bytes(harmed(whole, harm))
    seen = []
    if kept._newest(seen.append) is None:
        assert len(seen) == 1 and path.name in seen[0]
    else:
        arrays, facts = _read(path)
        assert facts["step"] == 7 and facts["extra"] == {"seconds": 1.5}
        assert np.array_equal(arrays["student/0000"], np.arange(9.0, dtype=np.float32)) and arrays["optimizer/0000"] == 7


@settings(max_examples=60, **QUICK)
@given(
    st.sampled_from(CASES), st.integers(1, 5), st.integers(2, 12), st.floats(-6, 6), st.floats(-6, 6), st.integers(0, 2**31)
)  # fmt: skip
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
    return tiny_state()


@settings(max_examples=12, **QUICK)
@given(st.integers(0, 10**6), st.sampled_from(["drop", "rename", "transpose", "cut", "add"]))
def test_any_harmed_state_dict_is_one_line(state, place, harm):
    name = sorted(name for name in state if not name.endswith("num_batches_tracked"))[place % len(state) % 20]
    other, tensor = dict(state), state[name]
    if harm in ("drop", "rename"):
        del other[name]
    changes = {"rename": {f"{name}_": tensor}, "cut": {name: tensor[:-1]}, "transpose": {name: tensor[None]}}
    other |= changes.get(harm, {"x": tensor} if harm == "add" else {})
    with pytest.raises(InputError) as caught:
        converted(other, "resnet8")
    one_line(caught.value)
