"""Where images come from: folders, functions, TFDS, in memory and on the disk; the same images whichever way."""

import dataclasses
import io
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf

from skd_tf import augment, data, known_datasets
from skd_tf.config import Config
from skd_tf.data import pictures
from skd_tf.errors import InputError

CLASSES = ("cat", "dog", "eel")


def picture(seed, height=20, width=16, channels=3):
    return np.random.default_rng(seed).integers(0, 256, [height, width, channels], np.uint8)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = tf.io.encode_png if path.suffix == ".png" else tf.io.encode_jpeg
    path.write_bytes(encode(image).numpy())
    return path


def make_folder(root, parts=("train", "test"), per_class=8, size=lambda i: (20, 16), suffixes=(".png", ".jpg", ".JPEG")):
    for part in parts:
        for number, name in enumerate(CLASSES):
            for i in range(per_class):
                image = picture(1000 * number + i, *size(i))
                write(root / part / name / f"{i}{suffixes[i % len(suffixes)]}", image)
    return root


def load(root, **settings):
    return data.load(Config(dataset=f"folder:{root}", **settings))


def stream(dataset, config, steps=4, **options):
    options = {"steps_per_epoch": steps, "first_step": 0, "last_step": 2 * steps} | options
    return list(data.train_stream(dataset, config, **options).as_numpy_iterator())


def equal(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a, c) and np.array_equal(b, d) for (a, b), (c, d) in zip(one, other, strict=True)
    )


def test_a_folder_with_train_and_test(tmp_path):
    dataset = load(make_folder(tmp_path), validation_fraction=0.25)
    assert dataset.class_names == CLASSES and dataset.image_shape == (20, 16, 3)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (18, 6, 24)
    assert list(dataset.test.labels) == [0] * 8 + [1] * 8 + [2] * 8
    assert np.array_equal(dataset.test.images[0], picture(0))  # a PNG, pixel for pixel
    assert np.array_equal(dataset.test.images[8 + 3], picture(1003))
    before = dataset.version
    write(tmp_path / "train" / "cat" / "9.png", picture(9))
    assert load(tmp_path).version != before


def test_one_folder_is_split_by_data_seed_class_by_class(tmp_path):
    make_folder(tmp_path, parts=("",), per_class=10)
    splits = [load(tmp_path, data_seed=seed, validation_fraction=0) for seed in (0, 0, 1)]
    for dataset in splits:
        assert list(np.bincount(dataset.train.labels)) == [8] * 3 and list(np.bincount(dataset.test.labels)) == [2] * 3
    known = [{image.tobytes() for image in dataset.test.images} for dataset in splits]
    assert known[0] == known[1] != known[2]
    assert not known[0] & {image.tobytes() for image in splits[0].train.images}


def test_grey_files_make_a_grey_set(tmp_path):
    for part in ("train", "test"):
        for name in ("0", "1"):
            for i in range(3):
                write(tmp_path / part / name / f"{i}.png", picture(i, channels=1))
    assert load(tmp_path).image_shape == (20, 16, 1)
    write(tmp_path / "train" / "0" / "colour.png", picture(7))
    assert load(tmp_path).image_shape == (20, 16, 3)


def test_mixed_sizes_need_a_size_and_keep_their_middle(tmp_path):
    make_folder(tmp_path, size=lambda i: [(20, 16), (30, 40)][i % 2])
    with pytest.raises(InputError, match=r"several sizes.*--image_size"):
        load(tmp_path)
    dataset = load(tmp_path, image_size=10)
    assert dataset.image_shape == (10, 10, 3)
    flat = np.full([40, 80, 3], 200, np.uint8)
    flat[:, :20], flat[:, 60:] = 0, 0  # all but the middle square
    assert (pictures.fit(tf.constant(flat), (10, 10, 3), 10).numpy() == 200).mean() > 0.7


def test_an_unreadable_file_is_named_and_too_many_are_an_error(tmp_path, capsys):
    make_folder(tmp_path, per_class=40, size=lambda i: (4, 4), suffixes=(".png",))
    whole = load(tmp_path, validation_fraction=0)
    bad = tmp_path / "train" / "dog" / "3.png"
    place = 40 + sorted(path.name for path in bad.parent.iterdir()).index(bad.name)
    bad.write_bytes(bad.read_bytes()[:40])  # cut short: its header is fine
    (tmp_path / "train" / "dog" / "notes.txt").write_text("")
    capsys.readouterr()
    for keep in ("memory", "none"):
        rest = load(tmp_path, validation_fraction=0, cache_dataset=keep)
        said = capsys.readouterr().err
        assert str(bad) in said and "notes.txt" in said
        assert len(rest.train) == 119 and place not in rest.train.index
        # Its neighbours are augmented as before.
        config = Config(batch_size=119)
        images = {x.tobytes() for x in stream(rest, config, steps=1)[0][0]}
        assert len(images & {x.tobytes() for x in stream(whole, Config(batch_size=120), steps=1)[0][0]}) == len(images)
    for i in (5, 6):
        (tmp_path / "train" / "dog" / f"{i}.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"do not decode: 3 of 120.*dog.3\.png"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: make_folder(root, parts=("train",)), "one part only"),
        (lambda root: write(root / "cat" / "a.png", picture(0)), "too few classes"),
        (lambda root: (make_folder(root), (root / "train" / "empty").mkdir()), "no images"),
        (lambda root: (make_folder(root), write(root / "test" / "fox" / "a.png", picture(0))), "not trained on.*cat.*fox"),
        (lambda root: make_folder(root, parts=("",), per_class=1), "too small to be split"),
    ],
)
def test_a_wrong_folder_is_one_line(tmp_path, make, words):
    root = tmp_path / "set"
    make(root)
    with pytest.raises(InputError, match=words) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_unlabelled_images_are_never_held_out(tmp_path):
    make_folder(tmp_path, parts=("train", "test"))
    for i in range(24):
        write(tmp_path / "train" / "-1" / f"{i}.png", picture(i))
    dataset = load(tmp_path, validation_fraction=0.5)
    assert dataset.class_names == CLASSES
    assert (dataset.train.labels == -1).sum() == 24 and (dataset.validation.labels >= 0).all()
    assert len(dataset.validation) == 12 and len(dataset.train.labelled()) == 12


@pytest.mark.parametrize("settings", [{}, {"image_size": 12}, {"augmentation": "none"}])
def test_on_the_disk_as_in_memory(tmp_path, settings):
    """Bit for bit: splits, statistics, un-augmented and augmented images, from any step, of any replica."""
    make_folder(tmp_path)
    settings |= {"validation_fraction": 0.25, "batch_size": 4}
    memory, disk = (load(tmp_path, cache_dataset=keep, **settings) for keep in ("memory", "none"))
    assert isinstance(memory.train.images, np.ndarray) and not isinstance(disk.train.images, np.ndarray)
    assert (memory.mean, memory.std, memory.augmentation) == (disk.mean, disk.std, disk.augmentation)
    for one, other in ((memory.train, disk.train), (memory.validation, disk.validation), (memory.test, disk.test)):
        assert one.images.shape == other.images.shape and np.array_equal(one.images, other.images[:])
        assert np.array_equal(one.labels, other.labels) and np.array_equal(one.index, other.index)
        assert np.array_equal(one.images[[2, 0, 2]], other.images[np.array([2, 0, 2])])
        assert np.array_equal(one.images[1], other.images[1])
    config = Config(**settings)
    for options in ({}, {"first_step": 3}, {"shards": 2, "shard_range": range(1, 2)}):
        assert equal(stream(memory, config, **options), stream(disk, config, **options))
    for dataset in (memory, disk):
        view = data.AugmentedImages(dataset, 0, 1)
        trained = {image.tobytes() for images, _ in stream(dataset, config, first_step=4) for image in images}
        assert len(view) == 18 and len(trained & {image.tobytes() for image in view[np.arange(18)]}) == len(trained)


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """A function that writes my_data.py into a folder that Python looks in."""
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


def test_a_function_gives_arrays_or_a_stream(user_module):
    user_module(ARRAYS)
    arrays = data.load(Config(dataset="my_data:arrays", validation_fraction=0))
    assert arrays.class_names == ("a", "b", "c") and arrays.mean == (0.5,) * 3
    assert arrays.augmentation == augment.Augmentation(pad=2, flip=False)
    assert list(arrays.train.labels[:5]) == [-1, 0, 1, 2, -1]
    streamed = data.load(Config(dataset="my_data:stream", validation_fraction=0))
    assert np.array_equal(arrays.train.images, streamed.train.images) and streamed.augmentation.flip
    assert data.load(Config(dataset="my_data:stream", image_size=4)).image_shape == (4, 4, 3)


def test_a_function_gives_paths(user_module, tmp_path):
    make_folder(tmp_path / "set")
    user_module(f"""
import pathlib
def paths(data_dir):
    found = {{part: sorted(pathlib.Path({str(tmp_path / 'set')!r}).glob(part + "/*/*"))
             for part in ("train", "test")}}
    return {{"class_names": {CLASSES!r}}} | {{
        part: (files, [{CLASSES!r}.index(file.parent.name) for file in files]) for part, files in found.items()}}
""")  # fmt: skip
    tests = [data.load(Config(dataset="my_data:paths", cache_dataset="none")).test, load(tmp_path / "set").test]
    one, other = ([(int(y), x.tobytes()) for x, y in zip(test.images[:], test.labels, strict=True)] for test in tests)
    assert sorted(one) == sorted(other) and len(one) == 24


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("floats", "uint8"), ("labels", "from 0 to 1, or -1"), ("endless", "finite"), ("bare", "class_names"),
        ("missing", "no such function"), ("arrays", "already decoded"),
    ],
)  # fmt: skip
def test_a_wrong_function_is_one_line(user_module, name, words):
    user_module(ARRAYS)
    settings = {"augmentation": "resized_crop", "image_size": 8} if name == "arrays" else {}
    with pytest.raises(InputError, match=words):
        data.load(Config(dataset=f"my_data:{name}", **settings))
    with pytest.raises(InputError, match="no module"):
        data.load(Config(dataset="nobodys_module:function"))


def test_names_belong_to_their_readers():
    names = {"digits": "digits", "cifar10": "tfds", "cifar10:3.0.2": "tfds", "cats_vs_dogs/x:1.*.*": "tfds"}
    names |= {"folder:a/b": "folder", "folder:C:/x y": "folder", "my.module:function": "function"}
    assert {name: known_datasets.kind_of(name) for name in names} == names


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A prepared TFDS folder "imagenet2012" of several shards and image sizes."""
    import tensorflow_datasets as tfds

    folder = str(tmp_path_factory.mktemp("tfds"))
    names = [f"n{i:04d}" for i in range(1000)]

    class Imagenet2012(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("5.1.0")

        def _info(self):
            features = {"image": tfds.features.Image(encoding_format="jpeg"), "file_name": tfds.features.Text()}
            features["label"] = tfds.features.ClassLabel(names=names)
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
            )

        def _split_generators(self, _):
            return {"train": self._generate_examples(30), "validation": self._generate_examples(7)}

        def _generate_examples(self, count):
            for i in range(count):
                # Smooth pictures: a JPEG's pixels then hardly depend on which part of it is decoded.
                y, x = np.mgrid[: 240 + 10 * (i % 3), : 280 - 20 * (i % 2)]
                image = np.stack([y, x, 0 * y + 8 * i], axis=-1).clip(0, 255).astype(np.uint8)
                encoded = tf.io.encode_jpeg(image, quality=100, chroma_downsampling=False).numpy()
                yield i, {"image": io.BytesIO(encoded), "label": 7 * i, "file_name": f"{i}.jpg"}

    config = tfds.download.DownloadConfig(num_shards=4)
    Imagenet2012(data_dir=folder).download_and_prepare(download_config=config)
    assert len(list(pathlib.Path(folder).glob("**/*train.tfrecord*"))) == 4
    return folder


IMAGENET = {"dataset": "imagenet2012", "batch_size": 5, "image_size": 32, "validation_fraction": 0.2}


def test_imagenet_is_read_where_it_lies(imagenet):
    dataset = data.load(Config(dataset="imagenet2012"), imagenet)
    assert dataset.image_shape == (224, 224, 3) and dataset.num_classes == 1000
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (27, 3, 7)
    assert isinstance(dataset.augmentation, augment.ResizedCrop) and dataset.mean == (0.485, 0.456, 0.406)
    whole = data.load(Config(**IMAGENET | {"validation_fraction": 0}), imagenet)
    # The blue channel tells which example it is, the label should say the same.
    number = np.rint(whole.train.images[:].astype(float)[..., 2].mean(axis=(1, 2)) / 8)
    assert np.array_equal(7 * number, whole.train.labels) and len(set(number)) == 30
    with pytest.raises(InputError, match="--cache_dataset"):
        data.load(Config(**IMAGENET, cache_dataset="memory"), imagenet)


def test_imagenet_in_memory_is_imagenet_on_the_disk(imagenet):
    """Without the crops both ways are open: the shards are read in the order of TFDS."""
    settings = IMAGENET | {"augmentation": "pad_crop"}
    memory, disk = (data.load(Config(**settings, cache_dataset=keep), imagenet) for keep in ("memory", "none"))
    assert np.array_equal(memory.train.images, disk.train.images[:])
    assert np.array_equal(memory.train.labels, disk.train.labels)
    assert equal(stream(memory, Config(**settings)), stream(disk, Config(**settings)))


def test_crops_are_a_function_of_example_epoch_and_data_seed(imagenet):
    config = Config(**IMAGENET)
    dataset = data.load(config, imagenet)
    batches = stream(dataset, config)
    assert equal(stream(dataset, config, first_step=3), batches[3:])
    plain = dataclasses.replace(dataset, augmentation=augment.ResizedCrop(flip=False))
    unflipped = data.AugmentedImages(plain, 0, 0)[np.arange(24)]
    flipped = augment.draws(0, 0, 30).numpy()[dataset.train.index, 2] % 2 == 1
    expected = np.where(flipped[:, None, None, None], unflipped[:, :, ::-1], unflipped)
    assert 4 < flipped.sum() < 20 and np.array_equal(data.AugmentedImages(dataset, 0, 0)[np.arange(24)], expected)
    epoch = {x.tobytes() for images, _ in batches[:4] for x in images}
    view = data.AugmentedImages(dataset, 0, 0)
    mine = [view[np.array([i])][0].tobytes() for i in range(len(view))]
    assert epoch <= set(mine)
    assert [x.tobytes() for x in view[np.arange(24)]] == mine  # the same in any batch
    other = {x.tobytes() for x in data.AugmentedImages(dataset, 1, 0)[np.arange(24)]}
    later = {x.tobytes() for images, _ in batches[4:] for x in images}
    assert not epoch & later and not epoch & other
    reseeded = {x.tobytes() for images, _ in stream(dataset, config.replace(seed=3), last_step=4) for x in images}
    assert len(epoch & reseeded) >= 16  # another order; the crops stay


def test_windows_are_torchvisions():
    """Area uniform in [0.1, 1] of the image and log ratio uniform, among those that fit; inside the image; all places."""
    how = augment.ResizedCrop(flip=True)
    size = tf.constant([1000, 1000])
    rows = augment.draws(0, 0, 3000)[:, :2]
    windows = tf.function(lambda rows: tf.map_fn(lambda row: pictures.random_window(size, row, how), rows))(rows)
    top, left, height, width = windows.numpy().T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 1000).all() and (left + width <= 1000).all()
    area, ratio = height * width / 1e6, width / height
    assert area.min() >= 0.0995 and ratio.min() > 0.745 and ratio.max() < 1.341
    random = np.random.default_rng(0)
    areas, ratios = random.uniform(0.1, 1, 40_000), np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3), 40_000))
    fits = (areas * ratios <= 1) & (areas / ratios <= 1)  # ten tries: nearly never none
    assert area.mean() == pytest.approx(areas[fits].mean(), abs=0.012)
    assert np.log(ratio).std() == pytest.approx(np.log(ratios[fits]).std(), abs=0.006)
    assert (left / np.maximum(1000 - width, 1)).mean() == pytest.approx(0.5, abs=0.03)
    narrow = pictures.random_window(tf.constant([1000, 20]), rows[0], how).numpy()
    assert list(narrow) == [(1000 - 27) // 2, 0, 27, 20]  # nothing fits: the centre at the nearest ratio


def test_a_window_is_cut_and_resized_as_the_whole_image_would_be():
    y, x = np.mgrid[:240, :280]
    image = np.stack([y, x, (x + y) // 3], axis=-1).clip(0, 255).astype(np.uint8)
    top, left, height, width = 40, 64, 120, 96
    expected = tf.image.resize(image[top : top + height, left : left + width], [32, 32], antialias=True).numpy()
    for encode, tolerance in ((tf.io.encode_png, 0.51), (lambda i: tf.io.encode_jpeg(i, quality=100), 4)):
        got = pictures.decode_window(encode(image), tf.constant([top, left, height, width]), (32, 32, 3)).numpy()
        assert np.abs(got.astype(float) - expected).max() <= tolerance


def test_a_mocked_tfds_set(imagenet):
    import tensorflow_datasets as tfds

    config = Config(**IMAGENET | {"augmentation": "pad_crop", "download": True})
    with tfds.testing.mock_data(num_examples=30, data_dir=imagenet):
        dataset = data.load(config, imagenet, test=False)
    assert dataset.num_classes == 1000 and dataset.image_shape == (32, 32, 3) and len(dataset.train) == 24
    real = data.load(config, imagenet, test=False)
    assert not np.array_equal(dataset.train.images, real.train.images)


def test_a_folder_of_photographs_goes_the_whole_way(tmp_path):
    """Resized crops of pictures on the disk, live and from a teacher cache; the classes' names in what ships."""
    from skd_tf import experiment

    for part, count in (("train", 24), ("test", 6)):
        for number, name in enumerate(CLASSES):
            for i in range(count):
                y, x = np.mgrid[: 30 + i, : 40 - i % 7]
                image = np.stack([(y * x * (number + 1)) % 256, x * 5 % 256, 0 * x + 60 * number], axis=-1).astype(np.uint8)
                write(tmp_path / "set" / part / name / f"{i}.jpg", image)
    settings = {"dataset": f"folder:{tmp_path / 'set'}", "image_size": 16, "augmentation": "resized_crop", "report": False}
    settings |= {"epochs": 6, "batch_size": 12, "learning_rate": 0.05, "strategy": "one_device", "validation_fraction": 0.25}
    alone = experiment.run(Config(student="cnn_16", loss="cross_entropy", **settings), tmp_path / "teacher")
    assert alone["student"]["accuracy"] > 0.8 and alone["class_names"] == list(CLASSES)
    config = Config(student="cnn_4", teacher_checkpoint=str(tmp_path / "teacher"), loss="kd", **settings)
    live = experiment.run(config, tmp_path / "live")
    cache = {"teacher_cache_dir": str(tmp_path / "cache"), "teacher_cache_dtype": "float32"}
    cached = experiment.run(config.replace(**cache), tmp_path / "cached")
    assert cached["student"]["nll"] == pytest.approx(live["student"]["nll"], rel=1e-3)
    served = tf.saved_model.load(str(tmp_path / "live" / "saved_model")).signatures["serving_default"]
    labels = served(images=tf.zeros([1, 16, 16, 3], tf.uint8))["label"].numpy()
    assert labels[0].decode() in CLASSES
