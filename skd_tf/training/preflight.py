"""What can be checked before anything is loaded: files, folders, modules, sizes. TensorFlow is not imported."""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from skd_tf.config import Config, grammar, recipes
from skd_tf.data import folder_index, grouping, hold_out, picture_index
from skd_tf.data.catalog import FOLDER, KNOWN_DATASETS, PACKAGED, is_folder, known_of, source_kind
from skd_tf.data.settings import DataSettings
from skd_tf.errors import did_you_mean, flag_error, input_error
from skd_tf.losses import sphere_geometry
from skd_tf.losses.names import LOSS_NAMES, facts_of
from skd_tf.models import paths
from skd_tf.networks.names import NETWORK_NAMES
from skd_tf.runs import class_names, run_files
from skd_tf.runtime import local_paths, user_code
from skd_tf.training import nested_runs, unlabelled


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is known of a dataset before it is loaded.

    Attributes:
      train: training examples, the validation part included.
      test: labelled test examples.
      num_classes: None if unknown.
      unlabelled: training examples without a label; none of them is held out.
      validation: labelled examples of the dataset's own validation part; None: they are held out of the training split.
      drawn: training examples that are held out, if their labels and groups are known; None: the fraction of them.
    """

    train: int
    test: int
    num_classes: int | None
    unlabelled: int = 0
    validation: int | None = None
    drawn: int | None = None

    def held_out(self, validation_fraction: float) -> int:
        """Training examples that become the validation split."""
        if self.drawn is not None:
            return self.drawn
        return 0 if self.validation is not None else round((self.train - self.unlabelled) * validation_fraction)


def check_before_loading(config: Config, data_dir: str | os.PathLike | None) -> None:
    """Checks all that can be known of a run's networks, files and data before any of them is loaded.

    Raises:
      InputError: one of them does not exist, or does not fit.
    """
    unlabelled.check(config)
    check_files(config)
    check_code(config)
    check_dataset(config, data_dir)
    nested_runs.check_student_alone(config)
    check_sizes(config, data_dir)


def check_paths(config: Config, data_dir: str | os.PathLike | None) -> None:
    """Checks in a moment that networks, teacher and dataset are where the settings say; `check_before_loading` does the rest.

    Raises:
      InputError: one of them is not.
    """
    check_files(config)
    kind, folder = source_kind(config.dataset), config.dataset.partition(":")[2]
    if kind not in ("folder", "images") or not os.path.isdir(os.path.expanduser(folder)):
        check_dataset(config, data_dir)


def check_sizes(config: Config, data_dir: str | os.PathLike | None, *, searched: Sequence[str] = ()) -> None:
    """Checks classes, batch size and validation images against the size of the dataset, if it is known.

    Args:
      config: a `Config`.
      data_dir: the TFDS data folder.
      searched: settings that a search varies; what depends on them is left to its trials.

    Raises:
      InputError: they do not fit.
    """
    sizes = dataset_sizes(config, data_dir)
    if "loss" not in searched:
        check_classes(config, sizes)
    if sizes:
        held_out = sizes.held_out(config.validation_fraction)
        if "batch_size" not in searched:
            fixed = config.replace(profile_steps="") if "epochs" in searched else config
            steps_per_epoch(fixed, sizes.train - held_out)
        require_validation(config, bool(held_out or sizes.validation))


def check_loaded(config: Config, train_examples: int, num_classes: int, validation_examples: int) -> None:
    """The checks of `check_sizes`, with the sizes of the loaded dataset: those of a function are not known before.

    Raises:
      InputError: classes, batch size or validation images do not fit.
    """
    check_classes(config, Sizes(train_examples, 0, num_classes))
    steps_per_epoch(config, train_examples)
    require_validation(config, validation_examples > 0)


def require_validation(config: Config, is_held_out: bool) -> None:
    """Raises `InputError` if a setting depends on validation images and none are held out."""
    if not is_held_out and (config.early_stopping_patience or config.ship == "best"):
        name = "early_stopping_patience" if config.early_stopping_patience else "ship"
        problem = "needs validation images, and none are held out"
        raise flag_error(
            name, getattr(config, name), problem, "--validation_fraction > 0", "Raise it, or drop this flag"
        )


def require_search_validation(config: Config, data_dir: str | os.PathLike | None) -> None:
    """Raises `InputError` if it is known that a search would have no validation images."""
    sizes = dataset_sizes(config, data_dir)
    known = sizes and (sizes.held_out(config.validation_fraction) or sizes.validation or 0)
    may_have_its_own = is_folder(config.dataset)  # other sources have no validation part
    if known == 0 or not (config.validation_fraction or may_have_its_own):
        problem = "leaves no validation images, and a search never sees the test split"
        raise flag_error("validation_fraction", config.validation_fraction, problem, "at least one image", "Raise it")


def check_code(config: Config) -> None:
    """Imports the functions and modules that the settings name, and looks up the networks of keras.applications and KerasHub.

    Raises:
      InputError: there is no such function, module or network, or a module cannot be imported.
    """
    user_code.import_modules(config.custom_layers)
    names = {flag: getattr(config, flag) for flag in ("dataset", "student", "student_checkpoint", "loss", "callback")}
    if config.needs_teacher:
        names |= {"teacher": config.teacher} | {f"teacher_checkpoint {i}": t for i, t in enumerate(config.teachers)}
    for flag, name in names.items():
        if user_code.published(name):
            from skd_tf.models import published  # imports TensorFlow

            published.require(name)
        elif flag in user_code.ARGUMENTS and user_code.is_reference(name) and not is_folder(name):
            user_code.resolve(name, flag)


def check_files(config: Config) -> None:
    """Checks that the networks, the start weights, the teacher, its flagfile and modules exist. Runs none of the user's code.

    Raises:
      InputError: one of them does not.
    """
    user_code.require_modules(config.custom_layers)
    for flag in ("student", "teacher", "loss", "callback"):
        name = getattr(config, flag)
        if not name or name in (*NETWORK_NAMES, *LOSS_NAMES) or user_code.published(name):
            continue
        if user_code.is_reference(name):
            user_code.require(name, flag)
        else:
            paths.require(name)
    if config.teacher_cache_dir:
        local_paths.require_folder(config.teacher_cache_dir, "teacher_cache_dir")
    models = [config.student_checkpoint]
    if config.needs_teacher:
        models += [*config.teachers, "" if config.student_alone in run_files.TRAINED else config.student_alone]
        flagfile = "" if config.teacher_checkpoint else config.teacher_flagfile
        if flagfile and not recipes.locate(flagfile).is_file():
            raise input_error(
                "The teacher's flagfile does not exist",
                expected="a text file",
                received=f"--teacher_flagfile={flagfile}",
                remedy="Check the path and the current folder",
            )
        if flagfile:
            check_files(nested_runs.teacher_config(config))
    for path in filter(None, models):
        paths.require(path)


def check_dataset(config: Config, data_dir: str | os.PathLike | None) -> None:
    """Checks that the dataset exists; a TFDS set may still be downloaded with --download.

    Raises:
      InputError: it does not.
    """
    grouping.check(config.dataset, config.group)
    if config.unlabelled:
        images = len(folder_index.unlabelled_paths(config.unlabelled))
        picture_index.require_batch(images, config.unlabelled_batch, config.unlabelled)
    kind = source_kind(config.dataset)
    if kind in ("folder", "images"):
        folder_index.find(config.dataset, config.data_seed, config.data_rules, config.group)
    elif kind == "function":
        user_code.require(config.dataset, "dataset")
    elif kind == "tfds" and not (config.download or _is_remote(data_dir) or tfds_records(config.dataset, data_dir)):
        near = did_you_mean(config.dataset, (*PACKAGED, *KNOWN_DATASETS), "Check the name as well.")
        hint = "" if known_of(config.dataset) else f" {near}"
        if pathlib.Path(config.dataset).is_dir():
            hint = f" Did you mean --dataset={FOLDER}{config.dataset}?"
        elif pathlib.Path(config.dataset).is_file():
            hint = " A file is no dataset: MODULE:FUNCTION gives arrays or paths of images (docs/own_models.md)."
        raise input_error(
            f"Dataset {config.dataset} is not prepared",
            expected=f"its folder in {tfds_folder(data_dir)}",
            received="none",
            remedy=f"Point --data_dir at a prepared TFDS folder, or add --download.{hint}",
        )


def check_classes(config: Config, sizes: Sizes | None) -> None:
    """Refuses losses that have no gradient on two classes. See `sphere_geometry`."""
    if sizes and facts_of(config.loss).probabilities == "sphere":
        sphere_geometry.reject_two_classes(sizes.num_classes, config.center)
    if sizes and facts_of(config.loss).standardizes:
        sphere_geometry.reject_standardized_pair(sizes.num_classes)
    if sizes:
        check_top(config.teacher_cache_top, sizes.num_classes)


def check_top(top: int, classes: int | None) -> None:
    """Refuses a --teacher_cache_top that leaves fewer than two logits for mean and norm to describe."""
    if classes and top and top > classes - 2:
        raise flag_error(
            "teacher_cache_top",
            top,
            f"is too large for {classes} classes",
            f"at most {classes - 2}",
            "Lower it, or omit it to cache all logits",
        )


def steps_per_epoch(config: Config, train_examples: int) -> int:
    """Full global batches in an epoch of `train_examples`, the validation part excluded; the short last one is dropped.

    Images of --unlabelled are further ones in each batch; they do not change how long an epoch is.

    Raises:
      InputError: there is not one full batch, or the run ends before the last of --profile_steps.
    """
    if train_examples < config.labelled_batch:
        raise input_error(
            "The training split is smaller than one batch",
            expected=f"at least {config.labelled_batch} training examples",
            received=f"{train_examples} from {config.dataset}",
            remedy=f"Lower --batch_size to at most {train_examples}",
        )
    steps = train_examples // config.labelled_batch
    profiled, last_step = grammar.parse_step_range(config.profile_steps), steps * config.epochs
    if profiled and profiled[1] > last_step:
        problem, expected = "is past the end of the run", f"steps 1 to {last_step}"
        raise flag_error("profile_steps", config.profile_steps, problem, expected, "Choose earlier steps")
    return steps


def dataset_sizes(config: Config, data_dir: str | os.PathLike | None = None) -> Sizes | None:
    """The sizes of a dataset, from a folder's listing, TFDS' record or the table of known sets; None if unknown.

    Raises:
      InputError: TFDS' record is damaged.
    """
    kind = source_kind(config.dataset)
    if kind in ("folder", "images"):
        folder = folder_index.find(config.dataset, config.data_seed, config.data_rules, config.group)
        labels = {name: [label for _, label in files] for name, files in folder.splits.items()}
        labelled = {name: len(found) - (found.count(-1) if kind == "folder" else 0) for name, found in labels.items()}
        unlabelled = len(labels["train"]) - labelled["train"]
        groups = grouping.numbered(folder.groups)["train"] if folder.groups else None
        drawn = None
        if "validation" not in labelled:
            drawn = len(hold_out.validation_rows(np.array(labels["train"]), config.pick(DataSettings), groups))
        return Sizes(
            train=len(labels["train"]),
            test=labelled["test"],
            num_classes=len(folder.class_names or class_names.recorded(next(iter(config.teachers), ""))) or None,
            unlabelled=unlabelled,
            validation=labelled.get("validation"),
            drawn=drawn,
        )
    known = known_of(config.dataset)
    records = tfds_records(config.dataset, data_dir) if kind == "tfds" else []
    several_configs = len({record.parent.parent for record in records}) > 1  # TFDS knows which one is the default
    if not records or several_configs:
        return Sizes(known.train, known.test, known.num_classes) if known else None
    try:
        record = json.loads(records[-1].read_text(encoding="utf-8"))
        counts = {split["name"]: sum(map(int, split["shardLengths"])) for split in record["splits"]}
        tests = [counts[name] for name in ("test", "validation") if name in counts] or [0]
        # No record says which labels are missing: ImageNet's test images have none.
        test = known.test if known and known.test in tests else tests[0]
        return Sizes(counts["train"], test, _num_classes(record, records[-1].parent))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise input_error(
            "The record of a dataset is damaged",
            expected="its splits and features",
            received=records[-1],
            remedy="Prepare the dataset again",
        ) from error


def _is_remote(data_dir):
    """Whether the TFDS folder is a URL, which only TFDS can list."""
    return bool(local_paths.scheme_of(str(data_dir or os.environ.get("TFDS_DATA_DIR") or "")))


def tfds_folder(data_dir: str | os.PathLike | None) -> pathlib.Path:
    return pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def tfds_records(name: str, data_dir: str | os.PathLike | None) -> list[pathlib.Path]:
    """TFDS' records (dataset_info.json) of a prepared set: of the pinned version, else of all, the newest last."""
    if _is_remote(data_dir):
        return []
    name, _, version = name.partition(":")
    records = (tfds_folder(data_dir) / name).glob(f"**/{version or '*'}/dataset_info.json")
    return sorted(records, key=lambda path: [int(number) for number in re.findall(r"\d+", path.parent.name)])


def _num_classes(record: dict, folder: pathlib.Path) -> int:
    """Classes of the label that the set itself names for supervised learning: CIFAR-100 has two labels."""
    label = record["supervisedKeys"]["tuple"]["items"][1]["featureKey"]
    features = json.loads((folder / "features.json").read_text(encoding="utf-8"))["featuresDict"]["features"]
    return int(features[label]["classLabel"]["numClasses"])
