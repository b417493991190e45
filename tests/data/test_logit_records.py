"""Records of teacher logits against float64: all of them, and the largest with the mean and norm of all."""

import numpy as np
import pytest
import tensorflow as tf

from skd_tf.data.logit_records import LogitRecord
from skd_tf.data.logit_shards import BATCH, DamagedError, LogitShards, Shard, StoredLogits


def made_logits(classes):
    random = np.random.default_rng(0)
    logits = random.normal(size=[32, classes]) * random.gamma(2, 3, [32, 1]) + random.normal(size=[32, 1]) * 5
    logits[0], logits[1] = 0, -5  # all equal
    logits[2], logits[2, 1] = 1, -400  # nothing between the largest and one that is far below
    logits[3, :2] = 300, -300
    return logits.astype(np.float32)


@pytest.mark.parametrize(("classes", "dtype"), [(10, "float16"), (10, "float32"), (1000, "float16")])
def test_all_logits_come_back_as_they_are_in_the_dtype(classes, dtype):
    logits, record = made_logits(classes), LogitRecord(classes, dtype)
    encoded = record.encode(logits)
    assert encoded.shape == (32, record.bytes) and record.bytes == classes * np.dtype(dtype).itemsize
    assert np.array_equal(record.decode(tf.constant(encoded)), logits.astype(dtype))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("classes", "top"), [(10, 1), (10, 8), (100, 16), (1000, 21), (70_000, 8)])
def test_the_largest_logits_are_exact_and_mean_and_norm_are_those_of_all(classes, top, dtype):
    logits, record, full = made_logits(classes), LogitRecord(classes, dtype, top), LogitRecord(classes, dtype)
    rebuilt = record.decode(tf.constant(record.encode(logits)))
    assert rebuilt.dtype == tf.float32 and rebuilt.shape == logits.shape
    assert np.array_equal(record.encode(full.all_logits(full.encode(logits))), record.encode(logits))
    rebuilt, exact = rebuilt.numpy().astype(np.float64), logits.astype(dtype).astype(np.float64)
    norms = np.linalg.norm(exact, axis=1)
    scale = np.maximum(norms, 1e-6)
    lost = 2.0**-11 if dtype == "float16" and classes - top < 10 else 1e-6  # two logits cannot absorb all rounding
    assert (np.abs(rebuilt.mean(axis=1) - exact.mean(axis=1)) / scale).max() < 1e-6
    assert (np.abs(np.linalg.norm(rebuilt, axis=1) - norms) / scale).max() < lost
    kept = np.argsort(-exact, axis=1, kind="stable")[:, :top]
    largest = np.take_along_axis(logits, kept, axis=1).astype(dtype)
    assert np.array_equal(np.sort(rebuilt, axis=1)[:, ::-1][4:, :top], largest[4:])
    untied = largest[4:] > largest[4:, -1:]  # of equal logits at the edge any one may be kept
    assert np.array_equal(np.take_along_axis(rebuilt, kept, axis=1)[4:][untied], largest[4:][untied])
    # The teacher's class stays the largest, and no made-up logit is above a kept one, but for rounding.
    assert (rebuilt.max(axis=1) <= largest[:, 0] + scale * max(lost, 1e-6)).all()


def test_the_rest_shares_what_mean_and_norm_leave():
    """Of the six classes that are not kept, one is low and the others are equal; the oracle is float64 numpy."""
    logits, record = made_logits(10)[4:], LogitRecord(10, "float32", 4)
    rebuilt, exact = record.decode(tf.constant(record.encode(logits))).numpy(), logits.astype(np.float64)
    kept = np.argsort(-exact, axis=1)[:, :4]
    rest = np.ones([28, 10], bool)
    np.put_along_axis(rest, kept, False, axis=1)
    for full, found, mask in zip(exact, rebuilt, rest, strict=True):
        mean, spread = full[mask].mean(), full[mask].std()
        values = np.sort(found[mask])
        assert values[0] == pytest.approx(mean - spread * np.sqrt(5), rel=1e-4, abs=1e-4)
        assert values[1:] == pytest.approx(mean + spread / np.sqrt(5), rel=1e-4, abs=1e-4)
    low = np.where(rest, rebuilt, np.inf).argmin(axis=1)
    assert len({*low.tolist()}) > 4  # no class is always the low one


def test_imagenet_at_100_epochs_is_below_12_gb():
    assert LogitRecord(1000, "float16", 21).bytes * 1_281_167 * 100 < 12e9


def test_overflow_and_nan_do_not_fit():
    for top in (0, 3):
        record, logits = LogitRecord(10, "float16", top), made_logits(10)
        assert record.fits(record.encode(logits))
        for bad in (1e6, np.nan, -np.inf):
            logits[5, 3] = bad
            assert not record.fits(record.encode(logits))


def test_stored_logits_stand_in_for_the_network(tmp_path):
    """Shards of 512 and 256 images: a job of the longer ones is within one of the shorter."""
    logits, record = np.tile(made_logits(10), [20, 1]), LogitRecord(10, "float16")
    shards = LogitShards(tmp_path, "key", len(logits), record, 256)
    for number in range(shards.count):
        shards.write(Shard(1, number), record.encode(logits[shards.images_in(number)]))
    jobs = [(1, range(start, min(start + BATCH, len(logits)))) for start in range(0, len(logits), BATCH)]
    found = list(StoredLogits(shards).stream(jobs))
    assert np.array_equal(np.concatenate(found), logits.astype(np.float16))
    assert np.array_equal(next(StoredLogits(shards).stream([(1, range(512, 522))])), logits[512:522].astype(np.float16))
    path = shards.path(Shard(1, 1))
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DamagedError):
        list(StoredLogits(shards).stream(jobs))
