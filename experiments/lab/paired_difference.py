"""The gain of distillation over n seeds: student distilled minus student alone, paired by seed, one shared teacher.

    python -m experiments.lab.paired_difference --flagfile=experiments/digits/skd.flags --workdir=runs/paired --seeds=10 \
        --output=experiments/results/digits/skd.json

Resumable: the same command goes on where it stopped. The teacher and the data split are one and the same for all seeds, so
the spread is that of the student's initial weights and order alone.
"""

import json
import pathlib
import statistics

from absl import flags

from skd_tf.config import app
from skd_tf.config.flags import config_from, define_flags
from skd_tf.errors import InputError

_COLUMNS = ("accuracy", "nll", "ece", "agreement")


def define(flag_values):
    define_flags(flag_values)
    flags.DEFINE_integer("seeds", 10, "seeds 0 to n - 1", lower_bound=2, flag_values=flag_values)
    flags.DEFINE_string("output", None, "JSON record to write", flag_values=flag_values)


def main(flag_values):
    from skd_tf.runs.workdir import write_json
    from skd_tf.training import experiment

    folder = pathlib.Path(flag_values.workdir)
    config = config_from(flag_values).replace(student_alone="train")
    config.require_teacher()
    if config.seed:
        raise InputError(
            f"The seeds are 0 to {flag_values.seeds - 1}. Expected no --seed. Received --seed={config.seed}. Leave it out."
        )
    if not config.teacher_checkpoint:  # trained once, for all seeds
        teacher = experiment.find_teacher(config, folder, flag_values.data_dir)
        config = config.replace(teacher_checkpoint=str(teacher), teacher_flagfile="")
    results = [
        experiment.run(config.replace(seed=seed), folder / f"seed{seed}", flag_values.data_dir)
        for seed in range(flag_values.seeds)
    ]
    record = {name: _summary(results, name) for name in _COLUMNS}
    record |= {
        "seeds": flag_values.seeds,
        "teacher": results[0]["teacher"],
        "parameters": results[0]["student"]["parameters"],
        "radius": results[0]["radius"],
        "config": config.replace(teacher_checkpoint="").to_json(),
        "versions": results[0]["versions"],
        "device": results[0]["device"],
    }
    print(json.dumps({name: record[name] for name in _COLUMNS}, indent=1))
    if flag_values.output:
        write_json(flag_values.output, record)


def _summary(results, name):
    """Means, and the paired difference with the standard error of its mean."""
    alone, distilled = ([result[who][name] for result in results] for who in ("student_alone", "student"))
    differences = [d - a for d, a in zip(distilled, alone, strict=True)]
    return {
        "student_alone": statistics.mean(alone),
        "student": statistics.mean(distilled),
        "difference": statistics.mean(differences),
        "standard_error": statistics.stdev(differences) / len(differences) ** 0.5,
        "differences": differences,
    }


if __name__ == "__main__":
    app.run(main, description="Distilled minus alone, paired over seeds.", define=define)
