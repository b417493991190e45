"""What a run refuses before it loads anything, and that it then leaves no workdir."""

import contextlib
import json
import os
import pathlib
import sys

import pytest

from skd_tf.config import Config
from skd_tf.config.flags import read_flagfile
from skd_tf.data import loading
from skd_tf.errors import InputError
from skd_tf.runtime import user_code
from skd_tf.search.plan import Plan
from skd_tf.search.run_search import run_search
from skd_tf.training import dry_run, experiment, preflight, unlabelled, workdir_place
from tests.helpers import runs
from tests.helpers.images import make_folder

OLD_RUN = pathlib.Path(__file__).parents[1] / "old_runs" / "0.1.0" / "finished"
CODE = """
import keras
if True:
    def small(input_shape, num_classes): raise AssertionError("called")
def one_argument(input_shape): ...
def hungry(student_logits, teacher_logits, labels, power): ...
def data(): ...
from json import loads as imported
number = 3
globals()["hidden"] = lambda input_shape, num_classes: None
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a module of networks, files that are no models, and links; nothing in it may be loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_nets.py").write_text(CODE)
    (tmp_path / "broken.py").write_text("x = 1\ndef small(:\n")
    (tmp_path / "needs.py").write_text("import os\nimport no_such_package\ndef small(input_shape, num_classes): ...\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("import no_such_package\n")
    (tmp_path / "package" / "nets.py").write_text("")
    for name in ("old.h5", "torch.pth", "lite.tflite", "file"):
        (tmp_path / name).touch()
    (tmp_path / "photos").mkdir()
    for name in "ab":
        (tmp_path / "two" / name).mkdir(parents=True)
        for number in range(60):
            (tmp_path / "two" / name / f"{number}.png").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    (tmp_path / "nested.flags").write_text("--student=my_nets:smal\n--epochs=1\n")
    monkeypatch.setattr(loading, "_load", lambda *_: pytest.fail("data are loaded"))
    yield tmp_path
    for name in ("my_nets", "broken", "needs", "package"):
        sys.modules.pop(name, None)


REFUSALS = [
    ("no such function.*--student=my_nets:smal", {"student": "my_nets:smal"}),
    ("no such function.*--student=my_nets:number", {"student": "my_nets:number"}),
    ("no such function.*--teacher=my_nets:smal", {"teacher": "my_nets:smal"}),
    ("no such function.*--dataset=my_nets:nope", {"dataset": "my_nets:nope"}),
    ("no such function.*--student=my_nets:smal", {"teacher_flagfile": "nested.flags", "teacher": ""}),
    ("broken cannot be imported.*broken.py line 2", {"student": "broken:small"}),
    (r"No module named 'no_such_package' in .*needs.py line 2, with --student=needs:small", {"student": "needs:small"}),
    (r"package cannot be imported.*no_such_package", {"student": "package.nets:small"}),
    ("no module nowhere", {"student": "nowhere:small"}),
    ("no module my_nets.inner", {"student": "my_nets.inner:small"}),
    ("no such network.*Did you mean ResNet50", {"student": "keras.applications:ResNet5O"}),
    ("no such network", {"teacher_checkpoint": "keras.applications:Nope"}),
    (r"other arguments.*one_argument\(input_shape, num_classes\)", {"student": "my_nets:one_argument"}),
    (r"other arguments.*data\(data_dir\)", {"dataset": "my_nets:data"}),
    ("no such folder.*folder:nope", {"dataset": "folder:nope"}),
    ("A file is not a folder.*folder:file", {"dataset": "folder:file"}),
    ("digit is not prepared.*Did you mean digits", {"dataset": "digit"}),
    ("file is not prepared.*A file is no dataset: MODULE:FUNCTION", {"dataset": "file"}),
    ("photos is not prepared.*Did you mean --dataset=folder:photos", {"dataset": "photos"}),
    (r"Not a model that skd_tf reads.*old.h5.*load_model\('old.h5'", {"teacher_checkpoint": "old.h5"}),
    ("Not a model that skd_tf reads.*convert_torch", {"teacher_checkpoint": "torch.pth"}),
    ("No model there.*typo", {"student_checkpoint": "typo"}),
    ("--teacher_cache_dir is a file", {"teacher_cache_dir": "file"}),
    ("at least 5000 training examples", {"batch_size": 5000}),
    ("link that leads nowhere.*gone", {"workdir": "dangling"}),
    ("link that leads nowhere.*gone", {"workdir": "dangling/run"}),
    ("Two classes leave two points", {"dataset": "folder:two", "loss": "spherical"}),
    ("--teacher_cache_top is too large", {"teacher_cache_dir": "cache", "teacher_cache_top": 9}),
    ("is a file", {"workdir": "file"}),
    ("is inside the file", {"workdir": "file/run"}),
    ("workdir is in the folder of the pictures", {"dataset": "folder:.", "workdir": "runs/a"}),
    ("workdir is in the folder.*--unlabelled=images:.", {"unlabelled": "images:.", "workdir": "runs"}),
]


# A search takes no student alone, and the dry run calls no loss.
OF_A_RUN = [
    ("needs settings that are not given", {"loss": "my_nets:hungry"}),
    ("is not this training without its teacher", {"student_alone": str(OLD_RUN)}),
    ("This file can only be measured.*Use the model", {"student_alone": "lite.tflite"}),
    ("needs a teacher", {"teacher": ""}),
]


@pytest.mark.parametrize(("words", "settings"), REFUSALS + OF_A_RUN)
def test_a_run_is_refused_before_it_loads_anything_and_leaves_no_workdir(place, words, settings):
    workdir = settings.get("workdir", "runs/first")
    config = Config(
        **{"teacher": "cnn_2", "strategy": "one_device"} | {k: v for k, v in settings.items() if k != "workdir"}
    )
    before = sorted(place.rglob("*"))
    with pytest.raises(InputError, match=words):
        experiment.run(config, workdir)
    assert [path for path in sorted(place.rglob("*")) if "__pycache__" not in path.parts] == before


# What only running the user's code, or Keras, can tell; the dry run starts neither.
NEEDS_CODE = ("no such network", "other arguments", "my_nets:number", "needs.py line 2")


def test_the_dry_run_and_a_search_refuse_the_same(place):
    for words, settings in [case for case in REFUSALS if not any(part in case[0] for part in NEEDS_CODE)]:
        settings = {"teacher": "cnn_2"} | settings
        workdir = settings.pop("workdir", "runs/first")
        with pytest.raises(InputError, match=words):
            dry_run.describe(Config(**settings), workdir)
    for words, settings in REFUSALS:
        settings = {"teacher": "cnn_2"} | settings
        workdir = settings.pop("workdir", "runs/first")
        with pytest.raises(InputError, match=words):
            run_search(Plan(Config(**settings), ("temperature:choice:1,2",)), workdir)
    assert not (place / "runs").exists()


def test_a_workdir_beside_the_parts_of_a_folder_is_none_of_its_pictures(tmp_path):
    for part in ("train/cat", "train/dog", "test/cat", "flat/cat", "old"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "flat" / "begun").mkdir()
    (tmp_path / "flat" / "begun" / "config.json").write_text("{}")
    for folder, workdir, refused in (
        (".", "runs/a", False),
        (".", ".", True),
        (".", "train/a", True),
        ("flat", "flat/a", True),
        ("flat", "flat/.runs/a", False),
        ("flat", "flat/begun/student_alone", False),
        ("flat", "elsewhere", False),
    ):
        found = pytest.raises(InputError, match="among the data") if refused else contextlib.nullcontext()
        with found:
            workdir_place.check(Config(dataset=f"folder:{tmp_path / folder}"), tmp_path / workdir)


def test_names_that_code_defines_in_any_way_are_found_without_running_it_if_possible(place):
    for name in ("small", "imported"):
        user_code.require(f"my_nets:{name}", "student")
        assert "my_nets" not in sys.modules
    user_code.require("my_nets:hidden", "student")  # its source does not define it, so it is imported
    assert "my_nets" in sys.modules


def test_a_run_that_is_refused_late_leaves_what_was_there(tmp_path):
    """A student that does not fit is only known once the data are loaded."""
    (tmp_path / "notes.txt").write_text("mine")
    for workdir in (tmp_path, tmp_path / "a" / "b"):
        with pytest.raises(InputError, match="cannot be built"):
            runs.train(workdir, student="keras.applications:ResNet50")
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_overwrite_keeps_the_old_run_if_the_new_one_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no such folder"):
        runs.train(tmp_path, dataset="folder:nope", overwrite=True)
    assert (tmp_path / "config.json").read_text() == "{}"


def test_a_path_object_is_a_setting_like_its_text(tmp_path):
    for name in ("teacher_checkpoint", "student_checkpoint", "teacher_cache_dir", "teacher_flagfile", "student_alone"):
        assert Config(**{name: tmp_path / "x"}) == Config(**{name: str(tmp_path / "x")}), name
    assert Config(student=pathlib.Path("net.keras")).student == "net.keras"
    for name, value in (("optimizer", "sgd"), ("epochs", "3")):
        with pytest.raises(InputError, match="wrong kind"):
            Config(**{name: pathlib.Path(value)})
    with pytest.raises(InputError, match="is a URL"):
        Config(teacher_checkpoint=pathlib.Path("gs://bucket/x"))


def test_a_flagfile_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "base.flags").write_bytes(b"\xef\xbb\xbf--epochs=7\r\n")
    (tmp_path / "run.flags").write_bytes(b"\xef\xbb\xbf--flagfile=base.flags\r\n--seed=3\r\n")
    config, given = read_flagfile(tmp_path / "run.flags")
    assert (config.epochs, config.seed, given) == (7, 3, {"epochs", "seed"})


@pytest.mark.parametrize("setting", [{"early_stopping_patience": 2}, {"ship": "best"}])
def test_validation_images_are_asked_for_before_anything_is_trained(setting):
    with pytest.raises(InputError, match=f"--{next(iter(setting))} needs validation images"):
        preflight.check_before_loading(Config(**runs.ALONE | setting | {"validation_fraction": 0.0}), None)
    with pytest.raises(InputError, match="needs validation images"):
        dry_run.describe(Config(**runs.ALONE | setting | {"validation_fraction": 0.0}))
    preflight.check_before_loading(Config(**runs.ALONE | setting), None)


def test_a_search_may_hold_nothing_out_of_a_folder_with_its_own_validation_part(tmp_path):
    for parts, is_refused in ((("train", "test"), True), (("train", "val", "test"), False)):
        folder = make_folder(tmp_path / "_".join(parts), parts=parts, per_class=2)
        config = Config(dataset=f"folder:{folder}", validation_fraction=0.0)
        with pytest.raises(InputError, match="never sees") if is_refused else contextlib.nullcontext():
            preflight.require_search_validation(config, None)


def test_a_folder_with_its_own_validation_part_holds_out_no_groups(tmp_path):
    folder = make_folder(tmp_path, parts=("train", "val", "test"), per_class=4, formats=(".png",))
    for path in list(folder.rglob("*.png")):
        path.rename(path.with_name(f"{path.parent.name}_{path.name}"))  # one group per class: none can be held out
    config = Config(dataset=f"folder:{folder}", group="^(.*)_")
    sizes = preflight.dataset_sizes(config)
    assert (sizes.train, sizes.validation, sizes.drawn) == (12, 12, None)


def test_the_default_of_several_configs_of_a_set_is_not_guessed(tmp_path):
    features = {"featuresDict": {"features": {"label": {"classLabel": {"numClasses": "3"}}}}}
    record = {"supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}}}
    for place, count in (("a/1.0.0", "5000"), ("b/1.0.0", "50"), ("b/2.0.0", "60")):
        (tmp_path / "foo" / place).mkdir(parents=True)
        splits = [{"name": name, "shardLengths": [count]} for name in ("train", "test")]
        (tmp_path / "foo" / place / "dataset_info.json").write_text(json.dumps(record | {"splits": splits}))
        (tmp_path / "foo" / place / "features.json").write_text(json.dumps(features))
    sizes = {name: preflight.dataset_sizes(Config(dataset=name), tmp_path) for name in ("foo", "foo/a", "foo/b")}
    assert sizes["foo"] is None and (sizes["foo/a"].train, sizes["foo/b"].train) == (5000, 60)


def test_micro_batches_are_those_of_a_replica_and_of_the_student_alone():
    split = {"strategy": "mirrored", "virtual_devices": 2, "batch_size": 64}
    with pytest.raises(InputError, match="at most 32, of --batch_size=64 on 2 replicas"):
        dry_run.describe(Config(loss="cross_entropy", micro_batches=40, **split), "w")
    alone = Config(unlabelled="images:x", student_alone="train", batch_size=64, unlabelled_share=0.5, micro_batches=48)
    with pytest.raises(InputError, match=r"which --student_alone trains on.*at most 32"):
        unlabelled.check_replicas(alone, 1)
    unlabelled.check_replicas(alone.replace(student_alone="none"), 1)
