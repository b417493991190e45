"""The three frameworks of the head-to-head study train on the same batches, and their records hold what they must."""

import numpy as np
import pytest

from experiments.lab import definitions
from experiments.studies.head_to_head import __main__ as head_to_head
from skd_tf.runs import predictions
from tests.helpers.runs import read_json


@pytest.fixture
def views(tmp_path):
    """A folder as `views.export` writes it, with 256 images."""
    random = np.random.default_rng(0)
    arrays = {
        "epoch0_images": random.integers(0, 256, (256, 32, 32, 3), dtype=np.uint8),
        "epoch0_logits": (6 * random.normal(size=(256, 100))).astype("float16"),
        "orders": np.stack([[random.permutation(256)] * 12] * 3),
        "labels": random.integers(0, 100, 256, dtype=np.int32),
        **{f"{part}_images": random.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8) for part in ("test", "held_out")},
        **{f"{part}_labels": random.integers(0, 100, 20, dtype=np.int32) for part in ("test", "held_out")},
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path


@pytest.mark.slow
def test_two_steps_of_every_framework(views):
    pytest.importorskip("torch")
    from experiments.studies.head_to_head import keras_distill

    images = np.load(views / "test_images.npy")
    ours, kerass = (keras_distill.train(views, name, "kd", 0, 0.2, 4212, 2)(images) for name in ("skd_tf", "keras"))
    np.testing.assert_allclose(ours, kerass, atol=2e-3)
    other = keras_distill.train(views, "skd_tf", "kd", 1, 0.2, 4212, 2)(images)
    assert np.abs(ours - other).max() > 0.1  # another seed
    for framework, method in head_to_head.METHODS:
        record = head_to_head.run(views, framework, method, 0, 4212, 2)
        classes = predictions.decode(record["predictions"])
        assert record["accuracy"] == np.mean(classes == np.load(views / "test_labels.npy"))
        assert record["learning_rate"] == {"kd": 0.2, "skd": 0.4}[method] and record["seconds"] > 0


def test_every_record_is_of_a_whole_training():
    files = sorted((definitions.ROOT / definitions.RESULTS / "head_to_head").glob("*.json"))
    records = {path.stem: read_json(path) for path in files}
    expected = [f"{name}_{method}_{seed}" for name, method in head_to_head.METHODS for seed in range(3)]
    assert sorted(records) == sorted(expected)
    for name, record in records.items():
        assert name == f"{record['framework']}_{record['method']}_{record['seed']}" and record["steps"] == 12 * 351
        assert len(predictions.decode(record["predictions"])) == 10_000 and record["cpu_seconds"] > 0
        assert ("torch" in record["versions"]) == (record["framework"] == "pytorch")
