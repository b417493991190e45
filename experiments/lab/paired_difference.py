"""What distillation gains: student distilled minus student alone, paired by seed, with one teacher for all seeds.

    python -m experiments.lab paired_difference --recipe=digits --workdir=runs/paired --seeds=10 \
        --output=experiments/results/digits/skd.json

The same command resumes a stopped one. Teacher and data split are fixed, so the spread is that of the students alone.
"""

import json
import pathlib
import statistics

from absl import flags

from experiments.lab.statistics import critical
from skd_tf.config.flags import config_from, define_flags
from skd_tf.errors import input_error

DESCRIPTION = "Distilled minus alone, paired over seeds."
REQUIRED = ("workdir",)
_PAIR = ("student_alone", "student")
_COLUMNS = ("accuracy", "nll", "ece", "agreement", "calibrated.nll", "calibrated.ece")  # calibrated: as students ship


def define(flag_values: flags.FlagValues) -> None:
    """Defines the flags of a run, and two more."""
    define_flags(flag_values)
    flags.DEFINE_integer("seeds", 10, "seeds 0 to n - 1", lower_bound=2, flag_values=flag_values)
    flags.DEFINE_string("output", None, "JSON record to write", flag_values=flag_values)


def main(flag_values: flags.FlagValues) -> None:
    """Trains both students with every seed, prints the differences and writes the record."""
    from skd_tf.runs.workdir import require_output
    from skd_tf.runtime.files import write_json
    from skd_tf.training import experiment

    folder, seeds, data_dir = pathlib.Path(flag_values.workdir), flag_values.seeds, flag_values.data_dir
    config = config_from(flag_values).replace(student_alone="train")
    config.require_teacher()
    output = require_output(flag_values.output) if flag_values.output else None
    if config.seed:
        received = f"--seed={config.seed}"
        raise input_error(
            f"The seeds are 0 to {seeds - 1}", expected="no --seed", received=received, remedy="Leave it out"
        )
    if not config.teacher_checkpoint:  # trained once, for all seeds
        experiment.prepare(config, folder, data_dir)
        config = config.replace(teacher_checkpoint=str(folder / "teacher"), teacher_flagfile="")
    results = [
        experiment.run(config.replace(seed=seed), folder / f"seed{seed}", data_dir) for seed in range(flag_values.seeds)
    ]
    columns = [n for n in _COLUMNS if all(_value(result, who, n) is not None for result in results for who in _PAIR)]
    record = {name: _summary(results, name) for name in columns}
    print(json.dumps(record, indent=1))
    record |= {
        "seeds": seeds,
        "teacher": results[0]["teacher"],
        "parameters": results[0]["student"]["parameters"],
        "config": config.replace(teacher_checkpoint="").to_json(),
        **{name: results[0][name] for name in ("radius", "versions", "device")},
    }
    if output:
        write_json(output, record)


def _value(result, who, name):
    """A metric of a model in a result; "calibrated.nll" is the one of its calibrated probabilities, None without them."""
    group, _, metric = name.rpartition(".")
    return (result[who].get(group) or {}).get(metric) if group else result[who][metric]


def _summary(results, name):
    """Means, and the paired difference with the standard error of its mean and Student's 95% interval."""
    alone, distilled = ([_value(result, who, name) for result in results] for who in _PAIR)
    differences = [d - a for d, a in zip(distilled, alone, strict=True)]
    mean, error = statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    half = critical(len(differences) - 1) * error
    return {
        "student_alone": statistics.mean(alone),
        "student": statistics.mean(distilled),
        "difference": mean,
        "standard_error": error,
        "interval": [mean - half, mean + half],
        "differences": differences,
    }
