"""The teacher cache: each image gets its own logits, computed once; damaged files are reported and computed again."""

import dataclasses
import pathlib
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data, networks
from skd_tf.config import Config
from skd_tf.data import augmentation, teacher_cache
from skd_tf.errors import EnvironmentFailure, InputError
from skd_tf.models import deployable, loading
from skd_tf.runtime.files import sha256_of_json
from skd_tf.training import train_student
from skd_tf.training.teacher import Teacher
from tests.helpers import images
from tests.helpers.nets import distance, weights_of

STEPS = 8  # an epoch of 808 digits at batch 100
SETTINGS = {"student": "cnn_2", "batch_size": 100, "epochs": 3, "learning_rate": 0.1}
FLOAT32 = {"teacher_cache_dtype": "float32"}
one_device = tf.distribute.get_strategy


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
    return images.stream(digits, config, STEPS, logit_files=files, **{"last_step": 3 * STEPS} | options)


def mismatch(teacher, batches):
    """The largest distance of a streamed record from the teacher's logits of the streamed image."""
    return max(np.abs(teacher.model(x["image"]).numpy() - x["teacher_logits"]).max() for x, _ in batches)


def test_each_image_brings_its_own_logits(open_teacher, digits):
    """After the shuffle, in every epoch, for any replica and from any step; two swapped records are detected."""
    config, teacher = open_teacher(**FLOAT32)
    files = teacher.epoch_files(3)
    whole = stream(config, digits, files)
    second = stream(config, digits, files, shards=2, shard_range=range(1, 2))
    for batches in (whole, second, stream(config, digits, files, first_step=13)):
        assert mismatch(teacher, batches) < 1e-4
    assert np.array_equal(second[0][0]["teacher_logits"], whole[0][0]["teacher_logits"][50:])
    pixels = [x["image"] for x, _ in whole]
    assert not any(np.array_equal(a, b) for a, b in zip(pixels[:STEPS], pixels[STEPS:], strict=False))
    records = np.memmap(files[0], np.float32, "r+", teacher_cache.HEADER_BYTES, (len(digits.train), 10))
    records[[0, 1]] = records[[1, 0]]
    records.flush()
    assert mismatch(teacher, stream(config, digits, files)) > 1e-2


@pytest.mark.parametrize("replicas", [1, 2])
def test_training_from_the_cache_equals_training_live(open_teacher, digits, replicas, two_replicas):
    """float32 records up to rounding (other batch sizes run other kernels), float16 records up to their 11 bits."""
    strategy = two_replicas if replicas == 2 else one_device()
    trained = []
    for settings in ({"teacher_cache_dir": ""}, FLOAT32, {}):
        config, teacher = open_teacher(strategy=strategy, **settings)
        setup = train_student.SharedResources(digits, strategy, teacher)
        distiller = train_student.build_distiller(config, setup, STEPS)
        files = teacher.epoch_files(3)
        if files is None:
            distiller.teacher = teacher.model
        options = {"first_step": 0, "last_step": STEPS, "logit_files": files, "shards": replicas}
        batches = data.train_stream(digits, config.pick(data.StreamSettings), steps_per_epoch=STEPS, **options)
        iterator = iter(strategy.distribute_datasets_from_function(lambda _, batches=batches: batches))
        for steps in (1, 4):
            distiller.run_steps(iterator, steps)
            trained.append(weights_of(distiller.student))
    live, float32, float16 = trained[:2], trained[2:4], trained[4:]
    for cached, tolerances in ((float32, (1e-6, 1e-5)), (float16, (1e-4, 1e-3))):
        assert all(distance(*pair) < most for *pair, most in zip(live, cached, tolerances, strict=True))


def test_no_teacher_is_built_once_all_files_exist(open_teacher, digits, monkeypatch):
    _, first = open_teacher()
    files, expected, facts = first.epoch_files(3), first.logits(digits.validation.images), first.facts
    monkeypatch.setattr(loading, "load_teacher", lambda *_, **__: pytest.fail("the teacher was built"))
    # Another temperature, method, weight, student and seed use the same files.
    _, second = open_teacher(temperature=9.0, loss="kd", kd_weight=0.1, student="cnn_4", seed=3)
    assert second.epoch_files(3) == files
    assert np.array_equal(second.logits(digits.validation.images), expected)
    assert second.facts == facts == {"name": "cnn_8", "parameters": 1442}


def test_the_key_contains_everything_that_logits_depend_on(open_teacher, teacher_file, digits, tmp_path):
    def keys(dataset=digits, **options):
        return open_teacher(dataset, **options)[1].epoch_files(2)

    loading.load(teacher_file).save(tmp_path / "again.keras")
    base = keys()
    assert len(set(base)) == 2 and keys(file=tmp_path / "again.keras") == base  # another file of the same network
    others = [
        keys(file=save_teacher(tmp_path / "other.keras", seed=1)),
        keys(teacher_precision="bfloat16"),
        keys(**FLOAT32),
        keys(data_seed=1),
        keys(images.load(validation_fraction=0.2)),
        keys(dataclasses.replace(digits, augmentation=augmentation.Augmentation(2, False))),
        keys(dataclasses.replace(digits, version="2.0.0")),
    ]
    assert len({*base, *(path for other in others for path in other)}) == 2 + 2 * len(others)


def flipped(content, place, bits=1):
    return content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]


def test_a_damaged_file_is_reported_and_computed_again(open_teacher, capsys):
    paths = [pathlib.Path(file) for file in open_teacher()[1].epoch_files(2)]
    whole, foreign = (path.read_bytes() for path in paths)
    for damaged in (flipped(whole, 0, 4), flipped(whole, 5000), whole[:-2], whole + b"\0\0", foreign, b""):
        paths[0].write_bytes(damaged)
        capsys.readouterr()
        open_teacher()[1].epoch_files(2)
        assert paths[0].name in capsys.readouterr().err
        assert paths[0].read_bytes() == whole


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
    config, teacher = open_teacher(teacher_cache_epochs=2)
    batches = stream(config, digits, teacher.epoch_files(2))
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
        cache.require_space(10**9, (10**6, 1000))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="teacher_cache_dir"):
        open_cache(tmp_path / "file" / "sub")
    with pytest.raises(InputError, match="teacher_cache_dir"):
        Config(teacher_cache_epochs=3)


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
