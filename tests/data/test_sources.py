"""Datasets from folders and functions; each mistake in them is reported in one line."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data import augmentation, catalog, image_ops
from skd_tf.errors import InputError
from skd_tf.training import dry_run, preflight
from tests.helpers.images import CLASSES, image_set, load, make_folder, random_image, stream, write_image


def test_a_folder_with_train_and_test(tmp_path):
    dataset = load(make_folder(tmp_path), validation_fraction=0.25)
    assert dataset.class_names == CLASSES and dataset.image_shape == (20, 16, 3)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (18, 6, 24)
    assert list(dataset.test.labels) == [0] * 8 + [1] * 8 + [2] * 8
    assert np.array_equal(dataset.test.images[0], random_image(0))  # a PNG, pixel for pixel
    assert np.array_equal(dataset.test.images[8 + 3], random_image(1003))
    before = dataset.version
    write_image(tmp_path / "train" / "cat" / "9.png", random_image(9))
    assert load(tmp_path).version != before


def test_one_folder_is_split_by_data_seed_class_by_class(tmp_path):
    make_folder(tmp_path, parts=("",), per_class=10)
    splits = [load(tmp_path, data_seed=seed, validation_fraction=0) for seed in (0, 0, 1)]
    for dataset in splits:
        assert list(np.bincount(dataset.train.labels)) == [8] * 3 and list(np.bincount(dataset.test.labels)) == [2] * 3
    known = [image_set(dataset.test.images) for dataset in splits]
    assert known[0] == known[1] != known[2]
    assert not known[0] & image_set(splits[0].train.images)


def test_grey_files_make_a_grey_set(tmp_path):
    for part in ("train", "test"):
        for name in ("0", "1"):
            for i in range(3):
                write_image(tmp_path / part / name / f"{i}.png", random_image(i, channels=1))
    assert load(tmp_path).image_shape == (20, 16, 1)
    write_image(tmp_path / "train" / "0" / "colour.png", random_image(7))
    assert load(tmp_path).image_shape == (20, 16, 3)


def test_images_of_several_sizes_need_image_size_and_keep_their_middle(tmp_path):
    make_folder(tmp_path, size=lambda i: [(20, 16), (30, 40)][i % 2])
    with pytest.raises(InputError, match=r"several sizes.*--image_size"):
        load(tmp_path)
    dataset = load(tmp_path, image_size=10)
    assert dataset.image_shape == (10, 10, 3)
    flat = np.full([40, 80, 3], 200, np.uint8)
    flat[:, :20], flat[:, 60:] = 0, 0  # only the middle square stays 200
    assert (image_ops.fit(tf.constant(flat), (10, 10, 3), 10).numpy() == 200).mean() > 0.7


def test_an_unreadable_file_is_named_and_skipped_and_too_many_are_an_error(tmp_path, capsys):
    make_folder(tmp_path, per_class=40, size=lambda i: (4, 4), suffixes=(".png",))
    whole = load(tmp_path, validation_fraction=0)
    bad = tmp_path / "train" / "dog" / "3.png"
    place = 40 + sorted(path.name for path in bad.parent.iterdir()).index(bad.name)
    bad.write_bytes(bad.read_bytes()[:40])  # truncated, with an intact header
    (tmp_path / "train" / "dog" / "notes.txt").write_text("")
    capsys.readouterr()
    for keep in ("memory", "none"):
        rest = load(tmp_path, validation_fraction=0, cache_dataset=keep)
        said = capsys.readouterr().err
        assert str(bad) in said and "notes.txt" in said
        assert len(rest.train) == 119 and place not in rest.train.index
        # The other images are augmented as before.
        images, all_images = (
            image_set(stream(dataset, Config(batch_size=len(dataset.train)), steps=1)[0][0])
            for dataset in (rest, whole)
        )
        assert images <= all_images
    for i in (5, 6):
        (tmp_path / "train" / "dog" / f"{i}.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"do not decode: 3 of 120.*dog.3\.png"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: make_folder(root, parts=("train",)), "one part only"),
        (lambda root: write_image(root / "cat" / "a.png", random_image(0)), "too few classes"),
        (lambda root: (make_folder(root), (root / "train" / "empty").mkdir()), "no images"),
        (
            lambda root: (make_folder(root), write_image(root / "test" / "fox" / "a.png", random_image(0))),
            "not trained on.*cat.*fox",
        ),
        (lambda root: make_folder(root, parts=("",), per_class=1), "too small to be split"),
    ],
)
def test_a_wrong_folder_is_reported_in_one_line(tmp_path, make, words):
    root = tmp_path / "set"
    make(root)
    with pytest.raises(InputError, match=words) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_unlabelled_images_are_never_held_out(tmp_path):
    make_folder(tmp_path, parts=("train", "test"))
    for i in range(24):
        write_image(tmp_path / "train" / "-1" / f"{i}.png", random_image(i))
    dataset = load(tmp_path, validation_fraction=0.5)
    described = dry_run.describe(Config(dataset=f"folder:{tmp_path}", validation_fraction=0.5, batch_size=4))
    assert (
        f"{len(dataset.train)} to train, {len(dataset.validation)} to validate, {len(dataset.test)} to test"
        in described
    )
    assert dataset.class_names == CLASSES
    assert (dataset.train.labels == -1).sum() == 24 and (dataset.validation.labels >= 0).all()
    assert len(dataset.validation) == 12 and len(dataset.train.labelled()) == 12


@pytest.mark.parametrize("keep", ["memory", "none"])
def test_unlabelled_test_images_are_left_out_of_the_test_split(tmp_path, keep):
    """Accuracy, agreement, their intervals and the check of an export are then all measured on the same images."""
    make_folder(tmp_path)
    whole = load(tmp_path, cache_dataset=keep)
    for i in range(5):
        write_image(tmp_path / "test" / "-1" / f"{i}.png", random_image(i))
    part = load(tmp_path, cache_dataset=keep)
    assert np.array_equal(part.test.labels, whole.test.labels) and np.array_equal(
        part.test.images[:], whole.test.images[:]
    )
    assert preflight.dataset_sizes(Config(dataset=f"folder:{tmp_path}")).test == len(whole.test) == 24


def test_a_test_split_without_labels_is_refused_before_training(tmp_path, user_module):
    make_folder(tmp_path / "set", parts=("train",))
    write_image(tmp_path / "set" / "test" / "-1" / "0.png", random_image(0))
    user_module(
        ARRAYS
        + """
def unlabelled(data_dir):
    images, labels = split(8)
    return arrays(data_dir) | {"test": (images, labels * 0 - 1)}
"""
    )
    for dataset in (f"folder:{tmp_path / 'set'}", "my_data:unlabelled"):
        config = Config(dataset=dataset)
        with pytest.raises(InputError, match="No test image has a label") as caught:
            data.load(config.pick(data.DataSettings))
        assert "\n" not in str(caught.value)
        assert (
            data.load(config.pick(data.DataSettings), test=False).test is None
        )  # a search does not read the test split


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """A function that writes my_data.py into a folder on Python's path."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_data", raising=False)

    def write_module(body):
        (tmp_path / "my_data.py").write_text("import numpy as np\nimport tensorflow as tf\n" + body)
        sys.modules.pop("my_data", None)

    yield write_module
    sys.modules.pop("my_data", None)


ARRAYS = """
def split(n):
    random = np.random.default_rng(n)
    return random.integers(0, 256, [n, 8, 8, 3], np.uint8), np.arange(n) % 4 - 1
def arrays(data_dir):
    return {"class_names": "abc", "train": split(40), "test": split(8), "mean": (.5,) * 3, "std": (.2,) * 3, "pad": 2,
            "flip": False}
def stream(data_dir):
    parts = {name: tf.data.Dataset.from_tensor_slices(split(n)) for name, n in (("train", 40), ("test", 8))}
    return {"class_names": "abc"} | parts
def floats(data_dir):
    return {"class_names": "abc", "train": (np.zeros([4, 8, 8, 3]), np.zeros(4, int)), "test": split(8)}
def labels(data_dir):
    return {"class_names": "ab", "train": split(40), "test": split(8)}
def endless(data_dir):
    return stream(data_dir) | {"train": tf.data.Dataset.from_tensors(split(1)).unbatch().repeat()}
def bare(data_dir):
    return {"train": split(40)}
"""


def test_a_function_returns_arrays_or_a_stream(user_module):
    user_module(ARRAYS)
    arrays = data.load(data.DataSettings(dataset="my_data:arrays", validation_fraction=0))
    assert arrays.class_names == ("a", "b", "c") and arrays.mean == (0.5,) * 3
    assert arrays.augmentation == augmentation.Augmentation(pad=2, flip=False)
    assert list(arrays.train.labels[:5]) == [-1, 0, 1, 2, -1]
    streamed = data.load(data.DataSettings(dataset="my_data:stream", validation_fraction=0))
    assert np.array_equal(arrays.train.images, streamed.train.images) and streamed.augmentation.flip
    assert data.load(data.DataSettings(dataset="my_data:stream", image_size=4)).image_shape == (4, 4, 3)


def test_a_function_returns_paths(user_module, tmp_path):
    make_folder(tmp_path / "set")
    user_module(f"""
import pathlib
def paths(data_dir):
    found = {{part: sorted(pathlib.Path({str(tmp_path / "set")!r}).glob(part + "/*/*"))
             for part in ("train", "test")}}
    return {{"class_names": {CLASSES!r}}} | {{
        part: (files, [{CLASSES!r}.index(file.parent.name) for file in files]) for part, files in found.items()}}
""")
    tests = [
        data.load(data.DataSettings(dataset="my_data:paths", cache_dataset="none")).test,
        load(tmp_path / "set").test,
    ]
    one, other = ([(int(y), x.tobytes()) for x, y in zip(test.images[:], test.labels, strict=True)] for test in tests)
    assert sorted(one) == sorted(other) and len(one) == 24


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("floats", "uint8"),
        ("labels", "from 0 to 1, or -1"),
        ("endless", "finite"),
        ("bare", "class_names"),
        ("missing", "no such function"),
        ("arrays", "already decoded"),
    ],
)
def test_a_wrong_function_is_reported_in_one_line(user_module, name, words):
    user_module(ARRAYS)
    settings = {"augmentation": "resized_crop", "image_size": 8} if name == "arrays" else {}
    with pytest.raises(InputError, match=words):
        data.load(data.DataSettings(dataset=f"my_data:{name}", **settings))
    with pytest.raises(InputError, match="no module"):
        data.load(data.DataSettings(dataset="missing_module:function"))


def with_facts(user_module, facts):
    user_module(ARRAYS + f"def with_facts(data_dir):\n    return stream(data_dir) | dict({facts})\n")
    return data.load(data.DataSettings(dataset="my_data:with_facts"))


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            "mean=np.full(3, .5), std=np.full(3, .25, np.float32), pad=np.int64(2), flip=np.False_",
            [[0.5] * 3, [0.25] * 3, 2, False],
        ),
        ("mean=[0, .5, 1], std=[.5] * 3, pad=0, flip=1", [[0.0, 0.5, 1.0], [0.5] * 3, 0, True]),
    ],
)
def test_facts_of_a_function_become_plain_numbers(user_module, facts, expected):
    dataset = with_facts(user_module, facts)
    found = [dataset.mean, dataset.std, *dataset.augmentation]
    assert json.loads(json.dumps(found)) == expected  # teacher caches write them as JSON
    assert [type(value) for value in (*found, *dataset.mean, *dataset.std)] == [tuple, tuple, int, bool] + [float] * 6


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ("mean=[.5] * 3", "mean entry.*std as well"),
        ("std=[.5] * 3", "std entry.*mean as well"),
        ("mean=[.5], std=[.5]", "3 numbers, one per channel, from 0 to 1"),
        ("mean='grey', std=1", "mean='grey'"),
        ("mean=[127] * 3, std=[60] * 3", r"from 0 to 1.*mean=\[127"),
        ("mean=[.5, np.nan, .5], std=[.2] * 3", "mean entry"),
        ("mean=np.full([3, 3], .5), std=[.2] * 3", "mean entry"),
        ("mean=[.5] * 3, std=[.2, 0, .2]", "std entry.*above 0"),
        ("pad=-1", "pad entry.*from 0"),
        ("pad=1.5", r"pad=1\.5"),
        ("flip='no'", "flip entry.*True or False"),
    ],
)
def test_wrong_facts_of_a_function_are_reported_in_one_line(user_module, facts, words):
    with pytest.raises(InputError, match=words) as caught:
        with_facts(user_module, facts)
    assert "\n" not in str(caught.value)


def test_a_name_decides_the_reader():
    names = {"digits": "digits", "cifar10": "tfds", "cifar10:3.0.2": "tfds", "cats_vs_dogs/x:1.*.*": "tfds"}
    names |= {"folder:a/b": "folder", "folder:C:/x y": "folder", "my.module:function": "function"}
    assert {name: catalog.source_kind(name) for name in names} == names


def test_a_name_with_a_pinned_version_is_the_same_known_dataset():
    for name, known in catalog.KNOWN_DATASETS.items():
        assert catalog.known_of(name) == catalog.known_of(f"{name}:3.0.2") == known
        assert catalog.known_of(f"{name}:3.*.*") == known and catalog.known_of(f"{name}:load") is None


@pytest.mark.parametrize(
    ("settings", "own", "expected"),
    [
        ({"dataset": "imagenet2012"}, (None, None, 3), ((224, 224, 3), 256)),
        ({"dataset": "cifar10"}, (32, 32, 3), ((32, 32, 3), 0)),
        ({"dataset": "cifar10", "image_size": 16}, (32, 32, 3), ((16, 16, 3), 16)),
        ({"dataset": "cifar10", "image_size": 14, "augmentation": "resized_crop"}, (32, 32, 3), ((14, 14, 3), 16)),
    ],
)
def test_the_shape_of_images_and_the_side_before_the_centre_crop(settings, own, expected):
    assert catalog.fixed_shape(data.DataSettings(**settings), own) == expected
