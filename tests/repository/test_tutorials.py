"""Every command and program of the tutorials, run as written on made-up pictures."""

import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
FENCED = re.compile(r"^``` ?(\w+)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands_and_programs(page):
    """What the page tells the reader to run, in its order: lists of arguments, and Python programs."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = [(match.start(), match[2]) for match in FENCED.finditer(text) if match[1] == "python"]
    text = FENCED.sub(lambda match: " " * (len(match[0]) - 1) + "\n", text).replace("\\\n", "  ")  # of the same length
    for match in re.finditer(r"^    (?:pip install -e \. && )?((?:python|skd)[- ].*)$", text, re.MULTILINE):
        found.append((match.start(), shlex.split(match[1])))
    return [what for _, what in sorted(found, key=lambda pair: pair[0])]


def draw(path, kind, random, side):
    """A noisy picture of a class: bright where a circle, a square or stripes are."""
    size = side or int(random.integers(30, 50))
    y, x = np.mgrid[:size, :size] - size / 2 + random.uniform(-4, 4, [2, 1, 1])
    inside = {
        "circle": np.hypot(x, y) < size / 4,
        "square": np.maximum(abs(x), abs(y)) < size / 4,
        "stripes": y % 8 < 4,
    }[kind]
    pixels = np.where(inside[..., None], random.integers(130, 256, 3), random.integers(0, 120, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels + random.normal(0, 20, pixels.shape), 0, 255).astype(np.uint8)).save(path)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["own_pictures.md", "first_run.md"])
def test_the_commands_of_a_tutorial_run_as_written(page, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="pip install -e '.[litert]'")
    random = np.random.default_rng(0)
    kinds = ("circle", "square", "stripes")
    for number in range(240):
        draw(tmp_path / "photos" / kinds[number % 3] / f"{number}.png", kinds[number % 3], random, 0)
    for number in range(6):
        draw(tmp_path / "new_photos" / f"{number}.png", kinds[number % 3], random, 0)
    outputs = []
    for what in commands_and_programs(page):
        if what[:2] == ["python", "-m"] and what[2].startswith("experiments"):
            continue  # a study of ten seeds
        command = [sys.executable, "-c", what] if isinstance(what, str) else [sys.executable, *what[1:]]
        assert isinstance(what, str) or what[0] == "python", what
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (what, done.stdout[-2000:], done.stderr[-2000:])
        outputs.append(done.stdout)
    assert len(outputs) >= 4
    if page == "own_pictures.md":
        accuracy = re.search(r"student distilled +(0\.\d+|1\.0+)", outputs[1])
        assert float(accuracy[1]) > 0.6, outputs[1]
        assert len((tmp_path / "answers.csv").read_text().splitlines()) == 7
