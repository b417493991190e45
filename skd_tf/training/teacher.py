"""The teacher of a run: its logits, from the cache or from the network, which is built only if it is needed."""

import functools
import os
import pathlib
import re
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data import augmentation, teacher_cache
from skd_tf.data.disk_images import DiskImages
from skd_tf.data.epoch_logits import EpochLogits
from skd_tf.data.logit_records import TOP_FORMAT, LogitRecord
from skd_tf.data.logit_shards import DamagedError, LogitShards, OldEpoch, Shard, StoredLogits, shard_rows
from skd_tf.errors import counted
from skd_tf.evaluation import predictor
from skd_tf.models import loading
from skd_tf.models.paths import file_fingerprint
from skd_tf.networks.names import NETWORK_NAMES
from skd_tf.runs import lineage
from skd_tf.runtime import cluster, replicas
from skd_tf.runtime.console import detail, warn
from skd_tf.runtime.files import sha256_of_json
from skd_tf.training import layers, preflight, teacher_pass


class Teacher:
    """A teacher for one dataset.

    Args:
      path: a workdir, a `.keras` file, a SavedModel folder, keras.applications:NAME or keras_hub:PRESET.
      config: a `Config`; of it the settings of the teacher and its cache, data_seed and download are used.
      dataset: the `Dataset` that it teaches on.
      strategy: the replicas that a live network is built for.
    """

    def __init__(
        self, path: str | os.PathLike, config: Config, dataset: data.Dataset, strategy: tf.distribute.Strategy
    ):
        self.path, self._config, self._dataset, self._strategy = path, config, dataset, strategy
        self._identity, self._cache = {}, None
        self.warnings: list[str] = []  # that the run's result repeats
        self._networks: dict[tuple[str, ...], keras.Model] = {}
        self._required = config.teacher if config.teacher in NETWORK_NAMES else ""
        if config.teacher_cache_dir:
            self._cache = teacher_cache.TeacherCache(config.teacher_cache_dir, config.teacher_cache_dtype, warn)
            # Evaluation and the radius use float32: their files are few.
            self._exact = teacher_cache.TeacherCache(config.teacher_cache_dir, "float32", warn)
            self._identity = {
                "teacher": self.fingerprint,
                "precision": config.teacher_precision,
                "folding": loading.FOLDING_VERSION,
                "preprocessing": _preprocessing_key(config.teacher_preprocessing, dataset),
            }

    @functools.cached_property
    def model(self) -> keras.Model:
        """The network, built on first use."""
        return self.network(layers.kept(self._config))

    def network(self, keep: tuple[str, ...]) -> keras.Model:
        """The network in the strategy's scope; the outputs of the layers named `keep` are those of its file."""
        if keep not in self._networks:
            with self._strategy.scope():
                self._networks[keep] = self._load(keep)
        return self._networks[keep]

    def _load(self, keep):
        return loading.load_teacher(
            self.path,
            name=self._required,
            dataset=self._dataset,
            download=self._config.download,
            teacher_precision=self._config.teacher_precision,
            teacher_preprocessing=self.preprocessing,
            keep=keep,
        )

    @property
    def is_loaded(self) -> bool:
        """Whether the network is in memory; with cached logits it need not be."""
        return "model" in self.__dict__

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the teacher's weights and architecture."""
        return file_fingerprint(self.path)

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """{"name", "parameters"}: what a result says about the teacher."""
        if self._cache:
            key = sha256_of_json(self._identity)
            facts = self._cache.read_facts(key)
            if facts and self._required in ("", facts["name"]):
                return facts
        facts = {"name": self.model.name, "parameters": loading.parameter_count(self.model)}
        if self._cache:
            self._cache.write_facts(key, facts)
        return facts

    @property
    def preprocessing(self) -> str:
        """The kind in front of it; "raw" for "auto" if it contains its own."""
        return lineage.preprocessing_of(self.path, self._config.teacher_preprocessing)

    @property
    def shown_name(self) -> str:
        """Its name in reports: the file's if Keras made up the model's, such as functional_5."""
        name = self.facts["name"]
        return pathlib.Path(self.path).name if re.fullmatch(r"(functional|sequential|model)(_\d+)?", name) else name

    @property
    def members(self) -> "tuple[Teacher, ...]":
        """The teachers that it consists of: itself."""
        return (self,)

    def logits_of_each(self, images: np.ndarray | DiskImages) -> np.ndarray:
        """The logits as a loss takes them."""
        return self.logits(images)

    def logits(self, images: np.ndarray | DiskImages) -> np.ndarray:
        """Logits of un-augmented images `[n, h, w, c]`, float32 `[n, classes]`; from the cache if there is one."""
        if not self._cache:
            return self._predict(images)
        key, shape = self._exact_key(images)
        if not self._exact.has(key, shape):
            self._exact.write(key, self._predict(images))
        return self._exact.read(key, shape)

    def shared_logits(self, images: np.ndarray | DiskImages) -> np.ndarray:
        """As `logits`, but the workers of a cluster divide what is not in the chief's cache. Every worker must call it."""
        if cluster.workers() == 1:
            return self.logits(images)
        if not self._cache:
            return self._predict.shared(images)
        key, shape = self._exact_key(images)
        if cluster.agree(lambda: self._exact.has(key, shape)):
            return cluster.from_chief(lambda: self._exact.read(key, shape), shape)
        logits = self._predict.shared(images)
        cluster.agree(lambda: self._exact.write(key, logits))  # if it fails, all workers raise the error
        return logits

    def _exact_key(self, images):
        """The cache's key of un-augmented images, and the shape of their logits."""
        key = sha256_of_json(self._identity | {"images": data.digest_of(images)})
        return key, (len(images), self._dataset.num_classes)

    def epoch_logits(
        self, epochs: int, top: int | None = None, dataset: data.Dataset | None = None
    ) -> EpochLogits | None:
        """The cached logits of every augmented training image in so many epochs; computes missing files.

        Returns None without a cache directory.

        Args:
          epochs: number of passes.
          top: how many of the largest logits of an image are kept, 0 for all; None: as the settings say.
          dataset: whose training images; None: the one that it teaches on.
        """
        if not self._cache:
            return None
        dataset = dataset or self._dataset
        train, classes = dataset.train, dataset.num_classes
        top = self._config.teacher_cache_top if top is None else top
        preflight.check_top(top, classes)
        shared = self._identity | {
            "dataset": [dataset.key_name, dataset.version, data.digest_of(train.images)],
            "index": data.digest_of(train.index),
            "augmentation": augmentation.key_of(dataset.augmentation, dataset.extra),
            "data_seed": self._config.data_seed,
            "dtype": self._cache.dtype.name,
        }
        shards, old = self._shards(shared, len(train), classes, top), {}
        if not top:
            shape = len(train), classes
            files = {e: OldEpoch(self._cache, sha256_of_json(shared | {"epoch": e}), shape) for e in range(epochs)}
            old = {epoch: file for epoch, file in files.items() if file.exists}
        missing = shards.missing((Shard(e, number) for e in range(epochs) for number in range(shards.count)), warn)
        old = {epoch: old[epoch] for epoch, _ in missing if epoch in old}  # shards are checked faster
        missing = [shard for shard in missing if shard.epoch not in old]
        size = sum(map(shards.file_bytes, range(shards.count))) / 1e6
        kind = f"{shards.record.dtype} logits" + (f", the {top} largest of {classes}" if top else "")
        detail(
            f"Teacher cache {self._cache.folder}: {counted(epochs, 'epoch')} x {size:.1f} MB = {epochs * size / 1e3:.2f} GB of "
            f"{kind}, in {counted(epochs * shards.count, 'shard')} of up to {shards.rows:,} images, {len(missing):,} to compute."
        )
        teacher_cache.require_space(self._cache.folder, sum(shards.file_bytes(shard.number) for shard in missing))
        computed_on = kinds(self._cache, shards.key)
        if top and missing:
            full = self._shards(shared, len(train), classes, 0)
            left = self._reduce(full, shards, missing)
            if len(left) < len(missing):
                computed_on = sorted({*computed_on, *kinds(self._cache, full.key)})
            missing = left
        here = replicas.arithmetic(self._config.teacher_precision)
        note_arithmetic(self._cache, shards.key, computed_on, here, computed=bool(missing))
        images_of = functools.partial(data.AugmentedImages, dataset, self._config.data_seed)
        first = cluster.share(missing)  # the workers begin at different shards
        wanted = [*first, *sorted({*missing} - {*first})]
        teacher_pass.compute(shards, wanted, lambda: self._predict, images_of)
        if cluster.workers() > 1:
            cluster.agree(lambda: None)  # waits for all

        def repair(damaged: list[Shard]) -> None:
            teacher_pass.compute(shards, damaged, self._predictor_of_any_thread, images_of)

        return EpochLogits(shards, epochs, old, repair, warn)

    def _shards(self, shared, images, classes, top):
        """The files of a cache, of the `top` largest logits or with 0 of all."""
        record = LogitRecord(classes, self._cache.dtype.name, top)
        rows = shard_rows(record.bytes)
        key = sha256_of_json(shared | {"shard_rows": rows} | ({"top": top, "top_format": TOP_FORMAT} if top else {}))
        return LogitShards(self._cache.folder / key, key, images, record, rows)

    def _reduce(self, full, shards, missing):
        """Makes top-k shards from passes whose files of all logits are complete; returns those that are still missing."""
        epochs = {shard.epoch for shard in missing}
        incomplete = {
            shard.epoch for shard in full.missing(Shard(e, number) for e in epochs for number in range(full.count))
        }
        wanted = [shard for shard in missing if shard.epoch not in incomplete]
        try:
            teacher_pass.compute(shards, wanted, lambda: StoredLogits(full), lambda epoch: epoch, "largest logits")
        except DamagedError as error:
            warn(f"Teacher cache: a file of all logits in {full.folder.name} {error}. The teacher computes instead.")
        return shards.missing(missing)

    def _predictor_of_any_thread(self):
        """A `Predictor` for repairs, while a training step may be running: creates no variable on several workers."""
        return self._predict if "model" in vars(self) else predictor.Predictor(self._load(()))

    @functools.cached_property
    def _predict(self) -> predictor.Predictor:
        return predictor.Predictor(self.model)


def kinds(cache: teacher_cache.TeacherCache, key: str) -> list[str]:
    """The kinds of devices that computed the logits of a key."""
    return cache.read_facts(sha256_of_json([key, "computed on"])) or []


def note_arithmetic(
    cache: teacher_cache.TeacherCache, key: str, known: list[str], here: str, *, computed: bool
) -> None:
    """Stores the kinds of devices that computed the logits of a key; warns of others than this one.

    Args:
      cache, key: where they are stored.
      known: the kinds of the logits that were found.
      here: the kind of this device.
      computed: whether it computes any of the logits. This is stored first, because a killed pass leaves its files.
    """
    others = [kind for kind in known if kind != here]
    if others:
        warn(
            f"The cached teacher logits were computed on a {', '.join(others)}, and this is a {here}: they differ by rounding."
        )
    before = kinds(cache, key)  # another process may have added its own meanwhile
    now = sorted({*known, *before, *([here] if computed else [])})
    if now != before:
        cache.write_facts(sha256_of_json([key, "computed on"]), now)


def _preprocessing_key(kind: str, dataset: data.Dataset) -> list:
    return [kind, *dataset.mean, *dataset.std] if kind == "standard" else ["raw" if kind == "auto" else kind]
