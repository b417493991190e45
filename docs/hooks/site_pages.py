"""The pages of the site that are made from code and from the repository's own texts; a hook of mkdocs.yml.

index, contributing, changelog    README.md, CONTRIBUTING.md, CHANGELOG.md
flags                             every knob of skd_tf.config.Config, and what each command has of its own
api                               the public names, whose docstrings mkdocstrings reads
"""

import ast
import importlib
import pathlib
import re

from absl import flags
from mkdocs.structure.files import File

from skd_tf.config.fields import as_text, expectation, kinds_of, rules_of
from skd_tf.config.flags import FIELDS, PLACES, define_flags

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
COMMANDS = ("train", "evaluate", "tune", "export", "report")
API = {  # heading: what stands under it
    "Distilling": (
        "skd_tf.distillation.distiller.Distiller",
        "skd_tf.keras_losses.SphericalDistillation",
        "skd_tf.schedules",
    ),
    "Losses": ("skd_tf.losses", "skd_tf.losses.spherical", "skd_tf.losses.baselines", "skd_tf.losses.terms"),
    "Runs": (
        "skd_tf.training.experiment.run",
        "skd_tf.config.Config",
        "skd_tf.config.flags.read_flagfile",
        "skd_tf.errors.InputError",
    ),
    "Networks and shipping": (
        "skd_tf.networks.registry.build",
        "skd_tf.models.deployable",
        "skd_tf.evaluation.metrics",
    ),
}
# What an entry above shows of itself; the rest as mkdocs.yml says.
OPTIONS = {
    "skd_tf.distillation.distiller.Distiller": [
        "adapt",
        "compile",
        "deployable",
        "export",
        "fit",
        "probability_logits",
        "run_steps",
    ],
    "skd_tf.losses": ["Loss"],
    "skd_tf.config.Config": ["replace", "to_json", "from_json", "differences"],
    "skd_tf.schedules": ["learning_rate", "loss_weight"],
}


def on_config(config):
    """Pages in docs/ that the nav does not name are put at the end of the guide."""
    guide = next(section["Guide"] for section in config.nav if "Guide" in section)
    named = {page for section in guide for page in section.values()}
    found = sorted(path.name for path in pathlib.Path(config.docs_dir).glob("*.md"))
    guide += [name for name in found if name not in named]
    return config


def on_files(files, config):
    pages = {name: adapted(source) for name, source in TEXTS.items()}
    for name, text in (pages | {"flags.md": flag_reference(), "api.md": api_reference()}).items():
        files.append(File.generated(config, name, content=text))
    return files


def adapted(source):
    """A text of the repository with its links as the site needs them: to pages of docs/, and to nothing else of the tree."""

    def link(match):
        words, target = match.groups()
        if re.match(r"https?:|#|mailto:", target):
            return match[0]
        inside = {file: name for name, file in TEXTS.items()}
        page = inside.get(target, target.removeprefix("docs/") if target.startswith("docs/") else "")
        return f"[{words}]({page})" if page else f"{words} (`{target}`)"

    return re.sub(r"(?<!!)\[([^\]\n]+)\]\(([^)\s]+)\)", link, (ROOT / source).read_text(encoding="utf-8"))


def flag_reference():
    """The page of all flags, from the fields of Config and from what each command defines beside them."""
    lines = [
        "# Flags",
        "",
        "Every setting of a run is a field of `skd_tf.Config` and a flag of the same name, of `train` and `tune`; the other "
        "commands have those that mean something there. `--help` of a command shows the same.",
        "",
        "| where | |",
        "|---|---|",
        *(f"| `--{name}` | {_cell(text)} |" for name, text in PLACES.items()),
        "| `--flagfile` | flags read from a file, at this place: a later flag rules |",
        "",
    ]
    for name, field in FIELDS.items():
        rules = rules_of(field)
        if rules.heading:
            lines += ["", f"## {rules.heading}", "", "| flag | default | |", "|---|---|---|"]
        boolean = bool in kinds_of(field)
        accepts = "" if boolean or expectation(field) == "text" else f"<br>*{_cell(expectation(field))}*"
        label = f"--[no]{name}" if boolean else f"--{name}"
        default = f"`{as_text(field.default)}`" if as_text(field.default) else ""
        lines.append(f'| <span id="{name}"></span>`{label}` | {default} | {_cell(rules.help)}{accepts} |')
    for command in COMMANDS:
        own = own_flags(command)
        if own:
            lines += ["", f"## Of python -m skd_tf.{command}", "", "| flag | default | |", "|---|---|---|"]
            lines += [f"| `--{flag.name}` | {_default(flag)} | {_cell(flag.help)} |" for flag in own]
    return "\n".join(lines) + "\n"


def own_flags(command):
    """The flags that a command has beside the fields of Config and the places."""
    module = importlib.import_module(f"skd_tf.{command}")
    flag_values = flags.FlagValues()
    getattr(module, "define", define_flags)(flag_values)
    return [flag_values[name] for name in flag_values if name not in FIELDS and name not in PLACES]


def api_reference():
    """The page of the public names; what is in each comes from its docstring."""
    lines = ["# Python", "", "Importing `skd_tf` costs nothing; each name is imported when it is first used.", ""]
    lines += ["| name | |", "|---|---|"]
    lines += [*(f"| `skd_tf.{name}` | {_cell(text)} |" for name, text in public_names().items()), ""]
    for heading, names in API.items():
        lines += [f"## {heading}", ""]
        for name in names:
            lines += [f"::: {name}"]
            if name in OPTIONS:
                lines += ["    options:", f"      members: [{', '.join(OPTIONS[name])}]"]
            lines += [""]
    return "\n".join(lines)


def public_names():
    """Public name -> what it is: the first line of its docstring, read from the source."""
    tree = _source("skd_tf")
    values = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    homes = ast.literal_eval(values["_HOMES"])
    names = {}
    for name in ast.literal_eval(values["__all__"]):
        home = _source("skd_tf", homes.get(name, name))
        found = [node for node in home.body if getattr(node, "name", None) == name]
        documented = found[0] if found else home  # a module, or a table in one
        names[name] = (ast.get_docstring(documented) or "").partition("\n")[0]
    return names


def _source(*parts):
    path = ROOT.joinpath(*parts)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _default(flag):
    value = "" if flag.default in (None, "", []) else as_text(flag.default)
    return f"`{value}`" if value else ""


def _cell(text):
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
