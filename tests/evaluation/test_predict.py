"""skd_tf.predict: every image file gets the model's own answer, or a reason why it got none."""

import csv
import json
import os
import pathlib
import shutil

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from skd_tf import data, networks, predict
from skd_tf.errors import InputError
from skd_tf.evaluation import metrics, predictor, temperature_scaling
from skd_tf.evaluation import predict_images as predict_images_module
from skd_tf.evaluation.predict_images import predict_images
from skd_tf.serving.saved_model import save_saved_model
from tests.helpers.images import random_image, write_image

OLD_RUN = pathlib.Path(__file__).parents[1] / "old_runs" / "0.1.0" / "finished"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """(folder of 300 test digits in two subfolders, their pixels in the order of their names)."""
    folder = tmp_path_factory.mktemp("digits")
    images = data.load(data.DataSettings()).test.images[:300]
    for number, image in enumerate(images):
        write_image(folder / ("a" if number < 150 else "b/c") / f"{number:03d}.png", image)
    return folder, images


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["predict", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            predict.cli_main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def probabilities(path, classes):
    return np.array([[float(row[f"p_{name}"]) for name in classes] for row in rows(path)])


def saved(path, shape, classes=3, seed=0):
    keras.utils.set_random_seed(seed)
    model = networks.build("cnn_2", input_shape=shape, num_classes=classes)
    model.save(path)
    return model


def softmax(model, images):
    return np.exp(metrics.log_softmax(model.predict(np.asarray(images, np.float32), verbose=0)))


@pytest.mark.slow
def test_two_devices_answer_as_one(digits, tmp_path, command, two_replicas, monkeypatch):
    """Each computes whole batches, while the next ones are read; the answers stay in the files' order."""
    folder, _ = digits
    command(OLD_RUN / "student.keras", folder, f"--output={tmp_path / 'one.csv'}")
    monkeypatch.setattr(predict_images_module, "BATCH_SIZE", 16)
    monkeypatch.setattr(predict_images_module, "accelerators", lambda: predictor.local_devices(two_replicas))
    used, compute = set(), predictor._Place.__call__
    monkeypatch.setattr(
        predictor._Place, "__call__", lambda self, images: used.add(self._device) or compute(self, images)
    )
    command(OLD_RUN / "student.keras", folder, f"--output={tmp_path / 'two.csv'}")
    assert len(used) == 2
    one, two = (probabilities(tmp_path / f"{name}.csv", range(10)) for name in ("one", "two"))
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "kind", ["", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("student.keras", "saved_model"))]
)
def test_each_file_gets_the_answer_of_the_model(digits, tmp_path, command, kind):
    folder, images = digits
    code, out, err = command(OLD_RUN / kind, folder, f"--output={tmp_path / 'answers.csv'}")
    assert code == 0, err
    found = rows(tmp_path / "answers.csv")
    assert [row["file"] for row in found] == [f"{'a' if n < 150 else 'b/c'}/{n:03d}.png" for n in range(300)]
    model = keras.models.load_model(OLD_RUN / "student.keras", compile=False)
    expected = softmax(model, images)
    assert probabilities(tmp_path / "answers.csv", range(10)) == pytest.approx(expected, abs=1e-5)
    assert [int(row["class_id"]) for row in found] == expected.argmax(axis=1).tolist()
    assert [float(row["probability"]) for row in found] == pytest.approx(expected.max(axis=1), abs=1e-5)
    assert [row["class"] for row in found] == [str(label) for label in expected.argmax(axis=1)]
    assert "300 of 300" in out and "resized" not in out


def test_files_that_cannot_be_read_are_listed_and_move_no_other(digits, tmp_path, command):
    source, images = digits
    folder = shutil.copytree(source, tmp_path / "pictures")
    bad = ["a/000.png", "a/0705.jpg", "b/c/299.png", "dead.png", "device.png"]
    (folder / bad[0]).write_bytes(b"")
    (folder / bad[1]).write_bytes(b"no image")
    (folder / bad[2]).write_bytes((folder / bad[2]).read_bytes()[:40])
    os.symlink("nowhere", folder / bad[3])
    os.symlink(os.devnull, folder / bad[4])
    code, out, err = command(f"--model={OLD_RUN}", folder, f"--output={tmp_path / 'answers.csv'}")
    assert code == 0 and "298 of 303" in out
    found = {row["file"]: row for row in rows(tmp_path / "answers.csv")}
    assert len(found) == 303 and sorted(found) == list(found)
    assert [file for file, row in found.items() if row["problem"]] == bad
    assert all(f"Not classified: {name}: " in err and not found[name]["class"] for name in bad)
    problems = {name: found[name]["problem"] for name in bad}
    assert problems["dead.png"] == "the link leads nowhere" and problems["a/000.png"] == "it is empty"
    assert problems["device.png"] == "it is not a regular file"
    assert problems["b/c/299.png"] == "it does not decode" and "it is not a JPEG" in problems["a/0705.jpg"]
    model = keras.models.load_model(OLD_RUN / "student.keras", compile=False)
    for number in (1, 70, 71, 298):
        row = found[f"{'a' if number < 150 else 'b/c'}/{number:03d}.png"]
        answer = [float(row[f"p_{name}"]) for name in range(10)]
        assert answer == pytest.approx(softmax(model, images[number : number + 1])[0], abs=1e-5)


@pytest.mark.slow
def test_hidden_files_links_in_a_circle_and_other_files_are_left_out(tmp_path, command):
    saved(tmp_path / "net.keras", (8, 8, 3))
    folder = tmp_path / "pictures"
    for place in ("cat/1.png", ".ipynb_checkpoints/1.png", "cat/.thumbs/1.png", "__MACOSX/1.png", "cat/.1.png"):
        write_image(folder / place, random_image(1, 8, 8))
    for place in ("$RECYCLE.BIN/1.png", "cat/@eaDir/1.png"):
        write_image(folder / place, random_image(1, 8, 8))
    (folder / "notes.txt").write_text("x")
    os.symlink("..", folder / "cat" / "up")
    os.symlink(folder / "cat", folder / "same")
    code, out, _ = command(tmp_path / "net.keras", folder, f"--output={tmp_path / 'answers.csv'}")
    assert code == 0 and [row["file"] for row in rows(tmp_path / "answers.csv")] == ["cat/1.png"]
    assert "only images are read: 1 .txt" in out and "numbered from 0" in out


@pytest.mark.parametrize(
    "shape, resize",
    [
        ((12, 20, 3), 0),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (((12, 12, 3), 0), ((12, 12, 3), 14), ((9, 9, 1), 0))
        ),
    ],
)
def test_other_sizes_are_scaled_to_cover_and_cut_out_of_the_middle(tmp_path, shape, resize):
    model = saved(tmp_path / "net.keras", shape)
    image = random_image(0, 30, 41, 3)
    write_image(tmp_path / "pictures" / "1.png", image)
    write_image(tmp_path / "pictures" / "2.png", random_image(1, *shape))
    output = tmp_path / "answers.csv"
    assert predict_images(tmp_path / "net.keras", tmp_path / "pictures", output, resize=resize) == []
    if shape[2] == 1:
        image = tf.io.decode_png(tf.io.encode_png(image), channels=1).numpy()
    factor = (resize or min(shape[:2])) / min(shape[:2])
    scale = max(shape[0] * factor / 30, shape[1] * factor / 41)
    size = [round(30 * scale), round(41 * scale)]
    whole = np.clip(np.round(tf.image.resize(image, size, antialias=True).numpy()), 0, 255)
    top, left = (size[0] - shape[0]) // 2, (size[1] - shape[1]) // 2
    middle = whole[top : top + shape[0], left : left + shape[1]]
    second = random_image(1, *shape)
    if resize:
        second = np.clip(np.round(tf.image.resize(second, [resize, resize], antialias=True).numpy()), 0, 255)
        second = second[1:-1, 1:-1]
    assert probabilities(output, range(3)) == pytest.approx(softmax(model, [middle, second]), abs=1e-5)


def test_every_format_and_its_first_frame(tmp_path):
    model = saved(tmp_path / "net.keras", (8, 8, 3))
    frames = np.stack([np.zeros([8, 8, 3], np.uint8), np.full([8, 8, 3], 255, np.uint8)])
    folder = tmp_path / "pictures"
    write_image(folder / "1.PNG", random_image(0, 8, 8))  # write_image encodes JPEG for other suffixes than .png
    pictures = [PIL.Image.fromarray(frame) for frame in frames]
    pictures[0].save(folder / "2.gif", save_all=True, append_images=pictures[1:])
    pictures[1].save(folder / "3.bmp")
    output = tmp_path / "answers.csv"
    assert predict_images(tmp_path / "net.keras", folder, output) == []
    assert probabilities(output, range(3))[1:] == pytest.approx(softmax(model, frames), abs=1e-5)


@pytest.mark.parametrize("rules", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_orientation_and_depth_are_those_of_the_run(tmp_path, rules):
    """Photos are turned as EXIF says and 16-bit files scaled as in the run, unless it began with skd_tf 0.1."""
    workdir = shutil.copytree(OLD_RUN, tmp_path / "run")
    record = json.loads((workdir / "config.json").read_text())
    record |= {"dataset": "folder:pictures", "data_rules": rules}
    (workdir / "config.json").write_text(json.dumps(record))
    measurements = json.loads((workdir / "measurements.json").read_text())
    measurements["dataset"]["png_bits"] = 12
    (workdir / "measurements.json").write_text(json.dumps(measurements))
    model = saved(workdir / "student.keras", (8, 8, 3), classes=10)
    folder, image = tmp_path / "pictures", random_image(0, 8, 8)
    folder.mkdir()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by a quarter, clockwise
    PIL.Image.fromarray(image).save(folder / "1.png", exif=exif)
    deep = np.random.default_rng(0).integers(0, 4096, [8, 8, 3], np.uint16)
    (folder / "2.png").write_bytes(tf.io.encode_png(deep).numpy())
    assert predict_images(workdir, folder, tmp_path / "answers.csv") == []
    upright = [np.rot90(image, -1), deep // 16] if rules == 2 else [image, deep // 256]
    assert probabilities(tmp_path / "answers.csv", range(10)) == pytest.approx(softmax(model, upright), abs=1e-5)


def test_an_animated_webp_is_listed_and_not_decoded(tmp_path):
    saved(tmp_path / "net.keras", (8, 8, 3))
    folder = tmp_path / "pictures"
    write_image(folder / "1.png", random_image(0, 8, 8))
    frames = [PIL.Image.fromarray(random_image(seed, 8, 8)) for seed in (1, 2)]
    frames[0].save(folder / "2.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(folder / "3.webp", lossless=True)
    assert predict_images(tmp_path / "net.keras", folder, tmp_path / "answers.csv") == ["2.webp"]
    assert "animated" in rows(tmp_path / "answers.csv")[1]["problem"]


def test_a_model_of_any_size_needs_one(tmp_path):
    pixels = keras.Input([None, None, 3])
    pooled = keras.layers.GlobalAveragePooling2D()(pixels)
    keras.Model(pixels, keras.layers.Dense(3)(pooled)).save(tmp_path / "net.keras")
    write_image(tmp_path / "pictures" / "1.png", random_image(0, 30, 41))
    with pytest.raises(InputError, match="--image_size is needed"):
        predict_images(tmp_path / "net.keras", tmp_path / "pictures", tmp_path / "answers.csv")
    predict_images(tmp_path / "net.keras", tmp_path / "pictures", tmp_path / "answers.csv", image_size=16)
    assert len(rows(tmp_path / "answers.csv")) == 1


@pytest.mark.slow
def test_the_classes_of_a_saved_model_are_named(tmp_path):
    model = saved(tmp_path / "student.keras", (8, 8, 3))
    names = ["cat", "dog, or wolf", "Äal"]
    save_saved_model(model, tmp_path / "saved_model", names)
    write_image(tmp_path / "pictures" / "ä,1.png", random_image(0, 8, 8))
    for path in ("saved_model", "student.keras"):  # an export's SavedModel has the names for its .keras file too
        predict_images(tmp_path / path, tmp_path / "pictures", tmp_path / "answers.csv")
        (row,) = rows(tmp_path / "answers.csv")
        assert list(row)[5:] == [f"p_{name}" for name in names] and row["file"] == "ä,1.png"
        assert row["class"] == names[int(softmax(model, [random_image(0, 8, 8)]).argmax())]


def test_a_fitted_temperature_is_applied_unless_refused(digits, tmp_path, command):
    folder, images = digits
    workdir = shutil.copytree(OLD_RUN, tmp_path / "run")
    quality = {"nll": 1.0, "ece": 0.1}
    temperature_scaling.store(workdir, 0.25, examples=90, before=quality, after=quality)
    logits = keras.models.load_model(workdir / "student.keras", compile=False).predict(images, verbose=0)
    for more, temperature in (((), 0.25), (("--nocalibrated",), 1.0)):
        code, said, _ = command(workdir, folder, f"--output={tmp_path / 'answers.csv'}", *more)
        assert code == 0 and ("The model's file has none." in said) == (not more)
        expected = np.exp(metrics.log_softmax(logits / temperature))
        assert probabilities(tmp_path / "answers.csv", range(10)) == pytest.approx(expected, abs=1e-4)


def test_probabilities_stay_probabilities(tmp_path):
    images = keras.Input([8, 8, 3])
    model = keras.Model(images, keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(images / 255)))
    model.save(tmp_path / "net.keras")
    write_image(tmp_path / "pictures" / "1.png", random_image(0, 8, 8))
    predict_images(tmp_path / "net.keras", tmp_path / "pictures", tmp_path / "answers.csv")
    expected = model.predict(random_image(0, 8, 8)[None].astype(np.float32), verbose=0)
    assert probabilities(tmp_path / "answers.csv", range(3)) == pytest.approx(expected, abs=1e-5)


def test_the_pixels_are_those_of_the_run(tmp_path):
    """A run with resized crops shows its student the middle 224 of 256, so predict does too."""
    workdir = shutil.copytree(OLD_RUN, tmp_path / "run")
    record = json.loads((workdir / "config.json").read_text())
    record |= {"dataset": "folder:pictures", "image_size": 56, "augmentation": "resized_crop"}
    (workdir / "config.json").write_text(json.dumps(record))
    model = saved(workdir / "student.keras", (56, 56, 3), classes=10)
    image = random_image(0, 90, 80)
    write_image(tmp_path / "pictures" / "1.png", image)
    predict_images(workdir, tmp_path / "pictures", tmp_path / "answers.csv")
    whole = np.clip(np.round(tf.image.resize(image, [72, 64], antialias=True).numpy()), 0, 255)
    expected = softmax(model, [whole[8:64, 4:60]])
    assert probabilities(tmp_path / "answers.csv", range(10)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("nowhere.keras", "pictures"), "No model there"),
        ((OLD_RUN, "nowhere"), "There is no such file or folder"),
        ((OLD_RUN, "empty"), "The folder has no images"),
        ((OLD_RUN, "broken"), "No image can be read"),
        ((OLD_RUN, "pictures", "--image_size=9"), "--image_size is not the size that the model takes"),
        ((OLD_RUN, "pictures", "--resize=5"), "--resize is smaller"),
        ((OLD_RUN,), "--images is missing"),
        ((OLD_RUN, "pictures", "more"), "An argument is not a flag"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, command, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "pictures" / "1.png", random_image(0, 8, 8))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.png").write_bytes(b"")
    code, _, err = command(*arguments, "--output=answers.csv")
    assert code == 2 and err.splitlines()[-1].startswith(f"error: {message}"), err
    assert not list(tmp_path.glob("answers.csv*"))


def test_the_output_is_no_file_of_a_run_and_no_folder(digits, command, monkeypatch, tmp_path):
    code, _, err = command(OLD_RUN, digits[0], f"--output={OLD_RUN / 'result.json'}")
    assert code == 2 and "The output is a file of the run" in err
    monkeypatch.setattr(predict_images_module.loading, "load", None)  # it is refused before anything is loaded
    with pytest.raises(InputError, match="The output is a folder"):
        predict_images(OLD_RUN, digits[0], tmp_path)


def test_weights_are_downloaded_if_the_command_says_so(digits, command, monkeypatch, tmp_path):
    asked = []

    def load(path, download):
        asked.append(download)
        raise InputError("enough")

    monkeypatch.setattr(predict_images_module.loading, "load", load)
    for more in ([], ["--download"]):
        assert command("keras.applications:MobileNetV2", digits[0], f"--output={tmp_path / 'a.csv'}", *more)[0] == 2
    assert asked == [False, True]


@pytest.mark.slow
def test_16_bits_without_a_run_and_dead_links_are_named(tmp_path, capsys):
    """A copied file does not say how its run read 16-bit images."""
    saved(tmp_path / "net.keras", (8, 8, 1))
    folder = tmp_path / "images"
    folder.mkdir()
    write_image(folder / "0.png", random_image(0, 8, 8)[..., :1])
    predict_images(tmp_path / "net.keras", folder, tmp_path / "answers.csv")
    assert "16-bit" not in capsys.readouterr().err
    (folder / "1.png").write_bytes(tf.io.encode_png(np.full([8, 8, 1], 999, np.uint16)).numpy())
    (folder / "2.png").symlink_to(tmp_path / "gone.png")
    assert predict_images(tmp_path / "net.keras", folder, tmp_path / "answers.csv") == ["2.png"]
    said = capsys.readouterr().err
    assert "16-bit PNGs: 1 of 3 images, read as value / 256. The model's run is not known. Name the run" in said
    assert rows(tmp_path / "answers.csv")[2]["problem"] == "the link leads nowhere"
