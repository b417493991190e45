"""Figures of the studies: drawn from records, and named by a digest of them."""

import numpy as np
import pytest

from experiments.lab import definitions, figure_digests, figures, write_figures
from tests.lab.study_cases import accuracies, made_records

STUDIES = definitions.STUDIES


@pytest.mark.parametrize("name", figures.FIGURES)
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_a_figure_is_drawn_and_names_its_records(name, share, tmp_path, monkeypatch):
    records = made_records("capacity_gap", "temperature", "sphere", "cifar100", share=share)
    path = write_figures.draw(name, records, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [f"{name}.png"]
    assert figure_digests.drawn_from(path) == figure_digests.digest(name, records)
    assert figure_digests.problems(records, tmp_path) == []
    source = {"calibration": "sphere"}.get(name, name)
    cell = next(cell for cell in records if cell.study == source)
    other = records | {cell: records[cell] | {"seconds": 1.0}}
    assert [line.split(": ", 1)[1] for line in figure_digests.problems(other, tmp_path)] == [
        f"drawn from other records, or by other code of tools/. Run python -m experiments.lab figures {name}."
    ]
    code = tmp_path / "code.py"
    code.touch()
    monkeypatch.setattr(figure_digests, "_DRAWS", [code])
    assert len(figure_digests.problems(records, tmp_path)) == 2  # the other code itself is no figure
    code.unlink()
    monkeypatch.undo()
    gone = {path.stem for path in map(figure_digests.path_of, figure_digests.CAPTIONS)} - {name}
    lines = figure_digests.missing(records, tmp_path)
    assert {line.split()[-1].rstrip(".") for line in lines} == gone and figure_digests.missing({}, tmp_path) == []
    (tmp_path / "stray.txt").touch()
    assert "no study has this figure" in figure_digests.problems(records, tmp_path)[-1]


def test_the_first_figure_shows_means_spreads_and_seeds():
    from matplotlib.figure import Figure

    records, figure = made_records("capacity_gap"), Figure()
    figures.capacity_gap(figure, records)
    axes = figure.axes[0]
    bars = {bar.get_label().split("\n")[0]: bar for bar in axes.containers}
    for row, name in (("kd", "KD"), ("skd", "SKD")):
        values = [list(accuracies(records, pair, row).values()) for pair in STUDIES["capacity_gap"].pairs]
        line, _, (spreads,) = bars[name]
        np.testing.assert_allclose(np.array(line.get_ydata(), float), [np.mean(v) for v in values])
        lengths = [segment[1, 1] - segment[0, 1] for segment in spreads.get_segments()]
        np.testing.assert_allclose(lengths, [2 * np.std(v, ddof=1) for v in values])
        dots = [
            y
            for drawn in axes.lines
            if drawn.get_alpha() == 0.25 and drawn.get_marker() == figures.MARKERS[row]
            for y in drawn.get_ydata()
        ]
        np.testing.assert_allclose(sorted(dots), sorted(y for v in values for y in v))


def test_a_method_has_its_colour_at_every_temperature():
    from matplotlib.figure import Figure

    figure = Figure()
    figures.calibration(figure, made_records("capacity_gap", "temperature", "sphere"))
    axes = figure.axes[1]
    names = [text.get_text() for text in axes.get_yticklabels()]
    expected = {"KD, T = 8": "kd", "SKD, T = 8": "skd", "SKD, radius teacher_mean, T = 8": "skd_teacher_mean"}
    found = {}
    for bar in axes.containers:
        name = names[int(bar[0].get_ydata()[0])]
        found.setdefault(name, set()).add((bar[0].get_color(), bar[0].get_marker()))
    for name, method in expected.items():
        assert found[name] == {(figures.COLOURS[method], figures.MARKERS[method])}


def test_a_page_links_its_figures(tmp_path):
    assert "Not drawn" in figure_digests.link("sphere", tmp_path / "page.md", tmp_path / "figures")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/sphere.png").touch()
    assert figure_digests.link("sphere", tmp_path / "page.md", tmp_path / "figures").endswith("](figures/sphere.png)")
