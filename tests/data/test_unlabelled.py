"""Images without labels: as a dataset, images:PATH, and as a share of each batch beside a labelled one, --unlabelled."""

import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data import folder_index
from skd_tf.data.augmentation import Augmentation
from skd_tf.data.unlabelled import mixed_stream, passes, with_unlabelled
from skd_tf.errors import InputError
from skd_tf.training import preflight
from tests.helpers.images import equal, image_set, load, make_folder, random_image, write_image

NAMES = ("red", "blue", "green")
BATCH, UNLABELLED, STEPS = 12, 4, 5  # an epoch of 40 labelled images, and 7 steps of the 30 unlabelled ones


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """40 images in a tree whose folders are no classes: ten groups of four."""
    root = tmp_path_factory.mktemp("tree")
    for i in range(40):
        folder = root / ("" if i < 10 else "train" if i < 20 else "deep/er")
        write_image(folder / f"g{i // 4}_{i}.png", random_image(i, 8, 8))
    (root / ".hidden").mkdir()
    write_image(root / ".hidden" / "x.png", random_image(99, 8, 8))
    return root


def opened(root, **settings):
    return load(f"images:{root}", class_names=NAMES, **settings)


def test_all_images_of_a_tree_are_split_by_data_seed_and_have_the_teachers_classes(tree):
    found = opened(tree, validation_fraction=0.25)
    assert (len(found.train), len(found.validation), len(found.test)) == (24, 8, 8)
    assert found.class_names == NAMES and found.num_classes == 3 and not found.has_labels
    splits = found.train, found.validation, found.test
    assert all((split.labels == -1).all() for split in splits)
    every = [image_set(split.images) for split in splits]
    assert set.union(*every) == {random_image(i, 8, 8).tobytes() for i in range(40)} and sum(map(len, every)) == 40
    assert image_set(opened(tree, data_seed=1).test.images) != every[2]
    sizes = preflight.dataset_sizes(Config(dataset=f"images:{tree}", validation_fraction=0.25))
    assert (sizes.train - sizes.held_out(0.25), sizes.held_out(0.25), sizes.test) == (24, 8, 8)


def test_groups_stay_together(tree):
    found = opened(tree, group=r"(g\d)_", validation_fraction=0.25)
    group_of = {random_image(i, 8, 8).tobytes(): i // 4 for i in range(40)}
    train, validation, test = (
        {group_of[key] for key in image_set(split.images)} for split in (found.train, found.validation, found.test)
    )
    assert validation and test and not (train & validation or train & test or validation & test)


def test_parts_are_used_where_the_folder_has_them(tmp_path, capsys):
    make_folder(tmp_path, ("train", "val", "test"), per_class=2, size=lambda i: (8, 8), formats=(".png",))
    write_image(tmp_path / "loose.png", random_image(5, 8, 8))
    found = opened(tmp_path)
    assert [len(split) for split in (found.train, found.validation, found.test)] == [6, 6, 6]
    assert "Not used: 1 image in" in capsys.readouterr().err
    assert not folder_index.draws_test_split(f"images:{tmp_path}")
    write_image(tmp_path / "few" / "a.png", random_image(1, 8, 8))
    with pytest.raises(InputError, match="too few images"):
        opened(tmp_path / "few")
    with pytest.raises(InputError, match=r"no such folder.*a folder of images"):
        opened(tmp_path / "absent")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, tree):
    """A labelled folder of 60 images with 30 of its size beside it."""
    folder = tmp_path_factory.mktemp("mixed")
    make_folder(folder / "labelled", ("",), per_class=20, size=lambda i: (8, 8), formats=(".png",))
    for i in range(30):
        write_image(folder / "more" / f"{i}.png", random_image(5000 + i, 16, 8))
    settings = data.DataSettings(dataset=f"folder:{folder / 'labelled'}")
    return with_unlabelled(data.load(settings), f"images:{folder / 'more'}", settings)


def batches(dataset, config=None, **limits):
    config = config or Config(batch_size=BATCH)
    limits = {"steps_per_epoch": STEPS, "first_step": 0, "last_step": 2 * STEPS} | limits
    return list(mixed_stream(dataset, config.pick(data.StreamSettings), UNLABELLED, **limits).as_numpy_iterator())


@pytest.fixture(scope="module")
def whole(mixed):
    return batches(mixed)


def test_a_fixed_share_of_each_batch_is_unlabelled_and_evenly_spaced(whole):
    for images, labels in whole:
        assert images.shape == (BATCH, 8, 8, 3) and images.dtype == np.uint8
        assert (np.flatnonzero(labels < 0) == [1, 4, 7, 10]).all()


def test_unlabelled_images_depend_on_data_seed_and_position_alone(mixed, whole):
    def of_kind(batches, unlabelled=True):
        return [images[(labels < 0) == unlabelled] for images, labels in batches]

    plain = dataclasses.replace(mixed.unlabelled, augmentation=Augmentation(0, False))
    other_seed = batches(mixed, Config(batch_size=BATCH, seed=5))
    other_data = batches(dataclasses.replace(mixed, unlabelled=plain), Config(batch_size=BATCH, data_seed=5))
    assert equal(of_kind(whole), of_kind(other_seed)) and not equal(of_kind(whole), of_kind(other_data))
    assert not equal(of_kind(whole, unlabelled=False), of_kind(other_seed, unlabelled=False))
    first_pass = np.concatenate(of_kind(other_data)[:7])  # 7 steps of 4 images
    assert len(image_set(first_pass)) == 28 and image_set(first_pass) < image_set(plain.train.images)
    assert passes(mixed, UNLABELLED, 7) == 1 and passes(mixed, UNLABELLED, 8) == 2


@pytest.mark.slow
def test_it_starts_at_any_step_and_replicas_divide_the_same_batches(mixed, whole):
    assert equal(batches(mixed, first_step=STEPS + 3), whole[STEPS + 3 :])
    parts = batches(mixed, shards=2)
    assert equal(batches(mixed, first_step=1, shards=2, shard_range=range(1, 2)), parts[3::2])
    for step, (images, labels) in enumerate(whole):
        halves = parts[2 * step : 2 * step + 2]
        assert [(part < 0).sum() for _, part in halves] == [2, 2]
        pairs = {(image.tobytes(), label) for half in halves for image, label in zip(*half, strict=True)}
        assert pairs == {(image.tobytes(), label) for image, label in zip(images, labels, strict=True)}


class RowLogits:
    """Cached logits that say which pass and row they belong to."""

    def __init__(self, epochs, kind):
        self.epochs, self._kind = epochs, kind

    def lookup(self, epoch, rows):
        parts = [tf.fill(tf.shape(rows), self._kind), tf.fill(tf.shape(rows), tf.cast(epoch, tf.int32)), rows]
        return tf.cast(tf.stack(parts, axis=1), tf.float32)


def test_each_image_gets_its_own_cached_logits(mixed, whole):
    """The pixels are those that the teacher pass computes for that pass and row."""
    logits = {"teacher_logits": RowLogits(2, 0), "unlabelled_logits": RowLogits(2, 1)}
    sets = mixed, mixed.unlabelled
    augmented = {
        (kind, p): data.AugmentedImages(sets[kind], 0, p)[np.arange(len(sets[kind].train))]
        for kind in (0, 1)
        for p in (0, 1)
    }
    found = batches(mixed, last_step=4 * STEPS, **logits)
    for x, labels in found:
        for image, (kind, epoch, row), label in zip(x["image"], x["teacher_logits"].astype(int), labels, strict=True):
            assert kind == (label < 0)
            np.testing.assert_array_equal(image, augmented[kind, epoch][row])
    assert equal([x["image"] for x, _ in found[:STEPS]], [images for images, _ in whole[:STEPS]])


def test_without_cached_logits_the_augmentation_repeats_as_with_them(mixed):
    """Four epochs of labelled images begin three passes over the others."""
    logits = {
        "teacher_logits": RowLogits(4, 0),
        "unlabelled_logits": RowLogits(passes(mixed, UNLABELLED, 4 * STEPS), 1),
    }
    cached = batches(mixed, last_step=6 * STEPS, **logits)
    config = Config(batch_size=BATCH, teacher_cache_epochs=4, teacher_cache_dir="unused")
    live = batches(mixed, config, last_step=6 * STEPS)
    assert equal([x["image"] for x, _ in cached], [images for images, _ in live])


def test_measured_images_are_refused_and_few_ones_too(mixed, tree):
    labelled = mixed.name.removeprefix("folder:")
    settings = data.DataSettings(dataset=mixed.name)
    dataset = dataclasses.replace(mixed, unlabelled=None)
    with pytest.raises(InputError, match=r"has \d validation images and 12 test images of --dataset.*a folder without"):
        with_unlabelled(dataset, f"images:{labelled}", settings)
    with pytest.raises(InputError, match=r"fewer unlabelled images.*at least 31.*Lower --unlabelled_share"):
        passes(mixed, 31, 1)


def test_the_class_count_of_grey_data_is_kept(tree):
    """The labelled images decide size and channels."""
    settings = data.DataSettings()
    found = with_unlabelled(data.load(settings), f"images:{tree}", settings).unlabelled
    assert found.train.images.shape == (40, 8, 8, 1) and found.mean == data.load(settings).mean


def test_copies_of_measured_images_are_a_warning(tmp_path, capsys):
    root = make_folder(tmp_path / "labelled", per_class=3, formats=(".png",))
    more = tmp_path / "more"
    shutil.copytree(root / "test", more / "copied")
    for i in range(20):
        write_image(more / f"{i}.png", random_image(5000 + i))
    settings = Config(dataset=f"folder:{root}").pick(data.DataSettings)
    with_unlabelled(data.load(settings), f"images:{more}", settings)
    assert "has copies of 9 test images of --dataset" in capsys.readouterr().err
    shutil.rmtree(more / "copied")
    with_unlabelled(data.load(settings), f"images:{more}", settings)
    assert "has copies" not in capsys.readouterr().err
