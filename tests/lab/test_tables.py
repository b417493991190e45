"""The studies' tables: their numbers by an independent computation, what --check refuses, what stands without records."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from experiments.lab import definitions, front_page, pages, records
from experiments.lab.jax import train_students
from experiments.lab.statistics import critical
from experiments.lab.summaries import HELD_OUT, TEST, Grid, Table, difference_text, runs_of
from experiments.lab.tables import SPECS
from skd_tf.errors import InputError
from tests.lab import study_cases
from tests.lab.study_cases import made_records

ROOT = pathlib.Path(__file__).resolve().parents[2]


def rows_of(markdown, names=1):
    """{first column: the others} of all tables in a text; of several columns that name a row, {their texts: the others}."""
    lines = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line] for line in lines]
    return {" | ".join(cells[:names]): cells[names:] for cells in rows}


@pytest.fixture(scope="module")
def made():
    return made_records(share=0.8)


@pytest.fixture(scope="module")
def runs(made):
    return runs_of(made)


def of(made, key, measure):
    """{seed: accuracy in percent} of an entry, straight from its records."""
    chosen = {cell.seed: record for cell, record in made.items() if cell.path.rpartition("/")[0] == key}
    if measure == TEST:
        return {seed: 100 * record["student"]["accuracy"] for seed, record in chosen.items()}
    return {seed: 100 * record["by_epoch"]["val_accuracy"][-1] for seed, record in chosen.items()}


def spread_of(columns):
    """(spread, degrees) of what entries and seeds leave, by a regression with R's contrasts."""
    seeds = sorted({seed for column in columns for seed in column})
    rows = [(n, seed, value) for n, column in enumerate(columns) for seed, value in column.items()]
    design = [[float(n == m) for m in range(len(columns))] + [float(s == t) for t in seeds[1:]] for n, s, _ in rows]
    y = np.array([value for *_, value in rows])
    rest = y - design @ np.linalg.pinv(design) @ y
    degrees = len(y) - np.linalg.matrix_rank(design)
    return np.sqrt(rest @ rest / max(degrees, 1)), degrees


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if isinstance(spec, Table)])
def test_every_number_of_a_table_is_its_cells(name, made, runs):
    spec = SPECS[name]
    found = {m: {label: of(made, key, m) for label, key in spec.entries.items()} for m in (TEST, HELD_OUT)}
    for label, key in spec.entries.items():
        if key.startswith(("gpu_students", "head_to_head")):  # its runs are no cells
            found[TEST][label] = {seed: 100 * r["student"]["accuracy"] for seed, r in runs[key].items()}
            found[HELD_OUT][label] = {seed: 100 * r["by_epoch"]["val_accuracy"][0] for seed, r in runs[key].items()}
    lines, several = rows_of(spec.text(runs)), len(set(spec.against.values())) > 1
    pairs = [pair for pair in spec.against.items() if not set(pair) & set(spec.apart)]
    for label in spec.entries:
        for place, measure in enumerate((TEST, HELD_OUT)):
            values, columns = found[measure][label], found[measure]
            if not values:
                assert lines[label][place] == "not run"
                continue
            around = f" ± {np.std(list(values.values()), ddof=1):.2f}" if len(values) > 1 else ""
            assert lines[label][place] == f"{np.mean(list(values.values())):.2f}{around} ({len(values)})"
            other = columns.get(spec.against.get(label), {})
            changes = [values[seed] - other[seed] for seed in values if seed in other]
            if changes and (label, spec.against[label]) in pairs:
                mean, expected = np.mean(changes), f"{np.mean(changes):+.2f}"
                pooled = [columns[one] for one in columns if one not in spec.apart and columns[one]]
                spread, degrees = spread_of(pooled)
                if degrees:
                    half = critical(int(degrees), len(pairs), not several) * spread * (2 / len(changes)) ** 0.5
                    expected += f" [{mean - half:+.2f}, {mean + half:+.2f}]"
                assert lines[label][2 + several + place] == expected
    for words, weights in spec.contrasts.items():
        columns = [found[TEST][label] for label in weights]
        seeds = set.intersection(*map(set, columns))
        by_seed = [sum(w * column[seed] for w, column in zip(weights.values(), columns, strict=True)) for seed in seeds]
        assert lines[words][0].startswith(f"{np.mean(by_seed):+.2f} [" if by_seed else "not run")


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if isinstance(spec, Grid)])
def test_every_number_of_a_grid_is_its_cells(name, made, runs):
    spec, lines = SPECS[name], rows_of(SPECS[name].text(runs))
    names = list(dict.fromkeys(column for row in spec.cells.values() for column in row))
    found = {
        m: {r: {c: of(made, k, m).get(0) for c, k in cells.items()} for r, cells in spec.cells.items()}
        for m in (TEST, HELD_OUT)
    }
    for row in spec.cells:
        held_out = {column: value for column, value in found[HELD_OUT][row].items() if value is not None}
        best = max(held_out, key=held_out.get, default=None)
        for place, column in enumerate(names):
            test = found[TEST][row].get(column)
            text = "-" if column not in spec.cells[row] else "not run"
            if test is not None:
                bold = "**" * (column == best and len(spec.cells[row]) > 1)
                text = f"{bold}{test:.2f} ({held_out[column]:.2f}){bold}"
            assert lines[row][place] == text
        if spec.own_best and best:
            assert lines[row][-1] == f"{found[TEST][row][best]:.2f} ({held_out[best]:.2f})".replace("*", "")
    for row, other in spec.minus:
        for place, column in enumerate(names):
            both = [[found[m][side].get(column) for side in (row, other)] for m in (TEST, HELD_OUT)]
            test, held_out = (None if None in pair else pair[0] - pair[1] for pair in both)
            assert lines[f"{row} - {other}"][place] == ("-" if test is None else f"{test:+.2f} ({held_out:+.2f})")


def test_the_first_page_has_the_studies_numbers(made, runs):
    rows = rows_of(front_page.summary(runs), names=2)
    for pair, name, ours, theirs in (
        ("resnet20 -> resnet8, CIFAR-10 | 12", "capacity_gap", "SKD from resnet20", "KD from resnet20"),
        ("resnet56 -> resnet8, CIFAR-100 | 12", "cifar100", "SKD", "KD"),
        ("resnet56 -> resnet8, CIFAR-100 | 30", "budget", "SKD, 30 epochs", "KD, 30 epochs"),
    ):
        spec, row = SPECS[name], rows[pair]
        assert row[2] == rows_of(spec.text(runs))[ours][0]
        assert row[5] == difference_text(spec.difference(runs, TEST, ours, theirs))
    spec = SPECS["cifar100"]
    backwards = spec.difference(runs, TEST, "KD", "SKD")
    assert backwards.mean == pytest.approx(-spec.difference(runs, TEST, "SKD", "KD").mean)
    held_out = {
        m: np.mean(list(of(made, spec.entries[label], HELD_OUT).values()))
        for m, label in (
            ("KD", "KD"),
            ("DIST", "DIST, authors' weights"),
            ("Logit Standardization", "Logit Standardization, authors' weights"),
        )
    }
    assert rows["resnet56 -> resnet8, CIFAR-100 | 12"][6].endswith(f"({max(held_out, key=held_out.get)})")


def test_a_pair_outside_the_tables_family_has_an_interval_of_its_own(runs):
    spec = SPECS["head_to_head"]
    own = spec.estimate(spec.columns(runs, TEST), {"SKD, skd_tf": 1, "KD, skd_tf": -1})
    assert spec.difference(runs, TEST, "SKD, skd_tf", "KD, skd_tf").half == pytest.approx(own.half)
    label, other = next(iter(spec.against.items()))
    together = spec.difference(runs, TEST, label, other)
    assert together.half > spec.estimate(spec.columns(runs, TEST), {label: 1, other: -1}).half
    assert spec.difference(runs, TEST, other, label).half == together.half


def test_students_of_the_jax_route_are_told_apart_by_their_temperature(tmp_path):
    students = json.loads((definitions.ROOT / "experiments/results/gpu_students/students.json").read_text())
    first = next(student for student in students if student["row"] == "kd")
    warmer = first | {"temperature": 2.0, "held_out_accuracy": 0.25}
    folder = tmp_path / "gpu_students"
    folder.mkdir()
    names = [pathlib.Path(train_students.name_of(student)).stem for student in (first, warmer)]
    models = [{"path": f"{name}.keras", "accuracy": 0.5 + n / 10} for n, name in enumerate(names)]
    (folder / "students.json").write_text(json.dumps([first, warmer]))
    (folder / "evaluate.json").write_text(json.dumps({"models": models}))
    found = runs_of({}, tmp_path)
    key = f"gpu_students/resnet56/kd_{first['learning_rate']:g}"
    assert found[key][0]["student"]["accuracy"] == 0.5
    taught = found[key.replace("kd_", "kd_t2_")][0]
    assert taught["student"]["accuracy"] == 0.6 and taught["by_epoch"]["val_accuracy"] == [0.25]
    assert runs_of({}, tmp_path / "empty") == {}


@pytest.mark.parametrize("name", front_page.TABLES)
def test_a_table_without_records_says_so(name):
    text = front_page.TABLES[name]({})
    assert "nan" not in text.lower() and "not run" in text


PAGE = "# Page\n<!-- table: capacity_gap -->\n<!-- end -->\ntext\n<!-- table: temperature -->\n<!-- end -->\n"


@pytest.fixture
def written(tmp_path):
    """(page's path, results folder, records), all up to date."""
    made = made_records("capacity_gap", "temperature", share=0.5)
    study_cases.write(made, tmp_path / "results")
    page = tmp_path / "page.md"
    page.write_text(pages.filled(PAGE, runs_of(made), page))
    return page, tmp_path / "results", made


def test_a_page_is_filled_once_and_for_all(written):
    page, results, made = written
    text, runs = page.read_text(), runs_of(made)
    assert "| KD from resnet32 |" in text and "\ntext\n" in text and pages.filled(text, runs, page) == text
    assert pages.page_problems(text, page, runs) == records.all_problems(results) == []
    edited = re.sub(r"KD from resnet32 \| \d", "KD from resnet32 | 0", text)
    assert [line.split(": ", 1)[1] for line in pages.page_problems(edited, page, runs)] == [
        "the table capacity_gap differs from the records. Run python -m experiments.lab tables."
    ]


@pytest.mark.parametrize(
    "broken, words",
    [
        ("<!-- table: kd -->\n<!-- end -->", "No such table"),
        ("<!--table: head-to-head-->\n<!-- end -->", "No such table.*head-to-head"),
        ("<!-- table: temperature -->\n", "no end"),
        ("<!-- table: temperature -->\n<!-- table: sphere -->\n<!-- end -->", "no end"),
    ],
)
def test_a_broken_marker_is_refused(broken, words):
    with pytest.raises(InputError, match=words):
        pages.filled(broken, {}, "page.md")


@pytest.mark.parametrize(
    "edit, words",
    [
        (lambda made: made["config"].update(temperature=5.0), "--temperature: 5.0 -> 4.0"),
        (
            lambda made: made["config"].update(teacher_checkpoint="resnet110"),
            "--teacher_checkpoint: resnet110 -> resnet",
        ),
        (lambda made: made["config"].update(unheard_of=1), "--unheard_of: 1 -> no such setting"),
        (lambda made: made.update(flagfiles=["x.flags"]), "its flagfiles are ['x.flags']"),
        (lambda made: made["teacher"].update(fingerprint="other"), "has other weights"),
        (lambda made: made.update(same_training_as="capacity_gap/x/seed9"), "it differs from capacity_gap/x/seed9"),
        (lambda made: made.pop("student"), "damaged"),
        (lambda made: made.pop("teacher"), "damaged"),
    ],
)
def test_check_refuses_a_record_that_is_not_what_it_says(written, edit, words):
    _, results, made = written
    edit(next(record for cell, record in made.items() if cell.row == "kd"))
    study_cases.write(made, results)
    assert any(words in line for line in records.all_problems(results))


@pytest.mark.parametrize(
    "path", ["capacity_gap/resnet56/kd/seed9.json", "capacity_gap/notes.txt", "elsewhere/seed0.json"]
)
def test_check_refuses_a_record_that_no_study_has(written, path):
    _, results, _ = written
    (results / path).parent.mkdir(parents=True, exist_ok=True)
    (results / path).write_text("{}")
    assert [line for line in records.all_problems(results) if "no study has this cell" in line] == [
        f"{results / path}: no study has this cell. Remove the file, or add the cell to experiments/lab/definitions.py."
    ]


@pytest.mark.parametrize("text", ["", "[]", json.dumps({"config": {}, "student": {"accuracy": None}})])
def test_a_damaged_record_is_one_line(text, tmp_path):
    (tmp_path / "seed0.json").write_text(text)
    with pytest.raises(InputError, match="A record is damaged"):
        records.read(tmp_path / "seed0.json")


def lab(*arguments):
    command = [sys.executable, "-m", "experiments.lab", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.slow
def test_check_in_the_repository_passes_without_tensorflow():
    code = (
        "import runpy, sys; sys.argv = ['lab', 'tables', '--check']\n"
        "try:\n    runpy.run_module('experiments.lab', run_name='__main__')\n"
        "finally:\n    print('tensorflow' in sys.modules, 'matplotlib' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    assert "False False" in run.stdout


@pytest.mark.slow
def test_the_command_ends_with_1_on_an_edit_and_mends_it(written):
    page, results, _ = written
    right = page.read_text()
    page.write_text(re.sub(r"(KD from resnet44 \| )\d", r"\g<1>0", right))
    check = lab("tables", page, f"--results_dir={results}", "--check")
    assert check.returncode == 1 and "the table capacity_gap differs from the records" in check.stderr
    assert lab("tables", page, f"--results_dir={results}").returncode == 0 and page.read_text() == right


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["reproduce", "capacity_gp", "--dry_run"], "Received study=capacity_gp. Did you mean capacity_gap?"),
        (["reproduce"], "No such study. Expected one of capacity_gap"),
        pytest.param(["figures", "sphre"], "Received figure=sphre. Did you mean sphere?", marks=pytest.mark.slow),
        (["tabels"], "Expected python -m experiments.lab reproduce|tables|figures"),
        (["reproduce", "precision", "--commit", "--results_dir=/tmp"], "cannot be committed"),
    ],
)
def test_a_wrong_command_is_one_line(arguments, words):
    run = lab(*arguments)
    assert run.returncode == 2 and run.stderr.count("\n") == 1 and words in run.stderr
