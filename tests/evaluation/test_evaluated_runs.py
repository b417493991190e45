"""What evaluate takes from the runs of the models: the teacher's preprocessing, mean and std, the held-out images."""

import pathlib
import re

import numpy as np
import pytest

from skd_tf import data, evaluate, networks
from skd_tf.config import Config
from skd_tf.data.catalog import size_and_resize
from skd_tf.errors import InputError
from skd_tf.evaluation import evaluate_models, measured_runs, temperature_scaling
from skd_tf.models import loading
from skd_tf.runs import result_tables
from skd_tf.runtime.files import write_json
from tests.helpers.commands import exit_code
from tests.helpers.images import CLASSES, load, make_folder, random_image, write_image

SOME_DATA = """
import numpy as np
def load(data_dir):
    images = np.random.default_rng(0).integers(0, 256, [12, 8, 8, 3], np.uint8) // np.arange(1, 13)[:, None, None, None]
    split = images.astype(np.uint8), np.arange(12) % 3
    return {"class_names": ["cat", "dog", "eel"], "train": split, "test": split}
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def saved(path, seed=0, shape=(8, 8, 3), classes=3):
    path.parent.mkdir(exist_ok=True)
    networks.build("cnn_2", input_shape=shape, num_classes=classes, seed=seed).save(path)
    return path


def workdir(place, shape=(8, 8, 3), classes=3, *, resolved=None, **settings):
    """The workdir of a finished run, as far as evaluate reads it."""
    saved(place / "student.keras", 0, shape, classes)
    write_json(place / "config.json", Config(**settings).to_json() | {"resolved": resolved or {}})
    return place


def preprocessing(run, teacher, **given):
    return measured_runs.measuring_settings([run], given, teacher)[1]


def test_a_run_s_preprocessing_is_that_of_its_own_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own, other = saved(tmp_path / "own.keras"), saved(tmp_path / "other.keras", seed=1)
    known = {"teacher": measured_runs.file_fingerprint(own)}
    run = workdir(tmp_path / "run", resolved=known, teacher_checkpoint="own.keras", teacher_preprocessing="unit")
    for teacher in (own, "own.keras", pathlib.Path("run", "..", "own.keras")):
        assert preprocessing(run, teacher) == preprocessing(run / "student.keras", teacher) == "unit"
    moved = own.rename(tmp_path / "moved.keras")
    assert preprocessing(run, moved) == "unit"
    assert preprocessing(run, other) == preprocessing(run, None) == preprocessing(other, moved) == "auto"
    for teacher in (moved, other):
        assert preprocessing(run, teacher, teacher_preprocessing="caffe") == "caffe"
        assert preprocessing(run, teacher, teacher_preprocessing="auto") == "auto"
    assert preprocessing(other, moved, teacher_preprocessing="caffe") == "caffe"  # no run is known


def test_pictures_of_another_folder_get_the_size_of_the_run(tmp_path):
    run = workdir(tmp_path / "run", dataset="folder:mine", image_size=8)
    known = workdir(tmp_path / "known", dataset="cifar10")
    cropped = workdir(tmp_path / "crop", dataset="folder:mine", image_size=12, augmentation="resized_crop")
    for models, given, size in (
        ([run], {"dataset": "folder:other"}, 8),
        ([tmp_path / "run" / "student.keras"], {"dataset": "folder:other"}, 8),
        ([known], {"dataset": "folder:other"}, 32),
        ([run], {"dataset": "folder:other", "image_size": 16}, 16),
        ([run], {"dataset": "digits"}, 0),
        ([cropped], {"dataset": "folder:other"}, 12),
    ):
        found = measured_runs.measuring_settings(models, given)[0]
        assert found.image_size == size
    assert size_and_resize(found) == (12, 14)


def test_each_of_several_teachers_has_its_own_preprocessing(tmp_path):
    one, two, third = (saved(tmp_path / f"{name}.keras", seed) for seed, name in enumerate("abc"))
    settings = {"teacher_checkpoint": f"{one},{two}", "teacher_preprocessing": "unit,torch"}
    run = workdir(tmp_path / "run", resolved={"teacher": "of both"}, **settings)
    assert [preprocessing(run, teacher) for teacher in (one, two, third)] == ["unit", "torch", "auto"]
    given = [preprocessing(run, teacher, teacher_preprocessing="caffe") for teacher in (one, two, third)]
    assert given == ["caffe"] * 3


def test_another_path_of_a_run_s_folder_keeps_its_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = workdir(tmp_path / "run", dataset="folder:photos", data_seed=12)

    def seed(dataset):
        return measured_runs.measuring_settings([run], {"dataset": dataset})[0].data_seed

    assert [seed(f"folder:{path}") for path in ("photos", tmp_path / "photos", "./photos/", "others")] == [
        12,
        12,
        12,
        0,
    ]
    assert seed(f"images:{tmp_path}/photos") == 0


@pytest.fixture
def measured(monkeypatch):
    """What `evaluate_models` is called with, in place of its call: [(models, dataset, options)]."""
    calls, result = [], {"models": []}
    monkeypatch.setattr(
        evaluate_models, "evaluate_models", lambda *given, **more: calls.append((*given, more)) or result
    )
    monkeypatch.setattr(result_tables, "evaluation_tables", lambda result: "")
    return calls


def test_mean_and_std_of_a_teacher_are_those_of_the_images_that_the_run_trained_on(tmp_path, measured, monkeypatch):
    """Not of those that it held out."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "some_data.py").write_text(SOME_DATA)
    teacher, place = saved(tmp_path / "teacher.keras"), {"dataset": "some_data:load"}
    settings = {"teacher_checkpoint": str(teacher), "teacher_preprocessing": "standard", "validation_fraction": 0.5}
    run = workdir(tmp_path / "run", **settings, **place)
    evaluate_models.evaluate_and_print([run], place, teacher=teacher)
    ((_, dataset, options),) = measured
    trained_on, all_of_it = (load(**place, validation_fraction=fraction) for fraction in (0.5, 0.0))
    assert options["teacher_preprocessing"] == "standard" and len(dataset.test) == 12
    pixels = trained_on.train.images / 255
    assert len(pixels) == 6 and dataset.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-4)
    assert dataset.std == pytest.approx(pixels.std((0, 1, 2)), abs=1e-4)
    assert np.abs(np.subtract(dataset.mean, all_of_it.mean)).max() > 0.01


@pytest.fixture
def fitted(monkeypatch):
    """What temperatures are fitted on: [(logits, labels)]; each is 2."""
    calls = []
    monkeypatch.setattr(temperature_scaling, "fit_temperature", lambda *given: calls.append(given) or 2.0)
    return calls


def test_a_run_is_calibrated_on_the_validation_part_of_its_folder(tmp_path, fitted, capsys):
    folder = make_folder(
        tmp_path / "set", ("train", "valid", "test"), per_class=2, size=lambda i: (8, 8), formats=(".png",)
    )
    run = workdir(tmp_path / "run", dataset=f"folder:{folder}", validation_fraction=0.0)
    for seed in (0, 1, 1000, 1001, 2000, 2001):  # other images than those of the training part
        write_image(folder / "valid" / CLASSES[seed // 1000] / f"{seed % 1000}.png", random_image(5000 + seed, 8, 8))
    config = measured_runs.run_to_calibrate(run, measured_runs.measuring_settings([run], {})[0])
    evaluate_models.calibrate(run, data.load(config.pick(data.DataSettings), test=False))
    ((logits, labels),) = fitted
    held_out = np.stack([random_image(5000 + seed, 8, 8) for seed in (0, 1, 1000, 1001, 2000, 2001)])
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(logits, loading.load(run)(held_out), atol=1e-5)
    assert temperature_scaling.stored(run)["validation_examples"] == 6
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: A temperature")]
    assert "6 validation images" in warning and "predict and export will use it" in warning
    assert f"Delete {run / 'calibration.json'}" in warning
    assert "--nocalibrated" in warning and "--validation_fraction" in warning


def test_a_run_is_calibrated_on_its_folder_at_another_place(tmp_path, fitted):
    folder = make_folder(tmp_path / "set", ("all",), per_class=20, size=lambda i: (8, 8), formats=(".png",)) / "all"
    settings = {"dataset": f"folder:{folder}", "data_seed": 3}  # the test part is drawn by it
    run = workdir(tmp_path / "run", validation_fraction=0.3, **settings)
    version = data.load(data.DataSettings(**settings)).version
    with pytest.raises(InputError, match="own folder, moved"):
        evaluate_models.measured_runs.require_own_data(
            run, data.load(data.DataSettings(**settings)), data.DataSettings(dataset="folder:elsewhere")
        )
    write_json(run / "measurements.json", {"dataset": {"version": version}})
    moved = folder.rename(tmp_path / "moved")
    quick = {"calibrated": True, "timing": False, "bootstrap_samples": 0}
    evaluate_models.evaluate_and_print(run, {"dataset": f"folder:{moved}"}, **quick)
    assert len(fitted) == 1
    write_image(moved / CLASSES[0] / "new.png", random_image(7, 8, 8))
    with pytest.raises(InputError, match=r"own data.*set.*moved.*where its pictures are now"):
        evaluate_models.evaluate_and_print(run, {"dataset": f"folder:{moved}"}, **quick)
    assert len(fitted) == 1


def test_a_run_without_held_out_images_cannot_be_calibrated(tmp_path, measured, fitted, capsys):
    run = workdir(tmp_path / "run", (8, 8, 1), 10, dataset="digits", validation_fraction=0.0)
    assert exit_code(evaluate.cli_main, f"--model={run}", "--calibrate") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert len(errors) == 1 and errors[0].startswith("error: The run held out no images")
    assert temperature_scaling.stored(run) is None and not measured and not fitted


def test_a_published_model_has_no_file(tmp_path, monkeypatch):
    digits = data.load(data.DataSettings())
    models = {"keras.applications:MobileNetV2": None, str(saved(tmp_path / "net.keras", 0, (8, 8, 1), 10)): None}
    load_measured, (published, file) = loading.load_measured, models
    monkeypatch.setattr(loading, "load_measured", lambda path, *given, **more: load_measured(file, *given, **more))
    result = evaluate_models.evaluate_models([published, file], digits, timing=False, bootstrap_samples=0)
    assert [entry["file_bytes"] for entry in result["models"]] == [None, pathlib.Path(file).stat().st_size]
    lines = [re.split(r"  +", line) for line in result_tables.evaluation_tables(result).splitlines()]
    header = next(line for line in lines if line[0] == "cost")
    shown = {line[0]: line[header.index("kB")] for line in lines if len(line) == len(header) and line != header}
    assert shown == {published: "-", file: f"{pathlib.Path(file).stat().st_size / 1e3:,.0f}"}


def test_a_model_that_numbers_the_classes_otherwise_is_refused_and_other_names_are_a_warning(tmp_path, capsys):
    run = workdir(tmp_path / "run", dataset="folder:/somewhere")
    write_json(run / "result.json", {"class_names": ["eel", "cat", "dog"], "config": Config().to_json(), "student": {}})
    images = make_folder(tmp_path / "photos", per_class=2, size=lambda i: (8, 8))
    flags = [f"--dataset=folder:{images}", "--notiming", "--bootstrap=0"]
    assert exit_code(evaluate.cli_main, f"--model={run}", *flags) == 2
    assert "class 0 is eel in" in capsys.readouterr().err
    write_json(
        run / "result.json", {"class_names": ["cat", "dog", "snake"], "config": Config().to_json(), "student": {}}
    )
    assert exit_code(evaluate.cli_main, f"--model={run / 'student.keras'}", *flags) == 0
    assert "name class 2 differently (snake, eel)" in capsys.readouterr().err
