"""python -m tools.benchmarks COMMAND [--flag=value ...]: measures this machine, as a Markdown table and a JSON record."""

import importlib
import pathlib
import sys

from skd_tf.config import app

COMMANDS = {  # module of tools/benchmarks: what it measures
    "step": "A training step, ours and what a user would take instead.",
    "imagenet": "Input, steps and teachers' passes at ImageNet's size.",
    "memory": "What an epoch's logits and the tables by image hold in memory.",
    "gpu": "Steps of teacher and student on a GPU that has JAX and no TensorFlow.",
    "tune": "A search beside as many plain student trainings.",
    "scaling": "Examples a second and memory, by number of replicas and steps per call.",
}


def main():
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        lines = [f"usage: python {sys.argv[0]} COMMAND [--help] [--flag=value ...]", ""]
        print("\n".join(lines + [f"  {command:8} {text}" for command, text in COMMANDS.items()]))
        sys.exit(0 if name in ("-h", "--help") else 2)
    del sys.argv[1]
    sys.path.insert(0, str(pathlib.Path(__file__).parent / "benchmarks"))
    command = importlib.import_module(name)
    app.run(command.main, description=COMMANDS[name], define=command.define, required=())


if __name__ == "__main__":
    main()
