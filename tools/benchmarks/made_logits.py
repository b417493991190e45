"""Made-up teacher logits in the files of a teacher cache."""

import pathlib

import numpy as np

from skd_tf.data.epoch_logits import EpochLogits
from skd_tf.data.logit_records import LogitRecord
from skd_tf.data.logit_shards import LogitShards, Shard, shard_rows

_BLOCK = 256


def _no_repair(damaged: list[Shard]) -> None:
    raise RuntimeError(f"{damaged} were just written, and are damaged.")


def make(folder: str | pathlib.Path, images: int, classes: int, *, epochs: int = 1, top: int = 0) -> EpochLogits:
    """Writes the files of `epochs` passes over `images` images, in float16; holds one shard in memory."""
    record = LogitRecord(classes, "float16", top)
    shards = LogitShards(pathlib.Path(folder), "made up", images, record, shard_rows(record.bytes))
    block = record.encode(np.random.default_rng(0).normal(size=[_BLOCK, classes]).astype(np.float32))
    for epoch in range(epochs):
        for number in range(shards.count):
            rows = len(shards.images_in(number))
            shards.write(Shard(epoch, number), np.tile(block, [-(-rows // _BLOCK), 1])[:rows])
    return EpochLogits(shards, epochs, {}, _no_repair, print)
