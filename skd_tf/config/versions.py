"""Settings recorded by earlier versions, read as those versions meant them.

A record (config.json, result.json, search.json) holds its version. A setting that is younger than the record takes the
value that reproduces what was done before it existed, which need not be the default of today.
"""

from collections.abc import Mapping
from typing import Any

from skd_tf.errors import input_error

VERSION = 1  # raise it with every line of BEFORE

# {setting: (version that introduced it, value that reproduces what earlier versions did)}; one line per setting.
# Records of skd_tf 0.1.0 have no version: they are version 1.
BEFORE: dict[str, tuple[int, Any]] = {}


def upgrade(record: Mapping[str, Any], before: Mapping[str, tuple[int, Any]] = BEFORE) -> dict[str, Any]:
    """The settings in a record of any version, as a dict without its "version".

    Raises:
      InputError: the record was written by a later version.
    """
    settings = dict(record)
    version = settings.pop("version", 1)
    if not isinstance(version, int) or version > VERSION:
        raise input_error(
            "The settings were recorded by a later version of skd_tf",
            expected=f"version {VERSION} or earlier",
            received=f"version={version}",
            remedy="Update skd_tf, or choose another folder",
        )
    added = {name: value for name, (introduced, value) in before.items() if introduced > version}
    return added | settings
