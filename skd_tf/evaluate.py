"""python -m skd_tf.evaluate: measures finished models on a dataset's test split, side by side."""

import pathlib

from absl import flags

from skd_tf import cli, quiet
from skd_tf.errors import InputError

_SETTINGS = ("data_dir", "dataset", "download", "image_size")


def define(flag_values):
    flags.DEFINE_multi_string(
        "model", None, "a workdir, a .keras file or a SavedModel folder; repeat it for several", flag_values=flag_values
    )
    flags.DEFINE_string("output", None, "JSON file to write", flag_values=flag_values)
    cli.define_flags(flag_values, _SETTINGS)


def main(flag_values):
    quiet.import_tensorflow()
    from skd_tf import data, summary
    from skd_tf.progress import say
    from skd_tf.workdir import recorded_config, write_json

    output = pathlib.Path(flag_values.output) if flag_values.output else None
    if output and not output.parent.is_dir():
        raise InputError(
            f"The output has no folder. Expected an existing folder. Received --output={output}. Make {output.parent} first."
        )
    base = None
    if not {"dataset", "image_size"} & cli.explicit_names(flag_values):  # then the data of the first run among the models
        base = next(filter(None, (recorded_config(path) for path in flag_values.model)), None)
    config = cli.config_from(flag_values, base).replace(validation_fraction=0.0)
    say(f"Test split of {config.dataset}")
    result = evaluate(flag_values.model, data.load(config, flag_values.data_dir))
    say(summary.models_table(result["models"]))
    if output:
        write_json(output, result)
        say(f"\nWritten: {output}")


def evaluate(paths, dataset):
    """Measures models on `dataset.test`; changes no weight.

    Args:
      paths: workdirs, `.keras` files or SavedModel folders.
      dataset: a `Dataset` with a test split.

    Returns:
      {"models": [{"path", "accuracy", "nll", "ece", "confidence", "logit_norm", "parameters"}], "dataset", "versions",
      "device"}; accuracy and ece are fractions, nll is in nats.

    Raises:
      InputError: a path without a model, or a model of other images or classes.
    """
    from skd_tf import evaluation, metrics, models, records

    opened = [(str(path), models.load(path)) for path in paths]  # all of them, before any time is spent
    for path, model in opened:
        models.check_fits(model, dataset, path)
    rows = []
    for path, model in opened:
        logits = evaluation.Predictor(model)(dataset.test.images)
        facts = {"parameters": models.parameter_count(model)}
        rows.append({"path": path} | metrics.quality(logits, dataset.test.labels) | facts)
    return {
        "models": rows,
        "dataset": {"name": dataset.name, "version": dataset.version, "test_examples": len(dataset.test)},
        "versions": records.versions(),
        "device": records.device(),
    }


def cli_main():
    cli.run(
        main,
        description="Measures models on a dataset's test split: top-1, NLL, calibration, parameters.",
        define=define,
        required=("model",),
    )


if __name__ == "__main__":
    cli_main()
