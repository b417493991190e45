"""Draws the studies' figures from their records.

python tools/plot.py capacity_gap       # experiments/figures/capacity_gap.png; without a name: all that have records
"""

import pathlib
import sys

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout need not be installed

import figure_files
import studies
import study_figures
import study_records

from skd_tf import cli
from skd_tf.errors import InputError
from skd_tf.knobs import did_you_mean
from skd_tf.progress import say


def define(flag_values):
    flags.DEFINE_multi_string(
        "study", None, "what to draw, also without the flag's name; all unless given", flag_values=flag_values
    )
    flags.DEFINE_string(
        "results_dir", str(studies.ROOT / studies.RESULTS), "folder of the records", flag_values=flag_values
    )
    flags.DEFINE_string("output_dir", str(figure_files.FOLDER), "folder of the figures", flag_values=flag_values)


def draw(name, records, folder):
    """Draws one figure from {cell: record}; returns its path."""
    # An Agg figure without pyplot: no display is looked for, and no figure is kept.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    study_figures.FIGURES[name](figure, records)
    path = figure_files.path_of(name, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, metadata={figure_files.KEY: figure_files.digest(name, records)})
    temporary.replace(path)
    return path


def main(flag_values):
    records = study_records.read_all(flag_values.results_dir)
    for name in flag_values.study or study_figures.FIGURES:
        if name not in study_figures.FIGURES:
            remedy = did_you_mean(name, study_figures.FIGURES, "Name one")
            raise InputError(
                f"No such figure. Expected one of {', '.join(study_figures.FIGURES)}. Received study={name}. "
                f"{remedy}{'' if remedy.endswith('?') else '.'}"
            )
        if figure_files.is_due(name, records):
            say(f"{name}: {draw(name, records, flag_values.output_dir)}")
        else:
            say(f"{name}: there are no records to draw.")


if __name__ == "__main__":
    cli.run(
        main,
        description="Draws the studies' figures from their records.",
        define=define,
        required=(),
        positional="study",
    )
