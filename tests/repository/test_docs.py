"""The documentation agrees with the code: flags, code blocks, generated tables and pages."""

import json
import pathlib
import pkgutil
import re

import numpy as np
import pytest

from skd_tf.config import flags
from skd_tf.config.fields import rules_of
from skd_tf.errors import InputError, as_text
from tests.helpers.commands import load_source
from tools.benchmarks.__main__ import COMMANDS
from tools.benchmarks.compare_keras_distillation import with_table

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RESULTS = ROOT / "experiments" / "results"
FENCED = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Flags of pip, docker, mkdocs, saved_model_cli, TensorFlow Serving and TensorBoard.
OTHERS = {
    "saved-model",
    *("editable", "quiet", "help", "no-cache-dir", "strict", "rm", "dir"),
    *("tag_set", "signature_def", "inputs", "logdir", "model_base_path", "model_name", "rest_api_port"),
}


@pytest.fixture
def site_pages():
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    return load_source(ROOT / "docs" / "hooks" / "site_pages.py")


@pytest.fixture(scope="module")
def known_flags():
    """Every flag of a command, an example or a tool, from its table or its source."""
    names = {
        *flags.FIELDS,
        *flags.PLACES,
        *(f"no{name}" for name in flags.FIELDS),
        *("flagfile", "recipe", "list_recipes"),
        *OTHERS,
    }
    names |= {"output", *(flag for command in COMMANDS.values() for flag in command.flags)}
    for path in (*(ROOT / "skd_tf").rglob("*.py"), *(ROOT / "tools").rglob("*.py"), *(ROOT / "examples").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        names |= set(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", source))
        names |= {f"no{name}" for name in re.findall(r"DEFINE_bool\w*\(\s*\"(\w+)\"", source)}
        names |= set(re.findall(r"add_argument\(\"--(\w+)\"", source))
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_flags_and_code_on_a_page_exist(page, known_flags):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--(?:\[no\])?([a-z][a-z_-]+)", text))
    assert sorted(named - known_flags) == []
    for language, code in FENCED.findall(text):
        if language == "python":
            compile(code, page.name, "exec")
            for dotted in re.findall(r"\bskd_tf(?:\.\w+)+", code):
                pkgutil.resolve_name(dotted)


def test_the_table_of_the_comparison_with_keras_is_its_records():
    record = json.loads((RESULTS / "digits/keras_distillation.json").read_text())
    page = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
    assert with_table(page, record) == page
    changed = record | {"teacher": record["teacher"] / 2}
    assert with_table(with_table(page, changed), record) == page != with_table(page, changed)
    with pytest.raises(InputError, match="place"):
        with_table("# Another page", record)
    rows, same = record["rows"], ("keras.distillation, loss=KLDivergence()", "keras.io's example", 'skd_tf, loss="kd"')
    assert all(rows[name]["distance"] < 1e-4 for name in same[:2])  # as the page says
    assert np.ptp([rows[name]["accuracy"] for name in same]) < 0.02
    assert rows["keras.distillation, its default loss"]["accuracy"] < rows["student alone"]["accuracy"] - 0.1


def test_the_flag_reference_has_every_setting(site_pages):
    rows = site_pages.flag_reference().splitlines()
    for name, field in flags.FIELDS.items():
        (row,) = (row for row in rows if f'id="{name}"' in row)
        assert " ".join(rules_of(field).help.split())[:20] in row
        assert as_text(field.default) == "" or f"| `{as_text(field.default)}` |" in row
    assert any(row.startswith("| `--search`") for row in rows)


def test_links_to_the_repository_become_links_of_the_site(site_pages, tmp_path, monkeypatch):
    monkeypatch.setattr(site_pages, "ROOT", tmp_path)
    links = "[a]({}) [b]({}) {} [d](https://example.org) [e](#map) ![f](x.png)"
    (tmp_path / "README.md").write_text(links.format("docs/keras.md#fit", "CONTRIBUTING.md#tests", "[c](LICENSE)"))
    assert site_pages.adapted("README.md") == links.format("keras.md#fit", "contributing.md#tests", "c (`LICENSE`)")
    page = "[g](../{}) [h](../{}) [i]({})"
    adapted = site_pages.on_page_markdown(page.format("SECURITY.md", "CONTRIBUTING.md#tests", "quickstart.ipynb"))
    assert adapted == page.replace("../", "").format("security.md", "contributing.md#tests", "quickstart.md")


def test_a_line_that_links_to_a_file_shows_it_on_the_site(site_pages):
    text = "Before [`a.py`](../a.py) after\n\n[`examples/own_loss.py`](../examples/own_loss.py)\n"
    code = (ROOT / "examples/own_loss.py").read_text(encoding="utf-8").rstrip()
    assert site_pages.on_page_markdown(text) == f"Before [`a.py`](../a.py) after\n\n```python\n{code}\n```\n"


def test_the_numbers_on_the_scale_page_follow_from_the_records():
    page, benchmarks = (ROOT / "docs/scale.md").read_text(encoding="utf-8"), RESULTS / "benchmarks"
    parts = json.loads((benchmarks / "imagenet.json").read_text())["parts"]
    for name, row in parts.items():
        spread = f"{min(row['ms']):,.0f} to {max(row['ms']):,.0f}"
        assert f"| {name} | {row['images_per_second']:,.1f} images | {spread} | {row['peak_memory_mb']:,.0f} |" in page
    memory = json.loads((benchmarks / "memory.json").read_text())["records"]
    first, *_, last = counts = [*memory]
    for part in memory[first]:
        assert f"| {part} | {' | '.join(f'{memory[count][part]:,.1f}' for count in counts)} |" in page
    grown = max(memory[last][part] - memory[first][part] for part in ("computing, MB", "training, MB"))
    assert grown < 0.1 * min(memory[first]["computing, MB"], memory[first]["training, MB"])
    per_image = 1e6 * grown / (int(last) - int(first))
    assert f"What grows is {per_image:.0f} bytes per image" in page
    top_logits = (ROOT / "docs/top_logits.md").read_text(encoding="utf-8")
    for rows in json.loads((benchmarks / "top_logits.json").read_text())["kl"].values():
        for row in rows:
            kl = [f"{value:.3g}" for name, value in row.items() if name.startswith("T")]
            assert f"| {row['kept']} | {row['bytes']} | {' | '.join(kl)} |" in top_logits
    # Operations an image; a second of eight accelerators, assumed.
    views, forward, step, accelerators = 1.28e6 * 100, 23.0e9, 10.9e9, 8 * 50e12
    names = ("step of resnet18, logits given", "pass of resnet152")
    student, teacher = (parts[name]["images_per_second"] for name in names)
    decoded = parts["input"]["images_per_second"] / 2  # by one core
    images, logits = accelerators / step, 1.28e6 * 1000 * 2
    seconds_of_check = 100 * logits / 1e6 / min(row["checked, MB per second of CPU"] for row in memory.values())
    hours = {operations: views * operations / accelerators / 3600 for operations in (step, forward)}
    cells = {
        "student's steps, 1.4 EFLOP": f"{views / student / 86400:.0f} days | {hours[step]:.1f} h",
        "the teacher's passes, 2.9 EFLOP": f"{views / teacher / 86400:.0f} days | {hours[forward]:.1f} h",
        "images into the student's steps": f"{student:.0f} a second | {round(images, -2):,.0f} a second",
        "cores that decode as many": f"a {decoded / student:.0f}th of one | {images / decoded:.0f} |",
        "logits in float16, 100 epochs": f"{100 * logits / 1e9:.0f} GB",
        "the 21 largest logits, 100 epochs": f"{views * 92 / 1e9:.1f} GB",
        "check of the logits, while": f"{seconds_of_check / 60:.1f} min in all",
        "memory that grows with the set": f"{1.28 * per_image:.0f} MB",
        "pictures read, at random places": f"{student * 0.11:.0f} MB/s | {images * 0.11 / 1000:.1f} GB/s",
    }
    for start, expected in cells.items():
        line = next(line for line in page.splitlines() if line.startswith(f"| {start}"))
        assert expected in line, (line, expected)
