"""What may go wrong on a user's machine, each done for real: a function that does it, and a table of all cases."""

import contextlib
import errno
import os
import shutil

import keras
import numpy as np
import pytest

from skd_tf import networks
from skd_tf.models import deployable
from skd_tf.runs import workdir
from skd_tf.training import run_callbacks
from skd_tf.training.checkpoints import Checkpoints, _read
from tests.helpers.images import make_folder, write_tfds
from tests.helpers.permissions import bound_by_permissions


class Place(contextlib.ExitStack):
    """Where something goes wrong; on exit it is undone.

    Attributes:
      finished: the workdir of a finished run, which nothing may change.
      folder: an empty folder.
    """

    def __init__(self, finished, folder):
        super().__init__()
        self.finished, self.folder, self.run = finished, folder, folder / "run"

    def patch(self, owner, name, value):
        self.enter_context(pytest.MonkeyPatch.context()).setattr(owner, name, value)

    def flags(self, text):
        return [flag.format(folder=self.folder, finished=self.finished) for flag in text.split()]


def nothing(place):
    pass


def a_file_in_the_way(place):
    (place.folder / "file").write_text("")


def read_only(place):
    (place.folder / "cache").mkdir(exist_ok=True)
    (place.folder / "cache").chmod(0o555)
    place.callback((place.folder / "cache").chmod, 0o755)
    place.enter_context(bound_by_permissions())


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk(name):
    """Files with `name` in their path find no room."""
    real = os.fsync

    def full(place):
        where = "/proc/self/fd/{}".format
        place.patch(os, "fsync", lambda file: no_room() if name in os.readlink(where(file)) else real(file))

    return full


def full_disk_for_keras(place):
    """Keras does not say which file finds no room."""
    place.patch(keras.Model, "save", no_room)


def small_disk(place):
    usage = shutil.disk_usage(place.folder)._replace(free=1000)
    place.patch(shutil, "disk_usage", lambda path: usage)


def second_run(place):
    place.run.mkdir()
    (place.run / ".lock").write_text("process 1 on a machine that is gone")
    place.enter_context(workdir.locked(place.run))


def copied(place):
    """The run's workdir is that of the finished run, without its result."""
    shutil.copytree(place.finished, place.run, ignore=shutil.ignore_patterns("result.json"))
    return Checkpoints(place.run / "checkpoints", keep=9)


def damaged(name):
    def damage(place):
        copied(place)
        (place.run / name).write_text('{"half')

    return damage


def foreign_checkpoint(place):
    arrays = {"student/0000": np.zeros([3, 3, 1, 7], np.float32)}
    copied(place).write(arrays, "step-999999999.ckpt", 999999999, {})


def older_checkpoint(place):
    """It lacks the digest that shows whether the records of the finished epochs are complete."""
    checkpoints = copied(place)
    arrays, facts = _read(checkpoints.paths()[-1])
    facts["extra"].pop("records")
    checkpoints.write(arrays, "step-999999999.ckpt", facts["step"], facts["extra"])


def lost_records(place):
    copied(place)
    for file in place.run.rglob("metrics.jsonl"):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))


def truncated_teacher(place):
    (place.folder / "teacher.keras").write_bytes((place.finished / "student.keras").read_bytes()[:-2000])


def no_teacher(place):
    (place.folder / "teacher.keras").write_bytes(b"no model")


def teacher_of_7_classes(place):
    net = networks.build("cnn_2", input_shape=(8, 8, 1), num_classes=7)
    deployable.stock_copy(net).save(place.folder / "teacher.keras")


def images(place):
    return make_folder(place.folder / "images")


def corrupted_images(place):
    for file in images(place).glob("train/dog/*"):
        file.write_bytes(b"\x89PNG no more")


def empty_class(place):
    for file in images(place).glob("*/dog/*"):
        file.unlink()


def vanishing_images(place):
    """They vanish when the first epoch ends, and are back after the run."""
    train, gone = images(place) / "train", place.folder / "gone"
    original = run_callbacks.RunCallbacks.on_epoch_end

    def on_epoch_end(self, *arguments):
        original(self, *arguments)
        if train.is_dir():
            train.rename(gone)
            place.callback(gone.rename, train)

    place.patch(run_callbacks.RunCallbacks, "on_epoch_end", on_epoch_end)


def broken_tfrecord(place):
    examples = [(np.full([8, 8, 1], i, np.uint8), i % 10) for i in range(60)]
    parts = {"train": examples, "test": examples}
    write_tfds(place.folder, "tiny", parts, class_names=list("0123456789"), shape=(8, 8, 1))
    (file,) = place.folder.rglob("*train.tfrecord*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


BAD = "--dataset=tests.helpers.bad_data:"
IMAGES = "--dataset=folder:{folder}/images --batch_size=4 --validation_fraction=0"
FINISHED = "--epochs=12 --batch_size=50"
TEACHER = "--loss=kd --teacher_checkpoint="
CACHE = TEACHER + "{finished} --teacher_cache_dir={folder}/"
SECOND_RUN = rf"Another run has this workdir.*in use by process {os.getpid()} on .*Wait for its end"
OTHER_NETWORK = r"is a checkpoint of another network or optimizer.*Use another --workdir"
VANISHED = r"^error: /\S+/train/\w+/\d+\.\w+; No such file or directory$"
OTHER_IMAGES = r"takes other images.*\(8, 8, 3\).*\(8, 8, 1\).*Choose a model for these images\.$"

# Exit code, what is done, the run's flags, what the command's last line says.
CASES = [
    (2, a_file_in_the_way, "--workdir={folder}/file/below", r"--workdir is inside the file"),
    (2, read_only, "--workdir={folder}/cache", r"workdir cannot be written \(Permission denied"),
    (2, read_only, "--workdir={folder}/cache/below", r"workdir cannot be written \(Permission denied"),
    (2, nothing, "--workdir={folder}/r\udce4um", r"not UTF-8.*Rename"),
    (2, second_run, "", SECOND_RUN),
    # No room for a checkpoint, an epoch's record, the result, the student, the cache.
    (1, full_disk(".ckpt"), "", r"checkpoint of step \d+ cannot be written \(No space left.*Earlier checkpoints"),
    (1, full_disk("metrics.jsonl"), "", r"No space left.*metrics\.jsonl"),
    (
        1,
        full_disk("result.json"),
        "",
        r"No space left on device.*run/result\.json\. Free some space, then start the same command again\.$",
    ),
    (
        1,
        full_disk_for_keras,
        "",
        r"No space left on device.*run/student\.keras\. Free some space, then start the same command again\.$",
    ),
    (2, full_disk(".logits"), CACHE + "cache", r"teacher cache cannot be written \(No space left"),
    (2, small_disk, CACHE + "cache", r"disk is too small for the teacher cache"),
    (2, a_file_in_the_way, CACHE + "file/below", r"--teacher_cache_dir is inside the file"),
    (2, read_only, CACHE + "cache", r"teacher cache cannot be written \(Permission denied"),
    # The workdir holds another run, or is damaged.
    (2, copied, FINISHED + " --learning_rate=0.2", r"other settings.*--learning_rate: 0.1 -> 0.2.*--overwrite"),
    (2, damaged("config.json"), FINISHED, r"record of settings is damaged.*Choose another folder"),
    (2, damaged("result.json"), FINISHED, r"result is damaged.*Remove it"),
    (2, foreign_checkpoint, FINISHED, OTHER_NETWORK),
    (2, older_checkpoint, FINISHED, r"checkpoint was written by another version.*digest of metrics"),
    (2, lost_records, FINISHED, r"records of the epochs done are lost.*metrics\.jsonl and in.*Restore one"),
    # The data are missing or damaged.
    (2, nothing, "--dataset=cifar10 --data_dir={folder}/gone", r"cifar10 is not prepared.*Point --data_dir at"),
    (2, nothing, "--dataset=folder:{folder}/gone", r"no such folder.*Check the path"),
    (1, vanishing_images, IMAGES + " --cache_dataset=none --epochs=40", VANISHED),
    (2, corrupted_images, IMAGES, r"Too many files of the train split do not decode: 8 of 24"),
    (2, empty_class, IMAGES, r"A class has no images.*dog"),
    (2, broken_tfrecord, "--dataset=tiny --data_dir={folder} --batch_size=10", r"tiny.*damaged|tiny.*cannot be read"),
    (2, nothing, BAD + "floats", r"train split.*uint8.*float32"),
    (2, nothing, BAD + "flat", r"train split.*\[n, h, w, c\].*\(200, 8, 8\)"),
    (2, nothing, BAD + "coloured_test", r"test split.*images \(8, 8, 1\) as in train.*\(8, 8, 3\)"),
    (2, nothing, BAD + "few_labels", r"train split.*one label per image.*200 images and 150 labels"),
    (2, nothing, BAD + "nothing", r"train split.*Expected examples. Received none"),
    (2, nothing, BAD + "eleven_labels", r"labels.*from 0 to 9.*0 to 10"),
    (2, nothing, BAD + "negative_labels", r"labels.*from 0 to 9.*-2 to 7"),
    (2, nothing, BAD + "few", r"training split is smaller than one batch. Expected at least 100"),
    # The teacher or the student does not fit.
    (2, nothing, BAD + "colours " + TEACHER + "{finished}", OTHER_IMAGES),
    (2, nothing, BAD + "colours --student={finished}/student.keras", OTHER_IMAGES),
    (2, nothing, TEACHER + "{folder}/gone", r"No model there.*gone"),
    (2, teacher_of_7_classes, TEACHER + "{folder}/teacher.keras", r"has other classes. Expected 10.*Received 7"),
    (2, truncated_teacher, TEACHER + "{folder}/teacher.keras", r"model is damaged|does not load"),
    (2, no_teacher, TEACHER + "{folder}/teacher.keras", r"model is damaged|does not load"),
]
