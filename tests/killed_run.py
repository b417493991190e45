"""A training command that kills itself at the n-th moment of a kind.

python killed_run.py step|half|checkpoint|renamed|cache N --flag=value ...
"""

import os
import signal
import sys
import zipfile

kind, moments_left = sys.argv[1], [None] * int(sys.argv[2])
del sys.argv[1:3]


def count_down():
    moments_left.pop()
    if not moments_left:
        os.kill(os.getpid(), signal.SIGKILL)


def before(module, name):
    """Counts each call of a module's function, before it does anything."""
    original = getattr(module, name)

    def counted(*arguments, **options):
        count_down()
        return original(*arguments, **options)

    setattr(module, name, counted)


def install():
    from skd_tf import bookkeeping, checkpoints, teacher_cache

    class Files:
        """os, of one module alone."""

        def __getattr__(self, name):
            return getattr(os, name)

    def of_module(module, name):
        module.os = Files()
        before(module.os, name)

    moments = {
        "step": lambda: before(bookkeeping.Bookkeeping, "on_call"),
        "half": lambda: before(zipfile.ZipFile, "writestr"),  # a temporary file is there, without its arrays
        "checkpoint": lambda: of_module(checkpoints, "fsync"),  # it is written, and may not be on the disk yet
        "renamed": lambda: of_module(checkpoints, "open"),  # and the older ones are not yet gone
        "cache": lambda: of_module(teacher_cache, "fsync"),
    }
    moments[kind]()


if __name__ == "__main__":
    from skd_tf import quiet

    quiet.import_tensorflow()
    install()
    from skd_tf import train

    train.cli_main()
