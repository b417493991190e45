"""Lists of augmentations: each image is a function of (data_seed, epoch, example), whatever the batch and the replica."""

import dataclasses
import functools
import hashlib
import pathlib

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.config.augmentations import AugmentationList, parse_augmentation
from skd_tf.data import augmentation_grid, erasing, mixing
from skd_tf.data.augmentation import Augmentation, Extra, ResizedCrop, random_numbers
from skd_tf.errors import InputError
from tests.helpers import images as helpers
from tests.helpers.images import equal, load, make_folder

STEPS = 20
ROOT = pathlib.Path(__file__).resolve().parents[2]
EVERYTHING = "crop, mirror, trivial, erase:0.25, mixup:0.2, cutmix:1"
LISTS = ["crop, mirror, cutmix:1", *(pytest.param(text, marks=pytest.mark.slow) for text in (EVERYTHING, "mixup:0.2"))]
stream = functools.partial(helpers.stream, steps=STEPS)


def digits_with(text, **settings):
    return load(augmentation=text, **settings), Config(augmentation=text, batch_size=40, **settings)


@pytest.mark.parametrize(
    ("text", "canonical", "parsed"),
    [
        ("Cutmix:1.0 ,crop:4", "crop:4, cutmix:1", AugmentationList("pad", 4, cutmix=1.0)),
        ("erase, auto", "auto, erase:0.25", AugmentationList("pad", mirror=None, erase=0.25)),
        ("mirror,resized_crop", "resized_crop, mirror", AugmentationList("resized", mirror=True)),
        ("resized_crop:.35 - 1", "resized_crop:0.35-1", AugmentationList("resized", area=(0.35, 1.0))),
        ("none", "none", AugmentationList()),
        ("trivial, mixup", "trivial, mixup:0.2", AugmentationList(trivial=True, mixup=0.2)),
    ],
)
def test_a_list_has_one_form(text, canonical, parsed):
    assert Config(augmentation=text).augmentation == canonical == Config(augmentation=canonical).augmentation
    assert parse_augmentation(text) == parse_augmentation(canonical) == parsed


@pytest.mark.parametrize(
    "text",
    [
        *("", "crop, crop", "cropp", "mixup:0", "erase:1.5", "erase:-1", "erase:inf", "crop:0", "crop:2.5", "mirror:3"),
        *("resized_crop:0.5", "resized_crop:0.5-0.2", "resized_crop:0-1", "none, erase", "pad_crop, crop", "crop,"),
    ],
)
def test_other_text_is_one_line(text):
    with pytest.raises(InputError, match=r"(?s)^--augmentation [^\n]*Expected[^\n]*Received --augmentation=[^\n]*$"):
        Config(augmentation=text)


def test_a_missing_comma_and_a_crop_beyond_the_image_are_named():
    with pytest.raises(InputError, match=r"^--augmentation has no comma in 'crop:4 mirror'\."):
        Config(augmentation="erase, crop:4 mirror")
    load(augmentation="crop:7, mirror")
    with pytest.raises(InputError, match=r"moves images of 8x8 pixels by up to 8, .* all black.*usual: crop:1"):
        load(augmentation="crop:8, mirror")


def test_the_names_of_before_are_short_for_lists():
    assert load(augmentation="auto").augmentation == Augmentation(1, False) == load(augmentation="crop").augmentation
    assert load(augmentation="crop:3, mirror").augmentation == Augmentation(3, True)
    assert load(augmentation="mirror").augmentation == Augmentation(0, True)
    for names in (("pad_crop", "crop"), ("none", "crop:1")):
        streams = [stream(*digits_with(name), last_step=2) for name in names]
        assert equal(*streams) == (names[0] == "pad_crop")


@pytest.mark.parametrize(("data_seed", "digest"), [(0, "7476028442dc9984"), (3, "564a9a1ce8ef4c50")])
def test_the_draws_of_before_lists_are_kept(data_seed, digest):
    """The digests are those of the code that had no lists yet: caches and interrupted runs depend on these pixels."""
    views = [data.AugmentedImages(load(augmentation="auto"), data_seed=data_seed, epoch=epoch) for epoch in (0, 7)]
    pixels = b"".join(one[np.arange(len(one))].tobytes() for one in views)
    assert hashlib.sha256(pixels).hexdigest()[:16] == digest


@pytest.mark.slow
def test_a_crop_has_a_range_and_need_not_mirror(tmp_path):
    folder = make_folder(tmp_path)
    options = {"image_size": 8, "cache_dataset": "none"}
    assert load(folder, augmentation="resized_crop", **options).augmentation == ResizedCrop(True)
    assert load(folder, augmentation="resized_crop:0.1-1", **options).augmentation == ResizedCrop(False)
    whole = load(folder, augmentation="resized_crop:1-1, mirror", **options)
    assert whole.augmentation == ResizedCrop(True, (1.0, 1.0))


@pytest.mark.parametrize("text", LISTS)
def test_streams_are_equal_for_any_start_replicas_order_and_batch(text):
    dataset, config = digits_with(text)
    whole = stream(dataset, config)
    assert equal(stream(dataset, config, first_step=STEPS + 7, last_step=STEPS + 9), whole[STEPS + 7 : STEPS + 9])
    parts = stream(dataset, config, last_step=2, shards=4)
    for step, batch in enumerate(whole[:2]):
        mine = parts[4 * step : 4 * step + 4]
        assert equal([np.concatenate(part) for part in zip(*mine, strict=True)], batch)

    def examples(batches):
        return {image.tobytes() + label.tobytes() for x, y in batches for image, label in zip(x, y, strict=True)}

    # Another order and batch size drop another eight images; pixels and labels of all others stay.
    other = stream(dataset, config.replace(seed=5, batch_size=16), steps=50, last_step=50)
    assert len(examples(whole[:STEPS]) & examples(other)) >= 770
    assert len(examples(whole[:STEPS]) & examples(whole[STEPS:])) < 400
    assert not equal(stream(dataset, config.replace(data_seed=1), last_step=1), whole[:1])
    # What a teacher's logits are computed of, epoch by epoch.
    seen = {image.tobytes() for image in data.AugmentedImages(dataset, 0, 1)[np.arange(len(dataset.train))]}
    assert {image.tobytes() for x, _ in whole[STEPS:] for image in x} <= seen


@pytest.mark.slow
def test_images_on_disk_are_augmented_as_those_in_memory(tmp_path):
    folder = make_folder(tmp_path, per_class=16, formats=(".png",))
    streams = []
    for keep in ("memory", "none"):
        dataset = load(folder, augmentation=EVERYTHING, cache_dataset=keep)
        streams.append(stream(dataset, Config(batch_size=8), steps=5, shards=2))
        expected = data.AugmentedImages(dataset, 0, 0)[np.arange(len(dataset.train))]
        assert helpers.images_in(streams[-1][:10]) <= helpers.image_set(expected)
    assert equal(*streams)


def test_an_operation_does_not_change_the_draws_of_another():
    cropped, erased, mixed = (
        data.AugmentedImages(load(augmentation=text), 0, 3)[np.arange(808)]
        for text in ("crop", "crop, erase:0.25", "crop, erase:0.25, mixup:0.2")
    )
    same = (cropped == erased).all(axis=(1, 2, 3))
    assert 0.6 < same.mean() < 0.9
    # With Beta(0.2, 0.2) many shares are so near to 1 that the partner leaves no trace.
    assert (mixed == erased).all(axis=(1, 2, 3)).mean() > 0.1


def test_partners_are_training_images_alone_and_do_not_depend_on_the_seed():
    """Every training image has its number as its only value, so each mixed pixel says where it comes from."""
    dataset, config = digits_with("cutmix:1")
    count = 200
    split = dataset.train.take(np.arange(0, 800, 4))
    numbers = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 8, 8, 1)).copy()
    split = dataclasses.replace(split, images=numbers, labels=np.arange(count, dtype=np.int32) % 10)
    dataset = dataclasses.replace(dataset, train=split)
    pairs = []
    for seed in (0, 1):
        found = {}
        for x, y in stream(dataset, config.replace(seed=seed), steps=5, last_step=5):
            for image, label in zip(x, y, strict=True):
                values, counts = np.unique(image, return_counts=True)
                assert len(values) <= 2 and label.sum() == pytest.approx(1)
                expected = np.zeros(10)
                np.add.at(expected, values % 10, counts / 64)  # labels are mixed as the pixels are
                assert np.allclose(label, expected, atol=1e-6)
                found[tuple(values), tuple(counts)] = found.get((tuple(values), tuple(counts)), 0) + 1
        pairs.append(found)
    assert pairs[0] == pairs[1]
    assert len({value for values, _ in pairs[0] for value in values}) > 180


def rows_of(columns, count=20_000, stream=3):
    return random_numbers(0, 1, tf.range(count), [(stream, columns)])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_by_hand(alpha):
    draws = rows_of(mixing.DRAWS)
    random = np.random.default_rng(0)
    images, others = random.integers(0, 256, [2, 200, 4, 5, 3]).astype(np.uint8)
    mixed, share = (part.numpy() for part in mixing.mix(images, others, draws[:200], mixup=alpha, cutmix=0.0))
    exact = share[:, None, None, None].astype("float64")
    exact = exact * images + (1 - exact) * others
    assert np.array_equal(mixed, np.floor(exact + 0.5))
    black = np.zeros([20_000, 1, 1, 1], np.uint8)
    _, share = mixing.mix(black, black, draws, mixup=alpha, cutmix=0.0)
    points = np.linspace(0.001, 0.999, 50)  # nearer to 0 and 1, shares are rounded to 1 / 65536
    found = (share.numpy() <= points[:, None]).mean(axis=1)
    assert np.abs(found - scipy.stats.beta(alpha, alpha).cdf(points)).max() < 0.012


def test_cutmix_cuts_one_rectangle_of_the_other_image():
    draws = rows_of(mixing.DRAWS, 4000)
    own, other = np.zeros([4000, 32, 24, 1], np.uint8), np.full([4000, 32, 24, 1], 255, np.uint8)
    mixed, share = (part.numpy() for part in mixing.mix(own, other, draws, mixup=0.0, cutmix=1.0))
    assert set(np.unique(mixed)) == {0, 255}
    assert np.allclose(share, (mixed == 0).mean(axis=(1, 2, 3)), atol=1e-6)
    for image in mixed[:100, ..., 0] > 0:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert image.sum() == len(rows) * len(columns)
        assert not len(rows) or len(rows) == np.ptp(rows) + 1
    # Before it is cut to the image, the rectangle has 1 - share of the area, which is uniform here.
    sides = np.sqrt(np.linspace(0, 1, 1001))[:, None]

    def inside(length):
        half, centres = (sides * length).astype(int) // 2, np.arange(length)
        return (np.minimum(centres + half, length) - np.maximum(centres - half, 0)).mean(axis=1) / length

    assert 1 - share.mean() == pytest.approx(np.mean(inside(32) * inside(24)), abs=0.01)
    assert mixed.mean(axis=0).std() / 255 < 0.12
    both, shares = mixing.mix(own, other, draws, mixup=1.0, cutmix=1.0)
    cut = (np.isin(both, (0, 255))).all(axis=(1, 2, 3))
    assert 0.47 < cut.mean() < 0.53 and shares.shape == (4000,)


def test_erasing_by_hand():
    draws = rows_of(erasing.DRAWS, 4000)
    images = np.full([4000, 24, 32, 3], 77, np.uint8)
    erased = erasing.random_erasing(tf.constant(images), draws, 0.25).numpy()
    changed = (erased != images).any(axis=-1)
    assert changed.any(axis=(1, 2)).mean() == pytest.approx(0.25, abs=0.02)
    areas, ratios = [], []
    for image in changed[changed.any(axis=(1, 2))]:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert image.sum() > 0.99 * height * width - 1  # a noise pixel can equal the image's
        areas.append(height * width / (24 * 32))
        ratios.append(height / width)
    assert 0.015 < min(areas) < 0.03 and 0.3 < max(areas) < 0.35 and np.mean(areas) == pytest.approx(0.176, abs=0.01)
    assert np.mean(np.log(ratios)) == pytest.approx(0, abs=0.06) and min(ratios) > 0.25 and max(ratios) < 4.1
    noise = erased[changed]
    assert np.abs(np.bincount(noise.reshape(-1) // 16, minlength=16) / noise.size - 1 / 16).max() < 0.003
    assert np.array_equal(erased[:100], erasing.random_erasing(tf.constant(images[:100]), draws[:100], 0.25))


def test_mixing_without_a_label_or_with_a_loss_of_one_class_is_refused(tmp_path):
    with pytest.raises(InputError, match="--loss=dkd needs one class"):
        Config(loss="dkd", augmentation="auto, cutmix")
    folder = make_folder(tmp_path, formats=(".png",))
    for i in range(3):
        helpers.write_image(folder / "train" / "-1" / f"{i}.png", helpers.random_image(i))
    load(folder, augmentation="auto, erase")
    with pytest.raises(InputError, match="cannot mix labels: 3 of"):
        load(folder, augmentation="auto, mixup")


def test_keys_of_old_lists_stay_and_new_ones_differ(tmp_path):
    from skd_tf.data.augmentation import NO_EXTRA, key_of

    assert key_of(Augmentation(2, True), NO_EXTRA) == [1, 2, True]
    keys = [key_of(Augmentation(2, True), extra) for extra in (Extra(True), Extra(erase=0.1), Extra(mixup=0.1))]
    assert all(a != b for i, a in enumerate(keys) for b in [[1, 2, True], *keys[:i]])


def test_the_picture_of_the_docs_is_what_the_command_writes(tmp_path):
    page = (ROOT / "docs" / "augmentation.md").read_text(encoding="utf-8")
    assert f'--augmentation="{EVERYTHING}"' in page and "--dataset=fashion_mnist_10k" in page
    dataset = load("fashion_mnist_10k", augmentation=EVERYTHING, test=False)
    assert augmentation_grid.write_grid(dataset, 0, tmp_path / "a.png") == 6
    written, shown = (
        tf.io.decode_png(path.read_bytes()).numpy() for path in (tmp_path / "a.png", ROOT / "docs" / "augmentation.png")
    )
    assert np.array_equal(written, shown)
    first = written[:84, :84]  # enlarged three times
    assert np.array_equal(first[::3, ::3], dataset.train.images[0])
    second = data.AugmentedImages(dataset, 0, 0)[np.array([0])][0]
    assert np.array_equal(written[:84:3, 88:172:3], second)
