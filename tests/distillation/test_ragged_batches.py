"""A last batch smaller than the number of replicas: replicas without examples change nothing."""

import numpy as np
import pytest

from tests.helpers.nets import batches, distance, make_distiller, weights_of


@pytest.mark.slow
def test_synchronized_batch_norm_on_replicas_without_examples_equals_one_replica(two_replicas):
    """The last batch of 17 examples in batches of 8 has one, so one replica of two is empty. Computed in float64."""
    ((images, labels),) = batches(1, size=17, dtype="float64")
    one = make_distiller(batch_norm=True, dtype="float64")
    two = make_distiller(two_replicas, batch_norm=True, dtype="float64", synchronize=True)
    for distiller in (one, two):
        distiller.fit(images, labels, batch_size=8, epochs=3, verbose=0, shuffle=False)
    assert distance(weights_of(one.student), weights_of(two.student)) < 1e-12
    for variable in two.student.non_trainable_variables:
        copies = [copy.numpy() for copy in two_replicas.experimental_local_results(variable.value)]
        assert np.array_equal(*copies)
