"""Checks of single settings: each returns the value in its canonical form, or raises `InputError`."""

import os
import re

from skd_tf.errors import did_you_mean, flag_error
from skd_tf.losses.names import LOSS_FACTS, LOSS_NAMES, did_you_mean_loss
from skd_tf.networks.names import NETWORK_NAMES
from skd_tf.runtime import local_paths, user_code

NETWORK = (
    f"one of {', '.join(NETWORK_NAMES)}; keras.applications:NAME; keras_hub:PRESET; or MODULE:FUNCTION of "
    "(input_shape, num_classes)"
)
LOSS = f"one of {', '.join(LOSS_NAMES)}; or MODULE:FUNCTION of (student_logits, teacher_logits, labels)"
LOSS_ARGUMENTS = "; ".join(
    f"{name}: {', '.join(facts.settings)}" for name, facts in LOSS_FACTS.items() if facts.settings
)


def not_empty(name, value):
    if not value:
        raise flag_error(name, "''", "is empty", "a name", f"Leave --{name} out for its default")
    return value


def network(name, value):
    if value in ("", *NETWORK_NAMES) or user_code.is_reference(value) or user_code.published(value):
        return value if value or name == "teacher" else not_empty(name, value)
    if value.endswith(".keras") and name == "student":
        return value
    expected = NETWORK + ("; or a .keras file" if name == "student" else "")
    if name == "teacher" and ("/" in value or value.endswith((".keras", ".h5")) or os.path.exists(value)):
        remedy = f"For a file or a workdir, use --teacher_checkpoint={value}"
        raise flag_error(name, value, "is not a network", "the name of a network to train", remedy)
    remedy = did_you_mean(value, NETWORK_NAMES, "Choose a listed name, or write MODULE:FUNCTION for your own network")
    raise flag_error(name, value, "is not a network", expected, remedy)


def loss(name, value):
    if value in LOSS_NAMES or user_code.is_reference(value):
        return value
    remedy = did_you_mean_loss(value, "Choose a listed name, or write MODULE:FUNCTION for your own loss")
    raise flag_error(name, value, "is not a loss", LOSS, remedy)


def teachers(name, value):
    parts = local_paths.split_paths(value)
    for part in parts:
        local_paths.require_local(part, name)
    if not all(parts):
        raise flag_error(name, value, "has an empty name", "a teacher, or several as A,B", "Drop the comma")
    return ",".join(parts)


def each_of(choices):
    """A check of one of the choices, or of one for each teacher, which it writes once if all are equal."""

    def check(name, value):
        parts = [part.strip() for part in value.split(",")]
        unknown = next((part for part in parts if part not in choices), None)
        if unknown is not None:
            remedy = did_you_mean(unknown, choices, f"Leave it out for the default, {choices[0]}")
            raise flag_error(name, value, "has an unknown value", each_of_words(choices), remedy)
        return ",".join(parts) if len(set(parts)) > 1 else parts[0]

    return check


def each_of_words(choices):
    return f"one of {', '.join(choices)}; or one for each of several teachers, as {choices[0]},{choices[1]}"


def png(name, value):
    if value and not value.lower().endswith(".png"):
        raise flag_error(name, value, "is not a PNG file", "a name that ends with .png", "Change the ending")
    return value


def unlabelled(name, value):
    kind, _, path = value.partition(":")
    if value and (kind not in ("images", "folder") or not path):
        remedy = f"Write --{name}=images:{path or value}" if path or not value.endswith(":") else "Add the path"
        raise flag_error(name, value, "is not a folder of images", "images:PATH", remedy)
    return f"images:{path}" if value else value


def function(name, value):
    if value and not user_code.is_reference(value):
        raise flag_error(name, value, "is not a function", "MODULE:FUNCTION", f"Write for example --{name}=my_code:log")
    return value


def modules(name, value):
    parts = [part.strip() for part in value.split(",")]
    if value and not all(re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", part) for part in parts):
        expected = "MODULE, or several as A,B"
        raise flag_error(name, value, "is not a module", expected, "Write it as in `import my_layers`")
    return ",".join(parts)


def pattern(name, value):
    try:
        re.compile(value)
    except re.error as error:
        raise flag_error(name, value, f"does not parse ({error})", "a regular expression", "Correct it") from error
    return value
