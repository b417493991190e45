"""The studies' figures as files: where they lie, and which records and code drew each, as its PNG says by a digest."""

import hashlib
import json
import os
import pathlib
import struct

from experiments.lab import definitions

FOLDER = definitions.ROOT / "experiments" / "figures"
KEY = "Records"  # of the PNG's text
CAPTIONS = {
    "capacity_gap": "Student's test top-1 against the teacher's parameters; every seed a faint dot",
    "temperature": "Student's test top-1 against the temperature, and against R / T",
    "sphere": "Test top-1 of each change, minus the default's of the same seed",
    "calibration": "Reliability of the resnet56's students, and ECE of all, on the sphere and in the raw softmax",
    "cifar100": "Test top-1 of each method on CIFAR-100, minus the student alone's of the same seed",
}
_DRAWS = [pathlib.Path(__file__).with_name(name) for name in ("study_figures.py", "study_numbers.py")]
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def path_of(name, folder=FOLDER):
    return pathlib.Path(folder, f"{name}.png")


def digest(name, records):
    """SHA-256 over the records that a figure is drawn from, of {cell: record}, and the code that draws and computes."""
    study = definitions.STUDIES[name]
    mine = {cell.path: record for cell, record in records.items() if cell.study in (name, *study.drawn_from)}
    code = b"".join(path.read_bytes() for path in _DRAWS)
    return hashlib.sha256(json.dumps(mine, sort_keys=True).encode() + code).hexdigest()


def is_due(name, records):
    """Whether there is a record to draw: of the study itself, or where it has no cells of those that it reads."""
    study = definitions.STUDIES[name]
    sources = (name,) if definitions.cells(study) else study.drawn_from
    return any(cell.study in sources for cell in records)


def link(name, page, folder=FOLDER):
    """Markdown of a figure as seen from a page; words where it is not drawn."""
    if not path_of(name, folder).is_file():
        return "Not drawn yet."
    relative = os.path.relpath(path_of(name, folder), pathlib.Path(page).parent)
    return f"![{CAPTIONS[name]}]({pathlib.PurePath(relative).as_posix()})"


def drawn_from(path):
    """The digest that a PNG names in its text; None where it names none."""
    content, place = pathlib.Path(path).read_bytes(), len(_SIGNATURE)
    if content[:place] != _SIGNATURE:
        return None
    while place + 8 <= len(content):
        (size,), kind = struct.unpack(">I", content[place : place + 4]), content[place + 4 : place + 8]
        keyword, _, text = content[place + 8 : place + 8 + size].partition(b"\0")
        if kind == b"tEXt" and keyword == KEY.encode():
            return text.decode("latin-1")
        place += size + 12  # length, kind and checksum around the data
    return None


def problems(records, folder=FOLDER):
    """Lines on figures that were drawn from other records, or by other code, than those that are there."""
    lines = []
    for path in sorted(pathlib.Path(folder).glob("*")):
        if path.suffix != ".png" or path.stem not in CAPTIONS:
            lines.append(f"{path}: no study has this figure. Remove it.")
        elif drawn_from(path) != digest(path.stem, records):
            lines.append(
                f"{path}: drawn from other records, or by other code of tools/. Run python -m experiments.lab figures {path.stem}."
            )
    return lines


def missing(records, folder=FOLDER):
    """Lines on figures that could be drawn from the records, and are not there."""
    due = [path_of(name, folder) for name in CAPTIONS if is_due(name, records)]
    return [f"{path}: not drawn. Run python -m experiments.lab figures {path.stem}." for path in due if not path.is_file()]
