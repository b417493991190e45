"""What weights have seen: recorded with them, and no number is measured on it."""

import dataclasses
import itertools
import json
import shutil
import zipfile

import keras
import numpy as np
import pytest

from skd_tf import data, evaluate, train, tune
from skd_tf.config import Config
from skd_tf.data import redraw
from skd_tf.errors import InputError
from skd_tf.models import loading, paths
from skd_tf.runs import lineage
from skd_tf.runtime.files import write_json
from skd_tf.serving import saved_model
from skd_tf.serving.export_student import export_student
from tests.helpers.commands import exit_code
from tests.helpers.images import image_set, random_image, write_image
from tests.helpers.runs import ALONE, SMALL, read_json
from tests.helpers.runs import train as run

TINY = ALONE | {"epochs": 1, "batch_size": 16, "learning_rate": 0.01}


def photos(root, parts=("",), videos=8, frames=5):
    for part, name, video, frame in itertools.product(parts, ("cat", "dog"), range(videos), range(frames)):
        number = 10_000 * (part == "test") + 1000 * (name == "dog") + 10 * video + frame
        write_image(root / part / name / f"v{video}_{frame}.png", random_image(number, 8, 8))
    return root


def settings_of(place, **changes):
    return Config(dataset=place if isinstance(place, str) else f"folder:{place}", **changes).pick(data.DataSettings)


RULES = [
    {},
    {"data_seed": 1},
    {"validation_fraction": 0.3},
    {"validation_fraction": 0.0},
    {"validation_split": "uniform"},
    {"data_rules": 1, "validation_split": "uniform"},
    {"group": r"^(v\d)", "data_seed": 2},
]


@pytest.mark.parametrize(
    "kind", ["digits", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("drawn", "own test"))]
)
def test_the_redrawn_split_is_the_one_that_was_trained_on(tmp_path, kind):
    """Against the pixels of the images that a run with that rule loads."""
    place = "digits" if kind == "digits" else photos(tmp_path, ("train", "test") if kind == "own test" else ("",))
    rules = [rule for rule in RULES if kind != "digits" or "group" not in rule]
    loaded = {i: data.load(settings_of(place, **rule)) for i, rule in enumerate(rules)}
    seen_some = 0
    for mine, theirs in itertools.permutations(range(len(rules)), 2):
        ours = settings_of(place, **rules[mine])
        found = redraw.trained_on(settings_of(place, **rules[theirs]), loaded[mine], ours)
        used = image_set(loaded[theirs].train.images)
        splits = {name: getattr(loaded[mine], name) for name in ("validation", "test")}
        expected = {
            name: sum(image.tobytes() in used for image in split.images) for name, split in splits.items() if split
        }
        assert found == expected, (rules[mine], rules[theirs])
        seen_some += any(expected.values())
    assert seen_some >= len(rules)


def test_flags_to_give_can_be_pasted():
    seen = lineage.Seen({"test": (1, 2)}, {"split": {"data_seed": 3, "group": "^(patient[0-9]+)_"}})
    assert seen.remedy == "--data_seed=3 '--group=^(patient[0-9]+)_'"


def test_a_pinned_version_is_the_same_set():
    loaded = data.load(settings_of("digits"))
    plain, pinned = (dataclasses.replace(loaded, name=n, key_name=n) for n in ("cifar10", "cifar10:3.0.2"))
    for trained, measured in itertools.product((plain, pinned), repeat=2):
        found = lineage.of_run(Config(dataset=trained.name, validation_fraction=0), trained, None)
        (seen,) = lineage.images_seen(found, measured, settings_of(measured.name))
        assert seen.exact and seen.images == {"validation": (len(loaded.validation),) * 2}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(folder of photographs without a test part, a run on them with data_seed 0)."""
    folder = tmp_path_factory.mktemp("lineage")
    root = photos(folder / "photos")
    run(folder / "first", TINY, dataset=f"folder:{root}")
    return root, folder / "first"


@pytest.mark.slow
def test_it_survives_copying_and_not_editing(first, tmp_path):
    root, workdir = first
    recorded = lineage.read(workdir)
    (own,) = recorded.trainings
    assert own["via"] == "weights" and own["split"] == redraw.rule_of(settings_of(root)) and not recorded.unknown
    assert read_json(workdir / "result.json")["lineage"] == recorded.to_json() and str(root) not in json.dumps(own)
    keras_copy = shutil.copy(workdir / "student.keras", tmp_path / "mine.keras")
    saved_copy = shutil.copytree(workdir / "saved_model", tmp_path / "served")
    assert lineage.read(keras_copy) == lineage.read(saved_copy) == recorded
    model = keras.models.load_model(keras_copy, compile=False)
    images = np.zeros([2, 8, 8, 3], "float32")
    before = model(images)
    model.save(tmp_path / "resaved.keras")
    edited = tmp_path / "edited.keras"
    model.set_weights([1.5 * weight for weight in model.get_weights()])
    model.save(edited)
    with zipfile.ZipFile(keras_copy) as archive, zipfile.ZipFile(edited, "a") as target:
        target.writestr(paths.LINEAGE, archive.read(paths.LINEAGE))
    forged = tmp_path / "forged.keras"
    with zipfile.ZipFile(keras_copy) as archive, zipfile.ZipFile(forged, "w") as target:
        for name in archive.namelist():
            content = archive.read(name)
            target.writestr(
                name, content.replace(b'"data_seed": 0', b'"data_seed": 7') if name == paths.LINEAGE else content
            )
    assert zipfile.ZipFile(forged).read(paths.LINEAGE) != zipfile.ZipFile(keras_copy).read(paths.LINEAGE)
    newer = tmp_path / "newer.keras"  # a whole record of a later version, with another rule of a split
    shutil.copy(tmp_path / "resaved.keras", newer)
    training = own | {"split": own["split"] | {"by_colour": True}}
    lineage.write(newer, lineage.Lineage((training,)))
    for file in (tmp_path / "resaved.keras", edited, forged, newer):
        assert lineage.read(file) == lineage.Lineage(unknown=(str(file),))
    (saved_copy / "variables" / "variables.index").write_bytes(b"other")
    assert lineage.read(saved_copy).unknown
    np.testing.assert_array_equal(keras.models.load_model(keras_copy, compile=False)(images), before)
    # In its own workdir the settings of the run are still known.
    other = shutil.copytree(workdir, tmp_path / "workdir")
    model.save(other / "student.keras")
    inside = lineage.read(other)
    assert inside.unknown and inside.trainings[0]["split"] == own["split"]


def flags_of(root, workdir):
    """Flags of a run on photographs."""
    settings = [f"--{name}={value}" for name, value in TINY.items() if name != "report"]
    return [*settings, "--noreport", f"--dataset=folder:{root}", f"--workdir={workdir}"]


@pytest.mark.parametrize("pairs", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_start_weights_that_have_seen_measured_images_are_refused(first, tmp_path, capsys, pairs):
    root, workdir = first
    flags = flags_of(root, tmp_path / "second")
    copy = shutil.copy(workdir / "student.keras", tmp_path / "copy.keras")
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    starts = f"--student_checkpoint={workdir}", f"--student={copy}", f"--student_checkpoint={copy}"
    others = "--data_seed=1", "--validation_fraction=0.3", f"--dataset=folder:{moved} --data_seed=1"
    for start, other in itertools.product(starts, others) if pairs == "all" else zip(starts, others, strict=True):
        assert exit_code(train.cli_main, *flags, start, *other.split()) == 2
        error = capsys.readouterr().err
        assert "has trained on" in error and "validation images" in error and error.count("error: ") == 1
        assert "--data_seed=0 --validation_fraction=0.1" in error
        assert not (tmp_path / "second" / "metrics.jsonl").exists()
    tuned = [*flags, f"--student_checkpoint={workdir}", "--data_seed=1", "--search=learning_rate:choice:0.1,0.01"]
    assert exit_code(tune.cli_main, *tuned, f"--workdir={tmp_path / 'search'}") == 2
    assert "has trained on" in capsys.readouterr().err


@pytest.mark.slow
def test_a_searched_student_that_has_seen_them_fails_its_trial_and_a_grandchild_is_refused(first, tmp_path, capsys):
    root, workdir = first
    flags = flags_of(root, tmp_path / "second")
    copy = shutil.copy(workdir / "student.keras", tmp_path / "copy.keras")
    searched = [*flags, "--data_seed=1", f"--search=student:choice:cnn_2,{copy}", "--tuner=grid"]
    assert exit_code(tune.cli_main, *searched, f"--workdir={tmp_path / 'searched'}") == 0
    record = read_json(tmp_path / "searched" / "trials" / "0001" / "record.json")
    assert record["status"] == "failed" and "has trained on" in record["reason"]
    # The split of its run is fine, and so are a grandchild's numbers; a grandchild with another split is not.
    assert exit_code(train.cli_main, *flags, f"--student_checkpoint={workdir}") == 0
    capsys.readouterr()
    grandchild = [*flags, f"--workdir={tmp_path / 'third'}", f"--student_checkpoint={tmp_path / 'second'}"]
    assert exit_code(train.cli_main, *grandchild, "--data_seed=1") == 2
    assert len(lineage.read(tmp_path / "second").trainings) == 1  # the same set by the same rule, twice


def test_a_model_is_neither_evaluated_nor_calibrated_on_what_it_has_seen(first, tmp_path, capsys):
    root, workdir = first
    flags = [f"--model={workdir}", f"--dataset=folder:{root}", "--notiming", "--bootstrap=0"]
    assert exit_code(evaluate.cli_main, *flags, "--data_seed=1") == 2
    error = capsys.readouterr().err
    assert "test images" in error and "split of its own run: --data_seed=0. Received" in error
    assert exit_code(evaluate.cli_main, *flags) == 0
    # A run of an earlier version whose start weights had seen what it held out: its settings say so.
    old = tmp_path / "old"
    shutil.copytree(workdir, old)
    shutil.copy(workdir / "student.keras", tmp_path / "start.keras")
    record = read_json(workdir / "config.json") | {"data_seed": 1, "student_checkpoint": str(workdir)}
    write_json(old / "config.json", record)
    (old / "result.json").unlink()
    loading.load(workdir).save(old / "student.keras")
    capsys.readouterr()
    assert exit_code(evaluate.cli_main, f"--model={old}", "--calibrate", "--notiming", "--bootstrap=0") == 2
    assert "has trained on" in capsys.readouterr().err and not (old / "calibration.json").exists()


def test_a_teacher_that_has_seen_them_is_a_warning_that_stays(first, tmp_path, capsys):
    root, workdir = first
    settings = SMALL | TINY | {"loss": "kd", "dataset": f"folder:{root}", "teacher_checkpoint": str(workdir)}
    with pytest.raises(InputError, match="chance"):  # one epoch on noise; the warning comes first
        run(tmp_path / "chance", settings, data_seed=1)
    assert "warning: The teacher" in capsys.readouterr().err
    dataset, ours = data.load(settings_of(root, data_seed=1)), settings_of(root, data_seed=1)
    teacher = lineage.read(workdir).as_teacher()
    student = lineage.of_run(Config(**TINY, dataset=ours.dataset, data_seed=1), dataset, None, workdir)
    assert [training["via"] for training in student.trainings] == ["weights", "teacher"]
    (seen,) = lineage.images_seen(student, dataset, ours)
    assert seen.training["via"] == "teacher" and teacher.trainings == student.trainings[1:]
    file = tmp_path / "student.keras"
    loading.load(workdir).save(file)
    lineage.write(file, student)
    (warning,) = lineage.require_unseen({"model": file}, dataset, ours)
    assert "The teacher of --model" in warning and "test images" in warning


@pytest.mark.slow
def test_data_that_has_changed_since_counts_as_seen_where_it_is_drawn(first, tmp_path):
    root, workdir = first
    place = shutil.copytree(root, tmp_path / "photos")
    run(tmp_path / "run", TINY, dataset=f"folder:{place}")
    write_image(place / "cat" / "new.png", random_image(99, 8, 8))
    ours = settings_of(place)
    (seen,) = lineage.images_seen(lineage.read(tmp_path / "run"), data.load(ours), ours)
    assert not seen.exact and seen.text.startswith("most of the") and seen.images.keys() == {"validation", "test"}
    other = photos(tmp_path / "others", videos=9)
    elsewhere = settings_of(other, data_seed=3)
    assert lineage.images_seen(lineage.read(workdir), data.load(elsewhere), elsewhere) == []


@pytest.mark.slow
def test_an_unknown_ancestry_is_said_once(first, tmp_path, capsys):
    root, workdir = first
    foreign = tmp_path / "foreign.keras"
    loading.load(workdir).save(foreign)
    run(tmp_path / "run", TINY, dataset=f"folder:{root}", student_checkpoint=str(foreign))
    out = capsys.readouterr().out
    assert out.count("has no record of training") == 1 and str(foreign) in out
    assert read_json(tmp_path / "run" / "result.json")["lineage"]["unknown"] == [str(foreign)]


def test_the_lineage_of_a_saved_model_is_not_part_of_its_fingerprint(first, tmp_path):
    _, workdir = first
    saved_model.save_saved_model(loading.load(workdir), tmp_path / "plain", ["cat", "dog"])
    before = paths.file_fingerprint(tmp_path / "plain")
    lineage.write(tmp_path / "plain", lineage.Lineage(unknown=("a",)))
    assert paths.file_fingerprint(tmp_path / "plain") == before and lineage.read(tmp_path / "plain").unknown == ("a",)


def test_a_split_is_drawn_again_without_the_files_that_do_not_decode(tmp_path):
    """Two nested splits of a folder with a damaged file: no validation image of the smaller one was trained on."""
    root = photos(tmp_path)
    damaged = sorted(root.rglob("*.png"))[3]
    damaged.write_bytes(damaged.read_bytes()[:60])
    rules = [settings_of(root, validation_fraction=fraction) for fraction in (0.4, 0.2)]
    loaded = [data.load(rule) for rule in rules]
    used = image_set(loaded[0].train.images)
    assert redraw.trained_on(rules[0], loaded[1], rules[1]) == {
        name: sum(image.tobytes() in used for image in getattr(loaded[1], name).images)
        for name in ("validation", "test")
    }


def test_export_refuses_test_images_that_were_drawn_again(first, tmp_path):
    root, workdir = first
    more = root / "cat" / "added.png"
    write_image(more, random_image(77, 8, 8))
    try:
        with pytest.raises(InputError, match="The data has changed since the run, so other test images may be drawn"):
            export_student(workdir, tmp_path / "out", formats=["keras"])
    finally:
        more.unlink()
    assert not (tmp_path / "out").exists()
