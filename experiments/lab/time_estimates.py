"""How long cells will take: by the pace of records alike, else by counted operations."""

import functools
import statistics

from experiments.lab import definitions
from experiments.lab.records import settings
from experiments.lab.statistics import training_seconds
from skd_tf.data.catalog import KNOWN_DATASETS

_ALIKE = "student", "validation_fraction", "batch_size", "precision", "teacher_cache_dir", "image_size"


def measured(cell, records):
    """Training seconds of a cell at the median pace of records with the same student and arithmetic; None without any.

    Of records on the same data where there are some, else on data of as many training images: the number of classes, all
    that CIFAR-10 and CIFAR-100 differ in, costs a student next to nothing. A pace is that of the cores which a record had.
    """
    config = definitions.config_of(cell)
    wanted = settings(config)
    alike = [
        r
        for r in records.values()
        if all(r["config"].get(key) == wanted[key] for key in _ALIKE)
        and _family(r["config"]["dataset"]) == _family(config.dataset)
    ]
    alike = [r for r in alike if r["config"]["dataset"] == config.dataset] or alike
    return (
        statistics.median(training_seconds(r) / r["config"]["epochs"] for r in alike) * config.epochs if alike else None
    )


def reckoned(cell, records):
    """Training seconds by operations, at the median rate of all records; None without records, or for nets not of ours.

        seconds = images x (3 x student's forward pass + live teacher's) / rate        rate: operations a second

    It takes TensorFlow, and is right by a factor of 2 to 5: a small net's kernels are slower than a large one's.
    """
    config, rates = definitions.config_of(cell), []
    for record in records.values():
        its = record["config"]
        alone = its["teacher_cache_dir"] or record["teacher"] is None
        operations = _operations(its["student"], its["dataset"], bool(alone), its["teacher_checkpoint"])
        rates += [operations * record["examples_per_second"]] * (operations is not None)
    live = config.needs_teacher and not config.teacher_cache_dir
    operations = _operations(config.student, config.dataset, not live, config.teacher)
    if not rates or operations is None:
        return None
    images = KNOWN_DATASETS[config.dataset].train * (1 - config.validation_fraction) * config.epochs
    return images * operations / statistics.median(rates)


@functools.cache
def _operations(student, dataset, alone, teacher):
    """Of a training step, an image; None where a net is not one of ours."""
    forward = [_forward(name, dataset) for name in (student, *([] if alone else [teacher]))]
    return None if None in forward else 3 * forward[0] + sum(forward[1:])


@functools.cache
def _forward(name, dataset):
    from skd_tf.runtime import tf_logging

    tf_logging.import_tensorflow()
    from skd_tf import networks
    from skd_tf.evaluation import cost

    known = KNOWN_DATASETS.get(dataset)
    if known is None or name not in networks.NETWORKS:
        return None
    net = networks.build(name, input_shape=known.image_shape, num_classes=known.num_classes)
    return cost.flops(net, known.image_shape)


def _family(dataset):
    """Sets whose images are alike count as one."""
    return dataset.rstrip("0123456789")
