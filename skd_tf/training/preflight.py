"""What a run is made from, looked for before anything is loaded: files, folders, modules; without TensorFlow."""

import dataclasses
import json
import os
import pathlib
import re

from skd_tf.data import folder_index
from skd_tf.data.catalog import known_of, source_kind
from skd_tf.errors import input_error
from skd_tf.losses import sphere_geometry
from skd_tf.losses.names import LOSS_FACTS
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


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is known of a dataset before it is loaded: examples by split, classes (None where unknown)."""

    train: int
    test: int
    num_classes: int | None
    unlabelled: int = 0  # of train


def dataset_sizes(config, data_dir=None):
    """`Sizes` of a folder, of a prepared TFDS set's own record, else of the table of known sets, else None."""
    kind = source_kind(config.dataset)
    if kind == "folder":
        folder = folder_index.find(config.dataset, config.data_seed)
        train, test = ([label for _, label in folder.splits[name]] for name in ("train", "test"))
        return Sizes(len(train), len(test) - test.count(-1), len(folder.class_names), unlabelled=train.count(-1))
    known = known_of(config.dataset)
    records = tfds_records(config.dataset, data_dir) if kind == "tfds" else []
    if not records:
        return known and Sizes(known.train, known.test, known.num_classes)
    try:
        record = json.loads(records[-1].read_text(encoding="utf-8"))
        counts = {split["name"]: sum(map(int, split["shardLengths"])) for split in record["splits"]}
        tests = [counts[name] for name in ("test", "validation") if name in counts] or [0]
        # Whose labels are missing no record tells: ImageNet's test images have none.
        test = known.test if known and known.test in tests else tests[0]
        return Sizes(counts["train"], test, _num_classes(record, records[-1].parent))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise input_error(
            "The record of a dataset is damaged",
            expected="its splits and features",
            received=f"{records[-1]}",
            remedy="Prepare the dataset again",
        ) from error


def require_room(config, sizes):
    """InputError for a loss on the sphere where the classes, if `sizes` tells them, leave it no room."""
    if sizes and LOSS_FACTS[config.loss].probabilities == "sphere":
        sphere_geometry.require_room(sizes.num_classes, config.center)


def _held_out(config, sizes):
    return round((sizes.train - sizes.unlabelled) * config.validation_fraction)


def _steps_per_epoch(config, sizes):
    train = sizes.train - _held_out(config, sizes)
    if train < config.batch_size:
        raise input_error(
            "The global batch is larger than the training split",
            expected=f"at most {train} examples",
            received=f"--batch_size={config.batch_size}",
            remedy="Lower --batch_size",
        )
    return train // config.batch_size


def _num_classes(record, folder):
    """Classes of the label that the set itself names for supervised learning: CIFAR-100 has two labels."""
    label = record["supervisedKeys"]["tuple"]["items"][1]["featureKey"]
    features = json.loads((folder / "features.json").read_text(encoding="utf-8"))["featuresDict"]["features"]
    return int(features[label]["classLabel"]["numClasses"])
