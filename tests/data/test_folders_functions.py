"""Labels and class names of data functions: what has one meaning is read, all else is refused in one line."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data
from skd_tf.data import function_source, image_ops, own_memory
from skd_tf.errors import InputError

LABELS = np.arange(12) % 3


@pytest.fixture
def function(tmp_path, monkeypatch):
    """A function that loads a dataset with these entries."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "given_data.py").write_text("spec = {}\ndef load(data_dir):\n    return dict(spec)\n")
    monkeypatch.delitem(sys.modules, "given_data", raising=False)

    def load(labels=LABELS, names=("a", "b", "c"), count=12, size=(4, 4), splits=(), train=True, **settings):
        import given_data

        images = np.zeros([count, *size, 1], np.uint8)
        given_data.spec = {"class_names": names, "train": (images, labels), "test": (images, labels)} | dict(splits)
        settings = data.DataSettings(dataset="given_data:load", validation_fraction=0, **settings)
        return data.load(settings, train=train)

    yield load
    sys.modules.pop("given_data", None)


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.astype(np.float64),
        LABELS[:, None],
        np.eye(3)[LABELS],
        np.eye(3, dtype=bool)[LABELS],
        np.eye(3, dtype=np.uint8)[LABELS],
        LABELS.astype(np.uint8),
        LABELS.tolist(),
    ],
)
def test_labels_with_one_meaning_are_read(function, labels):
    dataset = function(labels)
    assert dataset.train.labels.dtype == np.int32 and np.array_equal(dataset.train.labels, LABELS)


def test_a_validation_split_of_a_function_is_refused_with_what_to_do(function):
    with pytest.raises(
        InputError, match=r"right dict.*'val'.*drawn from train; a folder may have one of its own in val/"
    ):
        function(splits={"val": ([], [])})


def test_true_and_false_are_two_classes(function):
    assert function(LABELS == 1, names=("no", "yes")).train.labels.tolist() == (LABELS == 1).astype(int).tolist()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS * 0.5, "float64"),
        (np.where(LABELS == 1, np.nan, LABELS), "nan"),
        (LABELS == 1, "bool"),  # with three classes
        (np.eye(3)[LABELS] * 0.9 + 0.03, r"\(12, 3\)"),
        (np.eye(3)[LABELS] + np.eye(3)[LABELS - 1], r"\(12, 3\)"),
        (np.eye(4)[LABELS], r"\(12, 4\)"),
        (np.array(["a", "b", "c"])[LABELS], "such as .*'a'"),
        (np.array([None] * 12), "object"),
        (LABELS + 1, "from 0 to 2"),
    ],
)
def test_other_labels_are_refused(function, labels, words):
    with pytest.raises(InputError, match=words) as caught:
        function(labels)
    assert "\n" not in str(caught.value)


def test_class_names_become_texts(function, capsys):
    assert function(names=[3, np.int64(5), b"caf\xc3\xa9"]).class_names == ("3", "5", "café")
    assert function(names=np.array(["a", "b", "c"])).class_names == ("a", "b", "c")
    assert "differ only in case" not in capsys.readouterr().err
    assert function(names=["cat", "Cat", "dog"]).num_classes == 3
    assert "differ only in case or spaces are different classes: cat, Cat" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "b", "a"], "more than one a"),
        ([1, "1", 2], "more than one 1"),
        (["a", "", "c"], "not empty"),
        (["a", None, "c"], "None"),
        (["a", 1.5, "c"], "1.5"),
        (["a", True, "c"], "True"),
        (["a"], "at least two"),
        ("abc", "a list of names.*'abc' from"),
        (10, "a list of names.* 10 from"),
        (None, "a list of names.* None from"),
    ],
)
def test_other_class_names_are_refused(function, names, words):
    with pytest.raises(InputError, match=words) as caught:
        function(names=names)
    assert "\n" not in str(caught.value)


def test_images_are_resized_in_batches_as_one_by_one(monkeypatch, function):
    images = np.random.default_rng(0).integers(0, 256, [13, 20, 16, 3], np.uint8)
    with monkeypatch.context() as patch:
        patch.setattr(function_source, "_batch_size", lambda shape: 5)
        for shape, resize in (((8, 8, 3), 8), ((12, 12, 3), 14)):
            patch.setattr(function_source, "fixed_shape", lambda *_, found=(shape, resize): found)
            split = function_source._array_split(data.DataSettings(), "train", [images.copy()], np.zeros(13, int))
            expected = [image_ops.fit(tf.constant(image), shape, resize).numpy() for image in images]
            np.testing.assert_array_equal(split.images, expected)
    counts, converted = [], own_memory.converted
    monkeypatch.setattr(
        own_memory, "converted", lambda holder, *given: counts.append(len(holder[0])) or converted(holder, *given)
    )
    assert function(image_size=2).train.images.shape == (12, 2, 2, 1) and counts == [12, 12]


@pytest.mark.parametrize("settings", [{}, {"image_size": 2}])
def test_images_without_pixels_are_refused(function, settings):
    with pytest.raises(InputError, match=r"\(12, 0, 4, 1\)"):
        function(size=(0, 4), **settings)


def stream(images, *labels):
    return tf.data.Dataset.from_tensor_slices((images, *labels) if labels else images)


def of_unknown_channels(image, label):
    return tf.io.decode_png(tf.io.encode_png(image)), label


def of_sizes(*sides):
    return [np.zeros([side, side, 1], np.uint8) for side in sides]


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (lambda: (of_sizes(*[4, 5] * 6), LABELS), "images of one size"),
        (lambda: (of_sizes(*[4] * 12), [[0], [1, 2]] * 6), "one label each"),
        (lambda: (["a.png"] * 12, [[0], [1, 2]] * 6), "one label each"),
        (lambda: ((f"{i}.png" for i in range(12)), LABELS), "a list or array of images.*generator"),
        (lambda: ({"a.png", "b.png"}, [0, 1]), "a list or array of images.*set"),
        (lambda: ({"image": of_sizes(4, 4)}, [0, 1]), "a list or array of images.*dict"),
        (lambda: ("a.png", [0]), "a list or array of images.*str"),
        (lambda: {"image": of_sizes(4, 4), "label": [0, 1]}, r"\(images, labels\) or a tf.data.Dataset.*dict"),
        (lambda: (np.zeros([12, 4, 4, 1], int).tolist(), LABELS), "or a list of paths.*int64"),
        (lambda: stream(of_sizes(4, 4), [0, 1]).map(of_unknown_channels), "a known number of channels"),
        (lambda: stream({"image": of_sizes(4, 4), "label": [0, 1]}), "elements .image uint8"),
        (lambda: stream({"image": of_sizes(4, 4)}, [0, 1]), "elements .image uint8"),
        (lambda: stream(of_sizes(4, 4), {"label": [0, 1]}), "elements .image uint8"),
    ],
)
def test_images_or_labels_of_another_kind_are_one_line(function, train, words):
    with pytest.raises(InputError, match=f"wrong train split.*{words}") as caught:
        function(splits={"train": train()})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("train", [True, False])
def test_a_stream_for_training_beside_paths_for_the_test_is_one_line(function, tmp_path, train):
    """Also if only the test split is read."""
    paths = [str(tmp_path / f"{i}.png") for i in range(12)]
    with pytest.raises(InputError, match=r"wrong (test split|splits).*paths of files") as caught:
        function(splits={"train": stream(of_sizes(*[4] * 12), LABELS), "test": (paths, LABELS)}, train=train)
    assert "\n" not in str(caught.value)
