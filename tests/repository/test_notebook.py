"""docs/quickstart.ipynb runs, and its committed outputs say what a run says."""

import json
import os
import pathlib
import re
import time

import pytest

NOTEBOOK = pathlib.Path(__file__).resolve().parents[2] / "docs" / "quickstart.ipynb"


def printed(cells):
    return "".join("".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", []))


@pytest.mark.slow
def test_the_notebook_runs_and_its_outputs_are_those_of_a_run(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]))
    committed = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    start = time.monotonic()
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    seconds = time.monotonic() - start
    before, after = printed(committed), printed(notebook.cells)
    assert "Error" not in before and seconds < 300
    names = [re.findall(r"^(alone|T = \d+) +(0\.\d+)", text, re.MULTILINE) for text in (before, after)]
    assert [name for name, _ in names[0]] == [name for name, _ in names[1]] and len(names[0]) == 6
    assert all(abs(float(one) - float(other)) < 0.05 for (_, one), (_, other) in zip(*names, strict=True))
    difference = re.search(r"largest difference of a logit: (\S+)", after)
    assert float(difference[1]) < 1e-3
    pictures = [
        output["data"]
        for cell in committed
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2
