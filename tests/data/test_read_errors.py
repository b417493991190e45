"""Files that cannot be read while they are decoded, and damaged ones: what is remembered for the next load."""

import contextlib
import os

import pytest

from skd_tf.data import file_facts, file_splits
from tests.helpers.images import load, random_image, write_image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path):
    """Six grey images of each of two classes, and six for the test."""
    places = [(part, name, i) for part in ("train", "test") for name in ("cat", "dog") for i in range(6)]
    for seed, (part, name, i) in enumerate(places):
        write_image(tmp_path / "set" / part / name / f"{i}.png", random_image(seed, 20, 16, 1))
    make_older(tmp_path / "set")
    return tmp_path / "set"


def make_older(root):
    """Facts of files that were new when they were read are not used again."""
    for path in root.rglob("*.*"):
        os.utime(path, ns=(10**18, 10**18))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])


def facts_of(folder, path):
    return file_facts.FileFacts(folder, [str(path)])


@contextlib.contextmanager
def decoded_with(change):
    """Calls `change` after the facts of all files are known and before a file is decoded."""
    stream = file_splits._stream

    def changed(*arguments):
        change()
        return stream(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_splits, "_stream", changed)
        yield


@pytest.mark.parametrize("keep", ["memory", pytest.param("none", marks=pytest.mark.slow)])
def test_a_file_that_cannot_be_opened_for_a_while_is_there_at_the_next_load(folder, tmp_path, capsys, keep):
    path, elsewhere = folder / "train" / "dog" / "3.png", tmp_path / "elsewhere.png"

    def take_away():
        if path.exists():
            path.rename(elsewhere)

    with decoded_with(take_away):
        dataset = load(folder, test=False, validation_fraction=0, cache_dataset=keep)
    assert len(dataset.train) == 11 and f"Skipped {path}: it cannot be read" in capsys.readouterr().err
    elsewhere.rename(path)
    assert len(load(folder, test=False, validation_fraction=0, cache_dataset=keep).train) == 12
    assert "Skipped" not in capsys.readouterr().err


def test_a_deep_file_that_cannot_be_opened_for_a_while_is_there_at_the_next_load(folder, tmp_path):
    path, elsewhere = folder / "train" / "dog" / "3.png", tmp_path / "elsewhere.png"
    write_image(path, 257 * random_image(5, 20, 16, 1).astype("uint16"))
    make_older(folder)
    with decoded_with(lambda: path.exists() and path.rename(elsewhere)):
        assert load(folder, test=False, validation_fraction=0).train.images.shape[0] == 11
    elsewhere.rename(path)
    again = load(folder, test=False, validation_fraction=0)
    assert len(again.train) == 12 and again.png_bits == 16


def test_a_file_that_cannot_be_read_for_a_moment_is_there_at_the_next_load(folder, capsys, monkeypatch):
    """It can be opened again when the others are decoded."""
    path, content = folder / "train" / "dog" / "3.png", []
    read_again = file_facts.FileFacts.read_again

    def in_time(facts, rows, paths):
        if len(rows):
            path.write_bytes(content[0])
            make_older(folder)
        read_again(facts, rows, paths)

    monkeypatch.setattr(file_facts.FileFacts, "read_again", in_time)
    with decoded_with(lambda: content or content.append(path.read_bytes()) or path.write_bytes(b"")):
        assert len(load(folder, test=False, validation_fraction=0).train) == 11
    assert f"Skipped {path}: it could not be read for a moment" in capsys.readouterr().err
    monkeypatch.setattr(file_facts.FileFacts, "read_again", read_again)
    assert len(load(folder, test=False, validation_fraction=0).train) == 12


def test_a_file_that_changes_while_it_is_decoded_is_read_again(folder, capsys):
    path = folder / "train" / "dog" / "3.png"
    whole = path.read_bytes()
    with decoded_with(lambda: path.write_bytes(b"half")):
        assert len(load(folder, test=False, validation_fraction=0).train) == 11
    path.write_bytes(whole)
    make_older(folder)
    assert len(load(folder, test=False, validation_fraction=0).train) == 12


def test_a_damaged_file_is_remembered(folder, capsys):
    path = folder / "train" / "dog" / "3.png"
    cut(path)
    make_older(folder)
    for _ in range(2):
        assert len(load(folder, test=False, validation_fraction=0).train) == 11
        assert f"Skipped {path}: it does not decode" in capsys.readouterr().err
        facts = facts_of(folder, path)
        assert facts.read == 0 and facts.rows["state"] == [file_facts.DAMAGED]


@pytest.mark.parametrize("keep", ["memory", pytest.param("none", marks=pytest.mark.slow)])
def test_a_damaged_coloured_file_does_not_give_grey_images_three_channels(folder, keep):
    path = folder / "train" / "cat" / "6.jpg"
    write_image(path, random_image(6, 20, 16))
    cut(path)
    for _ in range(2):
        dataset = load(folder, test=False, validation_fraction=0, cache_dataset=keep)
        assert dataset.image_shape == (20, 16, 1) and len(dataset.train) == 12
    write_image(path, random_image(6, 20, 16))
    assert load(folder, test=False, validation_fraction=0, cache_dataset=keep).image_shape == (20, 16, 3)
