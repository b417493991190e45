"""The teacher of a run: its logits, from the cache or from the network, which is built only where it has to be."""

import functools
import math
import time

from skd_tf import data
from skd_tf.data import augmentation, teacher_cache
from skd_tf.evaluation import predictor
from skd_tf.models import loading
from skd_tf.models.paths import file_fingerprint
from skd_tf.networks.names import NETWORK_NAMES
from skd_tf.runtime import cluster, files
from skd_tf.runtime.console import Progress, duration, say, warn


class Teacher:
    """A teacher for one dataset.

    Args:
      path: a workdir, a `.keras` file, a SavedModel folder or keras.applications:NAME.
      config: `teacher`, `teacher_precision`, `teacher_cache_dir`, `teacher_cache_dtype` and `data_seed` are used.
      dataset: the `Dataset` it teaches on.
      strategy: replicas that the live network is made for.
    """

    def __init__(self, path, config, dataset, strategy):
        self.path, self._config, self._dataset, self._strategy = path, config, dataset, strategy
        self._identity, self._cache = {}, None
        self._required = config.teacher if config.teacher in NETWORK_NAMES else ""
        if config.teacher_cache_dir:
            self._cache = teacher_cache.TeacherCache(config.teacher_cache_dir, config.teacher_cache_dtype, warn)
            # Evaluation and the radius are exact: their files are few.
            self._exact = teacher_cache.TeacherCache(config.teacher_cache_dir, "float32", warn)
            self._identity = {
                "teacher": self.fingerprint,
                "precision": config.teacher_precision,
                "folding": loading.FOLDING_VERSION,
                "preprocessing": _preprocessing(config, dataset),
            }

    @functools.cached_property
    def model(self):
        """The network, built when somebody first asks for it."""
        with self._strategy.scope():
            return loading.load_teacher(
                self.path,
                name=self._required,
                dataset=self._dataset,
                download=self._config.download,
                teacher_precision=self._config.teacher_precision,
                teacher_preprocessing=self._config.teacher_preprocessing,
            )

    @functools.cached_property
    def fingerprint(self):
        return file_fingerprint(self.path)

    @functools.cached_property
    def facts(self):
        """{"name", "parameters"}: what a result says of the teacher."""
        if self._cache:
            key = files.sha256_of_json(self._identity)
            facts = self._cache.read_facts(key)
            if facts and self._required in ("", facts["name"]):
                return facts
        facts = {"name": self.model.name, "parameters": loading.parameter_count(self.model)}
        if self._cache:
            self._cache.write_facts(key, facts)
        return facts

    def logits(self, images):
        """Logits of un-augmented images `[n, h, w, c]`, float32 `[n, classes]`; from the cache where there is one."""
        if not self._cache:
            return self._predict(images)
        shape = len(images), self._dataset.num_classes
        key = files.sha256_of_json(self._identity | {"images": data.digest_of(images)})
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
            "dataset": [self._dataset.name, self._dataset.version, data.digest_of(train.images)],
            "index": data.digest_of(train.index),
            "augmentation": [augmentation.VERSION, *self._dataset.augmentation],
            "data_seed": self._config.data_seed,
            "dtype": self._cache.dtype.name,
        }
        keys = [files.sha256_of_json(shared | {"epoch": epoch}) for epoch in range(epochs)]
        missing = [epoch for epoch, key in enumerate(keys) if not self._cache.has(key, shape)]
        size = self._cache.file_bytes(shape) / 1e6
        say(
            f"Teacher cache {self._cache.folder}: {epochs} epochs x {size:.1f} MB = {epochs * size / 1e3:.2f} GB of "
            f"{self._cache.dtype} logits, {len(missing)} to compute."
        )
        self._cache.require_space(len(missing), shape)
        self._compute(keys, cluster.share(missing))
        if cluster.workers() > 1:
            cluster.agree(lambda: None)  # waits for all
            # In a folder that not all of them share, what the others have computed is missing still.
            self._compute(keys, [epoch for epoch in missing if not self._cache.has(keys[epoch], shape)])
        return [str(self._cache.path(key)) for key in keys]

    def _compute(self, keys, epochs):
        """Makes the files of these epochs of augmentation; `keys` holds those of all."""
        start, images = time.monotonic(), len(self._dataset.train)
        with Progress("teacher pass", len(epochs) * images, "images") as progress:
            for done, epoch in enumerate(epochs):
                pictures = data.AugmentedImages(self._dataset, self._config.data_seed, epoch)
                self._cache.write(keys[epoch], self._predict(pictures, on_progress=progress.after(done * images)))
        if epochs:
            seconds = time.monotonic() - start
            rate = len(epochs) * images / seconds
            say(f"  teacher pass: {len(epochs)} epochs in {duration(seconds)}, {rate:,.0f} images/s")

    @functools.cached_property
    def _predict(self):
        return predictor.Predictor(self.model)


def _preprocessing(config, dataset):
    kind = config.teacher_preprocessing
    return [kind, *dataset.mean, *dataset.std] if kind == "standard" else ["raw" if kind == "auto" else kind]


def chance_level(accuracy, classes, examples):
    """Whether an accuracy could be that of guessing: within three standard errors above 1 / classes, and below 1.

    A handful of images can all be right by chance; that is no reason to refuse the teacher.
    """
    chance = 1 / classes
    return accuracy < 1 and accuracy <= chance + 3 * math.sqrt(chance * (1 - chance) / examples)
