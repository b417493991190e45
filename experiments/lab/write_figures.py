"""Draws the studies' figures from their records.

python -m experiments.lab figures capacity_gap       # experiments/figures/capacity_gap.png; without a name: all that have records
"""

from absl import flags

from experiments.lab import definitions, figure_digests, figures
from experiments.lab.records import read_all
from skd_tf.config import app
from skd_tf.config.fields import did_you_mean
from skd_tf.errors import InputError
from skd_tf.runtime.console import say


def define(flag_values):
    flags.DEFINE_multi_string(
        "study", None, "what to draw, also without the flag's name; all unless given", flag_values=flag_values
    )
    flags.DEFINE_string(
        "results_dir", str(definitions.ROOT / definitions.RESULTS), "folder of the records", flag_values=flag_values
    )
    flags.DEFINE_string("output_dir", str(figure_digests.FOLDER), "folder of the figures", flag_values=flag_values)


def draw(name, records, folder):
    """Draws one figure from {cell: record}; returns its path."""
    # An Agg figure without pyplot: no display is looked for, and no figure is kept.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figures.FIGURES[name](figure, records)
    path = figure_digests.path_of(name, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, metadata={figure_digests.KEY: figure_digests.digest(name, records)})
    temporary.replace(path)
    return path


def main(flag_values):
    records = read_all(flag_values.results_dir)
    for name in flag_values.study or figures.FIGURES:
        if name not in figures.FIGURES:
            remedy = did_you_mean(name, figures.FIGURES, "Name one")
            raise InputError(
                f"No such figure. Expected one of {', '.join(figures.FIGURES)}. Received study={name}. "
                f"{remedy}{'' if remedy.endswith('?') else '.'}"
            )
        if figure_digests.is_due(name, records):
            say(f"{name}: {draw(name, records, flag_values.output_dir)}")
        else:
            say(f"{name}: there are no records to draw.")


if __name__ == "__main__":
    app.run(
        main,
        description="Draws the studies' figures from their records.",
        define=define,
        required=(),
        positional="study",
    )
