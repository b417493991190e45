"""What evaluate, export, predict and tune refuse before they read any data or model; tests/training/test_preflight.py: train."""

import os
import pathlib
import re

import pytest

from skd_tf import evaluate, export, predict, train, tune
from skd_tf.data import loading as data_loading
from skd_tf.evaluation import image_files, predict_images
from skd_tf.models import loading
from skd_tf.runtime import tf_logging
from skd_tf.training import train_student
from tests.helpers.commands import exit_code
from tests.helpers.images import random_image, write_image

RUN = pathlib.Path(__file__).parents[1] / "old_runs" / "0.1.0" / "finished"
SEARCH = "--search=temperature:log:1:16 --teacher=cnn_2 --workdir=search"

CASES = {
    evaluate: [
        ("--model=nowhere", "No model there.*nowhere"),
        ("--model=old.h5", r"Not a model that skd_tf reads.*load_model\('old.h5'"),
        ("--model={run} --teacher=nowhere", "No model there.*nowhere"),
        ("--model={run} --model=nowhere", "No model there.*nowhere"),
        ("--model={run} --output=no/x.json", "The output has no folder"),
        ("--model={run} --output=.", "The output is a folder"),
        ("--model={run} --output=full", "The output is a folder"),
        ("--model={run} --output=/dev/null", "The output is a device or a pipe"),
        ("--model={run} --output={run}/result.json", "The output is a file of the run"),
        ("--model={run} --output=gs://bucket/x.json", "is a URL"),
        ("--model=gs://bucket/run", "is a URL"),
        ("--model={run}/student.keras --calibrate", "images that no training has seen"),
        ("--model={run} --calibrate --dataset=mnist", "takes the run's own data"),
        ("--model={run} --data_seed=x", "--data_seed"),
        ("--teacher={run}", "--model is missing"),
        ("--model=code", "The run's data comes from code"),
    ],
    export: [
        ("--workdir=nowhere --output=out", "No such folder"),
        ("--workdir={run} --output=full", "The output is not empty"),
        ("--workdir={run} --output=file", "The output is a file"),
        ("--workdir={run} --output=.", "The output has no name"),
        ("--workdir={run} --output=out --format=tflite", "Unknown format"),
        ("--workdir={run} --output=s3://bucket/out", "is a URL"),
        ("--workdir={run} --output=out --dataset=mnist", "compared on the run's own data"),
        ("--workdir=lost --output=out", "No model there"),
        ("--workdir=code --output=out", "The run's data comes from code"),
        ("--workdir={run}", "--output is missing"),
        ("--workdir={run} --output=out --check_images=0", "--check_images"),
    ],
    predict: [
        ("nowhere pictures --output=a.csv", "No model there.*nowhere"),
        ("old.h5 pictures --output=a.csv", r"Not a model that skd_tf reads.*load_model\('old.h5'"),
        ("{run} nowhere --output=a.csv", "There is no such file or folder"),
        ("{run} full --output=a.csv", "The folder has no images"),
        ("{run} s3://bucket/photos --output=a.csv", "is a URL"),
        ("{run} pictures --output=no/a.csv", "The output has no folder"),
        ("{run} pictures --output=full", "The output is a folder"),
        ("{run} pictures --output={run}/result.json", "The output is a file of the run"),
        ("{run} pictures --output=gs://bucket/a.csv", "is a URL"),
        ("{run} --output=a.csv", "--images is missing"),
        ("{run} pictures --resize=-1 --output=a.csv", "--resize"),
    ],
    tune: [
        (f"{SEARCH} --batch_size=5000", "at least 5000 training examples"),
        (f"{SEARCH} --dataset=folder:two --loss=spherical", "Two classes leave two points"),
        (f"{SEARCH} --teacher_cache_top=9", "--teacher_cache_top is too large"),
        (f"{SEARCH} --dataset=folder:nowhere", "There is no such folder"),
        (f"{SEARCH} --dataset=mnist --data_dir=full", "mnist is not prepared"),
        (f"{SEARCH} --student=my_nets:small", "no module my_nets"),
        (f"{SEARCH} --teacher_checkpoint=old.h5", r"Not a model that skd_tf reads.*load_model\('old.h5'"),
        (f"{SEARCH} --search=speed:log:1:2", "speed"),
        (f"{SEARCH} --objective=speed", "names no value that a run logs"),
        (f"{SEARCH} --tuner=magic", "--tuner has an unknown value"),
        (f"{SEARCH} --validation_fraction=0", "never sees the test split"),
        (f"{SEARCH} --workdir=gs://bucket/search", "is a URL"),
        (f"{SEARCH} --workdir=dangling", "link that leads nowhere"),
        (f"{SEARCH} --workdir=file", "is a file"),
        ("--search=temperature:log:1:16 --workdir=search", "needs a teacher"),
        ("--teacher=cnn_2 --workdir=search", "--search is missing"),
    ],
}


@pytest.mark.parametrize("command", CASES, ids=lambda command: command.__name__)
def test_it_is_one_line_and_nothing_is_read_or_written(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("full/mine.txt", "file", "old.h5", *(f"two/{part}/{n}.png" for part in "ab" for n in range(100))):
        pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(name).touch()
    for folder in ("lost", "code"):  # a run without its student, and one whose data come from code
        pathlib.Path(folder).mkdir()
        for name in ("config.json", "result.json"):
            record = (RUN / name).read_text()
            pathlib.Path(folder, name).write_text(
                record.replace('"digits"', '"theirs:data"') if folder == "code" else record
            )
    pathlib.Path("code/student.keras").touch()
    write_image(tmp_path / "pictures" / "1.png", random_image(0, 8, 8))
    os.symlink("gone", "dangling")
    for owner, name in (
        (data_loading, "_load"),
        (image_files, "batches"),
        (predict_images, "_answers"),
        (train_student, "train_student"),
        (loading, "SavedModel"),
    ):
        monkeypatch.setattr(owner, name, lambda *_, name=name, **__: pytest.fail(f"{name} is called"))
    monkeypatch.setattr("keras.models.load_model", lambda *_, **__: pytest.fail("a model is loaded"))
    before = sorted(tmp_path.rglob("*"))
    for flags, words in CASES[command]:
        code = exit_code(command.cli_main, *flags.format(run=RUN).split())
        err = capsys.readouterr().err
        last = err.splitlines()[-1]
        assert code == 2 and last.startswith("error: ") and "Traceback" not in err, (flags, err)
        assert re.search(words, last), (flags, last)
        assert sorted(tmp_path.rglob("*")) == before, flags


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (evaluate, "--model=nowhere"),
        (export, "--workdir=nowhere --output=out"),
        (predict, "nowhere pictures --output=a.csv"),
        (train, "--workdir=out --teacher_checkpoint=nowhere"),
        (train, "--workdir=out --teacher_flagfile=nowhere"),
        (train, "--workdir=out --loss=cross_entropy --student=nowhere:net"),
        (train, "--workdir=out --loss=cross_entropy --dataset=folder:nowhere"),
        (train, "--workdir=out --loss=cross_entropy --dataset=nowhere --data_dir=empty"),
    ],
)
def test_a_wrong_path_is_found_before_tensorflow_is_loaded(command, flags, tmp_path, monkeypatch, capsys):
    """It takes half a second in place of the many that TensorFlow needs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tf_logging, "import_tensorflow", lambda: pytest.fail("TensorFlow is loaded"))
    assert exit_code(command.cli_main, *flags.split()) == 2
    error = capsys.readouterr().err  # a flag that is blamed is one that was given
    assert "nowhere" in error and " --flagfile=" not in error and not pathlib.Path("out").exists()
