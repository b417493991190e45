"""A dataset that TFDS cannot download is one line, with what to put where."""

import errno
import types

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from skd_tf import data
from skd_tf.data import tfds_source
from skd_tf.errors import InputError


class _Downloaded(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    error: Exception | None = None

    def _info(self):
        features = {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        if self.error:
            raise self.error
        return {name: self._generate_examples() for name in ("train", "test")}

    def _generate_examples(self):
        for i in range(4):
            yield i, {"image": np.full((8, 8, 1), i, np.uint8), "label": i % 2}


class SkdAutomatic(_Downloaded):
    """A set that TFDS fetches itself."""


class SkdManual(_Downloaded):
    """A set whose archives the user has to fetch."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir should contain\n  train.tar and val.tar. Register at example.org."

    def _split_generators(self, dl_manager):
        assert (dl_manager.manual_dir / "train.tar").exists(), "no train.tar"
        return super()._split_generators(dl_manager)


def load(name, folder):
    settings = data.DataSettings(dataset=name, download=True, validation_fraction=0)
    return data.load(settings, str(folder))


@pytest.mark.parametrize("kind", [tf.errors.DataLossError, tf.errors.NotFoundError])
def test_a_damaged_or_missing_shard_is_named_without_the_place_in_the_graph(kind):
    text = "{{function_node __wrapped__IteratorGetNext}} x.tfrecord; No such file [Op:IteratorGetNext] name: "
    settings, builder = data.DataSettings(dataset="tiny"), types.SimpleNamespace(data_path="/data/tiny")
    words = r"train split of tiny is damaged.*Received x.tfrecord; No such file in /data"
    with pytest.raises(InputError, match=words), tfds_source._damage_as_input_error(settings, builder, "train"):
        raise kind(None, None, text)


def test_archives_that_the_user_has_to_fetch_are_named_with_their_folder(tmp_path):
    words = rf"(?=.*Expected them in {tmp_path}/downloads/manual)(?=.*train.tar and val.tar. Register at example.org)"
    for _ in range(2):  # TFDS checks the folder first, then the dataset looks into it
        with pytest.raises(InputError, match=rf"^TFDS may not download skd_manual{words}") as caught:
            load("skd_manual", tmp_path)
        assert "\n" not in str(caught.value)
        (tmp_path / "downloads" / "manual").mkdir(parents=True, exist_ok=True)
        (tmp_path / "downloads" / "manual" / "val.tar").touch()
    (tmp_path / "downloads" / "manual" / "train.tar").touch()
    assert len(load("skd_manual", tmp_path).train) == 4


def test_a_missing_network_is_one_line_and_a_full_disk_is_the_machine_s(tmp_path, monkeypatch):
    for error in (
        ConnectionError("Failed to\nresolve host"),
        RuntimeError(),
        ModuleNotFoundError("No module named 'x'"),
    ):
        monkeypatch.setattr(_Downloaded, "error", error)
        with pytest.raises(
            InputError, match=rf"\({type(error).__name__}\).*copy its folder skd_automatic into {tmp_path}"
        ):
            load("skd_automatic", tmp_path)
    monkeypatch.setattr(_Downloaded, "error", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        load("skd_automatic", tmp_path)
    monkeypatch.setattr(_Downloaded, "error", None)
    assert len(load("skd_automatic", tmp_path).train) == 4
