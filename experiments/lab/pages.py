"""`python -m experiments.lab tables`: writes the studies' tables into Markdown pages, or checks pages, records and figures.

    python -m experiments.lab tables              # fills README.md, experiments/README.md and docs/studies/*.md
    python -m experiments.lab tables --check      # changes nothing; exit code 1 where something is stale

A table stands between its markers: <!-- table: capacity_gap --> ... <!-- end -->
"""

import pathlib
import re
import sys

from absl import flags

from experiments.lab import definitions, figure_files, records
from experiments.lab.front_page import TABLES
from experiments.lab.summaries import Runs, runs_of
from skd_tf.errors import did_you_mean, input_error
from skd_tf.runtime.console import say

DESCRIPTION = "Writes the studies' tables from their records."
POSITIONAL = "page"
_OPENING = re.compile(r"<!--\s*table:\s*(.*?)\s*-->")
_BLOCK = re.compile(rf"({_OPENING.pattern}\n)(.*?)(<!-- end -->)", re.DOTALL)


def define(flag_values: flags.FlagValues) -> None:
    """Defines the flags of `tables`."""
    results = str(definitions.ROOT / definitions.RESULTS)
    pages = "a Markdown page, also without the flag's name; by default README.md, experiments/README.md, docs/studies"
    flags.DEFINE_multi_string("page", None, pages, flag_values=flag_values)
    flags.DEFINE_boolean("check", False, "compare instead of writing", flag_values=flag_values)
    flags.DEFINE_string("results_dir", results, "folder of the records", flag_values=flag_values)


def filled(text: str, runs: Runs, page: object) -> str:
    """A page's text with its tables written from the runs.

    Raises:
      InputError: a marker without its end, or of an unknown table.
    """
    blocks, markers = list(_BLOCK.finditer(text)), len(_OPENING.findall(text))
    if len(blocks) != markers or any(_OPENING.search(block[3]) for block in blocks):
        received = f"{markers} markers and {len(blocks)} tables in {page}"
        expected = "<!-- end --> after each marker"
        raise input_error("A table has no end", expected=expected, received=received, remedy="Add the line")
    for block in blocks:
        if block[2] not in TABLES:
            known, remedy = f"one of {', '.join(TABLES)}", did_you_mean(block[2], TABLES, "Correct the marker")
            raise input_error("No such table", expected=known, received=f"{block[2]} in {page}", remedy=remedy)
    return _BLOCK.sub(lambda block: f"{block[1]}\n{TABLES[block[2]](runs)}\n\n{block[4]}", text)


def page_problems(text: str, page: object, runs: Runs) -> list[str]:
    """One line for every table of a page that differs from what the records give."""
    wanted = filled(text, runs, page)
    return [
        f"{page}: the table {before[2]} differs from the records. Run python -m experiments.lab tables."
        for before, after in zip(_BLOCK.finditer(text), _BLOCK.finditer(wanted), strict=True)
        if before[3] != after[3]
    ]


def main(flag_values: flags.FlagValues) -> int | None:
    """Writes or checks; returns the exit code."""
    root = definitions.ROOT
    own = [root / "README.md", root / "experiments/README.md", *sorted((root / "docs/studies").glob("*.md"))]
    pages = [pathlib.Path(page) for page in flag_values.page or ()] or own
    problems = records.all_problems(flag_values.results_dir) if flag_values.check else []
    if not problems:
        found = records.read_all(flag_values.results_dir)
        runs = runs_of(found, flag_values.results_dir)
        for page in pages:
            try:
                text = page.read_text(encoding="utf-8")
            except OSError as error:
                problem = f"A page cannot be read ({error.strerror})"
                received, remedy = f"page={page}", "Check the path"
                raise input_error(problem, expected="Markdown", received=received, remedy=remedy) from error
            if flag_values.check:
                problems += page_problems(text, page, runs)
            elif (new := filled(text, runs, page)) != text:
                page.write_text(new, encoding="utf-8")
        if flag_values.check:
            problems += figure_files.problems(runs)
    for line in problems:
        print(line, file=sys.stderr)
    if not problems:
        say(f"{len(found)} records, {len(pages)} pages: {'up to date' if flag_values.check else 'written'}.")
    return 1 if problems else None
