"""The studies' commands. What each does, and its flags: `python -m experiments.lab COMMAND --help`.

python -m experiments.lab reproduce|tables|figures|paired_difference
"""

import importlib
import sys

from skd_tf.config import app
from skd_tf.errors import message

COMMANDS = {  # command: its module
    "reproduce": "reproduce",
    "tables": "pages",
    "figures": "figures",
    "paired_difference": "paired_difference",
}


def main() -> None:
    """Runs the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("--help", "-h", "--helpfull"):
        print(__doc__)
        return
    if name not in COMMANDS:
        expected, received = f"python -m experiments.lab {'|'.join(COMMANDS)}", name or "nothing"
        text = message("No such command", expected=expected, received=received, remedy="Name one of them")
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2)
    module = importlib.import_module(f"experiments.lab.{COMMANDS[name]}")
    sys.argv[:2] = [f"python -m experiments.lab {name}"]
    required = getattr(module, "REQUIRED", ())
    app.run(
        module.main,
        description=module.DESCRIPTION,
        define=module.define,
        required=required,
        positional=getattr(module, "POSITIONAL", None),
    )


if __name__ == "__main__":
    main()
