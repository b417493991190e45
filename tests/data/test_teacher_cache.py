"""The teacher cache: each image gets its own logits, computed once; damaged shards are reported and computed again."""

import dataclasses
import errno
import shutil
import time

import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data, networks
from skd_tf.config import Config
from skd_tf.data import augmentation, logit_shards, teacher_cache
from skd_tf.data.augmentation import NO_EXTRA
from skd_tf.data.logit_shards import Shard
from skd_tf.errors import InputError
from skd_tf.models import deployable, loading
from skd_tf.runtime import console
from skd_tf.training import teacher_pass, train_student
from skd_tf.training.teacher import Teacher
from tests.data.cache_cases import flipped, open_cache
from tests.helpers import images
from tests.helpers.nets import distance, weights_of
from tests.search.cases import counting

STEPS = 8  # an epoch of 808 digits at batch 100
SETTINGS = {"student": "cnn_2", "batch_size": 100, "epochs": 3, "learning_rate": 0.1}
FLOAT32 = {"teacher_cache_dtype": "float32"}
EVERYTHING = augmentation.Extra(trivial=True, erase=0.25, mixup=0.2, cutmix=1.0)
one_device = tf.distribute.get_strategy


@pytest.fixture(autouse=True)
def four_shards(monkeypatch):
    """In each epoch of 808 digits."""
    monkeypatch.setattr(logit_shards, "MOST_ROWS", 256)


def save_teacher(path, **options):
    deployable.stock_copy(networks.build("cnn_8", input_shape=(8, 8, 1), num_classes=10, **options)).save(path)
    return path


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teacher") / "cnn_8.keras", mean=(0.3,), std=(0.4,))


@pytest.fixture
def open_teacher(teacher_file, digits, tmp_path):
    """`open_teacher(dataset=, file=, **settings)` -> its `Config` and `Teacher`, with a cache in tmp_path / "cache"."""

    def open_it(dataset=digits, file=teacher_file, strategy=None, **settings):
        config = {"teacher_checkpoint": str(file), "teacher_cache_dir": str(tmp_path / "cache")} | SETTINGS | settings
        return Config(**config), Teacher(file, Config(**config), dataset, strategy or one_device())

    return open_it


def stream(config, digits, files, **options):
    return images.stream(digits, config, STEPS, teacher_logits=files, **{"last_step": 3 * STEPS} | options)


def mismatch(teacher, batches):
    """The largest distance of a streamed record from the teacher's logits of the streamed image."""
    return max(np.abs(teacher.model(x["image"]).numpy() - x["teacher_logits"]).max() for x, _ in batches)


@pytest.mark.slow
def test_each_image_brings_its_own_logits(open_teacher, digits):
    """After the shuffle, in every epoch, for any replica and from any step; two swapped records are detected."""
    config, teacher = open_teacher(**FLOAT32)
    files = teacher.epoch_logits(3)
    whole = stream(config, digits, files)
    second = stream(config, digits, files, shards=2, shard_range=range(1, 2))
    for batches in (whole, second, stream(config, digits, files, first_step=13)):
        assert mismatch(teacher, batches) < 1e-4
    assert np.array_equal(second[0][0]["teacher_logits"], whole[0][0]["teacher_logits"][50:])
    pixels = [x["image"] for x, _ in whole]
    assert not any(np.array_equal(a, b) for a, b in zip(pixels[:STEPS], pixels[STEPS:], strict=False))
    shard, length = Shard(0, 0), 256 * 40
    content = np.frombuffer(files.shards.path(shard).read_bytes()[-length:], np.uint8).reshape(256, 40).copy()
    content[[0, 1]] = content[[1, 0]]
    files.shards.write(shard, content)
    assert mismatch(teacher, stream(config, digits, teacher.epoch_logits(3))) > 1e-2


@pytest.mark.slow
def test_the_logits_are_those_of_mixed_images(open_teacher, digits):
    mixed = dataclasses.replace(digits, extra=EVERYTHING)
    config, teacher = open_teacher(mixed, **FLOAT32)
    batches = stream(config, mixed, teacher.epoch_logits(2), last_step=2 * STEPS)
    assert mismatch(teacher, batches) < 1e-4
    assert batches[0][1].shape == (100, 10)
    plain = stream(config, digits, open_teacher(**FLOAT32)[1].epoch_logits(2), last_step=STEPS)
    assert not np.array_equal(plain[0][0]["teacher_logits"], batches[0][0]["teacher_logits"])


@pytest.mark.parametrize(
    ("replicas", "extra", "caches"),
    [
        (1, NO_EXTRA, [FLOAT32]),
        pytest.param(1, NO_EXTRA, [FLOAT32, {}], marks=pytest.mark.slow),
        pytest.param(2, NO_EXTRA, [FLOAT32, {}], marks=pytest.mark.slow),
        pytest.param(1, EVERYTHING, [FLOAT32, {}], marks=pytest.mark.slow),
        pytest.param(2, EVERYTHING, [FLOAT32, {}], marks=pytest.mark.slow),
    ],
)
def test_training_from_the_cache_equals_training_live(open_teacher, digits, replicas, extra, caches, two_replicas):
    """float32 records up to rounding (other batch sizes run other kernels), float16 records up to their 11 bits."""
    strategy = two_replicas if replicas == 2 else one_device()
    digits, trained = dataclasses.replace(digits, extra=extra), []
    for settings in ({"teacher_cache_dir": ""}, *caches):
        config, teacher = open_teacher(digits, strategy=strategy, **settings)
        setup = train_student.SharedResources(digits, strategy, teacher)
        distiller = train_student.build_distiller(config, setup, STEPS)
        files = teacher.epoch_logits(3)
        if files is None:
            distiller.teacher = teacher.model
        options = {"first_step": 0, "last_step": STEPS, "teacher_logits": files, "shards": replicas}
        batches = data.train_stream(digits, config.pick(data.StreamSettings), steps_per_epoch=STEPS, **options)
        iterator = iter(strategy.distribute_datasets_from_function(lambda _, batches=batches: batches))
        for steps in (1, 4):
            distiller.run_steps(iterator, steps)
            trained.append(weights_of(distiller.student))
    live, *cached = zip(trained[::2], trained[1::2], strict=True)
    for found, tolerances in zip(cached, ((1e-6, 1e-5), (1e-4, 1e-3)), strict=False):
        assert all(distance(*pair) < most for *pair, most in zip(live, found, tolerances, strict=True))


def paths_of(logits):
    shards = logits.shards
    return [shards.path(Shard(epoch, number)) for epoch in range(logits.epochs) for number in range(shards.count)]


def test_no_teacher_is_built_once_all_files_exist(open_teacher, digits, monkeypatch):
    _, first = open_teacher()
    files, expected, facts = first.epoch_logits(3), first.logits(digits.validation.images), first.facts
    assert len(paths_of(files)) == 12 and all(path.exists() for path in paths_of(files))
    monkeypatch.setattr(loading, "load_teacher", lambda *_, **__: pytest.fail("the teacher was built"))
    # Another temperature, method, weight, student and seed use the same files.
    _, second = open_teacher(temperature=9.0, loss="kd", kd_weight=0.1, student="cnn_4", seed=3)
    assert paths_of(second.epoch_logits(3)) == paths_of(files)
    assert np.array_equal(second.logits(digits.validation.images), expected)
    assert second.facts == facts == {"name": "cnn_8", "parameters": 1442}


def test_the_key_contains_everything_that_logits_depend_on(open_teacher, teacher_file, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_pass, "compute", lambda *_: None)

    def key(dataset=digits, **options):
        return open_teacher(dataset, **options)[1].epoch_logits(1).shards.key

    loading.load(teacher_file).save(tmp_path / "again.keras")
    base = key()
    assert key(file=tmp_path / "again.keras") == base  # another file of the same network
    others = [
        key(file=save_teacher(tmp_path / "other.keras", seed=1)),
        key(teacher_precision="bfloat16"),
        key(**FLOAT32),
        key(teacher_cache_top=3),
        key(data_seed=1),
        key(images.load(validation_fraction=0.2)),
        key(dataclasses.replace(digits, augmentation=augmentation.Augmentation(2, False))),
        key(dataclasses.replace(digits, version="2.0.0")),
        key(dataclasses.replace(digits, train=dataclasses.replace(digits.train, index=digits.train.index + 1))),
        key(teacher_preprocessing="standard"),
        key(dataclasses.replace(digits, mean=(0.7,)), teacher_preprocessing="standard"),
        key(dataclasses.replace(digits, extra=EVERYTHING)),
        key(dataclasses.replace(digits, extra=EVERYTHING._replace(erase=0.5))),
    ]
    monkeypatch.setattr(logit_shards, "MOST_ROWS", 512)
    assert len({base, key(), *others}) == 2 + len(others)


@pytest.mark.slow
def test_a_damaged_shard_is_reported_and_computed_again_alone(open_teacher, digits, capsys):
    """Also by a process that has not built the teacher, in the thread that reads; nothing unverified is trained on."""
    config, teacher = open_teacher()
    files, options = teacher.epoch_logits(2), {"first_step": 6, "last_step": 12}
    expected, paths = stream(config, digits, files, **options), paths_of(files)
    whole, foreign = paths[5].read_bytes(), paths[1].read_bytes()
    later = open_teacher()[1].epoch_logits(2)
    kept = [path.stat().st_mtime_ns for path in paths]
    table = flipped(whole, teacher_cache.HEADER_BYTES + 1)
    for damaged in (flipped(whole, len(whole) - 3, 4), whole[:-2], table, flipped(whole, 0, 4), foreign, None):
        if damaged is not None:
            paths[5].write_bytes(damaged)
            found = open_teacher()[1].epoch_logits(2)
        else:  # it disappears in the middle of a run
            paths[5].unlink()
            found = later
        assert images.equal(stream(config, digits, found, **options), expected)
        assert capsys.readouterr().err.count(paths[5].name) == 1
        assert paths[5].read_bytes() == whole
    assert [path.stat().st_mtime_ns for path in paths if path != paths[5]] == kept[:5] + kept[6:]


def test_the_thread_verifies_the_pass_that_is_read_and_the_next(open_teacher):
    files = open_teacher()[1].epoch_logits(3)
    files.records(1, np.array([0]))
    deadline = time.monotonic() + 10
    while not all(files._pass(epoch).verified.all() for epoch in (1, 2)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert 0 not in files._passes


@pytest.mark.slow
def test_a_repair_that_fails_ends_the_run_with_its_own_error(open_teacher, digits, monkeypatch):
    config, teacher = open_teacher(epochs=1)
    files = teacher.epoch_logits(1)
    for path in paths_of(files):
        path.write_bytes(flipped(path.read_bytes(), path.stat().st_size - 3, 4))
    files = open_teacher(epochs=1)[1].epoch_logits(1)

    def full_disk(self, shard, records):
        raise teacher_cache.unwritable(self.folder, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(logit_shards.LogitShards, "write", full_disk)
    own_error = pytest.raises(InputError, match=r"cannot be written \(No space left on device")
    with own_error, train_student._raising_errors_of([files]):
        stream(config, digits, files)


@pytest.mark.slow
def test_files_of_one_pass_each_are_read_and_a_damaged_one_becomes_shards(open_teacher, digits, capsys, monkeypatch):
    """As skd_tf 0.1 wrote them."""
    monkeypatch.setitem(console._verbosity, "full", True)
    config, teacher = open_teacher()
    files = teacher.epoch_logits(3)
    expected = stream(config, digits, files)
    shape = len(digits.train), 10
    with counting(teacher_cache.TeacherCache, "path") as asked:
        teacher.epoch_logits(3)
    keys = [key for _, key in asked]
    logits = [
        np.concatenate([files.records(epoch, np.arange(len(digits.train)))]).view(np.float16) for epoch in range(3)
    ]
    cache = open_cache(paths_of(files)[0].parents[1])
    for key, values in zip(keys, logits, strict=True):
        cache.write(key, values.reshape(shape))
    shutil.rmtree(paths_of(files)[0].parent)
    capsys.readouterr()
    assert images.equal(stream(config, digits, open_teacher()[1].epoch_logits(3)), expected)
    printed = capsys.readouterr()
    assert "0 to compute" in printed.out and not printed.err
    cache.path(keys[1]).write_bytes(flipped(cache.path(keys[1]).read_bytes(), 5000))
    assert images.equal(stream(config, digits, open_teacher()[1].epoch_logits(3)), expected)
    assert cache.path(keys[1]).name in capsys.readouterr().err
    assert [path.exists() for path in paths_of(files)] == [False] * 4 + [True] * 4 + [False] * 4
    assert [cache.path(key).exists() for key in keys] == [True, False, True]


def test_the_largest_logits_are_taken_from_a_cache_of_all(open_teacher, tmp_path, monkeypatch, capsys):
    """Without the teacher, and to the byte what the teacher would have given."""
    top = {"teacher_cache_top": 3}
    expected = open_teacher(**top, teacher_cache_dir=str(tmp_path / "direct"))[1].epoch_logits(2)
    expected = [path.read_bytes() for path in paths_of(expected)]
    full = open_teacher()[1].epoch_logits(2)
    with monkeypatch.context() as patched:
        patched.setattr(loading, "load_teacher", lambda *_, **__: pytest.fail("the teacher was built"))
        reduced = open_teacher(**top)[1].epoch_logits(2)
    assert [path.read_bytes() for path in paths_of(reduced)] == expected
    shutil.rmtree(reduced.shards.folder)
    damaged = paths_of(full)[5]
    damaged.write_bytes(flipped(damaged.read_bytes(), 3000))
    reduced = open_teacher(**top)[1].epoch_logits(2)
    assert [path.read_bytes() for path in paths_of(reduced)] == expected
    assert "The teacher computes instead" in capsys.readouterr().err


def test_fewer_epochs_than_the_run_repeat(open_teacher, digits):
    digits = dataclasses.replace(digits, extra=augmentation.Extra(mixup=0.2))  # the partners repeat too
    config, teacher = open_teacher(digits, teacher_cache_epochs=2)
    batches = stream(config, digits, teacher.epoch_logits(2))
    assert mismatch(teacher, batches) < 1e-2
    pixels = [(x["image"], y) for x, y in batches]
    assert images.equal(pixels, stream(config, digits, None))  # a student without a teacher gets the same images
    first, second, third = (images.images_in(pixels[epoch * STEPS :][:STEPS]) for epoch in range(3))
    assert len(first & third) > 750 > len(first & second)  # eight are dropped, in another order
