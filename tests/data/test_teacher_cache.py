"""The teacher cache: each image gets its own logits, computed once; damaged shards are reported and computed again."""

import contextlib
import dataclasses
import errno
import os
import pathlib
import shutil
import time
import weakref
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data, networks
from skd_tf.config import Config
from skd_tf.data import augmentation, epoch_logits, logit_records, logit_shards, teacher_cache
from skd_tf.data.augmentation import NO_EXTRA
from skd_tf.data.logit_records import LogitRecord
from skd_tf.data.logit_shards import LogitShards, Shard
from skd_tf.errors import EnvironmentFailure, InputError
from skd_tf.models import deployable, loading
from skd_tf.runtime import console
from skd_tf.runtime.files import sha256_of_json
from skd_tf.training import teacher_pass, train_student
from skd_tf.training.teacher import Teacher
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


def flipped(content, place, bits=1):
    return content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]


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


def test_any_flipped_byte_of_a_shard_is_detected(tmp_path):
    shards = small_shards(tmp_path)
    shard = Shard(3, 1)
    shards.write(shard, np.arange(88, dtype=np.uint8).reshape(44, 2))
    whole = shards.path(shard).read_bytes()
    for place in range(len(whole)):
        shards.path(shard).write_bytes(flipped(whole, place))
        with pytest.raises(logit_shards.DamagedError):
            shards.open(shard).verify(0)
    shards.path(shard).write_bytes(whole)
    shards.open(shard).verify(0)


def small_shards(folder, images=300):
    return logit_shards.LogitShards(folder, "key", images, logit_records.LogitRecord(1, "float16"), 256)


def test_a_file_in_the_place_of_another_is_detected(tmp_path):
    shards = LogitShards(tmp_path, "key", 4, LogitRecord(2, "float32"), 2)
    places = [Shard(epoch, number) for epoch in range(2) for number in range(2)]
    for place in places:
        shards.write(place, shards.record.encode(np.ones([2, 2])))
    whole = {place: shards.path(place).read_bytes() for place in places}
    for place in places[1:]:
        shards.path(place).write_bytes(whole[places[0]])
        with pytest.raises(logit_shards.DamagedError, match="another key"):
            shards.open(place)


def test_a_shard_has_about_16_mb_and_whole_batches(monkeypatch):
    monkeypatch.undo()
    lengths = {classes: logit_shards.shard_rows(2 * classes) for classes in (10, 100, 1000, 21841, 10**6)}
    assert lengths == {10: 8192, 100: 8192, 1000: 8192, 21841: 256, 10**6: 256}


def test_a_block_is_verified_before_its_first_record_is_used_and_once(tmp_path, monkeypatch):
    """By the reader, as the thread that verifies ahead does nothing here."""
    shards = small_shards(tmp_path, images=70_000)
    shards = dataclasses.replace(shards, rows=70_000)
    shards.write(Shard(0, 0), np.zeros([70_000, 2], np.uint8))
    verified = []
    monkeypatch.setattr(epoch_logits.EpochLogits, "_verify_ahead", lambda self: None)
    monkeypatch.setattr(logit_shards.OpenShard, "verify", lambda self, block: verified.append(block))
    logits = epoch_logits.EpochLogits(shards, 1, {}, pytest.fail, pytest.fail)
    for rows in ([1, 69_999, 0], [0, 2], [40_000]):
        logits.records(0, np.array(rows))
    assert sorted(verified[:2]) == [0, 2] and verified[2:] == [1]


def test_the_thread_verifies_the_pass_that_is_read_and_the_next(open_teacher):
    files = open_teacher()[1].epoch_logits(3)
    files.records(1, np.array([0]))
    deadline = time.monotonic() + 10
    while not all(files._pass(epoch).verified.all() for epoch in (1, 2)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert 0 not in files._passes


def test_files_that_cannot_be_read_are_not_damaged(tmp_path, monkeypatch):
    """They stay, and nothing is computed again."""
    shards = small_shards(tmp_path)
    for number in range(2):
        shards.write(Shard(0, number), np.zeros([len(shards.images_in(number)), 2], np.uint8))
    before = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    logits = epoch_logits.EpochLogits(shards, 1, {}, pytest.fail, pytest.fail)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="Too many open files"):
        patched.setattr(logit_shards.mmap, "mmap", out_of_files)
        logits.records(0, np.array([0]))
    assert isinstance(logits.error, OSError)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="Too many open files"):
        patched.setattr(teacher_cache, "open", out_of_files, raising=False)
        (tmp_path / "key.logits").touch()
        open_cache(tmp_path).has("key", (1, 2))
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir()) if path.name != "key.logits"] == before


def out_of_files(*_, **__):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_as_many_files_are_kept_open_as_the_process_may(tmp_path, monkeypatch):
    shards = small_shards(tmp_path, images=256 * 9)
    records = np.arange(2 * shards.images, dtype=np.uint16).astype("<u2").view(np.uint8).reshape(-1, 2) & 0x3F
    for number in range(9):
        shards.write(Shard(0, number), records[number * 256 : (number + 1) * 256].copy())
    monkeypatch.setattr(epoch_logits.EpochLogits, "_verify_ahead", lambda self: None)
    monkeypatch.setattr(epoch_logits._OpenFiles, "_instances", weakref.WeakSet())
    monkeypatch.setattr(epoch_logits, "most_open", lambda: 8)
    one, other = (epoch_logits.EpochLogits(shards, 1, {}, pytest.fail, pytest.fail) for _ in range(2))
    order = np.random.default_rng(0).permutation(shards.images)
    for logits in (one, other):
        np.testing.assert_array_equal(logits.records(0, order), records[order])
        assert len(logits._open._files) == 2  # half of 8, for two


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


def open_cache(folder):
    return teacher_cache.TeacherCache(folder, "float16", lambda line: None)


def test_every_flipped_byte_of_a_small_file_is_detected(tmp_path):
    cache, key, logits = open_cache(tmp_path), sha256_of_json({"a": 1}), np.arange(6).reshape(3, 2)
    cache.write(key, logits)
    assert np.array_equal(cache.read(key, (3, 2)), logits)
    whole = cache.path(key).read_bytes()
    for place in range(len(whole)):
        cache.path(key).write_bytes(flipped(whole, place))
        assert not open_cache(tmp_path).has(key, (3, 2)), place


def test_fewer_epochs_than_the_run_repeat(open_teacher, digits):
    digits = dataclasses.replace(digits, extra=augmentation.Extra(mixup=0.2))  # the partners repeat too
    config, teacher = open_teacher(digits, teacher_cache_epochs=2)
    batches = stream(config, digits, teacher.epoch_logits(2))
    assert mismatch(teacher, batches) < 1e-2
    pixels = [(x["image"], y) for x, y in batches]
    assert images.equal(pixels, stream(config, digits, None))  # a student without a teacher gets the same images
    first, second, third = (images.images_in(pixels[epoch * STEPS :][:STEPS]) for epoch in range(3))
    assert len(first & third) > 750 > len(first & second)  # eight are dropped, in another order


def test_no_space_no_permission_and_overflow_are_input_errors(tmp_path):
    cache = open_cache(tmp_path / "new")
    with pytest.raises(InputError, match="float32"):
        cache.write("k", np.full([2, 2], 1e6))
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(EnvironmentFailure, match="disk is too small"):
        teacher_cache.require_space(tmp_path, 10**18)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="teacher_cache_dir"):
        open_cache(tmp_path / "file" / "sub")
    with pytest.raises(InputError, match="teacher_cache_dir"):
        Config(teacher_cache_epochs=3)


def test_a_file_that_goes_while_the_folder_is_listed_hides_no_other(tmp_path, monkeypatch):
    shards = LogitShards(tmp_path, "key", 6, LogitRecord(3, "float32", 0), 2)
    for shard in (wanted := [Shard(0, number) for number in range(3)]):
        shards.write(shard, np.zeros((2, 12), np.uint8))
    scandir = os.scandir

    @contextlib.contextmanager
    def with_one_that_goes(folder):
        gone = pathlib.Path(folder, "0000-00000.logits.0123.tmp")
        gone.touch()
        with scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name != gone.name)
            gone.unlink()
            yield listed

    monkeypatch.setattr(os, "scandir", with_one_that_goes)
    assert shards.missing(wanted) == []


def test_two_writers_can_share_one_folder(tmp_path):
    """Neither sees an incomplete file, although both write the same files at the same time."""

    def write_and_read(folder):
        cache = teacher_cache.TeacherCache(folder, "float16", pytest.fail)
        for i in range(200):
            key, logits = sha256_of_json({"epoch": i}), np.full([200, 10], i)
            if not cache.has(key, logits.shape):
                cache.write(key, logits)
            assert np.array_equal(cache.read(key, logits.shape), logits)

    with futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(write_and_read, [tmp_path] * 2))
    assert len([*tmp_path.iterdir()]) == 200
