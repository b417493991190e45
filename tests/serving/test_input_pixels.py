"""The lines of Pillow in the model card give the pixels that the student saw, to one grey level."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageOps

from skd_tf.config import Config
from skd_tf.evaluation import image_files
from skd_tf.serving.input_pixels import input_pixels
from tests.helpers.images import load


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def photo(seed, width, height, mode):
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, [height // 4, width // 4, 3], np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def orientation(value):
    facts = Image.Exif()
    facts[0x0112] = value
    return facts


@pytest.mark.parametrize(
    ("settings", "mode", "sizes"),
    [
        ({"image_size": 24}, "RGB", [(61, 40), (40, 93), (50, 33), (20, 30), (24, 24)]),
        pytest.param(
            {"image_size": 28, "augmentation": "resized_crop"},
            "RGB",
            [(64, 48), (48, 99), (17, 30)],
            marks=pytest.mark.slow,
        ),
        pytest.param({"image_size": 24}, "L", [(61, 40), (33, 99)], marks=pytest.mark.slow),
        ({}, "RGB", [(40, 40)]),
    ],
)
def test_the_two_lines_of_pillow(tmp_path, settings, mode, sizes):
    for name in ("a", "b"):
        for place, (width, height) in enumerate(sizes):
            for kind, options in (("jpg", {"quality": 90}), ("png", {}), ("webp", {"lossless": True})):
                if mode == "L" and kind == "webp":
                    continue
                path = tmp_path / "test" / name / f"{place}.{kind}"
                path.parent.mkdir(parents=True, exist_ok=True)
                turn = 1 + (place + len(kind)) % 8 if sizes[0][0] != sizes[0][1] else 1
                photo(place, width, height, mode).save(path, exif=orientation(turn), **options)
        (tmp_path / "train" / name).mkdir(parents=True)
        photo(9, *sizes[0], mode).save(tmp_path / "train" / name / "x.png")
    dataset = load(tmp_path, validation_fraction=0, **settings)
    config = dataclasses.asdict(Config(dataset=f"folder:{tmp_path}", **settings))
    code = input_pixels(config, dataset.image_shape, dataset.png_bits).code
    assert code.count("\n") == 2
    require_same_pixels(tmp_path, code, dataset)


def require_same_pixels(folder, code, dataset):
    paths = [path for name in ("a", "b") for path in sorted((folder / "test" / name).iterdir())]
    for path, image in zip(paths, dataset.test.images, strict=True):
        scope = {"path": path, "numpy": np, "Image": Image, "ImageOps": ImageOps}
        exec(code, scope)
        assert scope["image"].shape == dataset.image_shape and scope["image"].dtype == np.uint8
        assert np.abs(scope["image"].astype(int) - image).max() <= 1, path


@pytest.mark.parametrize(("colour", "bits"), [pytest.param(False, 12, marks=pytest.mark.slow), (True, 16)])
def test_the_lines_of_pillow_for_16_bits(tmp_path, colour, bits):
    """12-bit images, one of them brighter than all training images; a set with colour has other kinds beside it."""
    for part in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            values = np.asarray(photo(len(name), 44, 36, "L")).astype(np.uint16) * 16 + 15
            values[0, 0] = 2**bits - 1
            Image.fromarray(values).save(folder / "0.png", exif=orientation(6))
            Image.fromarray(values * (1 + (part == "test"))).save(folder / "1.png")
            photo(3, 40, 31, "L").save(folder / "2.png")
            if colour:
                photo(4, 40, 31, "RGB").save(folder / "3.jpg")
    dataset = load(tmp_path, validation_fraction=0, image_size=24)
    assert (dataset.png_bits, dataset.image_shape[2]) == (bits, 3 if colour else 1)
    config = dataclasses.asdict(Config(dataset=f"folder:{tmp_path}", image_size=24))
    pixels = input_pixels(config, dataset.image_shape, dataset.png_bits)
    assert pixels.code.count("\n") == 2
    require_same_pixels(tmp_path, pixels.code, dataset)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_16_bit_png_that_comes_after_a_training_without_any_is_read_as_predict_reads_it(tmp_path, mode):
    config = dataclasses.asdict(Config(dataset="folder:x", image_size=24))
    code = input_pixels(config, (24, 24, 1 if mode == "L" else 3), None).code
    Image.fromarray(np.asarray(photo(1, 44, 36, "L")).astype(np.uint16) * 256 + 9).save(tmp_path / "deep.png")
    shape = (24, 24, 1 if mode == "L" else 3)
    ((_, images, *_),) = image_files.batches(tmp_path, ["deep.png"], shape, 24, 1, image_files.PixelRules())
    scope = {"path": tmp_path / "deep.png", "numpy": np, "Image": Image, "ImageOps": ImageOps}
    exec(code, scope)
    assert np.abs(scope["image"].astype(int) - images[0]).max() <= 1 and images[0].mean() < 250


def test_arrays_and_runs_of_earlier_versions():
    digits = input_pixels(dataclasses.asdict(Config()), (8, 8, 1), None)
    assert "arrays of 8x8" in digits.text and not digits.code
    old = input_pixels(dataclasses.asdict(Config(dataset="folder:x", data_rules=1, image_size=8)), (8, 8, 3), None)
    assert "without EXIF" in old.text and "exif" not in old.code
    deep = input_pixels(dataclasses.asdict(Config(dataset="folder:x", image_size=8)), (8, 8, 1), 12)
    assert "v // 16" in deep.text and "another library" not in deep.text
    colour = input_pixels(dataclasses.asdict(Config(dataset="folder:x", image_size=8)), (8, 8, 3), 12)
    assert "another library" in colour.text
