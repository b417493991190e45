"""How many of a dataset's validation and test images another split rule trains on: the other split is drawn again."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from skd_tf.data import folder_index, grouping, hold_out
from skd_tf.data.catalog import is_folder
from skd_tf.data.dataset import Dataset, Split
from skd_tf.data.file_facts import FileFacts
from skd_tf.data.settings import DataSettings

_RULE = ("data_rules", "data_seed", "validation_fraction", "validation_split", "group")


def rule_of(settings: DataSettings) -> dict[str, object]:
    """The settings that decide which images of a dataset are trained on, as JSON."""
    return {name: getattr(settings, name) for name in _RULE}


def rule_from(rule: Mapping[str, Any], dataset: str = "") -> DataSettings:
    """The settings that `rule_of` wrote down, for a dataset; TypeError for any others."""
    if not rule.keys() <= set(_RULE):
        raise TypeError(f"a split by {', '.join(rule.keys() - set(_RULE))}")
    return DataSettings(**rule, dataset=dataset)


def is_drawn(part: str, dataset: Dataset, settings: DataSettings) -> bool:
    """Whether the images of a split, "validation" or "test", were drawn, rather than chosen by the dataset."""
    return folder_index.draws_test_split(settings.dataset) if part == "test" else dataset.drawn_from is not None


def measured_splits(dataset: Dataset) -> dict[str, Split]:
    """The validation and the test split of a dataset, as far as it has them."""
    splits = {"validation": dataset.validation, "test": dataset.test}
    return {name: split for name, split in splits.items() if split is not None}


def trained_on(rule: DataSettings, dataset: Dataset, settings: DataSettings, *, whole: bool = False) -> dict[str, int]:
    """How many images of each measured split a training with another rule has used.

    Args:
      rule: the settings of that training; its dataset is the one that is measured on, or reads the same folder otherwise.
      dataset: the dataset that is measured on, loaded with `settings`.
      settings: its own settings.
      whole: whether the training held nothing out, as with --unlabelled.

    Returns:
      {"validation": count, "test": count} of the splits that the dataset has.
    """
    splits = measured_splits(dataset)
    same = rule.dataset == settings.dataset and not whole
    if same and rule_of(rule) == rule_of(settings):
        return dict.fromkeys(splits, 0)  # what is measured on was held out
    if is_folder(settings.dataset):
        here, used = _files(settings), _training_files(rule, whole)
        if not same:  # the two may name a folder in different ways
            here = {name: [os.path.realpath(path) for path in paths] for name, paths in here.items()}
            used = {os.path.realpath(path) for path in used}
        part = {"validation": "validation" if "validation" in here else "train", "test": "test"}
        return {name: sum(here[part[name]][i] in used for i in split.index) for name, split in splits.items()}
    if not same:
        return dict.fromkeys(splits, 0)
    if dataset.drawn_from is None or "validation" not in splits:  # the splits are the dataset's own
        return dict.fromkeys(splits, 0)
    labels, positions, groups = dataset.drawn_from
    if rule.group != settings.group:  # the names of the files are not known here: at worst it has used all
        held_out = np.zeros(0, np.int64)
    else:
        held_out = positions[hold_out.validation_rows(labels, rule, groups)]
    count = len(np.setdiff1d(splits["validation"].index, held_out))
    return {name: count if name == "validation" else 0 for name in splits}


def copies(contents: Iterable[bytes], dataset: Dataset, settings: DataSettings) -> dict[str, int]:
    """How many images of each measured split have one of these contents.

    Args:
      contents: content hashes, as `FileFacts.hashes` gives them.
      dataset: the dataset that is measured on, loaded with `settings`; one that is no folder has no known contents.
      settings: its settings.

    Returns:
      As `trained_on`.
    """
    splits = measured_splits(dataset)
    if not is_folder(settings.dataset):
        return dict.fromkeys(splits, 0)
    root, files = _found(settings).root, _files(settings)
    part = {"validation": "validation" if "validation" in files else "train", "test": "test"}
    hashes = {name: FileFacts(root, files[name]).hashes() for name in {part[name] for name in splits}}
    known = {content for content in contents if content}  # a file that is not used has an empty one
    return {name: sum(hashes[part[name]][i] in known for i in split.index) for name, split in splits.items()}


def _files(settings):
    """{part: paths} of a folder."""
    return {part: [path for path, _ in files] for part, files in _found(settings).splits.items()}


def _found(settings):
    return folder_index.find(settings.dataset, settings.data_seed, settings.data_rules, settings.group)


def _training_files(rule, whole):
    """The set of paths that a rule trains on."""
    if whole:
        return {*folder_index.unlabelled_paths(rule.dataset)}
    folder = _found(rule)
    paths, labels = (np.array(column) for column in zip(*folder.splits["train"], strict=True))
    rows = np.arange(len(paths))
    if rule.data_rules != 1:  # its trainings did not keep which files decode
        rows = np.flatnonzero(FileFacts(folder.root, paths.tolist()).usable())
    if "validation" in folder.splits:
        return {*paths[rows].tolist()}
    groups = grouping.numbered(folder.groups)["train"][rows] if folder.groups else None
    held_out = hold_out.validation_rows(labels[rows], rule, groups)
    return {*np.delete(paths[rows], held_out).tolist()}
