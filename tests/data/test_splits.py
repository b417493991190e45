"""Splits by class and by group: no class loses its training images, and no group is on both sides."""

import collections
import dataclasses
import importlib.machinery
import os
import pathlib
import sys
import types

import numpy as np
import pytest

from skd_tf import data, evaluate
from skd_tf.config import Config
from skd_tf.config.flags import read_flagfile
from skd_tf.data import dataset, folder_index, grouping, hold_out
from skd_tf.errors import InputError
from skd_tf.runs import data_identity
from skd_tf.runs.run_record import with_recorded_rules
from skd_tf.runtime.files import write_json
from skd_tf.training import dry_run, nested_runs, preflight
from tests.helpers.images import load, random_image, write_image

RARE = np.r_[np.repeat(np.arange(40), 2), np.full(920, 40)].astype(np.int32)  # 40 classes with two images each


def drawn(labels, fraction=0.1, seed=0, **options):
    random = np.random.Generator(np.random.Philox(seed))
    return hold_out.held_out_rows(np.asarray(labels), fraction, random, **options)


def counts(labels, classes):
    return np.bincount(labels[labels >= 0], minlength=classes)


@pytest.mark.parametrize("seed", range(50))
def test_no_class_loses_its_last_training_image(seed):
    rows = drawn(RARE, seed=seed)
    assert len(rows) == 100 and len(set(rows.tolist())) == 100 and (np.diff(rows) > 0).all()
    assert (counts(np.delete(RARE, rows), 41) > 0).all()
    assert counts(RARE[rows], 41)[40] == 92  # its tenth


def test_the_rows_of_uniform_are_those_of_earlier_versions():
    labels = np.where(np.arange(1000) % 3, RARE, -1)
    lost = 0
    for seed in range(50):
        labelled = labels >= 0
        order = np.random.Generator(np.random.Philox(seed)).permutation(1000)
        expected = np.sort(order[labelled[order]][: round(labelled.sum() * 0.1)])
        rows = drawn(labels, seed=seed, stratified=False)
        assert np.array_equal(rows, expected)
        lost += (counts(np.delete(labels, rows), 41) < (counts(labels, 41) > 0)).any()
    assert lost > 5  # which is what stratifying is for


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.37, 0.5])
def test_each_class_gives_its_share(fraction):
    random = np.random.default_rng(3)
    labels = random.choice(12, 700, p=np.arange(1, 13) / 78)
    labels[:50] = -1
    rows = drawn(labels, fraction)
    assert len(rows) == round(650 * fraction) and (labels[rows] >= 0).all()
    held, sizes = counts(labels[rows], 12), counts(labels, 12)
    assert np.abs(held - sizes * len(rows) / 650).max() < 1  # no share is off by a whole image
    assert not np.array_equal(rows, drawn(labels, fraction, seed=1))
    assert np.array_equal(rows, drawn(labels, fraction))


def test_of_equal_classes_no_one_is_preferred():
    """Ten classes of five at a tenth: five of them give an image, each class in about half of the seeds."""
    given = sum(counts(np.repeat(np.arange(10), 5)[drawn(np.repeat(np.arange(10), 5), seed=s)], 10) for s in range(400))
    assert given.sum() == 5 * 400 and given.min() > 140 and given.max() < 260


def test_classes_of_one_image_keep_it():
    assert len(drawn(np.arange(30), 0.5)) == 0
    rows = drawn(np.r_[np.arange(30), np.full(30, 30)], 0.5)
    assert (rows >= 30).all() and len(rows) == 16  # half of the large class, and no more than one image beyond


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_no_group_is_on_both_sides(seed, stratified):
    random = np.random.default_rng(0)
    videos = random.integers(3, 30, 60)
    groups, labels = np.repeat(np.arange(60), videos), np.repeat(np.arange(60) % 4, videos)
    shuffled = random.permutation(len(labels))
    groups, labels = groups[shuffled], labels[shuffled]
    rows = drawn(labels, 0.2, seed, groups=groups, stratified=stratified)
    kept = np.setdiff1d(np.arange(len(labels)), rows)
    assert not set(groups[rows].tolist()) & set(groups[kept].tolist())
    assert abs(len(rows) / len(labels) - 0.2) < (0.06 if stratified else 0.03)
    assert (counts(labels[kept], 4) > 0).all()
    if stratified:
        assert np.abs(counts(labels[rows], 4) / counts(labels, 4) - 0.2).max() < 0.15
    assert not np.array_equal(rows, drawn(labels, 0.2, seed + 100, groups=groups, stratified=stratified))


def test_groups_of_several_classes_and_without_labels():
    labels, groups = np.array([0, 1, -1] * 20), np.repeat(np.arange(20), 3)
    rows = drawn(labels, 0.2, groups=groups)
    assert len(rows) == 12 and (counts(labels[rows], 2) == 4).all() and (labels[rows] == -1).sum() == 4


def test_large_groups():
    labels, groups = np.repeat([0, 1], 30), np.repeat(np.arange(6), 10)  # three groups a class, a tenth wanted
    rows = drawn(labels, 0.1, groups=groups)
    assert len(rows) == 10 and len(set(groups[rows].tolist())) == 1  # the smallest step there is
    with pytest.raises(InputError, match=r"No group of images can be held out.*Received 2 groups"):
        drawn(labels, 0.1, groups=labels)


def test_names_give_groups(capsys):
    names = ["p1_a.png", "p1_b.png", "p2_a.png", "other.png"]
    assert grouping.group_names(names[:3], r"^(p\d)_") == ["p1", "p1", "p2"]
    assert grouping.group_names(names[:3], r"p\d") == ["p1", "p1", "p2"]
    assert len(set(grouping.group_names(["a1b2c", "a1b3c", "a12bc"], r"a(\d+)b(\d*)"))) == 3
    assert len(set(grouping.group_names([*names, "more.png"], r"^(p\d)_"))) == 4
    assert "does not match 2 of 5 files, such as other.png" in capsys.readouterr().err
    assert len(set(grouping.group_names(["1.png", "other.png"], r"^(p_)?(\d)"))) == 2
    with pytest.raises(InputError, match=r"--group matches no file name.*such as p1_a.png"):
        grouping.group_names(names, "z")
    with pytest.raises(InputError, match="--group does not parse"):
        Config(group="(")


def test_what_a_folder_says_of_its_groups_is_said_once(tmp_path, capsys):
    """A run asks for its folder several times."""
    for number in range(10):
        for name in "ab":
            write_image(tmp_path / name / f"{number}{'_x' * (number > 4)}.png", random_image(number, 8, 8))
    for folder in (tmp_path, tmp_path / "a", tmp_path / "b"):
        os.utime(folder, ns=(10**18, 10**18))  # a folder that has just changed is read again
    for name in (f"folder:{tmp_path}", f"images:{tmp_path}"):
        first = folder_index.find(name, 0, group=r"^(.*)_x")
        assert folder_index.find(name, 0, group=r"^(.*)_x") is first
        warned = capsys.readouterr().err.splitlines()
        assert len(warned) == (1 if name.startswith("folder") else 2)  # images: one for each part
        assert folder_index.find(name, 1, group=r"^(.*)_x").splits != first.splits
        capsys.readouterr()
    write_image(tmp_path / "a" / "new.png", random_image(7, 8, 8))
    assert folder_index.find(f"images:{tmp_path}", 0, group=r"^(.*)_x") is not first


def clips(root, parts=("",), videos=10, frames=3, nested=False):
    """PART/CLASS/vNN_F.png, or PART/CLASS/vNN/F.png: videos of one class, each with some frames."""
    for part in parts:
        for label, name in enumerate(("cat", "dog")):
            for video in range(videos):
                for frame in range(frames):
                    place = f"{video:02d}/{frame}.png" if nested else f"{video:02d}_{frame}.png"
                    image = random_image(1000 * label + 10 * video + frame, 8, 8)
                    write_image(root / part / name / f"{'cd'[label]}{place}", image)
    return root


def video_of(split, root):
    """{video} of the images of a split, found by their pixels."""
    pixels = {}
    for path in root.rglob("*.png"):
        key = path.name.split("_")[0] if "_" in path.name else path.parent.name
        label, frame = "cd".index(key[0]), int(path.stem.split("_")[-1])
        pixels[random_image(1000 * label + 10 * int(key[1:]) + frame, 8, 8).tobytes()] = key
    return {pixels[image.tobytes()] for image in np.asarray(split.images[:])}


@pytest.mark.parametrize(
    "nested, group, cache",
    [
        (True, r"^([^/]+)/", "none"),
        pytest.param(False, r"^(\w+)_", "memory", marks=pytest.mark.slow),
        pytest.param(False, r"^(\w+)_", "none", marks=pytest.mark.slow),
        pytest.param(True, r"^([^/]+)/", "memory", marks=pytest.mark.slow),
    ],
)
def test_a_folder_keeps_groups_together_in_all_three_splits(tmp_path, nested, group, cache):
    root = clips(tmp_path, nested=nested)
    dataset = load(root, group=group, validation_fraction=0.2, cache_dataset=cache)
    parts = [video_of(split, root) for split in (dataset.train, dataset.validation, dataset.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 20
    sizes = [len(split) for split in (dataset.train, dataset.validation, dataset.test)]
    assert sizes == [3 * len(part) for part in parts] and sizes[2] == 12 and 6 <= sizes[1] <= 12
    assert {video[0] for part in parts for video in part} == {"c", "d"}
    plain = load(root, validation_fraction=0.2)
    shared = [video_of(split, root) for split in (plain.train, plain.validation, plain.test)]
    assert shared[0] & shared[1] and shared[0] & shared[2]  # without --group they are torn apart
    other = load(root, group=group, validation_fraction=0.2, data_seed=1)
    assert video_of(other.test, root) != parts[2]


def test_a_dry_run_counts_what_the_run_gets(tmp_path):
    root = clips(tmp_path)
    config = Config(
        dataset=f"folder:{root}", group=r"^(\w+)_", validation_fraction=0.2, batch_size=4, loss="cross_entropy"
    )
    dataset = data.load(config.pick(data.DataSettings))
    sizes = preflight.dataset_sizes(config)
    assert sizes.held_out(0.2) == len(dataset.validation) and sizes.test == len(dataset.test)
    assert f"{len(dataset.train)} to train, {len(dataset.validation)} to validate" in dry_run.describe(config)


def test_groups_that_the_folder_itself_tears_apart_are_named(tmp_path, capsys):
    root = clips(tmp_path, parts=("train", "test"))
    load(root, group=r"^(\w+)_")
    assert "Both train and test contain 20 groups with 60 of 60 test images" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_sets_without_file_names_have_no_groups(dataset):
    config = Config(dataset=dataset, group="a", loss="cross_entropy", download=True)
    with pytest.raises(InputError, match="--group needs the names of files"):
        data.load(config.pick(data.DataSettings))
    with pytest.raises(InputError, match="--group needs the names of files"):
        dry_run.describe(config)


@pytest.fixture
def function(monkeypatch):
    """Makes `splits:load` return a dict."""

    def define(**spec):
        module = types.ModuleType("splits")
        module.load = lambda data_dir: {"class_names": ["a", "b"], **spec}
        module.__spec__ = importlib.machinery.ModuleSpec("splits", None)
        monkeypatch.setitem(sys.modules, "splits", module)
        return data.DataSettings(dataset="splits:load", validation_fraction=0.2)

    return define


def arrays(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, [count, 4, 4, 1], np.uint8), np.arange(count) % 2


@pytest.mark.parametrize("kind", [int, str, lambda group: b"\xe8\xe9\xea"[group % 3 :][:1] + str(group).encode()])
def test_the_groups_of_a_function(function, kind):
    groups = [kind(i // 4) for i in range(80)]
    dataset = data.load(function(train=arrays(80), test=arrays(6), groups=groups))
    sides = [{i // 4 for i in split.index} for split in (dataset.train, dataset.validation)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 20 and len(dataset.validation) == 16


def test_copies_in_the_arrays_of_a_function_are_counted(function, capsys):
    images, labels = arrays(80)
    assert data.load(function(train=(images, labels), test=arrays(6, seed=1))).warnings == ()
    images[40:] = images[:40]
    drawn, parts = sorted(data.load(function(train=(images, labels), test=(images[:3], labels[:3]))).warnings)
    assert " of 16 validation images, drawn from the training images, are also among" in drawn
    assert (
        parts
        == "The train split contains 3 images of the test split, by content, so what is measured there is too good."
    )
    assert parts in capsys.readouterr().err


def test_bad_groups_of_a_function(function):
    for groups in (range(79), [[1]] * 80, np.zeros(80)):
        with pytest.raises(InputError, match=r"groups entry.*one per training example"):
            data.load(function(train=arrays(80), test=arrays(6), groups=groups))
    settings = dataclasses.replace(function(train=arrays(80), test=arrays(6), groups=range(80)), group="a")
    with pytest.raises(InputError, match="no --group with it"):
        data.load(settings)
    settings = dataclasses.replace(function(train=arrays(80), test=arrays(6)), group="a")
    with pytest.raises(InputError, match="paths of files with --group"):
        data.load(settings)


def test_the_files_of_a_function_are_grouped_by_name(function, tmp_path):
    clips(tmp_path, ("train", "test"))
    parts = {part: sorted(map(str, (tmp_path / part).rglob("*.png"))) for part in ("train", "test")}
    spec = {part: (paths, [int("/dog/" in path) for path in paths]) for part, paths in parts.items()}
    dataset = data.load(dataclasses.replace(function(**spec), group=r"^(\w+)_"))
    sides = [video_of(split, tmp_path / "train") for split in (dataset.train, dataset.validation)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 20


def test_classes_without_an_image_are_named(function, capsys):
    images, labels = arrays(80)
    data.load(function(train=(images, labels), test=(images[:3], np.zeros(3, int))))
    error = capsys.readouterr().err
    assert "splits:load: no test image of 1 of 2 classes: b." in error and "no training" not in error
    data.load(function(train=(images, np.zeros(80, int)), test=(images, labels)))
    error = capsys.readouterr().err
    assert "no training image of 1 of 2 classes: b." in error and "no validation image of 1 of 2 classes: b." in error
    data.load(function(train=(images, np.full(80, -1)), test=(images, labels)))  # a teacher labels them all
    assert "no training image" not in capsys.readouterr().err
    assert (
        hold_out.missing_classes(RARE[:1], [str(c) for c in range(41)]) == "40 of 41 classes: 1, 2, 3, 4, 5 and 35 more"
    )


def test_a_model_with_other_groups_has_seen_the_test_images(tmp_path, monkeypatch, capsys):
    root = clips(tmp_path / "photos")
    config = Config(dataset=f"folder:{root}", loss="cross_entropy", group=r"^(\w+)_")
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "config.json", config.to_json())
    (tmp_path / "run" / "student.keras").touch()
    flags = [f"--model={tmp_path / 'run'}", f"--dataset={config.dataset}", "--group="]
    monkeypatch.setattr("sys.argv", ["evaluate", *flags])
    with pytest.raises(SystemExit) as ended:
        evaluate.cli_main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and r"--data_seed=0 '--group=^(\w+)_'. Received" in error and "test images" in error


def test_earlier_runs_keep_uniform_and_a_teacher_shares_the_split():
    old = {name: value for name, value in Config().to_json().items() if name not in ("validation_split", "group")}
    before = Config.from_json({name: value for name, value in old.items() if name != "data_rules"} | {"version": 1})
    assert (before.validation_split, before.group) == ("uniform", "")
    assert with_recorded_rules(Config(), lambda: before).validation_split == "uniform"
    config = Config(teacher="cnn_2", validation_split="uniform", group="a", dataset="folder:x")
    teacher = nested_runs.teacher_config(config)
    assert (teacher.validation_split, teacher.group) == ("uniform", "a")


def test_recipes_keep_their_split():
    for path in pathlib.Path(__file__).parents[2].glob("skd_tf/recipes/*/base.flags"):
        if path.parent.name == "fine_tuning":
            continue  # has no record from before --validation_split
        assert read_flagfile(path)[0].validation_split == "uniform", path


def test_a_folder_without_groups_is_split_as_before(tmp_path):
    root = clips(tmp_path)
    found = folder_index.find(f"folder:{root}", 0)
    assert collections.Counter(label for _, label in found.splits["test"]) == {0: 6, 1: 6} and found.groups is None


def test_the_images_of_a_run_are_hashed_once(monkeypatch):
    """Each trial of a search identifies its data, and the teacher's cache does so too."""
    hashed = []
    monkeypatch.setattr(dataset, "digest_of", lambda images: hashed.append(len(images)) or "digest")
    digits = data.load(Config().pick(data.DataSettings))
    assert [data_identity.data_facts(digits)["images"] for _ in range(3)].count(None) == 0
    assert digits.train.images_digest == "digest" and hashed == [len(digits.train)]
