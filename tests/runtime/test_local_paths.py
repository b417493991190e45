"""A URL is refused wherever a path enters, before anything is written: gs://bucket is not the folder ./gs:/bucket."""

import pathlib

import numpy as np
import pytest

import skd_tf.report
from skd_tf import evaluate, export, predict, train, tune
from skd_tf.config import Config
from skd_tf.data.teacher_cache import TeacherCache
from skd_tf.errors import InputError
from skd_tf.evaluation import evaluate_models
from skd_tf.evaluation.predict_images import predict_images
from skd_tf.models import loading
from skd_tf.runs import report
from skd_tf.runs.workdir import Workdir, locked, require_output
from skd_tf.runtime.local_paths import require_local, scheme_of
from skd_tf.search.plan import Plan
from skd_tf.search.run_search import run_search
from skd_tf.serving.export_student import export_student
from skd_tf.training import dry_run, experiment, preflight

URLS = (
    "gs://bucket/run",
    "s3://bucket/run",
    "GS://bucket/run",
    "hdfs://host/run",
    "https://host/run",
    "file:///tmp/run",
)
PLAIN = {train: ("--loss=cross_entropy",), tune: ("--loss=cross_entropy", "--search=learning_rate:log:0.1:1")}
SETTINGS = ("student_checkpoint", "student_alone", "teacher_checkpoint", "teacher_flagfile", "teacher_cache_dir")
FLAGS = [
    *((train, (f"--{name}={{}}", "--workdir=w"), name) for name in SETTINGS),
    (train, ("--dataset=folder:{}", "--workdir=w"), "dataset"),
    (train, ("--student={}/net.keras", "--workdir=w"), "student"),
    (train, ("--flagfile={}", "--workdir=w"), "flagfile"),
    (train, ("--flagfile=outer.flags", "--workdir=w"), "flagfile"),
    (train, ("--workdir={}",), "workdir"),
    (train, ("--workdir={}", "--dry_run"), "workdir"),
    (tune, ("--workdir={}",), "workdir"),
    (evaluate, ("--model={}",), "model"),
    (evaluate, ("--model=a", "--model={}"), "model"),
    (evaluate, ("--model=a", "--teacher={}"), "teacher"),
    (evaluate, ("--model=a", "--output={}"), "output"),
    (export, ("--workdir={}", "--output=o"), "workdir"),
    (export, ("--workdir=a", "--output={}"), "output"),
    (predict, ("{}", "folder", "--output=o.csv"), "model"),
    (predict, ("a", "{}", "--output=o.csv"), "images"),
    (predict, ("a", "folder", "--output={}"), "output"),
    (skd_tf.report, ("{}",), "run"),
    (skd_tf.report, ("a", "--output={}"), "output"),
]


@pytest.mark.parametrize("module, arguments, name", FLAGS)
@pytest.mark.parametrize("url", URLS)
def test_every_path_of_every_command(tmp_path, monkeypatch, capsys, module, arguments, name, url):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("outer.flags").write_text(f"--flagfile={url}\n")
    given = [argument.format(url) for argument in (*PLAIN.get(module, ()), *arguments)]
    monkeypatch.setattr("sys.argv", [module.__name__, *given])
    with pytest.raises(SystemExit) as ended:
        module.cli_main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith(f"error: --{name} is a URL"), error
    assert error.count("\n") == 1 and ("docs/buckets.md" in error or "Leave out file://" in error)
    assert [path.name for path in tmp_path.iterdir()] == ["outer.flags"]


@pytest.mark.parametrize("url", ["gs://bucket/run", pathlib.Path("gs://bucket/run")])
def test_every_python_door(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    config = Config(loss="cross_entropy")
    plan = Plan(config, ("learning_rate:log:0.1:1",))
    output = pathlib.Path("o")
    doors = [
        lambda: Workdir(url, config),
        lambda: locked(url).__enter__(),
        lambda: experiment.run(config, url),
        lambda: dry_run.describe(config, url),
        lambda: run_search(plan, url),
        lambda: TeacherCache(url, "float16", print),
        lambda: Config(teacher_cache_dir=str(url)) if isinstance(url, str) else TeacherCache(url, "float16", print),
        lambda: export_student(url, output),
        lambda: export_student(output, url),
        lambda: report.write([url], output),
        lambda: report.write([output], url),
        lambda: evaluate_models.evaluate_and_print([url], {}),
        lambda: evaluate_models.evaluate_and_print([output], {}, output=url),
        lambda: evaluate_models.calibrate(url, None),
        lambda: loading.load(url),
        lambda: predict_images(url, tmp_path, output),
        lambda: predict_images(output, url, output),
        lambda: predict_images(output, tmp_path, url),
        lambda: require_output(url),
    ]
    (tmp_path / "1.png").write_bytes(b"")
    for door in doors:
        with pytest.raises(InputError, match="is a URL"):
            door()
    assert [path.name for path in tmp_path.iterdir()] == ["1.png"]


def test_a_data_folder_that_tfds_reads_is_left_to_tfds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = Config(dataset="cifar10", loss="cross_entropy")
    preflight.check_dataset(config, "gs://bucket/data")
    assert preflight.dataset_sizes(config, "gs://bucket/data").train == 50_000
    assert "45000 to train" in dry_run.describe(config, None, "gs://bucket/data")
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket/data")
    preflight.check_dataset(config, None)
    monkeypatch.setattr("sys.argv", ["train", "--dataset=cifar10", "--data_dir=s3://bucket/data", "--workdir=w"])
    with pytest.raises(SystemExit) as ended:
        train.cli_main()
    assert ended.value.code == 2 and "--data_dir is a URL, not a folder or file. Expected a path or gs://" in (
        capsys.readouterr().err
    )


def test_a_data_folder_that_cannot_be_reached_is_one_line(monkeypatch):
    import tensorflow_datasets as tfds

    from skd_tf import data

    def unreachable(*_, **__):
        raise RuntimeError("FailedPreconditionError: Could not\n resolve host")

    monkeypatch.setattr(tfds, "builder", unreachable)
    with pytest.raises(InputError, match=r"TFDS cannot read its data folder.*Could not resolve host"):
        data.load(data.DataSettings(dataset="cifar10"), "gs://bucket/data")
    with pytest.raises(RuntimeError):  # a fault of TFDS itself is not hidden
        data.load(data.DataSettings(dataset="cifar10"), "folder")
    with pytest.raises(InputError, match="--data_dir is a URL"):
        data.load(data.DataSettings(dataset="cifar10"), "s3://bucket/data")


@pytest.mark.parametrize(
    "path", ["runs/a", "./gs:/run", "C:/run", "m.nets:small", "keras.applications:ResNet50", "a//b"]
)
def test_paths_and_names_are_no_urls(path):
    require_local(path, "workdir")
    assert scheme_of(path) == "" and (":" in path or scheme_of(pathlib.Path(path)) == "")


def test_a_folder_with_a_url_inside_its_name_stays_a_folder(tmp_path):
    cache = TeacherCache(tmp_path / "gs:" / "bucket", "float16", print)
    cache.write("key", np.zeros([2, 3]))
    assert cache.has("key", (2, 3))
