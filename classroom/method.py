"""The drawing of the method, figures/method.svg; `python -m classroom.method` writes the same bytes again."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from confitlib.util import project_root

BLUE, ORANGE, GREEN, GREY = "#0173b2", "#de8f05", "#029e73", "#59616b"  # of the colour-blind-safe palette
# A box: centre (x, y), width, what it says, its colour.
BOXES = [
    (1.4, 4.1, 2.5, "Job\nwhat the employer wants", GREY),
    (1.4, 2.5, 2.5, "HyRe\na resume that would fit,\nwritten by a language model", ORANGE),
    (1.4, 0.8, 2.5, "Resumes\nwho applies", GREY),
    (4.5, 2.5, 2.1, "Encoder\none network for both:\na text becomes a vector", BLUE),
    (6.95, 2.5, 1.7, "Cosine\nclose vectors fit", BLUE),
]
# An arrow: from (x, y) to (x, y), its colour, its curve.
ARROWS = [
    ((1.4, 3.65), (1.4, 3.05), GREY, 0.0),
    ((2.7, 4.1), (4.0, 3.05), GREY, -0.2),
    ((2.7, 2.5), (3.4, 2.5), ORANGE, 0.0),
    ((2.7, 0.8), (4.0, 1.95), GREY, 0.2),
    ((5.6, 2.5), (6.05, 2.5), BLUE, 0.0),
    ((7.85, 2.5), (8.5, 2.5), BLUE, 0.0),
    ((8.5, 3.55), (5.0, 3.08), GREEN, 0.25),
]
PARTS = [  # of the ranking, from the top: how high, what it is, its colour
    (0.55, "best 3 %: many are matches\nthat nobody has labelled", "#d9dce0"),
    (0.35, "3 to 4 %: the band of runner-ups,\nhard, and seldom matches", GREEN),
    (2.7, "the rest: easy", "#eef0f2"),
]


def draw_method() -> plt.Figure:
    """Job, HyRe, encoder, ranking, band, training again, from left to right."""
    fig, axes = plt.subplots(figsize=(12, 4.6), layout="constrained")
    for box in BOXES:
        draw_box(axes, *box)
    for start, end, colour, curve in ARROWS:
        style = {"arrowstyle": "-|>", "color": colour, "lw": 2, "connectionstyle": f"arc3,rad={curve}"}
        axes.annotate("", end, start, arrowprops=style)
    top = 4.3
    axes.text(8.6, top + 0.15, "Ranking of all resumes for the job", fontsize=12, weight="bold")
    for height, text, colour in PARTS:
        axes.add_patch(Rectangle((8.6, top - height), 0.7, height, facecolor=colour, edgecolor=GREY))
        axes.text(9.45, top - height / 2, text, va="center", fontsize=11)
        top -= height
    axes.text(6.5, 3.98, "train again, with the runner-ups\nas hard negatives", color=GREEN, fontsize=12, ha="center")
    axes.set(xlim=(0.1, 12.3), ylim=(0.25, 4.75))
    axes.axis("off")
    return fig


def draw_box(axes: Axes, x: float, y: float, width: float, text: str, colour: str) -> None:
    """A rounded box whose first line is bold."""
    first, _, rest = text.partition("\n")
    low, lines = y - 0.45 if rest.count("\n") == 0 else y - 0.52, rest.count("\n") + 1
    height = 2 * (y - low)
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, low), width, height, "round,pad=0.02,rounding_size=0.12", fc="white", ec=colour, lw=2
        )
    )
    axes.text(x, y + 0.14 * lines, first, ha="center", va="center", fontsize=13, weight="bold", color=colour)
    axes.text(x, y - 0.14, rest, ha="center", va="center", fontsize=10.5, color="#222222")


def save_method(path: Path) -> None:
    """Write the drawing as SVG, its text as outlines, so that it looks the same everywhere."""
    with matplotlib.rc_context({"svg.hashsalt": "method", "svg.fonttype": "path", "font.family": "DejaVu Sans"}):
        fig = draw_method()
        fig.savefig(path, metadata={"Date": None, "Creator": None}, facecolor="white")
        plt.close(fig)


if __name__ == "__main__":
    matplotlib.use("Agg")
    save_method(Path(sys.argv[1]) if len(sys.argv) > 1 else project_root() / "figures" / "method.svg")
