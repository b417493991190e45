"""What each worker of test_multi_worker.py runs: python cluster_worker.py FOLDER."""

import json
import os
import pathlib
import sys

import numpy as np

from skd_tf.errors import InputError
from skd_tf.evaluation.predictor import Predictor
from skd_tf.runtime import cluster, replicas
from tests.helpers.nets import batches, make_distiller, run, weights_of

CASES = {"plain": {}, "synchronized": {"batch_norm": True, "synchronize": True}}


def main(folder):
    strategy = replicas.make_strategy(strategy="multi_worker", batch_size=16)
    assert replicas.make_strategy(strategy="auto", batch_size=16) is strategy
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    facts = {"replicas": strategy.num_replicas_in_sync, "chief": cluster.is_chief()} | decisions(index)
    for name, settings in CASES.items():
        data = batches(20, size=16, dtype="float64")
        distiller = make_distiller(strategy, dtype="float64", **settings)
        facts[name] = run(distiller, data, steps_per_call=5)
        np.save(folder / f"{name}-{index}.npy", weights_of(distiller.student))
        if index == 0:  # only on this worker: a prediction must not wait for the others
            np.save(folder / f"{name}-logits.npy", Predictor(distiller)(data[0][0]))
    facts |= divided(distiller, data)
    (folder / f"facts-{index}.json").write_text(json.dumps(facts))
    cluster.agree(lambda: None)  # no worker leaves before all are done


def divided(distiller, data):
    """What the workers predict together: batches of 16, 2 for worker 0 and 1 for worker 1, or none for worker 1."""
    images = np.concatenate([x for x, *_ in data])[:40]
    alone, together = Predictor(distiller, 16), Predictor(distiller, 16)
    batches, stream = [], together.stream
    together.stream = lambda given: stream(batches.append(len(rows)) or (images, rows) for images, rows in given)
    equal = [np.array_equal(alone(images[:count]), together.shared(images[:count])) for count in (40, 5)]
    return {"equal": equal, "batches": batches}


def decisions(index):
    """What the workers agree on: the chief's value or error, a text of several chunks, an agreement within another."""
    long = cluster.agree(lambda: f"{index}é" * 5000) == "0é" * 5000
    within = cluster.agree(lambda: cluster.agree(lambda: index) + 10)
    written, largest = cluster.chief_only(lambda: index)(), cluster.max_over_workers(index)
    try:
        cluster.agree(lambda: refuse(index))
    except InputError as error:
        problem = str(error)
    return {"long": long, "within": within, "problem": problem, "written": written, "largest": largest}


def refuse(index):
    raise InputError(f"Worker {index} says no.")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
