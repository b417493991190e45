"""Drawn images for the study: six shapes to develop on, and a set of 20 classes to measure on.

    python -m experiments.studies.first_day.drawings shapes FOLDER
    python -m experiments.studies.first_day.drawings drawings FOLDER

FOLDER gets train/ and test/ with a folder per class. The same command always draws the same pixels.
"""

import math
import pathlib
import random
import sys

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "cross", "ring", "stripes")
_MOTIFS = ("polygon3", "polygon4", "polygon5", "polygon6", "star5", "star8", "ellipse", "arc", "spiral", "grid")
_FILLS = ("filled", "outlined")
DRAWINGS = tuple(f"{motif}_{fill}" for motif in _MOTIFS for fill in _FILLS)


def draw_shapes(root: pathlib.Path, train: int = 50, test: int = 300) -> None:
    """Six classes of shapes in images of 40 to 120 pixels a side, with noise of +-30; `train` and `test` images a class."""
    random.seed(0)
    noise = np.random.RandomState(0)
    for split, count in (("train", train), ("test", test)):
        for name in SHAPES:
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                width, height = random.randint(40, 120), random.randint(40, 120)
                background = tuple(random.randint(0, 120) for _ in range(3))
                color = tuple(random.randint(120, 255) for _ in range(3))
                image = Image.new("RGB", (width, height), background)
                size = random.randint(12, min(width, height) // 2 - 2)
                x, y = random.randint(size, width - size), random.randint(size, height - size)
                _shape(ImageDraw.Draw(image), name, (x, y, size), color)
                pixels = np.asarray(image).astype(int) + noise.randint(-30, 30, (height, width, 3))
                Image.fromarray(np.clip(pixels, 0, 255).astype("uint8")).save(folder / f"{number:03d}.png")


def _shape(draw, name, place, color):
    x, y, s = place
    box = [x - s, y - s, x + s, y + s]
    if name == "circle":
        draw.ellipse(box, fill=color)
    elif name == "square":
        draw.rectangle(box, fill=color)
    elif name == "triangle":
        draw.polygon([(x, y - s), (x - s, y + s), (x + s, y + s)], fill=color)
    elif name == "cross":
        draw.line(box, fill=color, width=6)
        draw.line([x - s, y + s, x + s, y - s], fill=color, width=6)
    elif name == "ring":
        draw.ellipse(box, outline=color, width=5)
    else:
        for k in range(y - s, y + s, 8):
            draw.line([x - s, k, x + s, k], fill=color, width=4)


def draw_drawings(root: pathlib.Path, train: int = 100, test: int = 200) -> None:
    """20 classes, ten motifs each filled or outlined: any rotation, size and colour, textured background, 32 pixels a side.

    Colours do not depend on the class, and half of the images hold a second, smaller mark that belongs to no class.
    """
    generator = np.random.default_rng(20)
    for split, count in (("train", train), ("test", test)):
        for name in DRAWINGS:
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                _drawing(generator, *name.split("_")).save(folder / f"{number:03d}.png")


def _drawing(generator, motif, fill):
    side, scale = 32, 4  # drawn larger and reduced, so that edges are smooth
    large = side * scale
    background = generator.integers(0, 256, 3)
    contrast = generator.integers(70, 200) * generator.choice([-1, 1], 3)
    color = tuple(int(value) for value in np.clip(background + contrast, 0, 255))
    waves = np.linspace(0, generator.uniform(1, 5) * 2 * math.pi, large)
    texture = 25 * np.sin(waves[:, None] * generator.uniform(-1, 1) + waves[None, :] * generator.uniform(-1, 1))
    image = Image.fromarray(np.clip(background + texture[:, :, None], 0, 255).astype("uint8"))
    draw = ImageDraw.Draw(image)
    if generator.random() < 0.5:
        x, y = generator.integers(0, large, 2)
        draw.line([int(x), int(y), int(x) + 24, int(y) + 10], fill=color, width=4)
    radius = generator.uniform(0.25, 0.42) * large
    center = generator.uniform(radius, large - radius, 2)
    points = [tuple(center + radius * np.array(p)) for p in _outline(generator, motif)]
    width = int(generator.integers(4, 8))
    if motif in ("arc", "spiral", "grid"):  # lines: "filled" ones are twice as thick
        for start in range(0, len(points) - 1, 2 if motif == "grid" else 1):
            draw.line([points[start], points[start + 1]], fill=color, width=width * (2 if fill == "filled" else 1))
    elif fill == "filled":
        draw.polygon(points, fill=color)
    else:
        draw.line([*points, points[0]], fill=color, width=width)
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BOX)).astype(int)
    pixels += generator.integers(-25, 26, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))


def _outline(generator, motif):
    """Points of a motif in the unit circle, turned by a random angle."""
    turn = generator.uniform(0, 2 * math.pi)

    def at(angle, radius=1.0):
        return radius * math.cos(angle + turn), radius * math.sin(angle + turn)

    corners = int(motif[-1]) if motif[-1].isdigit() else 0
    if motif.startswith("polygon"):
        return [at(2 * math.pi * k / corners) for k in range(corners)]
    if motif.startswith("star"):
        return [at(math.pi * k / corners, 0.45 if k % 2 else 1.0) for k in range(2 * corners)]
    if motif == "ellipse":
        flat = [(math.cos(a), 0.55 * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 40, endpoint=False)]
        return [(x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)) for x, y in flat]
    if motif == "arc":
        return [at(a) for a in np.linspace(0, 1.5 * math.pi, 30)]
    if motif == "spiral":
        return [at(a, a / (4 * math.pi)) for a in np.linspace(0.5, 4 * math.pi, 60)]
    lines = [[(-0.7, k), (0.7, k), (k, -0.7), (k, 0.7)] for k in (-0.7, 0, 0.7)]
    c, s = math.cos(turn), math.sin(turn)
    return [(x * c - y * s, x * s + y * c) for line in lines for x, y in line]


def main() -> None:
    """Draws the set that the first argument names into the folder that the second one names."""
    kinds = {"shapes": draw_shapes, "drawings": draw_drawings}
    if len(sys.argv) != 3 or sys.argv[1] not in kinds:
        sys.exit(__doc__)
    kinds[sys.argv[1]](pathlib.Path(sys.argv[2]))


if __name__ == "__main__":
    main()
