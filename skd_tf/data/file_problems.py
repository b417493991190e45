"""What is said of image files that cannot be used, and of pictures that are in two splits or in two classes."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from skd_tf.data.file_facts import FileFacts
from skd_tf.data.folder_parts import shown
from skd_tf.errors import counted, input_error
from skd_tf.runtime.console import warn

_MOST_UNREADABLE = 0.01  # fraction of a split's files, but always
_FEW_UNREADABLE = 5  # files
_NAMED = 10  # unreadable files that are named, one per line


def most_unreadable(files: int) -> float:
    """The number of a split's files that may be unreadable."""
    return max(_MOST_UNREADABLE * files, _FEW_UNREADABLE)


def report_unreadable(
    name: str, paths: Sequence[str], facts: FileFacts, labels: np.ndarray | None, class_names: Sequence[str]
) -> None:
    """Names the files of a split that are left out.

    Args:
      name: of the split.
      paths: of its files.
      facts: of its files.
      labels: int32 `[n]`; -1 is unlabelled. None if they are not known yet.
      class_names: in the order of the labels.

    Raises:
      InputError: there are too many, or a class is left without a file.
    """
    usable = facts.usable()
    rows = np.flatnonzero(~usable)
    unreadable = [(paths[row], facts.problems.get(row, "it does not decode")) for row in rows.tolist()]
    most = most_unreadable(len(paths))
    if len(unreadable) > most or len(unreadable) == len(paths):
        raise input_error(
            f"Too many files of the {name} split do not decode: {len(unreadable)} of {len(paths)}",
            expected=f"images, at most {most:.0f} of them damaged",
            received="; ".join(f"{path}: {problem}" for path, problem in unreadable[:3]) + " ..." * (len(rows) > 3),
            remedy="Repair or remove them",
        )
    if labels is not None:
        emptied = sorted({*labels.tolist()} - {*labels[usable].tolist()})
        if emptied:
            raise input_error(
                f"Classes have no readable image in the {name} split",
                expected="at least one image of each class that decodes",
                received=shown("unlabelled" if label < 0 else class_names[label] for label in emptied),
                remedy="Repair or replace their files",
            )
    for path, problem in unreadable[:_NAMED]:
        warn(f"Skipped {path}: {problem}.")
    if len(unreadable) > _NAMED:
        more = counted(len(unreadable) - _NAMED, "more file")
        warn(f"Could not decode {more} of the {name} split, and skipped them.")


def report_equal_drawn(hashes: Sequence[bytes], training: np.ndarray, validation: np.ndarray) -> tuple[str, ...]:
    """Warns of validation pictures, drawn from the training files, that are also among the others; returns the warnings.

    Args:
      hashes: content of each training file.
      training, validation: int `[n]`, the files of the two.
    """
    count = _copies((hashes[row] for row in validation.tolist()), (hashes[row] for row in training.tolist()))
    return _said(
        f"{count} of {counted(len(validation), 'validation image')}, drawn from the training images, {'is' if count == 1 else 'are'} "
        "also among the images to train on, by content, so what is measured there is too good. Remove the copies.",
        count,
    )


def report_equal_images(hashes: Mapping[str, Sequence[bytes]]) -> tuple[str, ...]:
    """Warns of images of the test split that are also in the train split; returns the warnings.

    Args:
      hashes: {split: content of each of its images}.
    """
    count = _copies(hashes.get("test", ()), hashes.get("train", ()))
    found = counted(count, "image")
    return _said(
        f"The train split contains {found} of the test split, by content, so what is measured there is too good.", count
    )


def _copies(measured, trained_on):
    """How many measured images are also trained on, by the hashes of their content; b"" is none."""
    known = {*trained_on} - {b""}
    return sum(content in known for content in measured)


def _said(text, count):
    """Warns, and returns the text for the records; nothing without a count."""
    if not count:
        return ()
    warn(text)
    return (text,)


def report_equal_content(
    paths: Mapping[str, Sequence[str]], facts: Mapping[str, FileFacts], labels: Mapping[str, np.ndarray]
) -> list[str]:
    """Warns of pictures that are in two splits, or under two labels of one; returns the warnings.

    Args:
      paths: {split: paths of its files}.
      facts: {split: facts of its files}.
      labels: {split: int32 `[n]`} of the splits whose labels are compared.
    """
    texts = []
    hashes = {name: of_split.hashes() for name, of_split in facts.items()}
    names = [name for name in ("train", "validation", "test") if name in hashes]
    for place, one in enumerate(names):
        known = dict(zip(hashes[one], paths[one], strict=True))
        for other in names[place + 1 :]:
            pairs = [
                (known[found], path)
                for found, path in zip(hashes[other], paths[other], strict=True)
                if found and found in known
            ]
            if pairs:
                texts.append(
                    f"The {one} split contains {counted(len(pairs), 'file')} of the {other} split, by content "
                    f"({pairs[0][1]} is {pairs[0][0]}), so what is measured there is too good."
                )
        if one not in labels:
            continue
        twice = {pair for pair in zip(hashes[one], labels[one].tolist(), strict=True) if pair[0] and pair[1] >= 0}
        several = [found for found, count in Counter(found for found, _ in twice).items() if count > 1]
        if several:
            count = counted(len(several), "picture")
            texts.append(f"The {one} split has {count} in several classes, such as {known[several[0]]}.")
    for text in texts:
        warn(text)
    return texts
