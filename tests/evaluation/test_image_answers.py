"""The CSV file of evaluate --predictions: whose answer to which image, and in which file it is."""

import csv
import os

import numpy as np
import pytest

from skd_tf import data, evaluate
from skd_tf.data import folder_index
from skd_tf.data.dataset import Split
from skd_tf.evaluation.final_measurements import ModelLogits
from skd_tf.evaluation.image_answers import HEADER, ImageAnswers
from skd_tf.evaluation.temperature_scaling import Calibration
from tests.helpers.commands import exit_code
from tests.helpers.images import make_folder
from tests.helpers.runs import read_json


def lines_of(path):
    with open(path, newline="") as file:
        header, *lines = csv.reader(file)
    assert tuple(header) == HEADER
    return lines


def test_each_line_is_an_answer_after_calibration(tmp_path):
    names = np.array(["/a/one, two.png", "/a/\udce9.png", "/a/3.png"], object)  # the second is not UTF-8
    split = Split(np.zeros([3, 2, 2, 1], np.uint8), np.array([0, 1, -1]), np.arange(3), files=names)
    answers = ImageAnswers(split, ("cat", "dog"))
    logits = np.array([[2.0, 0.0], [0.0, 0.0], [np.nan, 1.0]])
    answers.add("m", ModelLogits(logits, calibration=Calibration(2.0, 100)))
    answers.write(tmp_path / "out.csv")
    sure = 1 / (1 + np.exp(-1))  # the difference of the logits, halved by the temperature
    assert lines_of(tmp_path / "out.csv") == [
        ["m", "0", "/a/one, two.png", "cat", "cat", f"{sure:.6g}", "1"],
        ["m", "1", "/a/\\udce9.png", "dog", "cat", "0.5", "0"],
        ["m", "2", "/a/3.png", "", "", "", ""],
    ]


@pytest.mark.parametrize("keep", [pytest.param("memory", marks=pytest.mark.slow), "none"])
def test_a_split_of_a_folder_knows_its_files(tmp_path, keep):
    root = make_folder(tmp_path / "set")
    settings = data.DataSettings(dataset=f"folder:{root}", image_size=8, cache_dataset=keep, validation_fraction=0.0)
    split = data.load(settings).test
    found = folder_index.find(settings.dataset, settings.data_seed).splits["test"]
    expected = [os.path.relpath(path, root) for path, _ in found]
    assert split.files.tolist() == expected and expected[0].startswith("test/")
    assert split.take(np.array([2, 0])).files.tolist() == [expected[2], expected[0]]
    assert split.without(np.array([0])).files.tolist() == expected[1:]


def test_the_command_writes_what_it_measured(digits_run, tmp_path):
    output = tmp_path / "answers.csv"
    flags = [f"--model={digits_run}", f"--predictions={output}", "--notiming", "--bootstrap=0"]
    assert exit_code(evaluate.cli_main, *flags) == 0
    lines, result = lines_of(output), read_json(digits_run / "result.json")
    right = [int(line[-1]) for line in lines]
    assert np.mean(right) == pytest.approx(result["student"]["accuracy"], abs=1e-6)
    assert all(line[2] == "" and (line[3] == line[4]) == bool(int(line[6])) for line in lines)
    assert exit_code(evaluate.cli_main, f"--model={digits_run}", f"--predictions={tmp_path / 'no' / 'a.csv'}") == 2
    flags = [f"--model={digits_run}", f"--predictions={output}", f"--output={output}"]
    assert exit_code(evaluate.cli_main, *flags) == 2
