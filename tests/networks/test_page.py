"""docs/networks.md: it names every network once, and counts its parameters and operations right."""

import pathlib
import re

import numpy as np
import pytest

from skd_tf.evaluation import cost
from skd_tf.networks import NETWORK_NAMES, build

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
SECTIONS = [
    (int(side), text) for side, text in re.findall(r"^## [^\n]* at (\d+) pixels\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
]
LINES = [
    (name, side, int(parameters.replace(",", "")), float(mflops.replace(",", "")))
    for side, text in SECTIONS
    for name, parameters, mflops in re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,.]+) \|$", text, re.M)
]


def test_it_names_every_network_once():
    assert sorted(name for name, *_ in LINES) == sorted(NETWORK_NAMES)


@pytest.mark.parametrize(
    "name, side, parameters, mflops",
    [pytest.param(*line, marks=[] if line[0] == "cnn_2" else pytest.mark.slow, id=line[0]) for line in LINES],
)
def test_it_counts_right(name, side, parameters, mflops):
    network = build(name, input_shape=(side, side, 3), num_classes=10)
    assert sum(int(np.prod(weight.shape)) for weight in network.trainable_weights) == parameters
    assert cost.flops(network, (side, side, 3)) / 1e6 == pytest.approx(mflops, abs=0.06 if mflops < 100 else 0.6)
