"""The study of the default loss. Every command resumes: it trains only what the records lack.

    python -m experiments.studies.first_day rates SET      alone at all candidate rates; --arms: others, which is exploratory
    python -m experiments.studies.first_day screen SET     all arms at the common rates
    python -m experiments.studies.first_day controls SET   exploratory: warm-up and clipping without the sphere
    python -m experiments.studies.first_day carry SET      the arms that were carried on
    python -m experiments.studies.first_day primary SET    the test that decides, with --arms DEFAULT, on a measurement set
    python -m experiments.studies.first_day verdict --arms DEFAULT    what the test says
    python -m experiments.studies.first_day tables         prints the tables

Options: --folder (teachers and logits; by default runs/first_day), --data_dir (TFDS), --minutes, --arms, --seeds, --optimizers,
--temperatures, --rates, --first_condition.
Pin it to one core: taskset -c 1 python -m ...
"""

import argparse
import functools
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # off by default on CPUs without AVX-512; the commands set it too

_COMMANDS = ("rates", "screen", "controls", "carry", "primary", "tables", "verdict")
RECORDS = pathlib.Path("experiments/results/first_day")


def main() -> None:
    """Runs the command that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=_COMMANDS)
    parser.add_argument("set", nargs="?")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/first_day"))
    parser.add_argument("--records", type=pathlib.Path, default=RECORDS)
    parser.add_argument("--data_dir")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no further cell after so many")
    parser.add_argument("--optimizers", nargs="*", default=["sgd", "adamw"], help="a process for each may run at once")
    parser.add_argument("--arms", nargs="*", help="these arms alone")
    parser.add_argument("--temperatures", nargs="*", type=float, help="rates: at these T, and not at each arm's own")
    parser.add_argument("--rates", nargs="*", type=float, help="rates: these candidates alone")
    parser.add_argument("--first_condition", action="store_true", help="primary: only what its first condition needs")
    parser.add_argument("--seeds", nargs="*", type=int, help="by default those of the protocol")
    options = parser.parse_args()

    from experiments.studies.first_day import arms, primary, tables

    seeds = options.seeds or arms.PROTOCOL["seeds"]["primary_test" if options.command == "primary" else "development"]
    if options.command == "tables":
        print(tables.all_tables(options.records))
        return
    if options.command == "verdict":
        print("\n".join(primary.verdict(options.records, arm) for arm in options.arms))
        return
    if options.command == "rates":
        cells = list(arms.rate_cells(seeds, options.arms, options.temperatures, options.rates))
    else:
        stage = "carry" if options.command in ("carry", "primary") else "screen"
        common = tables.common_rates(options.records, stage)
        print(f"Common rates: {common}", flush=True)
        own = tables.own_temperatures(tables.screens(options.records))
        make = {"screen": arms.screening_cells, "controls": arms.control_cells}
        make["carry"] = functools.partial(arms.carried_cells, own=own)
        make["primary"] = functools.partial(arms.primary_cells, own=own)
        cells = list(make[options.command](common, seeds, options.arms))
        if options.first_condition:
            cells = arms.of_first_condition(cells, common, own)
    _run(options, cells)


def _run(options, cells):
    import json

    import tensorflow as tf

    from experiments.studies.first_day import bench

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    until = time.time() + 60 * options.minutes
    ready = bench.Bench(options.set, options.folder, options.data_dir)
    options.records.mkdir(parents=True, exist_ok=True)
    (options.records / f"{options.set}.json").write_text(json.dumps(ready.facts(), indent=1) + "\n")
    for optimizer in options.optimizers:
        # Exploratory cells have files of their own: their process may run beside the others.
        explores = options.command == "controls" or (options.command == "rates" and options.arms)
        part = f".{options.command}" if explores else ""
        path = options.records / f"{options.set}.{optimizer}{part}.jsonl"
        left = bench.run_all(ready, [c for c in cells if c.optimizer == optimizer], path, until=until)
        print(f"{optimizer}: {left} cells left.")


if __name__ == "__main__":
    main()
