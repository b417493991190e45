"""Figures of the studies: drawn from records, and found stale when those or the drawing change."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.lab import figure_files, figures
from experiments.lab.front_page import LEADS
from experiments.lab.summaries import HELD_OUT, TEST, runs_of
from experiments.lab.tables import SPECS
from tests.lab.study_cases import made_records

SLOW = figures.FIGURES.keys() - {"forest", "calibration"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in figures.FIGURES]
)
def test_a_figure_is_drawn_and_found_stale(name, tmp_path, monkeypatch):
    def words(runs):
        return [
            line.split(": ", 1)[1].split(",")[0].split(".")[0]
            for line in figure_files.problems(runs, tmp_path)
            if line.endswith(f" {name}.") or "no such figure" in line
        ]

    made = made_records(share=0.3)
    runs = runs_of(made)
    assert words(runs) == ["missing"]
    assert figures.draw(name, runs, tmp_path) == tmp_path / f"{name}.png" and words(runs) == []
    cell = next((cell for cell in made if cell.study in figure_files.SOURCES[name]), None)
    if cell:
        assert words(runs_of(made | {cell: made[cell] | {"seconds": 1.0}})) == ["stale"]
    unread = next(cell for cell in made if cell.study == "precision")
    assert words(runs_of(made | {unread: made[unread] | {"seconds": 1.0}})) == []
    monkeypatch.setattr(figure_files, "VERSION", figure_files.VERSION + 1)
    (tmp_path / "stray.txt").touch()
    assert words(runs) == ["no such figure is drawn", "stale"]
    picture = tmp_path / f"{name}.png"
    picture.write_bytes(picture.read_bytes()[:-2000])
    assert words(runs)[1].startswith("damaged")
    figures.FIGURES[name](Figure(), {})  # nothing to show


def points_of(axes):
    """[(x, y, low, high, filled)] of the points, by their error bars."""
    found = []
    for bar in axes.containers:
        line, _, segments = bar
        (x,), (y,) = line.get_data()
        ends = segments[0].get_segments()[0] if segments else None
        found.append((x, y, ends, line.get_markerfacecolor() != "white"))
    return found


def test_the_forest_shows_every_lead_with_its_interval():
    runs, figure = runs_of(made_records()), Figure()
    figures.FIGURES["forest"](figure, runs)
    leads = [lead for section in LEADS.values() for lead in section]
    for axes, measure in zip(figure.axes, (TEST, HELD_OUT), strict=True):
        expected = [estimate for lead in leads if (estimate := lead.estimate(runs, measure))]
        points = points_of(axes)
        np.testing.assert_allclose([x for x, *_ in points], [estimate.mean for estimate in expected])
        for estimate, (_, _, ends, filled) in zip(expected, points, strict=True):
            assert filled == (estimate.seeds > 1)
            half = None if ends is None else (ends[1][0] - ends[0][0]) / 2
            assert half == pytest.approx(estimate.half)
    headings = [text for text in figure.axes[0].get_yticklabels() if text.get_fontweight() == "bold"]
    assert [text.get_text() for text in headings] == list(LEADS)


def test_the_first_study_shows_means_with_intervals():
    runs, figure = runs_of(made_records()), Figure()
    figures.FIGURES["capacity_gap"](figure, runs)
    spec, points = SPECS["capacity_gap"], points_of(figure.axes[0])
    columns = spec.columns(runs, TEST)
    for label in (f"{method} from {teacher}" for method in ("KD", "SKD") for teacher in figures.TEACHERS):
        estimate, (_, y, ends, filled) = spec.estimate(columns, {label: 1}), points.pop(0)
        assert filled and y == pytest.approx(np.mean(list(columns[label].values())))
        assert ends[1][1] - ends[0][1] == pytest.approx(2 * estimate.half)
