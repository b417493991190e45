"""Studies: their cells, what makes two cells the same training, the records, and the runs that experiments/lab/reproduce.py starts."""

import json
import pathlib
import re

import numpy as np
import pytest

from experiments.lab import definitions
from experiments.lab import records as study_records
from experiments.lab.tables import protocol, published
from skd_tf.errors import InputError
from tests.lab import study_cases
from tests.lab.study_cases import by_path
from tests.losses import numpy_reference

STUDIES = definitions.STUDIES


def test_cells_come_seed_by_seed_teachers_first(tmp_path):
    study = study_cases.small_study(
        tmp_path, teachers={"b": "b.flags"}, seeds_of={("skd", "b"): (0, 1, 2), ("none", definitions.NO_PAIR): (0,)}
    )
    paths = [cell.path for cell in definitions.cells(study)]
    assert paths == [
        "small/none/b/seed0",
        "small/none/none/seed0",
        "small/a/kd/seed0",
        "small/a/skd/seed0",
        "small/b/kd/seed0",
        "small/b/skd/seed0",
        "small/a/kd/seed1",
        "small/a/skd/seed1",
        "small/b/kd/seed1",
        "small/b/skd/seed1",
        "small/b/skd/seed2",
    ]
    assert [cell.is_teacher for cell in definitions.cells(study)] == [True] + [False] * 10
    both = definitions.cells(
        study, study_cases.small_study(tmp_path, "second")
    )  # seed by seed over both, teachers before all
    assert [cell.seed for cell in both] == sorted(cell.seed for cell in both) and both[0].is_teacher
    assert set(both) == set(definitions.cells(study)) | set(
        definitions.cells(study_cases.small_study(tmp_path, "second"))
    )
    cell = definitions.cells(study)[2]
    assert cell.arguments == [f"--flagfile={tmp_path / name}.flags" for name in ("base", "a", "kd")] + ["--seed=0"]


def test_the_first_study_has_five_seeds_at_its_ends():
    cells = definitions.cells(STUDIES["capacity_gap"])
    seeds = {
        (row, pair): sorted(c.seed for c in cells if (c.row, c.pair) == (row, pair))
        for row, pair in {(c.row, c.pair) for c in cells}
    }
    three, five = [0, 1, 2], [0, 1, 2, 3, 4]
    assert seeds == {("none", "none"): five} | {
        (row, f"resnet{depth}"): five if depth in (20, 56) else three
        for row in ("kd", "skd")
        for depth in (20, 32, 44, 56)
    }
    assert {name: len(definitions.cells(study)) for name, study in STUDIES.items()} == {
        "capacity_gap": 37,
        "rates": 21,
        "precision": 9,
        "precision_long": 6,
        "temperature": 33,
        "radius": 15,
        "sphere": 30,
        "calibration": 0,
        "cifar100": 27,
        "cifar100_rates": 27,
        "cifar100_temperature": 16,
        "cifar100_full": 186,
        "imagenet": 12,
        "pilot_schedule": 13,
    }


def changed(cell, other):
    """Names of the settings in which two cells differ."""
    one, two = (study_records.settings(definitions.config_of(c)) for c in (cell, other))
    return {name for name in one if one[name] != two[name]}


FULL = ("cifar100_full", "imagenet")
FROZEN_IN = {"rates": "capacity_gap", "cifar100_rates": "cifar100"}


def test_every_row_is_one_change():
    cells = by_path(*set(STUDIES) - set(FULL))
    default = cells["sphere/resnet56/skd/seed0"]
    one_change = {
        "label_on_raw": {"loss", "temperature", "kd_weight", "label_weight"},
        "not_centered": {"center"},
        "teacher_mean": {"radius"},
        "teacher_sample": {"radius"},
        "radius_1": {"radius"},
        "radius_3": {"radius"},
        "radius_4": {"radius"},
        "stepwise_weight": {"kd_weight"},
        "no_distillation": {"kd_weight"},
    }
    rows = set(STUDIES["sphere"].rows) - {"skd"}
    assert {row: changed(cells[f"sphere/resnet56/{row}/seed0"], default) for row in rows} == one_change
    for method, t in ((m, t) for m in ("kd", "skd", "skd_teacher_mean") for t in (1, 2, 8, 16)):
        at_4, cell = (cells[f"temperature/resnet56/{method}_t{number}/seed0"] for number in (4, t))
        assert changed(at_4, cell) == {"temperature"} and definitions.config_of(cell).temperature == t
    for times in (1, 3, 4):
        radius = definitions.config_of(cells[f"sphere/resnet56/radius_{times}/seed0"]).radius
        assert radius == pytest.approx(times * 10**0.5, rel=1e-12)
    both, rate = {"kd_weight", "label_weight"}, {"learning_rate"}
    changes = {
        "t4": {"radius"},
        "t4_not_centered": {"center"},
        "t4_no_label": {"label_weight"},
        "t4_scaled": both,
        "t4_rate_0.1": rate,
        "t4_rate_0.05": rate,
        "no_teacher": {"kd_weight"},
        "no_teacher_large": {"radius"},
        "t1": {"temperature"},
        "t1_scaled": both,
        "t1_rate_0.1": rate,
        "t1_rate_0.05": rate,
        "label_on_large": {"radius", "temperature", *both},
        "t4_label_on_default": {"radius", "temperature", *both},
    }
    for row, names in changes.items():
        first = STUDIES["radius"].against.get(row, "t4" if row == "t1" else "default")
        assert changed(cells[f"radius/resnet56/{row}/seed0"], cells[f"radius/resnet56/{first}/seed0"]) == names
    for name, frozen_in in FROZEN_IN.items():  # beside the frozen row: another rate, and once another weight
        for pair, row in protocol.tried_rates({}, name):
            other = {
                "kd_half": {"kd_weight"},
                "skd_half": {"kd_weight"},
                "skd_teacher_mean": {"radius"},
                "no_distillation": {"kd_weight"},
            }.get(row, set())
            plain = row.replace("no_distillation", "skd").split("_")[0] if other else row
            first = cells[f"{frozen_in}/{pair}/{plain}/seed0"]
            for rate in definitions.RATES:
                cell = cells[f"{name}/{pair}/{row}_{rate:g}/seed0"]
                assert changed(cell, first) - {"learning_rate"} == other
                assert definitions.config_of(cell).learning_rate == rate
    for temperatures in definitions.EQUAL_HARDNESS:
        for method, t in zip(("kd", "skd"), temperatures, strict=True):
            for rate in definitions.HARDNESS_RATES:
                cell = cells[f"cifar100_temperature/cifar100_resnet56/{method}_t{t}_{rate:g}/seed0"]
                config = definitions.config_of(cell)
                assert (config.temperature, config.learning_rate) == (t, rate)
                assert changed(cell, cells[f"cifar100/cifar100_resnet56/{method}/seed0"]) <= {
                    "temperature",
                    "learning_rate",
                }
    for path, cell in cells.items():  # the schedule is one for all, of students and of their teacher
        first = cells[
            "cifar100/none/none/seed0" if cell.study.startswith("cifar100") else "capacity_gap/none/none/seed0"
        ]
        free = {
            "loss",
            "loss_settings",
            "temperature",
            "kd_weight",
            "label_weight",
            "radius",
            "center",
            "seed",
            "teacher_checkpoint",
            "learning_rate",
        }
        if cell.study == "pilot_schedule":
            free |= {"warmup_epochs", "lr_schedule", "validation_fraction"}
            config = definitions.config_of(cell)
            assert (config.learning_rate, config.warmup_epochs) == (0.1, 0.6 if cell.row.endswith("_warm") else 0)
            assert config.lr_schedule == ("linear" if "_linear" in cell.row else "cosine")
            assert config.validation_fraction == (0 if "_all" in cell.row else 0.1)
        if cell.study in ("precision", "precision_long"):
            first = cells[f"{cell.study}/resnet20/bfloat16_cached/seed0"]
            free = {"seed", "precision", "teacher_precision", "teacher_cache_dir"}
        assert changed(first, cell) - free == ({"student", "epochs"} if cell.is_teacher else set()), path


@pytest.mark.parametrize("name", FULL)
def test_methods_of_a_full_protocol_share_its_schedule(name):
    study, cells = STUDIES[name], by_path(name)
    free = {
        "loss",
        "loss_settings",
        "temperature",
        "kd_weight",
        "label_weight",
        "teacher",
        "teacher_checkpoint",
        "seed",
        "teacher_flagfile",
    }
    for pair in study.pairs:
        configs = {row: definitions.config_of(cells[f"{name}/{pair}/{row}/seed0"]) for row in study.rows}
        for row in study.rows:
            assert changed(cells[f"{name}/{pair}/{row}/seed0"], cells[f"{name}/{pair}/skd/seed0"]) <= free
            assert configs[row].needs_teacher == (row != "none") and configs[row].student == configs["none"].student
        assert pair.endswith(configs["skd"].student) and configs["skd"].loss == "spherical"
        teacher = pathlib.PurePath(configs["skd"].teacher_checkpoint)  # given, so that no cell trains one of its own
        assert pair == f"{teacher.stem.removeprefix(f'{name}_')}_{configs['skd'].student}"
        assert teacher.suffix == ".keras" or teacher.name in study.teachers
    for teacher in study.teachers:
        assert definitions.config_of(cells[f"{name}/none/{teacher}/seed0"]).student == teacher.removeprefix(f"{name}_")


def test_betas_of_dkd_are_its_authors():
    betas = {
        pair: definitions.config_of(by_path("cifar100_full")[f"cifar100_full/{pair}/dkd/seed0"]).loss_settings
        for pair in STUDIES["cifar100_full"].pairs
    }
    text = (definitions.ROOT / "experiments/cifar100/methods/dkd.flags").read_text()
    assert "6 for vgg13 -> vgg8 and wrn_40_2 -> wrn_16_2 or wrn_40_1" in text
    for pair, settings in betas.items():
        beta = 6 if pair in ("vgg13_vgg8", "wrn_40_2_wrn_16_2", "wrn_40_2_wrn_40_1") else 8
        assert settings == f"alpha=1, beta={2 if pair in ('resnet56_resnet20', 'resnet110_resnet32') else beta}"


def test_published_numbers_are_the_recipes():
    names = {
        "alone": "none",
        "KD": "kd",
        "Logit Standardization": "logit_standardization",
        "DKD": "dkd",
        "DIST": "dist",
    }
    for pair, numbers in published.CIFAR100.items():
        text = (definitions.ROOT / f"experiments/cifar100/{pair}.flags").read_text()
        found = dict(re.findall(r"(?:: |, )([A-Z][A-Za-z ]*|alone) (\d\d\.\d+)", text))
        assert {names[name]: float(number) for name, number in found.items() if name != "CRD"} == numbers, pair
    for pair, numbers in published.IMAGENET.items():
        text = (definitions.ROOT / f"experiments/imagenet/{pair}.flags").read_text()
        expected = re.search(r"# Expected top-1: (.*)", text)[1]
        for row, number in numbers.items():
            name = {"none": "alone", "kd": "KD"}.get(row, "")
            assert f"{name} {number:g}".strip() in expected or (pair, row) == ("resnet34_resnet18", "kd"), (pair, row)


def test_rates_and_weights_are_what_the_searches_found_best():
    cells, records = (
        by_path(*FROZEN_IN, *FROZEN_IN.values()),
        study_records.read_all(definitions.ROOT / definitions.RESULTS),
    )
    for name, frozen_in in FROZEN_IN.items():
        for (pair, row), accuracies in protocol.tried_rates(records, name).items():
            frozen_cell = cells.get(f"{frozen_in}/{pair}/{row}/seed0")
            if None in accuracies.values():  # a rate is frozen before the first record
                assert frozen_cell not in records
            elif frozen_cell:
                assert definitions.config_of(frozen_cell).learning_rate == protocol.best_rate(accuracies), row
    for method in protocol.SEARCHED:  # over 4 epochs: what the searches' tables show
        trials = protocol.searched(method)
        assert {rate for _, rate in trials} == {0.05, 0.1, 0.2} and len(trials) in (3, 6)
        if method in ("kd", "skd", "skd_teacher_mean"):
            config = definitions.config_of(cells["capacity_gap/resnet56/skd/seed0"])
            assert max(trials, key=trials.get)[0] == 0.9 == config.kd_weight


def test_the_best_rate_is_the_lowest_within_a_standard_error():
    assert protocol.best_rate({0.1: 0.8266, 0.2: 0.8372, 0.4: 0.8374}) == 0.2  # the error is 0.0052
    assert protocol.best_rate({0.1: 0.8323, 0.2: 0.8372, 0.4: 0.8374}) == 0.1
    assert protocol.best_rate({0.1: 0.8, 0.2: 0.81, 0.4: 0.82}) == 0.4


def test_the_label_on_raw_logits_leaves_the_distill_term_as_it_is():
    cells = by_path("sphere")
    raw, default = (definitions.config_of(cells[f"sphere/resnet56/{row}/seed0"]) for row in ("label_on_raw", "skd"))
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 10)) * 4
    labels = np.arange(5)
    mine = numpy_reference.logit_standardization(student, teacher, labels, raw.temperature)
    theirs = numpy_reference.spherical_kd(student, teacher, labels, default.temperature, 2 * 10**0.5)
    np.testing.assert_allclose(raw.kd_weight * mine["distill"], default.kd_weight * theirs["distill"], rtol=1e-5)
    assert raw.label_weight == pytest.approx(1 - default.kd_weight)
    np.testing.assert_allclose(mine["label"], numpy_reference.label_terms(student, labels))


def test_the_label_on_another_sphere_leaves_the_distill_term_as_it_is():
    cells, default, measured = by_path("radius"), 2 * 10**0.5, 21.971  # of the resnet56, which its record repeats
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 10)) * 4
    for row, first, spheres in (
        ("t4_label_on_default", "t4", (default, measured)),
        ("label_on_large", "default", (measured, default)),
    ):
        mixed, pure = (definitions.config_of(cells[f"radius/resnet56/{name}/seed0"]) for name in (row, first))
        mine, theirs = (
            numpy_reference.spherical_kd(student, teacher, np.arange(5), config.temperature, radius)
            for config, radius in zip((mixed, pure), spheres, strict=True)
        )
        radii = {default: "auto", measured: "teacher_mean"}
        assert (mixed.radius, pure.radius) == (radii[spheres[0]], radii[spheres[1]])
        np.testing.assert_allclose(mixed.kd_weight * mine["distill"], pure.kd_weight * theirs["distill"], rtol=1e-4)
        assert mixed.label_weight == pytest.approx(1 - pure.kd_weight)
    for row in ("t4", "t1"):
        scaled, first = (
            definitions.config_of(cells[f"radius/resnet56/{name}/seed0"]) for name in (f"{row}_scaled", row)
        )
        assert scaled.kd_weight / first.kd_weight == pytest.approx(default / measured, rel=1e-4)
        assert scaled.label_weight / (1 - first.kd_weight) == pytest.approx(default / measured, rel=1e-4)
    records = [
        r
        for c, r in study_records.read_all(definitions.ROOT / definitions.RESULTS).items()
        if c.study == "radius" and c.row[:2] in ("t4", "t1") and c.row != "t4_label_on_default"
    ]
    assert [record["radius"] for record in records] == pytest.approx([measured] * len(records), rel=3e-3)


def test_settings_know_a_teacher_by_name_and_leave_out_places():
    config = definitions.config_of(by_path("capacity_gap")["capacity_gap/resnet56/kd/seed0"])
    same = config.replace(teacher_checkpoint="/far/away/resnet56.keras", teacher_cache_dir="/cache", steps_per_call=2)
    assert study_records.settings(same) == study_records.settings(config)
    assert "/" not in json.dumps(study_records.settings(same))
    for other in ({"teacher_checkpoint": "resnet44.keras"}, {"seed": 1}, {"teacher_cache_dir": ""}, {"temperature": 5}):
        assert study_records.settings(config.replace(**other)) != study_records.settings(config)
    recorded = study_records.settings(config)
    assert study_records.differences(recorded | {"kd_weight": 0.5}, recorded) == ["--kd_weight: 0.5 -> 0.9"]
    younger = {name: value for name, value in recorded.items() if name != "ema_momentum"}
    assert study_records.differences(younger, recorded) == []  # it had the default before it was a setting
    assert study_records.differences(recorded | {"gone": 1}, recorded) == ["--gone: 1 -> no such setting"]


def test_the_same_training_of_another_study_is_not_run_again(tmp_path):
    cells = by_path(*STUDIES)
    pairs = {  # what the second and third study have in common with the first, and with each other
        "temperature/resnet56/kd_t4/seed0": "capacity_gap/resnet56/kd/seed0",
        "temperature/resnet56/skd_t4/seed0": "capacity_gap/resnet56/skd/seed0",
        "sphere/resnet56/skd/seed2": "capacity_gap/resnet56/skd/seed2",
        "radius/resnet56/t4/seed0": "sphere/resnet56/teacher_mean/seed0",
        "radius/resnet56/default/seed0": "capacity_gap/resnet56/skd/seed0",
    }
    for path, other in pairs.items():
        others = {cell: study_cases.record(cell, 0.8) for p, cell in cells.items() if p.startswith(other.split("/")[0])}
        assert study_records.same_cell(cells[path], others).path == other
    others = {cell: study_cases.record(cell, 0.8) for p, cell in cells.items() if not p.startswith("temperature")}
    assert study_records.same_cell(cells["temperature/resnet56/skd_t8/seed0"], others) is None
    cell, other = cells["temperature/resnet56/kd_t4/seed0"], cells["capacity_gap/resnet56/kd/seed0"]
    study_records.take_over(cell, other, study_cases.record(other, 0.81), tmp_path)
    copy = study_records.read_all(tmp_path)[cell]
    assert (copy["student"]["accuracy"], copy["same_training_as"]) == (0.81, other.path)
    assert copy["flagfiles"] == list(cell.flagfiles) and study_records.problems(cell, copy) == []


def test_a_record_holds_what_the_run_left_and_no_path(tmp_path):
    study = study_cases.small_study(tmp_path)
    cells = {cell.path: cell for cell in definitions.cells(study)}
    cell = cells["small/a/skd/seed1"]
    for name, text in study_cases.workdir_files(cell, 0.81).items():
        (tmp_path / name).write_text(text)
    study_records.from_workdir(cell, tmp_path, tmp_path / "results")
    record = study_records.read(tmp_path / "results/small/a/skd/seed1.json")
    assert record["student"]["accuracy"] == 0.81 and "val_accuracy" not in record["student"]
    assert record["teacher"] | {"name": "net", "fingerprint": "f00", "accuracy": 0.9} == record["teacher"]
    assert (record["config"]["teacher_checkpoint"], record["config"]["seed"]) == ("a", 1)
    assert record["best_epoch"] == {"epoch": 2, "val_accuracy": 0.7}  # counted from 1, the first of equals
    assert record["by_epoch"]["val_accuracy"] == [0.5, 0.7, 0.7, 0.6]
    assert record["reliability"]["raw_softmax"] == {"count": [3], "confidence": [0.5], "accuracy": [0.4]}
    assert "/somewhere" not in json.dumps(record) and study_records.problems(cell, record) == []
    with pytest.raises(InputError, match=r"other settings.*--seed: 1 -> 0"):
        study_records.from_workdir(cells["small/a/skd/seed0"], tmp_path, tmp_path)
    (tmp_path / "result.json").unlink()
    with pytest.raises(InputError, match="left no result"):
        study_records.from_workdir(cell, tmp_path, tmp_path)
