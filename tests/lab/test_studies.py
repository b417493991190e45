"""Studies: their cells, which cells are the same training, what each row changes, and the records."""

import csv
import json
import pathlib

import numpy as np
import pytest

from experiments.lab import definitions
from experiments.lab import records as study_records
from experiments.lab.summaries import HELD_OUT, runs_of
from experiments.lab.tables import SPECS
from skd_tf.errors import InputError
from skd_tf.runs import predictions, verdict
from tests.lab import study_cases
from tests.losses import numpy_reference

STUDIES, CELLS = definitions.STUDIES, study_cases.by_path()
CONFIGS = {path: definitions.config_of(cell) for path, cell in CELLS.items()}
FULL = ("cifar100_full", "imagenet")


@pytest.fixture(scope="module")
def recorded():
    return study_records.read_all(definitions.ROOT / definitions.RESULTS)


def test_cells_come_seed_by_seed_teachers_first(tmp_path):
    seeds_of = {("skd", "b"): (0, 1, 2), ("none", definitions.NO_PAIR): (0,)}
    study = study_cases.small_study(tmp_path, teachers={"b": "b.flags"}, seeds_of=seeds_of)
    cells = definitions.cells(study)
    assert [cell.path.removeprefix("small/") for cell in cells] == [
        *("none/b/seed0", "none/none/seed0", "a/kd/seed0", "a/skd/seed0", "b/kd/seed0", "b/skd/seed0"),
        *("a/kd/seed1", "a/skd/seed1", "b/kd/seed1", "b/skd/seed1", "b/skd/seed2"),
    ]
    assert [cell.is_teacher for cell in cells] == [True] + [False] * 10
    second = study_cases.small_study(tmp_path, "second")
    both = definitions.cells(study, second)
    assert [cell.seed for cell in both] == sorted(cell.seed for cell in both) and both[0].is_teacher
    assert set(both) == {*cells, *definitions.cells(second)}
    assert cells[2].arguments == [f"--flagfile={tmp_path / name}.flags" for name in ("base", "a", "kd")] + ["--seed=0"]


def test_every_study_has_its_cells():
    counts = {name: len(definitions.cells(study)) for name, study in STUDIES.items()}
    assert counts == {
        "capacity_gap": 37,
        "rates": 21,
        "precision": 9,
        "precision_long": 6,
        "temperature": 33,
        "radius": 15,
        "sphere": 30,
        "pilot_schedule": 13,
        "cifar100_rates": 27,
        "cifar100": 27,
        "cifar100_temperature": 16,
        "top_logits": 30,
        "training": 32,
        "adamw": 15,
        "budget": 22,
        "anchor": 2,
        "cifar100_full": 186,
        "imagenet": 12,
    }
    for pair in ("none/none", "resnet20/kd", "resnet32/kd", "resnet44/skd", "resnet56/skd"):
        seeds = [path for path in CELLS if path.startswith(f"capacity_gap/{pair}/")]
        assert len(seeds) == (3 if "32" in pair or "44" in pair else 5)
    for spec in SPECS.values():  # every key of a table is an entry of a study, or was trained in another way
        keys = (
            spec.entries.values()
            if hasattr(spec, "entries")
            else [k for row in spec.cells.values() for k in row.values()]
        )
        assert all(f"{key}/seed0" in CELLS or key.startswith(("gpu_students", "head_to_head")) for key in keys)


def changed(path, other):
    """Names of the settings in which two cells differ."""
    one, two = (study_records.settings(CONFIGS[p]) for p in (path, other))
    return {name for name in one if one[name] != two[name]}


_BOTH, _RATE = {"kd_weight", "label_weight"}, {"learning_rate"}
ONE_CHANGE = {  # {(study/pair, first row): {row: what differs}}
    ("sphere/resnet56", "skd"): {
        "label_on_raw": {"loss", "temperature", *_BOTH},
        "not_centered": {"center"},
        **{row: {"radius"} for row in ("teacher_mean", "teacher_sample", "radius_1", "radius_3", "radius_4")},
        **{row: {"kd_weight"} for row in ("stepwise_weight", "no_distillation")},
    },
    ("radius/resnet56", "default"): {
        "label_on_large": {"radius", "temperature", *_BOTH},
        "t4": {"radius"},
        "no_teacher": {"kd_weight"},
    },
    ("radius/resnet56", "no_teacher"): {"no_teacher_large": {"radius"}},
    ("radius/resnet56", "t4"): {
        "t4_not_centered": {"center"},
        "t4_label_on_default": {"radius", "temperature", *_BOTH},
        "t4_no_label": {"label_weight"},
        "t4_scaled": _BOTH,
        **dict.fromkeys(("t4_rate_0.1", "t4_rate_0.05"), _RATE),
        "t1": {"temperature"},
    },
    ("radius/resnet56", "t1"): {"t1_scaled": _BOTH, **dict.fromkeys(("t1_rate_0.1", "t1_rate_0.05"), _RATE)},
    **{
        ("top_logits/cifar100_resnet56", m): {f"{m}_top{k}": {"teacher_cache_top"} for k in (4, 8, 16, 32)}
        for m in ("kd", "skd")
    },
    **{
        ("temperature/resnet56", f"{m}_t4"): {f"{m}_t{t}": {"temperature"} for t in (1, 2, 8, 16)}
        for m in ("kd", "skd", "skd_teacher_mean")
    },
}


@pytest.mark.parametrize("where", ONE_CHANGE, ids="/".join)
def test_every_row_is_one_change(where):
    folder, first = where
    for row, names in ONE_CHANGE[where].items():
        assert changed(f"{folder}/{row}/seed0", f"{folder}/{first}/seed0") == names
    spec = SPECS[folder.split("/")[0]]
    by_row = {key.rpartition("/")[2]: label for label, key in spec.entries.items()}
    if "radius" in folder:  # the table subtracts the row that is changed, except from T = 4 to T = 1
        assert all(spec.against.get(by_row[row], by_row[first]) == by_row[first] for row in ONE_CHANGE[where])


def test_temperatures_radii_and_rates_are_what_their_names_say():
    for path, config in CONFIGS.items():
        study, _, row, _ = path.split("/")
        if study == "temperature":
            assert config.temperature == int(row.rpartition("_t")[2]) and config.learning_rate == 0.2
        if study == "cifar100_temperature":
            method, t, rate = row.split("_")
            assert (config.temperature, config.learning_rate) == (int(t[1:]), float(rate))
            frozen = path.replace(study, "cifar100", 1).replace(row, method)
            assert changed(path, frozen) <= {"temperature", "learning_rate"}
        if study == "top_logits" and "_top" in row:
            assert config.teacher_cache_top == int(row.rpartition("_top")[2])
        if row.startswith("radius_"):
            assert config.radius == pytest.approx(int(row[-1]) * 10**0.5, rel=1e-12)


FROZEN_IN = {"rates": "capacity_gap", "cifar100_rates": "cifar100"}
_OTHER = {"kd_half": {"kd_weight"}, "skd_half": {"kd_weight"}}
_OTHER |= {"skd_teacher_mean": {"radius"}, "no_distillation": {"kd_weight"}}


@pytest.mark.parametrize("name", FROZEN_IN)
def test_rates_are_one_grid_and_the_frozen_rate_follows_from_it(name, recorded):
    """The lowest rate whose held-out accuracy is within a standard error, sqrt(p (1 - p) / 5000), of the best."""
    spec, runs = SPECS[name], runs_of(recorded)
    for label, keys in spec.cells.items():
        row = keys["rate 0.1"].rpartition("/")[2].removesuffix("_0.1")
        plain = row.replace("no_distillation", "skd").split("_")[0] if row in _OTHER else row
        frozen = keys["rate 0.1"].replace(name, FROZEN_IN[name], 1).replace(f"{row}_0.1", plain) + "/seed0"
        for rate in definitions.RATES:
            path = f"{keys[f'rate {rate:g}']}/seed0"
            assert changed(path, frozen) - _RATE == _OTHER.get(row, set()) and CONFIGS[path].learning_rate == rate
        if row not in _OTHER:
            found = {rate: spec.value(runs, HELD_OUT, label, f"rate {rate:g}") / 100 for rate in definitions.RATES}
            best = max(found.values())
            least = best - (best * (1 - best) / 5000) ** 0.5
            assert CONFIGS[frozen].learning_rate == min(rate for rate, value in found.items() if value >= least)


TRAINED_WITH = {"augmentation", "feature_pairs", "feature_weight", "teacher_cache_dir", "optimizer", "weight_decay"}


def test_the_schedule_is_one_for_all():
    free = {"loss", "loss_settings", "temperature", "radius", "center", "seed", "teacher_checkpoint", *_BOTH, *_RATE}
    for path, cell in CELLS.items():
        first, may = "cifar100/none/none/seed0" if "cifar100" in cell.study else "capacity_gap/none/none/seed0", free
        if cell.study in (*FULL, "anchor"):
            continue
        if cell.study == "pilot_schedule":
            may, config = free | {"warmup_epochs", "lr_schedule", "validation_fraction"}, CONFIGS[path]
            assert (config.learning_rate, config.warmup_epochs) == (0.1, 0.6 if cell.row.endswith("_warm") else 0)
            assert config.lr_schedule == ("linear" if "_linear" in cell.row else "cosine")
            assert config.validation_fraction == (0 if "_all" in cell.row else 0.1)
        if cell.study == "top_logits":
            first, may = f"top_logits/cifar100_resnet56/kd/seed{cell.seed}", free | {"teacher_cache_top"}
        if cell.study in ("training", "adamw", "budget"):
            own = {"epochs"} if cell.study == "budget" else TRAINED_WITH
            first, may = f"training/cifar100_resnet56/plain/seed{cell.seed}", free | own
        if cell.study.startswith("precision"):
            first = f"{cell.study}/resnet20/bfloat16_cached/seed0"
            may = {"seed", "precision", "teacher_precision", "teacher_cache_dir"}
        assert changed(first, path) <= may, path


@pytest.mark.parametrize("name", FULL)
def test_methods_of_a_full_protocol_share_its_schedule(name):
    study = STUDIES[name]
    free = {"loss", "loss_settings", "temperature", "teacher", "teacher_checkpoint", "seed", "teacher_flagfile", *_BOTH}
    for pair in study.pairs:
        skd = CONFIGS[f"{name}/{pair}/skd/seed0"]
        for row in study.rows:
            config = CONFIGS[f"{name}/{pair}/{row}/seed0"]
            assert changed(f"{name}/{pair}/{row}/seed0", f"{name}/{pair}/skd/seed0") <= free
            assert config.needs_teacher == (row != "none") and config.student == skd.student
        teacher = pathlib.PurePath(skd.teacher_checkpoint)  # given, so that no cell trains one of its own
        assert skd.loss == "spherical" and pair == f"{teacher.stem.removeprefix(f'{name}_')}_{skd.student}"
        assert teacher.suffix == ".keras" or teacher.name in study.teachers
    for teacher in study.teachers:
        assert CONFIGS[f"{name}/none/{teacher}/seed0"].student == teacher.removeprefix(f"{name}_")


def test_the_anchor_is_a_cell_of_the_full_protocol_with_a_teacher_that_exists():
    may = {"teacher", "teacher_checkpoint", "teacher_flagfile", "teacher_cache_dir", "precision", "teacher_precision"}
    may.add("calibrate")
    for row in ("kd", "skd"):
        path = f"anchor/resnet56_resnet20/{row}/seed0"
        assert changed(f"cifar100_full{path.removeprefix('anchor')}", path) <= may
        assert CONFIGS[path].teacher_checkpoint == CONFIGS["cifar100/cifar100_resnet56/kd/seed0"].teacher_checkpoint


def test_betas_of_dkd_are_its_authors():
    text = (definitions.ROOT / "skd_tf/recipes/cifar100/methods/dkd.flags").read_text()
    assert "6 for vgg13 -> vgg8 and wrn_40_2 -> wrn_16_2 or wrn_40_1" in text
    betas = dict.fromkeys(("vgg13_vgg8", "wrn_40_2_wrn_16_2", "wrn_40_2_wrn_40_1"), 6)
    betas |= dict.fromkeys(("resnet56_resnet20", "resnet110_resnet32"), 2)
    for pair in STUDIES["cifar100_full"].pairs:
        settings = CONFIGS[f"cifar100_full/{pair}/dkd/seed0"].loss_settings
        assert settings == f"alpha=1, beta={betas.get(pair, 8)}"


def test_the_weight_is_what_the_search_over_4_epochs_found_best():
    for method in ("kd", "skd", "skd_teacher_mean"):
        text = (definitions.ROOT / f"{definitions.RESULTS}/frozen/{method}.csv").read_text()
        trials = list(csv.DictReader(text.splitlines()))
        best = max(trials, key=lambda trial: float(trial["val_accuracy"]))
        weight = CONFIGS["capacity_gap/resnet56/skd/seed0"].kd_weight
        assert len(trials) == 6 and float(best["kd_weight"]) == weight == 0.9


def test_a_label_term_elsewhere_leaves_the_distill_term_as_it_is(recorded):
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 10)) * 4
    labels, default, measured = np.arange(5), 2 * 10**0.5, 21.971  # the norm of resnet56, which its records repeat
    raw, skd = (CONFIGS[f"sphere/resnet56/{row}/seed0"] for row in ("label_on_raw", "skd"))
    mine = numpy_reference.logit_standardization(student, teacher, labels, raw.temperature)
    theirs = numpy_reference.spherical_kd(student, teacher, labels, skd.temperature, default)
    np.testing.assert_allclose(raw.kd_weight * mine["distill"], skd.kd_weight * theirs["distill"], rtol=1e-5)
    np.testing.assert_allclose(mine["label"], numpy_reference.label_terms(student, labels))
    assert raw.label_weight == pytest.approx(1 - skd.kd_weight)
    for row, first, spheres in (
        ("t4_label_on_default", "t4", (default, measured)),
        ("label_on_large", "default", (measured, default)),
    ):
        mixed, pure = (CONFIGS[f"radius/resnet56/{name}/seed0"] for name in (row, first))
        mine, theirs = (
            numpy_reference.spherical_kd(student, teacher, labels, config.temperature, radius)
            for config, radius in zip((mixed, pure), spheres, strict=True)
        )
        radii = {default: "auto", measured: "teacher_mean"}
        assert (mixed.radius, pure.radius) == (radii[spheres[0]], radii[spheres[1]])
        np.testing.assert_allclose(mixed.kd_weight * mine["distill"], pure.kd_weight * theirs["distill"], rtol=1e-4)
        assert mixed.label_weight == pytest.approx(1 - pure.kd_weight)
    for row in ("t4", "t1"):
        scaled, first = (CONFIGS[f"radius/resnet56/{name}/seed0"] for name in (f"{row}_scaled", row))
        for weights in ((scaled.kd_weight, first.kd_weight), (scaled.label_weight, 1 - first.kd_weight)):
            assert weights[0] / weights[1] == pytest.approx(default / measured, rel=1e-4)
    radii = [r["radius"] for c, r in recorded.items() if c.study == "radius" and c.row in ("t4", "t4_no_label", "t1")]
    assert radii == pytest.approx([measured] * 3, rel=3e-3)


def test_settings_know_a_teacher_by_name_and_leave_out_places():
    config, settings = CONFIGS["capacity_gap/resnet56/kd/seed0"], study_records.settings
    same = config.replace(teacher_checkpoint="/far/away/resnet56.keras", teacher_cache_dir="/cache", steps_per_call=2)
    recorded = settings(config)
    assert settings(same) == recorded and "/" not in json.dumps(recorded)
    for other in ({"teacher_checkpoint": "resnet44.keras"}, {"seed": 1}, {"teacher_cache_dir": ""}, {"temperature": 5}):
        assert settings(config.replace(**other)) != recorded
    assert study_records.differences(recorded | {"kd_weight": 0.5}, recorded) == ["--kd_weight: 0.5 -> 0.9"]
    older = {name: value for name, value in recorded.items() if name != "ema_momentum"}
    assert study_records.differences(older, recorded) == []  # a setting that the record lacks had its default
    assert study_records.differences(recorded | {"gone": 1}, recorded) == ["--gone: 1 -> no such setting"]


@pytest.mark.parametrize(
    "path, other",
    [
        ("temperature/resnet56/kd_t4/seed0", "capacity_gap/resnet56/kd/seed0"),
        ("temperature/resnet56/skd_t4/seed0", "capacity_gap/resnet56/skd/seed0"),
        ("sphere/resnet56/skd/seed2", "capacity_gap/resnet56/skd/seed2"),
        ("radius/resnet56/t4/seed0", "sphere/resnet56/teacher_mean/seed0"),
        ("radius/resnet56/default/seed0", "capacity_gap/resnet56/skd/seed0"),
    ],
)
def test_cells_of_two_studies_that_are_the_same_training_share_a_record(path, other, tmp_path):
    others = {
        cell: study_cases.record(cell, 0.81) for p, cell in CELLS.items() if p.split("/")[0] == other.split("/")[0]
    }
    cell, origin = CELLS[path], CELLS[other]
    assert study_records.same_cell(cell, others) == origin
    assert study_records.same_cell(CELLS["temperature/resnet56/skd_t8/seed0"], others) is None
    study_records.take_over(cell, origin, others[origin], tmp_path)
    copy = study_records.read_all(tmp_path)[cell]
    assert (copy["student"]["accuracy"], copy["same_training_as"]) == (0.81, other)
    assert copy["flagfiles"] == list(cell.flagfiles) and study_records.problems(cell, copy) == []


def test_a_record_holds_what_the_run_left_and_no_path(tmp_path):
    cells = {cell.path: cell for cell in definitions.cells(study_cases.small_study(tmp_path))}
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
    assert predictions.decode(record["test_labels"]).tolist() == [2, 1, 1]
    assert predictions.decode(record["test_predictions"]["student"]).tolist() == [2, 0, 1]
    assert "/somewhere" not in json.dumps(record) and study_records.problems(cell, record) == []
    with pytest.raises(InputError, match=r"other settings.*--seed: 1 -> 0"):
        study_records.from_workdir(cells["small/a/skd/seed0"], tmp_path, tmp_path)
    for name, text in (("calibrated.json", "{"), ("calibrated.json", '{"models": []}'), ("metrics.jsonl", "")):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="left no result"):
            study_records.from_workdir(cell, tmp_path, tmp_path)
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="left no result"):
        study_records.from_workdir(cell, tmp_path, tmp_path)
    dotted = [
        study_records.settings(definitions.config_of(cell).replace(teacher_checkpoint=f"teachers/net_0.{n}"))
        for n in (1, 2)
    ]
    assert dotted[0] != dotted[1]


def test_the_interval_of_the_anchor_follows_from_its_predictions():
    folder = definitions.ROOT / definitions.RESULTS / "anchor/resnet56_resnet20"
    records = [json.loads((folder / name / "seed0.json").read_text()) for name in ("skd", "kd")]
    predicted = [predictions.decode(record["test_predictions"]["student"]) for record in records]
    teacher, labels = (
        predictions.decode(part) for part in (records[0]["test_predictions"]["teacher"], records[0]["test_labels"])
    )
    page = (definitions.ROOT / "docs/studies/anchor.md").read_text()
    for other, name in ((predicted[1], "KD"), (teacher, "teacher")):
        found = verdict.compare(predicted[0], other, labels)
        low, high = (f"{100 * end:+.2f}" for end in found["interval"])
        assert f"| SKD - {name} | {100 * found['difference']:+.2f} | [{low}, {high}] |" in page
