"""DistillationHyperModel in keras-tuner's own Tuners."""

import keras_tuner
import numpy as np
import pytest

from skd_tf import data, tune
from skd_tf.config import Config
from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import InputError
from skd_tf.training import experiment
from tests.helpers.nets import batches, conv_net, make_distiller
from tests.search.cases import SMALL


@pytest.mark.slow
def test_the_hypermodel_in_a_stock_tuner(config, tmp_path):
    """In keras_tuner.RandomSearch, with a teacher that runs live. No trial stores the teacher."""
    live = config.replace(teacher_cache_dir="", epochs=1)
    shared = experiment.prepare(live, tmp_path, test=False)
    hypermodel = tune.DistillationHyperModel(live, ["temperature:log:1:16"], resources=shared)
    places = {"objective": "val_accuracy", "directory": str(tmp_path), "project_name": "stock"}
    tuner = keras_tuner.RandomSearch(hypermodel, max_trials=2, seed=1, **places)
    tuner.search(verbose=0)
    best = tuner.oracle.get_best_trials(2)
    temperatures = [trial.hyperparameters.get("temperature") for trial in best]
    assert len(set(temperatures)) == 2
    assert all(trial.status == "COMPLETED" and 0 <= trial.score <= 1 for trial in best)
    model = hypermodel.build(best[0].hyperparameters)
    assert isinstance(model, Distiller) and float(model.temperature.numpy()) == pytest.approx(temperatures[0])
    weights = next((tmp_path / "stock").rglob("checkpoint.weights.h5"))
    assert weights.stat().st_size < 3 * 4 * sum(np.prod(v.shape) for v in model.student.variables) + 200_000


@pytest.mark.slow
def test_the_hypermodel_in_hyperband_and_on_data_of_its_users(config, resources, tmp_path, monkeypatch):
    """A longer bracket continues where the shorter one ended. On other images the teacher runs live."""
    short, train = config.replace(epochs=1), resources.dataset.train
    hypermodel = tune.DistillationHyperModel(short, ["temperature:choice:1,4,9"], resources=resources)
    shared = {"objective": "val_accuracy", "directory": str(tmp_path)}
    tuner = keras_tuner.Hyperband(hypermodel, max_epochs=2, factor=2, seed=1, project_name="hyperband", **shared)
    ranges, stream = set(), data.train_stream

    def ranging(*arguments, **options):
        ranges.add((options["first_step"], options["last_step"]))
        return stream(*arguments, **options)

    monkeypatch.setattr(data, "train_stream", ranging)
    tuner.search(verbose=0)
    steps = len(train) // config.batch_size
    assert ranges == {(0, steps), (steps, 2 * steps), (0, 2 * steps)}
    assert all(trial.status == "COMPLETED" for trial in tuner.oracle.trials.values())
    images = train.take(slice(100))
    tuner = keras_tuner.RandomSearch(hypermodel, max_trials=1, project_name="users", **shared)
    tuner.search(x=images.images, y=images.labels, validation_data=(images.images, images.labels), epochs=1, verbose=0)
    assert tuner.oracle.get_best_trials(1)[0].status == "COMPLETED"


@pytest.mark.slow
def test_the_hypermodel_trains_its_teacher_and_refuses_what_a_search_does(tmp_path):
    """The workdir is a string, as a user gives it. The default loss needs no teacher, but a searched one does."""
    config = Config(**SMALL | {"teacher": "cnn_8", "epochs": 12, "loss": "cross_entropy", "report": False})
    hypermodel = tune.DistillationHyperModel(config, ["loss:choice:cross_entropy,spherical"], workdir=str(tmp_path))
    assert hypermodel.resources.teacher.facts["name"] == "cnn_8" and (tmp_path / "teacher" / "student.keras").is_file()
    assert hypermodel.resources.dataset.test is None
    with pytest.raises(InputError, match="teacher"):
        tune.DistillationHyperModel(Config(student="cnn_2"), ["temperature:log:1:16"])
    with pytest.raises(InputError, match="validation images"):
        tune.DistillationHyperModel(config.replace(validation_fraction=0), ["learning_rate:log:0.01:0.1"])


def test_another_teacher_takes_the_place_of_the_one_before():
    ((images, labels),), distiller = batches(1), make_distiller()
    norms = []
    for teacher in (distiller.teacher, conv_net(7)):
        distiller.teacher = teacher
        norms.append(distiller.train_on_batch(images, labels, return_dict=True)["teacher_logit_norm"])
    assert norms[0] != norms[1]
