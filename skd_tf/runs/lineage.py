"""What a model's weights have seen: the data of their training and of all their ancestors' trainings.

A run records it in result.json, in student.keras, in its SavedModel and in every export. In a file it has a digest of
itself and of the weights, so it survives copying, and a file in which either was edited has none. `images_seen` alone answers whether images
that are measured on were trained on.
"""

import functools
import hashlib
import json
import os
import pathlib
import shlex
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from skd_tf.config import Config
from skd_tf.data import redraw
from skd_tf.data.catalog import FOLDER, IMAGES, is_folder, without_version
from skd_tf.data.dataset import Dataset
from skd_tf.data.settings import DataSettings
from skd_tf.errors import InputError, input_error
from skd_tf.models import paths
from skd_tf.runs import run_files
from skd_tf.runs.run_record import read_result, run_behind, workdir_of
from skd_tf.runtime import user_code
from skd_tf.runtime.files import sha256_of_json

WEIGHTS, TEACHER = "weights", "teacher"  # how a training has reached the weights
_FORMAT = 1
_DEEPEST = 20  # ancestors of runs of earlier versions, whose records may name each other
_Whole = {"validation_fraction": 0.0}
_ImageNet = {"dataset": "imagenet2012", "set": None, "split": {"validation_fraction": 0.0}}

# A training, as JSON: {"dataset": its name, "place": where it was, without the path itself, "set": {"name", "version"}
# or None, "data": as `data_identity` gives it or None, "split": the rule that chose its images, "via": WEIGHTS or
# TEACHER}. "whole" is true if no image was held out, as of --unlabelled.
Training = dict[str, Any]


class Lineage(NamedTuple):
    """The trainings of weights and of their ancestors, and the names of ancestors that are unknown."""

    trainings: tuple[Training, ...] = ()
    unknown: tuple[str, ...] = ()

    def as_teacher(self) -> "Lineage":
        """What a student inherits from a teacher with this lineage."""
        return self._replace(trainings=tuple(training | {"via": TEACHER} for training in self.trainings))

    def to_json(self) -> dict[str, Any]:
        return {"format": _FORMAT, "trainings": list(self.trainings), "unknown": list(self.unknown)}


class Seen(NamedTuple):
    """Measured images that a training has used: {split: (how many, of how many)}, and that training.

    `exact` is false if the set has changed since: images are then drawn again, and most of them were used before.
    `elsewhere` is true if the training read the folder in another way, or a folder in it or around it.
    """

    images: dict[str, tuple[int, int]]
    training: Training
    exact: bool = True
    elsewhere: bool = False

    @property
    def text(self) -> str:
        """As in "40 of 40 validation images and 60 of 80 test images"."""
        parts = [
            f"{seen} of {count} {name} images" if self.exact else f"most of the {count} {name} images"
            for name, (seen, count) in self.images.items()
        ]
        return " and ".join(parts)

    @property
    def remedy(self) -> str:
        """The flags with which a run measures on images that this training held out; "" if no flags do."""
        if not self.exact:
            return "weights from before the data changed cannot be used, unless it is split into train/ and test/"
        if self.elsewhere or self.training.get("whole"):
            return ""
        split = self.training["split"]
        drawn = ["validation_fraction", "validation_split"] if "validation" in self.images else []
        names = [name for name in ("data_seed", *drawn, "group") if name in split]
        return " ".join(shlex.quote(f"--{name}={split[name]}") for name in names if split[name] != "")


def joined(parts: Iterable[Lineage]) -> Lineage:
    """One lineage of several; equal trainings once."""
    trainings: dict[str, Training] = {}
    unknown: dict[str, None] = {}
    for part in parts:
        trainings |= {json.dumps(training, sort_keys=True): training for training in part.trainings}
        unknown |= dict.fromkeys(part.unknown)
    return Lineage(tuple(trainings.values()), tuple(unknown))


def start_weights(config: Config) -> dict[str, str]:
    """{flag: path} of the models whose weights a run's student starts from."""
    found = {"student": config.student if config.student.endswith(".keras") else ""}
    return {flag: path for flag, path in (found | {"student_checkpoint": config.student_checkpoint}).items() if path}


def of_run(config: Config, dataset: Dataset, facts: dict[str, Any] | None, *teachers: str | os.PathLike) -> Lineage:
    """The lineage of a run's student.

    Args:
      config: the run's settings.
      dataset: its data.
      facts: `data_identity.data_facts` of it, or None.
      teachers: paths of its teachers.
    """
    own = {
        "dataset": dataset.key_name,
        "place": _place(config.dataset),
        "set": {"name": dataset.key_name, "version": str(dataset.set_version)},
        "data": facts and facts["data"],
        "split": redraw.rule_of(config.pick(DataSettings)),
        "via": WEIGHTS,
    }
    owns = [own]
    if dataset.unlabelled:
        more = dataset.unlabelled
        known = {"name": more.key_name, "version": str(more.set_version)}
        of_more = {"dataset": more.key_name, "place": _place(more.name), "set": known, "data": None}
        owns.append(of_more | {"split": _Whole, "via": WEIGHTS, "whole": True})
    ancestors = [read(path) for path in start_weights(config).values()]
    return joined([Lineage(tuple(owns)), *ancestors, *(read(teacher).as_teacher() for teacher in teachers)])


def is_of_skd_tf(model: str | os.PathLike) -> bool:
    """Whether a model is a student or an export of skd_tf, or a network of a library: it contains its preprocessing."""
    known = user_code.published(str(model)) or _recorded_in_file(model) is not None
    return bool(known) or run_behind(model) is not None


def preprocessing_of(model: str | os.PathLike, kind: str) -> str:
    """The preprocessing in front of a model: `kind`, or "raw" for "auto" if the model contains its own."""
    return "raw" if kind == "auto" and is_of_skd_tf(model) else kind


def read(model: str | os.PathLike, depth: int = 0) -> Lineage:
    """The lineage of the weights behind a path; what is not recorded is in `unknown`.

    A run of an earlier version recorded none: its settings, and those of the runs that they name, say the same.

    Args:
      model: a workdir, a `.keras` file, a SavedModel folder, an exported file, keras.applications:NAME or keras_hub:PRESET.
      depth: how many records led here.
    """
    name = str(model)
    published = user_code.published(name)
    if published:
        known = published[0] == user_code.APPLICATIONS or "imagenet" in name
        return Lineage(({**_ImageNet, "via": WEIGHTS},)) if known else Lineage(unknown=(name,))
    recorded = _recorded_in_file(model)
    if recorded is not None:
        return recorded
    run = run_behind(model)
    if run is None or depth > _DEEPEST:
        return Lineage(unknown=(name,))
    own = {"dataset": run.dataset, "set": None, "data": None, "split": redraw.rule_of(run.pick(DataSettings))}
    parts = [Lineage(({**own, "via": WEIGHTS},), (name,) if _was_recorded(model) else ())]
    if run.unlabelled:
        more = {**own, "dataset": run.unlabelled, "split": _Whole, "via": WEIGHTS, "whole": True}
        parts.append(Lineage((more,)))
    parts += [read(path, depth + 1) for path in start_weights(run).values()]
    if run.needs_teacher:
        teachers = run.teachers or (str(workdir_of(model) / run_files.TEACHER),)
        parts += [read(teacher, depth + 1).as_teacher() for teacher in teachers]
    return joined(parts)


def images_seen(lineage: Lineage, dataset: Dataset, settings: DataSettings) -> list[Seen]:
    """Which trainings in a lineage have used images that the dataset's validation or test split measures on.

    The split of each training on the same set is drawn again. A set with the same name that has changed since counts as
    seen wherever its measured images are drawn. A folder that was read in another way, with labels or without, or a
    folder in it or around it, is compared file by file.

    Args:
      lineage: of the weights that are measured, or that training starts from.
      dataset: loaded with `settings`; only the splits that it has count.
      settings: its settings.
    """
    splits = redraw.measured_splits(dataset)
    same_set = {"name": without_version(dataset.key_name), "version": str(dataset.set_version)}
    found, near = [], functools.cache(_folders_near)
    for training in lineage.trainings:
        known, place = training["set"], without_version(training.get("place", _place(training["dataset"])))
        known = known and {**known, "name": without_version(known["name"])}
        name = settings.dataset
        if known != same_set and place != _place(name):
            name = near(name).get(place, "") if is_folder(place) else ""
        if not name:
            continue
        elsewhere = name != settings.dataset
        exact = elsewhere or known in (None, same_set)
        if not exact:
            counts = {name: len(split) * redraw.is_drawn(name, dataset, settings) for name, split in splits.items()}
        else:
            rule, whole = redraw.rule_from(training["split"], name), training.get("whole", False)
            try:
                counts = redraw.trained_on(rule, dataset, settings, whole=whole)
            except InputError:
                if not elsewhere:
                    raise
                continue  # that folder is no data set any more
        images = {name: (count, len(splits[name])) for name, count in counts.items() if count}
        if images:
            found.append(Seen(images, training, exact, elsewhere))
    return found


def unknown_sentence(names: Sequence[str]) -> str:
    """What cannot be checked of weights without a record."""
    have, it = ("has", "it") if len(names) == 1 else ("have", "them")
    return (
        f"{', '.join(names)} {have} no record of training: skd_tf cannot tell whether the test images are new to {it}."
    )


def require_unseen(
    models: Mapping[str, str | os.PathLike], dataset: Dataset, settings: DataSettings, *, teachers: Sequence[str] = ()
) -> list[str]:
    """Refuses to measure weights on images that they or their ancestors were trained on.

    Args:
      models: {flag: path} of the models whose weights are measured, or are the start of those that will be.
      dataset, settings: as in `images_seen`.
      teachers: flags among them that name teachers.

    Returns:
      A sentence for each model whose teacher, or that as a teacher, has seen such images.

    Raises:
      InputError: the number would be false.
    """
    warnings = []
    for flag, path in models.items():
        for seen in images_seen(read(path), dataset, settings):
            if flag in teachers or seen.training["via"] == TEACHER:
                who = f"The teacher {path}" if flag in teachers else f"The teacher of --{flag}={path}"
                own = f" (its own split: {seen.remedy})" if seen.remedy else ""
                warnings.append(
                    f"{who} was trained on {seen.text} of {dataset.name}, so what it says about them is too good{own}."
                )
                continue
            rules = {name: value for name, value in redraw.rule_of(settings).items() if value != ""}
            given = rules if seen.remedy else {"dataset": settings.dataset}
            raise input_error(
                f"--{flag}={path} has trained on {seen.text}, so no number measured on them would be true",
                expected=f"the split of its own run: {seen.remedy}"
                if seen.remedy
                else "images that it was not trained on",
                received=" ".join(shlex.quote(f"--{name}={value}") for name, value in given.items()),
                remedy="Give these flags, or other weights; a folder with train/ and test/ has one test part for all"
                if seen.remedy
                else "Measure on other images, or use other weights",
            )
    return list(dict.fromkeys(warnings))


def write(model: str | os.PathLike, lineage: Lineage) -> None:
    """Adds a lineage to a `.keras` file or a SavedModel folder, with a digest of it and of the weights."""
    text = json.dumps({"digest": _digest(model, lineage)} | lineage.to_json())
    path = pathlib.Path(model)
    if paths.is_saved_model(path):
        (path / paths.LINEAGE).write_text(text)
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(paths.LINEAGE, text)


def write_beside(files: Sequence[pathlib.Path], path: pathlib.Path, lineage: Lineage) -> None:
    """Writes the lineage of exported files, whose formats have no place for it, with the SHA-256 of each."""
    digests = {
        file.name: paths.file_fingerprint(file) if file.is_dir() else hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }
    path.write_text(json.dumps({"sha256": digests} | lineage.to_json(), indent=1) + "\n")


def _digest(file, lineage):
    """Of a model file's weights and its lineage."""
    return sha256_of_json([paths.file_fingerprint(file), lineage.to_json()])


def _place(dataset):
    """A dataset's name without its version; of a folder a digest of its path, because an exported file tells it to strangers."""
    if not is_folder(dataset):
        return without_version(dataset)
    kind, _, path = dataset.partition(":")
    path = os.path.realpath(os.path.expanduser(path))
    return f"{kind}:" + hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def _folders_near(dataset):
    """{place: name} of the datasets that a folder, those around it and those in it may be; {} for another dataset."""
    if not is_folder(dataset):
        return {}
    root = pathlib.Path(os.path.realpath(os.path.expanduser(dataset.partition(":")[2])))
    inside = (path for path, folders, _ in os.walk(root))
    names = [f"{kind}{path}" for path in (*root.parents, *inside) for kind in (FOLDER, IMAGES)]
    return {_place(name): name for name in names}


def _recorded_in_file(model):
    """The `Lineage` in a model's file; None without a file, without a lineage, or if it or the weights were edited."""
    try:
        file = paths.file_of(model)
        if paths.is_saved_model(file):
            text = (file / paths.LINEAGE).read_text()
        elif paths.is_runtime_file(file):
            text = (file.parent / paths.LINEAGE).read_text()
        else:
            with zipfile.ZipFile(file) as archive:
                text = archive.read(paths.LINEAGE).decode()
        record = json.loads(text)
        found = Lineage(tuple(record["trainings"]), tuple(record["unknown"]))
        for training in found.trainings:  # another version's may have more
            redraw.rule_from(training["split"])
            _ = training["set"], training["dataset"], training["via"]
        if paths.is_runtime_file(file):
            is_own = record["sha256"].get(file.name) == paths.file_fingerprint(file)
        else:
            is_own = record["digest"] == _digest(file, found)
        return found if is_own and record["format"] == _FORMAT else None
    except (InputError, OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile):
        return None


def _was_recorded(model):
    """Whether the run of a model recorded a lineage, so that a file without one has been edited."""
    try:
        return "lineage" in (read_result(workdir_of(model)) or {})
    except InputError:
        return False
