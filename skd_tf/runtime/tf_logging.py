"""TensorFlow without its start-up notes, which its C++ code writes straight to file descriptor 2.

Some come before it reads any log level.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator


def import_tensorflow() -> None:
    """Imports TensorFlow without its start-up notes."""
    with without_notes():
        import tensorflow  # noqa: F401


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Hides what is written to file descriptor 2, and shows it only if the block fails."""
    saved = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except BaseException:
            notes.seek(0)
            os.write(saved, notes.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
