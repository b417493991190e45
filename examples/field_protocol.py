"""I want the field's protocol: methods compared on one teacher, one recipe, several seeds.

    python examples/field_protocol.py --data_dir=DATA --workdir=runs/protocol

CIFAR-100, 240 epochs, resnet56 -> resnet20 (arXiv:1910.10699), each method with its authors' settings: days on
CPUs, hours on an accelerator. Every run resumes; finished ones are only read. A further --flag=value changes all alike.
"""

import pathlib
import statistics

from absl import flags

from skd_tf.config import app
from skd_tf.config.flags import FIELDS, LOOKS, PLACES, config_from, define_flags, explicit_names, read_flagfile

RECIPES = pathlib.Path(__file__).resolve().parent.parent / "skd_tf" / "recipes" / "cifar100"
# Flagfiles in methods/, and what their authors set for this pair of nets alone.
METHODS = {
    "cross_entropy": {},
    "kd": {},
    "skd": {},
    "logit_standardization": {},
    "dkd": {"loss_settings": "beta=2"},
    "dist": {},
}


def define(flag_values):
    define_flags(flag_values, [name for name in (*PLACES, *FIELDS) if name not in (*LOOKS, "dry_run")])
    flags.DEFINE_multi_enum("methods", list(METHODS), list(METHODS), "which, one a flag", flag_values=flag_values)
    flags.DEFINE_integer("seeds", 3, "seeds 0 to n - 1", lower_bound=2, flag_values=flag_values)


def main(flag_values):
    import skd_tf
    from skd_tf.training import experiment

    base, _ = read_flagfile(RECIPES / "resnet56_resnet20.flags")
    given = {name: getattr(config_from(flag_values), name) for name in explicit_names(flag_values)}
    workdir, data_dir = pathlib.Path(flag_values.workdir), flag_values.data_dir
    teacher = given.get("teacher_checkpoint") or experiment.find_teacher(base.replace(**given), workdir, data_dir)
    rows = []
    for method in flag_values.methods:
        config, _ = read_flagfile(RECIPES / "methods" / f"{method}.flags", base)
        config = config.replace(
            **METHODS[method] | given | {"teacher_checkpoint": str(teacher), "teacher_flagfile": ""}
        )
        runs = [
            skd_tf.run(config.replace(seed=seed), workdir / f"{method}{seed}", data_dir)
            for seed in range(flag_values.seeds)
        ]
        accuracies = [run["student"]["accuracy"] for run in runs]
        rows.append((method, statistics.mean(accuracies), statistics.stdev(accuracies), len(accuracies)))
    print("\n| method | top-1 | standard deviation | seeds |\n|---|---|---|---|")
    for method, mean, deviation, count in rows:
        print(f"| {method} | {mean:.4f} | {deviation:.4f} | {count} |")


if __name__ == "__main__":
    app.run(main, description="Compares methods by the field's protocol.", define=define)
