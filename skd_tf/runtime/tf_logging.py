"""TensorFlow without its notes: its C++ logs straight to file descriptor 2, some of it before any log level is read."""

import contextlib
import os
import tempfile


def import_tensorflow():
    """Imports TensorFlow without its start-up notes."""
    with without_notes():
        import tensorflow  # noqa: F401


@contextlib.contextmanager
def without_notes():
    """Hides what is written to file descriptor 2; it is shown only where the block fails."""
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
