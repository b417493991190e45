"""TensorFlow imported without its start-up notes."""

import os
import tempfile


def import_tensorflow():
    """Imports TensorFlow. Its C++ logs lines before any log level is read, straight to file descriptor 2; they are shown
    only where the import fails."""
    saved = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            notes.seek(0)
            os.write(saved, notes.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
