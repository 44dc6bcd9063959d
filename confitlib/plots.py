"""One plot style, one way to save a figure with its data, and the figures that records alone can redraw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from confitlib.evaluation import summarise_runs
from confitlib.records import metrics_by_setting, project_root

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
MARKERS = "osD^v"  # a line is known by them where colours are not
OF_ONE_KIND = ["preset", "encoder", "epochs", "batch_size", "density", "learning_rate"]
UNMINED = "no band"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


Drawing = Callable[[pd.DataFrame, str], "tuple[Figure, pd.DataFrame]"]

FIGURES: dict[str, Drawing] = {}
QUANTITIES = {
    "resume ndcg@10": "nDCG@10, ranking resumes",
    "resume recall@100": "recall@100, ranking resumes",
    "job ndcg@10": "nDCG@10, ranking jobs",
    "job recall@10": "recall@10, ranking jobs",
    "hardness": "score gap (small: hard)",  # its name in records
    "score_gap": "score gap (small: hard)",
    "false negatives": "false negatives (share)",
}


def recorded(name: str) -> Callable[[Drawing], Drawing]:
    """Register a function of records and profile, so that `confit figures` redraws `figures/<name>.png`."""

    def register(draw: Drawing) -> Drawing:
        FIGURES[name] = draw
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


def line_with_band(axes: Axes, table: pd.DataFrame, x: str, hue: str | None = None) -> None:
    """Lines of `mean` over a column, one per value of `hue`, each with its band from `low` to `high`."""
    for marker, (label, group) in zip(cycle(MARKERS), _series(table, hue), strict=False):
        (line,) = axes.plot(group[x], group["mean"], marker=marker, label=label)
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
    axes.set_ylim(len(categories) - 0.5, -0.5)
    if hue is not None:
        axes.legend(title=hue)


def label_points(axes: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str]) -> None:
    """Write the name of every point beside it, moved where names would overlap; the last thing to draw."""
    from adjustText import adjust_text

    texts = [axes.text(*point, fontsize=9) for point in zip(x, y, names, strict=True)]
    figure: Any = axes.figure
    figure.draw_without_rendering()  # the layout decides how much room there is
    line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.8}
    adjust_text(texts, list(x), list(y), ax=axes, expand=(1.1, 1.3), arrowprops=line, iter_lim=400)


def _series(table: pd.DataFrame, hue: str | None) -> list[tuple[str | None, pd.DataFrame]]:
    if hue is None:
        return [(None, table)]
    return [(str(name), group) for name, group in table.groupby(hue, sort=False)]


@recorded("05_percentile")
def percentile_of_records(records: pd.DataFrame, profile: str) -> tuple[Figure, pd.DataFrame]:
    """`percentile` of the newest run of notebook 05 over all runs of its kind, and the data behind it.

    Runs of a kind differ from the newest in nothing but seeds and bands.
    """
    runs = metrics_by_setting(records[records["profile"] == profile], "05", OF_ONE_KIND)
    newest = runs["run"] == runs["run"].iloc[-1]
    kind = runs[OF_ONE_KIND].map(repr)  # a parameter that a run did not have yet is None
    alike = (kind == kind.iloc[-1]).all(axis=1)
    others = runs[alike & ~newest].assign(source="reference")
    shown = pd.concat([others, runs[newest].assign(source="this run")])
    shown = shown[shown["quantity"].isin(QUANTITIES)]
    return percentile(shown), shown


def percentile(runs: pd.DataFrame) -> Figure:
    """Quantities against the percentile band that negatives were mined from, one panel each.

    `runs`: rows of `setting` ("3-4%", or "no band": a dashed line), `quantity` (a key of `QUANTITIES`), `value` and
    `source`: "reference" is drawn as lines of means with Student's 95 % intervals, "this run" as crosses on top.
    """
    import matplotlib.pyplot as plt

    quantities = [name for name in QUANTITIES if name in set(runs["quantity"])]
    order = bands(runs["setting"])
    rows = -(-len(quantities) // 2)
    fig, panels = plt.subplots(rows, 2, figsize=(10, 3.6 * rows), squeeze=False)
    for axes, quantity in zip(panels.flat, quantities, strict=False):
        _percentile_panel(axes, runs[runs["quantity"] == quantity], order)
        axes.set_ylabel(QUANTITIES[quantity])
    for spare in panels.flat[len(quantities) :]:
        spare.set_axis_off()
    fig.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return fig


def bands(settings: pd.Series) -> list[str]:
    """The settings that are bands, from the top of the ranking down."""
    named = {name for name in settings if name.endswith("%")}
    return sorted(named, key=lambda name: [float(edge) for edge in name.removesuffix("%").split("-")])


def _along_bands(axes: Axes, table: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """Name the bands below a panel, and sort a table by its new column `place` on that axis, NaN for no band."""
    axes.set_xticks(range(len(order)), [band.removesuffix("%").replace("-", "–") for band in order], rotation=45)
    axes.set_xlabel("percentile band of the ranking (%)")
    places = {band: place for place, band in enumerate(order)}
    return table.assign(place=table["setting"].map(places)).sort_values("place", kind="stable")


def gains_by_band(judged: pd.DataFrame, hue: str, quantities: Sequence[str]) -> Figure:
    """Mean gains of bands with their intervals, a panel a quantity, a line a value of the column `hue`.

    `judged`: what `experiments.judge_gains` returns by setting, quantity and `hue`.
    """
    import matplotlib.pyplot as plt

    order = bands(judged["setting"])
    fig, panels = plt.subplots(1, len(quantities), figsize=(5.5 * len(quantities), 4), squeeze=False)
    for axes, quantity in zip(panels.flat, quantities, strict=True):
        table = _along_bands(axes, judged[judged["quantity"] == quantity], order)
        line_with_band(axes, table.dropna(subset="place"), "place", hue=hue)
        axes.axhline(0, color="0.3", linewidth=1)
        axes.set_ylabel(f"gain, {QUANTITIES[quantity]}")
        axes.get_legend().set_visible(axes is panels.flat[-1])
    panels.flat[-1].legend(title=hue, loc="upper left", bbox_to_anchor=(1, 1))  # beside the intervals
    return fig


def _percentile_panel(axes: Axes, runs: pd.DataFrame, order: list[str]) -> None:
    table = _along_bands(axes, summarise_runs(runs, ["source", "setting"]), order)
    for source, part in table.groupby("source"):
        mined, unmined = part.dropna(subset="place"), part.loc[part["setting"] == UNMINED, "mean"]
        if source == "reference":
            line_with_band(axes, mined, "place")
            axes.lines[-1].set_label("reference runs")
            style, color, label = "--", "0.4", "no mined negatives"
        else:
            axes.plot(mined["place"], mined["mean"], "x", color="C3", label="this run", markersize=9, mew=2)
            style, color, label = ":", "C3", "this run, no mined negatives"
        for value in unmined:  # none for what only negatives have
            axes.axhline(value, linestyle=style, color=color, label=label)


def redraw(records: pd.DataFrame, folder: str | Path, profile: str) -> dict[str, str]:
    """Draw every registered figure from records of a profile; returns name to why it could not be, or ""."""
    import matplotlib.pyplot as plt

    use_style()
    problems = {}
    for name, draw in FIGURES.items():
        try:
            fig, data = draw(records, profile)
        except LookupError as error:
            problems[name] = str(error)
            continue
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
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 1000 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"  # three digits either way


def update_results(path: Path, markdown: str) -> None:
    """Put a table between the results markers of a Markdown file; raises ValueError without the markers."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: put the lines {BEGIN} and {END} where the results belong")
    path.write_text(f"{before}{BEGIN}\n{markdown}\n{END}{after}", encoding="utf-8")
