"""What may go wrong on a user's machine, each done for real: what is done, what the one line says, the exit code."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import typing

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from skd_tf import networks
from skd_tf.models import deployable
from skd_tf.runs import workdir
from skd_tf.training import run_callbacks
from skd_tf.training.checkpoints import Checkpoints, _read
from tests.helpers.permissions import bound_by_permissions

# Of the run in `Place.finished`, beside those that all runs here have.
FINISHED = {"epochs": 12, "batch_size": 50}


class Place(typing.NamedTuple):
    """Where something is to go wrong.

    Attributes:
      finished: the workdir of a finished run, which nothing may change.
      folder: an empty one.
      during: what is undone when the run that goes wrong has ended.
    """

    finished: pathlib.Path
    folder: pathlib.Path
    during: contextlib.ExitStack

    @property
    def distilling(self):
        return {"loss": "kd", "teacher_checkpoint": self.finished}


def read_only(place, name):
    folder = place.folder / name
    folder.mkdir(exist_ok=True)
    folder.chmod(0o555)
    place.during.callback(folder.chmod, 0o755)
    place.during.enter_context(bound_by_permissions())
    return folder


def under_a_file(place):
    (place.folder / "file").write_text("")
    return place.folder / "file" / "below"


def full_disk(place, name):
    """What has `name` in its path finds no room on the disk."""
    real, patch = os.fsync, place.during.enter_context(pytest.MonkeyPatch.context())

    def fsync(descriptor):
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    patch.setattr(os, "fsync", fsync)
    return {}


def full_disk_for_keras(place):
    """Keras finds no room for its file, and does not say which."""

    def save(model, path, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    place.during.enter_context(pytest.MonkeyPatch.context()).setattr(keras.Model, "save", save)
    return {}


def small_disk(place):
    usage = shutil.disk_usage(place.folder)
    patch = place.during.enter_context(pytest.MonkeyPatch.context())
    patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    return place.distilling | {"teacher_cache_dir": place.folder / "cache"}


def second_run(place):
    place.during.enter_context(workdir.locked(place.folder / "run"))
    return {}


def copied(place, *without):
    """The finished run in the new run's place, some files left out."""
    shutil.copytree(place.finished, place.folder / "run", ignore=shutil.ignore_patterns(*without))
    return dict(FINISHED)


def damaged(place, name):
    flags = copied(place)
    (place.folder / "run" / name).write_text('{"half')
    return flags


def foreign_checkpoint(place):
    flags = copied(place, "result.json")
    arrays = {"student/0000": np.zeros([3, 3, 1, 7], np.float32)}
    Checkpoints(place.folder / "run" / "checkpoints", keep=9).write(arrays, "step-999999999.ckpt", 999999999, {})
    return flags


def older_checkpoint(place):
    """Without what tells whether the records of the epochs done are whole."""
    flags = copied(place, "result.json")
    kept = Checkpoints(place.folder / "run" / "checkpoints", keep=9)
    arrays, facts = _read(kept.paths()[-1])
    facts["extra"].pop("records")
    kept.write(arrays, "step-999999999.ckpt", facts["step"], facts["extra"])
    return flags


def lost_records(place):
    flags = copied(place, "result.json")
    for file in (place.folder / "run").rglob("metrics.jsonl"):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    return flags


def teacher_file(place, content):
    file = place.folder / "teacher.keras"
    file.write_bytes(content)
    return place.distilling | {"teacher_checkpoint": file}


def other_classes(place):
    file = place.folder / "teacher.keras"
    deployable.stock_copy(networks.build("cnn_2", input_shape=(8, 8, 1), num_classes=7)).save(file)
    return place.distilling | {"teacher_checkpoint": file}


def image_folder(place, *, dogs, content=None):
    """Sixteen pictures of cats and so many files of dogs in each part, with a content of their own or none."""
    for part in ("train", "test"):
        for name, count in (("cat", 16), ("dog", dogs)):
            (place.folder / part / name).mkdir(parents=True)
            for i in range(count):
                image = tf.io.encode_png(np.full([8, 8, 3], 15 * i, np.uint8)).numpy()
                (place.folder / part / name / f"{i}.png").write_bytes(content if content and name == "dog" else image)
    return {"dataset": f"folder:{place.folder}", "batch_size": 4, "validation_fraction": 0}


def vanishing_images(place):
    """They are gone when the first epoch ends, and back after the run."""
    flags = image_folder(place, dogs=16)
    original = run_callbacks.RunCallbacks.on_epoch_end

    def hooked(self, *arguments):
        original(self, *arguments)
        if (place.folder / "train").is_dir():
            (place.folder / "train").rename(place.folder / "gone")
            place.during.callback((place.folder / "gone").rename, place.folder / "train")

    place.during.enter_context(pytest.MonkeyPatch.context()).setattr(run_callbacks.RunCallbacks, "on_epoch_end", hooked)
    return flags | {"cache_dataset": "none", "epochs": 40}


def broken_tfrecord(place):
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
    )
    examples = [(i, {"image": np.full([8, 8, 1], i, np.uint8), "label": i % 10}) for i in range(60)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny",
        version="1.0.0",
        features=features,
        split_datasets={"train": examples, "test": examples},
        data_dir=place.folder,
        disable_shuffling=True,
    )
    info = place.folder / "tiny" / "1.0.0" / "dataset_info.json"
    supervised = {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}}
    info.write_text(json.dumps(json.loads(info.read_text()) | {"supervisedKeys": supervised}))
    (file,) = place.folder.rglob("*train.tfrecord*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    return {"dataset": "tiny", "data_dir": place.folder, "batch_size": 10}


# what is wrong -> (what is done: Place -> flags, what the line says, exit code)
ROWS = {
    "a workdir that cannot be made": (
        lambda p: {"workdir": under_a_file(p)},
        r"workdir cannot be written \(Not a directory",
        2,
    ),
    "a read-only workdir": (
        lambda p: {"workdir": read_only(p, "run")},
        r"workdir cannot be written \(Permission denied",
        2,
    ),
    "a workdir in a read-only folder": (
        lambda p: {"workdir": read_only(p, "above") / "run"},
        r"workdir cannot be written \(Permission denied",
        2,
    ),
    "a full disk at a checkpoint": (
        lambda p: full_disk(p, ".ckpt"),
        r"checkpoint of step \d+ cannot be written \(No space left.*Earlier checkpoints",
        1,
    ),
    "a full disk at an epoch's record": (lambda p: full_disk(p, "metrics.jsonl"), r"No space left.*metrics\.jsonl", 1),
    "a full disk at the result": (
        lambda p: full_disk(p, "result.json"),
        r"No space left on device.*run/result\.json\.$",
        1,
    ),
    "a full disk at the student": (full_disk_for_keras, r"No space left on device.*run/student\.keras\.$", 1),
    "a full disk for the teacher cache": (
        lambda p: full_disk(p, ".logits") | p.distilling | {"teacher_cache_dir": p.folder / "cache"},
        r"teacher cache cannot be written \(No space left",
        2,
    ),
    "a disk too small for the teacher cache": (small_disk, r"disk is too small for the teacher cache", 2),
    "an unwritable cache": (
        lambda p: p.distilling | {"teacher_cache_dir": under_a_file(p)},
        r"teacher cache cannot be written \(Not a directory",
        2,
    ),
    "a read-only cache": (
        lambda p: p.distilling | {"teacher_cache_dir": read_only(p, "cache")},
        r"teacher cache cannot be written \(Permission denied",
        2,
    ),
    "a second run in one workdir": (
        second_run,
        rf"Another run has this workdir.*in use by process {os.getpid()} on .*Wait for its end",
        2,
    ),
    "a run of other settings in the workdir": (
        lambda p: copied(p) | {"learning_rate": 0.2},
        r"run with other settings.*--learning_rate: 0.1 -> 0.2.*--overwrite",
        2,
    ),
    "damaged settings": (
        lambda p: damaged(p, "config.json"),
        r"record of settings is damaged.*Choose another folder",
        2,
    ),
    "a damaged result": (lambda p: damaged(p, "result.json"), r"result is damaged.*Remove it", 2),
    "a checkpoint of another network": (
        foreign_checkpoint,
        r"is a checkpoint of another network or optimizer.*Use another --workdir",
        2,
    ),
    "a checkpoint of another version": (older_checkpoint, r"checkpoint was written by another version.*digest of metrics", 2),
    "records that are lost": (
        lost_records,
        r"records of the epochs done are lost.*metrics\.jsonl and in.*Restore one",
        2,
    ),
    "a data directory that is gone": (
        lambda p: {"dataset": "cifar10", "data_dir": p.folder / "gone"},
        r"cifar10 is not prepared.*Point --data_dir at",
        2,
    ),
    "a folder of images that is gone": (
        lambda p: {"dataset": f"folder:{p.folder}/gone"},
        r"no such folder.*Check the path",
        2,
    ),
    "images that vanish in mid-run": (
        vanishing_images,
        r"^error: /\S+/train/(cat|dog)/\d+\.png; No such file or directory$",
        1,
    ),
    "a corrupted TFRecord": (broken_tfrecord, r"tiny.*damaged|tiny.*cannot be read", 2),
    "corrupted images": (
        lambda p: image_folder(p, dogs=4, content=b"\x89PNG no more"),
        r"Too many files of the train split do not decode: 4 of 20",
        2,
    ),
    "an empty class": (lambda p: image_folder(p, dogs=0), r"A class has no images.*dog", 2),
    "images of another dtype": (lambda p: {"dataset": "bad_data:floats"}, r"train split.*uint8.*float32", 2),
    "images without a channel": (
        lambda p: {"dataset": "bad_data:flat"},
        r"train split.*\[n, h, w, c\].*\(200, 8, 8\)",
        2,
    ),
    "images of other channels in the test split": (
        lambda p: {"dataset": "bad_data:coloured_test"},
        r"test split.*images \(8, 8, 1\) as in train.*\(8, 8, 3\)",
        2,
    ),
    "fewer labels than images": (
        lambda p: {"dataset": "bad_data:few_labels"},
        r"train split.*one label per image.*200 images and 150 labels",
        2,
    ),
    "a split without examples": (
        lambda p: {"dataset": "bad_data:nothing"},
        r"train split.*Expected examples. Received none",
        2,
    ),
    "a path that is no UTF-8": (lambda p: {"workdir": f"{p.folder}/r\udce4um"}, r"not UTF-8.*Rename", 2),
    "labels out of range": (lambda p: {"dataset": "bad_data:eleven_labels"}, r"labels.*from 0 to 9.*0 to 10", 2),
    "labels below -1": (lambda p: {"dataset": "bad_data:negative_labels"}, r"labels.*from 0 to 9.*-2 to 7", 2),
    "a dataset smaller than a batch": (
        lambda p: {"dataset": "bad_data:few"},
        r"training split is smaller than one batch. Expected at least 100",
        2,
    ),
    "a teacher of other channels": (
        lambda p: p.distilling | {"dataset": "bad_data:colours"},
        r"takes other images.*\(8, 8, 3\).*\(8, 8, 1\)",
        2,
    ),
    "a student of other channels": (
        lambda p: {"dataset": "bad_data:colours", "student": p.finished / "student.keras"},
        r"takes other images.*\(8, 8, 3\).*\(8, 8, 1\)",
        2,
    ),
    "a teacher of other classes": (other_classes, r"has other classes. Expected 10.*Received 7", 2),
    "a truncated teacher": (
        lambda p: teacher_file(p, (p.finished / "student.keras").read_bytes()[:-2000]),
        r"model is damaged|does not load",
        2,
    ),
    "a teacher that is none": (lambda p: teacher_file(p, b"no model"), r"model is damaged|does not load", 2),
    "a teacher that is not there": (
        lambda p: p.distilling | {"teacher_checkpoint": p.folder / "gone"},
        r"No model there.*gone",
        2,
    ),
}
