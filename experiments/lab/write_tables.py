"""Writes the studies' tables and figures into Markdown pages, between their markers, from the records.

python -m experiments.lab tables                   # fills experiments/README.md and README.md
python -m experiments.lab tables --check           # changes nothing; exit code 1 where a page or a record is not what it should be

<!-- table: capacity_gap -->  ... <!-- end -->
<!-- figure: capacity_gap --> ... <!-- end -->
"""

import pathlib
import re
import sys

from absl import flags

from experiments.lab import definitions, figure_digests
from experiments.lab import records as study_records
from experiments.lab.tables import cifar10
from skd_tf.config import app
from skd_tf.errors import InputError
from skd_tf.runtime.console import say

PAGES = ("experiments/README.md", "README.md")
_OPENING = re.compile(r"<!-- (table|figure): (\w+) -->")
_BLOCK = re.compile(r"(<!-- (table|figure): (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def define(flag_values):
    flags.DEFINE_multi_string(
        "page",
        None,
        "a Markdown page, also without the flag's name; experiments/README.md and README.md unless given",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean("check", False, "compare instead of writing", flag_values=flag_values)
    flags.DEFINE_string(
        "results_dir", str(definitions.ROOT / definitions.RESULTS), "folder of the records", flag_values=flag_values
    )


def filled(text, records, page):
    """A page's text with what stands between its markers written anew.

    Args:
      text: the page.
      records: {cell: record}.
      page: its path, for the links to figures and for errors.

    Raises:
      InputError: a marker without its end, or of an unknown table or figure.
    """
    blocks = list(_BLOCK.finditer(text))
    if len(blocks) != len(_OPENING.findall(text)) or any(_OPENING.search(block[4]) for block in blocks):
        raise InputError(
            "A table has no end. Expected <!-- end --> after each marker. "
            f"Received {len(_OPENING.findall(text))} markers and {len(blocks)} tables in {page}. Add the line."
        )

    def write(block):
        kind, name = block[2], block[3]
        known = cifar10.TABLES if kind == "table" else figure_digests.CAPTIONS
        if name not in known:
            raise InputError(
                f"There is no such {kind}. Expected one of {', '.join(known)}. Received {name} in {page}. "
                "Correct the marker."
            )
        content = known[name](records) if kind == "table" else figure_digests.link(name, page)
        return f"{block[1]}\n{content}\n\n{block[5]}"

    return _BLOCK.sub(write, text)


def page_problems(text, page, records):
    """Lines on what of a page is not what the records give."""
    wanted = filled(text, records, page)
    return [
        f"{page}: the {before[2]} {before[3]} is not what the records give. Run python -m experiments.lab tables."
        for before, after in zip(_BLOCK.finditer(text), _BLOCK.finditer(wanted), strict=True)
        if before[4] != after[4]
    ]


def record_problems(results, known=None):
    """Lines on records that are not of a study's cell, or not what its flagfiles give."""
    known = known or definitions.STUDIES
    results = pathlib.Path(results)
    files = {
        study_records.file_of(cell, results): cell for study in known.values() for cell in definitions.cells(study)
    }
    found = {*results.rglob("seed*.json"), *(p for name in known for p in (results / name).rglob("*") if p.is_file())}
    lines = [
        f"{path}: no study has this cell. Remove it, or name it in experiments/lab/definitions.py."
        for path in sorted(found - set(files))
    ]
    records = {}
    for path, cell in files.items():
        if path in found:
            try:
                records[cell] = study_records.read(path)
                lines += [f"{path}: {problem}" for problem in study_records.problems(cell, records[cell])]
            except InputError as error:
                lines.append(str(error))
    return lines + study_records.disagreements(records)


def main(flag_values):
    results = pathlib.Path(flag_values.results_dir)
    pages = [pathlib.Path(page) for page in flag_values.page or ()] or [definitions.ROOT / page for page in PAGES]
    problems = record_problems(results) if flag_values.check else []
    for line in problems:
        print(line, file=sys.stderr)
    if problems:
        return 1
    records = study_records.read_all(results)
    for page in pages:
        try:
            text = page.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"A page cannot be read ({error.strerror}). Expected Markdown. Received page={page}. Check the path."
            ) from error
        if flag_values.check:
            problems += page_problems(text, page, records)
        elif (new := filled(text, records, page)) != text:
            page.write_text(new, encoding="utf-8")
    if flag_values.check:
        problems += figure_digests.problems(records) + figure_digests.missing(records)
    for line in problems:
        print(line, file=sys.stderr)
    if not problems:
        say(f"{len(records)} records, {len(pages)} pages: {'as they should be' if flag_values.check else 'written'}.")
    return 1 if problems else None


if __name__ == "__main__":
    app.run(
        main,
        description="Writes the studies' tables from their records.",
        define=define,
        required=(),
        positional="page",
    )
