"""Content of a folder's files: pictures that occur twice, and folders that are the same data."""

import os
import pathlib
import shutil

import pytest

from skd_tf.data import file_facts
from skd_tf.errors import InputError
from skd_tf.runs.data_identity import data_facts, require_same_data
from tests.helpers.images import load, make_folder, random_image, write_image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def test_equal_pictures_on_both_sides_are_counted(tmp_path, capsys):
    for i in range(20):
        write_image(tmp_path / "train" / "ab"[i % 2] / f"{i}.png", random_image(i))
        write_image(tmp_path / "test" / "ab"[i % 2] / f"other{i}.png", random_image(100 + i))
    assert load(tmp_path).warnings == ()
    assert "by content" not in capsys.readouterr().err
    for i in range(3):
        shutil.copy(tmp_path / "train" / "a" / f"{2 * i}.png", tmp_path / "test" / "a" / f"copy{i}.png")
    shutil.copy(tmp_path / "train" / "a" / "0.png", tmp_path / "train" / "b" / "x.png")
    kept = load(tmp_path).warnings  # for result.json
    printed = capsys.readouterr().err
    assert len(kept) == 2 and all(text in printed for text in kept)
    assert "The train split contains 3 files of the test split, by content" in printed and "copy" in printed
    assert "The train split has 1 picture in several classes" in printed


def test_copies_of_training_pictures_among_the_validation_images_are_counted(tmp_path, capsys):
    for i in range(40):
        path = tmp_path / "train" / "ab"[i % 2] / f"{i}.png"
        write_image(path, random_image(i))
        write_image(tmp_path / "test" / "ab"[i % 2] / f"{i}.png", random_image(100 + i))
    assert load(tmp_path).warnings == ()
    for path in list((tmp_path / "train").rglob("*.png")):
        shutil.copy(path, path.with_name(f"copy{path.name}"))
    dataset = load(tmp_path)
    train = {image.tobytes() for image in dataset.train.images}
    count = sum(image.tobytes() in train for image in dataset.validation.images)
    (warning,) = dataset.warnings
    assert count > 0 and warning in capsys.readouterr().err
    assert warning.startswith(
        f"{count} of {len(dataset.validation)} validation images, drawn from the training images, are"
    )


@pytest.mark.parametrize("content", [b"no image", b"damaged"])
def test_equal_files_that_are_not_used_are_not_counted(tmp_path, capsys, content):
    make_folder(tmp_path, per_class=7, formats=(".png",))
    if content == b"damaged":  # its header can be read
        content = (tmp_path / "train" / "cat" / "0.png").read_bytes()[:-400]
    shutil.rmtree(tmp_path / "test"), make_folder(tmp_path, ("test",), 7, lambda i: (20, 17), (".png",))
    for place in ("train/cat", "train/dog", "test/cat"):
        (tmp_path / place / "bad.png").write_bytes(content)
    load(tmp_path, image_size=16)
    printed = capsys.readouterr().err
    assert printed.count("Skipped") == 3 and "by content" not in printed and "several classes" not in printed


@pytest.mark.parametrize("keep", ["memory", pytest.param("none", marks=pytest.mark.slow)])
def test_a_copied_or_touched_folder_is_the_same_data(tmp_path, keep):
    one = make_folder(tmp_path / "one", size=lambda i: (8, 8))
    facts = data_facts(load(one, cache_dataset=keep))
    shutil.copytree(one, tmp_path / "two" / "elsewhere")
    for path in one.rglob("*.png"):
        os.utime(path, ns=(1, 10**18))
    for place in (one, tmp_path / "two" / "elsewhere"):
        require_same_data("run", facts, data_facts(load(place, cache_dataset=keep)))
    changed = tmp_path / "two" / "elsewhere" / "train" / "cat" / "0.png"
    before = changed.stat()
    content = bytearray(changed.read_bytes())
    write_image(changed, random_image(77, 8, 8))
    changed.write_bytes(changed.read_bytes()[: len(content)].ljust(len(content), b"\0"))  # the same size
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    with pytest.raises(InputError, match="The data has changed"):
        require_same_data("run", facts, data_facts(load(changed.parents[2], cache_dataset=keep)))


def test_facts_are_kept_and_read_again_only_when_files_change(tmp_path, monkeypatch):
    make_folder(tmp_path / "set", parts=("",), size=lambda i: (8, 8))
    paths = sorted(map(str, (tmp_path / "set").rglob("*.*")))
    for path in paths:
        os.utime(path, ns=(10**18, 10**18))
    first = file_facts.FileFacts(tmp_path / "set", paths)
    assert first.read == len(paths) == 24
    assert file_facts.FileFacts(tmp_path / "set", paths).read == 0
    os.utime(paths[3], ns=(10**18, 10**18 + 1))
    again = file_facts.FileFacts(tmp_path / "set", paths)
    assert again.read == 1 and again.identity() == first.identity()
    other = bytearray(pathlib.Path(paths[3]).read_bytes())
    other[-13] ^= 1
    pathlib.Path(paths[3]).write_bytes(other)
    os.utime(paths[3], ns=(10**18, 10**18 + 1))  # as cp -p does
    changed = file_facts.FileFacts(tmp_path / "set", paths)
    assert changed.read == 1 and changed.identity() != first.identity()
    first = changed
    kept = next(pathlib.Path(os.environ["XDG_CACHE_HOME"]).rglob("*.npz"))
    kept.write_bytes(kept.read_bytes()[:100])
    assert file_facts.FileFacts(tmp_path / "set", paths).identity() == first.identity()
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")  # cannot be written
    assert file_facts.FileFacts(tmp_path / "set", paths).read == 24
