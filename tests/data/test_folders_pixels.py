"""Pixels of image files: orientation, depth, kinds, damage, content; compared with Pillow."""

import os
import shutil
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from skd_tf import data
from skd_tf.data import augmentation, image_ops
from skd_tf.data.disk_images import UprightFileImages
from skd_tf.data.image_header import read_header
from skd_tf.errors import InputError
from tests.helpers.images import load, make_folder, random_image, write_image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


def photo(seed, height=24, width=32, channels=3):
    """A smooth picture, different in every corner."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, [3, 4, channels], np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def exif(orientation):
    facts = Image.Exif()
    facts[0x0112] = orientation
    return facts


def in_pillow(path, size, resize):
    """What docs/data.md and the model card say."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    if resize:
        sides = [round(side * resize / min(image.size)) for side in image.size]
        image = image.resize(sides, Image.Resampling.BILINEAR)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["jpg", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("png", "webp"))])
def test_the_orientation_of_exif_is_applied(tmp_path, kind):
    for place in range(8):
        options = {"lossless": True} if kind == "webp" else {"quality": 95} if kind == "jpg" else {}
        for name in ("a", "b"):
            save(tmp_path / name / f"{place}.{kind}", photo(place), exif=exif(place + 1), **options)
    for keep in ("memory", "none"):
        dataset = load(tmp_path, image_size=20, validation_fraction=0, cache_dataset=keep)
        files = sorted((tmp_path / "a").iterdir())
        expected = {in_pillow(path, 20, 20).tobytes(): path for path in files}
        images = [*dataset.train.images[:], *dataset.test.images[:]]
        assert {min(np.abs(i.astype(int) - in_pillow(p, 20, 20)).max() for p in files) for i in images} <= {0, 1}
        assert len(expected) == 8


@pytest.mark.slow
def test_windows_of_turned_images_are_windows_of_the_upright_one(tmp_path):
    """A resized crop of a photo with any orientation is that of the same picture stored upright."""
    how = augmentation.ResizedCrop(flip=False)
    draws = augmentation.random_numbers(0, 0, range(16))[:, :2]
    paths, upright = [], []
    for place in range(8):
        path = tmp_path / f"{place}.png"
        save(path, photo(place), exif=exif(place + 1))
        paths.append(path)
        path = tmp_path / f"upright{place}.png"
        ImageOps.exif_transpose(Image.open(paths[-1])).save(path)
        upright.append(path)
    jpegs = [path.with_suffix(".jpg") for path in paths]
    for place, path in enumerate(jpegs):
        save(path, photo(place), exif=exif(place + 1), quality=100, subsampling=0)
    turned, straight, of_jpeg = (
        UprightFileImages(files, None, np.array(orientations), np.zeros(8, bool))
        for files, orientations in ((paths, range(1, 9)), (upright, [1] * 8), (jpegs, range(1, 9)))
    )

    @tf.function
    def window(store, row, draw):
        return store.decode_window(row, draw, how, (16, 16, 3))

    for row in range(8):
        expected = window(straight, tf.constant(row), draws[row]).numpy().astype(int)
        assert np.array_equal(window(turned, tf.constant(row), draws[row]), expected)
        assert (
            np.abs(window(of_jpeg, tf.constant(row), draws[row]).numpy() - expected).max() <= 6
        )  # JPEG's own rounding


@pytest.mark.parametrize(
    ("peak", "bits"),
    [(4095, 12), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((200, 8), (1000, 10), (65535, 16)))],
)
def test_sixteen_bit_files_keep_their_grey_levels(tmp_path, capsys, peak, bits):
    values = np.linspace(0, peak, 24 * 32).round().astype(np.uint16).reshape(24, 32)
    for name in ("a", "b"):
        for part in ("train", "test"):
            for i in range(3):
                save(tmp_path / part / name / f"{i}.png", values)
    for keep in ("memory", "none"):
        dataset = load(tmp_path, validation_fraction=0, cache_dataset=keep)
        assert dataset.png_bits == bits and dataset.image_shape == (24, 32, 1)
        assert np.array_equal(dataset.train.images[0][..., 0], values // 2 ** (bits - 8))
        printed = capsys.readouterr().err
        assert f"16-bit PNGs: 12 of 12 images, and the brightest training value is {peak}" in printed
    assert len(np.unique(dataset.train.images[0])) >= 200


def test_the_training_part_alone_decides_how_deep_files_are_read(tmp_path, capsys):
    for part, peak in (("train", 1000), ("test", 60_000)):
        for name in ("a", "b"):
            for i in range(2):
                save(tmp_path / part / name / f"{i}.png", np.full([8, 8], peak, np.uint16))
    dataset = load(tmp_path, validation_fraction=0)
    assert dataset.png_bits == 10 and (dataset.train.images == 250).all() and (dataset.test.images == 255).all()
    assert "Pixels of 4 images are brighter" in capsys.readouterr().err


def test_webp_bmp_and_gif_are_read(tmp_path):
    picture = photo(0)
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    for name in ("a", "b"):
        save(tmp_path / name / "0.png", picture)
        save(tmp_path / name / "1.webp", picture, lossless=True)
        save(tmp_path / name / "2.bmp", picture)
        save(tmp_path / name / "3.bmp", grey)
        frames = [Image.fromarray(photo(i)) for i in range(3)]
        frames[0].save(tmp_path / name / "4.gif", save_all=True, append_images=frames[1:])
        save(tmp_path / name / "5.jpg", picture, quality=100, subsampling=0)
    dataset = load(tmp_path, validation_fraction=0)
    found = [*dataset.train.images, *dataset.test.images]
    files = sorted((tmp_path / "a").iterdir())
    distance = [[np.abs(image.astype(int) - in_pillow(path, 0, 0)).max() for image in found] for path in files]
    assert np.min(distance, axis=1).max() == 0 and len(found) == 12


@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_gives_the_channels_that_are_asked_for(tmp_path, channels):
    """TensorFlow's decoders of WebP, BMP and GIF give only those that the file has."""
    picture = Image.fromarray(photo(0))
    faint, mode = picture.copy(), "L" if channels == 1 else "RGB"
    faint.putalpha(picture.convert("L"))
    kinds = [(picture, "gif"), (picture.quantize(9), "png"), (faint, "png"), (faint.convert("LA"), "png")]
    for image in (picture, faint):
        kinds += [(image, "bmp"), (image, "webp")]
    kinds += [(picture.convert("L"), kind) for kind in ("png", "bmp", "webp")]
    if channels == 1:
        kinds.append((picture.convert("CMYK"), "jpeg"))
    for place, (image, kind) in enumerate(kinds):
        path = tmp_path / f"{place}.{kind}"
        image.save(path, **({"lossless": True} if kind == "webp" else {}))
        found = image_ops.decode_file(path.read_bytes(), channels, tf.constant(1), tf.constant(False), 16)
        expected = np.asarray(Image.open(path).convert(mode)).reshape(found.shape)
        assert np.abs(found.numpy().astype(int) - expected).max() <= {"png": 1, "jpeg": 2}.get(kind, 0), path


def test_files_that_would_be_read_wrongly_are_named_instead(tmp_path, capsys):
    """TensorFlow takes palette numbers for grey levels, and an animated WebP ends the process."""
    for name in ("a", "b"):
        for i in range(6):
            save(tmp_path / name / f"{i}.png", photo(i))
    Image.fromarray(photo(1)).convert("P").save(tmp_path / "a" / "palette.bmp")
    frames = [Image.fromarray(photo(i)) for i in range(3)]
    frames[0].save(tmp_path / "a" / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    header = struct.pack("<2sIHHIIiiHHIIIIII", b"BM", 66 + 4 * 32 * 24, 0, 0, 66, 40, 32, 24, 1, 32, 3, *[0] * 5)
    for name, masks in (("usual", (0xFF0000, 0xFF00, 0xFF)), ("reversed", (0xFF, 0xFF00, 0xFF0000))):
        (tmp_path / "a" / f"{name}.bmp").write_bytes(header + struct.pack("<3I", *masks) + bytes(4 * 32 * 24))
    dataset = load(tmp_path, validation_fraction=0)
    printed = capsys.readouterr().err
    assert len(dataset.train) + len(dataset.test) == 13
    assert "reversed.bmp: its kind of BMP is not read: its channels" in printed and "usual.bmp" not in printed
    assert "palette.bmp: its kind of BMP" in printed and "moving.webp: an animated WebP is not read" in printed


@pytest.mark.parametrize("keep", ["memory", pytest.param("none", marks=pytest.mark.slow)])
def test_a_few_bad_files_do_not_end_a_run_and_each_is_named_with_its_reason(tmp_path, capsys, keep):
    for part in ("train", "test"):
        for name in ("cat", "dog", "eel"):
            for i in range(24):
                write_image(tmp_path / part / name / f"{i}.png", random_image(i, 4, 4))
    train = tmp_path / "train" / "dog"
    whole = (train / "0.png").read_bytes()
    (train / "0.png").write_bytes(whole[: len(whole) // 2])
    (train / "1.png").write_bytes(b"")
    (train / "2.png").unlink()
    os.symlink("/nowhere.png", train / "2.png")
    (train / "3.png").write_text("<html>404</html>")
    (train / "4.png").unlink()
    os.mkfifo(train / "4.png")  # opening it would wait forever
    for _ in range(2):  # the second time from what is kept
        dataset = load(tmp_path, validation_fraction=0, cache_dataset=keep)
        assert len(dataset.train) == 67 and len(dataset.test) == 72
        printed = capsys.readouterr().err
        for name, reason in {
            "0.png": "does not decode",
            "1.png": "is empty",
            "2.png": "leads nowhere",
            "3.png": "not a JPEG",
            "4.png": "not a regular file",
        }.items():
            assert f"{train / name}: " in printed and reason in printed.split(f"{train / name}: ")[1].splitlines()[0]
    (train / "5.png").write_bytes(b"")
    with pytest.raises(InputError, match="6 of 72"):
        load(tmp_path, cache_dataset=keep)


def test_a_class_without_a_readable_image_is_refused(tmp_path):
    make_folder(tmp_path, per_class=20)
    write_image(tmp_path / "train" / "fox" / "1.png", random_image(1))
    (tmp_path / "train" / "fox" / "1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"Classes have no readable image in the train split.*fox"):
        load(tmp_path)


def test_a_validation_folder_is_the_validation_split(tmp_path):
    make_folder(tmp_path, parts=("train", "valid", "test"), per_class=6)
    shutil.rmtree(tmp_path / "valid" / "eel")
    dataset = load(tmp_path, validation_fraction=0.5)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (18, 12, 18)
    assert list(dataset.validation.labels) == [0] * 6 + [1] * 6
    old = load(tmp_path, validation_fraction=0.5, data_rules=1)
    assert (len(old.train), len(old.validation), len(old.test)) == (9, 9, 18)


def test_runs_of_earlier_versions_keep_pixels_and_identity(tmp_path):
    for name in ("a", "b"):
        for i in range(6):
            save(tmp_path / name / f"{i}.jpg", photo(i), exif=exif(6))
    old, new = (load(tmp_path, data_rules=rules, cache_dataset="none", validation_fraction=0) for rules in (1, 2))
    assert old.image_shape == (24, 32, 3) and new.image_shape == (32, 24, 3)
    first = tf.io.decode_image((tmp_path / "a" / "0.jpg").read_bytes()).numpy()
    assert any(np.array_equal(first, image) for image in [*old.train.images[:], *old.test.images[:]])
    assert old.key_name == f"folder:{tmp_path}" and new.key_name == "folder"
    assert data.digest_of(old.train.images) != data.digest_of(new.train.images)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_what_pillow_shows(tmp_path, orientation):
    save(tmp_path / "x.png", photo(3), exif=exif(orientation))
    content = (tmp_path / "x.png").read_bytes()
    assert read_header(content).orientation == orientation
    turned = image_ops.upright(tf.constant(photo(3)), tf.constant(orientation))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "x.png")))
    assert np.array_equal(turned, expected)
    window = tf.constant([2, 3, 7, 5])
    top, left, height, width = image_ops.stored_window(window, tf.shape(turned)[:2], tf.constant(orientation)).numpy()
    part = image_ops.upright(photo(3)[top : top + height, left : left + width], tf.constant(orientation))
    assert np.array_equal(part, expected[2:9, 3:8])


def test_a_header_with_an_impossible_size_is_named_as_the_reason(tmp_path, capsys):
    make_folder(tmp_path, formats=(".png",))
    path = tmp_path / "train" / "cat" / "0.png"
    content = bytearray(path.read_bytes())
    content[16] = 0xFF  # the first byte of the width
    path.write_bytes(content)
    assert len(load(tmp_path, validation_fraction=0).train) == 23
    assert f"{path}: its header gives an impossible size" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(2, 90), (300, 5), (40, 2000)])
def test_the_centre_of_a_thin_image_is_that_of_the_whole_one(shape):
    """Which is not made: a line of 5,000 pixels would be 1.1 million wide. TensorFlow rounds the two sums differently."""
    image = tf.constant(random_image(3, *shape))
    sides = tf.cast(tf.round(np.array(shape) * 36 / min(shape)), tf.int32)
    whole = tf.image.resize_with_crop_or_pad(image_ops.resized(image, sides), 32, 32).numpy().astype(int)
    assert max(shape) * 36 / min(shape) > 16 * 32
    alone = image_ops.fit(image, (32, 32, 3), 36, exact=True).numpy().astype(int)
    assert np.abs(alone - whole).max() <= 1 and (alone != whole).mean() < 0.01
    batch = image_ops.fit(tf.stack([image, image]), (32, 32, 3), 36).numpy()
    assert (batch[0] == batch[1]).all() and np.abs(batch[0] - whole).max() <= 1
