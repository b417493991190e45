"""Matplotlib charts as inline SVG: their text is text, and their colours are the page's, light or dark."""

import io
import re

_RC = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be called "$"
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
# Stand-ins that matplotlib writes into the SVG, and the style sheet's variables that take their place.
COLOURS = {
    "ink": "#010203",
    "grid": "#010204",
    "muted": "#010205",
    "teacher": "#010206",
    "student_alone": "#010207",
    "student": "#010208",
    "run0": "#010209",
    "run1": "#01020a",
    "run2": "#01020b",
    "run3": "#01020c",
    "run4": "#01020d",
    "run5": "#01020e",
}
_RUN_COLOURS = 6


def colour(name):
    """The stand-in of a colour; more runs than colours begin again."""
    if name.startswith("run"):
        name = f"run{int(name.removeprefix('run')) % _RUN_COLOURS}"
    return COLOURS[name]


def dashes(name):
    """Runs that share a colour differ in their line."""
    return ("-", "--", ":")[int(name.removeprefix("run")) // _RUN_COLOURS % 3] if name.startswith("run") else "-"


def chart(draw, label, *, width=4.3, height=2.9, names=False):
    """An SVG element of what `draw(axes)` draws.

    Args:
      draw: called with matplotlib axes.
      label: what a screen reader says; also keeps the ids of two charts on a page apart.
      width, height: inches at 72 units each; the page scales it to its column.
      names: whether the ticks are names, whose room has to be measured; that takes twice the time.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    inks = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), COLOURS["ink"])
    colours = inks | {"axes.edgecolor": COLOURS["muted"], "grid.color": COLOURS["grid"]}
    with matplotlib.rc_context(_RC | colours | {"svg.hashsalt": label}):
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
    import html

    text = text[text.index("<svg") :]
    view = re.search(r'viewBox="([^"]+)"', text)[1]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", text)
    for name, stand_in in COLOURS.items():
        text = text.replace(stand_in, f"var(--{name.replace('_', '-')})")
    text = re.sub(r"<svg[^>]*>", f'<svg viewBox="{view}" role="img" aria-label="{html.escape(label)}">', text, count=1)
    return text.strip()
