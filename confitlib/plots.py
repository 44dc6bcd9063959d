"""One plot style, one way to save a figure with its data, and the figures that records alone can redraw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from confitlib.records import collect_table, project_root

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


class RecordedFigure(NamedTuple):
    """A figure that is drawn from a table which runs of a notebook log."""

    notebook: str
    table: str
    draw: Callable[[pd.DataFrame], Figure]


FIGURES: dict[str, RecordedFigure] = {}


def recorded(name: str, notebook: str, table: str) -> Callable[[Callable[[pd.DataFrame], Figure]], Callable]:
    """Register a drawing function, so that `confit figures` redraws `figures/<name>.png` from records."""

    def register(draw: Callable[[pd.DataFrame], Figure]) -> Callable[[pd.DataFrame], Figure]:
        FIGURES[name] = RecordedFigure(notebook, table, draw)
        return draw

    return register


def use_style() -> None:
    """Set the kit's one plot style: white grid, colour-blind-safe palette, sizes readable in a README."""
    import seaborn as sns

    sizes = {"axes.titlesize": 13, "axes.labelsize": 12, "xtick.labelsize": 11, "ytick.labelsize": 11}
    look = {"axes.titlelocation": "left", "figure.constrained_layout.use": True, "lines.linewidth": 2}
    sns.set_theme(style="whitegrid", palette="colorblind", rc={**sizes, **look, "legend.fontsize": 11})


def save(fig: Figure, name: str, data: pd.DataFrame, folder: str | Path = ".") -> None:
    """Write `<folder>/figures/<name>.png` and the data behind it as `.csv`; equal figures give equal bytes.

    A relative folder starts at the repository root. Raises ValueError for axes without labels.
    """
    bare = [position for position, axes in enumerate(fig.axes) if _unlabelled(axes)]
    if bare:
        raise ValueError(f"figure {name!r}: label both axes, with units, of panels {bare}")
    target = project_root() / folder / "figures"
    target.mkdir(parents=True, exist_ok=True)
    fig.savefig(target / f"{name}.png", dpi=DPI, metadata={"Software": None})
    data.to_csv(target / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")


def _unlabelled(axes: Axes) -> bool:
    """Whether an axis has no label, neither its own nor that of a panel it is shared with."""
    if not axes.axison or axes.get_label() == "<colorbar>":
        return False
    horizontal = axes.get_shared_x_axes().get_siblings(axes)
    vertical = axes.get_shared_y_axes().get_siblings(axes)
    named_x = any(panel.get_xlabel().strip() for panel in horizontal)
    return not (named_x and any(panel.get_ylabel().strip() for panel in vertical))


def summarise(data: pd.DataFrame, by: list[str], value: str = "value", confidence: float = 0.95) -> pd.DataFrame:
    """Mean of a column for every group with Student's confidence interval; the rest, e.g. seeds, varies.

    Returns the `by` columns, mean, low, high and n, groups in order of appearance; low and high are
    NaN where a group holds one value.
    """
    from scipy import stats

    groups = data.groupby(by, sort=False, dropna=False)[value].agg(["mean", "std", "count"]).reset_index()
    quantile = stats.t.ppf((1 + confidence) / 2, groups["count"] - 1)  # NaN without a degree of freedom
    half = quantile * groups["std"] / np.sqrt(groups["count"])
    intervals = groups.assign(low=groups["mean"] - half, high=groups["mean"] + half, n=groups["count"])
    return intervals[[*by, "mean", "low", "high", "n"]]


def line_with_band(axes: Axes, table: pd.DataFrame, x: str, hue: str | None = None) -> None:
    """Lines of `mean` over a column, one per value of `hue`, each with its band from `low` to `high`."""
    for label, group in _series(table, hue):
        (line,) = axes.plot(group[x], group["mean"], marker="o", label=label)
        axes.fill_between(group[x], group["low"], group["high"], color=line.get_color(), alpha=0.2, linewidth=0)
    if hue is not None:
        axes.legend(title=hue)


def bar_with_interval(axes: Axes, table: pd.DataFrame, category: str, hue: str | None = None) -> None:
    """Horizontal bars of `mean`, one group a category with the first on top, whiskers from `low` to `high`."""
    categories = list(dict.fromkeys(table[category]))
    series = _series(table, hue)
    height = 0.8 / len(series)
    for position, (label, group) in enumerate(series):
        places = group[category].map(categories.index) + (position - (len(series) - 1) / 2) * height
        whiskers = group[["low", "high"]].sub(group["mean"], axis=0).abs().to_numpy().T
        axes.barh(places, group["mean"], height, xerr=whiskers, capsize=3, label=label)
    axes.set_yticks(range(len(categories)), [str(name) for name in categories])
    axes.invert_yaxis()
    if hue is not None:
        axes.legend(title=hue)


def _series(table: pd.DataFrame, hue: str | None) -> list[tuple[str | None, pd.DataFrame]]:
    if hue is None:
        return [(None, table)]
    return [(str(name), group) for name, group in table.groupby(hue, sort=False)]


@recorded("05_percentile", notebook="05", table="bands")
def percentile(bands: pd.DataFrame) -> Figure:
    """Quantities against the percentile band that negatives were mined from, one panel each.

    `bands`: rows as of `ablate_bands`: `lo`, `hi` (shares of the ranking; NaN for training without
    mined negatives, drawn as a dashed line), `seed`, `quantity` (with its unit: the panel's label)
    and `value`. Shaded are Student's 95 % intervals over seeds.
    """
    import matplotlib.pyplot as plt

    measured = bands.drop_duplicates()  # every run of a sweep repeats the training without mined negatives
    table = summarise(measured, ["quantity", "lo", "hi"]).sort_values(["lo", "hi"], kind="stable")
    quantities = list(dict.fromkeys(measured["quantity"]))
    rows = -(-len(quantities) // 2)
    fig, panels = plt.subplots(rows, 2, figsize=(10, 3.6 * rows), squeeze=False)
    for axes, quantity in zip(panels.flat, quantities, strict=False):
        _percentile_panel(axes, table[table["quantity"] == quantity])
        axes.set(xlabel="percentile band of the ranking (%)", ylabel=quantity)
    for spare in panels.flat[len(quantities) :]:
        spare.set_axis_off()
    return fig


def _percentile_panel(axes: Axes, table: pd.DataFrame) -> None:
    mined = table.dropna(subset=["lo", "hi"])
    names = [f"{100 * lo:g}–{100 * hi:g}" for lo, hi in zip(mined["lo"], mined["hi"], strict=True)]
    line_with_band(axes, mined.assign(band=names), "band")
    axes.tick_params(axis="x", rotation=45)
    for baseline in table[table["lo"].isna()].to_dict("records"):
        axes.axhline(baseline["mean"], linestyle="--", color="0.4", label="no mined negatives")
        axes.axhspan(baseline["low"], baseline["high"], color="0.4", alpha=0.15, linewidth=0)
        axes.legend()


def redraw(records: pd.DataFrame, folder: str | Path, profile: str) -> dict[str, str]:
    """Draw every registered figure from records of a profile; returns name to why it could not be, or ""."""
    import matplotlib.pyplot as plt

    use_style()
    problems = {}
    for name, figure in FIGURES.items():
        try:
            data = collect_table(records, figure.notebook, figure.table, profile)
        except LookupError as error:
            problems[name] = str(error)
            continue
        fig = figure.draw(data)
        save(fig, name, data, folder)
        plt.close(fig)
        problems[name] = ""
    return problems


def results_markdown(records: pd.DataFrame, profile: str) -> str:
    """The newest table `results` that each notebook logged under a profile, as Markdown with its origin.

    Raises LookupError if no notebook logged one.
    """
    logged = records["tables"].map(lambda tables: "results" in tables).astype(bool)
    mine = records[logged & (records["profile"] == profile)]
    newest = mine.drop_duplicates("notebook", keep="last").sort_values("notebook")
    if newest.empty:
        raise LookupError(f"no {profile} run logged a table 'results'")
    return "\n\n".join(_markdown(row) for _, row in newest.iterrows())


def _markdown(record: pd.Series) -> str:
    table = pd.DataFrame(record["tables"]["results"])
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]
    rows = [list(table.columns), ["--:" if number else ":--" for number in numeric]]
    rows += [["" if pd.isna(value) else _cell(value) for value in row] for row in table.itertuples(index=False)]
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    commit = (record["commit"] or "no git")[:7]
    origin = f"Notebook {record['notebook']}, profile {record['profile']}, seed {record['seed']}, "
    origin += f"commit {commit}, {record['device']}, {record['seconds']:.0f} s."
    return "\n".join([*lines, "", origin])


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def update_results(path: Path, markdown: str) -> None:
    """Put a table between the results markers of a Markdown file; raises ValueError without the markers."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: put the lines {BEGIN} and {END} where the results belong")
    path.write_text(f"{before}{BEGIN}\n{markdown}\n{END}{after}", encoding="utf-8")
