"""The teacher of a run: its logits, from the cache or from the network, which is built only where it has to be."""

import functools
import hashlib
import json
import math
import pathlib
import time
import zipfile

import tensorflow as tf

from skd_tf import augment, evaluation, models, teacher_cache
from skd_tf.errors import InputError
from skd_tf.progress import say, warn
from skd_tf.workdir import write_json

_PASS_SECONDS = 15  # between two lines of progress


class Teacher:
    """A teacher for one dataset.

    Args:
      path: a workdir, a `.keras` file or a SavedModel folder.
      config: `teacher`, `teacher_precision`, `teacher_cache_dir`, `teacher_cache_dtype` and `data_seed` are used.
      dataset: the `Dataset` it teaches on.
      strategy: replicas that the live network is made for.
    """

    def __init__(self, path, config, dataset, strategy):
        self.path, self._config, self._dataset, self._strategy = path, config, dataset, strategy
        self._identity, self._cache = {}, None
        if config.teacher_cache_dir:
            self._cache = teacher_cache.TeacherCache(config.teacher_cache_dir, config.teacher_cache_dtype, warn)
            # Evaluation and the radius are exact: their files are few.
            self._exact = teacher_cache.TeacherCache(config.teacher_cache_dir, "float32", warn)
            self._identity = {
                "teacher": self.fingerprint,
                "precision": config.teacher_precision,
                "folding": models.FOLDING_VERSION,
            }

    @functools.cached_property
    def model(self):
        """The network, built when somebody first asks for it."""
        with self._strategy.scope():
            return models.load_teacher(
                self.path, name=self._config.teacher, dataset=self._dataset,
                teacher_precision=self._config.teacher_precision,
            )  # fmt: skip

    @functools.cached_property
    def fingerprint(self):
        return fingerprint(self.path)

    @functools.cached_property
    def facts(self):
        """{"name", "parameters"}: what a result says of the teacher."""
        if self._cache:
            record = self._cache.folder / f"{teacher_cache.key_of(self._identity)}.json"
            if record.is_file():
                facts = json.loads(record.read_text())
                if self._config.teacher in ("", facts["name"]):
                    return facts
        facts = {"name": self.model.name, "parameters": models.parameter_count(self.model)}
        if self._cache:
            write_json(record, facts)
        return facts

    def logits(self, images):
        """Logits of un-augmented images `[n, h, w, c]`, float32 `[n, classes]`; from the cache where there is one."""
        if not self._cache:
            return self._predict(images)
        shape = len(images), self._dataset.num_classes
        key = teacher_cache.key_of(self._identity | {"images": teacher_cache.digest_of(images)})
        if not self._exact.has(key, shape):
            self._exact.write(key, self._predict(images))
        return self._exact.read(key, shape)

    def epoch_files(self, epochs):
        """Paths of the cached logits of every augmented training image, a file an epoch; missing ones are made first.

        Returns None without a cache directory.
        """
        if not self._cache:
            return None
        train = self._dataset.train
        shape = len(train), self._dataset.num_classes
        shared = self._identity | {
            "dataset": [self._dataset.name, self._dataset.version, teacher_cache.digest_of(train.images)],
            "index": teacher_cache.digest_of(train.index),
            "augmentation": [augment.VERSION, *self._dataset.augmentation],
            "data_seed": self._config.data_seed,
            "dtype": self._cache.dtype.name,
        }
        keys = [teacher_cache.key_of(shared | {"epoch": epoch}) for epoch in range(epochs)]
        missing = [epoch for epoch, key in enumerate(keys) if not self._cache.has(key, shape)]
        size = self._cache.file_bytes(shape) / 1e6
        say(
            f"Teacher cache {self._cache.folder}: {epochs} epochs x {size:.1f} MB = {epochs * size / 1e3:.2f} GB of "
            f"{self._cache.dtype} logits, {len(missing)} to compute."
        )
        self._cache.require_space(len(missing), shape)
        start = said = time.monotonic()
        for done, epoch in enumerate(missing):
            self._cache.write(keys[epoch], self._predict_augmented(epoch))
            now = time.monotonic()
            if now - said > _PASS_SECONDS or done == len(missing) - 1:
                pace, said = (now - start) / (done + 1), now
                left = pace * (len(missing) - done - 1)
                say(f"  teacher pass {done + 1}/{len(missing)}  {len(train) / pace:,.0f} images/s  {left:.0f} s left")
        return [str(self._cache.path(key)) for key in keys]

    @functools.cached_property
    def _predict(self):
        return evaluation.Predictor(self.model)

    def _predict_augmented(self, epoch):
        train = self._dataset.train
        table = augment.draws(self._config.data_seed, epoch, int(train.index.max()) + 1)
        table = tf.gather(table, train.index)

        def augmented(images, rows):
            return augment.apply(images, tf.gather(table, rows), self._dataset.augmentation)

        return self._predict(train.images, augmented)


def fingerprint(path):
    """SHA-256 of a model's weights and architecture, read from its files without building it."""
    path = pathlib.Path(path)
    digest = hashlib.sha256()
    if (path / "saved_model.pb").is_file():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()
    file = models.keras_file(path)
    try:
        with zipfile.ZipFile(file) as archive:
            for member in ("config.json", "model.weights.h5"):  # not the metadata, which holds the date
                digest.update(archive.read(member))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"The teacher is damaged ({error}). Expected a .keras file. Received path={file}. Save it again."
        ) from error
    return digest.hexdigest()


def chance_level(accuracy, classes, examples):
    """Whether an accuracy could be that of guessing: within three standard errors above 1 / classes."""
    chance = 1 / classes
    return accuracy <= chance + 3 * math.sqrt(chance * (1 - chance) / examples)
