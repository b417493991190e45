"""The teacher cache: each image gets its own logits, computed once; damaged files are reported and computed again."""

import dataclasses
import functools
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data, networks
from skd_tf.config import Config
from skd_tf.data import augmentation, teacher_cache
from skd_tf.errors import InputError
from skd_tf.models import deployable, loading
from skd_tf.runtime.files import sha256_of_json
from skd_tf.training import train_student
from skd_tf.training.teacher import Teacher
from tests.helpers import images
from tests.helpers.nets import distance, weights_of

STEPS = 8  # an epoch of 808 digits at batch 100
SETTINGS = {"student": "cnn_2", "batch_size": 100, "epochs": 3, "learning_rate": 0.1}


@pytest.fixture(scope="module")
def digits():
    return data.load(data.DataSettings())


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "cnn_8.keras"
    facts = {"input_shape": (8, 8, 1), "num_classes": 10, "mean": (0.3,), "std": (0.4,)}
    deployable.stock_copy(networks.build("cnn_8", **facts)).save(path)
    return path


def open_teacher(teacher_file, digits, folder, strategy=None, **settings):
    config = Config(teacher_checkpoint=str(teacher_file), teacher_cache_dir=str(folder), **SETTINGS | settings)
    return config, Teacher(teacher_file, config, digits, strategy or tf.distribute.get_strategy())


def stream(config, digits, files, **options):
    return images.stream(digits, config, STEPS, logit_files=files, **{"last_step": 3 * STEPS} | options)


def stream_for(context, digits, config, files):
    options = {"steps_per_epoch": STEPS, "first_step": 0, "last_step": STEPS, "logit_files": files}
    return data.train_stream(digits, config.pick(data.StreamSettings), shards=context.num_replicas_in_sync, **options)


def mismatch(teacher, batches):
    """The largest distance of a streamed record from the teacher's logits of the streamed image."""
    return max(np.abs(teacher.model(x["image"]).numpy() - x["teacher_logits"]).max() for x, _ in batches)


def test_each_image_brings_its_own_logits(teacher_file, digits, tmp_path):
    """After the shuffle, in every epoch, for any replica and from any step; two swapped records are detected."""
    config, teacher = open_teacher(teacher_file, digits, tmp_path, teacher_cache_dtype="float32")
    files = teacher.epoch_files(3)
    whole = stream(config, digits, files)
    assert mismatch(teacher, whole) < 1e-4
    assert mismatch(teacher, stream(config, digits, files, first_step=13)) < 1e-4
    second = stream(config, digits, files, shards=2, shard_range=range(1, 2))
    assert mismatch(teacher, second) < 1e-4
    assert np.array_equal(second[0][0]["teacher_logits"], whole[0][0]["teacher_logits"][50:])
    pixels = [x["image"] for x, _ in whole]
    assert not any(np.array_equal(a, b) for a, b in zip(pixels[:STEPS], pixels[STEPS:], strict=False))
    swapped = np.fromfile(files[0], np.uint8)
    record = 4 * 10
    first, other = (teacher_cache.HEADER_BYTES + i * record for i in (0, 1))
    swapped[first : first + record], swapped[other : other + record] = (
        swapped[other : other + record].copy(),
        swapped[first : first + record].copy(),
    )
    swapped.tofile(files[0])
    assert mismatch(teacher, stream(config, digits, files)) > 1e-2


@pytest.mark.parametrize("replicas", [1, 2])
def test_training_from_the_cache_equals_training_live(teacher_file, digits, tmp_path, replicas, two_replicas):
    """float32 records up to rounding (other batch sizes run other kernels), float16 records up to their 11 bits."""
    strategy = two_replicas if replicas == 2 else tf.distribute.get_strategy()
    trained = {}
    for name, settings in (
        ("live", {}),
        ("float32", {"teacher_cache_dir": str(tmp_path), "teacher_cache_dtype": "float32"}),
        ("float16", {"teacher_cache_dir": str(tmp_path)}),
    ):
        config = Config(teacher_checkpoint=str(teacher_file), **SETTINGS | settings)
        teacher = Teacher(teacher_file, config, digits, strategy)
        setup = train_student.SharedResources(digits, strategy, teacher)
        distiller = train_student.build_distiller(config, setup, STEPS)
        files = teacher.epoch_files(3)
        if files is None:
            distiller.teacher = teacher.model
        batches = strategy.distribute_datasets_from_function(
            functools.partial(stream_for, digits=digits, config=config, files=files)
        )
        iterator = iter(batches)
        distiller.run_steps(iterator, 1)
        one = weights_of(distiller.student)
        distiller.run_steps(iterator, 4)
        trained[name] = one, weights_of(distiller.student)
    for name, one_step, five_steps in (("float32", 1e-6, 1e-5), ("float16", 1e-4, 1e-3)):
        assert distance(trained["live"][0], trained[name][0]) < one_step
        assert distance(trained["live"][1], trained[name][1]) < five_steps


def test_no_teacher_is_built_once_all_files_exist(teacher_file, digits, tmp_path, monkeypatch):
    _, first = open_teacher(teacher_file, digits, tmp_path)
    first.epoch_files(3)
    expected, facts = first.logits(digits.validation.images), first.facts
    monkeypatch.setattr(loading, "load_teacher", lambda *_, **__: pytest.fail("the teacher was built"))
    # Another temperature, method, weight, student and seed use the same files.
    other = {"temperature": 9.0, "loss": "kd", "kd_weight": 0.1, "student": "cnn_4", "seed": 3}
    _, second = open_teacher(teacher_file, digits, tmp_path, **other)
    assert second.epoch_files(3) == first.epoch_files(3)
    assert np.array_equal(second.logits(digits.validation.images), expected) and second.facts == facts
    assert facts == {"name": "cnn_8", "parameters": 1442}


def test_the_key_contains_everything_that_logits_depend_on(teacher_file, digits, tmp_path):
    def keys(dataset=digits, file=teacher_file, **settings):
        config = Config(teacher_cache_dir=str(tmp_path), **SETTINGS | settings)
        teacher = Teacher(file, config, dataset, tf.distribute.get_strategy())
        return teacher.epoch_files(2)

    other_teacher = tmp_path / "other.keras"
    deployable.stock_copy(networks.build("cnn_8", input_shape=(8, 8, 1), num_classes=10, seed=1)).save(other_teacher)
    again = tmp_path / "again.keras"
    loading.load(teacher_file).save(again)  # another file of the same network
    base = keys()
    assert len(set(base)) == 2 and keys(file=again) == base
    others = [
        keys(file=other_teacher),
        keys(teacher_precision="bfloat16"),
        keys(teacher_cache_dtype="float32"),
        keys(data_seed=1),
        keys(dataset=data.load(data.DataSettings(validation_fraction=0.2))),
        keys(dataset=dataclasses.replace(digits, augmentation=augmentation.Augmentation(2, False))),
        keys(dataset=dataclasses.replace(digits, version="2.0.0")),
    ]
    assert len({*base, *(path for other in others for path in other)}) == 2 + 2 * len(others)


@pytest.mark.parametrize("damage", ["flip in the header", "flip in the records", "cut", "extend", "foreign", "empty"])
def test_a_damaged_file_is_reported_and_computed_again(teacher_file, digits, tmp_path, damage, capsys):
    _, teacher = open_teacher(teacher_file, digits, tmp_path)
    first, second = (tmp_path / path for path in teacher.epoch_files(2))
    whole = first.read_bytes()
    damaged = {
        "flip in the header": bytes([whole[0] ^ 4]) + whole[1:],
        "flip in the records": whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
        "cut": whole[:-2],
        "extend": whole + b"\0\0",
        "foreign": second.read_bytes(),
        "empty": b"",
    }[damage]
    first.write_bytes(damaged)
    capsys.readouterr()
    _, later = open_teacher(teacher_file, digits, tmp_path)
    later.epoch_files(2)
    assert first.name in capsys.readouterr().err
    assert first.read_bytes() == whole


def test_every_flipped_byte_of_a_small_file_is_detected(tmp_path):
    cache = teacher_cache.TeacherCache(tmp_path, "float16", lambda line: None)
    key, logits = sha256_of_json({"a": 1}), np.arange(6).reshape(3, 2)
    cache.write(key, logits)
    assert np.array_equal(cache.read(key, (3, 2)), logits)
    whole = cache.path(key).read_bytes()
    for place in range(len(whole)):
        cache.path(key).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not teacher_cache.TeacherCache(tmp_path, "float16", lambda line: None).has(key, (3, 2)), place


def test_fewer_epochs_than_the_run_repeat(teacher_file, digits, tmp_path):
    config, teacher = open_teacher(teacher_file, digits, tmp_path, teacher_cache_epochs=2)
    batches = stream(config, digits, teacher.epoch_files(2))
    assert mismatch(teacher, batches) < 1e-2
    first, second, third = (
        images.image_set(np.concatenate([x["image"] for x, _ in batches[e * STEPS :][:STEPS]])) for e in range(3)
    )
    assert len(first & third) > 750 > len(first & second)  # eight are dropped, in another order
    alone = stream(config, digits, None)  # a student without a teacher gets the same images
    assert all(np.array_equal(x["image"], y) for (x, _), (y, _) in zip(batches, alone, strict=True))


def test_no_space_no_permission_and_overflow_are_input_errors(tmp_path, monkeypatch):
    cache = teacher_cache.TeacherCache(tmp_path / "new", "float16", lambda line: None)
    with pytest.raises(InputError, match="float32"):
        cache.write("k", np.full([2, 2], 1e6))
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(InputError, match="disk is too small"):
        cache.require_space(10**9, (10**6, 1000))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="teacher_cache_dir"):
        teacher_cache.TeacherCache(tmp_path / "file" / "sub", "float16", lambda line: None)
    with pytest.raises(InputError, match="teacher_cache_dir"):
        Config(teacher_cache_epochs=3)


WRITER = """
import sys
import numpy as np
from skd_tf.data import teacher_cache
from skd_tf.runtime.files import sha256_of_json

cache = teacher_cache.TeacherCache(sys.argv[1], "float16", lambda line: sys.exit(line))
for i in range(300):
    key, logits = sha256_of_json({"epoch": i}), np.full([200, 10], i)
    if not cache.has(key, (200, 10)):
        cache.write(key, logits)
    assert np.array_equal(cache.read(key, (200, 10)), logits)
"""


def test_two_processes_can_share_one_folder(tmp_path):
    """Neither sees an incomplete file, although both write the same files at the same time."""
    processes = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert len([*tmp_path.iterdir()]) == 300
