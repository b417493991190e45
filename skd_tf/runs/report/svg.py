"""Matplotlib charts as inline SVG, whose text stays text and whose colours follow the page, light or dark."""

import html
import io
import re
import warnings
from collections.abc import Callable
from typing import Any

_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be called "$x$"
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
_RUN_COLOURS = 6
# Colours that matplotlib writes into the SVG; each is replaced by a variable of the page's style sheet.
COLOURS = {
    name: f"#01{number:04x}"
    for number, name in enumerate(
        (
            *("ink", "grid", "muted", "teacher", "student_alone", "student_matched", "student"),
            *(f"run{i}" for i in range(_RUN_COLOURS)),
        ),
        start=0x0203,
    )
}


def colour(name: str) -> str:
    """The colour to draw with; the colours of runs repeat after the sixth."""
    return COLOURS[f"run{int(name.removeprefix('run')) % _RUN_COLOURS}" if name.startswith("run") else name]


def dashes(name: str) -> str:
    """The line style; it tells apart runs that share a colour."""
    return ("-", "--", ":")[int(name.removeprefix("run")) // _RUN_COLOURS % 3] if name.startswith("run") else "-"


def chart(
    draw: Callable[[Any], None], label: str, *, width: float = 4.3, height: float = 2.9, names: bool = False
) -> str:
    """An SVG element.

    Args:
      draw: draws on the matplotlib axes that it is called with.
      label: text for screen readers; it also makes the ids of each chart on a page unique.
      width, height: in inches of 72 units; the page scales the chart to its column.
      names: whether ticks are labelled with names. Measuring their width doubles the time.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    inks = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), COLOURS["ink"])
    colours = inks | {"axes.edgecolor": COLOURS["muted"], "grid.color": COLOURS["grid"]}
    with warnings.catch_warnings(), matplotlib.rc_context(_RC | colours | {"svg.hashsalt": label}):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser draws the text, with fonts of its own
        figure = Figure(figsize=(width, height), layout="constrained" if names else None)
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        if not names:
            margins = {"left": 0.62 / width, "right": 1 - 0.12 / width, "bottom": 0.5 / height, "top": 1 - 0.3 / height}
            figure.subplots_adjust(**margins)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), label)


def _inline(text, label):
    """The SVG element of an SVG file, without unused ids, in the colours of the page."""
    text = text[text.index("<svg") :]
    view = re.search(r'viewBox="([^"]+)"', text)[1]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", text)
    for name, stand_in in COLOURS.items():
        text = text.replace(stand_in, f"var(--{name.replace('_', '-')})")
    text = re.sub(r"<svg[^>]*>", f'<svg viewBox="{view}" role="img" aria-label="{html.escape(label)}">', text, count=1)
    return text.strip()
