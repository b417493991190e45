"""What a run is made from, looked for before anything is loaded: files, folders, modules; without TensorFlow."""

import os
import pathlib
import re

from skd_tf.data import folder_index
from skd_tf.data.catalog import known_of, source_kind
from skd_tf.errors import input_error
from skd_tf.models.paths import require
from skd_tf.networks.names import NETWORK_NAMES
from skd_tf.runtime import user_code


def check(config):
    """InputError where a teacher, a student, start weights or a flagfile of the Config is not there."""
    for flag in ("student", "teacher"):
        name = getattr(config, flag)
        if not name or name in NETWORK_NAMES or user_code.application(name):
            continue
        if user_code.is_reference(name):
            user_code.require_module(name, flag)
        else:
            require(name)
    paths = [config.student_checkpoint]
    if config.needs_teacher:
        paths += [
            config.teacher_checkpoint,
            config.student_alone if config.student_alone not in ("none", "train") else "",
        ]
        flagfile = config.teacher_flagfile if not config.teacher_checkpoint else ""
        if flagfile and not pathlib.Path(flagfile).is_file():
            raise input_error(
                "The teacher's flagfile is not there",
                expected="a text file",
                received=f"--teacher_flagfile={flagfile}",
                remedy="Check the path and the current folder",
            )
    for path in filter(None, paths):
        require(path)


def check_dataset(config, data_dir):
    """InputError where the Config's data set is not there; a TFDS set may come with --download."""
    kind = source_kind(config.dataset)
    if kind == "folder":
        folder_index.find(config.dataset, config.data_seed)
    elif kind == "function":
        user_code.require_module(config.dataset, "dataset")
    elif kind == "tfds" and not config.download and not tfds_records(config.dataset, data_dir):
        known = "" if known_of(config.dataset) else " Check the name as well."
        raise input_error(
            f"Dataset {config.dataset} is not prepared",
            expected=f"its folder in {tfds_folder(data_dir)}",
            received="none",
            remedy=f"Point --data_dir at a prepared TFDS folder, or add --download.{known}",
        )


def tfds_folder(data_dir):
    return pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def tfds_records(name, data_dir):
    """TFDS' own records (dataset_info.json) of a prepared set, of the version that is pinned, else the newest last."""
    name, _, version = name.partition(":")
    return sorted((tfds_folder(data_dir) / name).glob(f"**/{version or '*'}/dataset_info.json"), key=_version)


def _version(path):
    return [int(number) for number in re.findall(r"\d+", path.parent.name)]
