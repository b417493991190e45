"""Every recipe parses, dry-runs, and says where it comes from, what it costs and what to expect."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from experiments.lab import definitions
from experiments.lab.runner import Runner
from skd_tf import schedules
from skd_tf.config import Config, flagfile, recipes
from skd_tf.config.flags import config_from, define_flags, parse, read_flagfile
from skd_tf.data.catalog import KNOWN_DATASETS
from skd_tf.runs import verdict
from skd_tf.training import dry_run, preflight

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = recipes.FOLDER
# Fragments of cells, which experiments/lab/definitions.py puts together.
FRAGMENTS = sorted(path.relative_to(ROOT) for path in (ROOT / "experiments/studies").glob("**/*.flags"))
FILES = sorted(path.relative_to(ROOT) for path in FOLDER.glob("**/*.flags") if not path.name.startswith("tune"))
METHODS = [path for path in FILES if path.parent.name == "methods"]
RUNS = [path for path in FILES if path not in METHODS and path.name != "base.flags"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the recipes run: it holds the pictures and the networks that fine_tuning names."""
    folder = tmp_path_factory.mktemp("fine_tuning")
    for name in ("lite0.keras", "lite1.keras"):
        (folder / name).touch()
    for i in range(100):
        place = folder / "animals" / ("train", "test")[i % 2] / ("bear", "camel", "wolf")[i // 2 % 3]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.png").write_bytes(tf.io.encode_png(np.full([32, 32, 3], i, np.uint8)).numpy())
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Records of prepared TFDS sets, and nothing else."""
    folder = tmp_path_factory.mktemp("data")
    for name, known in KNOWN_DATASETS.items():
        record = folder / name / "1.0.0"
        record.mkdir(parents=True)
        splits = [{"name": split, "shardLengths": [str(getattr(known, split))]} for split in ("train", "test")]
        keys = {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}}
        (record / "dataset_info.json").write_text(json.dumps({"splits": splits, "supervisedKeys": keys}))
        features = {"label": {"classLabel": {"numClasses": str(known.num_classes)}}}
        (record / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    return folder


def read(path, *more, monkeypatch, folder=ROOT):
    monkeypatch.chdir(folder)
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    parse([f"--flagfile={ROOT / file}" for file in (path, *more)], flag_values)
    return config_from(flag_values)


@pytest.mark.parametrize("path", RUNS, ids=str)
def test_a_recipe_dry_runs_and_names_source_cost_and_result(path, data_dir, folder, monkeypatch):
    config = read(path, monkeypatch=monkeypatch, folder=folder)
    config.require_teacher()
    text = dry_run.describe(config, "runs/x", data_dir)
    assert "never reached" not in text and "unknown" not in text
    words = " ".join((ROOT / path).read_text().replace("#", "").split()).lower()
    base = ROOT / path.parent / "base.flags"
    inherited = words + (base.read_text().lower() if base.is_file() else "")
    assert any(word in inherited for word in ("source:", "source of", "arxiv:")), "source"
    assert "cost" in words, "cost"
    assert any(word in words for word in ("expected", "published", "result")), "expected result"
    name = recipes.short_name(path.relative_to("skd_tf/recipes").with_suffix("").as_posix())
    assert any(f"--recipe={known} " in words for known in (name, f"{name}/skd")), "the command that runs it"


def test_every_recipe_trains_for_as_many_steps_as_a_verdict_asks_for(data_dir, monkeypatch):
    """A run from scratch with fewer steps than any recipe is told so; tune_short is the shortest."""
    steps = {"tune_short": 2 * (45_000 // 128)}  # epochs of batches
    for path in RUNS:
        config = read(path, monkeypatch=monkeypatch)
        if config.student.endswith(".keras"):
            continue
        sizes = preflight.dataset_sizes(config, data_dir)
        images = sizes.train - sizes.held_out(config.validation_fraction)
        steps[path] = config.epochs * preflight.steps_per_epoch(config, images)
    assert 0.9 * min(steps.values()) < verdict.FEWEST_STEPS <= min(steps.values()), steps


@pytest.mark.parametrize("path", METHODS, ids=str)
def test_a_method_goes_with_every_pair(path, data_dir, monkeypatch):
    for pair in RUNS:
        if pair.parent.name == "cifar100" and "_" in pair.stem:
            config = read(pair, path, monkeypatch=monkeypatch)
            assert config.student == read(pair, monkeypatch=monkeypatch).student
    dry_run.describe(config, None, data_dir)


def test_the_pairs_are_those_of_the_tables(monkeypatch):
    pairs = {}
    for path in (FOLDER / "cifar100").glob("*_*.flags"):
        config = read(path, monkeypatch=monkeypatch)
        teacher = read_flagfile(config.teacher_flagfile)[0]
        assert teacher.student + "_" + config.student == path.stem
        protocol = {name: getattr(Config(), name) for name in ("student", "loss", "teacher_flagfile")}
        rate = 0.01 if config.student in ("mobilenet_v2", "shufflenet_v1", "shufflenet_v2") else 0.05
        assert config.learning_rate == rate and teacher.learning_rate == 0.05
        assert config.replace(**protocol, learning_rate=0.05) == teacher.replace(**protocol)
        pairs[path.stem] = config
    assert len(pairs) == 10
    crd = pairs["resnet56_resnet20"]
    assert (crd.epochs, crd.batch_size, crd.momentum, crd.weight_decay, crd.kd_weight) == (240, 64, 0.9, 5e-4, 0.9)
    assert crd.lr_schedule.startswith("multistep:150,180,210") and crd.temperature == 4 and crd.validation_fraction == 0


def test_imagenet_is_the_authors_schedule(monkeypatch):
    for depth in (34, 50, 101, 152):
        config = read(FOLDER / f"imagenet/resnet{depth}_resnet18.flags", monkeypatch=monkeypatch)
        assert (config.teacher, config.student, config.epochs, config.batch_size) == (
            f"resnet{depth}",
            "resnet18",
            100,
            256,
        )
        assert config.kd_weight == "0.9, 0.5 from epoch 60, 0.1 from epoch 80" and config.label_weight is None
        assert config.lr_schedule.startswith("multistep:30,60,80,90") and config.learning_rate == 0.1
        assert (config.weight_decay, config.momentum, config.warmup_epochs, config.radius) == (1e-4, 0.9, 0, "auto")


@pytest.mark.slow
@pytest.mark.parametrize("name", definitions.STUDIES)
def test_every_cell_of_a_study_dry_runs_by_its_command(name, data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for cell in definitions.cells(definitions.STUDIES[name]):  # teachers that are converted, or trained before
        teacher = tmp_path / pathlib.Path(definitions.config_of(cell).teacher_checkpoint).name
        if teacher.suffix == ".keras":
            teacher.touch()
        elif teacher != tmp_path:
            teacher.mkdir(exist_ok=True)
            (teacher / "student.keras").touch()
    places = {"data_dir": str(data_dir), "runs_dir": str(tmp_path), "teachers_dir": str(tmp_path), "results_dir": None}
    runner = Runner(places)
    for cell in definitions.cells(definitions.STUDIES[name]):
        flag_values = flags.FlagValues()
        define_flags(flag_values)
        program, *arguments = runner.command(cell)[2:]
        assert program == "skd_tf.train"
        parse(arguments, flag_values)
        config = config_from(flag_values)
        config.require_teacher()
        text = dry_run.describe(config, None, flag_values.data_dir)
        assert "never reached" not in text and "unknown" not in text
        held_out = 0 if name in ("cifar100_full", "imagenet") or "_linear_all" in cell.row else 0.1
        assert config.seed == cell.seed and config.validation_fraction == held_out and config.ema_momentum == 0


def test_every_fragment_belongs_to_a_study_and_says_what_it_is(monkeypatch):
    monkeypatch.chdir(ROOT)
    used = set()
    for study in definitions.STUDIES.values():
        for cell in definitions.cells(study):
            for file in cell.flagfiles:
                used |= {file, *(where.partition(" line ")[0] for _, where in flagfile.expand([f"--flagfile={file}"]))}
    assert {path for path in used if path.startswith("experiments/studies/")} == {str(path) for path in FRAGMENTS}
    for path in FRAGMENTS:
        assert (ROOT / path).read_text().startswith("# "), path
    base = " ".join((ROOT / "experiments/studies/base.flags").read_text().replace("#", "").split()).lower()
    assert "source" in base and "cost" in base and "python -m experiments.lab reproduce" in base


@pytest.mark.parametrize("path", RUNS, ids=str)
def test_a_recipe_names_what_its_result_relied_on(path):
    """A recipe has its loss and, in a short run, its warm-up of 5%, so that another default changes no result."""
    config, given = read_flagfile(ROOT / path)
    assert "loss" in given
    images = KNOWN_DATASETS[config.dataset].train if config.dataset in KNOWN_DATASETS else 500
    steps = int(images * (1 - config.validation_fraction)) // config.batch_size
    assert schedules.warmup_steps(config, steps) == schedules.warmup_steps(config.replace(min_warmup_steps=0), steps)
