"""The studies' tables: every number its cells', what --check refuses, what stands without records."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from experiments.lab import definitions, formatting, statistics, write_tables
from experiments.lab.records import read
from experiments.lab.tables import cifar10, cifar100
from skd_tf.errors import InputError
from tests.lab import study_cases
from tests.lab.study_cases import accuracies, made_records

ROOT = pathlib.Path(__file__).resolve().parents[2]
STUDIES = definitions.STUDIES


def rows_of(markdown):
    """{first column: the others} of all tables in a text."""
    lines = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in lines}


def test_the_slopes_of_the_first_study_are_per_doubling():
    records = made_records("capacity_gap", share=0.8)
    points = {row: [] for row in ("kd", "skd")}
    for cell, made in records.items():
        if cell.row in points:
            points[cell.row].append((np.log2(study_cases.PARAMETERS[cell.pair]), made["student"]["accuracy"]))
    found = statistics.teacher_slopes(STUDIES["capacity_gap"], ("kd", "skd"), records)
    for row, pairs in points.items():
        assert found[row][0] == pytest.approx(np.polyfit(*zip(*pairs, strict=True), 1)[0])
    both = [
        (np.log2(study_cases.PARAMETERS[pair]), accuracies(records, pair, "skd")[seed] - accuracy)
        for pair in STUDIES["capacity_gap"].pairs
        for seed, accuracy in accuracies(records, pair, "kd").items()
        if seed in accuracies(records, pair, "skd")
    ]
    assert found["skd - kd"][0] == pytest.approx(np.polyfit(*zip(*both, strict=True), 1)[0])
    rows = rows_of(cifar10.capacity_gap(records).split("slope over")[1])
    assert rows["KD"][1] == "{:+.4f} ({:+.4f} to {:+.4f})".format(*found["kd"])
    assert rows["SKD - KD"][1].startswith(f"{found['skd - kd'][0]:+.4f} (")
    pairs = list(STUDIES["capacity_gap"].pairs)
    sizes = [np.log2(study_cases.PARAMETERS[pair]) for pair in pairs]
    means = [np.mean(list(accuracies(records, pair, "kd").values())) for pair in pairs]
    of_means = scipy.stats.linregress(sizes, means)  # four points
    half = scipy.stats.t.ppf(0.975, 2) * of_means.stderr
    assert rows["KD"][0] == f"{of_means.slope:+.4f} ({of_means.slope - half:+.4f} to {of_means.slope + half:+.4f})"
    larger = [(size, y) for size, y in points["kd"] if size > sizes[0]]
    assert rows["KD"][2].startswith(f"{np.polyfit(*zip(*larger, strict=True), 1)[0]:+.4f} (")


def test_the_ends_of_the_first_study_are_paired():
    records = made_records("capacity_gap")
    found = {
        row: np.subtract(*(list(accuracies(records, pair, row).values()) for pair in ("resnet56", "resnet20")))
        for row in ("kd", "skd")
    }
    texts = [formatting.interval_text(list(values)) for values in (*found.values(), found["skd"] - found["kd"])]
    expected = "From resnet20 to resnet56, with a 95% interval: KD {}, SKD {}, SKD - KD {}.".format(*texts)
    assert expected in cifar10.capacity_gap(records)


def test_equal_hardness_on_cifar10_pairs_four_times_the_temperature():
    records = made_records("temperature")
    kd, skd = (accuracies(records, "resnet56", row) for row in ("kd_t16", "skd_t4"))
    line = cifar10.hardness(records).splitlines()[4]
    assert line == (
        f"| 16 | {22 / 16:.1f} | {formatting.cell_text(kd, 3)} | 4 | {6.3246 / 4:.1f} | {formatting.cell_text(skd, 3)} | "
        f"{formatting.difference_text(skd, kd)} |"
    )


def test_the_page_in_front_has_the_studies_numbers():
    records = made_records("capacity_gap", "cifar100")
    rows = rows_of(cifar10.evidence(records))
    kd, skd = (
        accuracies({c: r for c, r in records.items() if c.study == "capacity_gap"}, "resnet44", row)
        for row in ("kd", "skd")
    )
    assert rows["resnet8, CIFAR-10, from resnet44, 12 epochs"][1:] == [
        formatting.cell_text(kd, 3),
        formatting.cell_text(skd, 3),
        "-",
        formatting.interval_text(statistics.paired(skd, kd)),
    ]


def test_equal_hardness_is_compared_at_own_rates():
    path = "cifar100_temperature/cifar100_resnet56/{}/seed0"
    cells, names = study_cases.by_path("cifar100_temperature"), ("kd_t8_0.2", "kd_t8_0.4", "skd_t4_0.2", "skd_t4_0.4")
    tested, records = (0.51, 0.52, 0.53, 0.55), {}
    held_out = dict(zip(names, (0.515, 0.52, 0.53, 0.55), strict=True))  # standard error 0.007: KD's two rates tie
    for name, accuracy in zip(names, tested, strict=True):
        cell = cells[path.format(name)]
        records[cell] = study_cases.record(cell, accuracy, by_epoch={"val_accuracy": [0.9, held_out[name]]})
    line = next(line for line in cifar100.cifar100_temperature(records).splitlines() if line.startswith("| 8 |"))
    assert line == (
        f"| 8 | {22 / 8:.1f} | **0.5100 (1)** | 0.5200 (1) | 4 | {6.3246 / 4:.1f} | 0.5300 (1) | **0.5500 (1)** | "
        "+0.0200 (1) | +0.0300 (1) | +0.0400 (1) |"
    )


def test_every_number_of_a_table_is_its_cells():
    records = made_records("capacity_gap", "temperature", "sphere", share=0.7)
    records = {cell: made for cell, made in records.items() if cell.row != "kd_t8"}
    rows = rows_of(cifar10.capacity_gap(records))
    for pair in ("resnet20", "resnet32", "resnet44", "resnet56"):
        wanted = 5 if pair in ("resnet20", "resnet56") else 3
        mine = {cell: r for cell, r in records.items() if cell.study == "capacity_gap"}
        texts = [cifar10.cell_text(accuracies(mine, pair, row), wanted) for row in ("kd", "skd")]
        alone = accuracies(mine, "none", "none")
        texts += [cifar10.difference_text(accuracies(mine, pair, row), alone) for row in ("kd", "skd")]
        texts.append(cifar10.difference_text(*(accuracies(mine, pair, row) for row in ("skd", "kd"))))
        assert rows[pair] == [f"{study_cases.PARAMETERS[pair]:,}", "0.9000", "22.0", *texts]
    rows = rows_of(cifar10.temperature(records))
    found = {t: accuracies(records, "resnet56", f"kd_t{t}") for t in (1, 2, 4, 8, 16)}
    wanted = {1: 3, 2: 1, 4: 3, 8: 1, 16: 3}
    assert rows["KD"][1:6] == [cifar10.cell_text(values, wanted[t]) for t, values in found.items()]
    there = [np.mean(list(values.values())) for values in found.values() if values]
    assert 2 < len(there) < 5  # so that the table has to say so
    assert rows["KD"][6] == f"{max(there) - min(there):.4f} ({len(there)} of 5 T)"
    full, ranges = made_records("temperature", share=0.9), {}
    for method in ("kd", "skd"):  # of the seeds that all three temperatures have
        columns = [accuracies(full, "resnet56", f"{method}_t{t}") for t in (1, 4, 16)]
        common = set.intersection(*map(set, columns))
        ranges[method] = {seed: np.ptp([column[seed] for column in columns]) for seed in common}
    rows = rows_of(cifar10.temperature(full))
    assert rows["KD"][7] == formatting.mean_and_error_text(ranges["kd"].values())
    assert rows["SKD"][8] == cifar10.difference_text(ranges["skd"], ranges["kd"]) != "-"
    sphere = {cell: r for cell, r in records.items() if cell.study == "sphere"}
    rows = rows_of(cifar10.sphere(sphere))
    assert rows["not centred"][1] == cifar10.cell_text(accuracies(sphere, "resnet56", "not_centered"), 3)
    assert rows["not centred"][2] == cifar10.difference_text(
        accuracies(sphere, "resnet56", "not_centered"), accuracies(sphere, "resnet56", "skd")
    )


def test_calibration_stands_beside_the_raw_softmax():
    cell = next(c for c in definitions.cells(STUDIES["capacity_gap"]) if c.path == "capacity_gap/resnet44/skd/seed0")
    made = study_cases.record(cell, 0.8)
    made["student"] |= {"confidence": 0.65, "ece": 0.15, "nll": 0.7}
    made["raw_softmax"] = {"accuracy": 0.8, "confidence": 0.35, "ece": 0.45, "nll": 1.1}
    line = "| SKD | resnet44 | 6.325 | 1 | 0.8000 | -0.1500 | 0.1500 | 0.7000 | -0.4500 | 0.4500 | 1.1000 |"
    assert f"{line} 1 | 1.500 | 0.0100 | 0.5000 |" in cifar10.calibration({cell: made})
    assert "1.1000 | 0 | - | - | - |" in cifar10.calibration({cell: made | {"calibrated": None}})
    alone = definitions.cells(STUDIES["capacity_gap"])[0]
    text = cifar10.calibration({alone: study_cases.record(alone, 0.8)})
    assert "| student alone | - | - | 1 | 0.8000 | -0.1600 | 0.1600 | 0.6000 | - | - | - | 1 | 1.500 |" in text
    students = cifar10.calibrated_students()
    assert len(students) == 9 + 13 + 8 and len({(study.name, row, pair) for study, pair, row in students}) == len(
        students
    )


@pytest.mark.parametrize("name", cifar10.TABLES)
def test_a_table_without_records_says_so(name):
    text = cifar10.TABLES[name]({})
    others = "cells", "calibration", "frozen", "gpu_students", "gpu_students_seeds"
    assert "nan" not in text.lower() and ("not run" in text or name in others)


def test_weights_of_the_last_study_are_its_flagfiles():
    rows = rows_of(cifar100.cifar100({}))
    assert [rows[name][0] for name in ("KD", "Logit Standardization", "Logit Standardization, authors' weights")] == [
        "0.1, 0.9",
        "0.1, 0.9",
        "0.1, 9",
    ]
    assert rows["DKD, authors' weights"][0] == "1, linear 0 to 1 over 1 epochs"
    assert rows["DIST, authors' weights"][0] == "1, 2"


PAGE = "# Page\n<!-- table: capacity_gap -->\n<!-- end -->\ntext\n<!-- table: cells -->\n<!-- end -->\n"


@pytest.fixture
def written(tmp_path):
    """(page's path, results folder, records): all as it should be."""
    records = made_records("capacity_gap", "temperature", share=0.5)
    study_cases.write(records, tmp_path / "results")
    page = tmp_path / "page.md"
    page.write_text(write_tables.filled(PAGE, records, page))
    return page, tmp_path / "results", records


def test_a_page_is_filled_once_and_for_all(written):
    page, results, records = written
    text = page.read_text()
    assert "| teacher | parameters |" in text and "\ntext\n" in text
    assert write_tables.filled(text, records, page) == text
    assert write_tables.page_problems(text, page, records) == [] and write_tables.record_problems(results) == []
    edited = text.replace("resnet32 | 464,154", "resnet32 | 464,155")
    assert edited != text
    assert [line.split(": ", 1)[1] for line in write_tables.page_problems(edited, page, records)] == [
        "the table capacity_gap is not what the records give. Run python -m experiments.lab tables."
    ]
    for broken, word in (("<!-- table: kd -->\n<!-- end -->", "no such table"), ("<!-- table: cells -->\n", "no end")):
        with pytest.raises(InputError, match=word):
            write_tables.filled(broken, records, page)
    with pytest.raises(InputError, match="no end"):
        write_tables.filled("<!-- table: cells -->\n<!-- table: sphere -->\n<!-- end -->", records, page)


def first(records, row):
    return next(cell for cell in records if cell.row == row and "same_training_as" not in records[cell])


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
        (
            lambda made: made.update(same_training_as="capacity_gap/x/seed9"),
            "it is not what capacity_gap/x/seed9 holds",
        ),
        (lambda made: made.pop("student"), "damaged"),
    ],
)
def test_check_refuses_a_record_that_is_not_what_it_says(written, edit, words):
    _, results, records = written
    edit(records[first(records, "kd")])
    study_cases.write(records, results)
    problems = write_tables.record_problems(results)
    assert problems and any(words in line for line in problems)


@pytest.mark.parametrize(
    "path", ["capacity_gap/resnet56/kd/seed9.json", "capacity_gap/notes.txt", "elsewhere/seed0.json"]
)
def test_check_refuses_a_record_that_no_study_has(written, path):
    _, results, _ = written
    (results / path).parent.mkdir(parents=True, exist_ok=True)
    (results / path).write_text("{}")
    assert [line for line in write_tables.record_problems(results) if "no study has this cell" in line] == [
        f"{results / path}: no study has this cell. Remove it, or name it in experiments/lab/definitions.py."
    ]


def test_check_in_the_repository_passes_without_tensorflow():
    code = (
        "import runpy, sys; sys.argv = ['experiments/lab/write_tables.py', '--check']\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n    print('tensorflow' in sys.modules, 'matplotlib' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    assert "False False" in run.stdout


def test_the_command_ends_with_1_on_an_edit_and_mends_it(written):
    page, results, _ = written
    command = [sys.executable, str(ROOT / "experiments/lab/write_tables.py"), str(page), f"--results_dir={results}"]
    right = page.read_text()
    page.write_text(right.replace("resnet44 | 658,586", "resnet44 | 1"))
    check = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert check.returncode == 1 and "the table capacity_gap is not what the records give" in check.stderr
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0 and page.read_text() == right


def test_a_record_of_another_form_is_one_line(tmp_path):
    for text in ("", "[]", json.dumps({"config": {}, "student": {"accuracy": None}})):
        (tmp_path / "seed0.json").write_text(text)
        with pytest.raises(InputError, match="A record is damaged"):
            read(tmp_path / "seed0.json")
