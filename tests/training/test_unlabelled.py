"""Runs on images without labels, and with a share of them in each batch: what they measure, refuse and resume."""

import shutil

import keras
import numpy as np
import pytest

from skd_tf import data, evaluate, networks
from skd_tf.config import Config
from skd_tf.data.unlabelled import with_unlabelled
from skd_tf.errors import InputError
from skd_tf.models import loading
from skd_tf.runs import class_names, lineage, predictions
from skd_tf.runs.report import charts
from skd_tf.runtime.files import write_json
from skd_tf.search.plan import Plan
from skd_tf.serving.export_student import export_student
from skd_tf.training import dry_run, nested_runs, unlabelled
from skd_tf.training.checkpoints import Checkpoints
from tests.helpers.commands import exit_code
from tests.helpers.images import write_image
from tests.helpers.runs import SMALL, assert_same_run, blank_chart, numbers, read_json, student_of, train

BASE = SMALL | {"student": "cnn_4", "batch_size": 20, "keep_checkpoints": 20, "calibrate": "auto", "report": False}
IMAGES = {"epochs": 4, "kd_weight": 1, "early_stopping_patience": 1, "ship": "best", "report_images": 4, "report": True}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Folders of test digits, which no teacher has seen: "all", and "more" of twice their size."""
    folder, test = tmp_path_factory.mktemp("pictures"), data.load(data.DataSettings()).test
    for i in range(150):
        write_image(folder / "all" / f"{i % 3}" / f"{i}.png", test.images[i])
    for i in range(150, 220):
        write_image(folder / "more" / f"{i}.png", np.kron(test.images[i], np.ones([2, 2, 1], np.uint8)))
    return folder


@pytest.fixture(scope="module")
def without_labels(pictures, digits_teacher):
    """The settings and the workdir of a run on images without labels."""
    settings = {"dataset": f"images:{pictures / 'all'}", "teacher_checkpoint": str(digits_teacher)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "chart", blank_chart)
        train(pictures / "run", BASE | IMAGES, **settings)
    return BASE | IMAGES | settings, pictures / "run"


def float64_comparison(student, teacher):
    """(agreement, KL(teacher || student)) of two models' logits."""
    student, teacher = (np.asarray(logits, np.float64) for logits in (student, teacher))
    log_s, log_t = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)) for logits in (student, teacher))
    return np.mean(student.argmax(1) == teacher.argmax(1)), np.mean((np.exp(log_t) * (log_t - log_s)).sum(axis=1))


def test_agreement_and_divergence_are_measured_in_place_of_accuracy(without_labels, digits_teacher, capsys):
    settings, workdir = without_labels
    config = Config(**settings)
    names = class_names.recorded(digits_teacher)
    dataset = data.load(config.pick(data.DataSettings), class_names=names)
    student = keras.models.load_model(workdir / "student.keras", compile=False)
    teacher = loading.load_teacher(digits_teacher, name="", dataset=dataset, teacher_precision="float32")
    expected = {
        split: float64_comparison(student(images), teacher(images))
        for split, images in (("val", dataset.validation.images), ("test", dataset.test.images))
    }
    result, rows = read_json(workdir / "result.json"), numbers(workdir)
    found = result["student"]
    assert (found["agreement"], found["kl_to_teacher"]) == pytest.approx(expected["test"], rel=1e-4)
    best = rows[result["shipped_epoch"] - 1]
    assert (best["val_agreement"], best["val_kl_to_teacher"]) == pytest.approx(expected["val"], rel=1e-4)
    assert found["val_agreement"] == best["val_agreement"] == max(row["val_agreement"] for row in rows)
    assert result["class_names"] == names and result["epochs_trained"] == min(4, result["shipped_epoch"] + 1)
    labelled = {"accuracy", "nll", "ece", "brier", "val_accuracy", "balanced_accuracy", "calibrated", "label_loss"}
    assert not labelled & {*found, *result["teacher"], *rows[-1]}
    assert all(row["loss"] == row["distill_loss"] for row in rows)
    measured = read_json(workdir / "measurements.json")
    low, high = measured["models"]["student"]["intervals"]["agreement"]
    assert low <= found["agreement"] <= high and low < high
    answers, labels = predictions.of_record(measured)
    assert labels is None and np.mean(answers["student"] == answers["teacher"]) == pytest.approx(found["agreement"])
    train(workdir, settings)  # the finished run says its result again
    said = capsys.readouterr().out
    assert f"teacher's answer to {found['agreement']:.1%} of 30 test images" in said and "agreement at 5" in said
    report = (workdir / "report.html").read_text()
    assert "agreement with the teacher" in report and "no labels" in report and "test image of class no label" in report
    own, of_teacher = (training["dataset"] for training in result["lineage"]["trainings"])
    assert (own, of_teacher) == ("images", "digits")


@pytest.mark.slow
def test_a_resumed_run_without_labels_ends_alike(without_labels, tmp_path):
    settings, workdir = without_labels
    copy = shutil.copytree(workdir, tmp_path / "copy")
    for name in ("result.json", "measurements.json"):
        (copy / name).unlink()
    for path in Checkpoints(copy / "checkpoints").paths()[1:]:
        path.unlink()
    train(copy, settings)
    assert_same_run(copy, workdir)


def test_evaluate_gives_agreement_and_divergence(without_labels, digits_teacher, tmp_path, capsys):
    _, workdir = without_labels
    flags = [f"--model={workdir}", "--notiming", "--bootstrap=100"]
    assert exit_code(evaluate.cli_main, *flags, f"--teacher={digits_teacher}", f"--output={tmp_path / 'out.json'}") == 0
    (entry,), student = read_json(tmp_path / "out.json")["models"], student_of(workdir)
    assert entry["agreement"] == student["agreement"] and "accuracy" not in entry
    assert entry["kl_to_teacher"] == pytest.approx(student["kl_to_teacher"], rel=1e-5)
    printed = capsys.readouterr().out
    assert "compared with the teacher" in printed and "top-1" not in printed and "lowest accuracy" not in printed
    assert exit_code(evaluate.cli_main, *flags) == 2 and f"Add --teacher={digits_teacher}" in capsys.readouterr().err
    assert exit_code(evaluate.cli_main, *flags, "--calibrate", f"--teacher={digits_teacher}") == 2
    assert "--calibrate needs labels" in capsys.readouterr().err


def test_evaluate_refuses_models_with_the_classes_in_another_order(without_labels, digits_teacher, tmp_path, capsys):
    """Without labels, agreement 1 of two nets that disagree on every picture would be silent."""
    _, workdir = without_labels
    other = shutil.copytree(digits_teacher, tmp_path / "other")
    result = read_json(other / "result.json")
    write_json(other / "result.json", result | {"class_names": result["class_names"][::-1]})
    flags = [f"--model={workdir}", "--notiming", "--bootstrap=0", f"--teacher={other}"]
    assert exit_code(evaluate.cli_main, *flags) == 2
    assert f"A model numbers its classes in another order than {workdir}" in capsys.readouterr().err


def test_the_classes_are_the_teachers_names_or_their_number(digits_teacher, without_labels, tmp_path, capsys):
    model = keras.models.load_model(digits_teacher / "student.keras", compile=False)
    model.save(tmp_path / "plain.keras")
    plain, numbers = tmp_path / "plain.keras", [str(i) for i in range(10)]
    assert class_names.of_models([plain]) == (numbers, "")
    assert "does not name its classes" in capsys.readouterr().out
    shutil.copytree(digits_teacher / "saved_model", tmp_path / "served")
    names = class_names.recorded(digits_teacher)
    assert class_names.of_models([plain, tmp_path / "served"], 10) == (names, str(tmp_path / "served"))
    assert class_names.of_models([plain, digits_teacher]) == (names, str(digits_teacher))
    export = tmp_path / "export"  # as `skd_tf.export` leaves it
    shutil.copytree(digits_teacher / "saved_model", export / "saved_model")
    shutil.copy(plain, export / "student.keras")
    assert class_names.known(export, 10) == class_names.known(export / "student.keras", 10) == names
    assert class_names.known(tmp_path, 10) == []
    settings, _ = without_labels
    assert "classes        10" in dry_run.describe(Config(**settings))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"loss": "cross_entropy"}, "--loss learns from labels alone"),
        ({"loss": "dkd"}, "--loss needs the class of each image.*spherical, kd"),
        ({"loss": "rld"}, "--loss needs the class of each image"),
        ({"augmentation": "crop, mixup"}, "--augmentation mixes labels.*without mixup"),
        ({"label_smoothing": 0.1}, "--label_smoothing smooths labels"),
        ({"student_alone": "train"}, "--student_alone trains on labels"),
        ({"teacher_checkpoint": "", "teacher": "cnn_8"}, "--teacher trains a teacher.*--teacher_checkpoint"),
        ({"unlabelled": "folder:x"}, "--unlabelled needs a labelled --dataset"),
        ({"kd_weight": 0.9}, "--kd_weight leaves a part of the loss to labels.*Add --kd_weight=1"),
        ({"kd_weight": "1, 0.5 from epoch 2"}, "--kd_weight leaves a part"),
        ({"label_weight": 0.1}, "--label_weight leaves a part.*Add --label_weight=0"),
        ({"kd_weight": 0, "label_weight": 0}, "--kd_weight leaves no loss"),
    ],
)
def test_settings_that_need_labels_are_refused_in_one_line(settings, words):
    base = {"dataset": "images:x", "teacher_checkpoint": "t", "kd_weight": 1}
    with pytest.raises(InputError, match=words) as caught:
        unlabelled.check(Config(**base | settings))
    assert "\n" not in str(caught.value)


def test_what_carries_the_whole_loss_is_accepted():
    for settings in (
        {"kd_weight": 1},
        {"kd_weight": 2, "label_weight": 0},
        {"kd_weight": "0, 1 from epoch 1", "label_weight": 0},
    ):
        unlabelled.check(Config(dataset="images:x", teacher_checkpoint="t", epochs=3, **settings))
    config = Config(dataset="images:x", teacher_checkpoint="t", kd_weight=1)
    with pytest.raises(InputError, match=r"--objective needs labels.*val_agreement or val_kl_to_teacher"):
        Plan(config, ("temperature:log:1:4",))
    Plan(config, ("temperature:log:1:4",), objective="val_kl_to_teacher")
    with pytest.raises(InputError, match=r"--objective is measured with --dataset=images:PATH only"):
        Plan(Config(teacher_checkpoint="t"), ("temperature:log:1:4",), objective="val_agreement")


def test_a_share_of_the_batch_must_fit():
    config = Config(unlabelled="folder:x", unlabelled_share=0.25, batch_size=20, teacher_checkpoint="t")
    assert (config.unlabelled, config.unlabelled_batch, config.labelled_batch) == ("images:x", 5, 15)
    assert nested_runs.student_alone_config(config) == Config(batch_size=15, loss="cross_entropy")
    with pytest.raises(InputError, match=r"replicas do not divide the unlabelled part.*5 of --batch_size=20"):
        unlabelled.check_replicas(config, 2)
    for settings, words in (
        ({"loss": "cross_entropy"}, "--loss learns nothing from the images of --unlabelled"),
        ({"loss": "dkd"}, "those of --unlabelled have none"),
        ({"augmentation": "cutmix"}, "--augmentation mixes labels"),
    ):
        with pytest.raises(InputError, match=words):
            unlabelled.check(config.replace(**settings))
    for value, words in (("pics", "Write --unlabelled=images:pics"), ("images:", "images:PATH")):
        with pytest.raises(InputError, match=words):
            Config(unlabelled=value)
    with pytest.raises(InputError, match="--unlabelled_share is 0 of --batch_size=4"):
        config.replace(unlabelled_share=0.1, batch_size=4)


@pytest.fixture(scope="module")
def beside(pictures, digits_teacher):
    """The settings and the workdir of a run on digits with unlabelled images beside, its logits cached."""
    settings = {"unlabelled": f"images:{pictures / 'more'}", "unlabelled_share": 0.3, "epochs": 2, "batch_size": 100}
    settings |= {"teacher_checkpoint": str(digits_teacher), "steps_per_call": 3}
    train(pictures / "beside", BASE, **settings, teacher_cache_dir=str(pictures / "cache"))
    return BASE | settings, pictures / "beside"


@pytest.mark.slow
def test_a_resumed_run_ends_alike_and_changed_images_are_refused(beside, pictures, tmp_path):
    settings, workdir = beside
    cached = settings | {"teacher_cache_dir": str(pictures / "cache")}
    copy = shutil.copytree(workdir, tmp_path / "copy")
    (copy / "result.json").unlink()
    Checkpoints(copy / "checkpoints").paths()[-1].unlink()
    train(copy, cached)
    assert_same_run(copy, workdir)
    write_image(pictures / "more" / "new.png", np.zeros([16, 16, 1], np.uint8))
    try:
        (copy / "result.json").unlink()
        with pytest.raises(InputError, match="The data has changed since this run began"):
            train(copy, cached)
    finally:
        (pictures / "more" / "new.png").unlink()


@pytest.mark.slow
def test_cached_and_live_runs_are_alike(beside, tmp_path):
    settings, workdir = beside
    train(tmp_path / "live", settings)
    live, cached = numbers(tmp_path / "live"), numbers(workdir)
    assert [row["step"] for row in live] == [11, 22]  # 808 images, 70 of them in a batch
    for one, other in zip(live, cached, strict=True):
        assert one == pytest.approx(other, rel=2e-2, abs=2e-2)  # the cache holds float16
    assert "accuracy" in student_of(workdir) and not np.isclose(live[-1]["loss"], live[-1]["distill_loss"])


@pytest.mark.slow
def test_the_lineage_knows_unlabelled_images(without_labels, pictures, tmp_path):
    """Also where the same files are read in another way: with class folders, or as a part of another folder."""
    digits, workdir = data.load(data.DataSettings()), tmp_path / "student.keras"
    config = Config(**BASE, dataset="digits", unlabelled=f"images:{pictures / 'more'}")
    dataset = with_unlabelled(digits, config.unlabelled, config.pick(data.DataSettings))
    networks.build("cnn_2", input_shape=(8, 8, 1), num_classes=10).save(workdir)
    lineage.write(workdir, lineage.of_run(config, dataset, None))
    (own, more) = lineage.read(workdir).trainings
    assert (own["dataset"], more["dataset"], more["whole"]) == ("digits", "images", True)
    assert str(pictures) not in str(more)
    for name, seen in ((f"images:{pictures / 'more'}", 14), (f"images:{pictures}", 1)):
        settings = data.DataSettings(dataset=name, image_size=8)
        dataset = data.load(settings, train=False, class_names=[str(i) for i in range(10)])
        with pytest.raises(
            InputError, match=r"has trained on .*test images.*images that it was not trained on"
        ) as caught:
            lineage.require_unseen({"model": workdir}, dataset, settings)
        assert int(str(caught.value).split("trained on ")[1].split()[0]) >= seen
    _, trained = without_labels
    settings = data.DataSettings(dataset=f"folder:{pictures / 'all'}", data_seed=1)
    with pytest.raises(InputError, match="has trained on"):
        lineage.require_unseen({"model": trained}, data.load(settings), settings)
    assert lineage.require_unseen({"model": workdir}, digits, data.DataSettings()) == []


@pytest.mark.slow
def test_an_export_says_that_no_accuracy_is_known(without_labels, tmp_path, capsys):
    _, workdir = without_labels
    rows = export_student(workdir, tmp_path / "out", formats=["keras", "litert"])
    assert len(rows) == 4 and all("accuracy" not in row and row["agreement"] > 0.9 for row in rows)
    card, printed = (tmp_path / "out" / "README.md").read_text(), capsys.readouterr().out
    assert "The images have no labels. The student learned the teacher's answers to them." in card
    assert "how often the student is right is not known" in card and "top-1" not in card and "top-1" not in printed
    assert lineage.read(tmp_path / "out" / "student.keras") == lineage.read(workdir)
