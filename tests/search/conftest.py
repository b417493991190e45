"""What the tests of the search share: a teacher of digits, its cache, and the data."""

import pytest

from skd_tf.config import Config
from skd_tf.training import experiment
from tests.search.cases import SMALL


@pytest.fixture(scope="session")
def config(digits_teacher, tmp_path_factory):
    cache = tmp_path_factory.mktemp("teacher_cache")
    return Config(teacher_checkpoint=str(digits_teacher), teacher_cache_dir=str(cache), **SMALL)


@pytest.fixture(scope="session")
def resources(config, tmp_path_factory):
    return experiment.prepare(config, tmp_path_factory.mktemp("resources"), test=False)
