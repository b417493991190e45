"""Walks through class folders: which files are images, which links are followed; without TensorFlow."""

import os
import pathlib
import time
import unicodedata
from collections import Counter

from skd_tf.data.folder_parts import is_leaving, shown, unlistable, visible_folders
from skd_tf.errors import input_error

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif")
_CLOCK_NS = 2_000_000_000  # the coarsest clock of a file system
_SUFFIXES_OF_EARLIER_VERSIONS = (".jpg", ".jpeg", ".png")


class FolderWalk:
    """Collects the images of class folders.

    Each folder on the disk is read once. A link to a folder is followed unless it leads to a folder that is read anyway
    or to one around it. Hidden folders and what systems leave behind are skipped at every depth.

    Args:
      root: folder of the data set.

    Attributes:
      others: files that are not images, counted by suffix.
      first_other: path of the first of them.
      links: links that were not followed.
    """

    def __init__(self, root: pathlib.Path) -> None:
        self.others: Counter[str] = Counter()
        self.first_other = ""
        self.links: list[str] = []
        self._root = os.path.realpath(root)
        self._started = time.time_ns()
        self._stamps = {str(folder): _stamp(folder) for folder in (root, *visible_folders(root))}
        self._seen: dict[str, str] = {}  # real path -> class folder
        self._pending: list[tuple[str, list[str], str]] = []  # links, with the images and the folder of their class

    def classes(self, folder: pathlib.Path) -> dict[str, list[str]]:
        """{class: paths of its images}, for the class folders in `folder`; `finish` adds what links lead to.

        Raises:
          InputError: two class folders are one folder, or their names differ in their Unicode form only.
        """
        self._stamps[str(folder)] = _stamp(folder)
        found: dict[str, list[str]] = {}
        for entry in visible_folders(folder):
            real = os.path.realpath(entry)
            if _inside(self._root, real):  # a link to the data set itself or to a folder around it
                self.links.append(str(entry))
                continue
            name = unicodedata.normalize("NFC", entry.name)
            if name in found or real in self._seen:
                other = self._seen.get(real, folder / name)
                raise input_error(
                    "Two class folders are one",
                    expected="each picture in one class and one part",
                    received=f"{entry} and {other}",
                    remedy="Remove one of them",
                )
            found[name] = []
            self._read(str(entry), found[name], str(entry))
        return found

    def tree(self, folder: pathlib.Path) -> list[str]:
        """Paths of all images in a folder and below it; `finish` adds what links lead to."""
        images: list[str] = []
        self._read(str(folder), images, str(folder))
        return images

    def finish(self) -> None:
        """Follows the links inside class folders, once all class folders are read."""
        while self._pending:
            link, images, class_folder = self._pending.pop(0)
            target = os.path.realpath(link)
            if any(_inside(seen, target) for seen in self._seen):
                self.links.append(link)
            else:
                self._read(link, images, class_folder)

    def is_current(self) -> bool:
        """Whether another walk would find the same names, because no folder has changed since this one started."""
        before = self._started - _CLOCK_NS
        return all(_stamp(folder) == stamp and stamp[0] < before for folder, stamp in self._stamps.items())

    def _read(self, folder, images, class_folder):
        self._seen[os.path.realpath(folder)] = class_folder
        self._stamps[folder] = _stamp(folder)
        try:
            with os.scandir(folder) as entries:
                listed = sorted(
                    (entry for entry in entries if not is_leaving(entry.name)), key=lambda entry: entry.name
                )
        except OSError as error:
            raise unlistable(folder, error) from error
        folders = []
        for entry in listed:
            if _is_folder(entry):
                folders.append(entry)
            elif entry.name.lower().endswith(SUFFIXES):
                images.append(entry.path)
            else:
                self._count(entry.path)
        for entry in folders:
            if entry.is_symlink():
                self._pending.append((entry.path, images, class_folder))
            else:
                self._read(entry.path, images, class_folder)

    def _count(self, path):
        self.others[os.path.splitext(path)[1].lower() or "no suffix"] += 1
        self.first_other = self.first_other or path


def classes_of_earlier_versions(folder: pathlib.Path, others: Counter[str]) -> dict[str, list[str]]:
    """{class: paths of its images}, by the rules of skd_tf 0.1; counts other files in `others`."""
    classes: dict[str, list[str]] = {}
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        paths = classes[entry.name] = []
        for place, folders, names in os.walk(entry, followlinks=True):
            folders.sort()
            for name in sorted(name for name in names if not name.startswith(".")):
                if name.lower().endswith(_SUFFIXES_OF_EARLIER_VERSIONS):
                    paths.append(os.path.join(place, name))
                else:
                    others[os.path.splitext(name)[1].lower() or "no suffix"] += 1
    return classes


def loose_images(folder: pathlib.Path) -> list[str]:
    """Names of the images in a folder itself, which belong to no class."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not _is_folder(entry))
    except OSError as error:
        raise unlistable(folder, error) from error
    return [name for name in names if name.lower().endswith(SUFFIXES) and not is_leaving(name)]


def nested_alike(folder: pathlib.Path) -> str:
    """Names of the subfolders, if all class folders in a folder have the same ones; else an empty text."""
    inside = [tuple(entry.name for entry in visible_folders(place)) for place in visible_folders(folder)]
    return shown(inside[0]) if len(inside) > 1 and inside[0] and len(set(inside)) == 1 else ""


def _stamp(folder):
    """When a folder's list of names last changed, and which folder it is."""
    try:
        status = os.stat(folder)
    except OSError:
        return 0, 0, 0
    return status.st_mtime_ns, status.st_dev, status.st_ino


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _inside(path, folder):
    """Whether a path is a folder or lies inside it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
