"""Hook of mkdocs.yml: writes the pages of the site that come from code and from the texts of the repository.

index, contributing, changelog, security    README.md, CONTRIBUTING.md, CHANGELOG.md, SECURITY.md
quickstart                        docs/quickstart.ipynb with its outputs
flags                             the fields of skd_tf.config.Config and the other flags of each command
api                               the public names; mkdocstrings renders their docstrings
"""

import importlib
import inspect
import json
import pathlib
import re

from absl import flags
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import skd_tf
from skd_tf.config.fields import expectation, kinds_of, rules_of
from skd_tf.config.flags import FIELDS, PLACES, define_flags
from skd_tf.errors import as_text

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
}
INCLUDED = {"experiments/README.md": "studies/index.md"}  # a text that a page of docs/ shows
COMMANDS = ("train", "evaluate", "predict", "tune", "export", "report")
API = {  # heading: dotted names under it
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
        "skd_tf.serving.export_student.export_student",
        "skd_tf.evaluation.metrics",
    ),
}
# Members that an entry of API shows; the others follow mkdocs.yml.
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


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Appends the pages of docs/ that the nav omits to the how-to guides."""
    sections = [pages for section in config.nav for pages in section.values() if isinstance(pages, list)]
    named = {page for pages in sections for entry in pages for page in entry.values()}
    found = sorted(path.name for path in pathlib.Path(config.docs_dir).glob("*.md"))
    guides = next(section["How-to"] for section in config.nav if "How-to" in section)
    guides += [name for name in found if name not in named]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    pages = {name: adapted(source) for name, source in TEXTS.items()}
    pages |= {"flags.md": flag_reference(), "api.md": api_reference(), "quickstart.md": notebook("quickstart.ipynb")}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Shows the text of a file where a line of a page is a link to it and nothing else; links to the generated pages."""

    def shown(match):
        text = (ROOT / match[1]).read_text(encoding="utf-8").rstrip()
        language = {"py": "python", "flags": "text"}.get(match[2])
        return f"```{language}\n{text}\n```" if language else text

    generated = {f"../{source}": page for page, source in TEXTS.items()} | {"quickstart.ipynb": "quickstart.md"}
    for file, page in generated.items():
        markdown = re.sub(rf"\]\({re.escape(file)}(?=[#)])", f"]({page}", markdown)
    return re.sub(r"^\[`([^`\n]+\.(py|flags|md))`\]\((?:\.\./)+\1\)$", shown, markdown, flags=re.M)


def adapted(source: str) -> str:
    """A text of the repository for the site: links to pages and images of docs/ keep working, others become text."""

    def link(match):
        words, target = match.groups()
        if re.match(r"https?:|#|mailto:", target):
            return match[0]
        file, sharp, heading = target.partition("#")
        inside = {text: page for page, text in TEXTS.items()} | INCLUDED
        page = inside.get(file, file.removeprefix("docs/") if file.startswith("docs/") else "")
        page = re.sub(r"\.ipynb$", ".md", page)
        return f"[{words}]({page}{sharp}{heading})" if page else f"{words} (`{target}`)"

    text = re.sub(r"(!\[[^\]\n]*\]\()docs/", r"\1", (ROOT / source).read_text(encoding="utf-8"))
    return re.sub(r"(?<!!)\[([^\]\n]+)\]\(([^)\s]+)\)", link, text)


def notebook(name: str) -> str:
    """A notebook of docs/ as a page: its texts, its code and the outputs that it holds."""
    parts = []
    for cell in json.loads((ROOT / "docs" / name).read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            if "image/png" in shown:
                parts.append(f"![output](data:image/png;base64,{''.join(shown['image/png']).strip()})")
            elif output.get("text") or "text/plain" in shown:
                parts.append(f"```text\n{''.join(output.get('text') or shown['text/plain']).rstrip()}\n```")
    title, *rest = parts
    return "\n\n".join([title, f"[Download the notebook]({name}).", *rest]) + "\n"


def flag_reference() -> str:
    """The page of all flags: the fields of Config, then the other flags of each command."""
    lines = [
        "# Flags",
        "",
        "Every setting of a run is a field of `skd_tf.Config`. `train` and `tune` have a flag of that name for each; "
        "the other commands have those that apply to them. `--help` of a command shows the same texts.",
        "",
        "| where | |",
        "|---|---|",
        *(f"| `--{name}` | {_cell(text)} |" for name, text in PLACES.items()),
        "| `--flagfile` | reads flags from a file at this position; a later flag overrides an earlier one |",
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
            lines += ["", f"## Only python -m skd_tf.{command}", "", "| flag | default | |", "|---|---|---|"]
            lines += [f"| `--{flag.name}` | {_default(flag)} | {_cell(flag.help)} |" for flag in own]
    return "\n".join(lines) + "\n"


def own_flags(command: str) -> list[flags.Flag]:
    """The flags of a command that are neither fields of Config nor in PLACES."""
    module = importlib.import_module(f"skd_tf.{command}")
    flag_values = flags.FlagValues()
    getattr(module, "define", define_flags)(flag_values)
    return [flag_values[name] for name in flag_values if name not in FIELDS and name not in PLACES]


def api_reference() -> str:
    """The page of the public names, which mkdocstrings fills with their docstrings."""
    lines = ["# Python", "", "Importing `skd_tf` is instant: each name is imported on first use.", ""]
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


def public_names() -> dict[str, str]:
    """Public name -> the first line of its docstring; for a table, that of its package."""
    names = {}
    for name in skd_tf.__all__:
        value = getattr(skd_tf, name)
        documented = skd_tf.losses if isinstance(value, dict) else value
        names[name] = inspect.getdoc(documented).partition("\n")[0]
    return names


def _default(flag):
    value = "" if flag.default in (None, "", []) else as_text(flag.default)
    return f"`{value}`" if value else ""


def _cell(text):
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
